//! The way back in: where this device is, put into the DHT; where others are, looked up there (README §18).
//!
//! The order in which a member is looked for, each step while the one before has had no answer:
//!
//! ```text
//! remembered, told, invite   the first initiation goes to every address that is known       handshake.rs
//! live members               a link's exchange brings later Presences: called at once        presence.rs
//! DHT                        from the second initiation on, or at once without an address    here
//! a beacon's pipe            as soon as its Presence names one                               circuits.rs
//! LAN                        from the third initiation on                                    lan.rs
//! ```
//!
//! In: what lookups gave and what became of publications. Out: [`Event::Lookup`], [`Event::Publish`]. Nothing is asked
//! and nothing published before the machine says that it knows beacons.

use std::time::{Duration, Instant};

use super::news::Origin;
use super::outbox::Event;
use super::trail::{LookedUp, Step};
use super::{Engine, Time};
use crate::discovery::finder::{Finder, MAX_EPOCHS};
use crate::discovery::keeper::Keeper;
use crate::discovery::publisher::{Publisher, Writer};
use crate::discovery::record::{KEY_BYTES, Record};
use crate::drop::DropReason;
use crate::identity::{DeviceId, VpiId};
use crate::membership::object::Object;

/// Tries of a handshake without an answer before the DHT is asked.
const TRIES_BEFORE_LOOKUP: u32 = 1;
/// How long the first Presence of a run waits for a place at a beacon, so that it need not be told twice.
const RESERVED_WITHIN: Duration = Duration::from_secs(3);

/// What this device has to do with the DHT of one VPI.
pub(super) struct Finding {
    /// There are beacons to ask.
    is_on: bool,
    pub(super) finder: Finder,
    publisher: Publisher,
    pub(super) keeper: Keeper,
    /// The beacon over which this device can be met, and its peer id there.
    reserved: Option<(String, Vec<u8>)>,
    /// Until when a place at a beacon is waited for.
    reserves_until: Option<Instant>,
    /// The epoch under which it was published last, by its secret's hash.
    epoch: Option<[u8; 32]>,
    /// Which invites are open may be otherwise than lobbies were kept for.
    has_other_invites: bool,
    /// Lobbies were looked after since the start.
    has_kept: bool,
}

impl Finding {
    pub(super) fn new(vpi: VpiId) -> Self {
        Self {
            is_on: false,
            finder: Finder::default(),
            publisher: Publisher::default(),
            keeper: Keeper::new(vpi),
            reserved: None,
            reserves_until: None,
            epoch: None,
            has_other_invites: true,
            has_kept: false,
        }
    }

    /// There are beacons to ask.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// The beacon over which this device can be met, and its peer id there.
    pub(super) fn reserved(&self) -> Option<&(String, Vec<u8>)> {
        self.reserved.as_ref()
    }

    /// When a first Presence need not wait any longer, if it has to.
    pub(super) fn waits_until(&self, now: Instant) -> Option<Instant> {
        self.reserves_until.filter(|until| self.is_on && self.reserved.is_none() && now < *until)
    }

    /// Who belongs and which invites are open may be otherwise.
    pub(super) fn on_membership(&mut self) {
        self.has_other_invites = true;
    }

    /// Says, once, whether which invites are open may be otherwise.
    pub(super) fn take_other_invites(&mut self) -> bool {
        std::mem::take(&mut self.has_other_invites)
    }

    /// Says, but for the first time, that lobbies were looked after before.
    pub(super) fn has_kept(&mut self) -> bool {
        std::mem::replace(&mut self.has_kept, true)
    }

    /// When something is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let at = [self.finder.poll_timeout(), self.publisher.poll_timeout(), self.keeper.poll_timeout()];
        at.into_iter().flatten().min().filter(|_| self.is_on)
    }
}

impl Engine {
    /// There are beacons to ask, or none any more.
    pub(super) fn on_beacons(&mut self, are_known: bool, time: Time) {
        if !std::mem::replace(&mut self.finding.is_on, are_known) && are_known {
            self.finding.reserves_until.get_or_insert(time.now + RESERVED_WITHIN);
            self.find(time);
        }
    }

    /// Where this device can be met, or that it cannot.
    pub(super) fn on_reserved(&mut self, reserved: Option<(String, Vec<u8>)>, time: Time) {
        self.finding.reserved = reserved;
        if self.is_member() {
            if self.finding.reserved.is_some() {
                self.publish_at = None;
            }
            self.publish(time);
        }
    }

    /// This machine's clock, as far as it is known to be off corrected, in unix seconds.
    pub(super) fn true_secs(&self, time: Time) -> u64 {
        self.clocks.true_ms(time.wall_ms) / 1_000
    }

