//! One throw-away peer id, and all that goes on under it.

use libp2p::noise;
use libp2p::relay::client::Event as RelayEvent;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{DialError, SwarmEvent};
use libp2p::{PeerId, Swarm, futures::StreamExt as _, ping};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use super::Told;
use super::address::Beacon;
use super::behaviour::{Built, Member, MemberEvent, build};
use super::circuits::UNPROVEN;
use super::clock::{Clock, Reading};
use super::lookups::{Answered, Lookups};
use super::outward::Ways;
use super::pipe::{RawDialer, RawIn};
use super::reservation::Reservation;
use super::roster::Roster;

/// What happened under a peer id.
pub(super) enum Happened {
    Swarm(Box<SwarmEvent<MemberEvent>>),
    Circuit(RawIn),
    Reading(Option<Reading>),
    Answered(Answered),
}

/// What all hosts share while one of them handles something.
pub(super) struct Shared<'a> {
    pub(super) roster: &'a mut Roster,
    pub(super) told: &'a mut Vec<Told>,
    pub(super) now: Instant,
}

/// The swarm of one peer id.
pub(super) struct Host {
    swarm: Swarm<Member>,
    dialer: RawDialer,
    inbound: mpsc::Receiver<RawIn>,
    pub(super) reservation: Reservation,
    pub(super) lookups: Lookups,
    pub(super) clock: Clock,
}

impl Host {
    /// One under another peer id than any before.
    ///
    /// # Errors
    /// There is no randomness.
    pub(super) fn new(ways: &Ways, roster: &Roster) -> Result<Self, noise::Error> {
        let Built { mut swarm, dialer, inbound } = build(ways, UNPROVEN)?;
        swarm.behaviour_mut().book.set_known(roster.addresses());
        let (reservation, lookups, clock) = (Reservation::new(), Lookups::default(), Clock::default());
        Ok(Self { swarm, dialer, inbound, reservation, lookups, clock })
    }

    pub(super) fn peer(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    /// Opens streams at beacons.
    pub(super) fn control(&self) -> libp2p_stream::Control {
        self.swarm.behaviour().stream.new_control()
    }

    /// Dials a beacon that others named, unless it is connected.
    pub(super) fn call(&mut self, beacon: &Beacon) {
        let condition = PeerCondition::DisconnectedAndNotDialing;
        let dial = DialOpts::peer_id(beacon.peer).addresses(vec![beacon.address()]).condition(condition);
        // An error is that it is connected or being dialled already, or fails as all dials do.
        let _ = self.swarm.dial(dial.build());
    }

    pub(super) fn dialer(&self) -> RawDialer {
        self.dialer.clone()
    }

    /// Waits for the next. A call that is given up loses nothing.
    pub(super) async fn next(&mut self) -> Happened {
        tokio::select! {
            event = self.swarm.select_next_some() => Happened::Swarm(Box::new(event)),
            Some(arrived) = self.inbound.recv() => Happened::Circuit(arrived),
            reading = self.clock.answered() => Happened::Reading(reading),
            answered = self.lookups.answered() => Happened::Answered(answered),
        }
    }

    pub(super) fn want(&mut self, is_wanted: bool, now: Instant) {
        self.reservation.want(is_wanted, &mut self.swarm, now);
    }

    pub(super) fn retire(&mut self) {
        self.reservation.retire(&mut self.swarm);
    }

    pub(super) fn ask_time(&mut self, roster: &Roster, now: Instant) {
        self.clock.begin(&mut self.swarm, roster, now);
    }

    pub(super) fn on_beacons(&mut self, roster: &Roster, now: Instant) {
        self.swarm.behaviour_mut().book.set_known(roster.addresses());
        self.reservation.on_beacons(&mut self.swarm, roster, now);
    }

    pub(super) fn on_event(&mut self, event: SwarmEvent<MemberEvent>, shared: &mut Shared<'_>) {
        let now = shared.now;
        match event {
            SwarmEvent::Behaviour(MemberEvent::Relay(RelayEvent::ReservationReqAccepted {
                relay_peer_id,
                ..
            })) => {
                self.reservation.on_accepted(relay_peer_id, &mut self.swarm, now);
            }
            SwarmEvent::Behaviour(MemberEvent::Ping(ping)) => self.on_ping(&ping, shared),
            SwarmEvent::ListenerClosed { listener_id, .. } => {
                if let Some(beacon) = self.reservation.on_closed(listener_id, now) {
                    shared.roster.on_failed(beacon);
                }
            }
            SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                self.clock.on_connected(peer_id, &self.swarm);
                self.lookups.on_connected(peer_id, &self.swarm);
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                self.on_unreachable(peer, &error, shared);
            }
            _ => {}
        }
    }

    fn on_ping(&mut self, ping: &ping::Event, shared: &mut Shared<'_>) {
        match &ping.result {
            Ok(rtt) => {
                shared.roster.on_rtt(ping.peer, *rtt);
                self.reservation.on_rtt(ping.peer, &mut self.swarm, shared.roster, shared.now);
            }
            Err(ping::Failure::Unsupported) => debug!("a beacon does not answer pings"),
            // libp2p leaves the connection as it is; the reservation on it is worth nothing.
            Err(_) => {
                self.swarm.close_connection(ping.connection);
            }
        }
    }

    fn on_unreachable(&mut self, peer: PeerId, error: &DialError, shared: &mut Shared<'_>) {
        // A second connection that fails says nothing while the first one stands.
        if matches!(error, DialError::DialPeerConditionFalse(_)) || self.swarm.is_connected(&peer) {
            return;
        }
        self.lookups.on_unreachable(peer, shared.now);
        if matches!(error, DialError::Denied { .. } | DialError::Aborted) {
            return;
        }
        shared.roster.on_failed(peer);
        self.clock.on_unreachable(peer);
        self.reservation.on_unreachable(peer, &mut self.swarm, shared.roster, shared.now);
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let lookups = self.lookups.next_at(Instant::now());
        let all = [self.reservation.next_at(), lookups, self.clock.next_at()];
        all.into_iter().flatten().min()
    }

    /// Goes on wherever a wait is over, and starts what there is room for.
    pub(super) fn tick(&mut self, shared: &mut Shared<'_>) {
        let now = shared.now;
        if let Some(late) = self.reservation.tick(&mut self.swarm, shared.roster, now) {
            shared.roster.on_failed(late);
        }
        shared.told.extend(self.lookups.tick(&mut self.swarm, shared.roster, now));
        shared.told.extend(self.clock.result(shared.roster, now));
    }

    /// Whether something that was asked for is still to be answered.
    pub(super) fn is_idle(&self) -> bool {
        self.lookups.is_idle() && self.clock.is_idle()
    }
}
