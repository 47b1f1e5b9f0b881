//! What comes of what a node did: datagrams on their way, packets at applications, things to be kept.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use protocol::engine::{Command, Event};
use protocol::path::Remote;
use protocol::wire::header::{DATA, VEILED};

use super::{Occurrence, World};
use crate::dht::Answer;
use crate::disk::Write;
use crate::host::{Input, Outputs};
use crate::invariant::belonging::View;
use crate::invariant::wire;
use crate::traffic::{self, Sent};
use crate::{adversary, report};

/// Objects that come one after the other wait this long for each other in an engine, and longer if their timer is late;
/// what it makes of them is compared after that.
const REST: Duration = Duration::from_millis(110);
/// The port of the multicast group.
const LAN_PORT: u16 = 41_413;

impl World {
    /// Gives a running node an input and takes what comes of it.
    pub(crate) fn give(&mut self, host: usize, input: Input) -> Result<(), String> {
        let outputs = self.handle(host, input);
        self.take(host, outputs)
    }

    /// Gives a running node a command after which it says that something was signed.
    pub(crate) fn have_signed(&mut self, host: usize, command: Command) -> Result<(), String> {
        let outputs = self.handle(host, Input::Command(command));
        self.records.on_command(host, &outputs.events);
        self.take(host, outputs)
    }

    /// An application sends a packet; to somebody whose alias is not known there, it sends none.
    pub(crate) fn send_packet(
        &mut self,
        (from, to): (usize, usize),
        bytes: usize,
        (wants_echo, echo_of): (bool, Option<u64>),
    ) -> Result<(), String> {
        let (own, peer) = (self.hosts[from].id(), self.hosts[to].id());
        let aliases = self.hosts[from].alias_of(&own).zip(self.hosts[from].alias_of(&peer));
        let Some(aliases) = aliases.filter(|_| self.hosts[from].is_awake()) else { return Ok(()) };
        let bytes = bytes.max(traffic::MIN_BYTES);
        let sent = Sent { from, to, bytes, at: self.now, wants_echo, echo_of, arrived_at: None };
        let number = self.ledger.add(sent);
        self.trace.line(self.now, format_args!("{from} sends packet {number}, {bytes} bytes, to {to}"));
        self.give(from, Input::Packet(traffic::packet(number, bytes, aliases)))
    }

    pub(super) fn handle(&mut self, host: usize, input: Input) -> Outputs {
        let time = self.time(host);
        let awake = self.hosts[host].asleep.is_none();
        let node = self.hosts[host].node.as_mut().filter(|_| awake);
        node.map(|node| node.handle(input, time)).unwrap_or_default()
    }

    pub(super) fn take(&mut self, host: usize, outputs: Outputs) -> Result<(), String> {
        for reason in &outputs.dropped {
            self.trace.line(self.now, format_args!("{host} drops: {reason}"));
        }
        self.on_sockets(host, &outputs.events);
        let is_guessed = |to| self.is_at_nat(to) || self.beacons.is_at(to);
        wire::check_transmits(&outputs.transmits, (&self.known, &is_guessed), self.has_diverted)?;
        self.watch_guesses(host, &outputs.transmits)?;
        self.on_objects(host, &outputs.events)?;
        let sent = (outputs.transmits.as_slice(), self.known.as_slice());
        let stores = |event: &Event| matches!(event, Event::Store { .. });
        let took_objects = outputs.events.iter().any(stores);
        self.records.check_gone(host, &self.hosts, sent, took_objects)?;
        for transmit in outputs.transmits {
            match transmit.to {
                Remote::Udp(to) => self.send((host, None), to, &transmit.datagram),
                Remote::Side { address, socket } => {
                    self.send((host, Some(socket)), address, &transmit.datagram);
                }
                Remote::Circuit(circuit) => self.pipe((host, circuit), transmit.datagram),
                Remote::Carried(number) => self.carry((host, number), transmit.datagram),
                Remote::Relayed { .. } => {}
            }
        }
        for packet in outputs.packets {
            self.arrived(host, &packet)?;
        }
        for event in outputs.events {
            self.on_event(host, event)?;
        }
        Ok(())
    }

