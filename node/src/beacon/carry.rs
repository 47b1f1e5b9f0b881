//! `/vpi/carry/1`: joins two streams that bring the same token, and moves frames between them, at a rate.
//!
//! In: streams that members open. Out: what one end writes, to the other end and to nobody else. Two who want to be joined have
//! agreed on 32 random bytes between themselves: a stranger who opens streams reaches only who brings its own token. Nothing
//! is sent over UDP for anybody, nothing is read of what is passed on, and of what a slow end does not take, a line is kept, beyond
//! what its connection holds.
//!
//! ```text
//! stream ── token ──► the first: HELD, waits 10 s      the second: JOINED to both, then
//!
//!    reader ── as fast as 4 × rate ──► line, 64 KiB, the oldest gives way ── at the client's rate ──► the other end
//! ```

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::futures::FutureExt as _;
use libp2p::futures::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use libp2p::swarm::Stream;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::group::Group;
use super::protocol::{HELD, HOLD_FOR, JOINED, TOKEN_BYTES};
use crate::carry::{Reader, Ring, cost, write_frame};

/// *Chosen*: streams at once, waiting ones included: 128 pairs. Each may hold a line of 64 KiB.
const STREAMS_MAX: usize = 256;
/// *Chosen*: of one network: a household, or an office behind one address; seven of them fill no beacon.
const GROUP_MAX: usize = 32;
/// *Chosen*: of one peer: a member that is blocked has one to each member that it talks to.
const PEER_MAX: usize = 16;
/// *Chosen*: how long a token may take to come, and a word to go out.
const WORD_WITHIN: Duration = Duration::from_secs(5);
/// *Chosen*: bytes that wait for one direction of a pair: a quarter of a second at 2 Mbit/s.
const LINE_BYTES: usize = 64 << 10;
/// *Chosen*: what one end may write above its rate before it is read no further; what is above the rate is lost.
const READ_AHEAD: f64 = 4.0;
/// *Chosen*: bytes at once above the rate: a super-packet, cut to frames.
const BURST_BYTES: f64 = 64.0 * 1024.0;
/// *Chosen*: how long a frame may take to be written.
const STALLED_AFTER: Duration = Duration::from_secs(10);
/// *Chosen*: a pair over which nothing goes is ended: members close what no application uses after 15 minutes.
const IDLE_FOR: Duration = Duration::from_secs(1_200);
/// *Chosen*: what a direction may still be written when the end that sent it is done: a goodbye is among it.
const LAST_WITHIN: Duration = Duration::from_secs(2);
const DAY_SECS: f64 = 86_400.0;
/// *Chosen*: bytes at once of what is carried in a day: an hour's, so that a day has no more than a twenty-fourth above its own.
const BUDGET_BURST_SECS: f64 = 3_600.0;

/// What a beacon carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CarryBounds {
    /// Of what one client writes, in bytes a second.
    pub(crate) bytes_per_second: f64,
    /// Of all, in bytes a day.
    pub(crate) bytes_per_day: f64,
}

/// What was carried.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// Pairs that are joined.
    pub(super) pairs: AtomicU64,
    /// Ends that wait for the other.
    pub(super) waiting: AtomicU64,
    /// Bytes of frames passed on.
    pub(super) bytes: AtomicU64,
    /// Frames that gave way to later ones.
    pub(super) lost: AtomicU64,
    /// Streams refused: there are enough, or the day's bytes are used up.
    pub(super) refused: AtomicU64,
}

/// The streams of this protocol.
pub(super) struct Carry {
    table: Arc<Table>,
}

impl Carry {
    /// None yet.
    pub(super) fn new(bounds: CarryBounds, counts: Arc<Carried>) -> Self {
        let per_second = bounds.bytes_per_day / DAY_SECS;
        let budget = Pace::new(per_second, per_second * BUDGET_BURST_SECS);
        let table = Table { bounds, counts, budget, places: Mutex::default(), waiting: Mutex::default() };
        Self { table: Arc::new(table) }
    }

