//! Beacons on one [`Net`]: how they come together, lie, go and come back.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use libp2p::kad::KBucketKey;
use libp2p::{Multiaddr, PeerId};
use protocol::discovery::record::Record;
use protocol::random::Rng;
use rand_core::Rng as _;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use vpi::benchmark::{Beacon, Connections, Look, identity};

use crate::kademlia::Question;
use crate::liar;
use crate::lies::{Lies, Way};
use crate::net::{Net, address};

/// Beacons that one is told of at its start, as an operator would name some.
const PEERS: usize = 3;
/// How often tables are looked at while they grow; as often in a row have they to grow by less than one in a hundred.
const LOOK_EVERY: Duration = Duration::from_millis(750);
const REST_FOR: u32 = 3;
/// How long that is waited for.
const REST_LIMIT: Duration = Duration::from_secs(900);
/// Beacons in an answer (Kademlia's k).
const NAMED: usize = 20;

/// One beacon, or the place of one.
struct Place {
    at: SocketAddr,
    peer: PeerId,
    state: PathBuf,
    who: Who,
}

enum Who {
    Beacon(Beacon),
    Liar(JoinHandle<()>),
    Nobody,
}

/// All of them.
pub(crate) struct Network {
    pub(crate) net: Net,
    threads: Vec<Handle>,
    dir: tempfile::TempDir,
    places: Vec<Place>,
    chance: Rng,
}

/// What all beacons are and have heard together.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) beacons: usize,
    pub(crate) table: usize,
    pub(crate) smallest_table: usize,
    pub(crate) records: usize,
    pub(crate) requests: BTreeMap<&'static str, u64>,
    pub(crate) refused: BTreeMap<&'static str, u64>,
    pub(crate) kept_out: u64,
}

impl Network {
    /// `count` beacons, each of which was told of some that came before it.
    pub(crate) async fn start((net, threads): (Net, &[Handle]), count: usize, chance: Rng) -> Result<Self> {
        let threads = threads.to_vec();
        let mut network = Self { net, threads, dir: tempfile::tempdir()?, places: Vec::new(), chance };
        for _ in 0..count {
            network.add()?;
            // Not all at one instant, which no network does.
            sleep(Duration::from_millis(20)).await;
        }
        network.rest().await;
        Ok(network)
    }

    /// One more.
    fn add(&mut self) -> Result<()> {
        let number = self.places.len();
        // A network each; none of them is inside anything.
        let at = SocketAddr::from((Ipv4Addr::new(11, (number >> 8) as u8, number as u8, 1), 41_415));
        let state = self.dir.path().join(number.to_string());
        let peers = self.some(PEERS);
        let peers: Vec<(PeerId, Multiaddr)> =
            peers.into_iter().map(|(peer, at)| (peer, address(at))).collect();
        let _entered = self.threads[number % self.threads.len()].enter();
        let beacon = Beacon::start(at, self.connections(at), &state, &peers)?;
        self.places.push(Place { at, peer: beacon.id, state, who: Who::Beacon(beacon) });
        Ok(())
    }

    fn wire(&self, number: usize) -> (SocketAddr, Connections) {
        let at = self.places[number].at;
        (at, self.connections(at))
    }

    fn connections(&self, at: SocketAddr) -> Connections {
        let SocketAddr::V4(v4) = at else { unreachable!("all have addresses of IPv4") };
        self.net.host(*v4.ip()).connections()
    }

    /// Some beacons that stand.
    fn some(&mut self, most: usize) -> Vec<(PeerId, SocketAddr)> {
        let standing: Vec<_> = self.places.iter().filter(|place| !matches!(place.who, Who::Nobody)).collect();
        let mut some: Vec<_> = standing.iter().map(|place| (place.peer, place.at)).collect();
        shuffle(&mut some, &mut self.chance);
        some.truncate(most);
        some
    }

    /// What a member was told once: some of the first `count`, whatever has become of them.
    pub(crate) fn told(&mut self, most: usize, count: usize) -> Vec<(PeerId, SocketAddr)> {
        let mut some: Vec<_> = self.places.iter().take(count).map(|place| (place.peer, place.at)).collect();
        shuffle(&mut some, &mut self.chance);
        some.truncate(most);
        some
    }

    async fn looks(&self) -> Vec<(PeerId, Look)> {
        let mut looks = Vec::new();
        for place in &self.places {
            if let Who::Beacon(beacon) = &place.who {
                looks.push((place.peer, beacon.look().await));
            }
        }
        looks
    }

    /// Everything summed up.
    pub(crate) async fn sum(&self) -> Sum {
        let mut sum = Sum { smallest_table: usize::MAX, ..Sum::default() };
        for (_, look) in self.looks().await {
            sum.beacons += 1;
            sum.table += look.table.len();
            sum.smallest_table = sum.smallest_table.min(look.table.len());
            sum.records += look.records;
            sum.kept_out += look.kept_out;
            look.requests
                .into_iter()
                .for_each(|(kind, count)| *sum.requests.entry(kind).or_default() += count);
            let refused = look.refused_puts.into_iter().chain(look.refused_connections);
            refused.for_each(|(reason, count)| *sum.refused.entry(reason).or_default() += count);
        }
        sum
    }

