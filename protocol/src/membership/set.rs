//! The objects that a node holds, each once, within bounds.
//!
//! In go opened objects in any order; out come listings in a stable order, for the exchange and for the reducer.
//! What the bounds (bounds.rs) drop may come back by the exchange when it counts for more.

use std::collections::{BTreeMap, BTreeSet};

use super::object::{Admit, Body, Charter, Invite, Join, Kind, Object, Rekey};
use crate::identity::{DeviceId, InviteId, ObjectId, VpiId};

/// Objects of one page of a listing (chosen: their ids fit a datagram of 1,200 bytes).
pub const PAGE: usize = 32;

/// What became of an inserted object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// It is in the set; these others went for it.
    Stored {
        /// Ids of what the bounds dropped.
        dropped: Vec<ObjectId>,
    },
    /// It was in the set.
    Known,
    /// It is not in the set, and the set is as it was.
    Refused(Refusal),
}

/// Why an object is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A charter of a version above 0: this version follows the founding charter only.
    LaterCharter,
    /// A link of a chain whose signer is no admin.
    Stranger,
    /// A bound is reached by objects that stand before it.
    Bound,
}

/// A set of objects of one VPI.
#[derive(Clone, Debug)]
pub struct ObjectSet {
    vpi: VpiId,
    objects: BTreeMap<ObjectId, Object>,
    kinds: BTreeMap<Kind, BTreeSet<ObjectId>>,
    joins: BTreeMap<InviteId, BTreeSet<ObjectId>>,
    admits: BTreeMap<ObjectId, BTreeSet<ObjectId>>,
    rekeys: BTreeMap<DeviceId, BTreeSet<ObjectId>>,
    pub(super) bytes: usize,
}

impl ObjectSet {
    /// An empty set for objects of `vpi`.
    #[must_use]
    pub fn new(vpi: VpiId) -> Self {
        Self {
            vpi,
            objects: BTreeMap::new(),
            kinds: BTreeMap::new(),
            joins: BTreeMap::new(),
            admits: BTreeMap::new(),
            rekeys: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// The VPI whose objects these are.
    #[must_use]
    pub fn vpi(&self) -> &VpiId {
        &self.vpi
    }

    /// Takes `object`, which [`Object::open`] opened for this VPI, and drops what the bounds then drop.
    pub fn insert(&mut self, object: &Object) -> Insertion {
        let id = object.id();
        if self.objects.contains_key(&id) {
            return Insertion::Known;
        }
        if let Some(refusal) = self.refusal(object) {
            return Insertion::Refused(refusal);
        }
        self.add(object.clone());
        let Some(dropped) = self.excess(object) else {
            self.remove_all(&BTreeSet::from([id]));
            return Insertion::Refused(Refusal::Bound);
        };
        self.remove_all(&dropped);
        Insertion::Stored { dropped: dropped.into_iter().collect() }
    }

    /// The object with this id.
    #[must_use]
    pub fn get(&self, id: &ObjectId) -> Option<&Object> {
        self.objects.get(id)
    }

    /// All objects, ascending by id.
    pub fn iter(&self) -> impl Iterator<Item = &Object> {
        self.objects.values()
    }

    /// The objects of one kind, ascending by id.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        self.kinds.get(&kind).into_iter().flatten().filter_map(|id| self.objects.get(id))
    }

    /// The ids of one kind, ascending, page by page of [`PAGE`]; a page that is not full is the last.
    #[must_use]
    pub fn ids(&self, kind: Kind, page: usize) -> Vec<ObjectId> {
        let ids = self.kinds.get(&kind).into_iter().flatten().copied();
        ids.skip(page.saturating_mul(PAGE)).take(PAGE).collect()
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The charter in force.
    pub fn charter(&self) -> Option<(&Object, &Charter)> {
        self.of_kind(Kind::Charter).find_map(|object| match object.body() {
            Body::Charter(charter) => Some((object, charter)),
            _ => None,
        })
    }

    /// Every Invite.
    pub fn invites(&self) -> impl Iterator<Item = (&Object, &Invite)> {
        self.of_kind(Kind::Invite).filter_map(|object| match object.body() {
            Body::Invite(invite) => Some((object, invite)),
            _ => None,
        })
    }

    /// The Joins by one invite, ascending by id.
    pub fn joins_by<'s>(
        &'s self,
        invite: &InviteId,
    ) -> impl Iterator<Item = (&'s Object, &'s Join)> + use<'s> {
        self.listed(self.joins.get(invite)).filter_map(|object| match object.body() {
            Body::Join(join) => Some((object, join)),
            _ => None,
        })
    }

    /// The Admits of one Join, ascending by id.
    pub fn admits_of<'s>(
        &'s self,
        join: &ObjectId,
    ) -> impl Iterator<Item = (&'s Object, &'s Admit)> + use<'s> {
        self.listed(self.admits.get(join)).filter_map(|object| match object.body() {
            Body::Admit(admit) => Some((object, admit)),
            _ => None,
        })
    }

    /// The Rekeys of one device, the one in force first.
    pub fn rekeys_of(&self, device: &DeviceId) -> Vec<(&Object, &Rekey)> {
        let mut rekeys: Vec<_> = self
            .listed(self.rekeys.get(device))
            .filter_map(|object| match object.body() {
                Body::Rekey(rekey) => Some((object, rekey)),
                _ => None,
            })
            .collect();
        // Highest counter; of equal ones the former.
        rekeys.sort_by_key(|(object, rekey)| (u64::MAX - rekey.counter, rekey.time, object.id()));
        rekeys
    }

    fn listed<'s>(&'s self, ids: Option<&'s BTreeSet<ObjectId>>) -> impl Iterator<Item = &'s Object> {
        ids.into_iter().flatten().filter_map(|id| self.objects.get(id))
    }

    fn add(&mut self, object: Object) {
        let id = object.id();
        self.bytes += object.bytes().len();
        self.kinds.entry(object.kind()).or_default().insert(id);
        match object.body() {
            Body::Join(join) => drop(self.joins.entry(join.invite_id).or_default().insert(id)),
            Body::Admit(admit) => drop(self.admits.entry(admit.join_id).or_default().insert(id)),
            Body::Rekey(rekey) => drop(self.rekeys.entry(rekey.device).or_default().insert(id)),
            Body::Charter(_) | Body::Invite(_) | Body::Epoch(_) => {}
        }
        self.objects.insert(id, object);
    }

    fn remove_all(&mut self, ids: &BTreeSet<ObjectId>) {
        for id in ids {
            let Some(object) = self.objects.remove(id) else { continue };
            self.bytes -= object.bytes().len();
            take_out(&mut self.kinds, &object.kind(), id);
            match object.body() {
                Body::Join(join) => take_out(&mut self.joins, &join.invite_id, id),
                Body::Admit(admit) => take_out(&mut self.admits, &admit.join_id, id),
                Body::Rekey(rekey) => take_out(&mut self.rekeys, &rekey.device, id),
                Body::Charter(_) | Body::Invite(_) | Body::Epoch(_) => {}
            }
        }
    }
}

fn take_out<K: Ord>(index: &mut BTreeMap<K, BTreeSet<ObjectId>>, key: &K, id: &ObjectId) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}