    /// Serves it, or drops it where there are enough.
    pub(super) fn take(&self, (peer, stream): (PeerId, Stream), group: Group) {
        let is_spent = self.table.budget.is_spent(Instant::now());
        let Some(place) = self.table.place(peer, group).filter(|_| !is_spent) else {
            self.table.counts.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let table = Arc::clone(&self.table);
        tokio::spawn(async move { table.serve(End { stream, place }).await });
    }
}

/// One end of a pair.
struct End {
    stream: Stream,
    place: Place,
}

/// What one peer may write; shared by all its streams.
#[derive(Debug)]
struct Client {
    rate: Pace,
    reading: Pace,
}

#[derive(Debug, Default)]
struct Places {
    all: usize,
    groups: HashMap<Group, usize>,
    peers: HashMap<PeerId, (usize, Arc<Client>)>,
}

type Token = [u8; TOKEN_BYTES];

struct Table {
    bounds: CarryBounds,
    counts: Arc<Carried>,
    budget: Pace,
    places: Mutex<Places>,
    waiting: Mutex<HashMap<Token, oneshot::Sender<End>>>,
}

/// A place among the streams; free again when it is dropped.
struct Place {
    table: Arc<Table>,
    peer: PeerId,
    group: Group,
    client: Arc<Client>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = lock(&self.table.places);
        places.all = places.all.saturating_sub(1);
        if let Some(count) = places.groups.get_mut(&self.group) {
            *count -= 1;
            if *count == 0 {
                places.groups.remove(&self.group);
            }
        }
        if let Some((count, _)) = places.peers.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                places.peers.remove(&self.peer);
            }
        }
    }
}

/// A panic while it was held leaves nothing half done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    fn place(self: &Arc<Self>, peer: PeerId, group: Group) -> Option<Place> {
        let mut places = lock(&self.places);
        let of_group = places.groups.get(&group).copied().unwrap_or(0);
        let of_peer = places.peers.get(&peer).map_or(0, |(count, _)| *count);
        if places.all >= STREAMS_MAX || of_group >= GROUP_MAX || of_peer >= PEER_MAX {
            return None;
        }
        places.all += 1;
        *places.groups.entry(group).or_default() += 1;
        let rate = self.bounds.bytes_per_second;
        let (count, client) = places.peers.entry(peer).or_insert_with(|| {
            let reading = Pace::new(rate * READ_AHEAD, BURST_BYTES * READ_AHEAD);
            (0, Arc::new(Client { rate: Pace::new(rate, BURST_BYTES), reading }))
        });
        *count += 1;
        Some(Place { table: Arc::clone(self), peer, group, client: Arc::clone(client) })
    }

    /// Joins an end to the one that waits with the same token, or has it wait for that.
    async fn serve(self: Arc<Self>, mut end: End) {
        let mut token = [0; TOKEN_BYTES];
        if !matches!(timeout(WORD_WITHIN, end.stream.read_exact(&mut token)).await, Ok(Ok(()))) {
            return;
        }
        let (meet, met) = oneshot::channel();
        let first = {
            let mut waiting = lock(&self.waiting);
            waiting.remove(&token).or_else(|| {
                waiting.insert(token, meet);
                None
            })
        };
        if let Some(first) = first {
            // Who waited has gone meanwhile: both are dropped.
            let _ = first.send(end);
            return;
        }
        self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        let other = hold(&mut end.stream, met).await;
        self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
        match other {
            Some(other) => self.join(end, other).await,
            None => drop(lock(&self.waiting).remove(&token)),
        }
    }

    /// Moves frames between two ends until one of them is gone.
    async fn join(&self, mut first: End, mut second: End) {
        for end in [&mut first, &mut second] {
            if say(&mut end.stream, JOINED).await.is_none() {
                return;
            }
        }
        self.counts.pairs.fetch_add(1, Ordering::Relaxed);
        let heard_at = Mutex::new(Instant::now());
        let (first_read, mut first_write) = first.stream.split();
        let (second_read, mut second_write) = second.stream.split();
        tokio::select! {
            () = self.carry(first_read, &mut second_write, (&first.place.client, &heard_at)) => {}
            () = self.carry(second_read, &mut first_write, (&second.place.client, &heard_at)) => {}
            () = idle(&heard_at) => {}
        }
        self.counts.pairs.fetch_sub(1, Ordering::Relaxed);
        for write in [&mut first_write, &mut second_write] {
            let _ = timeout(WORD_WITHIN, write.close()).await;
        }
    }

    /// One direction. Reading never waits for writing.
    async fn carry(
        &self,
        read: ReadHalf<Stream>,
        write: &mut WriteHalf<Stream>,
        (client, heard_at): (&Client, &Mutex<Instant>),
    ) {
        let line = Ring::new(LINE_BYTES);
        let fill = async {
            let mut reader = Reader::new(read);
            while let Ok(Some(frame)) = reader.next().await {
                let now = Instant::now();
                *lock(heard_at) = now;
                let wait = client.reading.charge(cost(&frame), now);
                let lost = line.push(frame);
                self.counts.lost.fetch_add(lost as u64, Ordering::Relaxed);
                if !wait.is_zero() {
                    sleep(wait).await;
                }
            }
            line.end();
        };
        let mut drain = pin!(async {
            while let Some(frame) = line.next().await {
                // Where the day's bytes are used up, all go on as slowly as these come back.
                let (bytes, now) = (cost(&frame), Instant::now());
                let wait = client.rate.charge(bytes, now).max(self.budget.charge(bytes, now));
                if !wait.is_zero() {
                    sleep(wait).await;
                }
                if !matches!(timeout(STALLED_AFTER, write_frame(write, &frame)).await, Ok(Ok(()))) {
                    return;
                }
                self.counts.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
            }
        });
        tokio::select! {
            () = fill => drop(timeout(LAST_WITHIN, drain).await),
            () = drain.as_mut() => {}
        }
    }
}

