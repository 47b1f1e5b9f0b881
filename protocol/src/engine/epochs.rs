//! Epoch secrets inside sessions: asked for, given, taken.
//!
//! ```text
//! ask(epoch) ──►          ◄── secret(epoch, K), or secret(epoch): not held
//! ```
//!
//! Whoever asks has had the other end's Removes before (an exchange that began when the Epoch was known has settled, or
//! the removed set is the one that the Epoch names), so that no secret comes before the Removes that led to it: else a
//! device that slept through a removal would hand it on to whom it takes for a member. A secret says who can be heard, never who belongs: any current member may have it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Engine, Time};
use crate::drop::DropReason;
use crate::identity::{DeviceId, ObjectId, Secret};
use crate::membership::epoch::MAX_EPOCHS;
use crate::random::{Rng, jittered};
use crate::wire::message::Message;

/// A question is asked again after this long, ± 20 %, times the number of attempts.
const AGAIN_AFTER: Duration = Duration::from_millis(400);
/// Removes and the Epoch behind them are told together and come in any order: so long is waited for the rest before an
/// exchange brings it (chosen: above any round trip on earth).
const TOGETHER: Duration = Duration::from_secs(1);
/// A question asked so often counts as answered: not held.
const MAX_ATTEMPTS: u32 = 8;

/// Which secrets one member was asked for.
#[derive(Debug, Default)]
pub(super) struct Asking {
    asked: Option<(ObjectId, Instant, u32)>,
    /// What it does not hold.
    lacking: BTreeSet<ObjectId>,
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
        if let Some((id, again_at, attempts)) = self.asked.filter(|(id, ..)| missing.contains(id)) {
            if now < again_at {
                return None;
            }
            if attempts >= MAX_ATTEMPTS {
                self.lacking.insert(id);
            }
        }
        let id = missing.into_iter().find(|id| !self.lacking.contains(id));
        let attempts =
            self.asked.filter(|(asked, ..)| Some(*asked) == id).map_or(0, |(.., attempts)| attempts);
        self.asked = id.map(|id| (id, now + jittered(AGAIN_AFTER, rng) * (attempts + 1), attempts + 1));
        id.map(|id| Message::Ask { id })
    }

    /// Asks nothing until then.
    fn wait(&mut self, id: ObjectId, until: Instant) {
        self.asked = Some((id, until, 0));
    }

    /// When [`Asking::poll`] is to be asked again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.asked.map(|(_, again_at, _)| again_at)
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
    /// The next question for a secret to `device`, if one is due.
    pub(super) fn poll_ask(&mut self, device: &DeviceId, time: Time) -> Option<Message<'static>> {
        let peer = self.peers.get_mut(device).filter(|peer| peer.exchange.is_settled())?;
        let is_stale = self.roster.membership().epoch().is_some_and(|epoch| epoch.is_stale);
        let known_at =
            self.epoch_at.filter(|at| is_stale && peer.exchange_at.is_none_or(|began| began < *at));
        if let Some((known_at, id)) = known_at.zip(self.roster.missing_secrets().next()) {
            // Removes that led to it may be missing here, of devices that are members for this one.
            if time.now < known_at + TOGETHER {
                peer.asking.wait(id, known_at + TOGETHER);
                return None;
            }
            peer.begin_exchange(time.now);
            return peer.exchange.poll_question(&mut self.rng, time.now);
        }
        peer.asking.poll(self.roster.missing_secrets(), &mut self.rng, time.now)
    }

    /// Says whether no secret can come from `device` any more.
    pub(super) fn has_secrets_of(&self, device: &DeviceId) -> bool {
        self.peers.get(device).is_some_and(|peer| peer.asking.is_done(self.roster.missing_secrets()))
    }

    /// Answers a question for a secret. While this device is itself no member it hands none on.
    pub(super) fn on_ask(&mut self, device: &DeviceId, id: ObjectId, time: Time) {
        let secret = self.roster.secret_of(&id).filter(|_| self.joining.is_none()).cloned();
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
        let epoch = self.roster.take_secret(&id, &secret).ok_or(DropReason::SecretInvalid)?;
        let is_newest = self.roster.is_newest(&epoch.hash());
        // A joiner's secrets are on disk once it is a member.
        if self.joining.is_none() {
            self.store(Vec::new(), vec![epoch]);
        }
        if is_newest {
            self.on_newest_epoch(time);
        }
        self.check_joined(time);
        Ok(())
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
    fn secrets_are_asked_for_one_by_one_until_each_is_here_or_not_held() {
        let (mut asking, mut rng, start) = (Asking::default(), Rng::from_seed([1; 32]), Instant::now());
        let [first, second] = [ObjectId([1; 32]), ObjectId([2; 32])];
        let both = || [first, second].into_iter();
        assert_eq!(asking.poll(both(), &mut rng, start), Some(Message::Ask { id: first }));
        assert_eq!(asking.poll(both(), &mut rng, start), None, "one at a time");
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
