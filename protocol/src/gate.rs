//! The drop stance: the one place that chooses between an answer and silence.
//!
//! In: what a veil gave up, after it proved authentic. Out: `Ok`, and the engine answers; or the reason for silence.
//! Nothing is remembered of datagrams that do not open, so strangers can fill nothing here. Two steps, because between
//! them the handshake is read: [`Gate::look`] before anything is computed from the body, [`Gate::answer`] once the
//! sender is known.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::bucket::{Bucket, Rate};
use crate::drop::DropReason;
use crate::identity::StaticKey;
use crate::path::Remote;

/// How old a question may be, and how far ahead its clock (specified: README §7).
pub const MAX_AGE: Duration = Duration::from_secs(120);

/// What was made in the first second of this process, by its maker's clock, is not answered: a clock that is less ahead (as
/// those are that something sets) dates nothing behind it that was recorded before the start (chosen: a handshake that is
/// called for in that second comes again within two).
const CLOCKS_DIFFER: Duration = Duration::from_secs(1);

/// How long the nonce of an answered question is remembered: as long as it can pass the check of its age, from 120 s
/// ahead to 120 s behind.
const REMEMBER: Duration = Duration::from_secs(241);
/// Nonces remembered for longer, while there are no more: a wall clock that is set back makes old questions young again.
/// In a VPI of ten these are the handshakes of a day.
const KEPT_NONCES: usize = 8_192;
/// Nonces remembered at most; beyond it nothing is answered. Room for 136 members at their full rate all the time.
const MAX_NONCES: usize = 65_536;
/// Initiations answered for one peer: two a second, four at once (specified: two a second).
const PEER: Rate = Rate { per_second: 2.0, burst: 4.0 };
/// Questions looked at from one source: a household behind one address can start at once.
const SOURCE: Rate = Rate { per_second: 20.0, burst: 40.0 };
/// Joins looked at in all, whatever their source: 50 a second. A token that is used up still opens the veil until it
/// expires, and its holder can write any source: it must neither cost more than a hundredth of a core nor fill more
/// than a fifth of the nonces.
const JOINS: Rate = Rate { per_second: 50.0, burst: 100.0 };

/// LAN announcements taken in all: 10 a second. Who holds the newest epoch's secret can make them in any member's name, and
/// must not fill more than a twentieth of the nonces.
const ANNOUNCEMENTS: Rate = Rate { per_second: 10.0, burst: 40.0 };

/// Initiations looked at under an epoch that is not the newest (specified: README §7): members that slept, few at a time.
const OLD_EPOCHS: Rate = Rate { per_second: 10.0, burst: 20.0 };

/// Sources and peers counted at once. Only holders of a key get this far.
const MAX_BUCKETS: usize = 4_096;
/// Initiations of one peer that are older than the newest answered one are late copies, for this long. A peer whose
/// clock was set back is heard again after it.
const ORDER_FOR: Duration = Duration::from_secs(10);

/// When a question was made, by its own account, and where it came from.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// The veil's nonce.
    pub nonce: [u8; 24],
    /// The sender's wall clock.
    pub time_ms: u64,
    /// Where it came from.
    pub source: Remote,
}

/// What a question can be. Each has its own share, so that who can make one sort in any source's name, with an old secret or
/// a used token, does not use up a member's share of another.
#[derive(Clone, Copy, Debug)]
pub enum Lane {
    /// An initiation under the newest epoch.
    Newest,
    /// An initiation under another.
    OldEpoch,
    /// A joiner's question.
    Join,
    /// A LAN announcement.
    Announcement,
}

/// How much of one sort is looked at: from one source, and in all.
#[derive(Debug)]
struct Share {
    sources: Buckets<IpAddr>,
    all: Option<Bucket>,
}

impl Share {
    fn new(all: Option<Rate>) -> Self {
        Self { sources: Buckets::new(SOURCE), all: all.map(Bucket::new) }
    }
}

/// Decides who is answered.
#[derive(Debug)]
pub struct Gate {
    started_at: Instant,
    seen: BTreeMap<[u8; 24], ()>,
    order: VecDeque<(Instant, [u8; 24])>,
    lanes: [Share; 4],
    peers: Buckets<StaticKey>,
    newest: BTreeMap<StaticKey, (u64, Instant)>,
    /// The newest initiation of each peer that was heard and left unanswered for its rate.
    unanswered: BTreeMap<StaticKey, (u64, Instant)>,
}

