//! The ways to one member that others offer: asked for, checked, kept, given up.
//!
//! In: how badly one is needed, who could pass datagrams on, answers, echoes. Out: whom to ask, where to check, what is lost.
//! Two are kept while one is used, so that there is another when the member that passes on dies.
//!
//! ```text
//!            ask ──► asked ── opened ──► leg ── three checks unanswered, closed ──► gone
//!  a relay ──┘         │ refused, or silent                                           │
//!     ▲                ▼                                                              ▼
//!     └─────────── rests 2, 4, 8 … 60 s ◄────────────────────────────────────────────┘
//! ```

use std::time::{Duration, Instant};

use rand_core::Rng as _;

use super::SILENT_FOR;
use crate::identity::DeviceId;
use crate::path::Remote;
use crate::random::{self, Rng};

/// Legs that are asked for: one to use, one to have.
const WANTED: usize = 2;
/// Legs to one member at most, those that it asked for itself included: each end has two.
pub const MAX_LEGS: usize = 4;
/// Askings of one relay, and the pause between them, ± 20 % (chosen: above most round trips, of which an answer takes two).
const MAX_ASKINGS: u8 = 3;
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// A leg whose checks go unanswered is gone after this many; the first pause between them, which doubles, ± 20 %.
const MAX_CHECKS: usize = 3;
const CHECK_AGAIN: Duration = Duration::from_millis(400);
/// Between two checks of a leg that answers, ± 20 % (chosen: three fit into what a circuit lives, and one into what the
/// shortest-lived NATs let a mapping live, 30 s).
const CHECK_EVERY: Duration = Duration::from_secs(20);
/// A relay that refused is not asked for this long, twice as long each further time, up to the bound; ± 20 %.
const REST: Duration = Duration::from_secs(2);
const MAX_REST: Duration = Duration::from_secs(60);
/// Relays whose refusal is remembered.
const MAX_RESTING: usize = 16;
/// Between two looks for relays while there is no leg, and while there is one, ± 20 %.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
const LOOK_FOR_SPARE: Duration = Duration::from_secs(30);

/// How badly a leg is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Not at all.
    #[default]
    None,
    /// There is no session: a handshake goes by whichever there is.
    Handshake,
    /// One is used: it is kept, and another.
    Spare,
    /// There is a session, and no path for packets that answers.
    Now,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Ask this member to pass datagrams on.
    Ask(DeviceId),
    /// Send a check by this way.
    Check {
        /// Random; the echo repeats it.
        id: u64,
        /// The leg.
        to: Remote,
    },
    /// The leg by way of this member does not answer.
    Lose(DeviceId),
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is not wanted.
    Refused,
    /// It was there before.
    Known,
    /// It is a leg from here on; another may have given way.
    Taken(Option<Remote>),
}

/// A way through a fellow member.
#[derive(Clone, Debug)]
pub struct Leg {
    /// Who passes on.
    pub relay: DeviceId,
    /// Where it is, and the label.
    pub remote: Remote,
    /// The round trip to the far end last measured.
    pub rtt: Option<Duration>,
    /// This end asked for it.
    is_own: bool,
    echoed_at: Option<Instant>,
    check_at: Instant,
    /// Checks without an echo so far.
    checks: Vec<(u64, Instant)>,
}

/// What an echo taught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The leg.
    pub remote: Remote,
    /// Its round trip.
    pub rtt: Duration,
    /// When the check was sent.
    pub sent_at: Instant,
}

#[derive(Debug)]
struct Asked {
    relay: DeviceId,
    again_at: Instant,
    left: u8,
}

#[derive(Debug)]
struct Resting {
    relay: DeviceId,
    until: Instant,
    pause: Duration,
}

/// The ways to one member.
#[derive(Debug, Default)]
pub struct Legs {
    legs: Vec<Leg>,
    asked: Vec<Asked>,
    resting: Vec<Resting>,
    need: Need,
    look_at: Option<Instant>,
}

