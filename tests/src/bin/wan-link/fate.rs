//! What becomes of a packet: dropped before a full queue, lost, sent twice, held up; and when it leaves. Pure: time is an
//! argument, chance comes from a seed.
//!
//! The numbers are SplitMix64 (Steele, Lea and Flood 2014). Every packet draws the same count of them, so that the n-th
//! packet's fate does not hang on the times at which packets come.

use std::time::{Duration, Instant};

/// What a line does to packets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Impairment {
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    /// 0 to 1, as the next two.
    pub(crate) loss: f64,
    pub(crate) duplicate: f64,
    pub(crate) reorder: f64,
    pub(crate) hold: Duration,
    pub(crate) rate: Option<Rate>,
}

/// A line that takes time for each byte, and the queue before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) bits_per_second: u64,
    pub(crate) queue_bytes: u64,
}

/// What becomes of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The queue was full.
    Dropped,
    /// Lost on the way.
    Lost,
    /// Leaves at an instant; behind it all that came later, unless it is held up.
    Leaves { at: Instant, is_twice: bool, is_held: bool },
}

/// One direction of a line.
#[derive(Debug)]
pub(crate) struct Line {
    impairment: Impairment,
    random: u64,
    /// When the line has sent what waits before it.
    free_at: Option<Instant>,
    last_at: Option<Instant>,
}

impl Line {
    /// A line on which nothing waits.
    pub(crate) fn new(impairment: Impairment, seed: u64) -> Self {
        Self { impairment, random: seed, free_at: None, last_at: None }
    }

    /// Decides about a packet of `length_bytes` that comes at `now`.
    pub(crate) fn decide(&mut self, length_bytes: usize, now: Instant) -> Fate {
        let [loss, duplicate, reorder, jitter] = [(); 4].map(|()| self.draw());
        let Some(sent_at) = self.pass_queue(length_bytes, now) else { return Fate::Dropped };
        let Impairment { delay, jitter: spread, hold, .. } = self.impairment;
        if loss < self.impairment.loss {
            return Fate::Lost;
        }
        let is_held = reorder < self.impairment.reorder;
        let due_at = sent_at + delay + spread.mul_f64(jitter);
        let at = if is_held {
            due_at + hold
        } else {
            let at = self.last_at.map_or(due_at, |last_at| last_at.max(due_at));
            self.last_at = Some(at);
            at
        };
        Fate::Leaves { at, is_twice: duplicate < self.impairment.duplicate, is_held }
    }

    /// When the last byte of the packet has left the queue, or nothing if the queue has no room for it.
    fn pass_queue(&mut self, length_bytes: usize, now: Instant) -> Option<Instant> {
        let Some(rate) = self.impairment.rate else { return Some(now) };
        let begin_at = self.free_at.map_or(now, |free_at| free_at.max(now));
        let waiting = begin_at.duration_since(now).as_nanos() * u128::from(rate.bits_per_second) / NANO_BITS;
        if waiting + length_bytes as u128 > u128::from(rate.queue_bytes) {
            return None;
        }
        let nanos = length_bytes as u128 * NANO_BITS / u128::from(rate.bits_per_second);
        let sent_at = begin_at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free_at = Some(sent_at);
        Some(sent_at)
    }

    /// Evenly spread from 0 to below 1.
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        #[expect(clippy::cast_precision_loss, reason = "53 bits, which a f64 holds")]
        let draw = (mixed >> 11) as f64 / (1_u64 << 53) as f64;
        draw
    }
}

