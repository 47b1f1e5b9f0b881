//! What stands in for beacons: servers that say where a datagram came from, pipes between two who cannot hear each other, and
//! streams that carry everything, as slowly as a beacon is told to.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::engine::{CarryEnd, Command, Event, Transmit};
use protocol::identity::Secret;
use protocol::path::Remote;
use protocol::wire::stun;

use super::{Occurrence, World};
use crate::host::Input;

/// Three servers at two addresses.
const SERVERS: [([u8; 4], u16); 3] =
    [([203, 0, 113, 251], 3_478), ([203, 0, 113, 252], 3_478), ([203, 0, 113, 252], 3_479)];
/// Where pipes lead through.
const ADDRESS: &str = "/ip4/203.0.113.251/udp/443/quic-v1";
/// What a beacon carries of one end, in bytes a second: 2 Mbit/s; and for how long something waits for it.
const CARRY_BYTES_PER_SEC: u32 = 250_000;
const QUEUED_FOR: Duration = Duration::from_millis(262);
/// In the number of a pipe that another opened.
const INBOUND: u32 = 1 << 31;

/// Beacons, if there are any, and the pipes through them.
#[derive(Default)]
pub(crate) struct Beacons {
    is_there: bool,
    /// Both ends: the host, and the pipe's number there.
    pipes: Vec<[(usize, u32); 2]>,
    /// They carry.
    pub(crate) carries: bool,
    /// Ends that wait for the other.
    held: Vec<(Secret, End)>,
    streams: Vec<Stream>,
}

/// A host, and a stream's number there.
type End = (usize, u32);

struct Stream {
    ends: [End; 2],
    /// When the beacon has written, towards each end, what it took.
    busy_until: [Duration; 2],
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
        self.schedule(after, Occurrence::Piped { to, from: Remote::Circuit(circuit), bytes });
    }

    /// `end` wants a stream. Its token joins it to who waits with the same.
    pub(super) fn ask_to_carry(&mut self, end: End, token: Secret, is_offer: bool) {
        let waiting = self.beacons.held.iter().position(|(held, _)| *held == token);
        if !self.beacons.carries {
            return self.tell_end(end, |number| Command::CarryClosed(number, CarryEnd::NoneCarries));
        }
        if is_offer {
            self.beacons.held.push((token, end));
            return self.tell_end(end, |number| Command::CarryHeld(number, ADDRESS.to_owned()));
        }
        let Some(waiting) = waiting else {
            return self.tell_end(end, |number| Command::CarryClosed(number, CarryEnd::Gone));
        };
        let (_, first) = self.beacons.held.swap_remove(waiting);
        self.beacons.streams.push(Stream { ends: [first, end], busy_until: [Duration::ZERO; 2] });
        self.tell_end(first, Command::CarryOpen);
        self.tell_end(end, Command::CarryOpen);
    }

    /// A stream is over for both ends, or is waited for no more.
    pub(super) fn end_stream(&mut self, end: End) {
        self.beacons.held.retain(|(_, held)| *held != end);
        let Some(at) = self.beacons.streams.iter().position(|stream| stream.ends.contains(&end)) else {
            return;
        };
        let Stream { ends, .. } = self.beacons.streams.swap_remove(at);
        for other in ends.into_iter().filter(|other| *other != end) {
            self.tell_end(other, |number| Command::CarryClosed(number, CarryEnd::Gone));
        }
    }

    /// The beacons that carry die; those that come in their place do so from here on.
    pub(crate) fn break_streams(&mut self) {
        self.beacons.held.clear();
        for Stream { ends, .. } in std::mem::take(&mut self.beacons.streams) {
            for end in ends {
                self.tell_end(end, |number| Command::CarryClosed(number, CarryEnd::Gone));
            }
        }
    }

    fn tell_end(&mut self, (host, number): End, command: impl FnOnce(u32) -> Command) {
        let after = (self.internet.delay + self.internet.jitter) * 2;
        let (boot, command) = (self.hosts[host].boot, command(number));
        self.schedule(after, Occurrence::Told { host, boot, command });
    }

    /// A datagram goes over a stream, in its turn; what would wait for long is lost.
    pub(super) fn carry(&mut self, end: End, bytes: Vec<u8>) {
        self.sent += 1;
        let now = self.now;
        let Some(stream) = self.beacons.streams.iter_mut().find(|stream| stream.ends.contains(&end)) else {
            return;
        };
        let [first, second] = stream.ends;
        let (towards, (to, number)) = if first == end { (1, second) } else { (0, first) };
        let begins = stream.busy_until[towards].max(now);
        if begins > now + QUEUED_FOR {
            return;
        }
        stream.busy_until[towards] = begins + Duration::from_secs(bytes.len() as u64) / CARRY_BYTES_PER_SEC;
        let written = stream.busy_until[towards] - now;
        let after = written + (self.internet.delay + self.internet.jitter) * 2;
        self.schedule(after, Occurrence::Piped { to, from: Remote::Carried(number), bytes });
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
