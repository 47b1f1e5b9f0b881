//! Asking the DHT, and putting into it.
//!
//! ```text
//! get:  GET_VALUE at the 20 closest ─────────────────────────────────────────────► Found
//! put:  FIND_NODE ─► PUT_VALUE at each of the 20 closest, no publisher ─► get ─► Stored
//! ```
//!
//! A lookup is never ended by its first value: then the beacon that answers first would decide. It is ended by the clock: after
//! [`SETTLE`], or [`PATIENCE`] times what the first answer took where beacons are far, with what there is, if there is anything;
//! with nothing, after [`DEADLINE`]. What the owner of the key has not signed is nothing: whoever makes it up gains no time by
//! it. A put is read back because a beacon that keeps nothing says the same as one that keeps all.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::kad::{
    self, GetClosestPeersError, GetClosestPeersOk, GetRecordOk, PeerInfo, ProgressStep, QueryId, QueryResult,
    QueryStats, Quorum, Record,
};
use protocol::discovery::record::is_signed;
use tokio::time::Instant;

use super::Told;
use super::behaviour::Member;
use super::roster::Roster;

/// Lookups and puts at once, and waiting (chosen: a member that starts looks for eight others at a time).
const RUNNING: usize = 8;
const WAITING: usize = 64;
/// Beacons a lookup starts from: as many as it looks for (Kademlia's k).
const SEEDS: usize = 20;
/// When a lookup ends with what it has, if it has something (chosen: beacons that stall cost no more than this, beacons that
/// answer have had time for three round trips to the far side of the world on a cold connection).
const SETTLE: Duration = Duration::from_millis(2_000);
/// In a lookup that starts from nothing, as many times the time to the first answer pass until the last (measured among 20 beacons:
/// three and a half). It is the nearest beacon's that counts, so that one which is slow on purpose prolongs nothing.
const PATIENCE: u32 = 4;
/// How often is looked whether somebody has answered at all.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// When it ends with nothing (chosen: below the 10 s in which members find each other).
const DEADLINE: Duration = Duration::from_secs(8);
/// Distinct values of one lookup that are handed on (chosen: more than the twenty closest can have). All are signed for their
/// key, so none is longer than a record can be.
const VALUES: usize = 64;

struct Job {
    key: [u8; 32],
    purpose: Purpose,
}

enum Purpose {
    Get { ticket: u64 },
    Put { value: Vec<u8>, expires_at: Instant },
}

struct Running {
    key: [u8; 32],
    stage: Stage,
    started_at: Instant,
    values: Vec<Vec<u8>>,
    /// Questions of the stages before.
    asked: u32,
    /// How long the first answer took, once there is one; looked for last at `looked_at`.
    first_after: Option<Duration>,
    looked_at: Instant,
    is_ending: bool,
}

enum Stage {
    Getting { ticket: u64 },
    Closest { value: Vec<u8>, expires_at: Instant },
    Storing { value: Vec<u8> },
    Counting { value: Vec<u8>, copies: u32 },
}

/// All that one peer id asks the DHT.
#[derive(Default)]
pub(super) struct Lookups {
    waiting: VecDeque<Job>,
    running: HashMap<QueryId, Running>,
}

impl Lookups {
    /// Asks for all values under a key. Returns the answer at once where too much waits.
    pub(super) fn get(&mut self, ticket: u64, key: [u8; 32]) -> Option<Told> {
        self.add(Job { key, purpose: Purpose::Get { ticket } })
    }

    /// Puts a value; as [`Self::get`].
    pub(super) fn put(&mut self, key: [u8; 32], value: Vec<u8>, expires_at: Instant) -> Option<Told> {
        self.add(Job { key, purpose: Purpose::Put { value, expires_at } })
    }

