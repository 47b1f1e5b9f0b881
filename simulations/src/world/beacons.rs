//! What stands in for beacons: servers that say where a datagram came from, and pipes between two who cannot hear each other.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::engine::{Command, Event, Transmit};
use protocol::wire::stun;

use super::{Occurrence, World};
use crate::host::Input;

/// Three servers at two addresses.
const SERVERS: [([u8; 4], u16); 3] =
    [([203, 0, 113, 251], 3_478), ([203, 0, 113, 252], 3_478), ([203, 0, 113, 252], 3_479)];
/// Where pipes lead through.
const ADDRESS: &str = "/ip4/203.0.113.251/udp/443/quic-v1";
/// In the number of a pipe that another opened.
const INBOUND: u32 = 1 << 31;

/// Beacons, if there are any, and the pipes through them.
#[derive(Default)]
pub(crate) struct Beacons {
    is_there: bool,
    /// Both ends: the host, and the pipe's number there.
    pipes: Vec<[(usize, u32); 2]>,
}

impl Beacons {
    /// Whether one of the servers has this address.
    pub(super) fn is_at(&self, address: SocketAddr) -> bool {
        self.is_there && SERVERS.iter().any(|server| SocketAddr::from(*server) == address)
    }
}

impl World {
    /// There are beacons from here on, and `host` is told so; others reach it by them.
    pub(crate) fn know_beacons(&mut self, host: usize) -> Result<(), String> {
        self.beacons.is_there = true;
        let servers = SERVERS.map(SocketAddr::from).to_vec();
        let place = (ADDRESS.to_owned(), vec![host as u8]);
        for command in [Command::Beacons(true), Command::Reserved(Some(place)), Command::StunServers(servers)]
        {
            self.give(host, Input::Command(command))?;
        }
        Ok(())
    }

    /// A server says where a request came from.
    pub(super) fn answer(&mut self, (from, to): (SocketAddr, SocketAddr), bytes: &[u8]) {
        let Some(id) = stun::read_request(bytes) else { return };
        for after in self.internet.arrivals(bytes.len(), &mut self.chance) {
            let bytes = stun::response(&id, from);
            self.schedule(after, Occurrence::Datagram { from: to, to: from, bytes, sender: None });
        }
    }

    /// `host` opens a pipe under this number to the host that `peer` names.
    pub(super) fn open_pipe(&mut self, (host, circuit): (usize, u32), peer: &[u8]) -> Result<(), String> {
        let to = peer.first().map(|number| usize::from(*number));
        let Some(to) = to.filter(|to| self.hosts.get(*to).is_some_and(crate::host::Host::is_awake)) else {
            return self.give(host, Input::Command(Command::CircuitClosed(circuit)));
        };
        let number = INBOUND | self.beacons.pipes.len() as u32;
        self.beacons.pipes.push([(host, circuit), (to, number)]);
        Ok(())
    }

    /// A datagram goes through a pipe: by way of the beacon, and never lost.
    pub(super) fn pipe(&mut self, end: (usize, u32), bytes: Vec<u8>) {
        self.sent += 1;
        let pipe = self.beacons.pipes.iter().find(|ends| ends.contains(&end));
        let Some((to, circuit)) = pipe.and_then(|ends| ends.iter().find(|other| **other != end)).copied()
        else {
            return;
        };
        let after = (self.internet.delay + self.internet.jitter) * 2;
        self.schedule(after, Occurrence::Piped { to, circuit, bytes });
    }

    /// Opens and closes sockets, before anything leaves by them.
    pub(super) fn on_sockets(&mut self, host: usize, events: &[Event]) {
        for event in events {
            if let Event::Socket { number, is_open: true } = event {
                self.hosts[host].sides.insert(*number);
                let address = self.hosts[host].socket(Some(*number));
                if !self.known.contains(&(address, host)) {
                    self.known.push((address, host));
                }
            } else if let Event::Socket { number, is_open: false } = event {
                self.hosts[host].sides.remove(number);
            }
        }
    }

    /// What goes to where nobody was ever seen is little.
    pub(super) fn watch_guesses(&mut self, host: usize, transmits: &[Transmit]) -> Result<(), String> {
        let now: Duration = self.now;
        for to in transmits.iter().filter_map(|transmit| transmit.to.udp()) {
            let is_known = self.known.iter().any(|(address, _)| *address == to);
            if !is_known && self.is_at_nat(to) {
                self.watches[host].on_guess(now)?;
            }
        }
        Ok(())
    }
}
