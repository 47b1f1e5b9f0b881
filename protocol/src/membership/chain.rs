//! An admin's chain: what of it counts (README §11, rule 2).
//!
//! Whatever is here counts unless it is known to be forked: two objects at one place, or one that names another
//! predecessor than the one here, prove a fork, and allows from there on are void. What is missing proves nothing. Of an
//! admin whom a charter retired the cut and its ancestors count, whatever else was signed beside them.

use std::collections::{BTreeMap, BTreeSet};

use super::object::{Charter, Cut, Link};
use crate::identity::{DeviceId, ObjectId, VpiId};

/// What is known of one admin's chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// The ids of the objects that count, ascending by place, gaps or not.
    pub(super) counting: Vec<ObjectId>,
    /// How many places from 0 on are here without a gap, forked or not. Of a retired admin all up to its cut, or none.
    pub(super) complete: u64,
    /// The first place that is void because of a fork.
    pub(super) forked_at: Option<u64>,
    /// Of a retired admin: the cut and those of its ancestors that connect to it.
    pub(super) before_cut: BTreeSet<ObjectId>,
    /// The place and the predecessor of the admin's next object; `None` where making one would fork the chain, because it
    /// is forked already or because its objects are not all here.
    pub(super) next: Option<(u64, ObjectId)>,
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

/// Whether `object` at the place of `link` counts, or would if it were among `places`.
pub(super) fn would_count(vpi: &VpiId, places: &Places, link: &Link, object: &ObjectId) -> bool {
    let is_alone = places.get(&link.seq).is_none_or(|here| here.keys().all(|id| id == object));
    let next = link.seq.checked_add(1).and_then(|seq| places.get(&seq));
    let is_named = next.is_none_or(|here| here.values().all(|previous| previous == object));
    is_alone
        && is_named
        && names_one_here(vpi, places, link.seq, &link.previous)
        && fork(vpi, places).is_none_or(|fork| link.seq < fork)
}

fn walk(vpi: &VpiId, places: &Places) -> Chain {
    let forked_at = fork(vpi, places);
    let before_fork = places.iter().take_while(|(seq, _)| forked_at.is_none_or(|fork| **seq < fork));
    let counting: Vec<ObjectId> = before_fork.flat_map(|(_, here)| here.keys().copied()).collect();
    let complete = (0..).zip(places.keys()).take_while(|(seq, place)| seq == *place).count();
    let is_whole = forked_at.is_none() && complete == places.len();
    let complete = complete as u64;
    let next = is_whole.then(|| (complete, counting.last().copied().unwrap_or(ObjectId(vpi.0))));
    Chain { counting, complete, forked_at, before_cut: BTreeSet::new(), next }
}

/// The first place that is known to be forked.
fn fork(vpi: &VpiId, places: &Places) -> Option<u64> {
    // The first place that proves a fork proves the first one: a place can speak only of itself and of the one before.
    places.iter().find_map(|(seq, here)| {
        if !here.values().all(|previous| names_one_here(vpi, places, *seq, previous)) {
            return Some(seq.saturating_sub(1));
        }
        (here.len() > 1).then_some(*seq)
    })
}

/// Whether `previous` may stand one place before `seq`: it is here, or nothing is.
fn names_one_here(vpi: &VpiId, places: &Places, seq: u64, previous: &ObjectId) -> bool {
    match seq.checked_sub(1) {
        None => *previous == ObjectId(vpi.0),
        Some(before) => places.get(&before).is_none_or(|here| here.contains_key(previous)),
    }
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
    let (counting, complete) =
        if is_whole { (path.into_iter().rev().collect(), cut.seq + 1) } else { (Vec::new(), 0) };
    Chain { counting, complete, forked_at: None, before_cut, next: None }
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
