//! The two clocks of one machine, each wrong in its own way.
//!
//! The monotonic one may stand still while the machine sleeps (`CLOCK_MONOTONIC` on Linux) or go on
//! (`CLOCK_BOOTTIME`, and what other systems have); the wall clock is off by any amount, and may be set.

use std::time::{Duration, Instant};

/// The true time at the start of every run, in milliseconds since 1970.
const TRUE_START_MS: u64 = 1_700_000_000_000;

/// How one machine's clocks differ from the true time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// How long the monotonic clock has stood still so far.
    behind: Duration,
    /// Milliseconds that the wall clock is ahead of the true time.
    pub(crate) off_ms: i64,
}

impl Clock {
    /// A clock that is `off_ms` ahead of the true time.
    pub(crate) fn off_by(off_ms: i64) -> Self {
        Self { behind: Duration::ZERO, off_ms }
    }

    /// What shows 1970 at the true time `now`.
    pub(crate) fn set_to_1970(&mut self, now: Duration) {
        self.off_ms = -((TRUE_START_MS + now.as_millis() as u64) as i64);
    }

    /// The monotonic clock stood still for this long.
    pub(crate) fn stand_still(&mut self, duration: Duration) {
        self.behind += duration;
    }

    /// What the monotonic clock shows at the true time `now`.
    pub(crate) fn monotonic(&self, base: Instant, now: Duration) -> Instant {
        base + now.saturating_sub(self.behind)
    }

    /// The true time at which the monotonic clock shows `at`.
    pub(crate) fn due(&self, base: Instant, at: Instant) -> Duration {
        at.saturating_duration_since(base) + self.behind
    }

    /// What the wall clock shows at the true time `now`, in milliseconds since 1970; it stops there.
    pub(crate) fn wall_ms(&self, now: Duration) -> u64 {
        (TRUE_START_MS + now.as_millis() as u64).saturating_add_signed(self.off_ms)
    }
}
