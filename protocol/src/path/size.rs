//! How large packets may be on the path that is used (RFC 8899, without any word of routers).
//!
//! In: echoes of probes, the word that large packets are sent, time. Out: sizes to probe, and the size that packets are cut to.
//! A path begins at its base size, which every path should carry. Nothing is believed of a router: what is too large may be
//! dropped in silence, and a path may become smaller while it is used, so what is in use is confirmed again and again.
//!
//! ```text
//! full ──echo──► settled ◄──────────────── search: halves, until 16 bytes are left; full once more where all passed
//!   └─ 3 lost ─► base ──echo──────────────────► ▲
//!                 └─ 3 lost ─► settled, a hole: not even the base size passes
//! settled ── large packets are sent, 2 s since the last ──► confirm ──echo──► settled
//!         │                                                     └─ 6 lost ─► base
//!         └─ large packets are sent, 15, 30 … 600 s since a larger size was lost ──► full
//! ```

use std::time::{Duration, Instant};

use super::FULL_PACKET_BYTES;

/// Probes of one size, before it counts as too large (specified: RFC 8899 §5.1.2, `MAX_PROBES`).
const PROBES: u8 = 3;
/// Of a size between base and full (chosen: one that was lost by chance costs some bytes a packet).
const SEARCH_PROBES: u8 = 2;
/// Of the size in use, before it counts as too large (chosen: where one datagram in twenty is lost, six in a row and their
/// echoes are once in a million times; packets that are cut for nothing are lost twice as often).
const CONFIRM_PROBES: u8 = 6;
/// Between probes of the full size (chosen: they are many bytes, and most paths echo the first).
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// Between probes of other sizes, at least; one and a half round trips where that is longer (chosen).
const PAUSE: Duration = Duration::from_millis(300);
/// The search ends when so few bytes are between what passes and what does not (chosen: about one in a hundred).
const CLOSE_BYTES: u16 = 16;
/// While large packets are sent, their size is confirmed as often (chosen: what TCP waits itself after a few losses).
const CONFIRM_EVERY: Duration = Duration::from_secs(2);
/// The full size is tried again so long after it did not pass, each time twice as long, if large packets are sent (chosen: it
/// may have been chance, and costs three datagrams).
const RAISE_AFTER: Duration = Duration::from_secs(15);
/// At last so long (specified: RFC 8899 §5.1.1).
const RAISE_AFTER_MAX: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The full size is tried.
    Full { left: u8 },
    /// `too_large` did not pass: does the base size?
    Base { left: u8, too_large: u16 },
    /// The size half-way between what passes and what does not is tried.
    Search { left: u8, too_large: u16 },
    /// Nothing is tried.
    Settled,
    /// Does the size in use still pass?
    Confirm { left: u8 },
}

/// What one path carries.
#[derive(Debug)]
pub(super) struct Size {
    /// The base size, and the size in use.
    base: u16,
    bytes: u16,
    stage: Stage,
    due_at: Instant,
    /// When the size in use last echoed.
    confirmed_at: Instant,
    /// When a larger one did not, last, and how long that is believed.
    failed: Option<(Instant, Duration)>,
    is_hole: bool,
    /// The search came to an end before, and what is in use was not lost since.
    has_settled: bool,
}

impl Size {
    /// A path whose base size is `base`.
    pub(super) fn new(base: u16, now: Instant) -> Self {
        let stage = if base < FULL_PACKET_BYTES { Stage::Full { left: PROBES } } else { Stage::Settled };
        Self {
            base,
            bytes: base,
            stage,
            due_at: now,
            confirmed_at: now,
            failed: None,
            is_hole: false,
            has_settled: false,
        }
    }

    /// The largest packet that is sent whole.
    pub(super) fn bytes(&self) -> u16 {
        self.bytes
    }

    /// Says whether what is larger may be told so: nothing larger is being tried, or only once more what did not pass.
    pub(super) fn is_settled(&self) -> bool {
        self.has_settled || matches!(self.stage, Stage::Settled | Stage::Confirm { .. })
    }

    /// Says whether small datagrams pass and those of the base size do not.
    pub(super) fn is_hole(&self) -> bool {
        self.is_hole
    }

    /// Says whether larger packets were tried and did not pass.
    pub(super) fn is_narrow(&self) -> bool {
        self.failed.is_some() && self.bytes < FULL_PACKET_BYTES && self.is_settled()
    }

    /// Notes that packets as large as the base size are sent.
    pub(super) fn on_large(&mut self, now: Instant) {
        if self.stage != Stage::Settled || self.base >= FULL_PACKET_BYTES {
            return;
        }
        if self.bytes < FULL_PACKET_BYTES && self.failed.is_none_or(|(at, pause)| now >= at + pause) {
            (self.stage, self.due_at) = (Stage::Full { left: PROBES }, now);
        } else if now >= self.confirmed_at + CONFIRM_EVERY {
            (self.stage, self.due_at) = (Stage::Confirm { left: CONFIRM_PROBES }, now);
        }
    }

