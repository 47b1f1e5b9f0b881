//! Checks of the addresses that a member says it has: whether it is there, and how far.
//!
//! In: sets of candidates, a wish for a round, echoes. Out: checks to send. Both ends check at about the same moment, so
//! that each one's datagram leaves through its NAT before the other's arrives (RFC 8445 §6.1.4, RFC 5128 §3.3); a round
//! repeats them, because clocks and round trips are only nearly known. Whatever a member names, the checks to its
//! addresses are few: a bucket for each member here, and one for all in the engine.
//!
//! ```text
//! round    0 ─ 100 ─ 200 ─── 400 ─────── 800 ──────────────── 1600 ────────────── 3200 ms, the pauses ± 20 %
//! rounds   2, 4, 8, 16, 32, 60, 60 … s apart ± 20 %, while a better path is wanted
//! ```

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand_core::Rng as _;

use super::Remote;
use super::nat::Nat;
use crate::bucket::{Bucket, Rate};
use crate::random::{self, Rng};
pub use crate::wire::address::{Candidate, Kind};
use crate::wire::message::{MAX_CANDIDATES, SHORTEST_BYTES};

/// Between the checks of one address in a round that opens NATs, behind the first.
const PUNCH: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1_600),
];
/// The same in a round that only compares: a second one, because one may be lost.
const COMPARE: [Duration; 1] = [Duration::from_millis(300)];
/// Between two rounds; the last one repeats.
const ROUNDS: [Duration; 6] = [
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(32),
    Duration::from_secs(60),
];
/// Between two sets of one member's that are taken in, or that make a round begin (specified: README §14).
const SET_PAUSE: Duration = Duration::from_secs(1);
/// Checks to addresses that one member named (specified: README §14): one round at once.
const CHECKS: Rate = Rate { per_second: 8.0, burst: 64.0 };
/// Addresses checked in one round: those of a set, those known before, and those that checks came from.
const MAX_TARGETS: usize = 16;
/// Sources of checks that wait for a check of their own.
const MAX_TRIGGERED: usize = 3;
/// Checks that wait for an echo at most: those of a round's last seconds.
const MAX_OUTSTANDING: usize = 96;
/// A check without an echo is forgotten after this long.
const CHECK_LIFE: Duration = Duration::from_secs(5);
/// Bytes of a check: what may be sent in answer, an echo with an address and a check of the least size, is no more.
pub const CHECK_BYTES: usize = 72;

/// What a round is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tempo {
    /// To open the NATs of both ends.
    Punch,
    /// To see whether another address is nearer than the one that is used.
    Compare,
}

/// A check to be sealed and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Random; the echo repeats it.
    pub id: u64,
    /// The far end under test.
    pub to: Remote,
    /// Length of the message in bytes.
    pub length: usize,
}

/// What an echo taught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The member is there.
    pub remote: Remote,
    /// The round trip.
    pub rtt: Duration,
    /// When the check was sent.
    pub sent_at: Instant,
}

#[derive(Debug)]
struct Round {
    targets: Vec<SocketAddr>,
    /// The next target of this step.
    next: usize,
    due_at: Instant,
    pauses: std::slice::Iter<'static, Duration>,
}

/// The addresses of one member that are being checked.
#[derive(Debug)]
pub struct Punch {
    /// The member's newest set, and its number.
    told: Vec<Candidate>,
    set: Option<u32>,
    /// What it says of its NAT, and whether it sprays when asked to.
    nat: Option<Nat>,
    may_spray: bool,
    heard_at: Option<Instant>,
    round: Option<Round>,
    /// Rounds since the path was another.
    rounds: usize,
    again_at: Option<Instant>,
    triggered: VecDeque<Remote>,
    outstanding: Vec<(u64, Remote, Instant)>,
    budget: Bucket,
}

impl Default for Punch {
    fn default() -> Self {
        Self {
            told: Vec::new(),
            set: None,
            nat: None,
            may_spray: false,
            heard_at: None,
            round: None,
            rounds: 0,
            again_at: None,
            triggered: VecDeque::new(),
            outstanding: Vec::new(),
            budget: Bucket::new(CHECKS),
        }
    }
}

impl Punch {
    /// Takes in the member's set number `set`; one with the number of the last changes nothing. Returns whether it counts:
    /// at most one a second does.
    pub fn on_told(&mut self, set: u32, candidates: Vec<Candidate>, now: Instant) -> bool {
        if self.heard_at.is_some_and(|at| now < at + SET_PAUSE) {
            return false;
        }
        self.heard_at = Some(now);
        if self.set != Some(set) {
            self.set = Some(set);
            self.told = candidates;
            self.told.truncate(MAX_CANDIDATES);
        }
        true
    }

    /// Takes in what the member says of its NAT beside a set that counts.
    pub fn on_nat(&mut self, nat: Option<Nat>, may_spray: bool) {
        (self.nat, self.may_spray) = (nat, may_spray);
    }

