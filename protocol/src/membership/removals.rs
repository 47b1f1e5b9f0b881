//! What is removed, and whose word it voids (README §11, rule 4).
//!
//! A removal acts at once: its target is no member, lets nobody in by an invite, changes the digest. What else hung on
//! the target falls later, when all that the remover signed before is here: among it are the Confirms that spare others,
//! and objects come in any order. Whoever leaves takes nobody along.
//!
//! ```text
//!             target out   its Admits, or joins by it
//! left        at once      count on, within the time in which they could have been signed
//! removed     at once      count on ── remover's chain complete up to the Remove ──► void, but for confirmed joins
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::chain::Chain;
use super::charters::Authority;
use super::object::{Admit, Capabilities, Invite, Object, Remove, Target};
use super::rounds::fits;
use super::set::ObjectSet;
use super::standing::INVITE_GRACE_SECONDS;
use crate::identity::{DeviceId, InviteId};

/// What is removed, less pardons and admins in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Removals {
    /// All of it, departed devices included.
    pub(super) targets: BTreeSet<Target>,
    /// What admins removed.
    pub(super) by_admins: BTreeSet<Target>,
    /// Of that, the devices whose Admits and Joins and the invites whose Joins count no longer.
    pub(super) void: BTreeSet<Target>,
    /// When each departed device left, in unix seconds by its own clock.
    pub(super) left: BTreeMap<DeviceId, u64>,
}

impl Removals {
    /// Finds them under `authority`. `supposed` is removed and void too.
    pub(super) fn of(
        set: &ObjectSet,
        authority: &Authority<'_>,
        chains: &BTreeMap<DeviceId, Chain>,
        invites: &BTreeMap<InviteId, &Invite>,
        supposed: &BTreeSet<Target>,
    ) -> Self {
        let charter = authority.charter;
        let may_go = |target: &Target| {
            let is_admin = matches!(target, Target::Device(device) if charter.admin(device).is_some());
            !is_admin && charter.pardons.binary_search(target).is_err()
        };
        let mut removals = Self::default();
        for (object, remove) in set.removes().filter(|(_, remove)| may_go(&remove.target)) {
            let Some((seq, _)) = remove.link else {
                if has_asked(set, &remove.signer, invites) {
                    removals.targets.insert(remove.target);
                    removals.left.insert(remove.signer, remove.time);
                }
                continue;
            };
            let chain = chains.get(&remove.signer);
            if counts(authority, chain, object, remove) {
                removals.by_admins.insert(remove.target);
                if chain.is_some_and(|chain| chain.complete > seq) {
                    removals.void.insert(remove.target);
                }
            }
        }
        let supposed: Vec<_> = supposed.iter().copied().filter(may_go).collect();
        removals.by_admins.extend(&supposed);
        removals.void.extend(&supposed);
        removals.targets.extend(&removals.by_admins);
        removals
    }

    /// What admins removed and what is not void yet.
    pub(super) fn pending(&self) -> BTreeSet<Target> {
        self.by_admins.difference(&self.void).copied().collect()
    }

    /// Whether the witness of `admit` may have signed it before it left: it dates from when there was `invite` already
    /// and the witness was there still. Always so of a witness that did not leave.
    pub(super) fn is_before_leaving(&self, invite: &Invite, admit: &Admit) -> bool {
        self.left.get(&admit.witness).is_none_or(|left| {
            admit.time.saturating_add(INVITE_GRACE_SECONDS) >= invite.time && admit.time <= *left
        })
    }
}

/// Whether a Remove by an admin counts, wherever in its chain it stands.
fn counts(authority: &Authority<'_>, chain: Option<&Chain>, object: &Object, remove: &Remove) -> bool {
    let is_before_cut = || chain.is_some_and(|chain| chain.before_cut.contains(&object.id()));
    authority.has_any(&remove.signer, &[Capabilities::REMOVE])
        && (authority.charter.admin(&remove.signer).is_some() || is_before_cut())
}

/// Whether a Join by `device` is here that one of `invites` permits. A device that never asked cannot leave: anybody
/// can make keys, and each departure costs an epoch.
fn has_asked(set: &ObjectSet, device: &DeviceId, invites: &BTreeMap<InviteId, &Invite>) -> bool {
    set.joins_of(device)
        .any(|(_, join)| invites.get(&join.invite_id).is_some_and(|invite| fits(invite, join)))
}
