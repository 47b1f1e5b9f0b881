//! When a session is renewed, confirmed alive or given up.
//!
//! A link without traffic has no timer: what must happen while packets flow is asked at each note of the forwarder
//! (at most one a second and direction), and only an owed keepalive waits on a clock. The numbers follow the WireGuard
//! paper (§6) where they are marked *specified*.

use std::time::{Duration, Instant};

use super::sessions::Role;
use crate::random::{Rng, jittered};

/// A session older than this neither sends nor receives (specified).
pub const REJECT_AFTER: Duration = Duration::from_secs(180);
/// A session older than this is sent on no more (chosen: its two ends count from moments that are a flight apart, and what
/// is under way at its end must still be received).
pub const SEND_UNTIL: Duration = Duration::from_secs(175);
/// The default age at which a session in use is renewed (specified); the setting `rekey_after` takes 10–120 s.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);
/// Datagrams after which a session is renewed whatever its age (specified: README §6).
pub const REKEY_AFTER_DATAGRAMS: u64 = 1 << 32;
/// The responder waits this much longer than the initiator before it renews (chosen: three retries of the initiator
/// fit).
const RESPONDER_EXTRA: Duration = Duration::from_secs(10);
/// A member that received and had nothing to send for this long sends a keepalive (specified).
pub const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
/// Sending for this long without hearing anything means that the session is dead (specified: keepalive + retry).
pub const DEAD_AFTER: Duration = Duration::from_secs(15);
/// A member that seems to have started again is asked, and called if it says nothing for this long; ± 20 % (chosen: any
/// round trip on a LAN, where alone it is asked for that reason).
const DOUBT_FOR: Duration = Duration::from_millis(500);
/// Sending for this long without hearing anything makes a link doubtful: other paths are looked at (chosen: above the
/// resolution of what is noted, and far below the time after which the session counts as dead).
pub const SILENT_AFTER: Duration = Duration::from_secs(3);
/// Pauses between the attempts of one handshake (specified: README §6); the last one repeats.
const RETRIES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(5)];

/// The pause after attempt number `attempt` (from 0): 1, 2, 4, then 5 s, each ± 20 %.
#[must_use]
pub fn retry_pause(attempt: u32, rng: &mut Rng) -> Duration {
    let base = RETRIES.get(attempt as usize).unwrap_or(&RETRIES[RETRIES.len() - 1]);
    jittered(*base, rng)
}

/// What one link with a member has seen lately.
#[derive(Debug, Default)]
pub struct Timers {
    /// The first packet or question sent since the last datagram that was received.
    unanswered_since: Option<Instant>,
    /// The first packet received since the last datagram that was sent.
    owed_since: Option<Instant>,
    /// The last packet of an application, in either direction.
    used_at: Option<Instant>,
    /// Until when it serves others, unless something passes again.
    serves_until: Option<Instant>,
    /// The last datagram, in either direction.
    active_at: Option<Instant>,
    /// When the other end counts as started again, unless it is heard before.
    doubted_until: Option<Instant>,
}

impl Timers {
    /// Notes that packets were sent lately.
    pub fn on_sent(&mut self, now: Instant) {
        self.unanswered_since.get_or_insert(now);
        self.owed_since = None;
        self.used_at = Some(now);
        self.active_at = Some(now);
    }

    /// Notes that something was sent that asks for an answer, and that no application used the link for it.
    pub fn on_asked(&mut self, now: Instant) {
        self.unanswered_since.get_or_insert(now);
        self.active_at = Some(now);
    }

    /// Notes that the link serves others until `until`, though no application uses it.
    pub fn on_served(&mut self, until: Instant) {
        self.serves_until = self.serves_until.max(Some(until));
    }

    /// Notes that something was received lately; `packets` says whether packets were among it.
    pub fn on_received(&mut self, packets: bool, now: Instant) {
        self.unanswered_since = None;
        self.active_at = Some(now);
        self.doubted_until = None;
        if packets {
            self.owed_since.get_or_insert(now);
            self.used_at = Some(now);
        }
    }

    /// Notes that the other end may have forgotten its sessions, and was asked; says whether that is news.
    pub fn on_doubt(&mut self, rng: &mut Rng, now: Instant) -> bool {
        let is_news = self.doubted_until.is_none();
        self.doubted_until.get_or_insert_with(|| now + jittered(DOUBT_FOR, rng));
        is_news
    }

    /// When the other end counts as started again, unless it is heard before.
    #[must_use]
    pub fn doubted_until(&self) -> Option<Instant> {
        self.doubted_until
    }

