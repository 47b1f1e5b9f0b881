//! One clock, one queue, all hosts. Whatever happens, happens in [`World::step`], one thing at a time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use protocol::engine::{Command, Event, Time};
use protocol::wire::header::VEILED;

use crate::action::Action;
use crate::adversary::{self, Adversary};
use crate::chance::Chance;
use crate::disk::Write;
use crate::host::{Host, Input, Outputs};
use crate::invariant::{self, Watch};
use crate::net::link::Conditions;
use crate::trace::Trace;
use crate::traffic::{self, Ledger, Sent};

/// The wall clock at the start of every run, in milliseconds since 1970.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Timers of a machine fire up to this much late.
const TIMER_SLACK: Duration = Duration::from_micros(1_500);

/// Something that waits for its time.
enum Occurrence {
    Datagram { from: SocketAddr, to: SocketAddr, bytes: Vec<u8>, is_genuine: bool },
    Stored { host: usize, boot: u64 },
    Action(Action),
}

/// Everything.
pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) trace: Trace,
    pub(crate) hosts: Vec<Host>,
    pub(crate) ledger: Ledger,
    pub(crate) internet: Conditions,
    /// How long a store takes; zero: it is done before the next thing happens.
    pub(crate) disk_delay: Duration,
    /// What hosts said that a scenario wants to know: (host, event).
    pub(crate) heard: Vec<(usize, Event)>,
    /// Datagrams sent so far, and the initiations, responses and joins among them.
    pub(crate) sent: u64,
    pub(crate) veiled: u64,
    pub(crate) now: Duration,
    base: Instant,
    queue: BTreeMap<(Duration, u64), Occurrence>,
    next: u64,
    watches: Vec<Watch>,
    known: Vec<SocketAddr>,
    adversary: Adversary,
}

impl World {
    /// An empty world.
    pub(crate) fn new(seed: u64, trace: Trace) -> Self {
        Self {
            chance: Chance::new(seed),
            trace,
            hosts: Vec::new(),
            ledger: Ledger::default(),
            internet: Conditions::perfect(Duration::from_millis(10)),
            disk_delay: Duration::ZERO,
            heard: Vec::new(),
            sent: 0,
            veiled: 0,
            now: Duration::ZERO,
            // Only differences to it are ever looked at.
            base: Instant::now(),
            queue: BTreeMap::new(),
            next: 0,
            watches: Vec::new(),
            known: Vec::new(),
            adversary: Adversary::default(),
        }
    }

    /// Adds a machine.
    pub(crate) fn add_host(&mut self, rekey_after: Duration) -> usize {
        let number = self.hosts.len();
        let address = SocketAddr::from(([192, 0, 2, number as u8 + 1], 41_414));
        let name = format!("host-{number}");
        self.hosts.push(Host::new(name, address, rekey_after, &mut self.chance));
        self.watches.push(Watch::default());
        self.known.push(address);
        number
    }

    /// Both clocks.
    pub(crate) fn time(&self) -> Time {
        Time { now: self.base + self.now, wall_ms: EPOCH_MS + self.now.as_millis() as u64 }
    }

    /// Lets `action` happen `after` this long.
    pub(crate) fn later(&mut self, after: Duration, action: Action) {
        self.schedule(after, Occurrence::Action(action));
    }

    /// Lets everything happen that happens in the next `duration`.
    ///
    /// # Errors
    /// What did not hold, and when.
    pub(crate) fn run_for(&mut self, duration: Duration) -> Result<(), String> {
        let end = self.now + duration;
        while self.step(end)? {}
        self.now = end;
        Ok(())
    }

    /// Lets things happen until `done`, or until `limit` has passed; says whether it was done.
    ///
    /// # Errors
    /// What did not hold, and when.
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Result<bool, String> {
        let end = self.now + limit;
        while !done(self) {
            if !self.step(end)? {
                self.now = end;
                return Ok(done(self));
            }
        }
        Ok(true)
    }

