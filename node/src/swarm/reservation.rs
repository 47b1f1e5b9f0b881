//! Being reachable at one beacon: which one, when to ask again, when to move. The states stand at the head of this room.

use std::time::Duration;

use libp2p::core::transport::ListenerId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{PeerId, Swarm};
use tokio::time::Instant;
use tracing::{debug, info};

use super::behaviour::{CONNECT_TIMEOUT, Member};
use super::jitter;
use super::roster::Roster;

/// The first pause after a failure, and the longest (chosen: a beacon that restarts is back in seconds; one that is gone
/// costs a connection attempt every two minutes).
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// How long the others are waited for when one beacon has answered.
const SETTLE: Duration = Duration::from_millis(300);
/// How long all may take: a connection and a ping.
const MEASURE_WITHIN: Duration = CONNECT_TIMEOUT.saturating_add(Duration::from_secs(2));
/// How long a beacon may take to say yes.
const ASK_WITHIN: Duration = CONNECT_TIMEOUT.saturating_add(Duration::from_secs(4));
/// How long a place is kept after a move, for those who read of it before (chosen: what is published is renewed by then).
const LEAVE_AFTER: Duration = Duration::from_secs(120);

#[derive(Clone, Copy)]
struct Place {
    beacon: PeerId,
    listener: ListenerId,
}

enum Attempt {
    /// Until then; for as long as nothing changes with `None`.
    Resting(Option<Instant>),
    /// `missing` are those of `all` that have neither answered nor failed.
    Measuring {
        all: Vec<PeerId>,
        missing: Vec<PeerId>,
        until: Instant,
    },
    Asking {
        place: Place,
        until: Instant,
    },
}

/// The reservation of one peer id.
pub(super) struct Reservation {
    is_wanted: bool,
    held: Option<Place>,
    attempt: Attempt,
    /// In a row.
    failures: u32,
    /// The place before, and when it is given up.
    left: Option<(ListenerId, Instant)>,
}

impl Reservation {
    pub(super) fn new() -> Self {
        Self { is_wanted: false, held: None, attempt: Attempt::Resting(None), failures: 0, left: None }
    }

    /// The beacon at which this device is reachable.
    pub(super) fn beacon(&self) -> Option<PeerId> {
        self.held.map(|place| place.beacon)
    }

    /// Wants one, or wants none and gives up what there is.
    pub(super) fn want(&mut self, is_wanted: bool, swarm: &mut Swarm<Member>, now: Instant) {
        if is_wanted && !self.is_wanted {
            self.failures = 0;
            self.attempt = Attempt::Resting(Some(now));
        }
        self.is_wanted = is_wanted;
        if !is_wanted {
            self.give_up_asking(swarm);
            let held = self.held.take().map(|place| place.listener);
            for listener in held.into_iter().chain(self.left.take().map(|(listener, _)| listener)) {
                swarm.remove_listener(listener);
            }
        }
    }

    /// Keeps what it has, and asks for nothing more.
    pub(super) fn retire(&mut self, swarm: &mut Swarm<Member>) {
        self.is_wanted = false;
        self.give_up_asking(swarm);
    }

    fn give_up_asking(&mut self, swarm: &mut Swarm<Member>) {
        if let Attempt::Asking { place, .. } = self.attempt {
            swarm.remove_listener(place.listener);
        }
        self.attempt = Attempt::Resting(None);
    }

    /// Other beacons are known; a place at one that is not among them is given up.
    pub(super) fn on_beacons(&mut self, swarm: &mut Swarm<Member>, roster: &Roster, now: Instant) {
        if let Some(place) = self.held.take_if(|place| roster.beacon(place.beacon).is_none()) {
            swarm.remove_listener(place.listener);
        }
        if self.is_wanted && self.held.is_none() && matches!(self.attempt, Attempt::Resting(_)) {
            self.failures = 0;
            self.attempt = Attempt::Resting(Some(now));
        }
    }

    /// A beacon answered a ping.
    pub(super) fn on_rtt(&mut self, peer: PeerId, swarm: &mut Swarm<Member>, roster: &Roster, now: Instant) {
        if let Attempt::Measuring { missing, until, .. } = &mut self.attempt {
            missing.retain(|other| *other != peer);
            *until = (*until).min(now + SETTLE);
            return self.choose_if_measured(swarm, roster, now);
        }
        let Some(held) = self.held.filter(|_| self.is_wanted && self.left.is_none()) else { return };
        let is_free = matches!(self.attempt, Attempt::Resting(_));
        if is_free && held.beacon != peer && roster.is_worth_a_move(peer, held.beacon) {
            self.ask(peer, swarm, roster, now);
        }
    }

    /// A beacon could not be reached.
    pub(super) fn on_unreachable(
        &mut self,
        peer: PeerId,
        swarm: &mut Swarm<Member>,
        roster: &Roster,
        now: Instant,
    ) {
        if let Attempt::Measuring { missing, .. } = &mut self.attempt {
            missing.retain(|other| *other != peer);
            self.choose_if_measured(swarm, roster, now);
        }
    }

