//! What keeps a set of objects small: whom it takes nothing from, and what goes when there is too much.
//!
//! Bounds are those of MEMBERSHIP "Reducer" 6, and one on the whole in bytes. Where a bound forces a choice among
//! Admits or Joins, what members vouch for stands before what anybody could have signed; finding that takes a run
//! of the reducer, which only an object beyond a bound causes.

use std::collections::BTreeSet;

use super::object::{Body, Charter, Kind, Object};
use super::reducer::reduce;
use super::set::{ObjectSet, Refusal};
use super::standing::Membership;
use crate::identity::{InviteId, ObjectId};

/// Joins kept of one invite beyond its uses (specified: MEMBERSHIP, "Reducer" 6).
pub const SPARE_JOINS: usize = 8;

/// Admits kept of one join (specified: MEMBERSHIP, "Reducer" 6).
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

    /// What must go so that `bytes` more fit the whole; `None` when that is not enough.
    pub(super) fn room_for(&self, bytes: usize) -> Option<Vec<ObjectId>> {
        if self.bytes + bytes <= MAX_SET_BYTES {
            return Some(Vec::new());
        }
        let unattached = self.unattached();
        let freed: usize =
            self.iter().filter(|o| unattached.contains(&o.id())).map(|o| o.bytes().len()).sum();
        (self.bytes - freed + bytes <= MAX_SET_BYTES).then(|| unattached.into_iter().collect())
    }

    /// What the bounds drop because `object` came.
    pub(super) fn excess(&self, object: &Object) -> Vec<ObjectId> {
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
