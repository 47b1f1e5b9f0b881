//! Pipes through beacons, over which two members meet that cannot hear each other yet (README §18, *Circuits*).
//!
//! In: a member that is called and has told its beacon; word that a pipe ended. Out: [`Event::OpenCircuit`]. To a
//! handshake a pipe is one more far end; once a session stands, in-session candidates and checks find a better path.
//! Pipes that others opened need nothing here: their datagrams come from a far end as any other's do.

use std::time::{Duration, Instant};

use super::outbox::Event;
use super::trail::Step;
use super::{Engine, Time};
use crate::identity::DeviceId;
use crate::path::Remote;
use crate::random::jittered;

/// Between two pipes to one member, ± 20 % (chosen: longer than a beacon takes to say that it is not there).
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// The numbers of own pipes; those that others opened have the highest bit set.
pub(super) const NUMBERS: u32 = 1 << 31;

/// The own pipe to one member.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    number: Option<u32>,
    not_before: Option<Instant>,
}

impl Circuit {
    /// The far end, while there is one.
    pub(super) fn remote(&self) -> Option<Remote> {
        self.number.map(Remote::Circuit)
    }

    /// A pipe that was opened for a question is used on.
    pub(super) fn adopt(&mut self, remote: Remote) {
        if let Remote::Circuit(number) = remote {
            self.number = Some(number);
        }
    }

    fn end(&mut self, number: u32) -> bool {
        self.number.take_if(|open| *open == number).is_some()
    }
}

impl Engine {
    /// Asks for a pipe to `device`, if it has told where one leads to it and there is none.
    pub(super) fn meet(&mut self, device: &DeviceId, time: Time) {
        if !self.finding.is_on() {
            return;
        }
        let presence = self.roster.objects().presence_of(device);
        let Some((address, id)) = presence.and_then(|(_, presence)| presence.beacon.clone()) else { return };
        let Some(peer) = self.peers.get_mut(device) else { return };
        let circuit = &mut peer.circuit;
        if circuit.number.is_some() || circuit.not_before.is_some_and(|at| time.now < at) {
            return;
        }
        let number = self.next_circuit;
        self.next_circuit = (number + 1) % NUMBERS;
        circuit.number = Some(number);
        circuit.not_before = Some(time.now + jittered(AGAIN_AFTER, &mut self.rng));
        peer.trail.add(Step::CircuitAsked, time.now);
        self.out.events.push_back(Event::OpenCircuit { circuit: number, beacon: address, peer: id });
    }

    /// Asks for a pipe to whoever is at `peer` behind `beacon`; returns its far end.
    pub(super) fn open_circuit(&mut self, (beacon, peer): (String, Vec<u8>)) -> Remote {
        let number = self.next_circuit;
        self.next_circuit = (number + 1) % NUMBERS;
        self.out.events.push_back(Event::OpenCircuit { circuit: number, beacon, peer });
        Remote::Circuit(number)
    }

    /// A pipe is gone, or did not come to be. A link that had nothing else ends; whoever waits for it is called again.
    pub(super) fn on_circuit_closed(&mut self, number: u32, time: Time) {
        self.on_lobby_circuit_closed(number);
        let used = |peer: &super::peer::Peer| peer.path.remote() == Some(Remote::Circuit(number));
        let cut: Vec<DeviceId> =
            self.peers.iter().filter(|(_, peer)| used(peer)).map(|(device, _)| *device).collect();
        for peer in self.peers.values_mut() {
            if peer.circuit.end(number) {
                peer.trail.add(Step::CircuitEnded, time.now);
            }
        }
        for device in cut {
            self.close(&device, time);
            if self.peers.get(&device).is_some_and(super::peer::Peer::is_waited_for) {
                self.wake(&device, time);
            }
        }
    }
}
