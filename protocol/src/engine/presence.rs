//! Where members are: this node's own addresses, told to all, and those that others tell.
//!
//! A Presence is an object, signed by its device; the newest replaces the former, and it goes to the index, not to the
//! log. What it says is worth trying, no more: a path is used only after a handshake or an echo.

use std::net::SocketAddr;
use std::time::Duration;

use super::news::Origin;
use super::outbox::Event;
use super::peer::Quiet;
use super::trail::Step;
use super::{Engine, Time};
use crate::identity::DeviceId;
use crate::membership::admin;
use crate::membership::object::{Body, Object, Presence, RELAYS};
use crate::path::is_candidate;
use crate::path::nat::Nat;
use crate::path::punch::{Candidate, Kind, Punch};
use crate::wire::message::NatCode;

/// Addresses told of one device (specified: README §10).
const MAX_ADDRESSES: usize = 8;
/// After a change of addresses, members heard within this time are called again (specified: README §14).
const RECENT: Duration = Duration::from_secs(600);

impl Engine {
    /// Takes in the addresses of this machine, the best first. If they are others than before, members are told: those
    /// with a link at once, by a probe from the new address.
    pub(super) fn on_addresses(&mut self, addresses: Vec<SocketAddr>, time: Time) {
        let mut usable: Vec<SocketAddr> = Vec::new();
        for address in addresses.into_iter().filter(is_candidate) {
            if usable.len() < MAX_ADDRESSES && !usable.contains(&address) {
                usable.push(address);
            }
        }
        let has_moved = self.addresses.as_ref().is_some_and(|former| *former != usable);
        self.addresses = Some(usable);
        if has_moved {
            self.on_elsewhere(time);
        }
        self.on_own_candidates(time);
        self.publish(time);
        if has_moved {
            self.on_moved(time);
        }
    }

    /// This machine slept: as if it were elsewhere. Whoever has a link in use may have forgotten it, and is called besides.
    pub(super) fn on_woke(&mut self, time: Time) {
        let in_use: Vec<DeviceId> = self
            .peers
            .iter()
            .filter(|(_, peer)| self.is_in_use(peer, time))
            .map(|(device, _)| *device)
            .collect();
        self.on_elsewhere(time);
        self.on_own_candidates(time);
        self.publish(time);
        self.on_moved(time);
        for device in in_use {
            self.wake(&device, time);
        }
    }

    /// Tells where this device is: members, and, under the keys of its slots, the DHT.
    pub(super) fn publish(&mut self, time: Time) {
        if let Some(until) = self.finding.waits_until(time.now) {
            self.publish_at.get_or_insert(until);
            return;
        }
        self.sign_presence(time);
        self.publish_in_dht(time);
    }

    /// Signs and tells where this device is, if the newest word of that says something else.
    fn sign_presence(&mut self, time: Time) {
        let Some((candidates, nat)) = self.whereabouts() else { return };
        let own = self.config.device.public();
        if self.roster.membership().member(&own).is_none() || self.publish_at.is_some() {
            return;
        }
        self.tell_lobbies(&candidates, time);
        let beacon = self.finding.reserved();
        let newest = self.roster.objects().presence_of(&own);
        let flags = if self.passes_on() { RELAYS } else { 0 };
        let place = admin::Place { candidates: &candidates, nat, flags, beacon };
        let says = |presence: &Presence| {
            (presence.nat, presence.flags, presence.beacon.as_ref()) == (nat, flags, beacon)
        };
        if newest.is_some_and(|(_, presence)| presence.candidates == candidates && says(presence)) {
            return;
        }
        // Above every former one, also one that a disk forgot: members bring it back. Seconds, which are a count (README §10).
        let counter =
            newest.map_or(0, |(_, presence)| presence.counter.saturating_add(1)).max(time.wall_secs());
        let (vpi, device) = (&self.config.vpi, &self.config.device);
        let made = admin::presence(vpi, device, counter, place, time.wall_secs());
        let Ok(object) = made else { return };
        let taken = self.roster.insert([object]);
        self.on_news(taken, Origin::Own, time);
    }

