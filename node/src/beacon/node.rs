//! The loop of a beacon: starts it, feeds the swarm's events to what decides, keeps table and records on disk.
//!
//! Each second it looks at its memory and writes what changed; every few minutes it looks at its table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libp2p::futures::StreamExt as _;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, Swarm};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tracing::{debug, warn};

use super::admission::Admission;
use super::carry::Carry;
use super::door::DoorBounds;
use super::group::Group;
use super::metrics::{self, Counts, Shared, Standing};
use super::protocol::{CARRY, TIME};
use super::records::{Moment, Records};
use super::swarm::{self, Behaviour};
use super::time::Clock;
use super::writer::Writer;
use super::{Announcement, BeaconOptions, keypair, listen, memory, stun};
use crate::control::protocol::{Reply, Request};
use crate::control::server::Call;
use crate::control::{self, Exit};
use crate::metrics::Family;
use crate::store::beacon::BeaconFolder;
use crate::store::records::RecordFile;

/// *Chosen*: how often memory is looked at and changes are written: what a flood can bring in that time is what memory may
/// go beyond its bound, and what a crash may lose.
const TICK: Duration = Duration::from_secs(1);
/// *Chosen*: how often the table is looked at and the own neighbourhood looked up, ± a quarter.
const REFRESH: Duration = Duration::from_secs(300);
/// *Chosen*: how often every part of the table is looked up, ± a quarter. Among 500 beacons it takes some hundreds of questions,
/// each over a connection of its own; those that come are met by their neighbours' looks before.
const REFRESH_ALL: Duration = Duration::from_secs(3_600);
/// *Chosen*: how often the table is looked at while no other beacon is known, ± a quarter.
const REFRESH_ALONE: Duration = Duration::from_secs(15);
/// *Chosen*: how often free memory is given back while there is much; it takes some milliseconds.
const GIVE_BACK: Duration = Duration::from_secs(10);
/// *Chosen*: dials of known beacons at one look; the rest have their turn at the next.
const DIALS_MAX: usize = 64;

/// A running beacon.
pub(super) struct Beacon {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) admission: Admission,
    pub(super) counts: Counts,
    pub(super) reserved: BTreeSet<PeerId>,
    shared: Arc<Shared>,
    /// None where nothing is carried.
    pub(super) carry: Option<Carry>,
    pub(super) clock: Clock,
    folder: BeaconFolder,
    writer: Writer,
    /// Beacons to fall back on: those that were named, and at the start those of the last table.
    seeds: Vec<(PeerId, Multiaddr)>,
    stun: Vec<SocketAddr>,
    refresh_at: Instant,
    refresh_all_at: Instant,
    give_back_at: Instant,
    resident: fn() -> u64,
    written_table: Vec<String>,
    started_at: Instant,
    /// STUN; it ends with it.
    tasks: JoinSet<()>,
}

impl Beacon {
    /// Opens the records, listens, and dials the beacons that are known.
    ///
    /// # Errors
    /// What is damaged or taken, and what to do about it.
    pub(super) async fn start(
        options: BeaconOptions,
        folder: BeaconFolder,
        bounds: DoorBounds,
    ) -> anyhow::Result<Self> {
        let spoken: &[_] = if options.carry.is_some() { &[TIME, CARRY] } else { &[TIME] };
        let make = |keypair, records| swarm::swarm(keypair, records, bounds, spoken);
        let mut beacon = Self::still(folder, options.peers.clone(), memory::resident_bytes, make)?;
        let listening = listen::at(&mut beacon.swarm, &options).await?;
        let external = listen::external_addresses(&listening, &options.external).await;
        external.into_iter().for_each(|address| beacon.swarm.add_external_address(address));

        let stun = listen::stun(&options.stun)?;
        beacon.stun = stun.iter().filter_map(|socket| socket.local_addr().ok()).collect();
        for socket in stun {
            beacon.tasks.spawn(stun::serve(socket, Arc::clone(&beacon.shared)));
        }
        if let Some(bounds) = options.carry {
            beacon.carry = Some(Carry::new(bounds, Arc::clone(&beacon.shared.carried)));
        }
        let port = beacon.stun.first().map(SocketAddr::port);
        beacon.clock = Clock::new(port, Arc::clone(&beacon.shared));
        Ok(beacon)
    }