    /// The next thing happens, if there is one up to `end`.
    fn step(&mut self, end: Duration) -> Result<bool, String> {
        let queued = self.queue.keys().next().map(|(at, _)| *at);
        let timer = self.next_timeout();
        let at = match (queued, timer) {
            (Some(queued), Some((timer, _))) => queued.min(timer),
            (queued, timer) => match queued.or(timer.map(|(at, _)| at)) {
                Some(at) => at,
                None => return Ok(false),
            },
        };
        if at > end {
            return Ok(false);
        }
        self.now = self.now.max(at);
        let outcome = match timer.filter(|(due, _)| queued.is_none_or(|queued| *due < queued)) {
            Some((_, host)) => self.wake(host),
            None => self.occur(),
        };
        outcome.map_err(|what| format!("at {:.6} s: {what}", self.now.as_secs_f64()))?;
        Ok(true)
    }

    /// The host that wants to be woken first, and when.
    fn next_timeout(&self) -> Option<(Duration, usize)> {
        let due = self.hosts.iter().enumerate().filter_map(|(number, host)| {
            let (at, _) = host.node.as_ref()?.timeout?;
            Some(((at + TIMER_SLACK).saturating_duration_since(self.base), number))
        });
        due.min()
    }

    fn wake(&mut self, host: usize) -> Result<(), String> {
        let time = self.time();
        let timeout = self.hosts[host].node.as_ref().and_then(|node| node.timeout);
        if let Some((_, why)) = timeout {
            self.trace.line(self.now, format_args!("{host} wakes for {why}"));
            self.watches[host].on_timeout(time.now, self.now, why)?;
        }
        self.give(host, Input::Timeout)
    }

    fn occur(&mut self) -> Result<(), String> {
        match self.queue.pop_first() {
            None => Ok(()),
            Some((_, Occurrence::Datagram { from, to, bytes, is_genuine })) => {
                self.deliver((from, to), bytes, is_genuine)
            }
            Some((_, Occurrence::Stored { host, boot })) => self.stored(host, boot),
            Some((_, Occurrence::Action(action))) => self.act(action),
        }
    }

    fn schedule(&mut self, after: Duration, occurrence: Occurrence) {
        self.next += 1;
        self.queue.insert((self.now + after, self.next), occurrence);
    }

    fn deliver(
        &mut self,
        (from, to): (SocketAddr, SocketAddr),
        bytes: Vec<u8>,
        is_genuine: bool,
    ) -> Result<(), String> {
        let running = |host: &Host| host.address == to && host.node.is_some();
        let Some(host) = self.hosts.iter().position(running) else { return Ok(()) };
        let length = bytes.len();
        self.trace.line(self.now, format_args!("{host} gets {length} from {from}"));
        let heard = is_genuine.then(|| bytes.clone());
        let outputs = self.handle(host, Input::Datagram { from, bytes });
        if let Some(bytes) = heard.filter(|_| invariant::is_taken(&outputs.dropped)) {
            self.adversary.hear(from, to, &bytes, &mut self.chance);
        }
        self.take(host, outputs)
    }

    fn stored(&mut self, host: usize, boot: u64) -> Result<(), String> {
        if self.hosts[host].boot != boot || self.hosts[host].node.is_none() {
            return Ok(());
        }
        match self.hosts[host].disk.commit_first() {
            Some(ticket) => self.give(host, Input::Command(Command::Stored(ticket))),
            None => Ok(()),
        }
    }

    /// Gives a running node an input and takes what comes of it.
    pub(crate) fn give(&mut self, host: usize, input: Input) -> Result<(), String> {
        let outputs = self.handle(host, input);
        self.take(host, outputs)
    }

    fn handle(&mut self, host: usize, input: Input) -> Outputs {
        let time = self.time();
        self.hosts[host].node.as_mut().map(|node| node.handle(input, time)).unwrap_or_default()
    }

    fn take(&mut self, host: usize, outputs: Outputs) -> Result<(), String> {
        for reason in &outputs.dropped {
            self.trace.line(self.now, format_args!("{host} drops: {reason}"));
        }
        invariant::check_transmits(&outputs.transmits, &self.known)?;
        for transmit in outputs.transmits {
            self.send(host, transmit.to, transmit.datagram);
        }
        for packet in outputs.packets {
            self.arrived(host, &packet)?;
        }
        for event in outputs.events {
            self.on_event(host, event)?;
        }
        Ok(())
    }