    fn add(&mut self, job: Job) -> Option<Told> {
        if self.waiting.len() >= WAITING {
            return Some(nothing(&job));
        }
        self.waiting.push_back(job);
        None
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Starts what waits, as far as there is room. Returns what is answered without asking anybody.
    pub(super) fn start(&mut self, member: &mut Member, roster: &Roster, now: Instant) -> Vec<Told> {
        let mut told = Vec::new();
        while self.running.len() < RUNNING
            && let Some(job) = self.waiting.pop_front()
        {
            if roster.peers().next().is_none() {
                told.push(nothing(&job));
                continue;
            }
            let (key, target) = (job.key, kad::RecordKey::new(&job.key));
            let (query, stage) = match job.purpose {
                Purpose::Get { ticket } => {
                    (query(member, roster, &key, |kad| kad.get_record(target)), Stage::Getting { ticket })
                }
                Purpose::Put { value, expires_at } => {
                    let closest = |kad: &mut Kad| kad.get_closest_peers(key.to_vec());
                    (query(member, roster, &key, closest), Stage::Closest { value, expires_at })
                }
            };
            self.run(query, (key, stage, 0), now);
        }
        told
    }

    fn run(&mut self, query: QueryId, (key, stage, asked): ([u8; 32], Stage, u32), now: Instant) {
        let (values, first_after) = (Vec::new(), None);
        let running = Running {
            key,
            stage,
            started_at: now,
            values,
            asked,
            first_after,
            looked_at: now,
            is_ending: false,
        };
        self.running.insert(query, running);
    }

    /// Something came of a query.
    pub(super) fn on_progress(
        &mut self,
        query: QueryId,
        result: QueryResult,
        (stats, step): (&QueryStats, &ProgressStep),
        Means { member, roster, now }: Means<'_>,
    ) -> Option<Told> {
        let running = self.running.get_mut(&query)?;
        let mut closest = Vec::new();
        match result {
            QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(found))) => {
                running.on_answer(now);
                running.on_found(found.record);
            }
            QueryResult::GetClosestPeers(Ok(GetClosestPeersOk { peers, .. }))
            | QueryResult::GetClosestPeers(Err(GetClosestPeersError::Timeout { peers, .. })) => {
                closest = peers;
            }
            _ => {}
        }
        if !step.last {
            return None;
        }
        let running = self.running.remove(&query)?;
        let Running { key, stage, values, asked, .. } = running;
        let asked = asked.saturating_add(stats.num_requests());
        let told = match stage {
            Stage::Getting { ticket } => {
                Some(Told::Found { ticket, values, answered: stats.num_successes(), asked })
            }
            Stage::Closest { value, expires_at } => {
                self.store(((key, value, expires_at), asked), &closest, member, now)
            }
            Stage::Storing { value } => {
                self.count((key, value, asked), member, roster, now);
                None
            }
            Stage::Counting { copies, .. } => Some(Told::Stored { key, copies, asked }),
        };
        if self.running.is_empty() {
            member.book.forget_named();
        }
        told
    }

    /// The second step of a put: to those that are closest.
    fn store(
        &mut self,
        ((key, value, expires_at), asked): (([u8; 32], Vec<u8>, Instant), u32),
        closest: &[PeerInfo],
        member: &mut Member,
        now: Instant,
    ) -> Option<Told> {
        if closest.is_empty() {
            return Some(Told::Stored { key, copies: 0, asked });
        }
        for peer in closest {
            member.book.add_named(peer.peer_id, peer.addrs.clone());
        }
        let record = Record {
            key: kad::RecordKey::new(&key),
            value: value.clone(),
            // It would name who this device is.
            publisher: None,
            expires: Some(expires_at.into_std()),
        };
        let peers: Vec<_> = closest.iter().map(|peer| peer.peer_id).collect();
        // With less than all, the first yes would cut off those that are still being dialled.
        let quorum = NonZeroUsize::new(peers.len()).map_or(Quorum::All, Quorum::N);
        let query = member.kad.put_record_to(record, peers.into_iter(), quorum);
        self.run(query, (key, Stage::Storing { value }, asked), now);
        None
    }

    /// The third: what do they hold?
    fn count(
        &mut self,
        (key, value, asked): ([u8; 32], Vec<u8>, u32),
        member: &mut Member,
        roster: &Roster,
        now: Instant,
    ) {
        let query = query(member, roster, &key, |kad| kad.get_record(kad::RecordKey::new(&key)));
        self.run(query, (key, Stage::Counting { value, copies: 0 }, asked), now);
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.running.values().filter(|running| !running.is_ending).map(Running::next_at).min()
    }

    /// Ends what took long enough; the answer comes as a last progress.
    pub(super) fn tick(&mut self, member: &mut Member, now: Instant) {
        for (query, running) in &mut self.running {
            if running.is_ending {
                continue;
            }
            running.looked_at = now;
            if member.kad.query(query).is_some_and(|query| query.stats().num_successes() > 0) {
                running.on_answer(now);
            }
            if running.ends_at() <= now {
                running.is_ending = true;
                if let Some(mut query) = member.kad.query_mut(query) {
                    query.finish();
                }
            }
        }
    }
}

impl Running {
    fn on_answer(&mut self, now: Instant) {
        self.first_after.get_or_insert(now.saturating_duration_since(self.started_at));
    }

    fn on_found(&mut self, record: Record) {
        if record.key.as_ref() != self.key.as_slice() {
            return;
        }
        if let Stage::Counting { value, copies } = &mut self.stage {
            *copies += u32::from(*value == record.value);
        } else if self.values.len() < VALUES
            && !self.values.contains(&record.value)
            && is_signed(&self.key, &record.value)
        {
            self.values.push(record.value);
        }
    }

    fn ends_at(&self) -> Instant {
        let has_something = match self.stage {
            Stage::Getting { .. } => !self.values.is_empty(),
            Stage::Counting { copies, .. } => copies > 0,
            // Peers that answered so far are as good as any.
            Stage::Closest { .. } | Stage::Storing { .. } => true,
        };
        let after = match self.first_after {
            Some(first) if has_something => (first * PATIENCE).clamp(SETTLE, DEADLINE),
            _ => DEADLINE,
        };
        self.started_at + after
    }

    fn next_at(&self) -> Instant {
        match self.first_after {
            None => self.ends_at().min(self.looked_at + LOOK_EVERY),
            Some(_) => self.ends_at(),
        }
    }
}

/// With what a query goes on.
pub(super) struct Means<'m> {
    pub(super) member: &'m mut Member,
    pub(super) roster: &'m Roster,
    pub(super) now: Instant,
}

type Kad = kad::Behaviour<kad::store::MemoryStore>;

/// Starts a query from the nearest known beacons. The table holds them for this moment only, or Kademlia would begin to look
/// after it, at every beacon.
fn query(
    member: &mut Member,
    roster: &Roster,
    key: &[u8; 32],
    start: impl FnOnce(&mut Kad) -> QueryId,
) -> QueryId {
    let seeds = roster.nearest_to_key(key, SEEDS);
    for (peer, address) in &seeds {
        member.kad.add_address(peer, address.clone());
    }
    let query = start(&mut member.kad);
    for (peer, _) in &seeds {
        member.kad.remove_peer(peer);
    }
    // With an empty table this asks nobody: it takes back that the insertions called for it.
    let _ = member.kad.bootstrap();
    query
}

/// The answer of one that asked nobody.
fn nothing(job: &Job) -> Told {
    match job.purpose {
        Purpose::Get { ticket } => Told::Found { ticket, values: Vec::new(), answered: 0, asked: 0 },
        Purpose::Put { .. } => Told::Stored { key: job.key, copies: 0, asked: 0 },
    }
}
