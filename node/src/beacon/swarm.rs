//! The swarm of a beacon: which protocols, with which settings, and why.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use libp2p::core::Transport as _;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::kad::{self, BucketInserts, Caching, Mode, StoreInserts};
use libp2p::swarm::NetworkBehaviour;
use libp2p::{StreamProtocol, Swarm, SwarmBuilder, identify, noise, ping, relay, tcp, yamux};
use protocol::discovery::record::BULLETIN_LIFE_SECS;

use super::door::{Door, DoorBounds};
use super::protocol::{AGENT, IDENTIFY_VERSION, KAD, REPLICATION};
use super::records::Records;
use super::streams::Streams;
use crate::swarm::Connections;

/// *Chosen*: members that can be called through this beacon at once. An idle one costs a connection, about 60 kB.
pub(super) const RESERVATIONS_MAX: usize = 4_096;
/// *Chosen*: circuits at once. Each holds up to two streams' buffers, 512 kB at the worst.
const CIRCUITS_MAX: usize = 1_024;
/// *Chosen*: circuits that one peer opens at once: a member that moved calls twenty others.
const CIRCUITS_OF_PEER_MAX: usize = 24;
/// *Chosen*: first contact takes about a second and the search for a direct path up to 30 s. Short, because a circuit whose one end
/// was dropped stays until its time is over.
const CIRCUIT_FOR: Duration = Duration::from_secs(60);
/// *Chosen*: both directions together: handshakes, candidates and what members owe each other, not their traffic.
const CIRCUIT_BYTES: u64 = 128 << 10;
/// *Specified* (circuit relay v2 says nothing, libp2p's default): renewed by the member at three quarters of it.
const RESERVATION_FOR: Duration = Duration::from_secs(3_600);
/// *Chosen*: streams of one connection: 32 of Kademlia, circuits, and the rest. What nobody reads is held for each, 256 kB.
const STREAMS_MAX: usize = 64;
/// *Chosen*: streams that are being opened: what is past it waits unread.
const NEGOTIATING_MAX: usize = 16;
/// *Chosen*: a connection that is used for nothing is closed; lookups of members end within it.
const IDLE_FOR: Duration = Duration::from_secs(10);
/// *Chosen*: identify is told once a connection.
const IDENTIFY_EVERY: Duration = Duration::from_secs(86_400);
/// *Chosen*: answers pings and asks none; without the behaviour members' own pings would stop.
const PING_EVERY: Duration = Duration::from_secs(86_400);
/// *Chosen*: a beacon's own lookups; two round trips to each of some peers.
const QUERY_FOR: Duration = Duration::from_secs(30);

/// What a beacon speaks. The door comes first: who is refused there costs the others nothing.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) door: Door,
    pub(super) kad: kad::Behaviour<Records>,
    pub(super) relay: relay::Behaviour,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) streams: Streams,
}

/// Makes the swarm, which hands out streams of `spoken`; it listens nowhere yet. To be called inside a tokio runtime.
///
/// # Errors
/// If the keys for Noise cannot be made.
pub(super) fn swarm(
    keypair: Keypair,
    records: Records,
    bounds: DoorBounds,
    spoken: &[StreamProtocol],
) -> anyhow::Result<Swarm<Behaviour>> {
    let built = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, muxer)?
        .with_quic_config(|mut quic| {
            quic.max_concurrent_stream_limit = STREAMS_MAX as u32;
            // As yamux has them.
            quic.max_stream_data = 256 << 10;
            quic.max_connection_data = 1 << 20;
            quic
        })
        .with_behaviour(|keypair| behaviour(keypair, records, bounds, spoken))?
        .with_swarm_config(settings);
    Ok(built.build())
}

/// As [`swarm`], over `connections` instead of TCP and QUIC, and without protocols of the beacon's own.
///
/// # Errors
/// As [`swarm`].
pub(super) fn swarm_over(
    connections: Connections,
    keypair: Keypair,
    records: Records,
    bounds: DoorBounds,
) -> anyhow::Result<Swarm<Behaviour>> {
    let built = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_other_transport(|keypair| {
            let secured = connections.upgrade(Version::V1Lazy).authenticate(noise::Config::new(keypair)?);
            Ok(secured.multiplex(muxer()))
        })?
        .with_behaviour(|keypair| behaviour(keypair, records, bounds, &[]))?
        .with_swarm_config(settings);
    Ok(built.build())
}

fn settings(config: libp2p::swarm::Config) -> libp2p::swarm::Config {
    config.with_idle_connection_timeout(IDLE_FOR).with_max_negotiating_inbound_streams(NEGOTIATING_MAX)
}

fn muxer() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(STREAMS_MAX);
    config
}

fn behaviour(
    keypair: &Keypair,
    records: Records,
    bounds: DoorBounds,
    spoken: &[StreamProtocol],
) -> Behaviour {
    let id = keypair.public().to_peer_id();
    let mut kad = kad::Behaviour::with_config(id, records, kad_config());
    kad.set_mode(Some(Mode::Server));
    // Only the addresses that others reach: what listens is this machine's business.
    let identify = identify::Config::new(IDENTIFY_VERSION.to_owned(), keypair.public())
        .with_agent_version(AGENT.to_owned())
        .with_interval(IDENTIFY_EVERY)
        .with_push_listen_addr_updates(false)
        .with_hide_listen_addrs(true)
        .with_cache_size(0);
    Behaviour {
        door: Door::new(bounds),
        kad,
        relay: relay::Behaviour::new(id, relay_config()),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_EVERY)),
        streams: Streams::new(spoken),
    }
}

fn kad_config() -> kad::Config {
    let mut config = kad::Config::new(KAD);
    config
        .set_replication_factor(NonZeroUsize::new(REPLICATION).expect("a constant above zero"))
        .set_kbucket_inserts(BucketInserts::Manual)
        .set_record_filtering(StoreInserts::FilterBoth)
        // The longest that any record lives; each has its own end, which is signed.
        .set_record_ttl(Some(Duration::from_secs(BULLETIN_LIFE_SECS)))
        // Writers put their records again; beacons pass none on, so that no beacon can fill another.
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        // The beacon's own timer does it, with jitter.
        .set_periodic_bootstrap_interval(None)
        .set_caching(Caching::Disabled)
        .set_query_timeout(QUERY_FOR);
    config.disjoint_query_paths(true);
    config
}

/// Rates of the relay. Many members share one address behind a provider's NAT, so an address has as many as sixteen peers.
fn relay_config() -> relay::Config {
    let count = |count| NonZeroU32::new(count).expect("a constant above zero");
    let seconds = Duration::from_secs;
    let config = relay::Config {
        max_reservations: RESERVATIONS_MAX,
        // Compared with `>`: two, one of which may be of a connection that is dead and not yet known to be.
        max_reservations_per_peer: 1,
        reservation_duration: RESERVATION_FOR,
        reservation_rate_limiters: Vec::new(),
        max_circuits: CIRCUITS_MAX,
        max_circuits_per_peer: CIRCUITS_OF_PEER_MAX,
        max_circuit_duration: CIRCUIT_FOR,
        max_circuit_bytes: CIRCUIT_BYTES,
        circuit_src_rate_limiters: Vec::new(),
    };
    config
        .reservation_rate_per_peer(count(16), seconds(120))
        .reservation_rate_per_ip(count(512), seconds(4))
        .circuit_src_per_peer(count(60), seconds(10))
        .circuit_src_per_ip(count(960), seconds(1))
}