impl Gate {
    /// A gate of a process that started at `started_at`: what was recorded before is not answered.
    #[must_use]
    pub fn new(started_at: Instant) -> Self {
        Self {
            started_at,
            seen: BTreeMap::new(),
            order: VecDeque::new(),
            lanes: [None, Some(OLD_EPOCHS), Some(JOINS), Some(ANNOUNCEMENTS)].map(Share::new),
            peers: Buckets::new(PEER),
            newest: BTreeMap::new(),
            unanswered: BTreeMap::new(),
        }
    }

    /// Says whether a question is worth reading: −120 s ≤ age ≤ min(120 s, time since the start − 1 s), not answered before,
    /// and not one of too many in its lane, from its source or in all.
    ///
    /// # Errors
    /// The reason for silence.
    pub fn look(
        &mut self,
        lane: Lane,
        question: &Question,
        wall_ms: u64,
        now: Instant,
    ) -> Result<(), DropReason> {
        self.is_fresh(question, wall_ms, now)?;
        let Some(share) = self.lanes.get_mut(lane as usize) else { return Err(DropReason::RateLimited) };
        let fits = share.sources.take(prefix(question.source.host()), now)
            && share.all.as_mut().is_none_or(|all| all.take(now));
        if fits { Ok(()) } else { Err(DropReason::RateLimited) }
    }

    /// Says whether the question is of now, and none that was answered.
    fn is_fresh(&mut self, question: &Question, wall_ms: u64, now: Instant) -> Result<(), DropReason> {
        let running = now.saturating_duration_since(self.started_at);
        let newest = MAX_AGE.as_millis() as u64;
        let is_old = question.time_ms.saturating_add(newest) < wall_ms;
        let started_ms = wall_ms.saturating_sub(running.as_millis() as u64);
        if is_old
            || question.time_ms < started_ms.saturating_add(CLOCKS_DIFFER.as_millis() as u64)
            || question.time_ms > wall_ms.saturating_add(newest)
        {
            return Err(DropReason::VeilTime);
        }
        self.forget(now);
        if self.seen.contains_key(&question.nonce) {
            return Err(DropReason::VeilReplayed);
        }
        Ok(())
    }

    /// Says whether a LAN announcement counts: the same, once, and not one of too many in all. From then on it does not.
    ///
    /// # Errors
    /// The reason for silence.
    pub fn take_announcement(
        &mut self,
        question: &Question,
        wall_ms: u64,
        now: Instant,
    ) -> Result<(), DropReason> {
        self.look(Lane::Announcement, question, wall_ms, now)?;
        self.remember(question.nonce, now)
    }

    /// Says whether an initiation by `peer` is answered; from then on neither it nor an older one is. One that is late,
    /// or one of too many, is not answered later either: it was heard, and whoever sends it again is a stranger.
    /// `is_member` says whether the static key is a current member's.
    ///
    /// # Errors
    /// The reason for silence.
    pub fn answer(
        &mut self,
        question: &Question,
        peer: &StaticKey,
        is_member: bool,
        now: Instant,
    ) -> Result<(), DropReason> {
        if !is_member {
            return Err(DropReason::NotMember);
        }
        if self.was_unanswered(question, peer, now) {
            return Err(DropReason::VeilReplayed);
        }
        if !self.peers.take(*peer, now) {
            let newest = self.unanswered.get(peer).map_or(0, |(time_ms, _)| *time_ms);
            self.unanswered.insert(*peer, (question.time_ms.max(newest), now));
            return Err(DropReason::RateLimited);
        }
        self.remember(question.nonce, now)?;
        let newest = self.newest.get(peer);
        if newest.is_some_and(|(time_ms, at)| question.time_ms <= *time_ms && now < *at + ORDER_FOR) {
            return Err(DropReason::VeilReplayed);
        }
        self.newest.retain(|_, (_, at)| now < *at + ORDER_FOR);
        self.newest.insert(*peer, (question.time_ms, now));
        Ok(())
    }