    /// What a host took in, before anything comes of it.
    fn on_objects(&mut self, host: usize, events: &[Event]) -> Result<(), String> {
        let mut took = false;
        for event in events {
            if let Event::Store { objects, epochs, .. } = event {
                self.records.on_objects(host, objects, &self.hosts)?;
                self.records.on_secrets(host, epochs);
                took |= !objects.is_empty();
            }
        }
        self.records.check_secrets(&self.hosts)?;
        if took { self.check_view(host) } else { Ok(()) }
    }

    pub(super) fn check_view(&mut self, host: usize) -> Result<(), String> {
        let now = self.instant(host);
        let objects = self.records.on_view(host, &self.hosts[host], now)?;
        self.schedule(REST, Occurrence::Look { host, objects, seen: None });
        Ok(())
    }

    /// Nothing was waiting in an engine's set that it had not said yet, if it says nothing for a while after the look.
    pub(super) fn compare(
        &mut self,
        (host, objects): (usize, usize),
        seen: Option<View>,
    ) -> Result<(), String> {
        let rests = self.hosts[host].is_awake() && self.records.count(host) == objects;
        let Some(node) = self.hosts[host].node.as_ref().filter(|_| rests) else { return Ok(()) };
        if let Some(seen) = seen {
            return self.records.compare(host, &seen);
        }
        let seen = Some(View::of(node, self.instant(host)));
        self.schedule(REST, Occurrence::Look { host, objects, seen });
        Ok(())
    }

    fn send(&mut self, (host, side): (usize, Option<u32>), to: SocketAddr, bytes: &[u8]) {
        self.sent += 1;
        self.veiled += u64::from(bytes.first() == Some(&VEILED));
        // What goes to the near network comes from there, and from elsewhere it does not arrive.
        let is_inside = self.hosts[host].site.is_some();
        let is_near = !is_inside && matches!(to.ip(), IpAddr::V4(ip) if ip.is_private());
        let address = self.hosts[host].socket(side);
        let source = if is_near { self.hosts[host].near } else { Some(address) };
        let network = if is_near { &self.near } else { &self.internet };
        let arrivals = match source {
            Some(_) => network.arrivals(bytes.len(), &mut self.chance),
            None => Vec::new(),
        };
        let source = source.unwrap_or(address);
        let (length, first) = (bytes.len(), bytes.first().copied().unwrap_or(0));
        self.trace.line(
            self.now,
            format_args!("{host} sends {length} ({first:02x}) to {to}, arriving {}x", arrivals.len()),
        );
        let is_data = bytes.first() == Some(&DATA);
        let diverts = is_data && self.chance.percent(self.internet.diverted_percent);
        self.has_diverted |= diverts;
        let from = if diverts {
            Some(adversary::address())
        } else if is_inside {
            self.leaves((host, address), to)
        } else {
            Some(source)
        };
        let Some(from) = from else { return };
        for after in arrivals {
            let bytes = bytes.to_vec();
            self.schedule(after, Occurrence::Datagram { from, to, bytes, sender: Some(host) });
        }
    }

    /// What `host` announces is heard by the others of its network, and by the adversary.
    fn announce(&mut self, host: usize, bytes: &[u8]) {
        self.adversary.overhear(bytes);
        let from = SocketAddr::new(self.hosts[host].address.ip(), LAN_PORT);
        for to in (0..self.hosts.len()).filter(|to| *to != host) {
            for after in self.internet.arrivals(bytes.len(), &mut self.chance) {
                let (bytes, sender) = (bytes.to_vec(), Some(host));
                self.schedule(after, Occurrence::Announcement { from, to, bytes, sender });
            }
        }
    }

    fn arrived(&mut self, host: usize, packet: &[u8]) -> Result<(), String> {
        let Some(number) = wire::check_packet(packet, host, &self.hosts, &mut self.ledger)? else {
            self.trace.line(self.now, format_args!("{host} tells an application of an error"));
            self.errors += 1;
            return Ok(());
        };
        self.trace.line(self.now, format_args!("{host} gets packet {number}"));
        let Some(sent) = self.ledger.arrived(number, self.now) else { return Ok(()) };
        let Sent { from, bytes, wants_echo, .. } = sent;
        if wants_echo { self.send_packet((host, from), bytes, (false, Some(number))) } else { Ok(()) }
    }

