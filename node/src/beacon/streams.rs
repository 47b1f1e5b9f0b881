//! Streams that others open, of the protocols that a beacon speaks by itself: each is an event of the swarm.
//!
//! In: connections. Out: each stream with its protocol and its connection, by which its network is known. Nothing is kept of a
//! connection, which libp2p-stream does for each that ever was, and no stream is lost where two come at once.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::DeniedUpgrade;
use libp2p::core::{Endpoint, InboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    Stream, StreamProtocol, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

/// A stream that the other end opened.
#[derive(Debug)]
pub(super) struct Opened {
    /// Who opened it.
    pub(super) peer: PeerId,
    /// Over which connection.
    pub(super) connection: ConnectionId,
    /// What it is to speak.
    pub(super) protocol: StreamProtocol,
    pub(super) stream: Stream,
}

/// The part of the swarm's behaviour that takes them.
pub(super) struct Streams {
    spoken: Arc<[StreamProtocol]>,
    opened: VecDeque<Opened>,
}

impl Streams {
    /// Takes streams of these protocols, and refuses others.
    pub(super) fn new(spoken: &[StreamProtocol]) -> Self {
        Self { spoken: spoken.into(), opened: VecDeque::new() }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Opened;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler { spoken: Arc::clone(&self.spoken), opened: VecDeque::new() })
    }

    /// Beacons open connections to beacons, which ask nothing of this kind of each other.
    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler { spoken: Arc::default(), opened: VecDeque::new() })
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        (stream, protocol): THandlerOutEvent<Self>,
    ) {
        self.opened.push_back(Opened { peer, connection, protocol, stream });
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.opened.pop_front().map_or(Poll::Pending, |opened| Poll::Ready(ToSwarm::GenerateEvent(opened)))
    }
}

/// One connection's part.
pub(super) struct Handler {
    spoken: Arc<[StreamProtocol]>,
    /// As many as a connection has streams.
    opened: VecDeque<(Stream, StreamProtocol)>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = (Stream, StreamProtocol);
    type InboundProtocol = Spoken;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Spoken> {
        SubstreamProtocol::new(Spoken(Arc::clone(&self.spoken)), ())
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<DeniedUpgrade, (), Self::ToBehaviour>> {
        let opened = self.opened.pop_front();
        opened.map_or(Poll::Pending, |opened| Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(opened)))
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Spoken, DeniedUpgrade>) {
        if let ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info: () }) = event
        {
            self.opened.push_back(protocol);
        }
    }
}

/// The protocols that are agreed to; nothing is said of them before the stream is handed over.
#[derive(Debug)]
pub(super) struct Spoken(Arc<[StreamProtocol]>);

impl UpgradeInfo for Spoken {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        let spoken: Vec<_> = self.0.iter().cloned().collect();
        spoken.into_iter()
    }
}

impl InboundUpgrade<Stream> for Spoken {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