    /// The number of the newest set.
    #[must_use]
    pub fn set(&self) -> Option<u32> {
        self.set
    }

    /// The member's NAT, by its word.
    #[must_use]
    pub fn nat(&self) -> Option<Nat> {
        self.nat
    }

    /// Says whether the member sends to many ports when it is asked to.
    #[must_use]
    pub fn may_spray(&self) -> bool {
        self.may_spray
    }

    /// Where others see the member, by its word: the newest; without it, where it says it is.
    pub fn seen_at(&self) -> Option<SocketAddr> {
        let seen = self.told.iter().find(|candidate| candidate.kind == Kind::Reflexive);
        seen.or(self.told.first()).map(|candidate| candidate.address)
    }

    /// What the member told, the best first; at most 8.
    pub fn told(&self) -> impl Iterator<Item = Candidate> {
        self.told.iter().copied()
    }

    /// Begins a round at `start_at`, or adds to the one that is under way.
    pub fn begin(&mut self, targets: impl IntoIterator<Item = SocketAddr>, tempo: Tempo, start_at: Instant) {
        let pauses = match tempo {
            Tempo::Punch => PUNCH.iter(),
            Tempo::Compare => COMPARE.iter(),
        };
        let begun = Round { targets: Vec::new(), next: 0, due_at: start_at, pauses };
        let round = self.round.get_or_insert(begun);
        for target in targets {
            if round.targets.len() < MAX_TARGETS && !round.targets.contains(&target) {
                round.targets.push(target);
            }
        }
        if round.targets.is_empty() {
            self.round = None;
        }
    }

    /// Plans the round after the one that begins.
    pub fn plan_next(&mut self, rng: &mut Rng, now: Instant) {
        let pause = ROUNDS.get(self.rounds).unwrap_or(&ROUNDS[ROUNDS.len() - 1]);
        self.rounds += 1;
        self.again_at = Some(now + random::jittered(*pause, rng));
    }

    /// When the next round is due; `None`: none was planned yet.
    #[must_use]
    pub fn again_at(&self) -> Option<Instant> {
        self.again_at
    }

    /// Begins the next round at `at` and not before.
    pub fn put_off(&mut self, at: Instant) {
        self.again_at = Some(at);
    }

    /// Begins the next round at `at`, unless it is due before.
    pub fn hasten(&mut self, at: Instant) {
        self.again_at = self.again_at.map(|planned| planned.min(at));
    }

    /// The path is another, or this machine is elsewhere: rounds come at short pauses again.
    pub fn start_over(&mut self) {
        self.round = None;
        self.rounds = 0;
        self.again_at = None;
        self.triggered.clear();
    }

    /// Notes that a check came from `source`: it gets one of its own.
    pub fn on_check(&mut self, source: Remote) {
        if self.triggered.len() < MAX_TRIGGERED && !self.triggered.contains(&source) {
            self.triggered.push_back(source);
        }
    }

    /// The next check that is due. What is beyond the budget is left out, and the round goes on.
    pub fn poll(&mut self, rng: &mut Rng, now: Instant) -> Option<Check> {
        self.outstanding.retain(|(_, _, sent_at)| now < *sent_at + CHECK_LIFE);
        while let Some((to, length)) = self.next_target(rng, now) {
            if self.outstanding.len() < MAX_OUTSTANDING && self.budget.take(now) {
                let id = rng.next_u64();
                self.outstanding.push((id, to, now));
                return Some(Check { id, to, length });
            }
        }
        None
    }

