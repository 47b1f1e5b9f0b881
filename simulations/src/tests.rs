//! What a simulation must be before it may judge: the same each time. And the seeds that failed once.

use crate::scenario;
use crate::trace::Trace;

fn trace_of(seed: u64) -> String {
    match scenario::run(seed, Trace::Keep(String::new())).0.trace {
        Trace::Keep(text) => text,
        Trace::Off | Trace::Print => unreachable!("the trace was to be kept"),
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_to_the_byte() {
    for seed in 0..16 {
        let first = trace_of(seed);
        assert!(first.lines().count() > 100, "seed {seed} does something");
        assert!(first == trace_of(seed), "seed {seed} differs from itself");
    }
}

#[test]
fn seeds_that_failed_once_pass() {
    let seeds =
        include_str!("../regressions/seeds.txt").lines().filter_map(|line| line.split_whitespace().next());
    for seed in seeds.filter(|word| !word.starts_with('#')) {
        let seed = seed.parse().unwrap();
        let (_, outcome) = scenario::run(seed, Trace::Off);
        assert_eq!(outcome, Ok(()), "seed {seed}");
    }
}