    /// Waits until beacons have got to know each other.
    async fn rest(&self) {
        let (began_at, mut before, mut quiet) = (Instant::now(), 0, 0);
        while quiet < REST_FOR && began_at.elapsed() < REST_LIMIT {
            sleep(LOOK_EVERY).await;
            let known = self.sum().await.table;
            let is_quiet = known.saturating_sub(before) * 100 < known;
            (before, quiet) = (known, if is_quiet { quiet + 1 } else { 0 });
        }
    }

    /// Every fifth goes without a word, and as many come that know some and hold nothing.
    pub(crate) async fn replace_a_fifth(&mut self) -> Result<()> {
        let count = self.places.len();
        for place in self.places.iter_mut().step_by(5) {
            if let Who::Beacon(beacon) = std::mem::replace(&mut place.who, Who::Nobody) {
                beacon.stop().await?;
            }
        }
        for _ in 0..count.div_ceil(5) {
            self.add()?;
        }
        self.rest().await;
        Ok(())
    }

    /// In the place of every fifth, and under its identity, is one that lies: about values and about beacons, serves the first value
    /// that it had for ever, or says nothing, a third each. All `had` what is given.
    pub(crate) async fn corrupt_a_fifth(&mut self, had: &[Record]) -> Result<()> {
        let addresses: HashMap<_, _> =
            self.places.iter().map(|place| (place.peer, address(place.at))).collect();
        let mut ways = [Way::Wrong, Way::Stale, Way::Empty].into_iter().cycle();
        let nobody = SocketAddr::from(([13, 0, 0, 1], 41_415));
        for number in (0..self.places.len()).step_by(5) {
            let (at, connections) = self.wire(number);
            let place = &mut self.places[number];
            let Who::Beacon(beacon) = std::mem::replace(&mut place.who, Who::Nobody) else { continue };
            let known = beacon.look().await.table;
            beacon.stop().await?;
            let mut lies = Lies::new(ways.next().into_iter().collect(), nobody)?;
            let known = known.into_iter().filter_map(|peer| Some((peer, addresses.get(&peer)?.clone())));
            lies.known = known.take(NAMED).collect();
            for record in had {
                lies.answer(&Question::Put { key: record.key.to_vec(), value: record.value.clone() });
            }
            let _entered = self.threads[number % self.threads.len()].enter();
            place.who = Who::Liar(liar::start(at, connections, identity(&place.state)?, lies)?);
        }
        Ok(())
    }

    /// Those that lie give way to the beacons that they pretended to be, with the records these had.
    pub(crate) async fn restore(&mut self) -> Result<()> {
        for number in 0..self.places.len() {
            if let Who::Liar(task) = &mut self.places[number].who {
                task.abort();
                // It was told to end.
                let _ = task.await;
                let (at, connections) = self.wire(number);
                let _entered = self.threads[number % self.threads.len()].enter();
                let place = &mut self.places[number];
                place.who = Who::Beacon(Beacon::start(at, connections, &place.state, &[])?);
            }
        }
        Ok(())
    }

    /// The tables as they stand.
    pub(crate) async fn tables(&self) -> Tables {
        let looks = self.looks().await;
        let key = |peer: PeerId| (peer, KBucketKey::from(peer));
        Tables(
            looks.into_iter().map(|(peer, look)| (peer, look.table.into_iter().map(key).collect())).collect(),
        )
    }

    /// Ends all.
    pub(crate) async fn stop(self) -> Result<()> {
        for place in self.places {
            match place.who {
                Who::Beacon(beacon) => beacon.stop().await?,
                Who::Liar(task) => task.abort(),
                Who::Nobody => {}
            }
        }
        Ok(())
    }
}

/// Whom each beacon that stands and is honest knows.
pub(crate) struct Tables(HashMap<PeerId, Vec<(PeerId, KBucketKey<PeerId>)>>);

impl Tables {
    /// How many beacons are asked one after the other, from the nearest of `known` on, until one knows nobody nearer to `key`.
    pub(crate) fn hops(&self, known: &[(PeerId, SocketAddr)], key: &[u8; 32]) -> usize {
        let target = KBucketKey::new(key.to_vec());
        let far = |peer: PeerId| KBucketKey::from(peer).distance(&target);
        let first = known
            .iter()
            .map(|(peer, _)| *peer)
            .filter(|peer| self.0.contains_key(peer))
            .min_by_key(|peer| far(*peer));
        let (mut hops, mut at) = (0, first);
        while let Some(peer) = at {
            hops += 1;
            let table = self.0.get(&peer).map(Vec::as_slice).unwrap_or_default();
            let nearest = table
                .iter()
                .filter(|(peer, _)| self.0.contains_key(peer))
                .min_by_key(|(_, key)| key.distance(&target));
            at = nearest.map(|(peer, _)| *peer).filter(|next| far(*next) < far(peer));
        }
        hops
    }
}

fn shuffle<T>(list: &mut [T], chance: &mut Rng) {
    for last in (1..list.len()).rev() {
        list.swap(last, (chance.next_u64() % (last as u64 + 1)) as usize);
    }
}
