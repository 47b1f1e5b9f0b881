//! All circuits: who may have one, and which order goes to which.
//!
//! Anybody who learnt the peer id can open circuits to it, and a member cannot be told from a stranger before its first
//! frame is judged. So what others opened is counted in two lots. Circuits over which something authentic came have places that
//! nobody else can take. All others share theirs: where these are full, who has more of them than the newcomer gives one up,
//! and among equals the oldest goes, once it had its time. A stranger thus keeps a member out only with more peer ids than
//! there are places, and with more new circuits in each second.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use libp2p::futures::io::AsyncWriteExt as _;
use libp2p::multiaddr::Protocol;
use libp2p::relay::client::Connection;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::circuit::{Ended, Orders, run};
use super::pipe::{RawDialer, RawIn, is_turned_away};
use super::{INBOUND, Told, jitter};
use crate::carry::FRAME_BYTES;

/// Circuits that others may have open to this device at once, and over which something authentic came (specified:
/// node/README, Beacons; more only by as many as were unproven when the last of these was proven).
const PROVEN: usize = 8;
/// Those over which nothing authentic came yet (specified: node/README, Beacons).
pub(super) const UNPROVEN: usize = 16;
/// Of these, those that the beacon says are of one peer (specified: node/README, Beacons; a member opens one, and the next
/// when that has ended or five seconds later).
const UNPROVEN_OF_PEER: usize = 4;
/// As long does the only one of a peer keep its place (chosen: a member's first frame comes a round trip after its circuit
/// stands).
pub(super) const SAFE_FOR: Duration = Duration::from_secs(1);
/// Own ones, with those that wait (chosen: one for each member of a small VPI that starts).
const OUTBOUND_CIRCUITS: usize = 32;
/// Of these, being opened at once: a beacon negotiates ten for one member and turns down the rest.
const OPENING: usize = 8;
/// Frames that wait to be written to one circuit (chosen: a handshake and the objects behind it).
const FRAMES: usize = 32;
/// How long the way to a member may take: dial a beacon, ask it, have it ask the member.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// Pauses until a circuit is asked for again that was turned away because its beacon is being dialled, in milliseconds (chosen:
/// a connection takes two round trips; a beacon that is gone is told of within two seconds).
const AGAIN_AFTER_MS: [u64; 4] = [50, 150, 500, 1_000];
/// How long it may take to tell the beacon that a circuit is taken.
const ACCEPT_WITHIN: Duration = Duration::from_secs(5);

/// The near ends of [`Orders`].
struct Link {
    frames: mpsc::Sender<Vec<u8>>,
    standing: Standing,
    close: Option<oneshot::Sender<()>>,
    task: Id,
}

/// Whose a circuit is.
enum Standing {
    /// This device opened it.
    Own,
    /// Somebody opened it; who, the beacon says.
    Unproven { claimed: PeerId, since: Instant, vouch: oneshot::Sender<()> },
    /// The driver stands for it.
    Proven,
    /// It had to give way, and ends.
    GivenUp,
}

/// The table.
pub(super) struct Circuits {
    links: HashMap<u32, Link>,
    tasks: JoinSet<()>,
    opening: Arc<Semaphore>,
    told: mpsc::Sender<Told>,
    next_inbound: u32,
}

impl Circuits {
    pub(super) fn new(told: mpsc::Sender<Told>) -> Self {
        let opening = Arc::new(Semaphore::new(OPENING));
        Self { links: HashMap::new(), tasks: JoinSet::new(), opening, told, next_inbound: INBOUND }
    }

    /// Takes a circuit that came in, or drops it untouched, which refuses it, where there are enough.
    pub(super) fn accept(&mut self, arrived: RawIn) {
        if !self.make_room(arrived.claimed) {
            debug!("a circuit was refused: there are enough");
            return;
        }
        while self.links.contains_key(&self.next_inbound) {
            self.next_inbound = self.next_inbound.wrapping_add(1) | INBOUND;
        }
        let circuit = self.next_inbound;
        self.next_inbound = circuit.wrapping_add(1) | INBOUND;
        let (vouch, vouched) = oneshot::channel();
        let told = self.told.clone();
        let standing = Standing::Unproven { claimed: arrived.claimed, since: Instant::now(), vouch };
        self.add(circuit, standing, |frames, close| async move {
            let RawIn { claimed, mut pipe } = arrived;
            // This tells the beacon that the circuit is taken; the stranger gets nothing by it but the beacon's word.
            if !matches!(timeout(ACCEPT_WITHIN, pipe.flush()).await, Ok(Ok(()))) {
                return;
            }
            let orders = Orders { frames, vouch: Some(vouched), close };
            if told.send(Told::Circuit { circuit, peer: claimed }).await.is_ok() {
                let ended = run(circuit, pipe, orders, &told).await;
                let _ = told.send(Told::Closed { circuit, ended }).await;
            }
        });
    }

