//! How long the NATs of a path keep a mapping that is not used (RFC 4787 §4.3), learnt by trying.
//!
//! In: silences that a path survived, or did not. Out: how long a path in use may be silent. The search begins where every NAT
//! that is worth the name still has its mapping, and halves what is not known; what it costs is a path lost and found again, so
//! it ends after few losses.
//!
//! ```text
//! 15 s ─── 25 s ─────────────────── 70 s ─────────── 92 s ───── 115 s       a NAT of 120 s: 25, 70, 92, 103, 109 … s
//!          first                    survived         survived               a NAT of 60 s: 25, 70 (lost), 47 … s
//! ```

use std::time::Duration;

/// Silence is never shorter (chosen: RFC 8445 §11, the least between two keepalives).
const LEAST: Duration = Duration::from_secs(15);
/// The first silence (chosen: below 30 s, which Linux keeps what was never answered).
const FIRST: Duration = Duration::from_secs(25);
/// Silence is never longer (specified: RFC 4787 REQ-5 asks for mappings of 120 s).
const MOST: Duration = Duration::from_secs(115);
/// What is known closer than this is known.
const GRAIN: Duration = Duration::from_secs(8);
/// Paths that may be lost for the search, in one place.
const MAX_LOST: u8 = 2;

/// What is known of the NATs before this machine.
#[derive(Debug)]
pub struct Keepalive {
    /// The longest silence that was survived.
    survived: Duration,
    /// The shortest that was not.
    lost: Duration,
    losses: u8,
    /// Nothing was tried yet.
    is_new: bool,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { survived: LEAST, lost: MOST, losses: 0, is_new: true }
    }
}

impl Keepalive {
    /// How long a path in use may be silent.
    #[must_use]
    pub fn silence(&self) -> Duration {
        let unknown = self.lost.saturating_sub(self.survived);
        if self.is_new {
            FIRST
        } else if unknown < GRAIN || self.losses >= MAX_LOST {
            self.survived
        } else {
            self.survived + unknown / 2
        }
    }

    /// A path was there after so long a silence.
    pub fn on_survived(&mut self, silence: Duration) {
        self.is_new = false;
        self.survived = self.survived.max(silence.min(self.lost));
    }

    /// A path was gone, or another, after so long a silence. It may have been lost for another reason: half the way back is
    /// left, and nothing below is given up.
    pub fn on_lost(&mut self, silence: Duration) {
        self.is_new = false;
        self.losses = self.losses.saturating_add(1);
        self.lost = self.lost.min(silence.max(LEAST));
        if self.survived >= self.lost {
            self.survived = LEAST.max(self.lost / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The silences tried before a NAT that forgets after `timeout`.
    fn search(timeout: u64) -> Vec<u64> {
        let mut keepalive = Keepalive::default();
        let mut tried = Vec::new();
        for _ in 0..12 {
            let silence = keepalive.silence();
            tried.push(silence.as_secs());
            match silence < Duration::from_secs(timeout) {
                true => keepalive.on_survived(silence),
                false => keepalive.on_lost(silence),
            }
        }
        tried
    }

    #[test]
    fn the_silence_grows_to_just_below_what_the_nat_keeps() {
        assert_eq!(search(120)[..4], [25, 70, 92, 103]);
        assert!(search(120)[11] >= 105);
        for timeout in [30, 45, 60, 90, 300] {
            let last = search(timeout)[11];
            assert!(last < timeout && last >= LEAST.as_secs(), "{timeout}: {:?}", search(timeout));
        }
    }

    #[test]
    fn the_search_costs_few_paths_whatever_the_nat_does() {
        // What a NAT forgets within the least silence cannot be kept.
        for timeout in LEAST.as_secs() + 1..200 {
            let lost = search(timeout).iter().filter(|silence| **silence >= timeout).count();
            assert!(lost <= usize::from(MAX_LOST) + 1, "{timeout}: {:?}", search(timeout));
        }
    }

    #[test]
    fn silences_stay_within_bounds_whatever_is_learnt() {
        let mut keepalive = Keepalive::default();
        for secs in [0, 500, 1, 60, 20, 3_600, 15, 14] {
            keepalive.on_survived(Duration::from_secs(secs));
            assert!((LEAST..=MOST).contains(&keepalive.silence()));
            keepalive.on_lost(Duration::from_secs(secs));
            assert!((LEAST..=MOST).contains(&keepalive.silence()));
        }
    }
}
