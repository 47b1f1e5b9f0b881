//! Objects that hang on nothing which is here: a Join whose Invite is not known, an Admit whose Join is not, what a device
//! says of itself that nobody has asked to let in. Anybody can make them without end.
//!
//! They are kept beside the set, in memory only, so that they fill no log and no list; once what they hang on is here, they
//! are taken like any other. What gives way comes back by an exchange, which asks for Joins before all that hangs on them.

use std::collections::{BTreeMap, VecDeque};

use crate::identity::{DeviceId, ObjectId};
use crate::membership::Missing;
use crate::membership::object::{Body, Object};

/// Objects kept of one giver (chosen: what comes in the wrong order of a page of news of each kind).
const MAX_OF_ONE: usize = 128;
/// Objects kept in all (chosen: 3 MB of the largest).
const MAX_IN_ALL: usize = 1_024;

/// One object, who gave it, and what it hangs on.
struct Waiting {
    giver: DeviceId,
    missing: Missing,
    object: Object,
}

/// The objects that wait, the oldest first.
#[derive(Default)]
pub(super) struct Loose(VecDeque<Waiting>);

impl Loose {
    /// Whether the object waits here.
    pub(super) fn has(&self, id: &ObjectId) -> bool {
        self.0.iter().any(|waiting| waiting.object.id() == *id)
    }

    /// Keeps an object until `missing` is here. Beyond a bound the oldest of the same giver goes, or of who gave most: no
    /// giver pushes out what another gave, while that is less.
    pub(super) fn add(&mut self, object: Object, giver: DeviceId, missing: Missing) {
        if self.has(&object.id()) {
            return;
        }
        let mut given: BTreeMap<DeviceId, usize> = BTreeMap::new();
        for waiting in &self.0 {
            *given.entry(waiting.giver).or_default() += 1;
        }
        let most = given.iter().max_by_key(|(_, count)| **count).map(|(giver, _)| *giver);
        if given.get(&giver).is_some_and(|count| *count >= MAX_OF_ONE) {
            self.drop_oldest_of(&giver);
        } else if self.0.len() >= MAX_IN_ALL
            && let Some(most) = most
        {
            self.drop_oldest_of(&most);
        }
        self.0.push_back(Waiting { giver, missing, object });
    }

    fn drop_oldest_of(&mut self, giver: &DeviceId) {
        if let Some(at) = self.0.iter().position(|waiting| waiting.giver == *giver) {
            self.0.remove(at);
        }
    }

    /// Takes out what may hang on `taken`, with its givers.
    pub(super) fn take_for(&mut self, taken: &Object) -> Vec<(Object, DeviceId)> {
        let is_awaited = |missing: &Missing| match (taken.body(), missing) {
            // Whoever it names an admin needs no Join.
            (Body::Charter(_), _) => true,
            (Body::Invite(invite), Missing::Invite(id)) => invite.invite_id == *id,
            (Body::Join(_), Missing::Join(id)) => taken.id() == *id,
            (Body::Join(join), Missing::Device(device)) => join.device == *device,
            _ => false,
        };
        let (freed, rest) = std::mem::take(&mut self.0).into_iter().partition(|it| is_awaited(&it.missing));
        self.0 = rest;
        let freed: VecDeque<Waiting> = freed;
        freed.into_iter().map(|waiting| (waiting.object, waiting.giver)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{SigningSecret, StaticKey, VpiId};
    use crate::membership::admin;

    fn member(n: u8) -> DeviceId {
        SigningSecret::from_seed(&[n; 32]).public()
    }

    /// A Rekey of somebody whom nobody knows.
    fn junk(counter: u64) -> (Object, Missing) {
        let device = SigningSecret::from_seed(&[9; 32]);
        let object = admin::rekey(&VpiId([2; 32]), &device, counter, StaticKey([9; 32]), 0).unwrap();
        (object, Missing::Device(device.public()))
    }

    #[test]
    fn a_flood_of_one_giver_drops_its_own_only() {
        let mut loose = Loose::default();
        let (first, missing) = junk(0);
        loose.add(first.clone(), member(1), missing);
        for counter in 1..1_000 {
            let (object, missing) = junk(counter);
            loose.add(object, member(2), missing);
        }
        assert!(loose.has(&first.id()) && loose.0.len() == MAX_OF_ONE + 1);
        assert!(loose.has(&junk(999).0.id()), "its newest are there");
    }

    #[test]
    fn many_givers_together_are_bounded_and_who_gave_most_loses() {
        let mut loose = Loose::default();
        let (first, missing) = junk(0);
        loose.add(first.clone(), member(1), missing);
        for counter in 1..3_000 {
            let (object, missing) = junk(counter);
            loose.add(object, member(2 + (counter % 40) as u8), missing);
        }
        assert_eq!(loose.0.len(), MAX_IN_ALL);
        assert!(loose.has(&first.id()));
    }
}
