//! The records of a beacon: what is taken from whom, for how long, and what gives way.
//!
//! ```text
//! kad PUT_VALUE ─► Records::offer ─► record::check ─► one a key, newer wins ─► share ─► memory ─► dirty ─► store::records
//! kad GET_VALUE ◄─ RecordStore::get ◄──────────────────────────────────────────────────────┘
//! ```
//!
//! In: records as strangers put them, and the time. Out: those that are whole, signed by the key that their place is made of,
//! and in force. They are served from memory and written behind, within seconds ([`super::writer`]); everything here is
//! public and sealed. Who put a record is kept as two numbers made with the beacon's seed, so that the disk names nobody.
//!
//! What libp2p itself would do to the store it may not: `put` and all of provider records are refused.

mod share;

#[cfg(test)]
pub(super) mod tests;

use std::borrow::Cow;
use std::collections::btree_map::Values;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::{Empty, Map};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::kad::store::{Error, RecordStore, Result as StoreResult};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use protocol::bucket::{Bucket, Rate};
use protocol::discovery::record::{self, Class, RecordError};
use protocol::identity::Secret;
use sha2::{Digest as _, Sha256};

use self::share::{Bounds, Charge, Over, Shares};
use super::group::Group;
use crate::store::records::{Change, KEY_BYTES, Kept};

/// Length of the shortest value that is taken.
const SHORTEST_VALUE_BYTES: u64 = Class::Slot.value_bytes() as u64;

/// *Chosen*: records looked at from one network, taken or not, before their signature costs anything. A full household of
/// twenty members publishes 60 at a change of slots; a lookup reads back as often as it likes.
const PUT_RATE: Rate = Rate { per_second: 20.0, burst: 400.0 };
/// *Chosen*: networks whose rate is remembered; above it, those that have not used theirs for a while are forgotten, and if
/// none is, nobody new is looked at.
const RATES_MAX: usize = 4_096;

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// For what runs out here.
    pub(crate) now: Instant,
    /// Unix time in seconds, for what others dated.
    pub(crate) wall_secs: u64,
}

/// Why a record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Refusal {
    /// The network puts too often.
    Rate,
    /// It names a publisher, which would tie it to a peer.
    Publisher,
    /// It fails what every reader checks.
    Invalid(&'static str),
    /// One at least as new is held under its key.
    Old,
    /// The writer has enough here.
    PeerFull,
    /// The network has enough here.
    GroupFull,
    /// All is full, and no network has more than the writer's.
    Full,
}

impl Refusal {
    /// The name in metrics, `[a-z_]+`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Publisher => "publisher",
            Self::Invalid(name) => name,
            Self::Old => "old",
            Self::PeerFull => "peer_full",
            Self::GroupFull => "network_full",
            Self::Full => "full",
        }
    }

    fn of(error: RecordError) -> Self {
        Self::Invalid(match error {
            RecordError::Length => "length",
            RecordError::Version => "version",
            RecordError::Key => "key",
            RecordError::Ahead => "ahead",
            RecordError::Expired => "expired",
            RecordError::Life => "life",
            RecordError::Signature => "signature",
            RecordError::Box | RecordError::Content => "content",
        })
    }
}

/// The store behind Kademlia.
#[derive(Debug)]
pub(crate) struct Records {
    held: BTreeMap<[u8; KEY_BYTES], Held>,
    shares: Shares,
    rates: BTreeMap<Group, Bucket>,
    /// Keys whose record on disk is another than here, or should be none.
    dirty: BTreeSet<[u8; KEY_BYTES]>,
    /// Makes the numbers of [`Charge`] out of peers and networks.
    salt: Secret,
}

/// One record and what is known of it.
#[derive(Debug)]
pub(crate) struct Held {
    record: Record,
    sequence: u64,
    expiry: u64,
    charge: Charge,
}

impl Records {
    /// A store that begins with what was `kept`; what has ended meanwhile is left out, and wiped from disk.
    ///
    /// `seed` is the beacon's own: it salts the names of writers.
    pub(crate) fn new(seed: &Secret, kept: Vec<([u8; KEY_BYTES], Kept)>, at: Moment) -> Self {
        Self::with_bounds(Bounds::default(), seed, kept, at)
    }