impl Legs {
    /// The legs.
    pub fn iter(&self) -> impl Iterator<Item = &Leg> {
        self.legs.iter()
    }

    /// The leg that this is.
    #[must_use]
    pub fn at(&self, remote: Remote) -> Option<&Leg> {
        self.legs.iter().find(|leg| leg.remote == remote)
    }

    /// Looks again at `at` at the latest.
    pub fn look_by(&mut self, at: Instant) {
        self.look_at = Some(self.look_at.map_or(at, |planned| planned.min(at)));
    }

    /// When [`Legs::act`] is to be asked again.
    #[must_use]
    pub fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Says whether there is something to do.
    #[must_use]
    pub fn is_due(&self, need: Need, now: Instant) -> bool {
        need != self.need || self.look_at.is_some_and(|at| now >= at)
    }

    /// What is to be done, `relays` being who could pass datagrams on, the best first.
    pub fn act(&mut self, need: Need, relays: &[DeviceId], rng: &mut Rng, now: Instant) -> Vec<Act> {
        let mut acts = Vec::new();
        if need == Need::Now && self.need != Need::Now {
            // Whatever there was before: nothing is worse than no path. Who passes on may have lost sight of this end.
            self.resting.clear();
            self.legs.iter_mut().for_each(|leg| leg.check_at = now);
            acts.extend(self.legs.iter().map(|leg| Act::Ask(leg.relay)));
        }
        self.need = need;
        self.look_at = None;
        if need == Need::None {
            self.asked.clear();
            return acts;
        }
        acts.extend(self.ask(relays, rng, now));
        if need != Need::Handshake {
            acts.extend(self.check(rng, now));
        }
        self.look_at = self.next_look(relays, rng, now);
        acts
    }

    /// The member `relay` offers a way, in answer to an asking or by itself.
    pub fn on_offer(&mut self, (relay, remote): (DeviceId, Remote), is_answer: bool, now: Instant) -> Offer {
        let known = self.legs.iter().position(|leg| leg.relay == relay);
        let was_asked = self.asked.iter().any(|asked| asked.relay == relay);
        if is_answer && !was_asked && known.is_none() {
            return Offer::Refused;
        }
        if is_answer {
            self.asked.retain(|asked| asked.relay != relay);
            self.resting.retain(|resting| resting.relay != relay);
        }
        if let Some(leg) = known.and_then(|at| self.legs.get_mut(at)).filter(|leg| leg.remote == remote) {
            leg.is_own |= was_asked;
            return Offer::Known;
        }
        let idle = || self.legs.iter().position(|leg| !leg.is_own && leg.echoed_at.is_none());
        let gives_way = known.or_else(|| if self.legs.len() < MAX_LEGS { None } else { idle() });
        if gives_way.is_none() && self.legs.len() >= MAX_LEGS {
            return Offer::Refused;
        }
        let gone = gives_way.map(|at| self.legs.swap_remove(at).remote);
        self.legs.push(Leg {
            relay,
            remote,
            rtt: None,
            is_own: was_asked,
            echoed_at: None,
            check_at: now,
            checks: Vec::new(),
        });
        self.look_by(now);
        Offer::Taken(gone)
    }

    /// The member `relay` does not pass on what it was asked to.
    pub fn on_refused(&mut self, relay: &DeviceId, rng: &mut Rng, now: Instant) {
        if self.asked.iter().any(|asked| asked.relay == *relay) {
            self.rest(*relay, rng, now);
            self.look_by(now);
        }
    }

    /// Takes in an echo that came back; `None` if no leg was checked with this id.
    pub fn on_echo(&mut self, id: u64, rng: &mut Rng, now: Instant) -> Option<Checked> {
        let sent = |leg: &Leg| leg.checks.iter().find(|(known, _)| *known == id).map(|(_, at)| *at);
        let (leg, sent_at) = self.legs.iter_mut().find_map(|leg| sent(leg).map(|at| (leg, at)))?;
        let rtt = now.saturating_duration_since(sent_at);
        leg.rtt = Some(rtt);
        leg.echoed_at = Some(now);
        leg.checks.clear();
        leg.check_at = now + random::jittered(CHECK_EVERY, rng);
        Some(Checked { remote: leg.remote, rtt, sent_at })
    }