    /// A beacon said yes, for the first time or again. Returns whether this device is reachable elsewhere than before.
    pub(super) fn on_accepted(&mut self, peer: PeerId, swarm: &mut Swarm<Member>, now: Instant) -> bool {
        let Attempt::Asking { place, .. } = self.attempt else { return false };
        if place.beacon != peer {
            return false;
        }
        self.attempt = Attempt::Resting(None);
        self.failures = 0;
        let before = self.held.replace(place);
        let left = before.map(|before| (before.listener, now + jitter(LEAVE_AFTER)));
        if let Some((older, _)) = std::mem::replace(&mut self.left, left) {
            swarm.remove_listener(older);
        }
        info!("reachable at a beacon");
        true
    }

    /// A listener ended: refused, given up, or the connection is gone. Returns the beacon that failed, if one did.
    pub(super) fn on_closed(&mut self, listener: ListenerId, now: Instant) -> Option<PeerId> {
        self.left.take_if(|(left, _)| *left == listener);
        if let Attempt::Asking { place, .. } = self.attempt
            && place.listener == listener
        {
            self.rest(now);
            return Some(place.beacon);
        }
        let lost = self.held.take_if(|place| place.listener == listener)?;
        info!("no longer reachable at a beacon");
        if matches!(self.attempt, Attempt::Resting(_)) {
            self.rest(now);
        }
        Some(lost.beacon)
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let attempt = match &self.attempt {
            Attempt::Resting(until) => *until,
            Attempt::Measuring { until, .. } | Attempt::Asking { until, .. } => Some(*until),
        };
        attempt.into_iter().chain(self.left.map(|(_, until)| until)).min()
    }

    /// Goes on where a pause or a wait is over. Returns the beacon that was late, if one was.
    pub(super) fn tick(
        &mut self,
        swarm: &mut Swarm<Member>,
        roster: &Roster,
        now: Instant,
    ) -> Option<PeerId> {
        if let Some((listener, _)) = self.left.take_if(|(_, until)| *until <= now) {
            swarm.remove_listener(listener);
        }
        match &self.attempt {
            Attempt::Resting(Some(until)) if *until <= now => self.measure(swarm, roster, now),
            Attempt::Measuring { until, all, .. } if *until <= now => {
                let all = all.clone();
                self.choose(&all, swarm, roster, now);
            }
            Attempt::Asking { place, until } if *until <= now => {
                let place = *place;
                swarm.remove_listener(place.listener);
                self.rest(now);
                return Some(place.beacon);
            }
            _ => {}
        }
        None
    }

    /// Dials a few, to see which one is near.
    fn measure(&mut self, swarm: &mut Swarm<Member>, roster: &Roster, now: Instant) {
        let all = roster.sample();
        self.attempt = Attempt::Resting(None);
        match *all {
            [] => {}
            [only] => self.ask(only, swarm, roster, now),
            _ => {
                let mut missing = all.clone();
                for peer in &all {
                    let condition = PeerCondition::DisconnectedAndNotDialing;
                    let dial = DialOpts::peer_id(*peer).condition(condition).build();
                    // A connected one was measured when it was connected.
                    if swarm.dial(dial).is_err() && swarm.is_connected(peer) {
                        missing.retain(|other| other != peer);
                    }
                }
                self.attempt = Attempt::Measuring { all, missing, until: now + MEASURE_WITHIN };
                self.choose_if_measured(swarm, roster, now);
            }
        }
    }

    fn choose_if_measured(&mut self, swarm: &mut Swarm<Member>, roster: &Roster, now: Instant) {
        if let Attempt::Measuring { all, missing, .. } = &self.attempt
            && missing.is_empty()
        {
            let all = all.clone();
            self.choose(&all, swarm, roster, now);
        }
    }

    fn choose(&mut self, of: &[PeerId], swarm: &mut Swarm<Member>, roster: &Roster, now: Instant) {
        match roster.nearest(of) {
            Some(nearest) => self.ask(nearest, swarm, roster, now),
            None => self.rest(now),
        }
    }

    fn ask(&mut self, peer: PeerId, swarm: &mut Swarm<Member>, roster: &Roster, now: Instant) {
        let listening = roster.beacon(peer).map(|beacon| swarm.listen_on(beacon.circuit()));
        match listening {
            Some(Ok(listener)) => {
                let place = Place { beacon: peer, listener };
                self.attempt = Attempt::Asking { place, until: now + ASK_WITHIN };
            }
            Some(Err(error)) => {
                debug!(%error, "a beacon cannot be asked for a place");
                self.rest(now);
            }
            None => self.rest(now),
        }
    }

    /// Waits before the next try, longer each time; not at all where nothing is missing.
    fn rest(&mut self, now: Instant) {
        self.attempt = Attempt::Resting(None);
        if self.is_wanted && self.held.is_none() {
            let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
            self.failures = self.failures.saturating_add(1);
            self.attempt = Attempt::Resting(Some(now + jitter(pause)));
        }
    }
}