    /// The size to probe, if one is due.
    pub(super) fn poll(&mut self, rtt: Option<Duration>, now: Instant) -> Option<u16> {
        let pause = rtt.map_or(PAUSE, |rtt| PAUSE.max(rtt * 3 / 2));
        loop {
            if self.stage == Stage::Settled || now < self.due_at {
                return None;
            }
            let (stage, probe) = match self.stage {
                Stage::Settled => return None,
                Stage::Full { left: 0 } => (self.fall(FULL_PACKET_BYTES, now), None),
                Stage::Full { left } => {
                    (Stage::Full { left: left - 1 }, Some((FULL_PACKET_BYTES, FULL_PAUSE)))
                }
                Stage::Confirm { left: 0 } => (self.fall(self.bytes, now), None),
                Stage::Confirm { left } => (Stage::Confirm { left: left - 1 }, Some((self.bytes, pause))),
                Stage::Base { left: 0, .. } => {
                    self.is_hole = true;
                    self.confirmed_at = now;
                    (self.settle(), None)
                }
                Stage::Base { left, too_large } => {
                    (Stage::Base { left: left - 1, too_large }, Some((self.base, pause)))
                }
                Stage::Search { too_large, .. } if too_large.saturating_sub(self.bytes) <= CLOSE_BYTES => {
                    // Where all between passed, the full size may have been lost by chance.
                    match too_large {
                        FULL_PACKET_BYTES => (Stage::Full { left: PROBES }, None),
                        _ => (self.settle(), None),
                    }
                }
                Stage::Search { left: 0, too_large } => {
                    (Stage::Search { left: SEARCH_PROBES, too_large: self.bytes.midpoint(too_large) }, None)
                }
                Stage::Search { left, too_large } => {
                    let probe = (self.bytes.midpoint(too_large), pause);
                    (Stage::Search { left: left - 1, too_large }, Some(probe))
                }
            };
            self.stage = stage;
            if let Some((bytes, pause)) = probe {
                self.due_at = now + pause;
                return Some(bytes);
            }
        }
    }

