//! What the beacon does at each event of its swarm.

use libp2p::core::ConnectedPoint;
use libp2p::kad::{self, InboundRequest, RoutingUpdate};
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::PeerCondition;
use libp2p::{Multiaddr, PeerId, identify, relay};
use tracing::{debug, info, trace};

use super::admission::{Introduction, is_diverse};
use super::node::{Beacon, moment};
use super::protocol::TIME;
use super::streams::Opened;
use super::swarm::{BehaviourEvent, RESERVATIONS_MAX};

impl Beacon {
    /// Takes one event; whatever it names is a stranger's word.
    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => self.on_kad(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => self.on_identify(&event),
            SwarmEvent::Behaviour(BehaviourEvent::Relay(event)) => self.on_relay(&event),
            SwarmEvent::Behaviour(BehaviourEvent::Streams(opened)) => self.on_stream(opened),
            SwarmEvent::ConnectionEstablished {
                peer_id, endpoint: ConnectedPoint::Dialer { .. }, ..
            } => {
                self.admission.on_answer(&peer_id);
                self.dial_back_next();
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                trace!(%peer, %error, "a dial failed");
                let kad = &mut self.swarm.behaviour_mut().kad;
                let is_in_table = is_in_table(kad, peer);
                if self.admission.on_miss(&peer, is_in_table) {
                    kad.remove_peer(&peer);
                    info!(%peer, "a beacon left the table: it does not answer");
                }
                self.dial_back_next();
            }
            SwarmEvent::ListenerError { error, .. } => debug!(%error, "a listener has trouble"),
            SwarmEvent::ListenerClosed { reason, .. } => tracing::error!(?reason, "a listener is closed"),
            _ => {}
        }
    }

    fn on_stream(&mut self, Opened { peer, connection, protocol, stream }: Opened) {
        if protocol == TIME {
            self.clock.tell(stream);
        } else if let Some(carry) = &self.carry
            // Whose connection is gone has no network to charge, and nothing to say.
            && let Some(group) = self.swarm.behaviour().door.group(connection)
        {
            carry.take((peer, stream), group);
        }
    }

    fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest { request } => self.on_request(request),
            // Only of connections that this beacon opened: it answered a dial.
            kad::Event::RoutablePeer { peer, address } => self.admit(peer, &address),
            kad::Event::RoutingUpdated { peer, is_new_peer: true, .. } => {
                info!(%peer, "a beacon is in the table");
            }
            _ => {}
        }
    }

    fn on_request(&mut self, request: InboundRequest) {
        let kind = match request {
            InboundRequest::FindNode { .. } => "find_node",
            InboundRequest::GetProvider { .. } => "get_providers",
            InboundRequest::AddProvider { .. } => "add_provider",
            InboundRequest::GetRecord { .. } => "get_value",
            InboundRequest::PutRecord { .. } => "put_value",
        };
        *self.counts.requests.entry(kind).or_default() += 1;
        if let InboundRequest::PutRecord { source, connection, record: Some(record) } = request {
            let behaviour = self.swarm.behaviour_mut();
            // A connection that is gone already has no network to charge.
            let Some(group) = behaviour.door.group(connection) else { return };
            match behaviour.kad.store_mut().offer(record, source, group, moment()) {
                Ok(()) => self.counts.puts += 1,
                Err(refusal) => {
                    trace!(?refusal, "a record is not taken");
                    *self.counts.refused_puts.entry(refusal.name()).or_default() += 1;
                }
            }
        }
    }

    fn on_identify(&mut self, event: &identify::Event) {
        let identify::Event::Received { connection_id, peer_id, info } = event else { return };
        let behaviour = self.swarm.behaviour_mut();
        let Some(remote) = behaviour.door.inbound_address(*connection_id).cloned() else { return };
        // Who finds no place is not dialled: among hundreds of beacons that is most of them, at every connection.
        if !has_place(&mut behaviour.kad, *peer_id) {
            return;
        }
        let who = Introduction {
            peer: *peer_id,
            remote: &remote,
            protocols: &info.protocols,
            addresses: &info.listen_addrs,
        };
        if let Some(back) = self.admission.introduce(who, moment().now) {
            self.dial_back(*peer_id, back);
        }
    }

    /// A dial-back has ended: those that waited for it have their turn.
    fn dial_back_next(&mut self) {
        while let Some((peer, back)) = self.admission.next(moment().now) {
            if has_place(&mut self.swarm.behaviour_mut().kad, peer) {
                self.dial_back(peer, back);
            } else {
                self.admission.on_answer(&peer);
            }
        }
    }

    fn dial_back(&mut self, peer: PeerId, address: Multiaddr) {
        self.counts.dial_backs += 1;
        // Connected it is, by the connection that it opened.
        self.dial(peer, address, PeerCondition::Always);
    }

    fn admit(&mut self, peer: PeerId, address: &Multiaddr) {
        if !is_diverse(address, self.table_groups().into_iter()) {
            self.counts.kept_out += 1;
            debug!(%peer, "a beacon stays out: its network has enough in the table");
            return;
        }
        match self.swarm.behaviour_mut().kad.add_address(&peer, address.clone()) {
            RoutingUpdate::Success | RoutingUpdate::Pending => {}
            RoutingUpdate::Failed => {
                self.counts.kept_out += 1;
                debug!(%peer, "a beacon stays out: its bucket is full");
            }
        }
    }

    fn on_relay(&mut self, event: &relay::Event) {
        match event {
            relay::Event::ReservationReqAccepted { src_peer_id, renewed } => {
                if !renewed {
                    self.counts.reservations += 1;
                }
                if self.reserved.len() < RESERVATIONS_MAX {
                    self.reserved.insert(*src_peer_id);
                }
            }
            relay::Event::ReservationReqDenied { .. } => self.counts.denied_reservations += 1,
            relay::Event::ReservationTimedOut { src_peer_id } => {
                self.reserved.remove(src_peer_id);
            }
            // Said at the end of every connection, with a reservation or without.
            relay::Event::ReservationClosed { src_peer_id } if !self.swarm.is_connected(src_peer_id) => {
                self.reserved.remove(src_peer_id);
            }
            relay::Event::CircuitReqAccepted { .. } => self.counts.circuits += 1,
            relay::Event::CircuitClosed { .. } => self.counts.ended_circuits += 1,
            relay::Event::CircuitReqDenied { .. } => self.counts.denied_circuits += 1,
            _ => {}
        }
    }
}

/// Says whether `peer` is not in the table and could come in.
pub(super) fn has_place(kad: &mut kad::Behaviour<super::records::Records>, peer: PeerId) -> bool {
    let key = kad::KBucketKey::from(peer);
    kad.kbucket(peer).is_some_and(|bucket| {
        bucket.num_entries() < kad::K_VALUE.get() && bucket.iter().all(|entry| *entry.node.key != key)
    })
}

fn is_in_table(kad: &mut kad::Behaviour<super::records::Records>, peer: PeerId) -> bool {
    let key = kad::KBucketKey::from(peer);
    kad.kbucket(peer).is_some_and(|bucket| bucket.iter().any(|entry| *entry.node.key == key))
}
