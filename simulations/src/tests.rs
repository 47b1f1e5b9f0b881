//! What a simulation must be before it may judge: the same each time. And the seeds that failed once.

use std::cell::RefCell;
use std::io::{Result, Write};
use std::rc::Rc;

use crate::scenario;
use crate::trace::Trace;

#[test]
fn the_same_seed_gives_the_same_trace_to_the_byte() {
    for seed in 0..16 {
        let first = trace_of(seed);
        assert!(first.len() > 5_000, "seed {seed} does something");
        assert!(first == trace_of(seed), "seed {seed} differs from itself");
    }
}

#[test]
fn seeds_that_failed_once_pass() {
    let seeds =
        include_str!("../regressions/seeds.txt").lines().filter_map(|line| line.split_whitespace().next());
    for seed in seeds.filter(|word| !word.starts_with('#')) {
        let seed = seed.parse().unwrap();
        let outcome = scenario::run(seed, Trace::default());
        assert_eq!(outcome, Ok(()), "seed {seed}");
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

fn trace_of(seed: u64) -> Vec<u8> {
    let kept = Kept::default();
    let outcome = scenario::run(seed, Trace::to(kept.clone()));
    assert_eq!(outcome, Ok(()), "seed {seed}");
    kept.0.take()
}