    /// One that listens nowhere yet, with its records and the table of its last run, on the swarm that `make` makes.
    /// `resident` gives the memory that it answers for, in bytes.
    ///
    /// # Errors
    /// What is damaged, and what to do about it; or those of `make`.
    pub(super) fn still(
        folder: BeaconFolder,
        peers: Vec<(PeerId, Multiaddr)>,
        resident: fn() -> u64,
        make: impl FnOnce(Keypair, Records) -> anyhow::Result<Swarm<Behaviour>>,
    ) -> anyhow::Result<Self> {
        let seed = folder.seed()?;
        let (file, kept, aside) = RecordFile::open(&folder.records_path())?;
        if let Some(aside) = aside {
            warn!(aside = %aside.display(), "the records were damaged: they begin empty");
        }
        let swarm = make(keypair(&seed)?, Records::new(&seed, kept, moment()))?;
        let shared = Arc::new(Shared::default());
        let table = folder.table()?;
        let own = *swarm.local_peer_id();
        let known = table.iter().filter_map(|line| peer_address(line));
        let seeds = peers.into_iter().chain(known).filter(|(peer, _)| *peer != own).collect();
        let now = Instant::now();
        Ok(Self {
            swarm,
            admission: Admission::default(),
            counts: Counts::default(),
            reserved: BTreeSet::new(),
            clock: Clock::new(None, Arc::clone(&shared)),
            shared,
            carry: None,
            writer: Writer::new(file),
            folder,
            seeds,
            stun: Vec::new(),
            refresh_at: now,
            // Kademlia does it by itself while the table has less than a bucket's.
            refresh_all_at: now + jittered(REFRESH_ALL),
            give_back_at: now,
            resident,
            written_table: table,
            started_at: now,
            tasks: JoinSet::new(),
        })
    }

    /// What it says of itself: the addresses under which others reach it, TCP first.
    pub(super) fn announcement(&mut self) -> Announcement {
        let id = *self.swarm.local_peer_id();
        let mut addresses: Vec<_> = self.swarm.external_addresses().cloned().collect();
        let is_udp = |address: &Multiaddr| address.iter().any(|part| matches!(part, Protocol::Udp(_)));
        addresses.sort_by_key(|address| (is_udp(address), address.to_string()));
        let addresses = addresses.into_iter().filter_map(|address| address.with_p2p(id).ok());
        Announcement {
            id: id.to_string(),
            addresses: addresses.map(|address| address.to_string()).collect(),
            stun: self.stun.clone(),
            records: self.swarm.behaviour_mut().kad.store_mut().count(),
            ready: true,
        }
    }

