//! Whom a lookup asks, and when it has asked enough: Kademlia by paths that share nothing of what they were told. Sans-IO.
//!
//! ```text
//! known ──► path 0: asks the nearest it knows ─► its answer names nearer ones ─► … ─► the 20 nearest all answered ┐
//!       ──► path 1, 2, 3: likewise, each of other beacons                                                         ├─► over
//!       an answer is told to the path that asked; that a beacon answers counts for all                            ┘
//! ```
//!
//! A path that a liar misleads ends among those that it made up, or among its own kind; the others do not hear of them. Where
//! fewer beacons are known than there are paths, what is named first is known to the rest, too. A path
//! asks one beacon at a time as long as each answer leads further, and all of its twenty nearest as soon as one of these has
//! answered: whoever is among them knows the others. So a lookup asks the twenty that it looks for, and a few on the way for
//! each path; among more beacons the way is longer by their logarithm.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use libp2p::kad::{KBucketDistance as Distance, KBucketKey};
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use super::kademlia::Named;
use crate::beacon::protocol::REPLICATION;

/// Paths (chosen: three of four may end among liars, and one of four may hang).
const PATHS: usize = 4;
/// Beacons kept of what one path was told (chosen: ten answers; of more, the nearest).
const KNOWN: usize = 200;
/// Addresses of one beacon, and of these from one that named it (chosen: two families; a liar that knows where an honest one is not
/// does not keep others from saying where it is).
const ADDRESSES: usize = 8;
const ADDRESSES_TOLD: usize = 2;
/// A path on its way asks another one when the last has not answered for this long, or twice as long as the slowest answer took
/// (chosen: about what a beacon 100 ms away takes, connecting included).
const HEDGE: Duration = Duration::from_millis(400);
/// Who has not answered for this long, or three times as long as the slowest answer took, is late.
const LATE: Duration = Duration::from_millis(500);
/// The slowest answer that counts in these (chosen: whoever is slow on purpose prolongs nothing beyond it).
const SLOWEST: Duration = Duration::from_millis(700);

/// One lookup.
#[derive(Debug)]
pub(super) struct Search {
    target: KBucketKey<Vec<u8>>,
    /// All that were named, by their distance.
    beacons: BTreeMap<Distance, Candidate>,
    paths: [BTreeSet<Distance>; PATHS],
    /// The path whose turn it is.
    turn: usize,
    slowest: Duration,
}

#[derive(Debug)]
struct Candidate {
    peer: PeerId,
    /// As many as were told so far, and how many of them were given out to be dialled.
    addresses: Vec<Multiaddr>,
    tried: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unasked,
    /// By which path, and when.
    Asked(usize, Instant),
    Answered(usize),
    Failed,
}

/// How far one path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Going,
    /// Two thirds of its nearest have answered, and the others are late.
    Enough,
    Done,
}

impl Search {
    /// One that begins at those known.
    pub(super) fn new(key: &[u8; 32], known: &[Named]) -> Self {
        let target = KBucketKey::new(key.to_vec());
        let (beacons, paths) = (BTreeMap::new(), std::array::from_fn(|_| BTreeSet::new()));
        let mut search = Self { target, beacons, paths, turn: 0, slowest: Duration::ZERO };
        for path in 0..PATHS {
            search.tell(path, known);
        }
        search
    }

    /// Whom to ask next, if anybody. It counts as asked from here on.
    pub(super) fn next(&mut self, now: Instant) -> Option<Named> {
        for _ in 0..PATHS {
            let path = self.turn;
            self.turn = (path + 1) % PATHS;
            if let Some(distance) = self.next_of(path, now)
                && let Some(candidate) = self.beacons.get_mut(&distance)
            {
                candidate.state = State::Asked(path, now);
                candidate.tried = candidate.addresses.len();
                return Some(candidate.named());
            }
        }
        None
    }

    fn next_of(&self, path: usize, now: Instant) -> Option<Distance> {
        let hedge = HEDGE.max(self.slowest * 2);
        let (mut is_there, mut is_waiting, mut next) = (false, false, None);
        for (distance, candidate) in self.nearest(path) {
            match candidate.state {
                State::Answered(by) => is_there |= by == path,
                State::Asked(by, since) => {
                    is_waiting |= by == path && now.saturating_duration_since(since) < hedge;
                }
                State::Unasked => next = next.or(Some(distance)),
                State::Failed => {}
            }
        }
        next.filter(|_| is_there || !is_waiting)
    }

    /// The nearest that a path knows and that have not failed.
    fn nearest(&self, path: usize) -> impl Iterator<Item = (Distance, &Candidate)> {
        let known = self.paths.get(path).into_iter().flatten();
        let beacons = known.filter_map(|distance| Some((*distance, self.beacons.get(distance)?)));
        beacons.filter(|(_, candidate)| candidate.state != State::Failed).take(REPLICATION)
    }

