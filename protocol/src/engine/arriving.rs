//! Objects on their way in by the hundred: gathered, so that many cost one write to the disk and one run of the reducer.
//!
//! They are in the set from the start; what waits is what follows from them. Charters, Removes and Epochs never wait.

use std::time::{Duration, Instant};

use crate::identity::DeviceId;
use crate::membership::object::Object;

/// Objects that wait together at most.
const MAX_OBJECTS: usize = 128;
/// The longest that an object waits for others, when the rest of its exchange does not come.
const WAIT: Duration = Duration::from_millis(100);

/// Objects that came from one member.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) objects: Vec<Object>,
    pub(super) from: DeviceId,
    since: Instant,
}

/// What waits for more.
#[derive(Debug, Default)]
pub(super) struct Arriving(Option<Arrived>);

impl Arriving {
    /// Adds an object; returns what is to be taken in: everything, when it `is_last` of its exchange or there is much,
    /// or what came from another member.
    pub(super) fn add(
        &mut self,
        object: Object,
        from: DeviceId,
        (is_last, now): (bool, Instant),
    ) -> Option<Arrived> {
        let others = self.0.take_if(|arrived| arrived.from != from);
        let arrived = self.0.get_or_insert_with(|| Arrived { objects: Vec::new(), from, since: now });
        arrived.objects.push(object);
        let is_due = is_last || arrived.objects.len() >= MAX_OBJECTS;
        others.or_else(|| self.0.take_if(|_| is_due))
    }

    /// Takes out what has waited long enough.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Arrived> {
        self.0.take_if(|arrived| now >= arrived.since + WAIT)
    }

    /// Takes out what waits.
    pub(super) fn take(&mut self) -> Option<Arrived> {
        self.0.take()
    }

    /// When something has waited long enough.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.0.as_ref().map(|arrived| arrived.since + WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{SigningSecret, StaticKey, VpiId};
    use crate::membership::admin;

    fn object(counter: u64) -> Object {
        let device = SigningSecret::from_seed(&[1; 32]);
        admin::rekey(&VpiId([2; 32]), &device, counter, StaticKey([9; 32]), 0).unwrap()
    }

    fn member(n: u8) -> DeviceId {
        SigningSecret::from_seed(&[n; 32]).public()
    }

    #[test]
    fn objects_of_one_exchange_are_taken_in_together() {
        let (mut arriving, now) = (Arriving::default(), Instant::now());
        assert!(arriving.add(object(0), member(1), (false, now)).is_none());
        assert!(arriving.add(object(1), member(1), (false, now)).is_none());
        assert_eq!(arriving.add(object(2), member(1), (true, now)).unwrap().objects.len(), 3);
        assert_eq!(arriving.poll_timeout(), None);
    }

    #[test]
    fn none_waits_for_long_or_behind_many() {
        let (mut arriving, now) = (Arriving::default(), Instant::now());
        assert!(arriving.add(object(0), member(1), (false, now)).is_none());
        assert!(arriving.take_due(now + WAIT / 2).is_none());
        assert_eq!(arriving.take_due(arriving.poll_timeout().unwrap()).unwrap().objects.len(), 1);
        let taken = (0..MAX_OBJECTS as u64)
            .find_map(|counter| arriving.add(object(counter), member(1), (false, now)))
            .unwrap();
        assert_eq!(taken.objects.len(), MAX_OBJECTS);
    }

    #[test]
    fn what_another_member_sent_is_taken_in_first_and_nothing_is_lost() {
        let (mut arriving, now) = (Arriving::default(), Instant::now());
        assert!(arriving.add(object(0), member(1), (false, now)).is_none());
        let first = arriving.add(object(1), member(2), (true, now)).unwrap();
        assert_eq!((first.from, first.objects), (member(1), vec![object(0)]));
        let rest = arriving.take_due(now + WAIT).unwrap();
        assert_eq!((rest.from, rest.objects), (member(2), vec![object(1)]));
    }
}
