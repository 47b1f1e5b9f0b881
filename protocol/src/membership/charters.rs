//! Which charter is in force, and who may sign what under it (README §11, rule 1).
//!
//! From version 0 on, each charter has at most one successor that counts: the best of the valid ones. Rank looks only
//! at keys that the predecessor names, so that a rival cannot raise itself with roots of its own making.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::object::{Body, Capabilities, Charter, Object};
use crate::identity::{DeviceId, ObjectId, PublicKey};

/// How a successor stands among its rivals; the greatest counts.
type Rank = (bool, usize, Reverse<ObjectId>);

/// The charters from version 0 to the one in force, of `charters` in any order; empty without version 0.
pub(super) fn in_force<'s>(charters: impl Iterator<Item = &'s Object>) -> Vec<&'s Object> {
    let mut by_previous: BTreeMap<Option<ObjectId>, Vec<(&Object, &Charter)>> = BTreeMap::new();
    for (object, charter) in charters.filter_map(with_charter) {
        by_previous.entry(charter.previous).or_default().push((object, charter));
    }
    let mut line = Vec::new();
    // Only one object has no predecessor: the one whose id is the VPI ID.
    let mut next = by_previous.get(&None).and_then(|first| first.first()).copied();
    while let Some((object, charter)) = next {
        line.push(object);
        let rivals = by_previous.get(&Some(object.id())).into_iter().flatten();
        let ranked = rivals.filter_map(|(rival, body)| Some((rank(charter, rival, body)?, (*rival, *body))));
        next = ranked.max_by_key(|(rank, _)| *rank).map(|(_, best)| best);
    }
    line
}

/// How `object`, which names `previous` as its predecessor, stands among its rivals; `None` if it does not succeed it:
/// another name, a version that is not the next, too few of the roots of either, or a signer that is a root of neither.
pub(super) fn rank(previous: &Charter, object: &Object, charter: &Charter) -> Option<Rank> {
    let signed_by = |of: &Charter| of.roots.iter().filter(|root| charter.signers.contains(&root.key)).count();
    let is_root = |of: &Charter, key: &PublicKey| of.roots.iter().any(|root| root.key == *key);
    let (by_former, by_own) = (signed_by(previous), signed_by(charter));
    let is_valid = charter.version == previous.version + 1
        && charter.name == previous.name
        && by_former as u64 >= previous.threshold
        && by_own as u64 >= charter.threshold
        && charter.signers.iter().all(|key| is_root(previous, key) || is_root(charter, key));
    let by_recovery =
        previous.roots.iter().any(|root| root.is_recovery && charter.signers.contains(&root.key));
    is_valid.then_some((by_recovery, by_former, Reverse(object.id())))
}

/// `object` with what it says, if it is a charter.
pub(super) fn with_charter(object: &Object) -> Option<(&Object, &Charter)> {
    match object.body() {
        Body::Charter(charter) => Some((object, charter)),
        _ => None,
    }
}

/// Who may sign what: the admins in force, and former ones up to where the charter cut their chains.
pub(super) struct Authority<'s> {
    pub(super) charter: &'s Charter,
    /// What each retired admin could do by the newest charter that names it.
    retired: BTreeMap<DeviceId, Capabilities>,
}

impl<'s> Authority<'s> {
    /// Under the last of `line`, the charters that [`in_force`] found; `None` if there are none.
    pub(super) fn of(line: &[&'s Charter]) -> Option<Self> {
        let charter = *line.last()?;
        let last_named = |device: &DeviceId| line.iter().rev().find_map(|charter| charter.admin(device));
        let retired = charter
            .retired
            .iter()
            .filter_map(|cut| Some((cut.admin, last_named(&cut.admin)?.capabilities)))
            .collect();
        Some(Self { charter, retired })
    }

    /// Whether what `device` signs in its chain counts as done with one of `capabilities`.
    pub(super) fn has_any(&self, device: &DeviceId, capabilities: &[Capabilities]) -> bool {
        let own = match self.charter.admin(device) {
            Some(admin) => Some(admin.capabilities),
            None => self.retired.get(device).copied(),
        };
        own.is_some_and(|own| capabilities.iter().any(|needed| own.has(*needed)))
    }
}
