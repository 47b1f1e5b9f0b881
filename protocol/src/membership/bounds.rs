//! What keeps a set of objects small: whom it takes nothing from, and what goes when there is too much.
//!
//! Bounds are those of README §15, and one on the whole in bytes. Where a bound forces a choice among
//! Admits or Joins, what members vouch for stands before what anybody could have signed; finding that takes a run
//! of the reducer, which only an object beyond a bound causes.

use std::collections::{BTreeMap, BTreeSet};

use super::chain::path_to;
use super::charters::{rank, with_charter};
use super::object::{Admit, Body, Capabilities, Charter, Join, Kind, Link, Object};
use super::reducer::reduce;
use super::rounds::fits;
use super::set::{ObjectSet, Refusal};
use super::standing::Membership;
use crate::identity::{DeviceId, InviteId, ObjectId};

/// What an object hangs on that is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// An Invite with this id.
    Invite(InviteId),
    /// This Join.
    Join(ObjectId),
    /// A Join of this device that an invite permits, or a charter that names it an admin.
    Device(DeviceId),
}

/// Joins kept of one invite beyond its uses (specified: README §15).
pub const SPARE_JOINS: usize = 8;

/// Admits kept of one join (specified: README §15).
pub const MAX_ADMITS: usize = 3;

/// Rekeys kept of one device: the one in force, and one more that proves a conflict (chosen).
pub const MAX_REKEYS: usize = 2;

/// Charters kept beside each one in force that could stand in its place (chosen: one proves that the roots disagree).
const MAX_RIVALS: usize = 1;

/// Charters kept that follow nothing which counts, for what they follow may still come (chosen: more than roots sign
/// in a day; whoever signs junk costs others one more exchange for each charter, for the next one is always taken).
pub const MAX_LOOSE_CHARTERS: usize = 8;

/// Links kept at one place of a chain, Removes apart (chosen: two prove a fork). Who came first stays: what an admin
/// signed before its key was stolen must not give way to what the thief signs.
const MAX_AT_PLACE: usize = 2;

/// Departures kept of devices that no invite here let ask (chosen: what comes before the Join it belongs to; anybody with a
/// key can make one, and a later exchange brings back what was refused).
const MAX_LOOSE_DEPARTURES: usize = 256;

/// Bytes of one admin's chain (chosen: an invite, a removal and an epoch for each of 4,096 members are 4 MiB).
/// Removes stand before all else in it.
pub const MAX_CHAIN_BYTES: usize = 8 << 20;

/// Bytes of all envelopes together (chosen: 4,096 members with Join, 3 Admits, 2 Rekeys, Presence and Lease are
/// 10 MiB). A charter or an admin's Remove is taken beyond it, within its own bound.
pub const MAX_SET_BYTES: usize = 32 << 20;

impl ObjectSet {
    /// Why nothing of the kind of `object` by its signer is taken, if so.
    pub(super) fn refusal(&self, object: &Object) -> Option<Refusal> {
        if let Some((_, charter)) = with_charter(object) {
            let previous = charter.previous.and_then(|id| self.get(&id)).and_then(with_charter);
            let is_forged = previous.is_some_and(|(_, previous)| rank(previous, object, charter).is_none());
            return is_forged.then_some(Refusal::NotByRoots);
        }
        if let Body::Join(join) = object.body()
            && self.is_unfit(join)
        {
            return Some(Refusal::Unfit);
        }
        if let Body::Remove(remove) = object.body()
            && remove.is_leave()
            && !self.has_asked(&remove.signer)
            && self.loose_departures() >= MAX_LOOSE_DEPARTURES
        {
            return Some(Refusal::Bound);
        }
        let (_, charter) = self.charter()?;
        is_strange(charter, object).then_some(Refusal::Stranger)
    }

    /// What `object` hangs on that is not here: until it is, `object` says nothing, and anybody could have made it.
    #[must_use]
    pub fn missing_for(&self, object: &Object) -> Option<Missing> {
        let of_device = |device: &DeviceId| {
            let is_admin = self.charter().is_some_and(|(_, charter)| charter.admin(device).is_some());
            (!is_admin && !self.has_asked(device)).then_some(Missing::Device(*device))
        };
        match object.body() {
            Body::Join(join) => {
                let is_here = self.invites().any(|(_, invite)| invite.invite_id == join.invite_id);
                (!is_here).then_some(Missing::Invite(join.invite_id))
            }
            Body::Admit(admit) => self.get(&admit.join_id).is_none().then_some(Missing::Join(admit.join_id)),
            Body::Rekey(rekey) => of_device(&rekey.device),
            Body::Presence(presence) => of_device(&presence.device),
            Body::Lease(lease) => of_device(&lease.device),
            // Departures have a bound of their own: an exchange brings them before Joins.
            Body::Charter(_) | Body::Invite(_) | Body::Remove(_) | Body::Epoch(_) | Body::Confirm(_) => None,
        }
    }

