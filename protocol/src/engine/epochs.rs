//! Epoch secrets inside sessions: asked for, given, taken.
//!
//! ```text
//! ask(epoch) ──►          ◄── secret(epoch, K), or secret(epoch): not held
//! ```
//!
//! No secret is taken before the Removes that led to it: else a device that has not heard of them would hand it on to whom
//! it takes for a member. Either the removed set is the one that the Epoch names, or an exchange with the member that gave
//! the secret, begun since then, has settled: it had those Removes when it took the secret itself, in the same way. A
//! secret says who can be heard, never who belongs: any current member may have it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::outbox::Event;
use super::{Engine, Time};
use crate::drop::DropReason;
use crate::identity::{DeviceId, ObjectId, Secret};
use crate::membership::epoch::MAX_EPOCHS;
use crate::random::{Rng, jittered};
use crate::wire::message::Message;

/// A question is asked again after this long, ± 20 %, times the number of attempts.
const AGAIN_AFTER: Duration = Duration::from_millis(400);
/// Removes and the Epoch behind them are told together and come in any order: so long is waited for the rest before the
/// secret is asked for, which then needs an exchange (chosen: above any round trip on earth).
const TOGETHER: Duration = Duration::from_secs(1);
/// A question asked so often counts as answered: not held.
const MAX_ATTEMPTS: u32 = 8;

/// Which secrets one member was asked for.
#[derive(Debug, Default)]
pub(super) struct Asking {
    asked: Option<(ObjectId, Instant, u32)>,
    /// What it does not hold.
    lacking: BTreeSet<ObjectId>,
    /// What it gave, and when, before it was known here which Removes led to it.
    unproved: BTreeMap<ObjectId, (Instant, Secret)>,
}

impl Asking {
    /// The next question that is due, of those that are `missing` here.
    fn poll(
        &mut self,
        missing: impl Iterator<Item = ObjectId>,
        rng: &mut Rng,
        now: Instant,
    ) -> Option<Message<'static>> {
        let missing: Vec<ObjectId> = missing.collect();
        self.lacking.retain(|id| missing.contains(id));
        self.unproved.retain(|id, _| missing.contains(id));
        if let Some((id, again_at, attempts)) = self.asked.filter(|(id, ..)| missing.contains(id)) {
            if now < again_at {
                return None;
            }
            if attempts >= MAX_ATTEMPTS {
                self.lacking.insert(id);
            }
        }
        let is_open = |id: &ObjectId| !self.lacking.contains(id) && !self.unproved.contains_key(id);
        let id = missing.into_iter().find(is_open);
        let attempts =
            self.asked.filter(|(asked, ..)| Some(*asked) == id).map_or(0, |(.., attempts)| attempts);
        self.asked = id.map(|id| (id, now + jittered(AGAIN_AFTER, rng) * (attempts + 1), attempts + 1));
        id.map(|id| Message::Ask { id })
    }

    /// Asks from the beginning; what was given stays.
    pub(super) fn begin(&mut self) {
        (self.asked, self.lacking) = (None, BTreeSet::new());
    }

    /// Keeps what the member gave until its Removes are here.
    fn keep(&mut self, id: ObjectId, secret: Secret, now: Instant) {
        if self.unproved.len() < MAX_EPOCHS {
            self.unproved.entry(id).or_insert((now, secret));
        }
    }

    /// Takes out what was given before the exchange that `began` then.
    fn take_proved(&mut self, began: Instant) -> Vec<(ObjectId, Secret)> {
        let proved = self.unproved.extract_if(.., |_, (at, _)| *at <= began);
        proved.map(|(id, (_, secret))| (id, secret)).collect()
    }

    /// Says whether nothing is asked, and an exchange would prove what was given.
    fn waits_for_proof(&self) -> bool {
        self.asked.is_none() && !self.unproved.is_empty()
    }

    /// Asks nothing until then.
    fn wait(&mut self, id: ObjectId, until: Instant) {
        self.asked = Some((id, until, 0));
    }

    /// When [`Asking::poll`] is to be asked again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.asked.map(|(_, again_at, _)| again_at)
    }

    /// Says whether something `missing` was asked of this member, and not answered yet.
    pub(super) fn is_waiting(&self, mut missing: impl Iterator<Item = ObjectId>) -> bool {
        self.asked.is_some_and(|(asked, _, attempts)| attempts > 0 && missing.any(|id| id == asked))
    }

    /// Says whether nothing of what is `missing` can come from this member.
    fn is_done(&self, mut missing: impl Iterator<Item = ObjectId>) -> bool {
        missing.all(|id| self.lacking.contains(&id))
    }

    fn on_lacking(&mut self, id: ObjectId) {
        if self.lacking.len() < MAX_EPOCHS {
            self.lacking.insert(id);
        }
    }
}