    /// The leg by way of `relay` is over; it is not asked again at once.
    pub fn remove(&mut self, relay: &DeviceId, rng: &mut Rng, now: Instant) -> Option<Leg> {
        let at = self.legs.iter().position(|leg| leg.relay == *relay)?;
        self.rest(*relay, rng, now);
        self.look_by(now);
        Some(self.legs.swap_remove(at))
    }

    /// The nearest leg that has answered while a circuit lives.
    #[must_use]
    pub fn best(&self, now: Instant) -> Option<&Leg> {
        let answers =
            |leg: &&Leg| leg.echoed_at.is_some_and(|at| now < at + SILENT_FOR) && leg.checks.len() < 2;
        self.legs.iter().filter(answers).min_by_key(|leg| leg.rtt)
    }

    /// Asks again who has not answered, and others while there are too few legs.
    fn ask(&mut self, relays: &[DeviceId], rng: &mut Rng, now: Instant) -> Vec<Act> {
        let mut acts = Vec::new();
        let silent: Vec<DeviceId> = self
            .asked
            .iter()
            .filter(|asked| !relays.contains(&asked.relay) || (now >= asked.again_at && asked.left == 0))
            .map(|asked| asked.relay)
            .collect();
        for relay in silent {
            self.rest(relay, rng, now);
        }
        for asked in self.asked.iter_mut().filter(|asked| now >= asked.again_at) {
            asked.left = asked.left.saturating_sub(1);
            asked.again_at = now + random::jittered(ASK_AGAIN, rng);
            acts.push(Act::Ask(asked.relay));
        }
        while let Some(relay) = self.next_relay(relays, now) {
            let again_at = now + random::jittered(ASK_AGAIN, rng);
            self.asked.push(Asked { relay, again_at, left: MAX_ASKINGS - 1 });
            acts.push(Act::Ask(relay));
        }
        acts
    }

    /// Whom to ask next, if there are too few legs.
    fn next_relay(&self, relays: &[DeviceId], now: Instant) -> Option<DeviceId> {
        if self.is_enough() {
            return None;
        }
        let is_free = |relay: &&DeviceId| {
            !self.legs.iter().any(|leg| leg.is_own && leg.relay == **relay)
                && !self.asked.iter().any(|asked| asked.relay == **relay)
                && !self.resting.iter().any(|resting| resting.relay == **relay && now < resting.until)
        };
        relays.iter().find(is_free).copied()
    }

    /// What others offered and nobody has checked counts for nothing.
    fn is_enough(&self) -> bool {
        let sure = self.legs.iter().filter(|leg| leg.is_own || leg.echoed_at.is_some());
        sure.count() + self.asked.len() >= WANTED
    }

    fn check(&mut self, rng: &mut Rng, now: Instant) -> Vec<Act> {
        let mut acts = Vec::new();
        for leg in self.legs.iter_mut().filter(|leg| now >= leg.check_at) {
            if leg.checks.len() >= MAX_CHECKS {
                acts.push(Act::Lose(leg.relay));
                continue;
            }
            let id = rng.next_u64();
            leg.check_at = now + random::jittered(CHECK_AGAIN * (1 << leg.checks.len()), rng);
            leg.checks.push((id, now));
            acts.push(Act::Check { id, to: leg.remote });
        }
        acts
    }

    fn rest(&mut self, relay: DeviceId, rng: &mut Rng, now: Instant) {
        self.asked.retain(|asked| asked.relay != relay);
        let former = self.resting.iter().position(|resting| resting.relay == relay);
        let former = former.map(|at| self.resting.remove(at).pause);
        let pause = former.map_or(REST, |pause| (pause * 2).min(MAX_REST));
        if self.resting.len() >= MAX_RESTING {
            self.resting.remove(0);
        }
        self.resting.push(Resting { relay, until: now + random::jittered(pause, rng), pause });
    }