    /// Whether no invite of those here with its id permits `join`, and one is here: whoever knows the id could have made it.
    fn is_unfit(&self, join: &Join) -> bool {
        let mut invites = self.invites().filter(|(_, invite)| invite.invite_id == join.invite_id).peekable();
        invites.peek().is_some() && !invites.any(|(_, invite)| fits(invite, join))
    }

    /// Whether a Join by `device` is here that an invite here permits.
    fn has_asked(&self, device: &DeviceId) -> bool {
        let permits = |join: &Join| self.invites().any(|(_, invite)| fits(invite, join));
        self.joins_of(device).any(|(_, join)| permits(join))
    }

    fn loose_departures(&self) -> usize {
        let is_loose = |object: &&Object| match object.body() {
            Body::Remove(remove) => remove.is_leave() && !self.has_asked(&remove.signer),
            _ => false,
        };
        self.of_kind(Kind::Remove).filter(is_loose).take(MAX_LOOSE_DEPARTURES).count()
    }

    /// Whether taking `object` makes a bound choose by who belongs.
    pub(super) fn must_choose(&self, object: &Object) -> bool {
        match object.body() {
            Body::Admit(admit) => self.admits_of(&admit.join_id).count() >= MAX_ADMITS,
            Body::Join(join) => self
                .join_room(&join.invite_id)
                .is_some_and(|room| self.joins_by(&join.invite_id).count() >= room),
            _ => false,
        }
    }

    /// What the bounds drop because `object` was just added; `None` when it is `object` itself that must go. `before`
    /// is who belonged without it, if that was asked for.
    pub(super) fn excess(&self, object: &Object, before: Option<&Membership>) -> Option<BTreeSet<ObjectId>> {
        let mut excess: BTreeSet<_> = self.excess_of_its_like(object, before).into_iter().collect();
        let is_urgent = match object.body() {
            Body::Charter(_) => true,
            Body::Remove(remove) => !remove.is_leave(),
            _ => false,
        };
        if self.bytes - self.bytes_of(&excess) > MAX_SET_BYTES {
            excess.extend(self.unattached().into_iter().filter(|id| *id != object.id()));
        }
        let fits = is_urgent || self.bytes - self.bytes_of(&excess) <= MAX_SET_BYTES;
        (fits && !excess.contains(&object.id())).then_some(excess)
    }

    fn bytes_of(&self, ids: &BTreeSet<ObjectId>) -> usize {
        ids.iter().filter_map(|id| self.get(id)).map(|object| object.bytes().len()).sum()
    }

    /// What goes for being beyond a bound on objects that belong together.
    fn excess_of_its_like(&self, object: &Object, before: Option<&Membership>) -> Vec<ObjectId> {
        let after = || if before.is_some() { None } else { Some(reduce(self)) };
        match object.body() {
            Body::Charter(_) => self.excess_charters().into_iter().chain(self.of_strangers()).collect(),
            Body::Invite(invite) => {
                let mut excess = self.excess_links(object);
                let unfit = self.joins_by(&invite.invite_id).filter(|(_, join)| self.is_unfit(join));
                excess.extend(unfit.map(|(object, _)| object.id()));
                // Which of its joins fit, only the invite itself says.
                if self
                    .join_room(&invite.invite_id)
                    .is_some_and(|room| self.joins_by(&invite.invite_id).count() > room)
                {
                    excess.extend(self.excess_joins(&invite.invite_id, &reduce(self)));
                }
                excess
            }
            Body::Join(join) => {
                let room = self.join_room(&join.invite_id);
                if room.is_none_or(|room| self.joins_by(&join.invite_id).count() <= room) {
                    return Vec::new();
                }
                let after = after();
                before
                    .or(after.as_ref())
                    .map(|known| self.excess_joins(&join.invite_id, known))
                    .unwrap_or_default()
            }
            Body::Admit(admit) => {
                if self.admits_of(&admit.join_id).count() <= MAX_ADMITS {
                    return Vec::new();
                }
                let after = after();
                before
                    .or(after.as_ref())
                    .map(|known| self.excess_admits(&admit.join_id, known))
                    .unwrap_or_default()
            }
            Body::Remove(remove) if remove.is_leave() => {
                self.all_but_first(object, &remove.signer, |body| (0, body.time()))
            }
            Body::Remove(_) | Body::Epoch(_) | Body::Confirm(_) => self.excess_links(object),
            Body::Rekey(rekey) => {
                self.rekeys_of(&rekey.device).iter().skip(MAX_REKEYS).map(|(object, _)| object.id()).collect()
            }
            Body::Presence(presence) => self.all_but_first(object, &presence.device, newest),
            Body::Lease(lease) => self.all_but_first(object, &lease.device, newest),
        }
    }

