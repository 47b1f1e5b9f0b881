//! One clock, one queue, all hosts. Whatever happens, happens in [`World::step`], one thing at a time.

mod beacons;
mod machines;
mod nats;
mod outputs;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use protocol::engine::{Command, Event, Time};
use protocol::path::Remote;

use crate::action::Action;
use crate::adversary::{self, Adversary};
use crate::chance::Chance;
use crate::dht::Dht;
use crate::host::{Host, Input};
use crate::invariant::belonging::{Records, View};
use crate::invariant::{Watch, wire};
use crate::net::cut::Cuts;
use crate::net::link::Conditions;
use crate::net::nat::Site;
use crate::trace::Trace;
use crate::traffic::Ledger;

/// Timers of a machine fire up to this much late.
const TIMER_SLACK: Duration = Duration::from_micros(1_500);

/// Something that waits for its time.
enum Occurrence {
    /// `sender` is the host that sent it; none for the adversary's.
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
        sender: Option<usize>,
    },
    /// Something at the multicast group's port of `to`.
    Announcement {
        from: SocketAddr,
        to: usize,
        bytes: Vec<u8>,
        sender: Option<usize>,
    },
    /// What came through a pipe or a stream, from its far end as `to` sees it.
    Piped {
        to: usize,
        from: Remote,
        bytes: Vec<u8>,
    },
    Stored {
        host: usize,
        boot: u64,
    },
    /// What a host makes of its objects is looked at; and compared a while later, if it took in none meanwhile.
    Look {
        host: usize,
        objects: usize,
        seen: Option<View>,
    },
    /// What the DHT told a host, unless it started anew meanwhile.
    Told {
        host: usize,
        boot: u64,
        command: Command,
    },
    Action(Action),
}

