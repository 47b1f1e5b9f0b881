//! What a witness makes of a question (README §12): the checks, and the Admit.

use std::collections::BTreeSet;

use super::join::{ADMITTED_FIXED_BYTES, Question};
use super::object::{Admit, Body, Invite, Object, ObjectError};
use super::rounds::fits;
use super::set::ObjectSet;
use super::standing::{Membership, Waiting, is_in_time, may_witness};
use crate::drop::DropReason;
use crate::identity::{DeviceId, ObjectId, SigningSecret, VpiId};
use crate::wire::cbor::Extensions;

/// What a witness does with a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing leaves.
    Silent(DropReason),
    /// Answers that the uses are spent.
    UsedUp,
    /// Answers with this Admit, which a member wrote before.
    Known(Object),
    /// Makes an Admit, stores Invite, Join and Admit in one transaction, then answers.
    Admit,
}

/// Decides what `own`, a member, does with `question` at `wall_secs` (unix seconds).
///
/// The checks stand in the order of README §12. Expiry is judged before anything that is already
/// stored: members of the past know every Join, and must not get answers for ever by sending one again.
#[must_use]
pub fn consider(
    set: &ObjectSet,
    membership: &Membership,
    question: &Question,
    own: &DeviceId,
    wall_secs: u64,
) -> Verdict {
    let (join, invite) = question.bodies();
    let refused = Verdict::Silent(DropReason::JoinRefused);
    let Some(charter) = membership.charter() else { return refused };
    let is_gone = membership.is_revoked(&invite.invite_id) || membership.is_removed(&join.device);
    let is_permitted =
        !is_gone && membership.may_hold(set, question.invite_object()) && is_in_time(invite, wall_secs);
    let may_admit = membership.member(own).is_some() && may_witness(charter, invite, own);
    if !is_permitted || !fits(invite, join) || !may_admit {
        return refused;
    }
    let taken = taken(set, membership, invite);
    let is_contested = membership.waiting(&join.device) == Some(Waiting::Contested);
    if taken.contains(&question.join_object().id()) && !is_contested {
        // An own Admit of a join that has others is no second use.
        return known_admit(set, membership, question).map_or(Verdict::Admit, Verdict::Known);
    }
    if taken.len() as u64 >= invite.max_uses {
        return Verdict::UsedUp;
    }
    let is_full = membership.members().len() as u64 >= charter.policy.member_cap;
    if is_full && membership.member(&join.device).is_none() { refused } else { Verdict::Admit }
}

/// Makes the Admit of `question`'s Join by the member whose device key is `witness`, after
/// [`Verdict::Admit`]; `epoch_seen` is the number of the epoch in force.
///
/// # Errors
/// An [`ObjectError`] when `wall_secs` or `epoch_seen` is beyond what an object may hold.
pub fn admit(
    vpi: &VpiId,
    question: &Question,
    witness: &SigningSecret,
    epoch_seen: u64,
    wall_secs: u64,
) -> Result<Object, ObjectError> {
    let body = Body::Admit(Admit {
        witness: witness.public(),
        join_id: question.join_object().id(),
        time: wall_secs,
        epoch_seen,
        extensions: Extensions::default(),
    });
    Object::sign(vpi, &body, &[witness])
}

/// The joins by one invite for which somebody vouches, whether or not the invite is here yet: what a witness counts as
/// uses.
fn taken(set: &ObjectSet, membership: &Membership, invite: &Invite) -> BTreeSet<ObjectId> {
    let is_vouched =
        |join: &ObjectId| set.admits_of(join).any(|(_, admit)| membership.vouches(invite, admit));
    set.joins_by(&invite.invite_id)
        .filter(|(object, join)| fits(invite, join) && is_vouched(&object.id()))
        .map(|(object, _)| object.id())
        .collect()
}

/// The first Admit of the question's Join by a member, of those with which the answer is not longer than the
/// question: a member could have made a large one.
fn known_admit(set: &ObjectSet, membership: &Membership, question: &Question) -> Option<Object> {
    let room = question.encode().len().checked_sub(ADMITTED_FIXED_BYTES)?;
    set.admits_of(&question.join_object().id())
        .filter(|(object, admit)| membership.member(&admit.witness).is_some() && object.bytes().len() <= room)
        .min_by_key(|(object, admit)| (admit.time, object.id()))
        .map(|(object, _)| object.clone())
}
