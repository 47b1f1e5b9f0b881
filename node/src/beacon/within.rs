//! A beacon inside another program: over any connections, with whatever else runs in that process.
//!
//! In: where it is, on which connections, on which folder, whom it knows. Out: the beacon on a task of its own, what it counts
//! and whom it knows at any moment. It is the one of [`super::run`] but for sockets, STUN and the time: what it admits, keeps
//! and answers is decided by the same code.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::door::{CONNECTIONS_MAX, DoorBounds};
use super::node::Beacon;
use super::{keypair, memory, swarm};
use crate::store::beacon::BeaconFolder;
use crate::swarm::Connections;

/// How many run in this process: each answers for an equal share of its memory.
static RUNNING: AtomicU64 = AtomicU64::new(0);

/// A beacon on a task of its own.
#[derive(Debug)]
pub struct Within {
    /// Its peer id.
    pub id: PeerId,
    asks: mpsc::Sender<oneshot::Sender<Look>>,
    task: JoinHandle<()>,
}

/// What a beacon has and what it has heard, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The beacons in its table.
    pub table: Vec<PeerId>,
    /// Records held.
    pub records: usize,
    /// Kademlia requests since its start, by kind.
    pub requests: BTreeMap<&'static str, u64>,
    /// Records not taken, by reason.
    pub refused_puts: BTreeMap<&'static str, u64>,
    /// Connections refused or closed for others, by reason.
    pub refused_connections: BTreeMap<&'static str, u64>,
    /// Dial-backs made.
    pub dial_backs: u64,
    /// Peers that answered one and found no place in the table.
    pub kept_out: u64,
}

impl Within {
    /// Starts one at `at`, on the folder `state`, which may be that of an earlier one, with `peers` to begin with.
    ///
    /// # Errors
    /// The folder is in use or damaged, or nobody can listen at `at`.
    pub fn start(
        at: SocketAddr,
        connections: Connections,
        state: &Path,
        peers: &[(PeerId, Multiaddr)],
    ) -> anyhow::Result<Self> {
        let bounds = DoorBounds::with_files(2 * CONNECTIONS_MAX);
        let make = |keypair, records| swarm::swarm_over(connections, keypair, records, bounds);
        let mut beacon = Beacon::still(BeaconFolder::open(state)?, peers.to_vec(), share_of_memory, make)?;
        let address = Multiaddr::from(at.ip()).with(Protocol::Tcp(at.port()));
        beacon.swarm.listen_on(address.clone()).with_context(|| format!("cannot listen on {address}"))?;
        beacon.swarm.add_external_address(address);
        let id = *beacon.swarm.local_peer_id();
        let (asks, asked) = mpsc::channel(1);
        RUNNING.fetch_add(1, Ordering::Relaxed);
        Ok(Self { id, asks, task: tokio::spawn(run(beacon, asked)) })
    }

    /// What it has and has heard; nothing once it has ended.
    pub async fn look(&self) -> Look {
        let (answer, told) = oneshot::channel();
        let _ = self.asks.send(answer).await;
        told.await.unwrap_or_default()
    }

    /// Ends it as a signal would: records and table are on disk then.
    ///
    /// # Errors
    /// It panicked.
    pub async fn stop(self) -> anyhow::Result<()> {
        drop(self.asks);
        self.task.await.context("a beacon failed")
    }
}

/// The identity that the beacon of the folder `state` has.
///
/// # Errors
/// The folder is in use or damaged.
pub fn identity(state: &Path) -> anyhow::Result<Keypair> {
    keypair(&BeaconFolder::open(state)?.seed()?)
}

async fn run(mut beacon: Beacon, mut asked: mpsc::Receiver<oneshot::Sender<Look>>) {
    let (_none, mut calls) = mpsc::channel(1);
    loop {
        tokio::select! {
            ask = asked.recv() => match ask {
                // Who asked may have gone.
                Some(answer) => drop(answer.send(look(&mut beacon))),
                None => break,
            },
            () = beacon.serve(&mut calls) => {}
        }
    }
    beacon.close().await;
    RUNNING.fetch_sub(1, Ordering::Relaxed);
}

fn look(beacon: &mut Beacon) -> Look {
    let table = beacon.table().into_keys().collect();
    let behaviour = beacon.swarm.behaviour_mut();
    Look {
        table,
        records: behaviour.kad.store_mut().count(),
        requests: beacon.counts.requests.clone(),
        refused_puts: beacon.counts.refused_puts.clone(),
        refused_connections: behaviour.door.refused().clone(),
        dial_backs: beacon.counts.dial_backs,
        kept_out: beacon.counts.kept_out,
    }
}

fn share_of_memory() -> u64 {
    memory::resident_bytes() / RUNNING.load(Ordering::Relaxed).max(1)
}