    fn next_look(&self, relays: &[DeviceId], rng: &mut Rng, now: Instant) -> Option<Instant> {
        let asked = self.asked.iter().map(|asked| asked.again_at);
        let is_checked = self.need != Need::Handshake;
        let checks = self.legs.iter().map(|leg| leg.check_at).filter(|_| is_checked);
        let rested = self.resting.iter().filter(|resting| relays.contains(&resting.relay));
        let rested = rested.map(|resting| resting.until).filter(|at| *at > now);
        let pause = if self.legs.is_empty() { LOOK_AGAIN } else { LOOK_FOR_SPARE };
        let others = [now + random::jittered(pause, rng)].into_iter();
        let missing = rested.chain(others).filter(|_| !self.is_enough());
        asked.chain(checks).chain(missing).min()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use rand_core::SeedableRng as _;

    use super::*;

    fn relay(n: u8) -> DeviceId {
        DeviceId::from([n; 32])
    }

    fn leg(n: u8) -> (DeviceId, Remote) {
        let via = SocketAddr::from(([192, 0, 2, n], 41_414));
        (relay(n), Remote::Relayed { via, label: u32::from(n) })
    }

    struct Setup {
        legs: Legs,
        rng: Rng,
        now: Instant,
    }

    impl Setup {
        fn new() -> Self {
            Self { legs: Legs::default(), rng: Rng::from_seed([1; 32]), now: Instant::now() }
        }

        fn act(&mut self, need: Need, relays: &[u8]) -> Vec<Act> {
            let relays: Vec<_> = relays.iter().map(|n| relay(*n)).collect();
            self.legs.act(need, &relays, &mut self.rng, self.now)
        }

        /// Lets time pass up to the next look, and looks.
        fn next(&mut self, need: Need, relays: &[u8]) -> Vec<Act> {
            self.now = self.legs.look_at().unwrap().max(self.now);
            self.act(need, relays)
        }

        /// Has legs by way of these, which have answered a check.
        fn with_legs(relays: &[u8]) -> Self {
            let mut setup = Self::new();
            setup.act(Need::Now, relays);
            for n in relays {
                assert_eq!(setup.legs.on_offer(leg(*n), true, setup.now), Offer::Taken(None));
            }
            let checks = setup.act(Need::Now, relays);
            setup.now += Duration::from_millis(10);
            for act in checks {
                let Act::Check { id, .. } = act else { panic!("{act:?}") };
                assert!(setup.legs.on_echo(id, &mut setup.rng, setup.now).is_some());
            }
            setup
        }
    }

    #[test]
    fn the_best_two_are_asked_and_another_when_one_refuses() {
        let mut setup = Setup::new();
        assert_eq!(setup.act(Need::Handshake, &[1, 2, 3]), [Act::Ask(relay(1)), Act::Ask(relay(2))]);
        assert_eq!(setup.act(Need::Handshake, &[1, 2, 3]), []);
        setup.legs.on_refused(&relay(1), &mut setup.rng, setup.now);
        assert_eq!(setup.next(Need::Handshake, &[1, 2, 3]), [Act::Ask(relay(3))]);
        setup.legs.on_refused(&relay(9), &mut setup.rng, setup.now);
        assert_eq!(setup.act(Need::Handshake, &[1, 2, 3]), [], "nobody asked it");
    }

    #[test]
    fn who_is_silent_is_asked_three_times_and_then_more_and_more_rarely() {
        let mut setup = Setup::new();
        let (start, mut asked) = (setup.now, Vec::new());
        setup.act(Need::Handshake, &[1]).iter().for_each(|_| asked.push(Duration::ZERO));
        while setup.now < start + Duration::from_secs(60) {
            let acts = setup.next(Need::Handshake, &[1]);
            asked.extend(acts.iter().map(|_| setup.now - start));
        }
        assert!((9..=18).contains(&asked.len()), "{asked:?}");
        assert!(asked[2] <= Duration::from_millis(1_200) && asked[3] >= Duration::from_millis(2_400));
    }

    #[test]
    fn an_offer_is_taken_from_whom_was_asked_or_who_asks_and_only_so_many() {
        let mut setup = Setup::new();
        let now = setup.now;
        assert_eq!(setup.legs.on_offer(leg(1), true, now), Offer::Refused, "it answers nothing");
        for n in 1..=4 {
            assert_eq!(setup.legs.on_offer(leg(n), false, now), Offer::Taken(None));
        }
        assert_eq!(setup.legs.on_offer(leg(1), false, now), Offer::Known);
        let gone = setup.legs.on_offer(leg(5), false, now);
        assert!(matches!(gone, Offer::Taken(Some(_))), "what nobody has checked gives way");
        assert_eq!(setup.legs.iter().count(), MAX_LEGS);
        assert_eq!(setup.act(Need::Handshake, &[7, 8]).len(), 2, "offers do not keep it from asking");

        let mut setup = Setup::with_legs(&[1, 2]);
        for n in 3..100 {
            setup.legs.on_offer(leg(n), false, setup.now);
        }
        assert!(setup.legs.iter().any(|leg| leg.relay == relay(1)));
        assert!(setup.legs.iter().any(|leg| leg.relay == relay(2)));
        assert_eq!(setup.legs.iter().count(), MAX_LEGS);
    }

    #[test]
    fn two_legs_are_kept_by_checks_and_a_silent_one_is_lost_in_three_seconds() {
        let mut setup = Setup::with_legs(&[1, 2]);
        let since = setup.now;
        setup.act(Need::Spare, &[1, 2, 3]);
        let acts = setup.next(Need::Spare, &[1, 2, 3]);
        assert!(matches!(acts[..], [Act::Check { .. }]), "{acts:?}");
        assert!(setup.now >= since + CHECK_EVERY.mul_f64(0.8));
        let mut lost = None;
        let checked_at = setup.now;
        while lost.is_none() {
            let acts = setup.next(Need::Spare, &[1, 2, 3]);
            lost = acts.iter().find_map(|act| if let Act::Lose(relay) = act { Some(*relay) } else { None });
        }
        assert!(setup.now <= checked_at + Duration::from_millis(3_400));
        assert!(setup.legs.remove(&lost.unwrap(), &mut setup.rng, setup.now).is_some());
        assert!(setup.next(Need::Spare, &[1, 2, 3]).contains(&Act::Ask(relay(3))));
    }

    #[test]
    fn when_the_path_falls_silent_every_leg_is_checked_at_once() {
        let mut setup = Setup::with_legs(&[1, 2]);
        setup.act(Need::Spare, &[1, 2]);
        setup.now += Duration::from_secs(1);
        assert!(setup.legs.is_due(Need::Now, setup.now) && !setup.legs.is_due(Need::Spare, setup.now));
        let acts = setup.act(Need::Now, &[1, 2]);
        assert_eq!(acts.iter().filter(|act| matches!(act, Act::Check { .. })).count(), 2);
        assert!([1, 2].iter().all(|n| acts.contains(&Act::Ask(relay(*n)))), "{acts:?}");
        assert!(setup.legs.best(setup.now).is_some());
        assert!(setup.legs.best(setup.now + SILENT_FOR).is_none());
    }

    #[test]
    fn who_needs_none_asks_and_wakes_for_nothing() {
        let mut setup = Setup::with_legs(&[1]);
        setup.act(Need::Spare, &[1, 2]);
        assert!(setup.legs.look_at().is_some());
        assert_eq!(setup.act(Need::None, &[1, 2]), []);
        assert_eq!(setup.legs.look_at(), None);
        assert_eq!(setup.legs.on_offer(leg(2), true, setup.now), Offer::Refused, "the asking is forgotten");
    }
}
