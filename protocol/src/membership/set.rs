//! The objects that a node holds, each once, within bounds.
//!
//! In go opened objects in any order; out come listings in a stable order, for the exchange and for the reducer.
//! Bounds are those of MEMBERSHIP "Reducer" 6, and one on the whole in bytes. Where a bound forces a choice among
//! Admits or Joins, what members vouch for stands before what anybody could have signed. What was dropped may
//! come back by the exchange when it counts for more.

use std::collections::{BTreeMap, BTreeSet};

use super::object::{Admit, Body, Charter, Invite, Join, Kind, Object, Rekey};
use super::reducer::reduce;
use super::standing::Membership;
use crate::identity::{DeviceId, InviteId, ObjectId, VpiId};

/// Joins kept of one invite beyond its uses (specified: MEMBERSHIP, "Reducer" 6).
pub const SPARE_JOINS: usize = 8;

/// Admits kept of one join (specified: MEMBERSHIP, "Reducer" 6).
pub const MAX_ADMITS: usize = 3;

/// Rekeys kept of one device: the one in force, and one more that proves a conflict (chosen).
pub const MAX_REKEYS: usize = 2;

/// Bytes of all envelopes together (chosen: 4,096 members with Join, 3 Admits and 2 Rekeys are 6 MiB).
pub const MAX_SET_BYTES: usize = 32 << 20;

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
    bytes: usize,
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
    pub fn insert(&mut self, object: Object) -> Insertion {
        let id = object.id();
        if self.objects.contains_key(&id) {
            return Insertion::Known;
        }
        if let Some(refusal) = self.refusal(&object) {
            return Insertion::Refused(refusal);
        }
        let Some(mut dropped) = self.room_for(object.bytes().len()) else {
            return Insertion::Refused(Refusal::Bound);
        };
        self.remove_all(&dropped);
        self.add(object.clone());
        let excess = self.excess(&object);
        self.remove_all(&excess);
        if excess.contains(&id) {
            return Insertion::Refused(Refusal::Bound);
        }
        dropped.extend(excess);
        Insertion::Stored { dropped }
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
    pub(super) fn charter(&self) -> Option<(&Object, &Charter)> {
        self.of_kind(Kind::Charter).find_map(|object| match object.body() {
            Body::Charter(charter) => Some((object, charter)),
            _ => None,
        })
    }

    /// Every Invite.
    pub(super) fn invites(&self) -> impl Iterator<Item = (&Object, &Invite)> {
        self.of_kind(Kind::Invite).filter_map(|object| match object.body() {
            Body::Invite(invite) => Some((object, invite)),
            _ => None,
        })
    }

    /// The Joins by one invite, ascending by id.
    pub(super) fn joins_by<'s>(
        &'s self,
        invite: &InviteId,
    ) -> impl Iterator<Item = (&'s Object, &'s Join)> + use<'s> {
        self.listed(self.joins.get(invite)).filter_map(|object| match object.body() {
            Body::Join(join) => Some((object, join)),
            _ => None,
        })
    }

    /// The Admits of one Join, ascending by id.
    pub(super) fn admits_of<'s>(
        &'s self,
        join: &ObjectId,
    ) -> impl Iterator<Item = (&'s Object, &'s Admit)> + use<'s> {
        self.listed(self.admits.get(join)).filter_map(|object| match object.body() {
            Body::Admit(admit) => Some((object, admit)),
            _ => None,
        })
    }

    /// The Rekeys of one device, the one in force first.
    pub(super) fn rekeys_of(&self, device: &DeviceId) -> Vec<(&Object, &Rekey)> {
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

    fn refusal(&self, object: &Object) -> Option<Refusal> {
        match object.body() {
            Body::Charter(charter) if charter.version > 0 => Some(Refusal::LaterCharter),
            body => {
                let (link, (_, charter)) = (body.link()?, self.charter()?);
                charter.admin(&link.admin).is_none().then_some(Refusal::Stranger)
            }
        }
    }

    /// What must go so that `bytes` more fit the whole; `None` when that is not enough.
    fn room_for(&self, bytes: usize) -> Option<Vec<ObjectId>> {
        if self.bytes + bytes <= MAX_SET_BYTES {
            return Some(Vec::new());
        }
        let unattached = self.unattached();
        let freed: usize =
            self.iter().filter(|o| unattached.contains(&o.id())).map(|o| o.bytes().len()).sum();
        (self.bytes - freed + bytes <= MAX_SET_BYTES).then(|| unattached.into_iter().collect())
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

    fn remove_all(&mut self, ids: &[ObjectId]) {
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

    /// What the bounds drop because `object` came.
    fn excess(&self, object: &Object) -> Vec<ObjectId> {
        match object.body() {
            Body::Charter(charter) => self.links_of_strangers(charter),
            Body::Invite(invite) => self.excess_joins(&invite.invite_id),
            Body::Join(join) => self.excess_joins(&join.invite_id),
            Body::Admit(admit) => self.excess_admits(&admit.join_id),
            Body::Rekey(rekey) => {
                self.rekeys_of(&rekey.device).iter().skip(MAX_REKEYS).map(|(object, _)| object.id()).collect()
            }
            Body::Epoch(_) => Vec::new(),
        }
    }

    fn links_of_strangers(&self, charter: &Charter) -> Vec<ObjectId> {
        let is_stranger =
            |object: &&Object| object.body().link().is_some_and(|link| charter.admin(&link.admin).is_none());
        self.iter().filter(is_stranger).map(Object::id).collect()
    }

    /// Joins beyond the invite's uses and [`SPARE_JOINS`]; none while the invite is not here to say.
    fn excess_joins(&self, invite: &InviteId) -> Vec<ObjectId> {
        let uses =
            self.invites().filter(|(_, body)| body.invite_id == *invite).map(|(_, body)| body.max_uses).max();
        let Some(uses) = uses.and_then(|uses| usize::try_from(uses).ok()) else { return Vec::new() };
        if self.joins_by(invite).count() <= uses + SPARE_JOINS {
            return Vec::new();
        }
        let membership = reduce(self);
        let mut joins: Vec<_> = self
            .joins_by(invite)
            .map(|(object, _)| (self.vouched_at(&membership, &object.id()), object.id()))
            .collect();
        joins.sort_unstable();
        joins.into_iter().skip(uses + SPARE_JOINS).map(|(_, id)| id).collect()
    }

    fn excess_admits(&self, join: &ObjectId) -> Vec<ObjectId> {
        if self.admits_of(join).count() <= MAX_ADMITS {
            return Vec::new();
        }
        let membership = reduce(self);
        let mut admits: Vec<_> = self
            .admits_of(join)
            .map(|(object, admit)| (membership.member(&admit.witness).is_none(), admit.time, object.id()))
            .collect();
        admits.sort_unstable();
        admits.into_iter().skip(MAX_ADMITS).map(|(_, _, id)| id).collect()
    }

    /// The earliest time at which a member says to have admitted `join`.
    fn vouched_at(&self, membership: &Membership, join: &ObjectId) -> u64 {
        let by_members =
            self.admits_of(join).filter(|(_, admit)| membership.member(&admit.witness).is_some());
        by_members.map(|(_, admit)| admit.time).min().unwrap_or(u64::MAX)
    }

    /// What hangs on nothing that is here: Joins without Invite, Admits without Join, Rekeys of nobody.
    fn unattached(&self) -> BTreeSet<ObjectId> {
        let invites: BTreeSet<_> = self.invites().map(|(_, invite)| invite.invite_id).collect();
        let mut devices: BTreeSet<_> = self
            .charter()
            .map(|(_, charter)| charter.admins.iter().map(|admin| admin.device).collect())
            .unwrap_or_default();
        let mut joins = BTreeSet::new();
        for object in self.of_kind(Kind::Join) {
            if let Body::Join(join) = object.body()
                && invites.contains(&join.invite_id)
            {
                devices.insert(join.device);
                joins.insert(object.id());
            }
        }
        let is_unattached = |object: &&Object| match object.body() {
            Body::Join(_) => !joins.contains(&object.id()),
            Body::Admit(admit) => !joins.contains(&admit.join_id),
            Body::Rekey(rekey) => !devices.contains(&rekey.device),
            Body::Charter(_) | Body::Invite(_) | Body::Epoch(_) => false,
        };
        self.iter().filter(is_unattached).map(Object::id).collect()
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
