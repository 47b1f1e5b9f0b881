//! What the internet does to one datagram: delays it, loses it, doubles it, lets it be overtaken.

use std::time::Duration;

use crate::chance::Chance;

/// How the internet behaves; the same between any two hosts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conditions {
    /// The least one-way delay.
    pub(crate) delay: Duration,
    /// Up to this much is added to each datagram's delay.
    pub(crate) jitter: Duration,
    /// Datagrams lost, in a hundred.
    pub(crate) loss_percent: u64,
    /// Datagrams that arrive twice, in a hundred.
    pub(crate) twice_percent: u64,
    /// Datagrams that others overtake, in a hundred.
    pub(crate) late_percent: u64,
    /// Data datagrams, in a hundred, that a stranger on the way sends on from its own address.
    pub(crate) diverted_percent: u64,
    /// UDP payloads beyond this many bytes are lost.
    pub(crate) mtu_bytes: usize,
}

impl Conditions {
    /// Nothing is lost, doubled or overtaken; one way takes `delay`.
    pub(crate) fn perfect(delay: Duration) -> Self {
        Self {
            delay,
            jitter: Duration::ZERO,
            loss_percent: 0,
            twice_percent: 0,
            late_percent: 0,
            diverted_percent: 0,
            mtu_bytes: 1_500 - 28,
        }
    }

    /// Conditions as bad as they may be: 0–30 % loss, up to 300 ms, jitter, doubles, reordering.
    pub(crate) fn drawn(chance: &mut Chance) -> Self {
        Self {
            delay: chance.between(Duration::from_micros(100), Duration::from_millis(300)),
            jitter: chance.between(Duration::ZERO, Duration::from_millis(80)),
            loss_percent: chance.below(31),
            twice_percent: chance.below(20),
            late_percent: chance.below(20),
            diverted_percent: *chance.pick(&[0, 0, 0, 3]),
            mtu_bytes: *chance.pick(&[1_232, 1_300, 1_472, 1_472]),
        }
    }

    /// After what delays a datagram of `bytes` arrives: none, one or two.
    pub(crate) fn arrivals(&self, bytes: usize, chance: &mut Chance) -> Vec<Duration> {
        if bytes > self.mtu_bytes || chance.percent(self.loss_percent) {
            return Vec::new();
        }
        let copies = if chance.percent(self.twice_percent) { 2 } else { 1 };
        (0..copies).map(|_| self.one_way(chance)).collect()
    }

    fn one_way(&self, chance: &mut Chance) -> Duration {
        let jitter = chance.between(Duration::ZERO, self.jitter.max(Duration::from_micros(1)));
        let late = if chance.percent(self.late_percent) {
            chance.between(Duration::ZERO, Duration::from_secs(2))
        } else {
            Duration::ZERO
        };
        self.delay + jitter + late
    }
}