    /// Another network: whoever has a link hears it from the new address, and challenges it; whoever was near is called.
    fn on_moved(&mut self, time: Time) {
        let since = time.wall_secs().saturating_sub(RECENT.as_secs());
        let devices: Vec<DeviceId> = self.peers.keys().copied().collect();
        for device in &devices {
            let Some(peer) = self.peers.get_mut(device) else { continue };
            if peer.sessions.current(time.now).is_some() {
                if let Some(probe) = peer.path.ping(&mut self.rng, time.now) {
                    peer.timers.on_asked(time.now);
                    if !peer.is_silent() {
                        peer.quiet = Quiet::Moved(time.now);
                    }
                    self.send_probe(device, probe, time);
                }
            } else if peer.last_seen_secs.is_some_and(|seen| seen >= since) {
                self.wake(device, time);
            }
        }
    }

    /// Takes in where a device says it is.
    pub(super) fn on_presence(&mut self, object: &Object, time: Time) {
        let Body::Presence(presence) = object.body() else { return };
        self.out.events.push_back(Event::Presence(object.clone()));
        if presence.device == self.config.device.public() {
            // Somebody remembers a later word of this device than it did itself.
            return self.publish(time);
        }
        let Some(peer) = self.peers.get_mut(&presence.device) else { return };
        // It is elsewhere, or in more places than before: there may be a better path.
        peer.compare_at = None;
        peer.punch.hasten(time.now);
        // The best is tried first, and the newest stand first.
        let known: Vec<SocketAddr> = peer.path.candidates().collect();
        for candidate in presence.candidates.iter().rev().filter(|candidate| is_candidate(candidate)) {
            peer.path.add_candidate(*candidate);
        }
        let is_news = peer.path.candidates().any(|candidate| !known.contains(&candidate));
        let device = presence.device;
        if is_news && peer.attempt.is_some() {
            peer.trail.add(Step::Told, time.now);
            self.hasten(&device, time);
        }
    }

    /// What `device` says of the NAT before it, in a session or else in its Presence, and whether it says that datagrams of
    /// others have reached it.
    pub(super) fn word_of_nat(&self, device: &DeviceId) -> (Option<Nat>, bool) {
        let told = self.peers.get(device).map(|peer| &peer.punch);
        let in_session = told.and_then(Punch::nat);
        let class = self.roster.objects().presence_of(device).map_or(0, |(_, presence)| presence.nat);
        // A Presence has no room for the step; that there is one says enough.
        let in_presence = Nat::read(NatCode { class, step: 1 });
        let is_reflexive = |candidate: Candidate| candidate.kind == Kind::Reflexive;
        let is_seen = in_session.is_some()
            || in_presence.is_some()
            || told.is_some_and(|punch| punch.told().any(is_reflexive));
        (in_session.or(in_presence), is_seen)
    }

    /// Whether others are told of an object: of the Presences of one member, which alone can make a newer one, a few. The
    /// last of many they get by an exchange.
    pub(super) fn may_tell(&mut self, object: &Object, time: Time) -> bool {
        let Body::Presence(presence) = object.body() else { return true };
        self.peers.get_mut(&presence.device).is_none_or(|peer| peer.presences.take(time.now))
    }

    /// Takes in a Presence that this machine remembered.
    pub(super) fn recall(&mut self, object: &Object) {
        let Body::Presence(presence) = object.body() else { return };
        let device = presence.device;
        if !self.roster.insert([object.clone()]).is_empty() {
            self.recall_presence(&device);
        }
    }

    /// Tells a member's path where the device says it is; for a member that was made known after its Presence.
    pub(super) fn recall_presence(&mut self, device: &DeviceId) {
        let Some((_, presence)) = self.roster.objects().presence_of(device) else { return };
        let Some(peer) = self.peers.get_mut(device) else { return };
        for candidate in presence.candidates.iter().rev().filter(|candidate| is_candidate(candidate)) {
            peer.path.add_candidate(*candidate);
        }
    }
}
