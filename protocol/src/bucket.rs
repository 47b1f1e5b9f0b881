//! Token buckets: how often something may happen. In: a wish and the time. Out: whether it is within bounds.

use std::time::Instant;

/// How often something may happen.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// In the long run.
    pub per_second: f64,
    /// At once.
    pub burst: f64,
}

/// One bucket, full at first.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Rate,
    tokens: f64,
    /// When `tokens` was true; `None` before the first.
    at: Option<Instant>,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub const fn new(rate: Rate) -> Self {
        Self { rate, tokens: rate.burst, at: None }
    }

    /// Takes one token if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.tokens = self.level(now);
        self.at = Some(now);
        let fits = self.tokens >= 1.0;
        if fits {
            self.tokens -= 1.0;
        }
        fits
    }

    /// Says whether nothing of it is used any more.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.level(now) >= self.rate.burst
    }

    fn level(&self, now: Instant) -> f64 {
        let passed = self.at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        (self.tokens + passed * self.rate.per_second).min(self.rate.burst)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_at_once_and_the_rate_from_then_on() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate { per_second: 2.0, burst: 4.0 });
        assert!(bucket.is_full(start));
        let passed = (0..10_000).filter(|ms| bucket.take(start + Duration::from_millis(*ms))).count();
        assert!((23..=24).contains(&passed), "{passed} in ten seconds");
        assert!(!bucket.is_full(start + Duration::from_secs(11)));
        assert!(bucket.is_full(start + Duration::from_secs(13)));
    }
}
