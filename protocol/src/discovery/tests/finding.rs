//! What is looked up, when, and what is made of the values.

use std::time::{Duration, Instant};

use super::{WALL, device, epoch, presence, rng, sign};
use crate::discovery::finder::{Finder, Lookup, MAX_SEARCHES, MAX_VALUES};
use crate::discovery::presence::{self as records, Place};
use crate::discovery::slot::slot_of;
use crate::identity::DeviceId;
use crate::membership::object::Object;

#[test]
fn the_current_slot_is_looked_up_first_then_the_one_before_then_the_epoch_before() {
    let mut lab = Lab::new();
    lab.finder.want(device(1).public(), lab.now);
    let mut keys = Vec::new();
    while let Some(lookup) = lab.poll() {
        keys.push(lookup.key);
        assert_eq!(lab.found(&lookup, &[]), (None, 0));
    }
    let key = |number, slot| *Place::new(&epoch(number), &device(1).public(), slot).unwrap().key();
    let slot = slot_of(WALL);
    assert_eq!(keys, [key(2, slot), key(2, slot - 1), key(1, slot), key(1, slot - 1)]);
}

#[test]
fn the_newest_valid_presence_counts_and_the_others_are_counted() {
    let mut lab = Lab::new();
    lab.finder.want(device(1).public(), lab.now);
    let lookup = lab.poll().unwrap();
    let [old, newest] = [3, 4].map(|counter| value(1, counter, 2));
    let mut forged = newest.clone();
    forged[100] ^= 1;
    let values = [old.clone(), newest.clone(), old, vec![], vec![7; 100_000], forged, value(2, 9, 2), newest];
    let (presence, invalid) = lab.found(&lookup, &values);
    assert_eq!((presence, invalid), (Some(object(1, 4)), 4));
    assert_eq!(lab.poll(), None, "what was found is not looked up again at once");
}

#[test]
fn a_round_that_found_nothing_is_followed_by_ever_rarer_ones() {
    let mut lab = Lab::new();
    lab.finder.want(device(1).public(), lab.now);
    let start = lab.now;
    let mut rounds = Vec::new();
    while lab.now < start + Duration::from_secs(7_200) {
        let mut lookups = 0;
        while let Some(lookup) = lab.poll() {
            lab.found(&lookup, &[]);
            lookups += 1;
        }
        if lookups > 0 {
            rounds.push((lab.now - start).as_secs());
        }
        lab.now = lab.finder.poll_timeout().unwrap();
    }
    assert!((16..24).contains(&rounds.len()), "{rounds:?}");
    assert!(rounds[1] <= 6 && rounds[2] - rounds[1] >= 8, "{rounds:?}");
}

#[test]
fn a_lookup_without_a_word_gives_way_after_ten_seconds() {
    let mut lab = Lab::new();
    lab.finder.want(device(1).public(), lab.now);
    let first = lab.poll().unwrap();
    assert_eq!(lab.poll(), None);
    assert_eq!(lab.finder.poll_timeout(), Some(lab.now + Duration::from_secs(10)));
    lab.now += Duration::from_secs(10);
    let second = lab.poll().unwrap();
    assert_ne!(first.key, second.key);
    let late = lab.finder.handle_found((&first.key, &[value(1, 1, 2)]), &mut lab.rng, WALL, lab.now);
    assert_eq!(late, None, "nobody waits for it");
}

#[test]
fn lookups_are_bounded_in_all_and_nobody_waits_for_ever() {
    let mut lab = Lab::new();
    let wanted: Vec<DeviceId> = (0..120).map(|n| device(n).public()).collect();
    for device in &wanted {
        assert!(lab.finder.want(*device, lab.now));
    }
    let start = lab.now;
    let (mut lookups, mut asked) = (0_u32, std::collections::BTreeSet::new());
    while lab.now < start + Duration::from_secs(600) {
        while let Some(lookup) = lab.poll() {
            lookups += 1;
            asked.insert(lookup.device);
            lab.found(&lookup, &[]);
        }
        let next = lab.finder.poll_timeout().unwrap();
        assert!(next > lab.now, "it wakes for nothing");
        lab.now = next;
    }
    assert!((500..=641).contains(&lookups), "{lookups}");
    assert_eq!(asked.len(), wanted.len());
}

#[test]
fn who_is_wanted_again_is_looked_for_within_a_minute_of_the_last_round() {
    let mut lab = Lab::new();
    let wanted = device(1).public();
    lab.finder.want(wanted, lab.now);
    for _ in 0..10 {
        while let Some(lookup) = lab.poll() {
            lab.found(&lookup, &[]);
        }
        lab.now = lab.finder.poll_timeout().unwrap();
    }
    while let Some(lookup) = lab.poll() {
        lab.found(&lookup, &[]);
    }
    assert!(lab.finder.poll_timeout().unwrap() > lab.now + Duration::from_secs(400));
    lab.finder.want(wanted, lab.now);
    assert_eq!(lab.finder.poll_timeout(), Some(lab.now + Duration::from_secs(60)));
    lab.finder.forget(&wanted);
    assert_eq!(lab.finder.poll_timeout(), None);
}

#[test]
fn searches_and_values_are_bounded() {
    let mut lab = Lab::new();
    for n in 0..MAX_SEARCHES as u64 {
        let mut key = [1; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        assert!(lab.finder.want(DeviceId::from(key), lab.now));
    }
    assert!(!lab.finder.want(device(1).public(), lab.now));

    let mut lab = Lab::new();
    lab.finder.want(device(1).public(), lab.now);
    let lookup = lab.poll().unwrap();
    let values: Vec<Vec<u8>> = (0..=u8::MAX).map(|n| vec![n]).collect();
    assert_eq!(lab.found(&lookup, &values), (None, MAX_VALUES));
}

/// A finder that holds epochs 2 and 1, at a time that stands still unless it is moved.
struct Lab {
    finder: Finder,
    rng: crate::random::Rng,
    now: Instant,
}

impl Lab {
    fn new() -> Self {
        Self { finder: Finder::default(), rng: rng(), now: Instant::now() }
    }

    fn poll(&mut self) -> Option<Lookup> {
        let epochs = [epoch(2), epoch(1), epoch(0)];
        self.finder.poll_lookup(&epochs.each_ref(), &mut self.rng, WALL, self.now)
    }

    fn found(&mut self, lookup: &Lookup, values: &[Vec<u8>]) -> (Option<Object>, usize) {
        let found = self.finder.handle_found((&lookup.key, values), &mut self.rng, WALL, self.now).unwrap();
        assert_eq!(found.device, lookup.device);
        (found.presence, found.invalid)
    }
}

fn object(n: u8, counter: u64) -> Object {
    sign(&presence(&device(n), counter), &device(n))
}

/// The value of a record of device `n` in the current slot, under epoch `number`.
fn value(n: u8, counter: u64, number: u8) -> Vec<u8> {
    let (secret, object) = (device(n), object(n, counter));
    records::seal(&epoch(number), slot_of(WALL), (&secret, &object), WALL, &mut rng()).unwrap().value
}