    /// When [`Punch::poll`] is to be asked again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.round.as_ref().map(|round| round.due_at)
    }

    /// Takes in an echo; `None` if no check of that id is out.
    pub fn on_echo(&mut self, id: u64, now: Instant) -> Option<Checked> {
        let at = self.outstanding.iter().position(|(known, _, _)| *known == id)?;
        let (_, remote, sent_at) = self.outstanding.swap_remove(at);
        Some(Checked { remote, rtt: now.saturating_duration_since(sent_at), sent_at })
    }

    /// Whom to check next, and with how many bytes.
    fn next_target(&mut self, rng: &mut Rng, now: Instant) -> Option<(Remote, usize)> {
        if let Some(source) = self.triggered.pop_front() {
            return Some((source, SHORTEST_BYTES));
        }
        let round = self.round.as_mut().filter(|round| now >= round.due_at)?;
        if let Some(target) = round.targets.get(round.next) {
            round.next += 1;
            return Some((Remote::Udp(*target), CHECK_BYTES));
        }
        match round.pauses.next() {
            Some(pause) => {
                round.next = 0;
                round.due_at = now + random::jittered(*pause, rng);
            }
            None => self.round = None,
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 41_414))
    }

    fn candidate(n: u8) -> Candidate {
        Candidate { address: address(n), kind: Kind::Host }
    }

    /// All checks until `until`, with their times.
    fn run(punch: &mut Punch, rng: &mut Rng, from: Instant, until: Instant) -> Vec<(Duration, Remote)> {
        let mut sent = Vec::new();
        let mut now = from;
        loop {
            while let Some(check) = punch.poll(rng, now) {
                sent.push((now - from, check.to));
            }
            match punch.poll_timeout().filter(|at| *at <= until) {
                Some(at) => now = at.max(now),
                None => return sent,
            }
        }
    }

    #[test]
    fn a_round_starts_when_told_and_repeats_at_growing_pauses() {
        let (mut punch, mut rng, start) = (Punch::default(), Rng::from_seed([1; 32]), Instant::now());
        let late = Duration::from_millis(25);
        punch.begin([address(1), address(2)], Tempo::Punch, start + late);
        assert_eq!(punch.poll(&mut rng, start), None);
        let sent = run(&mut punch, &mut rng, start, start + Duration::from_secs(60));
        assert_eq!(sent.len(), 2 * 7);
        let times: Vec<u128> =
            sent.iter().filter(|(_, to)| *to == address(1).into()).map(|(at, _)| at.as_millis()).collect();
        assert_eq!(times[0], 25);
        for (time, expected) in times.iter().zip([25.0, 125.0, 225.0, 425.0, 825.0, 1_625.0, 3_225.0]) {
            let spread = (*time as f64 - expected).abs();
            assert!(spread <= 0.2 * (expected - 25.0) + 2.0, "{times:?}");
        }
        assert_eq!(punch.poll_timeout(), None);
    }

    #[test]
    fn an_echo_counts_once_and_only_for_a_check_that_was_sent() {
        let (mut punch, mut rng, now) = (Punch::default(), Rng::from_seed([1; 32]), Instant::now());
        punch.begin([address(1)], Tempo::Compare, now);
        let check = punch.poll(&mut rng, now).unwrap();
        let rtt = Duration::from_millis(30);
        assert_eq!(punch.on_echo(check.id.wrapping_add(1), now), None);
        let checked = punch.on_echo(check.id, now + rtt).unwrap();
        assert_eq!((checked.remote, checked.rtt), (address(1).into(), rtt));
        assert_eq!(punch.on_echo(check.id, now + rtt), None);
    }

    #[test]
    fn a_member_that_names_others_addresses_all_the_time_gets_few_checks_sent() {
        let (mut punch, mut rng, start) = (Punch::default(), Rng::from_seed([1; 32]), Instant::now());
        let (mut checks, mut sets) = (0, 0);
        let seconds = 100;
        for ms in 0..seconds * 1_000_u64 {
            let now = start + Duration::from_millis(ms);
            let many = (0..200).map(candidate).collect();
            if punch.on_told(ms as u32, many, now) {
                sets += 1;
                let told: Vec<SocketAddr> = punch.told().map(|candidate| candidate.address).collect();
                assert_eq!(told.len(), MAX_CANDIDATES);
                punch.begin(told, Tempo::Punch, now);
            }
            punch.on_check(address((ms % 256) as u8).into());
            while punch.poll(&mut rng, now).is_some() {
                checks += 1;
            }
        }
        assert_eq!(sets, seconds);
        assert!((seconds * 8..=seconds * 8 + 64).contains(&checks), "{checks} checks in {seconds} s");
        assert!(punch.outstanding.len() <= MAX_OUTSTANDING);
    }

    #[test]
    fn rounds_come_more_and_more_rarely_until_the_path_is_another() {
        let (mut punch, mut rng, now) = (Punch::default(), Rng::from_seed([1; 32]), Instant::now());
        let mut pauses = |punch: &mut Punch, rounds: usize| -> Vec<f64> {
            let pause = |_| {
                punch.plan_next(&mut rng, now);
                punch.again_at().map_or(0.0, |at| (at - now).as_secs_f64())
            };
            (0..rounds).map(pause).collect()
        };
        let first = pauses(&mut punch, 8);
        for (pause, expected) in first.iter().zip([2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]) {
            assert!((expected * 0.8..=expected * 1.2).contains(pause), "{first:?}");
        }
        punch.start_over();
        assert!(pauses(&mut punch, 1)[0] <= 2.4);
    }

    #[test]
    fn the_same_set_again_is_a_question_and_keeps_what_is_known() {
        let (mut punch, now) = (Punch::default(), Instant::now());
        assert!(punch.on_told(1, vec![candidate(1)], now));
        assert!(!punch.on_told(2, vec![candidate(2)], now), "within a second");
        assert!(punch.on_told(1, vec![], now + SET_PAUSE));
        assert_eq!(punch.told().collect::<Vec<_>>(), [candidate(1)]);
        assert!(punch.on_told(2, vec![candidate(2)], now + SET_PAUSE * 2));
        assert_eq!(punch.told().collect::<Vec<_>>(), [candidate(2)]);
    }
}
