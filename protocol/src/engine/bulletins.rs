//! Bulletins: what an admin leaves in the DHT for members that sleep through a change of epoch, and how these read it
//! (README §18).
//!
//! ```text
//! admin    an Epoch of its own ──► who is not known to hold it ──► parts, put now and again
//! sleeper  nobody is found under the newest epoch held ──► part 0 by each admin ──► the other parts ──► Removes, Epoch, secret
//! ```
//!
//! A bulletin says nothing that a member could not say in a session; what it says goes the same ways.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::news::Origin;
use super::outbox::Event;
use super::{Engine, Time};
use crate::discovery::bulletin::{self, News, Part, Place, Sleeper};
use crate::discovery::record::KEY_BYTES;
use crate::identity::{DeviceId, ObjectId};
use crate::membership::epoch::EpochSecret;
use crate::membership::object::{Body, Capabilities, Kind, Object};
use crate::random::{jittered, within};

/// Behind a change of epoch, members that are awake have heard by then (chosen: authors wake ten a second).
const LEFT_AFTER: Duration = Duration::from_secs(60);
/// And as much again at random.
const LEFT_WITHIN: Duration = Duration::from_secs(60);
/// The same parts are put again after this long, ± 20 %: beacons come and go.
const LEFT_AGAIN: Duration = Duration::from_secs(24 * 3_600);
/// Between two members' bulletins, ± 20 %.
const PAUSE: Duration = Duration::from_secs(2);
/// Between two looks for a bulletin, ± 20 %.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// Without a word by then a lookup counts as empty.
const LOOKUP_LIFE: Duration = Duration::from_secs(10);
/// Admins whose bulletins are looked for, at most.
const MAX_ADMINS: usize = 8;
/// Values of one lookup that are looked at, at most (chosen: three times the k closest beacons).
const MAX_VALUES: usize = 60;

/// Both sides of it.
#[derive(Debug, Default)]
pub(super) struct Bulletins {
    /// The Epoch, of this device's making, that others are told of.
    told: Option<ObjectId>,
    /// When the next member's is put.
    next_at: Option<Instant>,
    /// When each member's was put.
    left: BTreeMap<DeviceId, Instant>,
    /// Parts to look up, with the admin whose they are; the first was asked for, until then.
    places: VecDeque<(DeviceId, Place)>,
    until: Option<Instant>,
    look_again_at: Option<Instant>,
    /// A secret that waits for the Removes that led to its Epoch.
    secret: Option<(ObjectId, EpochSecret)>,
}

impl Bulletins {
    /// When something is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.next_at, self.until].into_iter().flatten().min()
    }
}

impl Engine {
    /// Puts the next bulletin and looks up the next part, if it is time.
    pub(super) fn do_bulletins(&mut self, time: Time) {
        if !self.finding.is_on() || !self.is_member() {
            return;
        }
        if self.bulletins.next_at.take_if(|at| time.now >= *at).is_some() {
            self.leave_bulletin(time);
        }
        if self.bulletins.until.take_if(|until| time.now >= *until).is_some() {
            self.bulletins.places.pop_front();
            self.look_up_part(time);
        }
    }

    /// Begins to tell sleepers of a new Epoch, if this device made it.
    pub(super) fn plan_bulletins(&mut self, time: Time) {
        let own = self.config.device.public();
        let newest = self.roster.membership().epoch().map(|epoch| epoch.id);
        let is_own = |id: &ObjectId| {
            let object = self.roster.to_tell(id);
            object.is_some_and(|object| matches!(object.body(), Body::Epoch(epoch) if epoch.admin == own && epoch.number > 0))
        };
        let told = newest.filter(is_own);
        if told != self.bulletins.told {
            self.bulletins.told = told;
            self.bulletins.left.clear();
            let wait = LEFT_AFTER + within(LEFT_WITHIN, &mut self.rng);
            self.bulletins.next_at = told.map(|_| time.now + wait);
        }
    }

