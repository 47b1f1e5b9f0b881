//! Many datagrams to ports that are only guessed, one after the other: what the tactics of [`super::nat`] send.
//!
//! In: the one address of the other end that is known, and how its NAT gives out ports. Out: checks, at a rate that hurts
//! nobody who is not there. All of one burst have one id: an echo of it says only that somebody is to be checked where it
//! came from.
//!
//! ```text
//! foretell  the ports around the one that was seen            128, once; where both do it the next 48, twice
//! open      from many sockets to the one address              256
//! spray     to many ports of the one host, by chance          1,024: one meets one of 256 with 98 %
//! ```

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use rand_core::Rng as _;

use super::Remote;
use super::punch::{CHECK_BYTES, Check};
use crate::random::Rng;

/// Sockets that are opened (specified: README §14).
pub const SOCKETS: u32 = 256;
/// Ports that are sprayed (specified: README §14).
const SPRAYED: usize = 1_024;
/// Datagrams of one step, and the pause behind it: 200 a second (specified: README §14).
const STEP: usize = 4;
const STEP_PAUSE: Duration = Duration::from_millis(20);
/// Ports foretold by one end (chosen: what others behind the same NAT take meanwhile).
const FORETOLD: i32 = 128;
/// Ports foretold by each of two ends (chosen: an offset of up to half of it is found, and each takes a port of its own NAT).
const FORETOLD_BY_BOTH: i32 = 48;
/// The ports that NATs give out.
const PORTS: Range<u32> = 1_024..65_536;

/// Datagrams that are still to be sent.
#[derive(Debug)]
pub struct Burst {
    id: u64,
    targets: Vec<Remote>,
    /// The next of them, in this pass.
    next: usize,
    passes: u8,
    due_at: Instant,
}

impl Burst {
    /// To the ports around the one at which the other end was `seen` last, `step` apart: it may have got the one that it has
    /// towards this end before it asked, or get it after.
    #[must_use]
    pub fn foretell((seen, step): (SocketAddr, i16), rng: &mut Rng, now: Instant) -> Self {
        let step = i32::from(step);
        let steps = (1..=FORETOLD / 4).flat_map(|count| [count * step, -count * step]);
        // Others behind the same NAT may have taken ports between those that were seen.
        let between = (1..=FORETOLD).flat_map(|count| [count * step.signum(), -count * step.signum()]);
        let mut offsets: Vec<i32> = Vec::new();
        for offset in steps.chain(between) {
            if offsets.len() < FORETOLD as usize && !offsets.contains(&offset) {
                offsets.push(offset);
            }
        }
        Self::new(ports(seen, offsets.into_iter()), 1, rng, now)
    }

    /// The same where the other end does it as well. Each datagram to another port takes one of the own NAT: the ports of the
    /// two ends move on together. If what was seen last is wrong by so many ports at the two ends together, they meet all
    /// the same, as the one that `leads` takes each second port only.
    ///
    /// ```text
    /// own i-th       from own  + wrong + i   to theirs + 2 i        meet where  2 i = wrong there + j
    /// their j-th     from theirs + wrong + j to own + j             and           j = wrong here + i
    /// ```
    #[must_use]
    pub fn foretell_both((seen, step): (SocketAddr, i16), leads: bool, rng: &mut Rng, now: Instant) -> Self {
        let stride = if leads { 2 } else { 1 };
        let offsets = (1..=FORETOLD_BY_BOTH).map(|count| (count * stride - stride + 1) * i32::from(step));
        Self::new(ports(seen, offsets), 2, rng, now)
    }

    /// From each of these sockets to where the other end is.
    #[must_use]
    pub fn open(address: SocketAddr, sockets: Range<u32>, rng: &mut Rng, now: Instant) -> Self {
        let targets = sockets.map(|socket| Remote::Side { address, socket });
        Self::new(targets.collect(), 1, rng, now)
    }

    /// To many ports of the host of `seen`, each once.
    #[must_use]
    pub fn spray(seen: SocketAddr, rng: &mut Rng, now: Instant) -> Self {
        let (first, count) = (PORTS.start, PORTS.end - PORTS.start);
        let mut chosen = BTreeSet::new();
        let mut targets = Vec::with_capacity(SPRAYED);
        while targets.len() < SPRAYED {
            let port = (first + rng.next_u32() % count) as u16;
            if chosen.insert(port) {
                targets.push(Remote::Udp(SocketAddr::new(seen.ip(), port)));
            }
        }
        Self::new(targets, 1, rng, now)
    }

    fn new(targets: Vec<Remote>, passes: u8, rng: &mut Rng, now: Instant) -> Self {
        Self { id: rng.next_u64(), targets, next: 0, passes, due_at: now }
    }

    /// The id of all its checks.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How many datagrams of this pass were sent.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.next
    }

    /// Says whether all is sent.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.passes == 0
    }

    /// The checks of the step that is due, if one is.
    pub fn poll(&mut self, now: Instant) -> Vec<Check> {
        if self.is_over() || now < self.due_at {
            return Vec::new();
        }
        // What is late is not made up for: the rate is a promise.
        self.due_at = now + STEP_PAUSE;
        let step = self.targets.iter().skip(self.next).take(STEP);
        let checks: Vec<Check> = step.map(|to| Check { id: self.id, to: *to, length: CHECK_BYTES }).collect();
        self.next += checks.len();
        if self.next >= self.targets.len() {
            self.next = 0;
            self.passes -= 1;
        }
        checks
    }

    /// When [`Burst::poll`] is to be asked again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.is_over()).then_some(self.due_at)
    }
}