    /// When [`Size::poll`] is to be asked again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        (self.stage != Stage::Settled).then_some(self.due_at)
    }

    /// Takes in the echo of a probe of `bytes`, however late; returns whether packets are cut to another size from here on.
    pub(super) fn on_echo(&mut self, bytes: u16, now: Instant) -> bool {
        let is_larger = bytes > self.bytes;
        self.bytes = self.bytes.max(bytes);
        self.is_hole = false;
        if bytes < self.bytes {
            return false;
        }
        self.confirmed_at = now;
        self.stage = match self.stage {
            Stage::Full { .. } | Stage::Settled | Stage::Confirm { .. } => self.settle(),
            Stage::Base { too_large, .. } | Stage::Search { too_large, .. } if bytes < too_large => {
                self.due_at = now;
                Stage::Search { left: SEARCH_PROBES, too_large }
            }
            Stage::Base { .. } | Stage::Search { .. } => self.settle(),
        };
        is_larger
    }

    /// `too_large` did not pass: packets are cut to the base size until more is known.
    fn fall(&mut self, too_large: u16, now: Instant) -> Stage {
        let pause = self.failed.map_or(RAISE_AFTER, |(_, pause)| RAISE_AFTER_MAX.min(pause * 2));
        self.failed = Some((now, pause));
        // What did not pass at the base size itself is no larger size.
        let too_large = if too_large > self.base { too_large } else { FULL_PACKET_BYTES };
        // A smaller size that echoed just now is not given up because the full one did not.
        if self.bytes >= too_large {
            self.bytes = self.base;
        }
        match self.bytes {
            bytes if bytes == self.base => {
                self.has_settled = false;
                Stage::Base { left: PROBES, too_large }
            }
            bytes if too_large - bytes <= CLOSE_BYTES => self.settle(),
            _ => Stage::Search { left: SEARCH_PROBES, too_large },
        }
    }

    fn settle(&mut self) -> Stage {
        self.has_settled = true;
        Stage::Settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::BASE_PACKET_BYTES;

    /// A path that carries `mtu` bytes, from `now` on until it has settled; the time then, and how many probes it took.
    fn settle(size: &mut Size, mtu: u16, mut now: Instant) -> (Instant, usize) {
        let mut probes = 0;
        while let Some(at) = size.poll_timeout() {
            now = now.max(at);
            let Some(bytes) = size.poll(None, now) else { continue };
            probes += 1;
            if bytes <= mtu {
                size.on_echo(bytes, now + Duration::from_millis(20));
            }
        }
        (now, probes)
    }

    #[test]
    fn every_size_is_found_within_some_bytes_and_a_dozen_probes() {
        for mtu in BASE_PACKET_BYTES..=FULL_PACKET_BYTES {
            let start = Instant::now();
            let mut size = Size::new(BASE_PACKET_BYTES, start);
            let (settled_at, probes) = settle(&mut size, mtu, start);
            assert!(size.bytes() <= mtu && mtu - size.bytes() <= CLOSE_BYTES, "{mtu}: {}", size.bytes());
            assert!(size.is_settled() && !size.is_hole());
            assert!(probes <= 14 && settled_at - start <= Duration::from_secs(10), "{mtu}: {probes}");
        }
    }

    #[test]
    fn a_path_that_shrinks_while_it_is_used_is_followed_and_grows_again_later() {
        let start = Instant::now();
        let mut size = Size::new(BASE_PACKET_BYTES, start);
        settle(&mut size, FULL_PACKET_BYTES, start);
        assert_eq!(size.bytes(), FULL_PACKET_BYTES);
        let later = start + Duration::from_secs(100);
        size.on_large(later);
        let (settled_at, _) = settle(&mut size, 1_300, later);
        assert!((1_284..=1_300).contains(&size.bytes()), "{}", size.bytes());
        assert!(settled_at - later <= Duration::from_secs(6));
        size.on_large(settled_at + Duration::from_secs(3));
        settle(&mut size, 1_300, settled_at + Duration::from_secs(3));
        assert!((1_284..=1_300).contains(&size.bytes()), "{}", size.bytes());
        let at = settled_at + RAISE_AFTER;
        size.on_large(at);
        settle(&mut size, FULL_PACKET_BYTES, at);
        assert_eq!(size.bytes(), FULL_PACKET_BYTES);
    }

    #[test]
    fn one_datagram_of_twenty_lost_does_not_keep_a_path_below_its_size() {
        // Probe or echo: one in ten, by a fixed sequence (Knuth's MMIX).
        let (mut state, start) = (7_u64, Instant::now());
        let mut size = Size::new(BASE_PACKET_BYTES, start);
        let mut small = 0;
        for tenths in 0..36_000 {
            let now = start + Duration::from_millis(tenths * 100);
            size.on_large(now);
            while let Some(bytes) = size.poll(Some(Duration::from_millis(200)), now) {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if state >> 33 > (1 << 31) / 10 {
                    size.on_echo(bytes, now + Duration::from_millis(200));
                }
            }
            small += u64::from(size.bytes() < FULL_PACKET_BYTES);
        }
        assert!(small < 360, "{small} of 36,000 tenths of a second");
    }

    #[test]
    fn a_link_without_large_packets_sends_no_probe_once_it_has_settled() {
        let start = Instant::now();
        let mut size = Size::new(BASE_PACKET_BYTES, start);
        settle(&mut size, FULL_PACKET_BYTES, start);
        assert_eq!(size.poll_timeout(), None);
        // One every two seconds while they are sent.
        let mut probes = 0;
        for ms in (0..60_000).step_by(100) {
            let now = start + Duration::from_millis(ms);
            size.on_large(now);
            if let Some(bytes) = size.poll(None, now) {
                probes += 1;
                size.on_echo(bytes, now);
            }
        }
        assert!((28..=30).contains(&probes), "{probes}");
    }

    #[test]
    fn where_not_even_the_base_size_passes_that_is_known_until_it_does() {
        let start = Instant::now();
        let mut size = Size::new(BASE_PACKET_BYTES, start);
        let (at, _) = settle(&mut size, 1_000, start);
        assert!(size.is_hole() && size.is_settled());
        assert_eq!(size.bytes(), BASE_PACKET_BYTES);
        size.on_large(at + Duration::from_secs(5));
        settle(&mut size, FULL_PACKET_BYTES, at + Duration::from_secs(5));
        assert!(!size.is_hole());
    }

    #[test]
    fn an_echo_that_comes_late_gives_the_size_back() {
        let start = Instant::now();
        let mut size = Size::new(BASE_PACKET_BYTES, start);
        settle(&mut size, FULL_PACKET_BYTES, start);
        let later = start + Duration::from_secs(10);
        size.on_large(later);
        for _ in 0..=CONFIRM_PROBES {
            let at = size.poll_timeout().unwrap();
            size.poll(None, at);
        }
        assert_eq!(size.bytes(), BASE_PACKET_BYTES);
        assert!(size.on_echo(FULL_PACKET_BYTES, later + Duration::from_secs(3)));
        assert_eq!((size.bytes(), size.is_settled()), (FULL_PACKET_BYTES, true));
    }
}
