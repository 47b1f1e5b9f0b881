//! An admin's chain: what of it counts (README §11, rule 2).
//!
//! The part that counts is the prefix in which every object names the one before it. Two objects at one place, or
//! one that names another predecessor than the one here, prove a fork: allows from there on are void.

use std::collections::BTreeMap;

use super::object::Object;
use crate::identity::{DeviceId, ObjectId, VpiId};

/// What is known of one admin's chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// The ids of the prefix that counts, by place.
    pub(super) prefix: Vec<ObjectId>,
    /// The first place that is void because of a fork.
    pub(super) forked_at: Option<u64>,
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

/// The chains of all signers among `objects`.
pub(super) fn chains<'s>(
    vpi: &VpiId,
    objects: impl Iterator<Item = &'s Object>,
) -> BTreeMap<DeviceId, Chain> {
    let mut places: BTreeMap<DeviceId, Places> = BTreeMap::new();
    for object in objects {
        if let Some(link) = object.body().link() {
            let at_place = places.entry(link.admin).or_default().entry(link.seq).or_default();
            at_place.push((object.id(), link.previous));
        }
    }
    places.iter().map(|(admin, places)| (*admin, walk(vpi, places))).collect()
}

/// By place: every object there, as its id and its predecessor's.
type Places = BTreeMap<u64, Vec<(ObjectId, ObjectId)>>;

fn walk(vpi: &VpiId, places: &Places) -> Chain {
    let mut chain = Chain::default();
    for (seq, at_place) in (0..).zip(places) {
        let (place, objects) = at_place;
        if *place != seq {
            chain.has_loose_links = true;
            break;
        }
        match objects.as_slice() {
            [(id, previous)] if *previous == chain.tip(vpi) => chain.prefix.push(*id),
            [_] => {
                // Its predecessor is another than the one here, so the chain forks one place before.
                chain.forked_at = Some(seq.saturating_sub(1));
                chain.prefix.pop();
                break;
            }
            _ => {
                chain.forked_at = Some(seq);
                break;
            }
        }
    }
    chain
}