    /// It was not asked after all: there is no room for another connection.
    pub(super) fn put_back(&mut self, peer: &PeerId) {
        if let Some(candidate) = self.beacons.get_mut(&self.distance(peer))
            && matches!(candidate.state, State::Asked(..))
        {
            candidate.state = State::Unasked;
        }
    }

    /// Whether it was asked and has not answered.
    pub(super) fn is_asked(&self, peer: &PeerId) -> bool {
        let candidate = self.beacons.get(&self.distance(peer));
        candidate.is_some_and(|candidate| matches!(candidate.state, State::Asked(..)))
    }

    /// It answered, and named others.
    pub(super) fn on_answer(&mut self, peer: &PeerId, named: &[Named], now: Instant) {
        let Some(candidate) = self.beacons.get_mut(&self.distance(peer)) else { return };
        let State::Asked(path, since) = candidate.state else { return };
        candidate.state = State::Answered(path);
        self.slowest = self.slowest.max(now.saturating_duration_since(since).min(SLOWEST));
        for other in 0..PATHS {
            if other == path || self.is_idle(other) {
                self.tell(other, named);
            }
        }
    }

    /// It cannot be reached, or what it said is no answer.
    pub(super) fn on_failure(&mut self, peer: &PeerId) {
        if let Some(candidate) = self.beacons.get_mut(&self.distance(peer))
            && matches!(candidate.state, State::Asked(..))
        {
            let is_elsewhere = candidate.addresses.len() > candidate.tried;
            candidate.state = if is_elsewhere { State::Unasked } else { State::Failed };
        }
    }

    fn tell(&mut self, path: usize, named: &[Named]) {
        for (peer, addresses) in named.iter().take(REPLICATION) {
            let distance = self.distance(peer);
            let candidate = self.beacons.entry(distance).or_insert_with(|| Candidate {
                peer: *peer,
                addresses: Vec::new(),
                tried: 0,
                state: State::Unasked,
            });
            for address in addresses.iter().take(ADDRESSES_TOLD) {
                if candidate.addresses.len() < ADDRESSES && !candidate.addresses.contains(address) {
                    candidate.addresses.push(address.clone());
                }
            }
            if candidate.state == State::Failed && candidate.addresses.len() > candidate.tried {
                candidate.state = State::Unasked;
            }
            let Some(known) = self.paths.get_mut(path) else { return };
            known.insert(distance);
            if known.len() > KNOWN {
                known.pop_last();
            }
        }
    }

    /// Whether a path has asked nobody, and knows nobody whom it could ask.
    fn is_idle(&self, path: usize) -> bool {
        self.nearest(path).all(|(_, candidate)| match candidate.state {
            State::Asked(by, _) | State::Answered(by) => by != path,
            State::Unasked => false,
            State::Failed => true,
        })
    }

    fn distance(&self, peer: &PeerId) -> Distance {
        self.target.distance(&KBucketKey::from(*peer))
    }

    fn progress(&self, path: usize, now: Instant) -> Progress {
        let late = LATE.max(self.slowest * 3);
        let (mut answered, mut waiting, mut all) = (0, 0, 0);
        for (_, candidate) in self.nearest(path) {
            all += 1;
            match candidate.state {
                State::Answered(_) => answered += 1,
                State::Asked(_, since) if now.saturating_duration_since(since) >= late => {}
                _ => waiting += 1,
            }
        }
        if answered == all {
            Progress::Done
        } else if waiting == 0 && answered * 3 >= all * 2 {
            Progress::Enough
        } else {
            Progress::Going
        }
    }

    /// Whether there is nobody more to wait for.
    pub(super) fn is_done(&self, now: Instant) -> bool {
        (0..PATHS).all(|path| self.progress(path, now) == Progress::Done)
    }

    /// Whether the paths, of four but one, have come to those that they look for, and have heard most of them.
    pub(super) fn is_enough(&self, now: Instant) -> bool {
        let active: Vec<_> = (0..PATHS).filter(|path| !self.is_idle(*path)).collect();
        let going = active.iter().filter(|path| self.progress(**path, now) == Progress::Going).count();
        going == 0 || (active.len() == PATHS && going == 1)
    }

    /// The nearest that answered.
    pub(super) fn found(&self) -> Vec<Named> {
        let answered = |candidate: &&Candidate| matches!(candidate.state, State::Answered(_));
        let beacons = self.beacons.values().filter(answered);
        beacons.take(REPLICATION).map(Candidate::named).collect()
    }

    /// How many answered.
    pub(super) fn answered(&self) -> u32 {
        let answered = |candidate: &&Candidate| matches!(candidate.state, State::Answered(_));
        self.beacons.values().filter(answered).count().try_into().unwrap_or(u32::MAX)
    }
}

impl Candidate {
    fn named(&self) -> Named {
        (self.peer, self.addresses.clone())
    }
}

#[cfg(test)]
mod tests;