    /// Of the objects of the kind of `object` about `device`, all but the one that stands first by (`order`, id).
    fn all_but_first(
        &self,
        object: &Object,
        device: &DeviceId,
        order: impl Fn(&Body) -> (u64, u64),
    ) -> Vec<ObjectId> {
        let like = self.of_device(object.kind(), device);
        let mut like: Vec<_> = like.map(|object| (order(object.body()), object.id())).collect();
        like.sort_unstable();
        like.into_iter().skip(1).map(|(_, id)| id).collect()
    }

    /// Charters beyond [`MAX_RIVALS`] and [`MAX_LOOSE_CHARTERS`]: of rivals the best stay, of loose ones the lowest
    /// versions, whose predecessors come first.
    fn excess_charters(&self) -> Vec<ObjectId> {
        let line: BTreeMap<ObjectId, &Charter> =
            self.charters().map(|(object, charter)| (object.id(), charter)).collect();
        let mut rivals: BTreeMap<ObjectId, Vec<_>> = BTreeMap::new();
        let mut loose = Vec::new();
        for (object, charter) in self.of_kind(Kind::Charter).filter_map(with_charter) {
            if line.contains_key(&object.id()) {
                continue;
            }
            match charter.previous.and_then(|id| Some((id, *line.get(&id)?))) {
                Some((id, previous)) => {
                    rivals.entry(id).or_default().push((rank(previous, object, charter), object.id()));
                }
                None => loose.push((charter.version, object.id())),
            }
        }
        loose.sort_unstable();
        let mut excess: Vec<_> = loose.into_iter().skip(MAX_LOOSE_CHARTERS).map(|(_, id)| id).collect();
        for mut ranked in rivals.into_values() {
            ranked.sort_unstable();
            excess.extend(
                ranked
                    .into_iter()
                    .rev()
                    .enumerate()
                    .filter_map(|(place, (rank, id))| (place >= MAX_RIVALS || rank.is_none()).then_some(id)),
            );
        }
        excess
    }

    /// Links and leases by devices that may sign none under the charter in force.
    fn of_strangers(&self) -> Vec<ObjectId> {
        let Some((_, charter)) = self.charter() else { return Vec::new() };
        self.iter().filter(|object| is_strange(charter, object)).map(Object::id).collect()
    }

    /// Links beyond [`MAX_AT_PLACE`] at the place of `object`, and beyond [`MAX_CHAIN_BYTES`] in its chain.
    fn excess_links(&self, object: &Object) -> Vec<ObjectId> {
        let Some(link) = object.body().link() else { return Vec::new() };
        let Some(links) = self.links_by(&link.admin) else { return Vec::new() };
        if object.kind() != Kind::Remove
            && let Some(crowd) = self.crowd_at(&link, object)
        {
            return crowd;
        }
        if links.bytes <= MAX_CHAIN_BYTES {
            return Vec::new();
        }
        let ids = links.places.iter().flat_map(|(seq, here)| here.keys().map(move |id| (*seq, *id)));
        let sized = ids.filter_map(|(seq, id)| self.get(&id).map(|object| (seq, object)));
        let mut order: Vec<_> = sized
            .map(|(seq, object)| ((object.kind() != Kind::Remove, seq, object.id()), object.bytes().len()))
            .collect();
        order.sort_unstable();
        let mut left = links.bytes;
        let mut excess = Vec::new();
        while left > MAX_CHAIN_BYTES
            && let Some(((_, _, id), bytes)) = order.pop()
        {
            left -= bytes;
            excess.push(id);
        }
        excess
    }

    /// What goes because `object` is one too many at its place: `object`, unless it leads to the cut of a retired admin
    /// and another does not.
    fn crowd_at(&self, link: &Link, object: &Object) -> Option<Vec<ObjectId>> {
        let places = &self.links_by(&link.admin)?.places;
        let is_crowding = |id: &&ObjectId| self.get(id).is_some_and(|object| object.kind() != Kind::Remove);
        let here: Vec<ObjectId> = places.get(&link.seq)?.keys().filter(is_crowding).copied().collect();
        if here.len() <= MAX_AT_PLACE {
            return None;
        }
        let path = self.charter()?.1.cut(&link.admin).map(|cut| path_to(places, cut)).unwrap_or_default();
        let gives_way = |id: &&ObjectId| **id != object.id() && !path.contains(id);
        let goes = match here.iter().find(gives_way) {
            Some(other) if path.contains(&object.id()) => *other,
            _ => object.id(),
        };
        Some(vec![goes])
    }

