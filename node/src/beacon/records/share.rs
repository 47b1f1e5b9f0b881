//! Who takes how much of the store, and who gives way when it is full.
//!
//! Every record is charged, in bytes of its value, to the writer that put it and to that writer's network, an IPv4 /24 or an
//! IPv6 /48 ([`Group`](super::super::group::Group)); here both are numbers. Each has a bound of its own. When all is full, a
//! record comes in only from a network that has less than the one that has most, and in the place of those records of the
//! latter that end soonest. So no network can take another's place while it has no more than an equal share, however
//! much it puts.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::store::records::KEY_BYTES;

/// *Chosen*: all values together. 80,000 records of a slot; with what is kept beside each, under 140 MB of memory.
pub(super) const TOTAL_MAX_BYTES: u64 = 96 << 20;
/// *Chosen*: those of one network, a sixteenth of all; 5,000 records of a slot.
pub(super) const GROUP_MAX_BYTES: u64 = TOTAL_MAX_BYTES / 16;
/// *Chosen*: those of one writer: 400 records of a slot. A member writes three a VPI, and bulletins for those that sleep.
pub(super) const PEER_MAX_BYTES: u64 = 512 << 10;

/// The bounds of one store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// In all.
    pub(super) total: u64,
    /// One network.
    pub(super) group: u64,
    /// One writer.
    pub(super) peer: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { total: TOTAL_MAX_BYTES, group: GROUP_MAX_BYTES, peer: PEER_MAX_BYTES }
    }
}

/// What a record is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Charge {
    /// The writer.
    pub(super) peer: u64,
    /// Its network.
    pub(super) group: u64,
    /// Length of the value.
    pub(super) bytes: u64,
}

/// Which bound a record would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Its writer has enough.
    Peer,
    /// Its network has enough.
    Group,
    /// All is full, and no network has more than the writer's.
    Total,
}

/// What is charged to whom.
#[derive(Debug, Default)]
pub(super) struct Shares {
    bounds: Bounds,
    total: u64,
    peers: BTreeMap<u64, u64>,
    groups: BTreeMap<u64, Share>,
    /// The same groups, by what they have.
    by_size: BTreeSet<(u64, u64)>,
}

/// What one network has.
#[derive(Debug, Default)]
struct Share {
    bytes: u64,
    /// Its records, by their end.
    ends: BTreeSet<(u64, [u8; KEY_BYTES])>,
}

impl Shares {
    /// Nothing charged yet.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    /// The bytes of all values.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// How many networks have something here.
    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Judges whether a record that is charged so may come in. Gives the keys that must go before, most often none.
    ///
    /// # Errors
    /// The bound that forbids it; nothing has changed.
    pub(super) fn judge(&self, charge: Charge) -> Result<Vec<[u8; KEY_BYTES]>, Over> {
        let has = |held: Option<u64>| held.unwrap_or(0).saturating_add(charge.bytes);
        if has(self.peers.get(&charge.peer).copied()) > self.bounds.peer {
            return Err(Over::Peer);
        }
        let own = has(self.groups.get(&charge.group).map(|share| share.bytes));
        if own > self.bounds.group {
            return Err(Over::Group);
        }
        let excess = self.total.saturating_add(charge.bytes).saturating_sub(self.bounds.total);
        if excess == 0 {
            return Ok(Vec::new());
        }
        // All from one network: what is short is one value at most, and the greatest has at least that.
        let (bytes, group) = self.by_size.last().ok_or(Over::Total)?;
        if *group == charge.group || *bytes < own {
            return Err(Over::Total);
        }
        let ends = self.groups.get(group).map(|share| &share.ends).ok_or(Over::Total)?;
        // Every value is at least as long as the shortest there is.
        let shortest = super::SHORTEST_VALUE_BYTES;
        let count = usize::try_from(excess.div_ceil(shortest)).map_err(|_| Over::Total)?;
        Ok(ends.iter().take(count).map(|(_, key)| *key).collect())
    }

    /// Charges the record under `key`.
    pub(super) fn add(&mut self, key: [u8; KEY_BYTES], charge: Charge, expiry: u64) {
        self.total += charge.bytes;
        *self.peers.entry(charge.peer).or_default() += charge.bytes;
        let share = self.groups.entry(charge.group).or_default();
        self.by_size.remove(&(share.bytes, charge.group));
        share.bytes += charge.bytes;
        share.ends.insert((expiry, key));
        self.by_size.insert((share.bytes, charge.group));
    }

    /// Takes back what [`Shares::add`] charged.
    pub(super) fn remove(&mut self, key: &[u8; KEY_BYTES], charge: Charge, expiry: u64) {
        self.total -= charge.bytes;
        if let Entry::Occupied(mut peer) = self.peers.entry(charge.peer) {
            *peer.get_mut() -= charge.bytes;
            if *peer.get() == 0 {
                peer.remove();
            }
        }
        if let Entry::Occupied(mut group) = self.groups.entry(charge.group) {
            let share = group.get_mut();
            self.by_size.remove(&(share.bytes, charge.group));
            share.bytes -= charge.bytes;
            share.ends.remove(&(expiry, *key));
            if share.ends.is_empty() {
                group.remove();
            } else {
                self.by_size.insert((share.bytes, charge.group));
            }
        }
    }
}
