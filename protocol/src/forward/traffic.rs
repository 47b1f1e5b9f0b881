//! What one link carried, counted where it happens and read by whoever asks.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of data datagrams that carried packets, UDP payload, since the node started; and since when an answer is waited for.
#[derive(Debug, Default)]
pub struct Traffic {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    /// When the first packet was sent since anything came, in microseconds since `began`, and one; 0 if none was.
    unanswered: AtomicU64,
    began: OnceLock<Instant>,
}

impl Traffic {
    /// Adds a datagram that was sent.
    pub fn count_sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Adds a datagram that was received.
    pub fn count_received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes that a packet was sent.
    pub fn on_sent(&self, now: Instant) {
        if self.unanswered.load(Ordering::Relaxed) == 0 {
            let since = now.saturating_duration_since(*self.began.get_or_init(|| now)).as_micros();
            self.unanswered.store(u64::try_from(since).unwrap_or(u64::MAX - 1) + 1, Ordering::Relaxed);
        }
    }

    /// Notes that something authentic came.
    pub fn on_heard(&self) {
        if self.unanswered.load(Ordering::Relaxed) != 0 {
            self.unanswered.store(0, Ordering::Relaxed);
        }
    }

    /// When the first packet was sent since anything came; within a microsecond.
    #[must_use]
    pub fn unanswered_since(&self) -> Option<Instant> {
        let since = self.unanswered.load(Ordering::Relaxed).checked_sub(1)?;
        Some(*self.began.get()? + Duration::from_micros(since))
    }

    /// Bytes sent so far.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Bytes received so far.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_waited_for_since_the_first_packet_that_nothing_followed() {
        let (traffic, start) = (Traffic::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(traffic.unanswered_since(), None);
        traffic.on_sent(start);
        traffic.on_sent(after(5));
        assert_eq!(traffic.unanswered_since(), Some(start));
        traffic.on_heard();
        assert_eq!(traffic.unanswered_since(), None);
        traffic.on_sent(after(7));
        assert_eq!(traffic.unanswered_since(), Some(after(7)));
    }
}