    fn with_bounds(bounds: Bounds, seed: &Secret, kept: Vec<([u8; KEY_BYTES], Kept)>, at: Moment) -> Self {
        let salt = Sha256::new_with_prefix(b"vpi beacon writers\0").chain_update(seed.0).finalize();
        let mut records = Self {
            held: BTreeMap::new(),
            shares: Shares::new(bounds),
            rates: BTreeMap::new(),
            dirty: BTreeSet::new(),
            salt: Secret(salt.into()),
        };
        for (key, kept) in kept {
            let charge = Charge { peer: kept.peer, group: kept.group, bytes: kept.value.len() as u64 };
            // A program with other bounds may have kept more.
            if kept.expiry <= at.wall_secs || !matches!(records.shares.judge(charge), Ok(go) if go.is_empty())
            {
                records.dirty.insert(key);
                continue;
            }
            let (sequence, expiry) = (kept.sequence, kept.expiry);
            records.insert(
                key,
                Held { record: record_of(key, kept.value, expiry, at), sequence, expiry, charge },
            );
        }
        records
    }

    /// Judges a record that `source` puts from an address in `group`, and keeps it if it may.
    ///
    /// A newer record for a key that is held takes the place of the one it replaces, and stays charged to whom that was.
    ///
    /// # Errors
    /// Why it is not kept; nothing has changed then.
    pub(crate) fn offer(
        &mut self,
        put: Record,
        source: PeerId,
        group: Group,
        at: Moment,
    ) -> Result<(), Refusal> {
        if !self.may_put(group, at.now) {
            return Err(Refusal::Rate);
        }
        if put.publisher.is_some() {
            return Err(Refusal::Publisher);
        }
        let checked = record::check(put.key.as_ref(), &put.value, at.wall_secs).map_err(Refusal::of)?;
        let key: [u8; KEY_BYTES] = put.key.as_ref().try_into().map_err(|_| Refusal::Invalid("key"))?;
        let bytes = put.value.len() as u64;
        let kept = self.held.get(&key).map(|held| (held.sequence, held.charge));
        let charge = match kept {
            Some((sequence, _)) if sequence >= checked.sequence => return Err(Refusal::Old),
            Some((_, charge)) if charge.bytes >= bytes => Charge { bytes, ..charge },
            _ => self.charge(source, group, bytes),
        };
        if kept.is_none_or(|(_, before)| before.bytes < bytes) {
            let go = self.shares.judge(charge).map_err(|over| match over {
                Over::Peer => Refusal::PeerFull,
                Over::Group => Refusal::GroupFull,
                Over::Total => Refusal::Full,
            })?;
            go.iter().for_each(|key| self.drop_record(key));
        }
        self.drop_record(&key);
        let record = record_of(key, put.value, checked.expiry, at);
        self.insert(key, Held { record, sequence: checked.sequence, expiry: checked.expiry, charge });
        self.dirty.insert(key);
        Ok(())
    }

    /// Forgets what has ended by the wall clock, and says how much that was; to be called every few minutes.
    pub(crate) fn sweep(&mut self, at: Moment) -> usize {
        self.rates.retain(|_, bucket| !bucket.is_full(at.now));
        let ended: Vec<_> =
            self.held.iter().filter(|(_, held)| held.expiry <= at.wall_secs).map(|(key, _)| *key).collect();
        ended.iter().for_each(|key| self.drop_record(key));
        ended.len()
    }

    /// Takes up to `most` changes that are not on disk yet.
    pub(crate) fn changes(&mut self, most: usize) -> Vec<Change> {
        let keys: Vec<_> = self.dirty.iter().take(most).copied().collect();
        keys.into_iter()
            .map(|key| {
                self.dirty.remove(&key);
                (key, self.held.get(&key).map(Held::kept))
            })
            .collect()
    }

    /// How many changes are not handed out yet.
    pub(crate) fn unwritten_count(&self) -> usize {
        self.dirty.len()
    }

