//! Which joins count: the rounds of README §11, rule 5.
//!
//! A round looks only at the Admits of devices that came in in the round before: any other Admit was
//! looked at already, and its join is in, or its invite was full. The whole is thus linear in the objects. Joins that an
//! admin confirmed are all looked at in round one, before any other.

use std::collections::{BTreeMap, BTreeSet};

use super::object::{Admit, Charter, Invite, Join, Target};
use super::removals::Removals;
use super::set::ObjectSet;
use super::standing::{Waiting, is_eligible};
use crate::identity::{DeviceId, InviteId, ObjectId};

/// What the rounds found.
#[derive(Default)]
pub(super) struct Rounds<'s> {
    /// The joins that count, ascending by (earliest Admit that counts, join id).
    pub(super) counted: Vec<Counted<'s>>,
    /// The joins of valid form that do not count.
    pub(super) waiting: Vec<(&'s Join, Waiting)>,
}

/// What the rounds stand on.
pub(super) struct Basis<'s, 'b> {
    pub(super) charter: &'b Charter,
    /// The invites that count.
    pub(super) invites: &'b BTreeMap<InviteId, &'s Invite>,
    /// Void devices have no join, void invites only confirmed ones.
    pub(super) removals: &'b Removals,
    /// By confirmed join: the earliest time.
    pub(super) confirmed: &'b BTreeMap<ObjectId, u64>,
}

/// A join that counts.
pub(super) struct Counted<'s> {
    /// The earliest time at which a member of an earlier round admitted it, or an admin confirmed it.
    pub(super) at: u64,
    /// The round, from 1.
    pub(super) round: usize,
    pub(super) id: ObjectId,
    pub(super) join: &'s Join,
}

/// Runs the rounds from the charter's admins on. Devices that are removed, and not void, come in too: they hold their uses,
/// and what they vouched for counts.
pub(super) fn run<'s>(set: &'s ObjectSet, basis: &Basis<'s, '_>) -> Rounds<'s> {
    let candidates = Candidates::of(set, basis);
    let mut fresh: BTreeSet<DeviceId> = basis.charter.admins.iter().map(|admin| admin.device).collect();
    let mut members = BTreeSet::new();
    let mut places = Places::default();
    while !fresh.is_empty() {
        places.round += 1;
        let mut vouched = candidates.vouched_by(&fresh);
        if places.round == 1 {
            candidates.add_confirmed(&mut vouched, basis.confirmed);
        }
        members.append(&mut fresh);
        for (invite, joins) in vouched {
            let Some(invite) = basis.invites.get(&invite) else { continue };
            fresh.extend(places.fill(invite, joins, &candidates));
        }
        fresh.retain(|device| !members.contains(device));
    }
    places.result(&candidates)
}

/// How a join stands among those of its invite: (not confirmed, when); the lowest comes in first.
type Vouched = BTreeMap<InviteId, BTreeMap<ObjectId, (bool, u64)>>;

/// The joins of valid form, and who admitted them.
struct Candidates<'s> {
    joins: BTreeMap<ObjectId, &'s Join>,
    by_witness: BTreeMap<DeviceId, Vec<&'s Admit>>,
}

impl<'s> Candidates<'s> {
    fn of(set: &'s ObjectSet, basis: &Basis<'s, '_>) -> Self {
        let mut candidates = Self { joins: BTreeMap::new(), by_witness: BTreeMap::new() };
        for invite in basis.invites.values() {
            let void = &basis.removals.void;
            let is_revoked = void.contains(&Target::Invite(invite.invite_id));
            let is_void = |join: &Join| void.contains(&Target::Device(join.device));
            let fitting =
                set.joins_by(&invite.invite_id).filter(|(_, join)| fits(invite, join) && !is_void(join));
            for (object, join) in fitting {
                candidates.joins.insert(object.id(), join);
                if is_revoked {
                    continue;
                }
                let eligible = set
                    .admits_of(&object.id())
                    .filter(|(_, admit)| is_eligible(basis.charter, basis.removals, invite, admit));
                for (_, admit) in eligible {
                    candidates.by_witness.entry(admit.witness).or_default().push(admit);
                }
            }
        }
        candidates
    }

    /// By invite: the joins that `fresh` admitted, with the earliest time.
    fn vouched_by(&self, fresh: &BTreeSet<DeviceId>) -> Vouched {
        let mut vouched = Vouched::new();
        for admit in fresh.iter().filter_map(|device| self.by_witness.get(device)).flatten() {
            let Some(join) = self.joins.get(&admit.join_id) else { continue };
            let of_invite = vouched.entry(join.invite_id).or_default();
            let (_, at) = of_invite.entry(admit.join_id).or_insert((true, admit.time));
            *at = admit.time.min(*at);
        }
        vouched
    }

    fn add_confirmed(&self, vouched: &mut Vouched, confirmed: &BTreeMap<ObjectId, u64>) {
        for (id, time) in confirmed {
            let Some(join) = self.joins.get(id) else { continue };
            let (is_unconfirmed, at) =
                vouched.entry(join.invite_id).or_default().entry(*id).or_insert((false, *time));
            *is_unconfirmed = false;
            *at = (*time).min(*at);
        }
    }
}

/// Whether `join` is one that `invite` permits.
pub(super) fn fits(invite: &Invite, join: &Join) -> bool {
    join.invite_id == invite.invite_id
        && join.invite_key == invite.invite_key
        && invite.bound_device.is_none_or(|device| device == join.device)
}

/// Who holds the uses of each invite, and who came too late.
#[derive(Default)]
struct Places {
    round: usize,
    /// By join: when, and in which round.
    counted: BTreeMap<ObjectId, (u64, usize)>,
    uses: BTreeMap<InviteId, u64>,
    contested: BTreeSet<ObjectId>,
}

impl Places {
    /// Fills the free uses of `invite` in the order (confirmed, time, join id); returns the devices that came in.
    fn fill(
        &mut self,
        invite: &Invite,
        joins: BTreeMap<ObjectId, (bool, u64)>,
        candidates: &Candidates<'_>,
    ) -> Vec<DeviceId> {
        let mut order: Vec<_> = joins.into_iter().map(|(join, stands)| (stands, join)).collect();
        order.sort_unstable();
        let uses = self.uses.entry(invite.invite_id).or_default();
        let mut came_in = Vec::new();
        for ((_, at), id) in order {
            if self.counted.contains_key(&id) {
                continue;
            }
            if *uses >= invite.max_uses {
                self.contested.insert(id);
                continue;
            }
            *uses += 1;
            self.counted.insert(id, (at, self.round));
            came_in.extend(candidates.joins.get(&id).map(|join| join.device));
        }
        came_in
    }

    fn result<'s>(self, candidates: &Candidates<'s>) -> Rounds<'s> {
        let mut rounds = Rounds::default();
        for (id, join) in &candidates.joins {
            match self.counted.get(id) {
                Some((at, round)) => rounds.counted.push(Counted { at: *at, round: *round, id: *id, join }),
                None if self.contested.contains(id) => rounds.waiting.push((join, Waiting::Contested)),
                None => rounds.waiting.push((join, Waiting::Joining)),
            }
        }
        rounds.counted.sort_unstable_by_key(|counted| (counted.at, counted.id));
        rounds
    }
}