    fn on_event(&mut self, host: usize, event: Event) -> Result<(), String> {
        self.trace.line(self.now, format_args!("{host} says {}", report::event(&event)));
        self.watches[host].on_event(&event)?;
        match event {
            Event::Store { ticket, objects, epochs } => {
                self.write(host, Write::Store { ticket, objects, epochs })?;
            }
            Event::Pinned => self.pin(host)?,
            Event::Joined => {
                self.write(host, Write::Joined)?;
                self.heard.push((host, event));
            }
            Event::Reached { device, remote } => {
                self.hosts[host].disk.remembered.insert(device, remote);
            }
            Event::Invited { ref outcome, .. } => {
                if let Ok(token) = outcome {
                    self.records.on_acknowledged(token.invite_object(), &self.hosts[host])?;
                }
                self.heard.push((host, event));
            }
            Event::Presence(object) => self.hosts[host].disk.remember_presence(object),
            Event::Signed { ref outcome, .. } => {
                if outcome.is_ok() {
                    self.records.on_signed(host, &self.hosts[host])?;
                }
                self.heard.push((host, event));
            }
            Event::Removed => {
                self.records.on_removed(host);
                self.heard.push((host, event));
            }
            Event::Announce(datagram) => self.announce(host, &datagram),
            Event::Left { ref outcome, .. } => {
                if outcome.is_ok() {
                    self.records.on_removed(host);
                }
                self.heard.push((host, event));
            }
            Event::JoinFailed(_) | Event::Pong { .. } => {
                self.heard.push((host, event));
            }
            Event::OpenCircuit { circuit, peer, .. } if self.dht.is_none() => {
                self.open_pipe((host, circuit), &peer)?;
            }
            Event::Lookup { key } if self.dht.is_none() => {
                let found = Command::Found { key, values: Vec::new(), answered: 1 };
                self.give(host, Input::Command(found))?;
            }
            Event::Lookup { .. } | Event::Publish { .. } | Event::OpenCircuit { .. } => {
                self.ask_dht(host, event);
            }
            Event::Carry { number, token, is_offer, .. } => {
                self.ask_to_carry((host, number), token, is_offer);
            }
            Event::CloseCarry(number) => self.end_stream((host, number)),
            // No host is told of a gateway.
            Event::Socket { .. } | Event::Burst { .. } | Event::MapPort(_) => {}
            Event::EpochEnded { number, tag } => {
                let epochs = &mut self.hosts[host].disk.epochs;
                epochs.retain(|epoch| (epoch.number(), epoch.tag()) != (number, tag));
            }
            Event::Link { .. } | Event::Dropped(_) => {}
        }
        Ok(())
    }

    /// The DHT is asked something; what comes of it, the host is told later. There are no circuits: none comes to be.
    fn ask_dht(&mut self, host: usize, event: Event) {
        let Some(dht) = &mut self.dht else { return };
        let wall_secs = self.hosts[host].clock.wall_ms(self.now) / 1_000;
        let Answer { after, command } = match event {
            Event::Lookup { key } => dht.look_up(&key, wall_secs, &mut self.chance),
            Event::Publish { key, value, .. } => dht.publish((&key, &value), wall_secs, &mut self.chance),
            Event::OpenCircuit { circuit, .. } => {
                Answer { after: Duration::from_secs(1), command: Command::CircuitClosed(circuit) }
            }
            _ => return,
        };
        let boot = self.hosts[host].boot;
        self.schedule(after, Occurrence::Told { host, boot, command });
    }

    pub(super) fn pin(&mut self, host: usize) -> Result<(), String> {
        let pins = self.hosts[host].node.as_ref().map(|node| node.engine.pins().collect());
        if let Some(pins) = pins {
            self.hosts[host].disk.pins = pins;
        }
        self.watches[host].on_pins(&self.hosts[host])
    }

    fn write(&mut self, host: usize, write: Write) -> Result<(), String> {
        self.hosts[host].write(write);
        let boot = self.hosts[host].boot;
        if self.disk_delay.is_zero() && self.hosts[host].disk.under_way.len() == 1 {
            return self.stored(host, boot);
        }
        self.schedule(self.disk_delay, Occurrence::Stored { host, boot });
        Ok(())
    }

    pub(super) fn stored(&mut self, host: usize, boot: u64) -> Result<(), String> {
        if self.hosts[host].boot != boot || !self.hosts[host].is_awake() {
            return Ok(());
        }
        match self.hosts[host].disk.commit_first() {
            Some(ticket) => self.give(host, Input::Command(Command::Stored(ticket))),
            None => Ok(()),
        }
    }
}
