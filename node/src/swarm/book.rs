//! Addresses for peer ids, for whatever is dialled by id alone.
//!
//! Kademlia would keep them in its table, and look itself up at everybody each time one is added. With the addresses here the
//! table stays empty but for the moment in which a lookup starts.

use std::collections::HashMap;
use std::convert::Infallible;
use std::task::{Context, Poll};

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm, dummy,
};

/// Addresses of one peer that are tried (chosen: two families, two networks).
pub(super) const ADDRESSES: usize = 4;
/// Peers that lookups named and that are kept until these are over (chosen: twenty for each of eight lookups).
const NAMED: usize = 160;

/// The behaviour; it opens no stream.
#[derive(Default)]
pub(super) struct Book {
    known: HashMap<PeerId, Vec<Multiaddr>>,
    named: HashMap<PeerId, Vec<Multiaddr>>,
}

impl Book {
    /// Sets the beacons that this device was told of.
    pub(super) fn set_known(&mut self, known: HashMap<PeerId, Vec<Multiaddr>>) {
        self.known = known;
    }

    /// Adds one that a lookup named.
    pub(super) fn add_named(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if self.named.len() < NAMED {
            self.named.insert(peer, addresses.into_iter().take(ADDRESSES).collect());
        }
    }

    /// Forgets those that lookups named.
    pub(super) fn forget_named(&mut self) {
        self.named = HashMap::new();
    }
}

impl NetworkBehaviour for Book {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let addresses = peer.and_then(|peer| self.known.get(&peer).or_else(|| self.named.get(&peer)));
        Ok(addresses.cloned().unwrap_or_default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
