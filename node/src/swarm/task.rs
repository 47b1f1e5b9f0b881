//! The loop: takes what the driver asks and what happens in the network, one thing at a time.

use std::collections::VecDeque;
use std::time::Duration;

use libp2p::PeerId;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error};

use super::address::Beacon;
use super::carries::{ASKED, Carries, Wish};
use super::circuits::Circuits;
use super::host::{Happened, Host, Shared};
use super::outward::Ways;
use super::roster::{BeaconStatus, Roster};
use super::{Ask, Told, jitter};

/// How long a peer id lives (specified: node/README, Beacons; with jitter, so that it tells nothing of when the node started).
const PEER_ID_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long it still leads here after another one took over (chosen: longer than a circuit lives, and than others go on using
/// what they read).
const RETIRED_FOR: Duration = Duration::from_secs(600);
/// And where it leads nowhere, as nothing is reserved: until what it was asked is answered.
const RETIRED_UNUSED_FOR: Duration = Duration::from_secs(20);
/// How often it is looked at whether packets are still carried under the one before, until the next renewal (chosen).
const CARRYING_AGAIN: Duration = Duration::from_secs(60);
/// While as much waits for the driver, it is asked nothing more (chosen: all lookups and circuits that can be under way).
const OUTBOX: usize = 128;

/// The state of the room.
pub(super) struct Task {
    asks: mpsc::Receiver<Ask>,
    told: mpsc::Sender<Told>,
    outbox: VecDeque<Told>,
    roster: Roster,
    ways: Ways,
    is_wanted: bool,
    circuits: Circuits,
    carries: Carries,
    renew_at: Instant,
    told_reserved: Option<(Beacon, PeerId)>,
    told_beacons: Vec<BeaconStatus>,
}

/// The peer id in use, and the one before it for as long as it leads here.
struct Hosts {
    current: Host,
    retired: Option<(Host, Instant)>,
}

enum Next {
    Room(Result<(), ()>),
    Ask(Option<Ask>),
    Happened { is_current: bool, what: Happened },
    CircuitEnded,
    Time,
}

impl Task {
    pub(super) fn new(ways: Ways, asks: mpsc::Receiver<Ask>, told: mpsc::Sender<Told>) -> Self {
        Self {
            asks,
            circuits: Circuits::new(told.clone()),
            carries: Carries::new(told.clone()),
            told,
            outbox: VecDeque::new(),
            roster: Roster::default(),
            ways,
            is_wanted: false,
            renew_at: Instant::now() + jitter(PEER_ID_LIFE),
            told_reserved: None,
            told_beacons: Vec::new(),
        }
    }

    /// Runs until the owner is gone.
    pub(super) async fn run(mut self) {
        let current = match Host::new(&self.ways, &self.roster) {
            Ok(current) => current,
            Err(error) => return error!(%error, "no swarm for the beacons"),
        };
        let mut hosts = Hosts { current, retired: None };
        loop {
            match self.next(&mut hosts).await {
                Next::Ask(None) | Next::Room(Err(())) => return self.carries.finish().await,
                Next::Ask(Some(ask)) => self.on_ask(ask, &mut hosts),
                Next::Happened { is_current, what } => self.on_happened(is_current, what, &mut hosts),
                Next::Room(Ok(())) | Next::CircuitEnded | Next::Time => {}
            }
            self.tick(&mut hosts);
            self.tell_changes(&hosts);
        }
    }

    /// Waits for the next thing. Asks are left where they are while the driver does not read.
    async fn next(&mut self, hosts: &mut Hosts) -> Next {
        let (mut next_at, mut sleeps) = (self.renew_at, vec![hosts.current.next_at()]);
        if let Some((retired, until)) = &hosts.retired {
            sleeps.extend([Some(*until), retired.next_at()]);
        }
        next_at = sleeps.into_iter().flatten().fold(next_at, Instant::min);
        let Hosts { current, retired } = hosts;
        let retired = async {
            match retired {
                Some((retired, _)) => retired.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            room = self.told.reserve(), if !self.outbox.is_empty() => {
                let Ok(room) = room else { return Next::Room(Err(())) };
                if let Some(told) = self.outbox.pop_front() {
                    room.send(told);
                }
                Next::Room(Ok(()))
            }
            ask = self.asks.recv(), if self.outbox.len() < OUTBOX => Next::Ask(ask),
            what = current.next() => Next::Happened { is_current: true, what },
            what = retired => Next::Happened { is_current: false, what },
            () = self.circuits.ended() => Next::CircuitEnded,
            () = self.carries.ended() => Next::CircuitEnded,
            () = sleep_until(next_at) => Next::Time,
            () = self.told.closed() => Next::Room(Err(())),
        }
    }

    fn on_ask(&mut self, ask: Ask, hosts: &mut Hosts) {
        let now = Instant::now();
        match ask {
            Ask::Beacons(beacons) => {
                self.roster.set(beacons);
                self.ways.inside.allow(self.roster.has_one_inside());
                for host in hosts.all() {
                    host.on_beacons(&self.roster, now);
                }
            }
            Ask::Reserve(is_wanted) => {
                self.is_wanted = is_wanted;
                hosts.current.want(is_wanted, now);
                if !is_wanted && let Some((retired, _)) = &mut hosts.retired {
                    retired.want(false, now);
                }
            }
            Ask::Get { ticket, key } => self.outbox.extend(hosts.current.lookups.get(ticket, key)),
            Ask::Put { key, value, expires_in } => {
                self.outbox.extend(hosts.current.lookups.put(key, value, now + expires_in));
            }
            Ask::Open { circuit, beacon, peer } => {
                let dialer = hosts.current.dialer();
                if let Err(ended) = self.circuits.open(circuit, peer, beacon.circuit(), dialer) {
                    self.outbox.push_back(Told::Closed { circuit, ended });
                }
            }
            Ask::Frame { circuit, bytes } => self.circuits.frame(circuit, bytes),
            Ask::Vouch(circuit) => self.circuits.vouch(circuit),
            Ask::Close(circuit) => self.circuits.close(circuit),
            Ask::Carry(wish) => self.carry(wish, hosts),
            Ask::Time => hosts.current.ask_time(&self.roster, now),
            Ask::Renew => self.renew(hosts, now),
        }
    }

    /// Asks for a stream: at the beacon that the wish names, then where this device is reachable, then at the others.
    fn carry(&mut self, wish: Wish, hosts: &mut Hosts) {
        let number = wish.number;
        let mut beacons: Vec<Beacon> = wish.at.into_iter().collect();
        if wish.is_offer {
            let own = hosts.reserved(&self.roster).map(|(beacon, _)| beacon);
            for beacon in own.into_iter().chain(self.roster.by_health()) {
                if !beacons.iter().any(|known| known.peer == beacon.peer) {
                    beacons.push(beacon);
                }
            }
        }
        beacons.truncate(ASKED);
        if let Some(first) = beacons.first() {
            hosts.current.call(first);
        }
        if let Err(ended) = self.carries.open(wish, beacons, hosts.current.control()) {
            self.outbox.push_back(Told::CarryClosed { number, ended });
        }
    }

    fn on_happened(&mut self, is_current: bool, what: Happened, hosts: &mut Hosts) {
        let mut told = Vec::new();
        let retired = hosts.retired.as_mut().map(|(retired, _)| retired);
        let host = if is_current { Some(&mut hosts.current) } else { retired };
        let Some(host) = host else { return };
        match what {
            Happened::Circuit(arrived) => self.circuits.accept(arrived),
            Happened::Reading(reading) => host.clock.on_answered(reading),
            Happened::Answered(answered) => host.lookups.on_answered(answered, Instant::now()),
            Happened::Swarm(event) => {
                let mut shared = Shared { roster: &mut self.roster, told: &mut told, now: Instant::now() };
                host.on_event(*event, &mut shared);
            }
        }
        self.outbox.extend(told);
    }

    fn tick(&mut self, hosts: &mut Hosts) {
        let now = Instant::now();
        if self.renew_at <= now {
            self.renew(hosts, now);
        }
        let mut told = Vec::new();
        for host in hosts.all() {
            host.tick(&mut Shared { roster: &mut self.roster, told: &mut told, now });
        }
        self.outbox.extend(told);
        if let Some((_, until)) = &mut hosts.retired
            && *until <= now
            && self.carries.has_older()
        {
            // A stream cannot be taken along; the next renewal is a day away.
            *until = now + jitter(CARRYING_AGAIN);
        }
        hosts.retired.take_if(|(_, until)| *until <= now);
    }

    /// Goes on under another peer id; the one before still leads here for a while.
    fn renew(&mut self, hosts: &mut Hosts, now: Instant) {
        self.renew_at = now + jitter(PEER_ID_LIFE);
        let next = match Host::new(&self.ways, &self.roster) {
            Ok(next) => next,
            Err(error) => return debug!(%error, "the peer id stays"),
        };
        let mut before = std::mem::replace(&mut hosts.current, next);
        hosts.current.want(self.is_wanted, now);
        before.retire();
        self.carries.on_renewed();
        let leads_here = before.reservation.beacon().is_some();
        let kept_for = if leads_here { RETIRED_FOR } else { RETIRED_UNUSED_FOR };
        if leads_here || self.carries.has_older() || !before.is_idle() || hosts.retired.is_none() {
            hosts.retired = Some((before, now + kept_for));
        }
    }

    /// Tells what is otherwise than it was told last.
    fn tell_changes(&mut self, hosts: &Hosts) {
        let reserved = hosts.reserved(&self.roster);
        if reserved != self.told_reserved {
            self.told_reserved = reserved;
            self.outbox.push_back(Told::Reserved(reserved));
        }
        // A list that waits is as good as the next one will be; it is told when the driver reads again.
        if self.outbox.len() < OUTBOX {
            let beacons = self.roster.status(reserved.map(|(beacon, _)| beacon.peer));
            if beacons != self.told_beacons {
                self.told_beacons.clone_from(&beacons);
                self.outbox.push_back(Told::Beacons(beacons));
            }
        }
    }
}

impl Hosts {
    fn all(&mut self) -> impl Iterator<Item = &mut Host> {
        std::iter::once(&mut self.current).chain(self.retired.as_mut().map(|(retired, _)| retired))
    }

    /// Where this device is reachable: under the peer id in use, or still under the one before.
    fn reserved(&self, roster: &Roster) -> Option<(Beacon, PeerId)> {
        let place = |host: &Host| Some((roster.beacon(host.reservation.beacon()?)?, host.peer()));
        place(&self.current).or_else(|| place(&self.retired.as_ref()?.0))
    }
}