    /// Finds out whether there is a place for one more of `claimed`; another unproven one may have to give way.
    fn make_room(&mut self, claimed: PeerId) -> bool {
        if self.links.values().filter(|link| matches!(link.standing, Standing::Proven)).count() >= PROVEN {
            return false;
        }
        let mut by_peer: HashMap<PeerId, Vec<(Instant, u32)>> = HashMap::new();
        for (circuit, link) in &self.links {
            if let Standing::Unproven { claimed, since, .. } = link.standing {
                by_peer.entry(claimed).or_default().push((since, *circuit));
            }
        }
        let own = by_peer.get(&claimed).map_or(0, Vec::len);
        if by_peer.values().map(Vec::len).sum::<usize>() < UNPROVEN {
            return own < UNPROVEN_OF_PEER;
        }
        let most = by_peer.values().map(Vec::len).max().unwrap_or_default();
        let of_fullest = by_peer.into_values().filter(|circuits| circuits.len() == most).flatten();
        let Some((since, oldest)) = of_fullest.min() else { return false };
        let may_go = own + 1 < most || (own == 0 && since.elapsed() >= SAFE_FOR);
        if let Some(link) = self.links.get_mut(&oldest).filter(|_| may_go) {
            link.standing = Standing::GivenUp;
        }
        may_go
    }

    /// Opens one to `peer` behind `beacon`, a whole circuit address.
    ///
    /// # Errors
    /// [`Ended::Busy`] where there are too many.
    pub(super) fn open(
        &mut self,
        circuit: u32,
        peer: PeerId,
        beacon: Multiaddr,
        dialer: RawDialer,
    ) -> Result<(), Ended> {
        if is_inbound(circuit) || self.links.contains_key(&circuit) {
            debug!(circuit, "a circuit was asked for under a number that is taken");
            return Ok(());
        }
        if self.links.keys().filter(|circuit| !is_inbound(**circuit)).count() >= OUTBOUND_CIRCUITS {
            return Err(Ended::Busy);
        }
        let (told, opening) = (self.told.clone(), Arc::clone(&self.opening));
        self.add(circuit, Standing::Own, |frames, mut close| async move {
            let opened = async {
                let _permit = opening.acquire().await.ok()?;
                match timeout(OPEN_WITHIN, open_again(&dialer, beacon.with(Protocol::P2p(peer)))).await {
                    Ok(Ok(pipe)) => return Some(pipe),
                    Ok(Err(error)) => debug!(%error, "a circuit could not be opened"),
                    Err(_) => debug!("a circuit could not be opened in time"),
                }
                None
            };
            let opened = tokio::select! {
                opened = opened => opened.ok_or(Ended::Unreachable),
                _ = &mut close => Err(Ended::Asked),
            };
            let ended = match opened {
                Ok(pipe) => {
                    if told.send(Told::Circuit { circuit, peer }).await.is_err() {
                        return;
                    }
                    run(circuit, pipe, Orders { frames, vouch: None, close }, &told).await
                }
                Err(ended) => ended,
            };
            let _ = told.send(Told::Closed { circuit, ended }).await;
        });
        Ok(())
    }

    fn add<F>(
        &mut self,
        circuit: u32,
        standing: Standing,
        work: impl FnOnce(mpsc::Receiver<Vec<u8>>, oneshot::Receiver<()>) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let (frames, to_write) = mpsc::channel(FRAMES);
        let (close, closed) = oneshot::channel();
        let task = self.tasks.spawn(work(to_write, closed)).id();
        self.links.insert(circuit, Link { frames, standing, close: Some(close), task });
    }

    /// Sends one frame, or loses it where it is no frame, too many wait or the circuit is gone.
    pub(super) fn frame(&self, circuit: u32, frame: Vec<u8>) {
        let is_frame = (1..=FRAME_BYTES).contains(&frame.len());
        let link = self.links.get(&circuit).filter(|_| is_frame);
        if link.is_none_or(|link| link.frames.try_send(frame).is_err()) {
            debug!(circuit, "a frame for a circuit was lost");
        }
    }

    /// The driver stands for it.
    pub(super) fn vouch(&mut self, circuit: u32) {
        let Some(link) = self.links.get_mut(&circuit) else { return };
        if matches!(link.standing, Standing::Unproven { .. })
            && let Standing::Unproven { vouch, .. } = std::mem::replace(&mut link.standing, Standing::Proven)
        {
            // It fails only if the circuit has ended.
            let _ = vouch.send(());
        }
    }

    /// Closes it, after what waits has been written.
    pub(super) fn close(&mut self, circuit: u32) {
        let close = self.links.get_mut(&circuit).and_then(|link| link.close.take());
        close.map(|close| close.send(()));
    }

    /// Waits until one has ended and was told of. A call that is given up loses nothing; with no circuit it never returns.
    pub(super) async fn ended(&mut self) {
        let task = match self.tasks.join_next_with_id().await {
            Some(Ok((task, ()))) => task,
            Some(Err(error)) => error.id(),
            None => std::future::pending().await,
        };
        self.links.retain(|_, link| link.task != task);
    }
}

/// Opens one; while the beacon is being dialled for another, that takes a few tries.
async fn open_again(dialer: &RawDialer, address: Multiaddr) -> io::Result<Connection> {
    let mut pauses = AGAIN_AFTER_MS.into_iter();
    loop {
        match (dialer.open(address.clone()).await, pauses.next()) {
            (Err(error), Some(pause_ms)) if is_turned_away(&error) => {
                sleep(jitter(Duration::from_millis(pause_ms))).await;
            }
            (opened, _) => return opened,
        }
    }
}

fn is_inbound(circuit: u32) -> bool {
    circuit & INBOUND != 0
}
