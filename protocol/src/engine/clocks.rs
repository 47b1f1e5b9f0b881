//! Whether this machine's wall clock and those of others go together: only for a person to read, nothing is decided by it.
//!
//! An initiation whose time is out of bounds is dropped in silence, and its maker hears nothing. What can be told is told
//! here: that datagrams which only a member can have made come with times that are off by one and the same amount. A
//! recording played again is off by more and more.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Engine, Time};
use crate::membership::object::Kind;

/// Strays that are remembered (chosen: the attempts of one handshake).
const MAX_STRAYS: usize = 8;
/// For how long what was seen is worth telling.
const TOLD_FOR: Duration = Duration::from_secs(300);
/// Two strays whose offsets differ by less come from one clock.
const SAME_MS: u64 = 5_000;
/// Two strays made closer together than this may be copies.
const APART_MS: u64 = 500;
/// Clocks that differ by less are as good as equal.
const SLIGHT_MS: u64 = 60_000;
/// This machine's clock is behind an admin's object by so much: it is wrong.
const BEHIND_SECONDS: u64 = 300;

/// What was seen of others' clocks.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    /// When, its maker's clock, and how far that is ahead of this one's, in milliseconds.
    strays: VecDeque<(Instant, u64, i64)>,
    told: Option<(Instant, i64)>,
    /// How far the right time is ahead of this machine's, in milliseconds, where that is known to be off.
    offset_ms: i64,
}

impl Clocks {
    /// Counts with a clock that is this far ahead of the machine's, in milliseconds.
    pub(super) fn set_offset(&mut self, offset_ms: i64) {
        self.offset_ms = offset_ms;
    }

    /// The time for veils and slots.
    pub(super) fn true_ms(&self, wall_ms: u64) -> u64 {
        wall_ms.saturating_add_signed(self.offset_ms)
    }

    /// Notes an authentic datagram that was dropped for its time.
    pub(super) fn on_stray(&mut self, time_ms: u64, time: Time) {
        let ahead = ahead_ms(time_ms, time);
        // Made before this process started: nothing is wrong with a clock.
        if ahead.unsigned_abs() < SAME_MS {
            return;
        }
        let is_same = |(_, other_ms, other): &(Instant, u64, i64)| {
            other_ms.abs_diff(time_ms) >= APART_MS && other.abs_diff(ahead) < SAME_MS
        };
        if self.strays.iter().any(is_same) {
            self.told = Some((time.now, ahead));
        }
        if self.strays.len() >= MAX_STRAYS {
            self.strays.pop_front();
        }
        self.strays.push_back((time.now, time_ms, ahead));
    }

    /// Notes the time in the response to a handshake of this node's.
    pub(super) fn on_response(&mut self, time_ms: u64, time: Time) {
        let ahead = ahead_ms(time_ms, time);
        if ahead.unsigned_abs() >= SLIGHT_MS {
            self.told = Some((time.now, ahead));
        }
    }
}

fn ahead_ms(time_ms: u64, time: Time) -> i64 {
    i64::try_from(i128::from(time_ms) - i128::from(time.wall_ms)).unwrap_or(i64::MAX)
}

impl Engine {
    /// How far another member's clock was last seen to be ahead of this machine's (negative: behind), in seconds, if it
    /// was far and lately.
    #[must_use]
    pub fn clock_ahead_secs(&self, now: Instant) -> Option<i64> {
        let (at, ahead_ms) = self.clocks.told?;
        (now < at + TOLD_FOR).then_some(ahead_ms / 1_000)
    }

    /// By how many seconds this machine's clock is behind the newest object that an admin signed, if it is wrong by that.
    #[must_use]
    pub fn clock_behind_secs(&self, wall_secs: u64) -> Option<u64> {
        let objects = self.roster.objects();
        let by_admins = [Kind::Charter, Kind::Invite, Kind::Epoch];
        let newest =
            by_admins.iter().flat_map(|kind| objects.of_kind(*kind)).map(|object| object.body().time());
        let behind = newest.max()?.saturating_sub(wall_secs);
        (behind >= BEHIND_SECONDS).then_some(behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL_MS: u64 = 1_800_000_000_000;

    fn at(start: Instant, ms: u64) -> Time {
        Time { now: start + Duration::from_millis(ms), wall_ms: WALL_MS + ms }
    }

    #[test]
    fn attempts_by_one_wrong_clock_are_told_and_recordings_are_not() {
        let start = Instant::now();
        let (mut clocks, hour) = (Clocks::default(), 3_600_000);
        for ms in [0, 1_000, 3_100] {
            clocks.on_stray(WALL_MS + ms - hour, at(start, ms));
        }
        assert_eq!(clocks.told.map(|(_, ahead)| ahead), Some(-3_600_000));

        let mut played = Clocks::default();
        for ms in [0, 9_000, 27_000] {
            // One recording, and another of minutes later, soon after it.
            played.on_stray(WALL_MS - hour, at(start, ms));
            played.on_stray(WALL_MS - hour + 200_000, at(start, ms + 2_000));
        }
        assert_eq!(played.told, None);
        assert!(played.strays.len() <= MAX_STRAYS);
    }

    #[test]
    fn a_response_tells_a_difference_that_matters() {
        let (mut clocks, start) = (Clocks::default(), Instant::now());
        clocks.on_response(WALL_MS + 30_000, at(start, 0));
        assert_eq!(clocks.told, None);
        clocks.on_response(WALL_MS + 100_000, at(start, 0));
        assert_eq!(clocks.told.map(|(_, ahead)| ahead), Some(100_000));
        clocks.on_response(0, at(start, 0));
        assert_eq!(clocks.told.map(|(_, ahead)| ahead), Some(-(WALL_MS as i64)));
    }
}
