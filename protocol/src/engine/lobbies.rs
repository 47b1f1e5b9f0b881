//! Lobbies: where a joiner finds a member that moved (README §18), from both sides.
//!
//! In: an invite that is open, values of a lookup. Out: lookups, records; for a joiner more places to ask at.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::lan::is_sensible;
use super::outbox::Event;
use super::{Engine, Time};
use crate::discovery::keeper::{self, MAX_LOBBIES};
use crate::discovery::lobby::{Contact, Lobby};
use crate::discovery::record::KEY_BYTES;
use crate::discovery::slot;
use crate::identity::{InviteId, Secret, VpiId};
use crate::membership::InviteState;
use crate::membership::object::{Invite, Presence};
use crate::path::Remote;
use crate::random::{Rng, jittered};

/// Questions without an answer before a lobby is looked at.
const TRIES_BEFORE_LOOKUP: u32 = 1;
/// Without a word by then a lookup counts as empty.
const LOOKUP_LIFE: Duration = Duration::from_secs(10);
/// Between two looks at a lobby, ± 20 %.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Addresses of a lobby that are asked at, at most: those of one contact.
const MAX_ADDRESSES: usize = 8;
/// Values of one lookup that are looked at, at most (chosen: three times the k closest beacons).
const MAX_VALUES: usize = 60;

/// At a start, lobbies are looked at within this time: what is written there may be from before.
const FIRST_WITHIN: Duration = Duration::from_secs(20);
/// The lobby of an invite that this device makes is looked at, and written, within this time.
const OWN_WITHIN: Duration = Duration::from_secs(1);

/// A joiner's search: the lobbies of this slot and the one before, and what they said.
#[derive(Default)]
pub(super) struct LobbySearch {
    places: VecDeque<Lobby>,
    /// The first place was asked for, until then.
    until: Option<Instant>,
    again_at: Option<Instant>,
    addresses: Vec<SocketAddr>,
    beacon: Option<(String, Vec<u8>)>,
    circuit: Option<Remote>,
}

impl LobbySearch {
    /// Where else to ask: addresses, and a pipe if there is one.
    pub(super) fn remotes(&self) -> impl Iterator<Item = Remote> {
        self.addresses.iter().copied().map(Remote::Udp).chain(self.circuit)
    }

    /// The next key to look up, if it is time.
    fn poll(
        &mut self,
        (vpi, key): (&VpiId, &Secret),
        rng: &mut Rng,
        wall_secs: u64,
        now: Instant,
    ) -> Option<[u8; KEY_BYTES]> {
        if self.until.is_some_and(|until| now < until) {
            return None;
        }
        if self.until.take().is_some() {
            self.places.pop_front();
        }
        if self.places.is_empty() {
            if self.again_at.is_some_and(|at| now < at) {
                return None;
            }
            self.again_at = Some(now + jittered(AGAIN_AFTER, rng));
            self.places = slot::read_at(wall_secs).map(|slot| Lobby::new(vpi, key, slot)).into();
        }
        self.until = Some(now + LOOKUP_LIFE);
        self.places.front().map(|place| *place.key())
    }

    /// Takes the values under a key; returns how many were none of its lobby's, or `None` if it waits for another.
    fn on_found(&mut self, (key, values): (&[u8; KEY_BYTES], &[Vec<u8>]), wall_secs: u64) -> Option<usize> {
        self.until?;
        let place = self.places.pop_front_if(|place| place.key() == key)?;
        self.until = None;
        let opened: Vec<_> =
            values.iter().take(MAX_VALUES).map(|value| place.open(value, wall_secs).ok()).collect();
        let invalid = opened.iter().filter(|opened| opened.is_none()).count();
        let newest = opened.into_iter().flatten().max_by_key(|(checked, _)| checked.sequence);
        if let Some((_, Contact { addresses, beacon })) = newest {
            self.places.clear();
            self.addresses = addresses.into_iter().filter(is_sensible).take(MAX_ADDRESSES).collect();
            self.beacon = beacon;
        }
        Some(invalid)
    }
}

impl Engine {
    /// A joiner that nobody answered looks at its invite's lobby.
    pub(super) fn search_lobby(&mut self, time: Time) {
        let wall_secs = self.true_secs(time);
        let Self { joining, rng, config, finding, .. } = self;
        let Some(joining) = joining.as_mut().filter(|joining| joining.attempt() >= TRIES_BEFORE_LOOKUP)
        else {
            return;
        };
        if !finding.is_on() {
            return;
        }
        let (lobby, key) = joining.lobby();
        if let Some(key) = lobby.poll((&config.vpi, key), rng, wall_secs, time.now) {
            self.out.events.push_back(Event::Lookup { key });
        }
        if lobby.circuit.is_none()
            && let Some(beacon) = lobby.beacon.clone()
        {
            let circuit = self.open_circuit(beacon);
            if let Some(joining) = &mut self.joining {
                joining.lobby().0.circuit = Some(circuit);
            }
        }
    }