    /// How many joins are kept of an invite; `None` while it is not here to say.
    fn join_room(&self, invite: &InviteId) -> Option<usize> {
        let uses = self
            .invites()
            .filter(|(_, body)| body.invite_id == *invite)
            .map(|(_, body)| body.max_uses)
            .max()?;
        Some(usize::try_from(uses).ok()?.saturating_add(SPARE_JOINS))
    }

    /// Joins beyond the invite's uses and [`SPARE_JOINS`].
    fn excess_joins(&self, invite: &InviteId, known: &Membership) -> Vec<ObjectId> {
        let Some(room) = self.join_room(invite) else { return Vec::new() };
        let stands = |id: &ObjectId, join: &Join| {
            let counting = self.admits_of(id).filter(|(_, admit)| counts(known, join, admit));
            let at = counting.map(|(_, admit)| admit.time).min().unwrap_or(u64::MAX);
            (!known.confirmed.contains_key(id), at, *id)
        };
        let mut order: Vec<_> =
            self.joins_by(invite).map(|(object, join)| stands(&object.id(), join)).collect();
        order.sort_unstable();
        order.into_iter().skip(room).map(|(_, _, id)| id).collect()
    }

    /// Admits of one join beyond [`MAX_ADMITS`].
    fn excess_admits(&self, join: &ObjectId, known: &Membership) -> Vec<ObjectId> {
        let body = self.get(join).map(Object::body);
        let counts = |admit: &Admit| match body {
            Some(Body::Join(join)) => counts(known, join, admit),
            _ => known.has_vouching(&admit.witness),
        };
        let admits = self.admits_of(join).map(|(object, admit)| (!counts(admit), admit.time, object.id()));
        let mut order: Vec<_> = admits.collect();
        order.sort_unstable();
        order.into_iter().skip(MAX_ADMITS).map(|(_, _, id)| id).collect()
    }

    /// What hangs on nothing that is here: Joins without Invite, Admits without Join, charters without predecessor,
    /// and Rekeys, Presences, Leases and departures of nobody.
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
            Body::Presence(presence) => !devices.contains(&presence.device),
            Body::Lease(lease) => !devices.contains(&lease.device),
            Body::Remove(remove) => remove.is_leave() && !devices.contains(&remove.signer),
            Body::Charter(charter) => charter.previous.is_some_and(|id| self.get(&id).is_none()),
            Body::Invite(_) | Body::Epoch(_) | Body::Confirm(_) => false,
        };
        self.iter().filter(is_unattached).map(Object::id).collect()
    }
}

/// Whether `admit` is one on which `join` may rest: in time, by a device that came in and may witness, and not by one that
/// is itself in only through that device. Without the last, three whom a device had admitted could push out,
/// with earlier dates, the Admit on which it and they stand.
fn counts(membership: &Membership, join: &Join, admit: &Admit) -> bool {
    let Some(witness) = membership.round(&admit.witness) else { return false };
    let is_earlier = membership.round(&join.device).is_none_or(|round| witness < round);
    let state = membership.invite(&join.invite_id);
    let is_allowed =
        state.is_none_or(|state| fits(state.invite(), join) && membership.vouches(state.invite(), admit));
    is_earlier && is_allowed
}

/// Whether `object` is a link or a lease whose signer may sign none under `charter`: no admin, or retired before that
/// place.
fn is_strange(charter: &Charter, object: &Object) -> bool {
    if let Body::Lease(lease) = object.body() {
        let admin = charter.admin(&lease.admin);
        return !admin.is_some_and(|admin| admin.capabilities.has(Capabilities::LEASE));
    }
    object.body().link().is_some_and(|link| {
        let is_before_cut = || charter.cut(&link.admin).is_some_and(|cut| link.seq <= cut.seq);
        charter.admin(&link.admin).is_none() && !is_before_cut()
    })
}

/// Puts the newest Presence or Lease first.
fn newest(body: &Body) -> (u64, u64) {
    match body {
        Body::Presence(presence) => (u64::MAX - presence.counter, u64::MAX - presence.time),
        Body::Lease(lease) => (u64::MAX - lease.from, u64::MAX - lease.until),
        _ => (u64::MAX, u64::MAX - body.time()),
    }
}