    /// Says, once, whether a doubt was not answered in time.
    pub fn take_doubt(&mut self, now: Instant) -> bool {
        self.doubted_until.take_if(|until| now >= *until).is_some()
    }

    /// Notes that a keepalive was sent.
    pub fn on_keepalive(&mut self) {
        self.owed_since = None;
    }

    /// Whether an application used the link within `idle_after`.
    #[must_use]
    pub fn is_used(&self, idle_after: Duration, now: Instant) -> bool {
        self.used_at.is_some_and(|at| now < at + idle_after)
    }

    /// Whether the link is worth renewing: an application used it within `idle_after`, or it serves others.
    #[must_use]
    pub fn is_worth(&self, idle_after: Duration, now: Instant) -> bool {
        self.is_used(idle_after, now) || self.serves_until.is_some_and(|until| now < until)
    }

    /// When something was last sent that is noted, or received.
    #[must_use]
    pub fn active_at(&self) -> Option<Instant> {
        self.active_at
    }

    /// Says whether what was sent has gone unanswered for so long that the session must be dead.
    #[must_use]
    pub fn is_dead(&self, now: Instant) -> bool {
        self.unanswered_since.is_some_and(|since| now >= since + DEAD_AFTER)
    }

    /// When the first packet or question was noted since anything came.
    #[must_use]
    pub fn unanswered_since(&self) -> Option<Instant> {
        self.unanswered_since
    }

    /// When a keepalive is owed, if one is.
    #[must_use]
    pub fn keepalive_at(&self) -> Option<Instant> {
        self.owed_since.map(|since| since + KEEPALIVE_AFTER)
    }
}

/// How old a session in use is to be renewed: the responder waits longer, so that normally only one end does it.
/// `rekey_after` is this session's own, jitter included.
#[must_use]
pub fn rekey_wait(role: Role, rekey_after: Duration) -> Duration {
    match role {
        Role::Initiator => rekey_after,
        Role::Responder => rekey_after + RESPONDER_EXTRA,
    }
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    #[test]
    fn retries_are_spread_by_a_fifth_and_end_at_five_seconds() {
        let mut rng = Rng::from_seed([1; 32]);
        for (attempt, base) in [(0, 1.0), (1, 2.0), (2, 4.0), (3, 5.0), (40, 5.0)] {
            let pauses: Vec<f64> = (0..100).map(|_| retry_pause(attempt, &mut rng).as_secs_f64()).collect();
            assert!(pauses.iter().all(|pause| (base * 0.799..=base * 1.201).contains(pause)));
            assert!(
                pauses.iter().any(|pause| *pause < base * 0.9)
                    && pauses.iter().any(|pause| *pause > base * 1.1)
            );
        }
    }

    #[test]
    fn one_way_traffic_is_owed_a_keepalive_and_an_answer_cancels_it() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.on_received(true, start);
        timers.on_received(true, start + Duration::from_secs(1));
        assert_eq!(timers.keepalive_at(), Some(start + KEEPALIVE_AFTER));
        timers.on_sent(start + Duration::from_secs(2));
        assert_eq!(timers.keepalive_at(), None);
        timers.on_received(false, start + Duration::from_secs(3));
        assert_eq!(timers.keepalive_at(), None, "a keepalive is not answered by a keepalive");
    }

    #[test]
    fn a_doubt_ends_with_the_first_word_or_after_its_time_once() {
        let (mut rng, start) = (Rng::from_seed([1; 32]), Instant::now());
        let mut timers = Timers::default();
        assert!(timers.on_doubt(&mut rng, start));
        assert!(!timers.on_doubt(&mut rng, start + DOUBT_FOR / 2), "it is asked once");
        timers.on_received(false, start + DOUBT_FOR / 2);
        assert!(!timers.take_doubt(start + DOUBT_FOR * 2));

        timers.on_doubt(&mut rng, start);
        let until = timers.doubted_until().unwrap();
        assert!(!timers.take_doubt(start) && timers.take_doubt(until) && !timers.take_doubt(until));
    }

    #[test]
    fn silence_after_sending_is_death_and_any_answer_is_life() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.on_sent(start);
        timers.on_sent(start + Duration::from_secs(14));
        assert_eq!(timers.unanswered_since(), Some(start));
        assert!(!timers.is_dead(start + Duration::from_secs(14)));
        assert!(timers.is_dead(start + DEAD_AFTER));
        timers.on_received(false, start + DEAD_AFTER);
        assert!(!timers.is_dead(start + DEAD_AFTER * 2));
        assert_eq!(timers.unanswered_since(), None);
    }
}
