//! What was tried to reach one member, and what came of it: for a person who asks why it is not there.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Engine;
use crate::forward::{Outcome, Service};
use crate::identity::DeviceId;
use crate::path::Remote;
use crate::path::nat::Nat;

/// Steps remembered of one member, at most (chosen: two handshakes without an answer, and what came of them).
const MAX_STEPS: usize = 32;

/// Services of one member of which is remembered what came of asking for them.
const MAX_OUTCOMES: usize = 8;

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

/// What came of it when applications asked for services of one member, and it was no answer.
#[derive(Debug, Default)]
pub(super) struct Outcomes(VecDeque<(Instant, Service, Outcome)>);

impl Outcomes {
    /// Takes in an outcome; an answer takes back what was before.
    pub(super) fn add(&mut self, (service, outcome): (Service, Outcome), now: Instant) {
        self.0.retain(|(_, known, _)| *known != service);
        if outcome == Outcome::Answered {
            return;
        }
        if self.0.len() >= MAX_OUTCOMES {
            self.0.pop_front();
        }
        self.0.push_back((now, service, outcome));
    }
}

/// What is known of the way to one member, beside what was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WayTo {
    /// Its NAT, by its own word; `None` if it does not know.
    pub nat: Option<Nat>,
    /// It says where others see it, or that nothing stands before it: datagrams of others have reached it.
    pub is_seen: bool,
    /// The largest packet that goes to it whole, in bytes; 0 without a path.
    pub packet_bytes: u16,
    /// Larger ones were tried and did not pass.
    pub is_narrow: bool,
    /// Small datagrams pass, and those of the size that every path should carry do not.
    pub is_hole: bool,
}

impl Engine {
    /// What came of it, lately, when applications asked for services of `device` and got no answer, the oldest first, and how
    /// long ago.
    #[must_use]
    pub fn outcomes(&self, device: &DeviceId, now: Instant) -> Vec<(Duration, Service, Outcome)> {
        let Some(peer) = self.peers.get(device) else { return Vec::new() };
        let outcomes = peer.outcomes.0.iter();
        outcomes.map(|(at, what, came)| (now.saturating_duration_since(*at), *what, *came)).collect()
    }

    /// What is known of the way to `device`.
    #[must_use]
    pub fn way_to(&self, device: &DeviceId) -> WayTo {
        let (nat, is_seen) = self.word_of_nat(device);
        let Some(path) = self.peers.get(device).map(|peer| &peer.path) else {
            return WayTo { nat, is_seen, ..WayTo::default() };
        };
        let packet_bytes = path.remote().map_or(0, |_| path.packet_bytes());
        WayTo { nat, is_seen, packet_bytes, is_narrow: path.is_narrow(), is_hole: path.is_hole() }
    }

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
    use crate::wire::ip;

    #[test]
    fn an_answer_takes_back_what_was_refused_before() {
        let (mut outcomes, now) = (Outcomes::default(), Instant::now());
        let service = |port| Service { protocol: ip::TCP, port };
        for port in 0..100 {
            outcomes.add((service(port), Outcome::Closed), now);
        }
        assert_eq!(outcomes.0.len(), MAX_OUTCOMES);
        outcomes.add((service(99), Outcome::Forbidden), now);
        assert_eq!(outcomes.0.back(), Some(&(now, service(99), Outcome::Forbidden)));
        outcomes.add((service(99), Outcome::Answered), now);
        assert_eq!(outcomes.0.len(), MAX_OUTCOMES - 1);
    }

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
