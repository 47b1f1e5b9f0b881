//! What was tried to reach one member, and what came of it: for a person who asks why it is not there.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Engine;
use crate::identity::DeviceId;
use crate::path::Remote;

/// Steps remembered of one member, at most (chosen: two handshakes without an answer, and what came of them).
const MAX_STEPS: usize = 32;

/// One thing that was tried, or that came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A handshake was begun: the addresses that are remembered, or were told, were called.
    Called {
        /// How many addresses and pipes.
        remotes: usize,
        /// From 0; repeated while nobody answers.
        attempt: u32,
    },
    /// It announced itself on the LAN.
    Neighbour,
    /// This device asked for it on the LAN.
    SearchedLan,
    /// Another member told where it is.
    Told,
    /// Its record was looked up in the DHT.
    LookedUp {
        /// How many beacons answered; none: there was nobody to ask.
        answered: u32,
        /// What they gave.
        outcome: LookedUp,
    },
    /// A pipe to it was asked for, at the beacon that it named.
    CircuitAsked,
    /// That pipe ended, or did not come to be.
    CircuitEnded,
    /// This member was asked to pass datagrams on to it.
    RelayAsked(DeviceId),
    /// This member does not pass on to it: it is not willing, has no link with it, or too many others.
    RelayRefused(DeviceId),
    /// A stream through a beacon that carries was asked for, by either end.
    CarryAsked,
    /// No beacon that answered carries.
    NoneCarries,
    /// That stream ended, or did not come to be.
    CarryEnded,
    /// A link came up.
    Up(Remote),
    /// A better path was found.
    Moved(Remote),
    /// The link ended.
    Down,
    /// No handshake was answered.
    GaveUp,
}

/// What the values of a lookup were worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookedUp {
    /// There was none, or none that was its own.
    Nothing,
    /// What was known already.
    Known,
    /// Where it is, later than what was known.
    News,
}

/// The last steps towards one member.
#[derive(Debug, Default)]
pub(super) struct Trail(VecDeque<(Instant, Step)>);

impl Trail {
    pub(super) fn add(&mut self, step: Step, now: Instant) {
        if self.0.len() >= MAX_STEPS {
            self.0.pop_front();
        }
        self.0.push_back((now, step));
    }

    /// Adds what came of relays and of streams through beacons: once between two other steps, for they are asked again and
    /// again.
    pub(super) fn add_once(&mut self, step: Step, now: Instant) {
        let is_repeated = |step: &Step| {
            matches!(step, Step::RelayAsked(_) | Step::RelayRefused(_))
                || matches!(step, Step::CarryAsked | Step::NoneCarries | Step::CarryEnded)
        };
        let mut last = self.0.iter().rev().map(|(_, step)| step).take_while(|step| is_repeated(step));
        if !last.any(|known| *known == step) {
            self.add(step, now);
        }
    }

    pub(super) fn extend_moved(&mut self, remote: Option<Remote>, now: Instant) {
        if let Some(remote) = remote {
            self.add(Step::Moved(remote), now);
        }
    }
}

impl Engine {
    /// What was tried to reach `device`, the oldest first, and how long ago; nothing for who is no other member.
    #[must_use]
    pub fn trail(&self, device: &DeviceId, now: Instant) -> Vec<(Duration, Step)> {
        let Some(peer) = self.peers.get(device) else { return Vec::new() };
        peer.trail.0.iter().map(|(at, step)| (now.saturating_duration_since(*at), *step)).collect()
    }

    pub(super) fn note_step(&mut self, device: &DeviceId, step: Step, now: Instant) {
        if let Some(peer) = self.peers.get_mut(device) {
            peer.trail.add(step, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_and_beacons_that_are_asked_again_and_again_do_not_hide_what_was_tried_before() {
        let (mut trail, now) = (Trail::default(), Instant::now());
        let relays = [1, 2].map(|n| DeviceId::from([n; 32]));
        trail.add(Step::GaveUp, now);
        for relay in relays.iter().cycle().take(100) {
            trail.add_once(Step::RelayAsked(*relay), now);
            trail.add_once(Step::RelayRefused(*relay), now);
            trail.add_once(Step::CarryAsked, now);
            trail.add_once(Step::NoneCarries, now);
        }
        assert_eq!(trail.0.len(), 7);
        trail.add(Step::Down, now);
        trail.add_once(Step::RelayAsked(relays[0]), now);
        assert_eq!(trail.0.len(), 9);
    }
}
