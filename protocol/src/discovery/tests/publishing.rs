//! When a device publishes, in virtual time.

use std::time::{Duration, Instant};

use rand_core::SeedableRng as _;

use super::{device, epoch, presence, sign};
use crate::discovery::presence::Place;
use crate::discovery::publisher::{Publisher, Writer};
use crate::discovery::record::{Record, check};
use crate::discovery::slot::{expiry_of, slot_of, start_of};
use crate::random::Rng;

#[test]
fn a_start_publishes_at_once_and_then_once_for_each_slot_before_it_begins() {
    let mut lab = Lab::new(1, 1_800_000_100);
    lab.tell(1);
    let start = lab.wall;
    lab.run(10 * 3_600, true);
    let slots: Vec<u64> = lab.put.iter().map(|(_, record)| slot_in(record)).collect();
    let first = slot_of(start);
    assert_eq!(slots, (first..first + 11).collect::<Vec<_>>());
    assert_eq!(lab.put[0].0, start);
    for (at, record) in &lab.put[1..] {
        let begins = start_of(slot_in(record));
        assert!((begins - 600..=begins).contains(at), "{at} for a slot that begins at {begins}");
    }
}

#[test]
fn two_nodes_do_not_publish_in_step() {
    let offsets = |seed| {
        let mut lab = Lab::new(seed, 1_800_000_100);
        lab.tell(1);
        lab.run(20 * 3_600, true);
        lab.put.iter().skip(1).map(|(at, _)| at % 3_600).collect::<Vec<_>>()
    };
    let (a, b) = (offsets(1), offsets(2));
    let apart = a.iter().zip(&b).map(|(a, b)| a.abs_diff(*b));
    let mean = apart.clone().sum::<u64>() / a.len() as u64;
    // Of two independent times within 600 s the mean distance is 200 s.
    assert!((100..300).contains(&mean), "{mean}: {:?}", apart.collect::<Vec<_>>());
}

#[test]
fn changes_close_together_are_published_once_and_every_slot_in_reach_has_the_last() {
    // 300 s before the end of a slot.
    let mut lab = Lab::new(1, start_of(500_001) - 300);
    lab.tell(1);
    lab.run(299, true);
    assert_eq!(lab.slots_put(), [500_000, 500_001]);
    lab.put.clear();
    let mut lab = Lab::new(1, start_of(500_001) - 400);
    lab.tell(1);
    lab.run(350, true);
    lab.put.clear();
    for counter in 2..6 {
        lab.tell(counter);
    }
    lab.run(10, true);
    assert!((1..=2).contains(&lab.put.len()), "{:?}", lab.slots_put());
    for (_, record) in &lab.put {
        let place = Place::new(&epoch(1), &device(1).public(), slot_in(record)).unwrap();
        let object = place.open(&record.value, lab.wall).unwrap();
        assert_eq!(object, sign(&presence(&device(1), 5), &device(1)));
    }
}

#[test]
fn nothing_is_published_while_nothing_changes_within_a_slot() {
    let mut lab = Lab::new(1, start_of(500_000) + 10);
    lab.tell(1);
    lab.run(2_900, true);
    lab.tell(1);
    assert_eq!(lab.put.len(), 1);
}

#[test]
fn what_was_not_read_back_is_put_again_ever_more_rarely_and_with_a_higher_sequence() {
    let mut lab = Lab::new(1, start_of(500_000) + 10);
    lab.tell(1);
    lab.run(2_900, false);
    let at: Vec<u64> = lab.put.iter().map(|(at, _)| *at).collect();
    assert!((6..12).contains(&at.len()), "{at:?}");
    let pauses: Vec<u64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses[0] <= 8 && pauses.iter().all(|pause| *pause <= 721), "{pauses:?}");
    let sequences: Vec<u64> = lab.put.iter().map(|(at, record)| sequence_in(record, *at)).collect();
    assert!(sequences.windows(2).all(|pair| pair[0] < pair[1]), "{sequences:?}");
}

#[test]
fn a_publication_without_a_word_counts_as_failed() {
    let mut lab = Lab::new(1, start_of(500_000) + 10);
    lab.says_nothing = true;
    lab.tell(1);
    lab.run(120, true);
    assert!((2..=3).contains(&lab.put.len()), "{}", lab.put.len());
}

#[test]
fn a_flapping_presence_is_published_at_most_once_in_fifteen_seconds() {
    let mut lab = Lab::new(1, start_of(500_000) + 10);
    for counter in 1..=2_000 {
        lab.tell(counter);
        lab.run(1, true);
    }
    assert!((60..=6 + 2_000 / 15).contains(&lab.put.len()), "{}", lab.put.len());
}