    /// Has these written again: they did not reach the disk.
    pub(crate) fn unwritten(&mut self, changes: &[Change]) {
        self.dirty.extend(changes.iter().map(|(key, _)| *key));
    }

    /// Has everything written again: the disk began anew.
    pub(crate) fn all_unwritten(&mut self) {
        self.dirty = self.held.keys().copied().collect();
    }

    /// How many records are held.
    pub(crate) fn count(&self) -> usize {
        self.held.len()
    }

    /// The bytes of all values.
    pub(crate) fn bytes(&self) -> u64 {
        self.shares.total()
    }

    /// From how many networks they are.
    pub(crate) fn networks(&self) -> usize {
        self.shares.groups()
    }

    fn may_put(&mut self, group: Group, now: Instant) -> bool {
        if self.rates.len() >= RATES_MAX && !self.rates.contains_key(&group) {
            self.rates.retain(|_, bucket| !bucket.is_full(now));
            if self.rates.len() >= RATES_MAX {
                return false;
            }
        }
        self.rates.entry(group).or_insert_with(|| Bucket::new(PUT_RATE)).take(now)
    }

    fn charge(&self, source: PeerId, group: Group, bytes: u64) -> Charge {
        let number = |kind: &[u8], name: &[u8]| {
            let digest =
                Sha256::new_with_prefix(self.salt.0).chain_update(kind).chain_update(name).finalize();
            let (first, _) = digest.split_first_chunk::<8>().expect("a digest has 32 bytes");
            u64::from_be_bytes(*first)
        };
        let (peer, group) = (number(b"p", &source.to_bytes()), number(b"g", &group.to_bytes()));
        Charge { peer, group, bytes }
    }

    fn insert(&mut self, key: [u8; KEY_BYTES], held: Held) {
        self.shares.add(key, held.charge, held.expiry);
        self.held.insert(key, held);
    }

    fn drop_record(&mut self, key: &[u8; KEY_BYTES]) {
        if let Some(held) = self.held.remove(key) {
            self.shares.remove(key, held.charge, held.expiry);
            self.dirty.insert(*key);
        }
    }
}

impl Held {
    fn kept(&self) -> Kept {
        Kept {
            sequence: self.sequence,
            expiry: self.expiry,
            peer: self.charge.peer,
            group: self.charge.group,
            value: self.record.value.clone(),
        }
    }
}

/// The record as Kademlia serves it: without publisher, and for as long as its signed expiry lets it.
fn record_of(key: [u8; KEY_BYTES], value: Vec<u8>, expiry: u64, at: Moment) -> Record {
    let left = Duration::from_secs(expiry.saturating_sub(at.wall_secs));
    Record { key: RecordKey::new(&key), value, publisher: None, expires: at.now.checked_add(left) }
}

type ServedRecords<'a> = Map<Values<'a, [u8; KEY_BYTES], Held>, fn(&'a Held) -> Cow<'a, Record>>;

impl RecordStore for Records {
    type RecordsIter<'a> = ServedRecords<'a>;
    type ProvidedIter<'a> = Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        let key: [u8; KEY_BYTES] = key.as_ref().try_into().ok()?;
        self.held.get(&key).map(|held| Cow::Borrowed(&held.record))
    }

    /// Refuses: records come in by [`Records::offer`].
    fn put(&mut self, _: Record) -> StoreResult<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, key: &RecordKey) {
        if let Ok(key) = key.as_ref().try_into() {
            self.drop_record(&key);
        }
    }

    fn records(&self) -> Self::RecordsIter<'_> {
        self.held.values().map(|held| Cow::Borrowed(&held.record))
    }

    fn add_provider(&mut self, _: ProviderRecord) -> StoreResult<()> {
        Err(Error::MaxProvidedKeys)
    }

    fn providers(&self, _: &RecordKey) -> Vec<ProviderRecord> {
        Vec::new()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        std::iter::empty()
    }

    fn remove_provider(&mut self, _: &RecordKey, _: &PeerId) {}
}