    /// The newest word of where this device is goes into the DHT too.
    pub(super) fn publish_in_dht(&mut self, time: Time) {
        let own = self.config.device.public();
        if let Some((presence, _)) = self.roster.objects().presence_of(&own) {
            self.finding.publisher.handle_presence(presence, &mut self.rng, time.now);
        }
        self.find(time);
    }

    /// Looks up and publishes what is due.
    pub(super) fn find(&mut self, time: Time) {
        if !self.finding.is_on || !self.is_member() {
            return;
        }
        let wall_secs = self.true_secs(time);
        self.keep_lobbies(wall_secs, time);
        self.plan_bulletins(time);
        let Self { finding, roster, rng, config, .. } = self;
        let epochs: Vec<_> = roster.epochs_newest_first().take(MAX_EPOCHS).collect();
        let Some(epoch) = epochs.first().copied() else { return };
        if finding.epoch.replace(epoch.hash()).is_some_and(|before| before != epoch.hash()) {
            finding.publisher.handle_epoch(rng, time.now);
        }
        let writer = Writer { epoch, secret: &config.device };
        let events = &mut self.out.events;
        while let Some(lookup) = finding.finder.poll_lookup(&epochs, rng, wall_secs, time.now) {
            events.push_back(Event::Lookup { key: lookup.key });
        }
        while let Some(key) = finding.keeper.poll_lookup(rng, wall_secs, time.now) {
            events.push_back(Event::Lookup { key });
        }
        while let Some(record) = finding.keeper.poll_record(rng, wall_secs, time.now) {
            events.push_back(put(record, wall_secs));
        }
        while let Some(record) = finding.publisher.poll_record(writer, rng, wall_secs, time.now) {
            events.push_back(put(record, wall_secs));
        }
    }

    /// Looks for `device` from here on, if `tries` initiations had no answer or there is nowhere to send one.
    pub(super) fn search_dht(&mut self, device: &DeviceId, tries: u32, time: Time) {
        if self.finding.is_on && tries >= TRIES_BEFORE_LOOKUP && self.is_member() {
            self.finding.finder.want(*device, time.now);
            self.find(time);
            self.meet(device, time);
        }
    }

    /// Nobody looks for `device` any more.
    pub(super) fn end_search(&mut self, device: &DeviceId) {
        self.finding.finder.forget(device);
    }

    /// What stands under a key, as `answered` beacons say.
    pub(super) fn on_found(
        &mut self,
        key: &[u8; KEY_BYTES],
        (values, answered): (&[Vec<u8>], u32),
        time: Time,
    ) {
        let wall_secs = self.true_secs(time);
        let Self { finding, rng, .. } = self;
        let invalid =
            if let Some(found) = finding.finder.handle_found((key, values), rng, wall_secs, time.now) {
                self.on_member_found((&found.device, answered), found.presence, time);
                found.invalid
            } else if let Some(invalid) = self.on_bulletin_found((key, values), wall_secs, time) {
                invalid
            } else if let Some(invalid) = self.on_kept_lobby_found((key, values), wall_secs, time) {
                invalid
            } else {
                self.on_lobby_found((key, values), wall_secs, time)
            };
        self.out.events.extend((0..invalid).map(|_| Event::Dropped(DropReason::RecordInvalid)));
        self.find(time);
    }

    fn on_member_found(
        &mut self,
        (device, answered): (&DeviceId, u32),
        presence: Option<Object>,
        time: Time,
    ) {
        let has_any = presence.is_some();
        let taken = self.roster.insert(presence);
        let outcome = match (taken.is_empty(), has_any) {
            (false, _) => LookedUp::News,
            (true, true) => LookedUp::Known,
            (true, false) => LookedUp::Nothing,
        };
        self.note_step(device, Step::LookedUp { answered, outcome }, time.now);
        if self.peers.get(device).is_some_and(|peer| peer.attempt.is_some() || peer.is_waited_for()) {
            self.meet(device, time);
        }
        if !taken.is_empty() {
            self.on_news(taken, Origin::Elsewhere, time);
        }
        if answered > 0 && outcome == LookedUp::Nothing {
            self.look_for_bulletin(time);
        }
        self.hasten(device, time);
    }

    /// What became of a publication: so many copies were read back.
    pub(super) fn on_published(&mut self, (key, copies): (&[u8; KEY_BYTES], u32), time: Time) {
        self.finding.publisher.handle_stored(key, copies, &mut self.rng, time.now);
    }
}

fn put(record: Record, wall_secs: u64) -> Event {
    let expires_in = Duration::from_secs(record.expiry.saturating_sub(wall_secs));
    Event::Publish { key: record.key, value: record.value, expires_in }
}