    /// Puts the parts for one member that is not known to hold the newest epoch, and plans the next.
    fn leave_bulletin(&mut self, time: Time) {
        let Some(object) = self.bulletins.told.and_then(|id| self.roster.objects().get(&id)).cloned() else {
            return;
        };
        let newest_tag = self.roster.newest_keys().map(|keys| keys.tag);
        let is_awake = |device: &DeviceId| {
            let digests = self.peers.get(device).and_then(|peer| peer.digests);
            digests.is_some_and(|digests| Some(digests.epoch_tag) == newest_tag)
        };
        let due_at = |device: &DeviceId| self.bulletins.left.get(device).map(|at| *at + LEFT_AGAIN);
        let asleep: Vec<DeviceId> = self.peers.keys().filter(|device| !is_awake(device)).copied().collect();
        let sleeper = asleep.iter().find(|device| due_at(device).is_none_or(|at| time.now >= at)).copied();
        let Some(device) = sleeper else {
            let next = asleep.iter().filter_map(due_at).min();
            self.bulletins.next_at = next.map(|at| at + jittered(PAUSE, &mut self.rng));
            return;
        };
        self.bulletins.left.insert(device, time.now);
        self.bulletins.next_at = Some(time.now + jittered(PAUSE, &mut self.rng));
        let wall_secs = self.true_secs(time);
        let known_tag =
            self.peers.get(&device).and_then(|peer| peer.digests).map(|digests| digests.epoch_tag);
        let older = || self.roster.epochs_newest_first().skip(1);
        let held = older().find(|epoch| Some(epoch.tag()) == known_tag).or_else(|| older().next());
        let static_key = self.peers.get(&device).and_then(|peer| peer.static_key);
        let secret = self.roster.newest_epoch().map(EpochSecret::secret);
        let Some(((held, static_key), secret)) = held.zip(static_key).zip(secret) else { return };
        let removes: Vec<Object> = self.roster.objects().of_kind(Kind::Remove).cloned().collect();
        let sleeper = Sleeper { device: &device, static_key: &static_key, held };
        let news = News { epoch: &object, secret, removes: &removes };
        let parts = bulletin::seal(sleeper, &self.config.device, news, wall_secs, &mut self.rng);
        for record in parts.unwrap_or_default() {
            let expires_in = Duration::from_secs(record.expiry.saturating_sub(wall_secs));
            self.out.events.push_back(Event::Publish { key: record.key, value: record.value, expires_in });
        }
    }

    /// Nobody was found under the newest epoch that this device holds: an admin may have left word of another.
    pub(super) fn look_for_bulletin(&mut self, time: Time) {
        let is_early = self.bulletins.look_again_at.is_some_and(|at| time.now < at);
        if is_early || !self.bulletins.places.is_empty() {
            return;
        }
        self.bulletins.look_again_at = Some(time.now + jittered(LOOK_AGAIN, &mut self.rng));
        let own = self.config.device.public();
        let membership = self.roster.membership();
        let Some(held) = self.roster.newest_epoch() else { return };
        let admins = membership.members().map(|member| member.device);
        let admins = admins.filter(|admin| *admin != own && membership.may(admin, Capabilities::EPOCH));
        let places =
            admins.take(MAX_ADMINS).filter_map(|admin| Some((admin, Place::new(held, &admin, &own, 0)?)));
        self.bulletins.places = places.collect();
        self.look_up_part(time);
    }

    fn look_up_part(&mut self, time: Time) {
        let first = self.bulletins.places.front();
        self.bulletins.until = first.map(|_| time.now + LOOKUP_LIFE);
        if let Some((_, place)) = first {
            self.out.events.push_back(Event::Lookup { key: *place.key() });
        }
    }

    /// Takes the values under a key; returns how many were no such part, or `None` if it is no part's that is waited for.
    pub(super) fn on_bulletin_found(
        &mut self,
        (key, values): (&[u8; KEY_BYTES], &[Vec<u8>]),
        wall_secs: u64,
        time: Time,
    ) -> Option<usize> {
        self.bulletins.until?;
        let (admin, place) = self.bulletins.places.pop_front_if(|(_, place)| place.key() == key)?;
        let opened: Vec<_> =
            values.iter().take(MAX_VALUES).map(|value| place.open(value, wall_secs).ok()).collect();
        let invalid = opened.iter().filter(|opened| opened.is_none()).count();
        // Anybody can keep an older one of the admin's: what counts is decided object by object.
        for part in opened.into_iter().flatten() {
            self.on_part(&admin, &part, time);
        }
        self.look_up_part(time);
        Some(invalid)
    }

    fn on_part(&mut self, admin: &DeviceId, part: &Part, time: Time) {
        let own = self.config.device.public();
        if let Some((epoch, _)) = &part.epoch {
            let held = self.roster.newest_epoch();
            let others = (1..part.parts).filter_map(|at| Some((*admin, Place::new(held?, admin, &own, at)?)));
            for place in others.collect::<Vec<_>>().into_iter().rev() {
                self.bulletins.places.push_front(place);
            }
            let secret = part.secret(&self.config.vpi, &self.config.static_secret);
            self.bulletins.secret = secret.map(|secret| (epoch.id(), secret));
        }
        let objects = part.removes.iter().chain(part.epoch.as_ref().map(|(epoch, _)| epoch));
        let wall_secs = time.wall_secs();
        let taken: Vec<Object> = objects
            .flat_map(|object| self.roster.receive(object.bytes(), admin, wall_secs).unwrap_or_default())
            .collect();
        if !taken.is_empty() {
            self.on_news(taken, Origin::Elsewhere, time);
        }
        self.take_bulletin_secret(time);
    }

    /// Takes the secret once this device knows the Removes that led to its Epoch: else it would hand it on to whom it takes
    /// for a member.
    fn take_bulletin_secret(&mut self, time: Time) {
        let Some((id, _)) = &self.bulletins.secret else { return };
        let in_force = self.roster.membership().epoch();
        if in_force.is_none_or(|epoch| epoch.id != *id || epoch.is_stale) {
            return;
        }
        let Some((id, secret)) = self.bulletins.secret.take() else { return };
        if let Some(epoch) = self.roster.take_secret(&id, secret.secret()) {
            self.store(Vec::new(), vec![epoch]);
            self.on_newest_epoch(time);
            self.find(time);
        }
    }
}