/// Waits for the other end. An end that writes, or is gone, waits no more.
async fn hold(stream: &mut Stream, met: oneshot::Receiver<End>) -> Option<End> {
    say(stream, HELD).await?;
    let mut byte = [0];
    tokio::select! {
        other = timeout(HOLD_FOR, met) => other.ok()?.ok(),
        _ = stream.read(&mut byte).fuse() => None,
    }
}

async fn say(stream: &mut Stream, word: u8) -> Option<()> {
    let saying = async {
        stream.write_all(&[word]).await?;
        stream.flush().await
    };
    timeout(WORD_WITHIN, saying).await.ok()?.ok()
}

async fn idle(heard_at: &Mutex<Instant>) {
    loop {
        let silent_for = lock(heard_at).elapsed();
        match IDLE_FOR.checked_sub(silent_for).filter(|left| !left.is_zero()) {
            Some(left) => sleep(left).await,
            None => return,
        }
    }
}

/// Bytes a second: who takes more than there are waits until they are there again.
#[derive(Debug)]
struct Pace {
    per_second: f64,
    burst: f64,
    /// What is left, negative if it was lent, and when that was so.
    left: Mutex<(f64, Instant)>,
}

impl Pace {
    fn new(per_second: f64, burst: f64) -> Self {
        Self { per_second, burst, left: Mutex::new((burst, Instant::now())) }
    }

    /// Takes so many bytes; returns how long to wait before they may go on.
    fn charge(&self, bytes: usize, now: Instant) -> Duration {
        let mut left = lock(&self.left);
        let grown = left.0 + now.saturating_duration_since(left.1).as_secs_f64() * self.per_second;
        *left = (grown.min(self.burst) - bytes as f64, now.max(left.1));
        Duration::from_secs_f64((-left.0).max(0.0) / self.per_second)
    }

    /// Says whether nothing is left.
    fn is_spent(&self, now: Instant) -> bool {
        !self.charge(0, now).is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_what_is_above_it_waits_for_the_rate() {
        let pace = Pace::new(1_000.0, 4_000.0);
        let now = Instant::now();
        assert_eq!((0..4).map(|_| pace.charge(1_000, now)).max(), Some(Duration::ZERO));
        let second = Duration::from_secs(1);
        assert_eq!(pace.charge(1_500, now + second).as_millis(), 500);
        assert!(pace.is_spent(now + second));
        assert!(!pace.is_spent(now + 2 * second));
    }

    #[test]
    fn places_are_bounded_by_peer_and_network_and_in_all_and_are_free_again() {
        let bounds = CarryBounds { bytes_per_second: 1.0, bytes_per_day: 1.0 };
        let carry = Carry::new(bounds, Arc::default());
        let peer = PeerId::random();
        let group = |n: u8| Group::V4([10, 0, n]);
        let of_one: Vec<_> = (0..100).filter_map(|_| carry.table.place(peer, group(0))).collect();
        assert_eq!(of_one.len(), PEER_MAX);
        let of_group: Vec<_> =
            (0..100).filter_map(|_| carry.table.place(PeerId::random(), group(0))).collect();
        assert_eq!(of_one.len() + of_group.len(), GROUP_MAX);
        let networks = (1..=250).cycle().take(1_000);
        let others: Vec<_> = networks.filter_map(|n| carry.table.place(PeerId::random(), group(n))).collect();
        assert_eq!(GROUP_MAX + others.len(), STREAMS_MAX);
        drop((of_one, of_group, others));
        let places = lock(&carry.table.places);
        assert_eq!((places.all, places.groups.len(), places.peers.len()), (0, 0, 0));
    }
}
