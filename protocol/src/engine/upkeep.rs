//! What is done from time to time, so that what was lost or missed comes all the same: anti-entropy.
//!
//! While applications use links, one of these has its exchange anew once a minute; once in six hours a member is woken
//! for it. An idle node thus has four exchanges a day of its own.

use std::time::{Duration, Instant};

use super::news::Origin;
use super::peer::Peer;
use super::spread::pick;
use super::{Engine, Time};
use crate::identity::DeviceId;
use crate::random::jittered;

/// Between two exchanges over links in use, ± 20 % (specified: README §9).
const REFRESH_EVERY: Duration = Duration::from_secs(60);
/// Between two members woken for an exchange, ± 20 % (specified: README §9).
const WAKE_EVERY: Duration = Duration::from_secs(6 * 3_600);

/// When the next exchanges are due.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    refresh_at: Option<Instant>,
    wake_at: Option<Instant>,
}

impl Engine {
    /// Does what is due.
    pub(super) fn keep_up(&mut self, time: Time) {
        if self.upkeep.wake_at.is_none_or(|at| time.now >= at) {
            if self.upkeep.wake_at.is_some() {
                self.wake_one(time);
            }
            self.upkeep.wake_at = Some(time.now + jittered(WAKE_EVERY, &mut self.rng));
        }
        if self.upkeep.refresh_at.is_some_and(|at| time.now >= at) {
            self.upkeep.refresh_at = None;
            self.refresh_one(time);
        }
        self.plan_refresh(time);
    }

    /// Plans the next exchange while there is a link to have it on: one that came up for an exchange, and that nobody
    /// uses, needs no other.
    pub(super) fn plan_refresh(&mut self, time: Time) {
        self.plan_asking(time);
        let is_in_use = self.peers.values().any(|peer| self.is_in_use(peer, time));
        if !is_in_use {
            self.upkeep.refresh_at = None;
        } else if self.upkeep.refresh_at.is_none() {
            self.upkeep.refresh_at = Some(time.now + jittered(REFRESH_EVERY, &mut self.rng));
        }
    }

    /// When something is due.
    pub(super) fn upkeep_at(&self) -> Option<Instant> {
        [self.upkeep.refresh_at, self.upkeep.wake_at].into_iter().flatten().min()
    }

    /// Begins the exchange on one live link anew.
    fn refresh_one(&mut self, time: Time) {
        self.receive_parked(time);
        let live: Vec<DeviceId> = self
            .peers
            .iter()
            .filter(|(_, peer)| self.is_in_use(peer, time) && peer.exchange.is_done())
            .map(|(device, _)| *device)
            .collect();
        let Some(device) = pick(&live, &mut self.rng) else { return };
        if let Some(peer) = self.peers.get_mut(&device) {
            peer.begin_exchange(time.now);
        }
        self.send_due_messages(&device, time);
    }

    /// Says whether an application has used the link lately, or it serves others, and it is up.
    pub(super) fn is_in_use(&self, peer: &Peer, time: Time) -> bool {
        peer.timers.is_worth(self.config.idle_after, time.now) && peer.sessions.current(time.now).is_some()
    }

    /// Wakes one member that has an address.
    fn wake_one(&mut self, time: Time) {
        self.receive_parked(time);
        let asleep: Vec<DeviceId> = self
            .peers
            .iter()
            .filter(|(_, peer)| {
                peer.sessions.current(time.now).is_none() && peer.path.candidates().next().is_some()
            })
            .map(|(device, _)| *device)
            .collect();
        if let Some(device) = pick(&asleep, &mut self.rng) {
            self.wake(&device, time);
        }
    }

    /// Objects that were dated far ahead are looked at again.
    fn receive_parked(&mut self, time: Time) {
        let own = self.config.device.public();
        for bytes in self.roster.unpark() {
            let taken = self.roster.receive(&bytes, &own, time.wall_secs()).unwrap_or_default();
            if !taken.is_empty() {
                self.on_news(taken, Origin::Elsewhere, time);
            }
        }
    }
}
