//! Counters; one for each reason to drop.
//!
//! Shared by the pump's threads and the driver: counting is one relaxed addition, without a lock. What is counted is
//! told as [`Family`]s (`vpi metrics`).

mod family;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use protocol::drop::DropReason;

pub(crate) use family::{Family, Kind};

/// How often each [`DropReason`] was met since the start.
#[derive(Debug)]
pub(crate) struct Drops([AtomicU64; DropReason::COUNT]);

impl Default for Drops {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; DropReason::COUNT])
    }
}

impl Drops {
    /// Counts one drop.
    pub(crate) fn count(&self, reason: DropReason) {
        // No order is implied: a counter says nothing about other memory.
        self.counter(reason).fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the counters that are not zero, by name.
    #[must_use]
    pub(crate) fn snapshot(&self) -> BTreeMap<String, u64> {
        self.all().filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), count)).collect()
    }

    /// Returns every counter with its name.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        DropReason::ALL.iter().map(|reason| (reason.name(), self.counter(*reason).load(Ordering::Relaxed)))
    }

    fn counter(&self, reason: DropReason) -> &AtomicU64 {
        self.0.get(reason as usize).expect("reasons are numbered from 0 and there is a counter for each")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        let drops = Drops::default();
        assert!(drops.snapshot().is_empty());
        for (times, reason) in DropReason::ALL.iter().enumerate() {
            (0..=times).for_each(|_| drops.count(*reason));
        }
        let counts = drops.snapshot();
        for (times, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(counts.get(reason.name()), Some(&(times as u64 + 1)), "{reason}");
        }
    }

    #[test]
    fn drops_counted_by_threads_add_up() {
        let drops = Drops::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|_| drops.count(DropReason::Forged)));
            }
        });
        assert_eq!(drops.snapshot().get("forged"), Some(&4_000));
    }
}
