//! A beacon: a node that chose to be visible, so that members find each other through it (node/README, Beacons).
//!
//! ```text
//!            ┌ door       who may be connected
//!            ├ kad        Kademlia server ─► records: what is taken, for how long, from whom ─► writer ─► store::records
//! swarm ─────┤              └ table of beacons ◄─ admission: only who answered a dial-back
//!            ├ relay      circuits to members behind NATs, as bare pipes
//!            ├ identify, ping
//!            └ stream     time: /vpi/time/1; carry: /vpi/carry/1, packets between two, where the owner allows it
//! UDP ──────── stun       from where a datagram came
//! file ─────── beside     where it is, for the node of this machine
//! ```
//!
//! Standard libp2p over TCP and QUIC under an identity of its own. It belongs to no VPI and holds no secret of one: it serves
//! sealed records to whoever asks, under bounds that everything strangers can make grow has. [`run`] is the whole program;
//! [`node`] its loop.

mod admission;
pub(crate) mod beside;
mod carry;
mod door;
mod events;
mod group;
mod listen;
mod memory;
mod metrics;
mod node;
pub(crate) mod protocol;
mod records;
mod streams;
mod stun;
mod swarm;
mod sys;
mod time;
pub(crate) mod within;
mod writer;

#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use tracing::{info, warn};

use crate::control::server::{MAX_CONNECTIONS, Server};
use crate::control::{Exit, Failure};
use crate::store::beacon::BeaconFolder;
use crate::{privilege, service};

use self::beside::Sign;
use self::door::{CONNECTIONS_MAX, DoorBounds};
use self::node::Beacon;

pub(crate) use self::carry::CarryBounds;
pub(crate) use self::node::peer_address;

/// What a beacon is told at its start.
#[derive(Clone, Debug)]
pub(crate) struct BeaconOptions {
    /// The state folder; the beacon's own lies in it.
    pub(crate) state: PathBuf,
    /// Where commands ask it.
    pub(crate) control: PathBuf,
    /// Where it listens for TCP; every address at the default port if there is none.
    pub(crate) tcp: Vec<SocketAddr>,
    /// The same for QUIC.
    pub(crate) quic: Vec<SocketAddr>,
    /// The same for STUN.
    pub(crate) stun: Vec<SocketAddr>,
    /// Beacons to begin with, each with its peer id.
    pub(crate) peers: Vec<(PeerId, Multiaddr)>,
    /// The addresses under which others reach it; those of this machine if there is none.
    pub(crate) external: Vec<IpAddr>,
    /// Where it says its addresses while it runs, for a node beside it; nowhere if there is none.
    pub(crate) addresses: Option<PathBuf>,
    /// What it carries of packets between members; none if there is nothing.
    pub(crate) carry: Option<CarryBounds>,
    /// Whether what it says at its start is JSON.
    pub(crate) json: bool,
}

/// What a beacon says of itself at its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Announcement {
    id: String,
    addresses: Vec<String>,
    stun: Vec<SocketAddr>,
    records: usize,
    ready: bool,
}

/// Runs the beacon until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting: a folder that others can read, a port that is taken.
pub(crate) fn run(options: BeaconOptions) -> anyhow::Result<Exit> {
    let folder = BeaconFolder::open(&options.state)?;
    let bounds = DoorBounds::with_files(raise_file_limit());
    if bounds.connections < CONNECTIONS_MAX {
        warn!(
            connections = bounds.connections,
            "this process may open few files: fewer connections are taken"
        );
    }
    privilege::give_up(folder.owner())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(options, folder, bounds))
}

async fn serve(options: BeaconOptions, folder: BeaconFolder, bounds: DoorBounds) -> anyhow::Result<Exit> {
    let server = Server::bind(&options.control)?;
    let (json, sign) = (options.json, options.addresses.clone());
    let mut beacon = Beacon::start(options, folder, bounds).await?;
    let (calls, received) = tokio::sync::mpsc::channel(MAX_CONNECTIONS);
    let serving = tokio::spawn(async move { server.serve(calls).await });
    let announcement = beacon.announcement();
    // Held until the end of the run.
    let _sign = sign.map(|path| put_up_sign(&path, &announcement.addresses)).transpose()?;
    announce(&announcement, json)?;
    let outcome = beacon.run(received).await;
    serving.abort();
    let _ = serving.await;
    info!("stopped");
    outcome.map(|()| Exit::Done)
}

fn put_up_sign(path: &Path, addresses: &[String]) -> Result<Sign, Failure> {
    Sign::put_up(path, addresses).map_err(|error| {
        let message = format!("cannot write this beacon's addresses to {}: {error}", path.display());
        Failure::new(
            Exit::Failed,
            message,
            "name a file in a folder of the beacon's user, one for each beacon",
        )
    })
}

/// Prints the beacon's addresses, one a line, and that it is ready; tells the service manager.
fn announce(announcement: &Announcement, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, announcement)?;
        writeln!(out)?;
    } else {
        for address in &announcement.addresses {
            writeln!(out, "{address}")?;
        }
        let count = announcement.records;
        writeln!(out, "vpi beacon is ready: {count} record{}", if count == 1 { "" } else { "s" })?;
    }
    out.flush()?;
    if announcement.addresses.is_empty() {
        warn!(
            "this machine has no address that others reach: name one with --external, or members get no circuits"
        );
    }
    service::tell_ready();
    Ok(())
}

/// Lets this process open as many files as it ever may; returns how many.
fn raise_file_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    // Refused, it stays as it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let current = getrlimit(Resource::Nofile).current.unwrap_or(most);
    usize::try_from(current).unwrap_or(usize::MAX)
}

/// The identity that a seed makes.
fn keypair(seed: &::protocol::identity::Secret) -> anyhow::Result<Keypair> {
    let mut bytes = zeroize::Zeroizing::new(seed.0);
    Ok(Keypair::ed25519_from_bytes(&mut bytes[..])?)
}