    /// Says whether a join that the rules of membership allow is answered; from then on the same datagram is not.
    ///
    /// # Errors
    /// The reason for silence.
    pub fn answer_join(&mut self, question: &Question, now: Instant) -> Result<(), DropReason> {
        self.remember(question.nonce, now)
    }

    /// Notes a question that cost a trial of proofs and failed: sent again, it costs no other. The trials bound how many.
    pub fn on_failed(&mut self, nonce: [u8; 24], now: Instant) {
        let _ = self.remember(nonce, now);
    }

    /// Says whether the question, or one that `peer` made later, came when it was one of too many.
    fn was_unanswered(&mut self, question: &Question, peer: &StaticKey, now: Instant) -> bool {
        self.unanswered.retain(|_, (_, at)| now < *at + REMEMBER);
        self.unanswered.get(peer).is_some_and(|(time_ms, _)| question.time_ms <= *time_ms)
    }

    fn remember(&mut self, nonce: [u8; 24], now: Instant) -> Result<(), DropReason> {
        if self.seen.len() >= MAX_NONCES {
            return Err(DropReason::RateLimited);
        }
        if self.seen.insert(nonce, ()).is_some() {
            return Err(DropReason::VeilReplayed);
        }
        self.order.push_back((now, nonce));
        Ok(())
    }

    fn forget(&mut self, now: Instant) {
        while self.order.len() > KEPT_NONCES
            && let Some((_, nonce)) = self.order.pop_front_if(|(at, _)| now >= *at + REMEMBER)
        {
            self.seen.remove(&nonce);
        }
    }
}

/// The part of an address that one holder commands: an IPv4 address, or the first 56 bits of an IPv6 address.
fn prefix(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & (!0 << 72)).into()),
    }
}

/// Token buckets by key; those that are full again are forgotten.
#[derive(Debug)]
struct Buckets<K> {
    rate: Rate,
    buckets: BTreeMap<K, Bucket>,
}

impl<K: Ord + Copy> Buckets<K> {
    fn new(rate: Rate) -> Self {
        Self { rate, buckets: BTreeMap::new() }
    }