/// Nanoseconds of a second times bytes of a bit: bytes × this / (bits per second) = nanoseconds.
const NANO_BITS: u128 = 8 * 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: Impairment = Impairment {
        delay: Duration::from_millis(10),
        jitter: Duration::ZERO,
        loss: 0.0,
        duplicate: 0.0,
        reorder: 0.0,
        hold: Duration::from_millis(5),
        rate: None,
    };
    const COUNT: u32 = 10_000;

    fn fates(impairment: Impairment, seed: u64, interval: Duration) -> Vec<(Instant, Fate)> {
        let (mut line, begin) = (Line::new(impairment, seed), Instant::now());
        (0..COUNT).map(|number| begin + interval * number).map(|now| (now, line.decide(1000, now))).collect()
    }

    fn leaving(fates: &[(Instant, Fate)]) -> Vec<Instant> {
        fates
            .iter()
            .filter_map(|(_, fate)| if let Fate::Leaves { at, .. } = fate { Some(*at) } else { None })
            .collect()
    }

    #[test]
    fn a_clean_line_only_delays() {
        for (now, fate) in fates(CLEAN, 1, Duration::from_millis(1)) {
            assert_eq!(fate, Fate::Leaves { at: now + CLEAN.delay, is_twice: false, is_held: false });
        }
    }

    #[test]
    fn shares_are_met_within_four_standard_deviations() {
        let impairment = Impairment { loss: 0.1, duplicate: 0.05, reorder: 0.02, ..CLEAN };
        let fates = fates(impairment, 7, Duration::from_millis(1));
        let share = |is: fn(&Fate) -> bool| fates.iter().filter(|(_, fate)| is(fate)).count();
        // Of 10,000: lost 1,000 ± 4 × 30; of the 9,000 others, twice 450 ± 4 × 21, held 180 ± 4 × 13.
        let lost = share(|fate| matches!(fate, Fate::Lost));
        let twice = share(|fate| matches!(fate, Fate::Leaves { is_twice: true, .. }));
        let held = share(|fate| matches!(fate, Fate::Leaves { is_held: true, .. }));
        assert!((880..=1120).contains(&lost), "{lost} lost");
        assert!((366..=534).contains(&twice), "{twice} twice");
        assert!((128..=232).contains(&held), "{held} held");
    }

    #[test]
    fn equal_seeds_have_equal_fates_whenever_packets_come() {
        let impairment = Impairment { loss: 0.1, ..CLEAN };
        let lost = |seed, interval| {
            let fates = fates(impairment, seed, interval);
            fates.iter().map(|(_, fate)| *fate == Fate::Lost).collect::<Vec<_>>()
        };
        let first = lost(7, Duration::from_millis(1));
        assert_eq!(first, lost(7, Duration::from_micros(3)));
        assert_ne!(first, lost(8, Duration::from_millis(1)));
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let impairment = Impairment { jitter: Duration::from_millis(20), ..CLEAN };
        let times = leaving(&fates(impairment, 3, Duration::from_millis(1)));
        assert!(times.is_sorted());
        assert!(times.windows(2).any(|pair| pair[0] == pair[1]), "nothing had to wait for the one before it");
        let impairment = Impairment { reorder: 0.01, ..CLEAN };
        assert!(!leaving(&fates(impairment, 3, Duration::from_millis(1))).is_sorted());
    }

    #[test]
    fn a_rate_spaces_packets_and_a_full_queue_drops() {
        // 8 Mbit/s: 1,000 bytes a millisecond; they come twice as fast, and ten fit into the queue.
        let rate = Some(Rate { bits_per_second: 8_000_000, queue_bytes: 10_000 });
        let fates = fates(Impairment { rate, ..CLEAN }, 1, Duration::from_micros(500));
        let times = leaving(&fates);
        for pair in times.windows(2) {
            assert_eq!(pair[1] - pair[0], Duration::from_millis(1));
        }
        let dropped = fates.iter().filter(|(_, fate)| *fate == Fate::Dropped).count();
        assert!((4980..=5000).contains(&dropped), "{dropped}");
        let wait = fates.iter().filter_map(|(now, fate)| match fate {
            Fate::Leaves { at, .. } => Some(*at - *now - CLEAN.delay),
            Fate::Dropped | Fate::Lost => None,
        });
        assert!(wait.max().is_some_and(|wait| wait <= Duration::from_millis(10)));
    }
}