#[test]
fn two_changes_within_a_second_differ_in_sequence() {
    let mut lab = Lab::new(1, start_of(500_000) + 10);
    lab.tell(1);
    lab.drain(true);
    lab.tell(2);
    // The wall clock stands still while the debounce passes.
    lab.now += Duration::from_secs(3);
    lab.drain(true);
    let sequences: Vec<u64> = lab.put.iter().map(|(at, record)| sequence_in(record, *at)).collect();
    assert_eq!(sequences, [lab.wall, lab.wall + 1]);
}

#[test]
fn another_epoch_is_published_under_within_ten_minutes() {
    let mut lab = Lab::new(1, start_of(500_000) + 10);
    lab.tell(1);
    lab.run(100, true);
    lab.epoch = 2;
    lab.publisher.handle_epoch(&mut lab.rng, lab.now);
    lab.run(605, true);
    let keys = |number| *Place::new(&epoch(number), &device(1).public(), 500_000).unwrap().key();
    assert_eq!(lab.put.iter().map(|(_, record)| record.key).collect::<Vec<_>>(), [keys(1), keys(2)]);
}

#[test]
fn after_a_long_sleep_the_current_slot_is_published_at_once() {
    let mut lab = Lab::new(1, start_of(500_000) + 10);
    lab.tell(1);
    lab.run(100, true);
    lab.put.clear();
    lab.sleep(5 * 3_600);
    lab.drain(true);
    assert_eq!(lab.slots_put(), [500_005]);
}

#[test]
fn after_a_short_sleep_the_current_slot_is_published_within_ten_minutes() {
    let mut lab = Lab::new(1, start_of(500_000) + 10);
    lab.tell(1);
    lab.run(100, true);
    lab.put.clear();
    lab.sleep(3_600);
    lab.drain(true);
    assert_eq!(lab.slots_put(), [] as [u64; 0], "its last record is read for the rest of this slot");
    lab.run(600, true);
    assert_eq!(lab.slots_put(), [500_001]);
}

/// One publisher in virtual time, and all it put.
struct Lab {
    publisher: Publisher,
    rng: Rng,
    wall: u64,
    now: Instant,
    epoch: u8,
    says_nothing: bool,
    put: Vec<(u64, Record)>,
}

impl Lab {
    fn new(seed: u8, wall: u64) -> Self {
        let (publisher, rng) = (Publisher::default(), Rng::from_seed([seed; 32]));
        Self { publisher, rng, wall, now: Instant::now(), epoch: 1, says_nothing: false, put: Vec::new() }
    }

    fn tell(&mut self, counter: u64) {
        let object = sign(&presence(&device(1), counter), &device(1));
        self.publisher.handle_presence(&object, &mut self.rng, self.now);
    }

    /// Takes every record that is due; all are read back at once, or none is.
    fn drain(&mut self, is_kept: bool) {
        let (epoch, secret) = (epoch(self.epoch), device(1));
        let writer = Writer { epoch: &epoch, secret: &secret };
        while let Some(record) = self.publisher.poll_record(writer, &mut self.rng, self.wall, self.now) {
            check(&record.key, &record.value, self.wall).unwrap();
            if !self.says_nothing {
                self.publisher.handle_stored(&record.key, u32::from(is_kept), &mut self.rng, self.now);
            }
            self.put.push((self.wall, record));
        }
    }

    /// Follows the publisher's timeouts for so long.
    fn run(&mut self, seconds: u64, is_kept: bool) {
        let end = self.now + Duration::from_secs(seconds);
        let (start, wall) = (self.now, self.wall);
        self.drain(is_kept);
        let mut wakes = 0;
        while let Some(at) = self.publisher.poll_timeout().filter(|at| *at <= end) {
            wakes += 1;
            assert!(wakes < 100 + seconds, "it wakes for nothing");
            self.now = self.now.max(at);
            self.wall = wall + (self.now - start).as_secs();
            self.drain(is_kept);
        }
        (self.now, self.wall) = (end, wall + seconds);
    }

    /// The machine sleeps: no timer runs, both clocks move on.
    fn sleep(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.wall += seconds;
    }

    fn slots_put(&self) -> Vec<u64> {
        self.put.iter().map(|(_, record)| slot_in(record)).collect()
    }
}

fn slot_in(record: &Record) -> u64 {
    let slot = record.expiry / 3_600 - 2;
    assert_eq!(expiry_of(slot), record.expiry);
    slot
}

fn sequence_in(record: &Record, wall: u64) -> u64 {
    check(&record.key, &record.value, wall).unwrap().sequence
}