    fn take(&mut self, key: K, now: Instant) -> bool {
        if self.buckets.len() >= MAX_BUCKETS && !self.buckets.contains_key(&key) {
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
            if self.buckets.len() >= MAX_BUCKETS {
                return false;
            }
        }
        self.buckets.entry(key).or_insert(Bucket::new(self.rate)).take(now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const WALL: u64 = 1_800_000_000_000;
    const MEMBER: StaticKey = StaticKey([1; 32]);

    fn question(nonce: u8, time_ms: u64) -> Question {
        Question { nonce: [nonce; 24], time_ms, source: Remote::Udp("192.0.2.1:9".parse().unwrap()) }
    }

    fn gate() -> (Gate, Instant) {
        let started_at = Instant::now();
        (Gate::new(started_at), started_at + Duration::from_secs(1_000))
    }

    #[test]
    fn age_is_bounded_both_ways() {
        let (mut gate, now) = gate();
        for (time_ms, expected) in [
            (WALL - 120_000, Ok(())),
            (WALL - 120_001, Err(DropReason::VeilTime)),
            (WALL + 120_000, Ok(())),
            (WALL + 120_001, Err(DropReason::VeilTime)),
            (u64::MAX, Err(DropReason::VeilTime)),
            (0, Err(DropReason::VeilTime)),
        ] {
            assert_eq!(gate.look(Lane::Newest, &question(1, time_ms), WALL, now), expected, "{time_ms}");
        }
    }

    #[test]
    fn what_was_recorded_before_the_start_is_not_answered_if_its_clock_was_a_second_ahead() {
        let started_at = Instant::now();
        let mut gate = Gate::new(started_at);
        let now = started_at + Duration::from_secs(5);
        assert_eq!(gate.look(Lane::Newest, &question(1, WALL - 4_001), WALL, now), Err(DropReason::VeilTime));
        assert_eq!(gate.look(Lane::Newest, &question(1, WALL - 3_999), WALL, now), Ok(()));
        let mut young = Gate::new(now);
        assert_eq!(young.look(Lane::Newest, &question(1, WALL + 999), WALL, now), Err(DropReason::VeilTime));
        assert_eq!(young.look(Lane::Newest, &question(1, WALL + 1_000), WALL, now), Ok(()));
    }

    #[test]
    fn an_answered_question_is_not_answered_again_once_the_clock_is_set_back() {
        let (mut gate, now) = gate();
        let day = Duration::from_secs(86_400);
        assert_eq!(gate.answer(&question(1, WALL), &MEMBER, true, now), Ok(()));
        assert_eq!(
            gate.look(Lane::Newest, &question(2, WALL + 86_400_000), WALL + 86_400_000, now + day),
            Ok(())
        );
        assert_eq!(
            gate.look(Lane::Newest, &question(1, WALL), WALL, now + day),
            Err(DropReason::VeilReplayed)
        );
    }

    #[test]
    fn nonces_beyond_those_kept_are_forgotten_once_they_are_old() {
        let (mut gate, now) = gate();
        for number in 0..=KEPT_NONCES as u64 {
            let mut nonce = [0; 24];
            nonce[..8].copy_from_slice(&number.to_be_bytes());
            let join = Question { nonce, ..question(0, WALL) };
            assert_eq!(gate.answer_join(&join, now), Ok(()));
        }
        gate.forget(now + REMEMBER / 2);
        assert_eq!(gate.seen.len(), KEPT_NONCES + 1);
        gate.forget(now + REMEMBER);
        assert_eq!((gate.seen.len(), gate.order.len()), (KEPT_NONCES, KEPT_NONCES));
    }

    #[test]
    fn an_answered_question_is_never_answered_again() {
        let (mut gate, now) = gate();
        let first = question(1, WALL);
        assert_eq!(gate.answer(&first, &MEMBER, true, now), Ok(()));
        for seconds in [0, 1, 60, 119, 240] {
            let later = now + Duration::from_secs(seconds);
            let verdict = gate
                .look(Lane::Newest, &first, WALL + seconds * 1_000, later)
                .and_then(|()| gate.answer(&first, &MEMBER, true, later));
            assert!(verdict.is_err(), "after {seconds} s");
        }
    }

    #[test]
    fn a_stranger_is_not_answered_and_leaves_no_trace() {
        let (mut gate, now) = gate();
        assert_eq!(gate.answer(&question(1, WALL), &MEMBER, false, now), Err(DropReason::NotMember));
        assert!(gate.seen.is_empty() && gate.peers.buckets.is_empty());
    }

    #[test]
    fn what_failed_once_is_not_looked_at_again() {
        let (mut gate, now) = gate();
        assert_eq!(gate.look(Lane::Newest, &question(1, WALL), WALL, now), Ok(()));
        gate.on_failed(question(1, WALL).nonce, now);
        let again = gate.look(Lane::Newest, &question(1, WALL), WALL, now);
        assert_eq!(again, Err(DropReason::VeilReplayed));
        assert_eq!(gate.look(Lane::Newest, &question(2, WALL), WALL, now), Ok(()), "its next attempt");
    }

    #[test]
    fn a_late_copy_of_an_older_attempt_does_not_replace_a_newer_one() {
        let (mut gate, now) = gate();
        assert_eq!(gate.answer(&question(2, WALL + 1_000), &MEMBER, true, now), Ok(()));
        assert_eq!(gate.answer(&question(1, WALL), &MEMBER, true, now), Err(DropReason::VeilReplayed));
        let later = now + ORDER_FOR;
        assert_eq!(gate.answer(&question(1, WALL), &MEMBER, true, later), Err(DropReason::VeilReplayed));
        assert_eq!(gate.answer(&question(3, WALL), &MEMBER, true, later), Ok(()), "its clock was set back");
    }

    #[test]
    fn an_initiation_that_was_one_of_too_many_is_not_answered_when_a_stranger_sends_it_again() {
        let (mut gate, now) = gate();
        let made = |n: u8| question(n, WALL + u64::from(n));
        for n in 1..=4 {
            assert_eq!(gate.answer(&made(n), &MEMBER, true, now), Ok(()));
        }
        assert_eq!(gate.answer(&made(5), &MEMBER, true, now), Err(DropReason::RateLimited));
        for seconds in [1, 11, 60, 119] {
            let later = now + Duration::from_secs(seconds);
            let again = gate
                .look(Lane::Newest, &made(5), WALL + seconds * 1_000, later)
                .and_then(|()| gate.answer(&made(5), &MEMBER, true, later));
            assert_eq!(again, Err(DropReason::VeilReplayed), "after {seconds} s");
        }
        let later = now + Duration::from_secs(1);
        assert_eq!(gate.answer(&made(6), &MEMBER, true, later), Ok(()), "its next attempt is");
    }

    #[test]
    fn the_holder_of_a_used_token_cannot_silence_the_gate_for_members() {
        let (mut gate, start) = gate();
        let mut answered = 0;
        for step in 0..400_000u64 {
            let (now, wall_ms) = (start + Duration::from_millis(step), WALL + step);
            let mut question = question(0, wall_ms);
            question.nonce[..8].copy_from_slice(&step.to_be_bytes());
            // A source of its own for each.
            question.source = Remote::Udp(SocketAddr::from(((step as u32 + 0x0a00_0000).to_be_bytes(), 9)));
            let looked = gate.look(Lane::Join, &question, wall_ms, now);
            answered += u64::from(looked.and_then(|()| gate.answer_join(&question, now)).is_ok());
        }
        assert!(answered < 400 * 50 + 200, "{answered} in 400 seconds");
        let (now, wall_ms) = (start + Duration::from_secs(400), WALL + 400_000);
        let initiation = question(9, wall_ms);
        assert_eq!(gate.look(Lane::Newest, &initiation, wall_ms, now), Ok(()));
        assert_eq!(gate.answer(&initiation, &MEMBER, true, now), Ok(()));
    }

    #[test]
    fn an_announcement_counts_once_and_announcements_cannot_fill_the_gate() {
        let (mut gate, start) = gate();
        let mut taken = 0;
        for step in 0..300_000u64 {
            let (now, wall_ms) = (start + Duration::from_millis(step), WALL + step);
            let mut question = question(0, wall_ms);
            question.nonce[..8].copy_from_slice(&step.to_be_bytes());
            question.source = Remote::Udp(SocketAddr::from(((step as u32 + 0x0a00_0000).to_be_bytes(), 9)));
            if gate.take_announcement(&question, wall_ms, now) == Ok(()) {
                taken += 1;
                let again = gate.take_announcement(&question, wall_ms, now);
                assert_eq!(again, Err(DropReason::VeilReplayed));
            }
        }
        assert!((2_900..=3_100).contains(&taken), "{taken} in 300 seconds");
        assert!(gate.seen.len() < MAX_NONCES / 20, "{} nonces", gate.seen.len());
    }

    #[test]
    fn one_peer_gets_two_answers_a_second_and_does_not_use_up_anothers() {
        let (mut gate, start) = gate();
        let mut answered = 0;
        for step in 0..1_000u64 {
            let now = start + Duration::from_millis(step * 10);
            let mut question = question(0, WALL + step * 10);
            question.nonce[..8].copy_from_slice(&step.to_be_bytes());
            answered += u32::from(gate.answer(&question, &MEMBER, true, now).is_ok());
        }
        assert!((20..=24).contains(&answered), "{answered} in ten seconds");
        assert_eq!(gate.answer(&question(9, WALL), &StaticKey([2; 32]), true, start), Ok(()));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut gate, now) = gate();
        for n in 0..70_000u32 {
            let mut q = question(0, WALL);
            q.nonce[..4].copy_from_slice(&n.to_be_bytes());
            q.source = Remote::Udp(SocketAddr::new(IpAddr::from(n.to_be_bytes()), 1));
            let _ = gate.look(Lane::Newest, &q, WALL, now);
            let _ = gate.answer_join(&q, now);
        }
        assert_eq!(gate.seen.len(), MAX_NONCES);
        assert_eq!(gate.lanes[0].sources.buckets.len(), MAX_BUCKETS);
        let later = now + REMEMBER;
        assert_eq!(gate.look(Lane::Newest, &question(1, WALL), WALL, later), Ok(()), "time makes room");
        assert_eq!(gate.seen.len(), KEPT_NONCES);
    }
}