    /// Runs until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// Without signals of the system there is no clean end.
    pub(super) async fn run(&mut self, mut calls: Receiver<Call>) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = self.serve(&mut calls) => {}
        }
        self.close().await;
        Ok(())
    }

    /// Serves for ever.
    pub(super) async fn serve(&mut self, calls: &mut Receiver<Call>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => self.on_tick(),
                Some(call) = calls.recv() => self.on_call(&call),
                Some(finished) = self.writer.finished() => {
                    let records = self.swarm.behaviour_mut().kad.store_mut();
                    self.writer.on_finished(records, finished, Instant::now());
                }
                () = sleep_until(self.refresh_at.into()) => self.refresh(),
                event = self.swarm.select_next_some() => self.on_event(event),
            }
        }
    }

    /// Brings records and table to disk.
    pub(super) async fn close(&mut self) {
        self.write_table();
        self.writer.close(self.swarm.behaviour_mut().kad.store_mut()).await;
    }

    fn on_tick(&mut self) {
        let (mut resident, now) = ((self.resident)(), Instant::now());
        if resident > memory::SHORT_ABOVE_BYTES
            || resident > memory::GIVE_BACK_ABOVE_BYTES && now >= self.give_back_at
        {
            memory::give_back();
            // What nobody uses is no reason to close anything.
            resident = (self.resident)();
            self.give_back_at = now + GIVE_BACK;
        }
        let door = &mut self.swarm.behaviour_mut().door;
        door.set_short(resident > memory::SHORT_ABOVE_BYTES);
        let excess = memory::shed_of(door.counts().0, resident);
        if excess > 0 {
            warn!(resident, closed = excess, "memory is short: connections are closed");
            door.shed(excess);
        }
        self.writer.start(self.swarm.behaviour_mut().kad.store_mut(), now);
    }

    /// Looks at the table: who is missing is dialled, the own neighbourhood looked up, what is over forgotten.
    fn refresh(&mut self) {
        let at = moment();
        let behaviour = self.swarm.behaviour_mut();
        behaviour.door.sweep(at.now);
        let ended = behaviour.kad.store_mut().sweep(at);
        if ended > 0 {
            debug!(ended, "records ended");
        }
        let table = self.table();
        let missing = self.seeds.iter().filter(|(peer, _)| !table.contains_key(peer));
        // Those in the table that nothing else dialled for long are asked whether they are still there.
        let asked = table.iter().map(|(peer, address)| (*peer, address.clone()));
        let mut dials: Vec<_> = missing.cloned().chain(asked).collect();
        dials.retain(|(peer, _)| !self.swarm.is_connected(peer));
        shuffle(&mut dials);
        for (peer, address) in dials.into_iter().take(DIALS_MAX) {
            self.dial(peer, address, PeerCondition::DisconnectedAndNotDialing);
        }
        let own = *self.swarm.local_peer_id();
        let kad = &mut self.swarm.behaviour_mut().kad;
        if table.is_empty() {
            debug!("no other beacon is known");
        } else if at.now < self.refresh_all_at {
            kad.get_closest_peers(own);
        } else {
            // Nobody to ask is no failure.
            let _ = kad.bootstrap();
            self.refresh_all_at = at.now + jittered(REFRESH_ALL);
        }
        self.write_table();
        self.refresh_at = at.now + jittered(if table.is_empty() { REFRESH_ALONE } else { REFRESH });
    }

    /// Dials `peer` at one address.
    pub(super) fn dial(&mut self, peer: PeerId, address: Multiaddr, condition: PeerCondition) {
        let options = DialOpts::peer_id(peer).addresses(vec![address]).condition(condition);
        if let Err(error) = self.swarm.dial(options.allocate_new_port().build()) {
            debug!(%peer, %error, "not dialled");
        }
    }

    /// The beacons in the table, each with the address it answered at.
    pub(super) fn table(&mut self) -> BTreeMap<PeerId, Multiaddr> {
        let kad = &mut self.swarm.behaviour_mut().kad;
        let entries = kad.kbuckets().flat_map(|bucket| {
            let entries =
                bucket.iter().map(|entry| (*entry.node.key.preimage(), entry.node.value.first().clone()));
            entries.collect::<Vec<_>>()
        });
        entries.collect()
    }

    /// The networks of the beacons in the table.
    pub(super) fn table_groups(&mut self) -> Vec<Group> {
        self.table().values().map(Group::of).collect()
    }

    fn write_table(&mut self) {
        let mut lines: Vec<_> = self
            .table()
            .iter()
            .filter_map(|(peer, address)| {
                address.clone().with_p2p(*peer).ok().map(|address| address.to_string())
            })
            .collect();
        lines.sort();
        // An empty table is what a beacon has that was cut off: the last one is worth more.
        if lines.is_empty() || lines == self.written_table {
            return;
        }
        match self.folder.write_table(&lines) {
            Ok(()) => self.written_table = lines,
            Err(error) => warn!(%error, "the table of beacons is not on disk"),
        }
    }

    fn on_call(&mut self, call: &Call) {
        match &call.request {
            Request::Metrics => {
                call.answer(Reply::Metrics(self.metrics()));
            }
            Request::Hello => match control::hello() {
                Ok(hello) => {
                    call.answer(Reply::Hello(hello));
                }
                Err(error) => {
                    call.fail(Exit::Failed, format!("the beacon does not know itself: {error}"), "");
                }
            },
            _ => {
                let advice = "ask the node: leave --control out, or start one with `vpi up`";
                call.fail(Exit::Refused, "this is a beacon, which is in no VPI", advice);
            }
        }
    }

    /// Everything that is counted and measured.
    pub(super) fn metrics(&mut self) -> Vec<Family> {
        let table = self.table().len();
        let behaviour = self.swarm.behaviour_mut();
        let (inbound, outbound) = behaviour.door.counts();
        let records = behaviour.kad.store_mut();
        let standing = Standing {
            inbound,
            outbound,
            reservations: self.reserved.len(),
            table,
            records: records.count(),
            record_bytes: records.bytes(),
            unwritten: records.unwritten_count() + self.writer.under_way(),
            record_networks: records.networks(),
            resident_bytes: (self.resident)(),
            uptime_s: self.started_at.elapsed().as_secs_f64(),
        };
        metrics::families(standing, &self.counts, behaviour.door.refused(), &self.shared)
    }
}

/// Both clocks.
pub(super) fn moment() -> Moment {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment { now: Instant::now(), wall_secs: wall.as_secs() }
}

/// The peer and the address of a line such as `/ip4/192.0.2.1/tcp/41415/p2p/12D3Koo…`; `None` for anything else.
pub(crate) fn peer_address(line: &str) -> Option<(PeerId, Multiaddr)> {
    let mut address: Multiaddr = line.parse().ok()?;
    match address.pop()? {
        Protocol::P2p(peer) if !address.is_empty() => Some((peer, address)),
        _ => None,
    }
}

/// `about` ± a quarter.
pub(super) fn jittered(about: Duration) -> Duration {
    about.mul_f64(0.75 + 0.5 * chance())
}

fn shuffle<T>(list: &mut [T]) {
    for last in (1..list.len()).rev() {
        // Within bounds: chance is below 1.
        let other = (chance() * (last + 1) as f64) as usize;
        list.swap(last, other.min(last));
    }
}

/// A number from 0 up to 1.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness there is no jitter, and nothing else is wrong.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}