/// The ports of one host at these distances from a port of it; they go round at 65,536, and port 0 is left out.
fn ports(seen: SocketAddr, offsets: impl Iterator<Item = i32>) -> Vec<Remote> {
    let port = |offset: i32| (i32::from(seen.port()) + offset).rem_euclid(1 << 16) as u16;
    let ports = offsets.map(port).filter(|port| *port != 0);
    ports.map(|port| Remote::Udp(SocketAddr::new(seen.ip(), port))).collect()
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    fn seen(port: u16) -> SocketAddr {
        SocketAddr::from(([198, 51, 100, 7], port))
    }

    fn rng() -> Rng {
        Rng::from_seed([1; 32])
    }

    /// All that it sends, with the times.
    fn run(mut burst: Burst, start: Instant) -> Vec<(Duration, Remote)> {
        let mut sent = Vec::new();
        while let Some(at) = burst.poll_timeout() {
            sent.extend(burst.poll(at).iter().map(|check| (at - start, check.to)));
        }
        sent
    }

    fn ports(sent: &[(Duration, Remote)]) -> Vec<u16> {
        sent.iter().map(|(_, to)| to.udp().unwrap().port()).collect()
    }

    #[test]
    fn no_burst_is_faster_or_longer_than_promised() {
        let (now, mut rng) = (Instant::now(), rng());
        for burst in [
            Burst::foretell((seen(5), 1), &mut rng, now),
            Burst::foretell_both((seen(5), 1), true, &mut rng, now),
            Burst::open(seen(5), 7..7 + SOCKETS, &mut rng, now),
            Burst::spray(seen(5), &mut rng, now),
        ] {
            let sent = run(burst, now);
            assert!(sent.len() <= SPRAYED);
            for (at, _) in &sent {
                let second =
                    sent.iter().filter(|(other, _)| (*at..*at + Duration::from_secs(1)).contains(other));
                assert!(second.count() <= 200);
            }
        }
    }

    #[test]
    fn a_late_step_makes_up_for_nothing() {
        let (now, mut rng) = (Instant::now(), rng());
        let mut burst = Burst::spray(seen(5), &mut rng, now);
        assert_eq!(burst.poll(now + Duration::from_secs(1)).len(), STEP);
        assert!(burst.poll(now + Duration::from_secs(1)).is_empty());
    }

    #[test]
    fn what_is_foretold_is_around_what_was_seen_in_its_steps_and_then_between_them() {
        let now = Instant::now();
        let foretold = |port, step| ports(&run(Burst::foretell((seen(port), step), &mut rng(), now), now));
        let upwards = foretold(20_000, 1);
        assert_eq!(upwards[..4], [20_001, 19_999, 20_002, 19_998]);
        let around: BTreeSet<u16> = upwards.into_iter().collect();
        assert_eq!(around, (19_936..=20_064).filter(|port| *port != 20_000).collect());
        let downwards = foretold(20_000, -2);
        assert_eq!(downwards[..4], [19_998, 20_002, 19_996, 20_004]);
        assert!(downwards.contains(&19_999) && downwards.len() == 128);
        assert_eq!(foretold(65_534, 1)[..5], [65_535, 65_533, 65_532, 1, 65_531], "there is no port 0");
    }

    #[test]
    fn two_that_foretell_each_other_meet_although_both_have_seen_too_little() {
        let now = Instant::now();
        let (a, b) = (20_000, 40_000);
        for (wrong_a, wrong_b) in [(0, 0), (1, 0), (0, 1), (5, 3), (12, 9), (20, 3)] {
            // Each datagram of a pass leaves through the next port.
            let pairs = |to: u16, leads, from: u16| -> Vec<(u16, u16)> {
                let sent = run(Burst::foretell_both((seen(to), 1), leads, &mut rng(), now), now);
                let first = ports(&sent)[..48].to_vec();
                (from + 1..).zip(first).collect()
            };
            let (ours, theirs) = (pairs(b, true, a + wrong_a), pairs(a, false, b + wrong_b));
            let met = ours.iter().filter(|(from, to)| theirs.contains(&(*to, *from))).count();
            assert_eq!(met, 1, "{wrong_a} {wrong_b}");
        }
    }

    #[test]
    fn a_spray_meets_one_of_so_many_sockets_nearly_always() {
        let (now, mut rng) = (Instant::now(), rng());
        let met = (0..300).filter(|_| {
            let count = PORTS.end - PORTS.start;
            let open: BTreeSet<u16> =
                (0..SOCKETS).map(|_| (PORTS.start + rng.next_u32() % count) as u16).collect();
            let sprayed = ports(&run(Burst::spray(seen(5), &mut rng, now), now));
            assert_eq!(sprayed.iter().collect::<BTreeSet<_>>().len(), SPRAYED);
            sprayed.iter().any(|port| open.contains(port))
        });
        assert!(met.count() >= 288, "98.3 % of 300 on average");
    }
}
