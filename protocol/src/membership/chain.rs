//! An admin's chain: what of it counts (README §11, rule 2).
//!
//! The part that counts is the prefix in which every object names the one before it. Two objects at one place, or
//! one that names another predecessor than the one here, prove a fork: allows from there on are void. Of an admin whom
//! a charter retired the cut and its ancestors count, whatever else was signed beside them.

use std::collections::{BTreeMap, BTreeSet};

use super::object::{Charter, Cut};
use crate::identity::{DeviceId, ObjectId, VpiId};

/// What is known of one admin's chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// The ids of the prefix that counts, by place.
    pub(super) prefix: Vec<ObjectId>,
    /// The first place that is void because of a fork.
    pub(super) forked_at: Option<u64>,
    /// Of a retired admin: the cut and those of its ancestors that connect to it.
    pub(super) before_cut: BTreeSet<ObjectId>,
    /// Whether objects are here that do not connect to the prefix.
    has_loose_links: bool,
}

impl Chain {
    /// The place and the predecessor of the admin's next object; `None` where making one would fork the chain,
    /// because it is forked already or because its objects are not all here.
    pub(super) fn next(&self, vpi: &VpiId) -> Option<(u64, ObjectId)> {
        if self.forked_at.is_some() || self.has_loose_links {
            return None;
        }
        Some((self.prefix.len() as u64, self.tip(vpi)))
    }

    /// Whether an object at place `seq` with this id and predecessor counts, or will once those before it are
    /// here.
    pub(super) fn may_hold(&self, vpi: &VpiId, seq: u64, id: &ObjectId, previous: &ObjectId) -> bool {
        if self.forked_at.is_some_and(|fork| seq >= fork) {
            return false;
        }
        let here = usize::try_from(seq).ok().and_then(|place| self.prefix.get(place));
        match here {
            Some(holder) => holder == id,
            None => seq > self.prefix.len() as u64 || *previous == self.tip(vpi),
        }
    }

    fn tip(&self, vpi: &VpiId) -> ObjectId {
        self.prefix.last().copied().unwrap_or(ObjectId(vpi.0))
    }
}

/// One signer's links by place: every object there, as its id and its predecessor's.
pub(super) type Places = BTreeMap<u64, BTreeMap<ObjectId, ObjectId>>;

/// The chains of the admins that `charter` names or retires, of all signers' `links`.
pub(super) fn chains<'s>(
    vpi: &VpiId,
    charter: &Charter,
    links: impl Iterator<Item = (&'s DeviceId, &'s Places)>,
) -> BTreeMap<DeviceId, Chain> {
    let chain = |(admin, places): (&DeviceId, &Places)| match charter.cut(admin) {
        Some(cut) => Some((*admin, walk_back(vpi, places, cut))),
        None => charter.admin(admin).map(|_| (*admin, walk(vpi, places))),
    };
    links.filter_map(chain).collect()
}

fn walk(vpi: &VpiId, places: &Places) -> Chain {
    let mut chain = Chain::default();
    for (seq, (place, objects)) in (0..).zip(places) {
        if *place != seq {
            chain.has_loose_links = true;
            break;
        }
        let only = objects.first_key_value().filter(|_| objects.len() == 1);
        let Some((id, previous)) = only else {
            chain.forked_at = Some(seq);
            break;
        };
        if *previous != chain.tip(vpi) {
            // Its predecessor is another than the one here, so the chain forks one place before.
            chain.forked_at = Some(seq.saturating_sub(1));
            chain.prefix.pop();
            break;
        }
        chain.prefix.push(*id);
    }
    chain
}

/// The cut and its ancestors. While one of them is missing nothing of the chain is allowed: what is here below the gap
/// may have been signed by whoever took the key.
fn walk_back(vpi: &VpiId, places: &Places, cut: &Cut) -> Chain {
    let path = path_to(places, cut);
    let is_whole = path.len() as u64 == cut.seq + 1
        && path
            .last()
            .zip(places.get(&0))
            .is_some_and(|(first, here)| here.get(first) == Some(&ObjectId(vpi.0)));
    let before_cut = path.iter().copied().collect();
    let prefix = if is_whole { path.into_iter().rev().collect() } else { Vec::new() };
    Chain { prefix, forked_at: None, before_cut, has_loose_links: !is_whole }
}

/// The cut and its ancestors as far as they connect, backwards.
pub(super) fn path_to(places: &Places, cut: &Cut) -> Vec<ObjectId> {
    let (mut path, mut wanted) = (Vec::new(), cut.id);
    for seq in (0..=cut.seq).rev() {
        let Some(previous) = places.get(&seq).and_then(|here| here.get(&wanted)) else { break };
        path.push(wanted);
        wanted = *previous;
    }
    path
}