/// Everything.
pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) trace: Trace,
    pub(crate) hosts: Vec<Host>,
    pub(crate) ledger: Ledger,
    pub(crate) internet: Conditions,
    /// The network that some hosts are on beside the internet.
    pub(crate) near: Conditions,
    pub(crate) cuts: Cuts,
    /// All hosts stand on one network, on which they announce themselves.
    pub(crate) has_lan: bool,
    /// The DHT, if the hosts know beacons.
    pub(crate) dht: Option<Dht>,
    /// Places behind NATs, and the one at which hosts are added; without it they have addresses of the internet.
    pub(crate) sites: Vec<Site>,
    pub(crate) site: Option<usize>,
    /// What stands in for beacons.
    pub(crate) beacons: beacons::Beacons,
    /// As whom hosts were seen last: who sent, and who heard it.
    pub(crate) seen: BTreeMap<(usize, usize), SocketAddr>,
    /// How long a store takes; zero: it is done before the next thing happens.
    pub(crate) disk_delay: Duration,
    /// What hosts said that a scenario wants to know: (host, event).
    pub(crate) heard: Vec<(usize, Event)>,
    /// Datagrams sent so far, and the initiations, responses and joins among them.
    pub(crate) sent: u64,
    pub(crate) veiled: u64,
    /// ICMP errors that nodes told their applications.
    pub(crate) errors: u64,
    pub(crate) now: Duration,
    base: Instant,
    queue: BTreeMap<(Duration, u64), Occurrence>,
    next: u64,
    watches: Vec<Watch>,
    records: Records,
    /// Every address that a host ever had, and whose it was.
    known: Vec<(SocketAddr, usize)>,
    /// A stranger has brought a genuine datagram as its own: its address may be challenged.
    has_diverted: bool,
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
            near: Conditions::perfect(Duration::from_millis(1)),
            cuts: Cuts::default(),
            has_lan: false,
            dht: None,
            sites: Vec::new(),
            site: None,
            beacons: beacons::Beacons::default(),
            seen: BTreeMap::new(),
            disk_delay: Duration::ZERO,
            heard: Vec::new(),
            sent: 0,
            veiled: 0,
            errors: 0,
            now: Duration::ZERO,
            // Only differences to it are ever looked at.
            base: Instant::now(),
            queue: BTreeMap::new(),
            next: 0,
            watches: Vec::new(),
            records: Records::default(),
            known: Vec::new(),
            has_diverted: false,
            adversary: Adversary::default(),
        }
    }

    /// Adds a machine.
    pub(crate) fn add_host(&mut self, rekey_after: Duration) -> usize {
        let number = self.hosts.len();
        let last = number as u8 + 1;
        let network = self.site.map_or([192, 0, 2, last], |site| [10, site as u8, 0, last]);
        let address = SocketAddr::from((network, 41_414));
        let name = format!("host-{number}");
        let host = Host::new(name, address, rekey_after, &mut self.chance);
        self.hosts.push(Host { is_on_lan: self.has_lan, site: self.site, ..host });
        self.watches.push(Watch::default());
        self.known.push((address, number));
        number
    }

    /// Both clocks of `host`.
    pub(crate) fn time(&self, host: usize) -> Time {
        Time { now: self.instant(host), wall_ms: self.hosts[host].clock.wall_ms(self.now) }
    }

    /// The monotonic clock of `host`.
    pub(crate) fn instant(&self, host: usize) -> Instant {
        self.hosts[host].clock.monotonic(self.base, self.now)
    }

    /// Lets `action` happen `after` this long.
    pub(crate) fn later(&mut self, after: Duration, action: Action) {
        self.schedule(after, Occurrence::Action(action));
    }

    /// Applications fall silent: what they were going to send is not sent.
    pub(crate) fn calm(&mut self) {
        let is_speech = |occurrence: &Occurrence| {
            matches!(occurrence, Occurrence::Action(Action::Stream { .. } | Action::Send { .. }))
        };
        self.queue.retain(|_, occurrence| !is_speech(occurrence));
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
            let (at, _) = host.node.as_ref().filter(|_| host.asleep.is_none())?.timeout?;
            Some((host.clock.due(self.base, at) + TIMER_SLACK, number))
        });
        due.min()
    }

    fn wake(&mut self, host: usize) -> Result<(), String> {
        let timeout = self.hosts[host].node.as_ref().and_then(|node| node.timeout);
        if let Some((_, why)) = timeout {
            self.trace.line(self.now, format_args!("{host} wakes for {why}"));
            let hosts = self.hosts.len() as u32;
            self.watches[host].on_timeout(self.now, why, hosts)?;
        }
        self.give(host, Input::Timeout)
    }

    fn occur(&mut self) -> Result<(), String> {
        match self.queue.pop_first() {
            None => Ok(()),
            Some((_, Occurrence::Datagram { from, to, bytes, sender })) => {
                self.deliver((from, to), bytes, sender)
            }
            Some((_, Occurrence::Announcement { from, to, bytes, sender })) => {
                self.hear((from, to), bytes, sender)
            }
            Some((_, Occurrence::Piped { to, from, bytes })) => {
                self.give(to, Input::Datagram { from, bytes })
            }
            Some((_, Occurrence::Stored { host, boot })) => self.stored(host, boot),
            Some((_, Occurrence::Look { host, objects, seen })) => self.compare((host, objects), seen),
            Some((_, Occurrence::Told { host, boot, command }))
                if self.hosts[host].boot == boot && self.hosts[host].is_awake() =>
            {
                self.give(host, Input::Command(command))
            }
            Some((_, Occurrence::Told { .. })) => Ok(()),
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
        sender: Option<usize>,
    ) -> Result<(), String> {
        if self.beacons.is_at(to) {
            self.answer((from, to), &bytes);
            return Ok(());
        }
        let Some((host, heard)) = self.arrives_at((from, to), sender) else { return Ok(()) };
        if sender.is_some_and(|sender| self.cuts.has(sender, host)) {
            return Ok(());
        }
        let length = bytes.len();
        self.trace.line(self.now, format_args!("{host} gets {length} from {from}"));
        self.seen.extend(sender.map(|sender| ((sender, host), from)));
        let kept = sender.map(|_| bytes.clone());
        let outputs = self.handle(host, Input::Datagram { from: heard, bytes });
        if let Some(bytes) = kept.filter(|_| wire::is_taken(&outputs.dropped)) {
            self.adversary.hear(from, to, &bytes, &mut self.chance);
        }
        self.take(host, outputs)
    }

    /// A host hears what came to the multicast group.
    fn hear(
        &mut self,
        (from, to): (SocketAddr, usize),
        bytes: Vec<u8>,
        sender: Option<usize>,
    ) -> Result<(), String> {
        let is_cut = sender.is_some_and(|sender| self.cuts.has(sender, to));
        if is_cut || !self.hosts[to].is_awake() {
            return Ok(());
        }
        self.trace.line(self.now, format_args!("{to} hears {} from {from}", bytes.len()));
        let outputs = self.handle(to, Input::Announcement { from, bytes });
        self.take(to, outputs)
    }

    /// The adversary sends one datagram to every host.
    pub(crate) fn attack(&mut self) {
        for host in 0..self.hosts.len() {
            let shot = self.adversary.shot(self.hosts[host].address, &mut self.chance);
            let after = self.chance.between(Duration::from_micros(1), Duration::from_millis(50));
            let adversary::Shot { from, to, bytes } = shot;
            self.schedule(after, Occurrence::Datagram { from, to, bytes, sender: None });
            if self.has_lan {
                let (from, bytes) = (adversary::address(), self.adversary.announcement(&mut self.chance));
                self.schedule(after, Occurrence::Announcement { from, to: host, bytes, sender: None });
            }
        }
    }
}
