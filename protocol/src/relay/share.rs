//! How much one member may have passed on, so that one that floods leaves the others theirs.
//!
//! In: a datagram's member and size. Out: whether it is passed on. Whoever sends little is never refused; those who send
//! much share what there is equally.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Bytes a second that are passed on in all (chosen: 4 Gbit/s, what one thread can do; a flood beyond it costs its
/// reception alone).
pub const TOTAL_BYTES: f64 = 512.0 * 1_048_576.0;
/// Bytes of one member at once (chosen: what a socket's buffer holds after a pause of the thread).
pub const BURST_BYTES: f64 = 8.0 * 1_048_576.0;
/// How often is counted who sends much, and over what time.
const WINDOW: Duration = Duration::from_millis(250);
/// Bytes in a window from which on a member sends much: less is granted to each, whoever else sends.
const MUCH_BYTES: f64 = 2.0 * 1_048_576.0;

/// What one member sent lately, and may send.
#[derive(Debug)]
struct Share {
    left: f64,
    at: Instant,
    /// Asked for in this window.
    wanted: f64,
    sends_much: bool,
}

/// What all members sent lately, by a number for each.
#[derive(Debug, Default)]
pub struct Shares {
    all: BTreeMap<u32, Share>,
    counted_at: Option<Instant>,
    /// How many send much.
    many: u32,
}

impl Shares {
    /// Says whether `bytes` of `member` are passed on.
    pub fn take(&mut self, member: u32, bytes: usize, now: Instant) -> bool {
        if self.counted_at.is_none_or(|at| now >= at + WINDOW) {
            self.count(now);
        }
        let bytes = bytes as f64;
        let fresh = Share { left: BURST_BYTES, at: now, wanted: 0.0, sends_much: false };
        let share = self.all.entry(member).or_insert(fresh);
        let rate = TOTAL_BYTES / f64::from(self.many.max(1));
        let passed = now.saturating_duration_since(share.at).as_secs_f64();
        share.left = (share.left + passed * rate).min(BURST_BYTES);
        share.at = now;
        share.wanted += bytes;
        let fits = share.left >= bytes;
        if fits {
            share.left -= bytes;
        }
        fits
    }

    /// Forgets who was silent for a window, and counts those who were not.
    fn count(&mut self, now: Instant) {
        let windows = self
            .counted_at
            .map_or(1.0, |at| now.saturating_duration_since(at).as_secs_f64() / WINDOW.as_secs_f64());
        self.counted_at = Some(now);
        self.all.retain(|_, share| share.wanted > 0.0);
        for share in self.all.values_mut() {
            share.sends_much = share.wanted >= MUCH_BYTES * windows;
            share.wanted = 0.0;
        }
        self.many = self.all.values().filter(|share| share.sends_much).count() as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs for two seconds; members want so many datagrams of 1,400 bytes a millisecond. What each got of what it wanted
    /// in the second one.
    fn run(wishes: &[usize]) -> Vec<f64> {
        let (mut shares, start) = (Shares::default(), Instant::now());
        let mut got = vec![0; wishes.len()];
        for ms in 0..2_000 {
            let now = start + Duration::from_millis(ms);
            for (member, wish) in wishes.iter().enumerate() {
                let taken = (0..*wish).filter(|_| shares.take(member as u32, 1_400, now)).count();
                got[member] += if ms >= 1_000 { taken } else { 0 };
            }
        }
        got.iter().zip(wishes).map(|(got, wish)| *got as f64 / (*wish as f64 * 1_000.0)).collect()
    }

    #[test]
    fn one_alone_has_all_there_is() {
        assert!(run(&[300])[0] > 0.999);
        let flooder = run(&[4_000])[0] * 4_000.0 * 1_400.0 * 1_000.0;
        assert!((0.97..1.03).contains(&(flooder / TOTAL_BYTES)), "{flooder} bytes a second");
    }

    #[test]
    fn beside_a_flooder_the_others_have_what_they_want_up_to_equal_shares() {
        let got = run(&[4_000, 150, 5, 1]);
        assert!(got[1..].iter().all(|part| *part > 0.999), "{got:?}");
        assert!(got[0] < 0.06, "{got:?}: half of all is an eighth of a tenth of what it wants");
    }

    #[test]
    fn who_is_silent_is_forgotten() {
        let (mut shares, start) = (Shares::default(), Instant::now());
        for member in 0..10_000 {
            assert!(shares.take(member, 1_400, start + Duration::from_millis(u64::from(member))));
        }
        assert!(shares.all.len() <= 500, "{} are remembered", shares.all.len());
    }
}