    fn send(&mut self, host: usize, to: SocketAddr, bytes: Vec<u8>) {
        self.sent += 1;
        self.veiled += u64::from(bytes.first() == Some(&VEILED));
        let arrivals = self.internet.arrivals(bytes.len(), &mut self.chance);
        let (length, first) = (bytes.len(), bytes.first().copied().unwrap_or(0));
        self.trace.line(
            self.now,
            format_args!("{host} sends {length} ({first:02x}) to {to}, arriving {}x", arrivals.len()),
        );
        let from = self.hosts[host].address;
        for after in arrivals {
            let bytes = bytes.clone();
            self.schedule(after, Occurrence::Datagram { from, to, bytes, is_genuine: true });
        }
    }

    fn arrived(&mut self, host: usize, packet: &[u8]) -> Result<(), String> {
        let Some(number) = invariant::check_packet(packet, host, &self.hosts, &mut self.ledger)? else {
            self.trace.line(self.now, format_args!("{host} tells an application of an error"));
            return Ok(());
        };
        self.trace.line(self.now, format_args!("{host} gets packet {number}"));
        let now = self.now;
        let Some(sent) = self.ledger.get_mut(number) else { return Ok(()) };
        sent.arrived_at = Some(now);
        let Sent { from, bytes, wants_echo, .. } = *sent;
        if wants_echo { self.send_packet((host, from), bytes, (false, Some(number))) } else { Ok(()) }
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
        let Some(aliases) = aliases.filter(|_| self.hosts[from].node.is_some()) else { return Ok(()) };
        let bytes = bytes.max(traffic::MIN_BYTES);
        let sent = Sent { from, to, bytes, at: self.now, wants_echo, echo_of, arrived_at: None };
        let number = self.ledger.add(sent);
        self.trace.line(self.now, format_args!("{from} sends packet {number}, {bytes} bytes, to {to}"));
        self.give(from, Input::Packet(traffic::packet(number, bytes, aliases)))
    }

    fn on_event(&mut self, host: usize, event: Event) -> Result<(), String> {
        self.trace.line(self.now, format_args!("{host} says {}", crate::report::event(&event)));
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
            Event::JoinFailed(_) | Event::Invited { .. } | Event::Pong { .. } => {
                self.heard.push((host, event))
            }
            Event::Link { .. } | Event::Dropped(_) => {}
        }
        Ok(())
    }

    fn pin(&mut self, host: usize) -> Result<(), String> {
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

    /// Starts a node from its disk.
    pub(crate) fn start(&mut self, host: usize) -> Result<(), String> {
        if self.hosts[host].node.is_some() || self.hosts[host].disk.vpi.is_none() {
            return Ok(());
        }
        self.trace.line(self.now, format_args!("{host} starts"));
        let time = self.time();
        self.hosts[host].start(time, &mut self.chance)?;
        self.watches[host].on_start();
        self.give(host, Input::Start)?;
        self.pin(host)?;
        for command in self.hosts[host].start_commands() {
            self.give(host, Input::Command(command))?;
        }
        Ok(())
    }

    /// The host is at another address from here on.
    pub(crate) fn roam(&mut self, host: usize) {
        let port = 1_024 + self.known.len() as u16;
        let address = SocketAddr::from(([198, 51, 100, host as u8 + 1], port));
        self.hosts[host].address = address;
        self.known.push(address);
        self.trace.line(self.now, format_args!("{host} is at {address}"));
    }

    /// The adversary sends one datagram to every host.
    pub(crate) fn attack(&mut self) {
        for host in 0..self.hosts.len() {
            let shot = self.adversary.shot(self.hosts[host].address, &mut self.chance);
            let after = self.chance.between(Duration::from_micros(1), Duration::from_millis(50));
            let adversary::Shot { from, to, bytes } = shot;
            self.schedule(after, Occurrence::Datagram { from, to, bytes, is_genuine: false });
        }
    }

    /// Nobody's alarms rang.
    pub(crate) fn check_alarms(&self) -> Result<(), String> {
        self.hosts.iter().try_for_each(|host| invariant::check_alarms(host, self.time().now))
    }
}
