//! What keeps a set of objects small: whom it takes nothing from, and what goes when there is too much.
//!
//! Bounds are those of README §11, rule 6, and one on the whole in bytes. Where a bound forces a choice among
//! Admits or Joins, what members vouch for stands before what anybody could have signed; finding that takes a run
//! of the reducer, which only an object beyond a bound causes.

use std::collections::BTreeSet;

use super::object::{Admit, Body, Charter, Join, Kind, Object};
use super::reducer::reduce;
use super::rounds::fits;
use super::set::{ObjectSet, Refusal};
use super::standing::{Membership, is_eligible};
use crate::identity::{InviteId, ObjectId};

/// Joins kept of one invite beyond its uses (specified: README §11, rule 6).
pub const SPARE_JOINS: usize = 8;

/// Admits kept of one join (specified: README §11, rule 6).
pub const MAX_ADMITS: usize = 3;

/// Rekeys kept of one device: the one in force, and one more that proves a conflict (chosen).
pub const MAX_REKEYS: usize = 2;

/// Bytes of all envelopes together (chosen: 4,096 members with Join, 3 Admits and 2 Rekeys are 6 MiB).
pub const MAX_SET_BYTES: usize = 32 << 20;

impl ObjectSet {
    /// Why nothing of the kind of `object` by its signer is taken, if so.
    pub(super) fn refusal(&self, object: &Object) -> Option<Refusal> {
        match object.body() {
            Body::Charter(charter) if charter.version > 0 => Some(Refusal::LaterCharter),
            body => {
                let (link, (_, charter)) = (body.link()?, self.charter()?);
                charter.admin(&link.admin).is_none().then_some(Refusal::Stranger)
            }
        }
    }

    /// What the bounds drop because `object` was just added; `None` when it is `object` itself that must go.
    pub(super) fn excess(&self, object: &Object) -> Option<BTreeSet<ObjectId>> {
        let mut excess: BTreeSet<_> = self.excess_of_its_like(object).into_iter().collect();
        if self.bytes - self.bytes_of(&excess) > MAX_SET_BYTES {
            excess.extend(self.unattached().into_iter().filter(|id| *id != object.id()));
        }
        let fits = self.bytes - self.bytes_of(&excess) <= MAX_SET_BYTES;
        (fits && !excess.contains(&object.id())).then_some(excess)
    }

    fn bytes_of(&self, ids: &BTreeSet<ObjectId>) -> usize {
        ids.iter().filter_map(|id| self.get(id)).map(|object| object.bytes().len()).sum()
    }

    /// What goes for being beyond a bound on objects that belong together.
    fn excess_of_its_like(&self, object: &Object) -> Vec<ObjectId> {
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
        let vouched_at = |id: &ObjectId, join: &Join| {
            let counting = self.admits_of(id).filter(|(_, admit)| counts(&membership, join, admit));
            counting.map(|(_, admit)| admit.time).min().unwrap_or(u64::MAX)
        };
        let joins = self.joins_by(invite).map(|(object, join)| (object.id(), join));
        let mut order: Vec<_> = joins.map(|(id, join)| (vouched_at(&id, join), id)).collect();
        order.sort_unstable();
        order.into_iter().skip(uses + SPARE_JOINS).map(|(_, id)| id).collect()
    }

    /// Admits of one join beyond [`MAX_ADMITS`].
    fn excess_admits(&self, join: &ObjectId) -> Vec<ObjectId> {
        if self.admits_of(join).count() <= MAX_ADMITS {
            return Vec::new();
        }
        let membership = reduce(self);
        let body = self.get(join).map(Object::body);
        let counts = |admit: &Admit| match body {
            Some(Body::Join(join)) => counts(&membership, join, admit),
            _ => membership.member(&admit.witness).is_some(),
        };
        let admits = self.admits_of(join).map(|(object, admit)| (!counts(admit), admit.time, object.id()));
        let mut order: Vec<_> = admits.collect();
        order.sort_unstable();
        order.into_iter().skip(MAX_ADMITS).map(|(_, _, id)| id).collect()
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

/// Whether `admit` is one on which `join` may rest: in time, by a member that may witness, and not by one that is
/// itself a member only through that device. Without the last, three whom a device had admitted could push out,
/// with earlier dates, the Admit on which it and they stand.
fn counts(membership: &Membership, join: &Join, admit: &Admit) -> bool {
    let Some(charter) = membership.charter() else { return false };
    let Some(witness) = membership.member(&admit.witness) else { return false };
    let is_earlier = membership.member(&join.device).is_none_or(|member| witness.round < member.round);
    let state = membership.invite(&join.invite_id);
    let is_allowed =
        state.is_none_or(|state| fits(state.invite(), join) && is_eligible(charter, state.invite(), admit));
    is_earlier && is_allowed
}