impl Engine {
    /// The next question for a secret to `device`, if one is due, or the first of the exchange that proves those it gave.
    pub(super) fn poll_ask(&mut self, device: &DeviceId, time: Time) -> Option<Message<'static>> {
        self.take_proved(device, time);
        let is_stale = self.roster.membership().epoch().is_some_and(|epoch| epoch.is_stale);
        let peer = self.peers.get_mut(device).filter(|peer| peer.exchange.is_settled())?;
        let until = self.epoch_at.map(|at| at + TOGETHER).filter(|until| is_stale && time.now < *until);
        if let Some((until, id)) = until.zip(self.roster.missing_secrets().next()) {
            peer.asking.wait(id, until);
            return None;
        }
        let question = peer.asking.poll(self.roster.missing_secrets(), &mut self.rng, time.now);
        if question.is_none() && peer.asking.waits_for_proof() {
            peer.begin_exchange(time.now);
            return peer.exchange.poll_question(&mut self.rng, time.now);
        }
        question
    }

    /// Takes the secrets that `device` gave before an exchange with it that has settled.
    fn take_proved(&mut self, device: &DeviceId, time: Time) {
        let Some(peer) = self.peers.get_mut(device).filter(|peer| peer.exchange.is_settled()) else { return };
        let proved = peer.exchange_at.map(|began| peer.asking.take_proved(began)).unwrap_or_default();
        for (id, secret) in proved {
            self.take_secret(&id, &secret, time);
        }
    }

    /// Says whether no secret can come from `device` any more.
    pub(super) fn has_secrets_of(&self, device: &DeviceId) -> bool {
        self.peers.get(device).is_some_and(|peer| peer.asking.is_done(self.roster.missing_secrets()))
    }

    /// Answers a member's question for a secret. While this device is itself no member it hands none on.
    pub(super) fn on_ask(&mut self, device: &DeviceId, id: ObjectId, time: Time) {
        let may_have = self.joining.is_none() && self.roster.membership().member(device).is_some();
        let secret = self.roster.secret_of(&id).filter(|_| may_have).cloned();
        self.send_message(device, &Message::Secret { id, secret }, time);
    }

    /// Takes in the answer.
    pub(super) fn on_secret(
        &mut self,
        device: &DeviceId,
        (id, secret): (ObjectId, Option<Secret>),
        time: Time,
    ) -> Result<(), DropReason> {
        let Some(secret) = secret else {
            if let Some(peer) = self.peers.get_mut(device) {
                peer.asking.on_lacking(id);
            }
            return Ok(());
        };
        if self.roster.secret_of(&id).is_some() {
            return Ok(());
        }
        let has_its_removes = self.roster.is_secret_of(&id, &secret).ok_or(DropReason::SecretInvalid)?;
        if has_its_removes {
            self.take_secret(&id, &secret, time);
        } else if let Some(peer) = self.peers.get_mut(device) {
            peer.asking.keep(id, secret, time.now);
        }
        Ok(())
    }

    fn take_secret(&mut self, id: &ObjectId, secret: &Secret, time: Time) {
        let Some(epoch) = self.roster.take_secret(id, secret) else { return };
        let is_newest = self.roster.is_newest(&epoch.hash());
        // A joiner's secrets are on disk once it is a member.
        if self.joining.is_none() {
            self.store(Vec::new(), vec![epoch]);
            self.end_epochs();
        }
        if is_newest {
            self.on_newest_epoch(time);
        }
        self.check_joined(time);
    }

    /// What is kept of secrets that gave way to others can go.
    pub(super) fn end_epochs(&mut self) {
        let ended = self.roster.take_ended().into_iter();
        self.out.events.extend(ended.map(|(number, tag)| Event::EpochEnded { number, tag }));
    }

    /// The newest epoch is another than before: links that are held up because they stand under an older one are made
    /// again, and whoever sleeps is told.
    pub(super) fn on_newest_epoch(&mut self, time: Time) {
        let held_up: Vec<DeviceId> = self
            .peers
            .iter()
            .filter(|(_, peer)| !peer.is_settled() && peer.sessions.current(time.now).is_some())
            .map(|(device, _)| *device)
            .collect();
        for device in held_up {
            self.wake(&device, time);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    #[test]
    fn a_secret_whose_removes_may_be_missing_waits_for_an_exchange_begun_since_it_came() {
        let (mut asking, mut rng, start) = (Asking::default(), Rng::from_seed([1; 32]), Instant::now());
        let id = ObjectId([1; 32]);
        let missing = || [id].into_iter();
        let came = start + Duration::from_secs(1);
        assert_eq!(asking.poll(missing(), &mut rng, start), Some(Message::Ask { id }));
        asking.keep(id, Secret([7; 32]), came);
        assert_eq!(asking.poll(missing(), &mut rng, came), None, "it is here");
        assert!(asking.waits_for_proof() && !asking.is_done(missing()));
        assert_eq!(asking.take_proved(start), [], "that exchange may not have had them");
        asking.begin();
        assert_eq!(asking.take_proved(came), [(id, Secret([7; 32]))]);
        assert!(!asking.waits_for_proof());
    }

    #[test]
    fn what_a_member_gives_is_bounded_and_forgotten_once_it_is_not_missing() {
        let (mut asking, mut rng, now) = (Asking::default(), Rng::from_seed([1; 32]), Instant::now());
        for n in 0..=u8::MAX {
            asking.keep(ObjectId([n; 32]), Secret([n; 32]), now);
        }
        assert_eq!(asking.unproved.len(), MAX_EPOCHS);
        assert_eq!(asking.poll(std::iter::empty(), &mut rng, now), None);
        assert!(asking.unproved.is_empty());
    }

    #[test]
    fn secrets_are_asked_for_one_by_one_until_each_is_here_or_not_held() {
        let (mut asking, mut rng, start) = (Asking::default(), Rng::from_seed([1; 32]), Instant::now());
        let [first, second] = [ObjectId([1; 32]), ObjectId([2; 32])];
        let both = || [first, second].into_iter();
        assert_eq!(asking.poll(both(), &mut rng, start), Some(Message::Ask { id: first }));
        assert_eq!(asking.poll(both(), &mut rng, start), None, "one at a time");
        assert!(asking.is_waiting(both()) && !asking.is_waiting([second].into_iter()));
        asking.on_lacking(first);
        assert!(!asking.is_done(both()));
        let later = start + Duration::from_secs(1);
        assert_eq!(asking.poll(both(), &mut rng, later), Some(Message::Ask { id: second }));
        // It came, perhaps from elsewhere.
        assert_eq!(asking.poll([first].into_iter(), &mut rng, later), None);
        assert!(asking.is_done([first].into_iter()));
        assert_eq!(asking.poll_timeout(), None);
    }

    #[test]
    fn a_member_that_does_not_answer_is_asked_a_few_times() {
        let (mut asking, mut rng, start) = (Asking::default(), Rng::from_seed([1; 32]), Instant::now());
        let (mut asked, mut now) = (0, start);
        while asking.poll([ObjectId([1; 32])].into_iter(), &mut rng, now).is_some() {
            asked += 1;
            now = asking.poll_timeout().unwrap();
        }
        assert_eq!(asked, MAX_ATTEMPTS);
        assert!(asking.is_done([ObjectId([1; 32])].into_iter()) && asking.poll_timeout().is_none());
        assert!(now < start + Duration::from_secs(30));
    }
}