    /// Takes what was found for a joiner; returns how many values were worth nothing.
    pub(super) fn on_lobby_found(
        &mut self,
        found: (&[u8; KEY_BYTES], &[Vec<u8>]),
        wall_secs: u64,
        time: Time,
    ) -> usize {
        let Some(joining) = &mut self.joining else { return 0 };
        let Some(invalid) = joining.lobby().0.on_found(found, wall_secs) else { return 0 };
        if joining.lobby().0.until.is_none() {
            joining.hasten(time.now);
        }
        invalid
    }

    /// A pipe that a question went over is gone.
    pub(super) fn on_lobby_circuit_closed(&mut self, number: u32) {
        if let Some(joining) = &mut self.joining {
            joining.lobby().0.circuit.take_if(|circuit| *circuit == Remote::Circuit(number));
        }
    }

    /// This device made an invite: whoever gets it may look at its lobby soon.
    pub(super) fn keep_own_lobby(&mut self, invite: InviteId, time: Time) {
        if let Some(epoch) = self.roster.newest_epoch().filter(|_| self.finding.is_on()) {
            let kept = (invite, epoch.join_veil_key(&invite));
            self.finding.keeper.keep(kept, OWN_WITHIN, &mut self.rng, time.now);
        }
    }

    /// Takes what stands in a lobby that this node looks after; returns how many values were worth nothing, `None` if it is not
    /// one.
    pub(super) fn on_kept_lobby_found(
        &mut self,
        found: (&[u8; KEY_BYTES], &[Vec<u8>]),
        wall_secs: u64,
        time: Time,
    ) -> Option<usize> {
        let Self { finding, roster, rng, .. } = self;
        let members = roster.membership().members();
        let places: Vec<&Presence> =
            members.filter_map(|member| Some(roster.objects().presence_of(&member.device)?.1)).collect();
        let is_there = |contact: &Contact, presence: &Presence| {
            let (addresses, candidates) = (&contact.addresses, &presence.candidates);
            contact.beacon.is_some() && contact.beacon == presence.beacon
                || addresses.iter().any(|address| candidates.contains(address))
        };
        let is_true = |contact: &Contact| places.iter().any(|presence| is_there(contact, presence));
        finding.keeper.handle_found(found, is_true, rng, (wall_secs, time.now))
    }

    /// Where this device is, for joiners too.
    pub(super) fn tell_lobbies(&mut self, addresses: &[SocketAddr], time: Time) {
        let contact = Contact { addresses: addresses.to_vec(), beacon: self.finding.reserved().cloned() };
        self.finding.keeper.handle_contact(contact, &mut self.rng, time.now);
    }

    /// Keeps the lobbies of the invites that are open, those that end last where there are too many; to be called before lobbies are read.
    pub(super) fn keep_lobbies(&mut self, wall_secs: u64, time: Time) {
        let is_due = self.finding.keeper.poll_timeout().is_some_and(|at| time.now >= at);
        if !self.finding.take_other_invites() && !is_due {
            return;
        }
        let own = self.config.device.public();
        let is_open = |state: &&InviteState| {
            let admitters = &state.invite().admitters;
            let may_admit = admitters.is_empty() || admitters.contains(&own);
            may_admit && state.is_live(wall_secs) && state.uses_left() > 0
        };
        let invites = self.roster.membership().invites().filter(is_open).map(InviteState::invite);
        let mut open: Vec<&Invite> = invites.collect();
        open.sort_by_key(|invite| (Reverse(invite.not_after), invite.invite_id));
        open.truncate(MAX_LOBBIES);
        let key = |invite: &&Invite| {
            let epoch = self.roster.epoch_at(invite.time)?;
            Some((invite.invite_id, epoch.join_veil_key(&invite.invite_id)))
        };
        let open: Vec<(InviteId, Secret)> = open.iter().filter_map(key).collect();
        let kept: Vec<InviteId> = self.finding.keeper.kept().copied().collect();
        for invite in kept.iter().filter(|kept| open.iter().all(|(invite, _)| invite != *kept)) {
            self.finding.keeper.forget(invite);
        }
        let within = if self.finding.has_kept() { keeper::SPREAD } else { FIRST_WITHIN };
        for kept in open {
            self.finding.keeper.keep(kept, within, &mut self.rng, time.now);
        }
    }
}
