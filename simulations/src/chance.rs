//! Chance, from one seed: everything that a run draws.

use std::time::Duration;

use protocol::random::{self, Rng};
use rand_core::{Rng as _, SeedableRng as _};

/// The dice of one run.
pub(crate) struct Chance(Rng);

impl Chance {
    /// The dice of run number `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(Rng::seed_from_u64(seed))
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    /// True `percent` times in a hundred.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A duration of at least `from` and less than `to`, which is later, in whole microseconds.
    pub(crate) fn between(&mut self, from: Duration, to: Duration) -> Duration {
        from + Duration::from_micros(self.below((to - from).as_micros() as u64))
    }

    /// Random bytes.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        random::bytes(&mut self.0)
    }

    /// `length` random bytes.
    pub(crate) fn blob(&mut self, length: usize) -> Vec<u8> {
        let mut blob = vec![0; length];
        self.0.fill_bytes(&mut blob);
        blob
    }

    /// One of `choices`, which are not none.
    pub(crate) fn pick<'c, T>(&mut self, choices: &'c [T]) -> &'c T {
        &choices[self.below(choices.len() as u64) as usize]
    }
}
