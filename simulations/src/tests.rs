//! What a simulation must be before it may judge: the same each time. And the seeds that failed once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{Result, Write};
use std::rc::Rc;

use crate::scenario;
use crate::trace::Trace;

#[test]
fn the_same_seed_gives_the_same_trace_to_the_byte() {
    for (seed, story) in scenario::names().enumerate() {
        let first = trace_of(story, seed as u64);
        assert!(first.len() > 5_000, "{story} does something");
        assert!(first == trace_of(story, seed as u64), "{story} {seed} differs from itself");
    }
}

#[test]
fn every_story_is_told_by_some_seed_of_a_hundred() {
    let told: BTreeSet<_> = (0..100).map(scenario::story_of).collect();
    assert_eq!(told, scenario::names().collect());
}

#[test]
fn seeds_that_failed_once_pass() {
    for line in include_str!("../regressions/seeds.txt").lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let (story, seed) = words.next().zip(words.next()).unwrap();
        let outcome = scenario::run(story, seed.parse().unwrap(), Trace::default());
        assert_eq!(outcome, Ok(()), "{story} {seed}");
    }
}

/// What is written here can be read by whoever holds a clone.
#[derive(Clone, Default)]
struct Kept(Rc<RefCell<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

fn trace_of(story: &str, seed: u64) -> Vec<u8> {
    let kept = Kept::default();
    let outcome = scenario::run(story, seed, Trace::to(kept.clone()));
    assert_eq!(outcome, Ok(()), "{story} {seed}");
    kept.0.take()
}
