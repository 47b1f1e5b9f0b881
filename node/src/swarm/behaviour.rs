//! What a member speaks with beacons, and every setting of it.
//!
//! There is no identify here: it would tell each beacon at which other one this device is reachable. Nor is there libp2p's
//! Kademlia: a member has no table to look after, and asks on streams of its own (`kademlia`, `search`).

use std::time::Duration;

use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::Transport as _;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::identity::Keypair;
use libp2p::swarm::{Config, NetworkBehaviour};
use libp2p::{noise, ping, relay, yamux};
use tokio::sync::mpsc;

use super::book::Book;
use super::outward::{Outward, Ways};
use super::pipe::{RawDialer, RawIn, raw_relay};

/// How often a beacon in use is asked for a sign of life (chosen: 0.7 kB each time; what shows that a machine is gone, and keeps
/// NATs from forgetting the connection, are the kernel's probes, and this only that the beacon does not hang).
const PING_EVERY: Duration = Duration::from_secs(600);
/// And how long it may take.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// A connection is made within this time or not at all.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// A connection that nothing uses ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections being made, and standing (chosen: a lookup asks some twenty at once, and several run at once; what finds no
/// room waits).
const CONNECTING: u32 = 128;
const CONNECTED: u32 = 256;
/// One for use, and one that was made at the same time.
const CONNECTED_PER_BEACON: u32 = 2;
/// Streams a beacon may have open on one connection (chosen: 24 circuits in, eight out, ten questions for a circuit,
/// lookups).
const STREAMS: usize = 64;

/// The behaviours of a member.
#[derive(NetworkBehaviour)]
pub(super) struct Member {
    pub(super) limits: connection_limits::Behaviour,
    pub(super) book: Book,
    pub(super) relay: relay::client::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) stream: libp2p_stream::Behaviour,
}

/// A swarm under a peer id made for it, and the two ends of its circuits.
pub(super) struct Built {
    pub(super) swarm: libp2p::Swarm<Member>,
    pub(super) dialer: RawDialer,
    pub(super) inbound: mpsc::Receiver<RawIn>,
}

/// Builds it. `waiting` inbound circuits may wait to be read.
///
/// # Errors
/// Noise has no key; that is a lack of randomness.
pub(super) fn build(ways: &Ways, waiting: usize) -> Result<Built, noise::Error> {
    let key = Keypair::generate_ed25519();
    let me = key.public().to_peer_id();
    let (raw, dialer, inbound, relay) = raw_relay(me, waiting);
    let mut mux = yamux::Config::default();
    mux.set_max_num_streams(STREAMS);
    let tcp = Outward::build(ways)
        .authenticate(noise::Config::new(&key)?)
        .multiplex(mux)
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)));
    let tcp = TransportTimeout::new(tcp, CONNECT_TIMEOUT);
    let transport = tcp.or_transport(raw).map(|either, _| either.into_inner()).boxed();
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(0))
        .with_max_established_incoming(Some(0))
        .with_max_pending_outgoing(Some(CONNECTING))
        .with_max_established_outgoing(Some(CONNECTED))
        .with_max_established_per_peer(Some(CONNECTED_PER_BEACON));
    let member = Member {
        limits: connection_limits::Behaviour::new(limits),
        book: Book::default(),
        relay,
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_EVERY).with_timeout(PING_TIMEOUT)),
        stream: libp2p_stream::Behaviour::new(),
    };
    let config = Config::with_tokio_executor().with_idle_connection_timeout(IDLE_TIMEOUT);
    Ok(Built { swarm: libp2p::Swarm::new(transport, member, me, config), dialer, inbound })
}
