//! The objects that a node holds, each once, within bounds.
//!
//! In go opened objects in any order; out come listings in a stable order, for the exchange and for the reducer. Who
//! belongs is found when it is asked for, so that many objects in a row cost one run of the reducer.
//! What the bounds (bounds.rs) drop may come back by the exchange when it counts for more.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use super::chain::Places;
use super::charters;
use super::object::{Admit, Body, Charter, Invite, Join, Kind, Lease, Link, Object, Presence, Rekey, Remove};
use super::reducer::reduce;
use super::standing::Membership;
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
    /// A charter that does not validly succeed the one it names.
    NotByRoots,
    /// A link of a chain, or a lease, by a device that may sign none.
    Stranger,
    /// A Join that no invite with its id permits.
    Unfit,
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
    /// Joins, Rekeys, Presences, Leases and departures, by the device that they are about.
    by_device: BTreeMap<(Kind, DeviceId), BTreeSet<ObjectId>>,
    links: BTreeMap<DeviceId, Links>,
    /// The charters from version 0 to the one in force.
    line: Vec<ObjectId>,
    pub(super) bytes: usize,
    membership: OnceCell<Membership>,
}

/// One signer's links.
#[derive(Clone, Debug, Default)]
pub(super) struct Links {
    pub(super) places: Places,
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
            by_device: BTreeMap::new(),
            links: BTreeMap::new(),
            line: Vec::new(),
            bytes: 0,
            membership: OnceCell::new(),
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
        if self.must_choose(object) {
            let _ = self.membership();
        }
        // A bound is judged by who belonged before, so that a flood of what is refused costs no run of the reducer.
        let before = self.membership.take();
        self.add(object.clone());
        let Some(dropped) = self.excess(object, before.as_ref()) else {
            self.remove_all(&BTreeSet::from([id]));
            self.membership = before.map_or_else(OnceCell::new, OnceCell::from);
            return Insertion::Refused(Refusal::Bound);
        };
        let is_neutral = object.kind() == Kind::Presence && dropped.iter().all(|id| self.is_presence(id));
        self.remove_all(&dropped);
        if is_neutral {
            self.membership = before.map_or_else(OnceCell::new, OnceCell::from);
        }
        Insertion::Stored { dropped: dropped.into_iter().collect() }
    }

    /// Who belongs, as [`reduce`] finds it; found once for as long as the set stays as it is.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        self.membership.get_or_init(|| reduce(self))
    }

    fn is_presence(&self, id: &ObjectId) -> bool {
        self.get(id).is_some_and(|object| object.kind() == Kind::Presence)
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

    /// Bytes of all envelopes together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The charter in force.
    pub fn charter(&self) -> Option<(&Object, &Charter)> {
        self.charters().last()
    }

    /// The charters from version 0 to the one in force.
    pub(super) fn charters(&self) -> impl DoubleEndedIterator<Item = (&Object, &Charter)> {
        let objects = self.line.iter().filter_map(|id| self.objects.get(id));
        objects.filter_map(charters::with_charter)
    }

    /// The versions of which the roots signed more than one charter that could stand.
    pub(super) fn rival_charters(&self) -> impl Iterator<Item = u64> {
        let all = || self.of_kind(Kind::Charter).filter_map(charters::with_charter);
        self.charters().zip(self.charters().skip(1)).filter_map(move |((id, previous), (best, _))| {
            let is_rival = |(object, charter): &(&Object, &Charter)| {
                charter.previous == Some(id.id())
                    && *object != best
                    && charters::rank(previous, object, charter).is_some()
            };
            all().find(is_rival).map(|(_, charter)| charter.version)
        })
    }

    /// Every Remove, departures included.
    pub(super) fn removes(&self) -> impl Iterator<Item = (&Object, &Remove)> {
        self.of_kind(Kind::Remove).filter_map(|object| match object.body() {
            Body::Remove(remove) => Some((object, remove)),
            _ => None,
        })
    }

    /// The links of every signer.
    pub(super) fn links(&self) -> impl Iterator<Item = (&DeviceId, &Places)> {
        self.links.iter().map(|(admin, links)| (admin, &links.places))
    }

    /// The links of one signer.
    pub(super) fn links_by(&self, admin: &DeviceId) -> Option<&Links> {
        self.links.get(admin)
    }

    /// Whether something of this device's chain is here.
    #[must_use]
    pub fn has_links_by(&self, device: &DeviceId) -> bool {
        self.links.contains_key(device)
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

    /// The Joins of one device, ascending by id.
    pub fn joins_of<'s>(
        &'s self,
        device: &DeviceId,
    ) -> impl Iterator<Item = (&'s Object, &'s Join)> + use<'s> {
        self.of_device(Kind::Join, device).filter_map(|object| match object.body() {
            Body::Join(join) => Some((object, join)),
            _ => None,
        })
    }

    /// The Rekeys of one device, the one in force first.
    pub fn rekeys_of(&self, device: &DeviceId) -> Vec<(&Object, &Rekey)> {
        let mut rekeys: Vec<_> = self
            .of_device(Kind::Rekey, device)
            .filter_map(|object| match object.body() {
                Body::Rekey(rekey) => Some((object, rekey)),
                _ => None,
            })
            .collect();
        // Highest counter; of equal ones the former.
        rekeys.sort_by_key(|(object, rekey)| (u64::MAX - rekey.counter, rekey.time, object.id()));
        rekeys
    }

    /// The newest Presence of one device.
    #[must_use]
    pub fn presence_of(&self, device: &DeviceId) -> Option<(&Object, &Presence)> {
        self.of_device(Kind::Presence, device).find_map(|object| match object.body() {
            Body::Presence(presence) => Some((object, presence)),
            _ => None,
        })
    }

    /// The newest Lease of one device.
    pub(super) fn lease_of(&self, device: &DeviceId) -> Option<&Lease> {
        self.of_device(Kind::Lease, device).find_map(|object| match object.body() {
            Body::Lease(lease) => Some(lease),
            _ => None,
        })
    }

    /// The objects of one kind that one device signed about itself or a Lease is for, ascending by id.
    pub(super) fn of_device<'s>(
        &'s self,
        kind: Kind,
        device: &DeviceId,
    ) -> impl Iterator<Item = &'s Object> + use<'s> {
        self.listed(self.by_device.get(&(kind, *device)))
    }

    fn listed<'s>(&'s self, ids: Option<&'s BTreeSet<ObjectId>>) -> impl Iterator<Item = &'s Object> {
        ids.into_iter().flatten().filter_map(|id| self.objects.get(id))
    }

    fn add(&mut self, object: Object) {
        let id = object.id();
        self.membership.take();
        self.bytes += object.bytes().len();
        self.kinds.entry(object.kind()).or_default().insert(id);
        match object.body() {
            Body::Join(join) => drop(self.joins.entry(join.invite_id).or_default().insert(id)),
            Body::Admit(admit) => drop(self.admits.entry(admit.join_id).or_default().insert(id)),
            _ => {}
        }
        if let Some(device) = about(object.body()) {
            self.by_device.entry((object.kind(), device)).or_default().insert(id);
        }
        if let Some(link) = object.body().link() {
            let links = self.links.entry(link.admin).or_default();
            links.places.entry(link.seq).or_default().insert(id, link.previous);
            links.bytes += object.bytes().len();
        }
        let is_charter = object.kind() == Kind::Charter;
        self.objects.insert(id, object);
        if is_charter {
            self.draw_line();
        }
    }

    fn remove_all(&mut self, ids: &BTreeSet<ObjectId>) {
        for id in ids {
            let Some(object) = self.objects.remove(id) else { continue };
            self.membership.take();
            self.bytes -= object.bytes().len();
            take_out(&mut self.kinds, &object.kind(), id);
            match object.body() {
                Body::Join(join) => take_out(&mut self.joins, &join.invite_id, id),
                Body::Admit(admit) => take_out(&mut self.admits, &admit.join_id, id),
                _ => {}
            }
            if let Some(device) = about(object.body()) {
                take_out(&mut self.by_device, &(object.kind(), device), id);
            }
            if let Some(link) = object.body().link() {
                self.take_out_link(&object, &link);
            }
            if object.kind() == Kind::Charter {
                self.draw_line();
            }
        }
    }

    fn take_out_link(&mut self, object: &Object, link: &Link) {
        let Some(links) = self.links.get_mut(&link.admin) else { return };
        links.bytes -= object.bytes().len();
        if let Some(place) = links.places.get_mut(&link.seq) {
            place.remove(&object.id());
            if place.is_empty() {
                links.places.remove(&link.seq);
            }
        }
        if links.places.is_empty() {
            self.links.remove(&link.admin);
        }
    }

    fn draw_line(&mut self) {
        let line = charters::in_force(self.of_kind(Kind::Charter)).into_iter().map(Object::id).collect();
        self.line = line;
    }
}

/// The device by which an object is found beside its id.
fn about(body: &Body) -> Option<DeviceId> {
    match body {
        Body::Join(join) => Some(join.device),
        Body::Rekey(rekey) => Some(rekey.device),
        Body::Presence(presence) => Some(presence.device),
        Body::Lease(lease) => Some(lease.device),
        Body::Remove(remove) => remove.is_leave().then_some(remove.signer),
        Body::Charter(_) | Body::Invite(_) | Body::Admit(_) | Body::Epoch(_) | Body::Confirm(_) => None,
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
