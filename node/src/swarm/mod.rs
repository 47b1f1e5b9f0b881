//! The member's side of libp2p: the way back in through beacons (node/README, Beacons; protocol/README §18).
//!
//! ```text
//!              Ask ──► ┌────────────────────────── Task ──────────────────────────┐
//!   driver             │ Roster    which beacons there are, how near, how well     │
//!              Told ◄──│ Host      one throw-away peer id: reservation, lookups,   │──► TCP to beacons, dialled only
//!                      │           the clock; a second one while it is replaced    │
//!                      │ Circuits  raw pipes of u16-length frames, either way      │
//!                      │ Carries   streams of such frames, straight to the pump    │
//!                      └───────────────────────────────────────────────────────────┘
//! ```
//!
//! What is decided here: which beacons to keep to, when to ask again, how long to wait. What a record or a frame means is
//! the engine's. Nothing listens on any socket, and nothing is written into a circuit but what the driver asked for: a
//! stranger who comes over a beacon gets the beacon's word that the circuit was taken, and not one byte more.
//!
//! | state of a reservation | goes to | when |
//! |---|---|---|
//! | resting | measuring | wanted, and the pause is over |
//! | measuring | asking | the nearest of three has answered a ping, or only one beacon is known |
//! | asking | held | the beacon said yes |
//! | any but held | resting | refused, unreachable, late: pauses of 1 s doubling to 2 min, ± 25 % |
//! | held | resting | the connection or the reservation was lost: the first pause |
//! | held | asking (and held) | another beacon was seen to be nearer by half and by 20 ms |
//!
//! The peer id lives for a day or until [`Ask::Renew`]; the reservation moves first, and the one before stays for ten
//! minutes, so that what was published under it still leads here.

mod address;
mod behaviour;
mod book;
mod carries;
mod circuit;
mod circuits;
mod clock;
mod host;
mod kademlia;
mod lookups;
mod outward;
mod pipe;
mod reservation;
mod roster;
mod search;
mod task;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::PeerId;
use tokio::sync::mpsc;

use self::outward::Ways;

pub(crate) use self::address::Beacon;
pub(crate) use self::carries::{CarryEnded, Wish};
pub(crate) use self::circuit::Ended;
pub use self::outward::{Connections, Pipe};
pub(crate) use self::roster::{BeaconState, BeaconStatus};

/// Asks that wait for the task (chosen: a burst of frames for all circuits; more is refused at once).
const ASKS: usize = 256;
/// Answers that wait for the driver (chosen: as much; while it is full, circuits are read no further).
const TOLD: usize = 256;

/// The circuits that others opened have this bit in their numbers; those that the driver opens have not.
pub(crate) const INBOUND: u32 = 1 << 31;

/// What the driver wants.
#[derive(Debug)]
pub(crate) enum Ask {
    /// All known beacons, instead of those said before; beyond 64, the last are left out.
    Beacons(Vec<Beacon>),
    /// Whether this device is to be reachable over a beacon.
    Reserve(bool),
    /// Every value under `key`; answered by one [`Told::Found`].
    Get { ticket: u64, key: [u8; 32] },
    /// Puts a value where it belongs and counts the copies; answered by one [`Told::Stored`].
    Put { key: [u8; 32], value: Vec<u8>, expires_in: Duration },
    /// Opens a circuit to `peer` at `beacon`, under a number without [`INBOUND`]. Frames may follow at once; they wait.
    /// Answered by [`Told::Circuit`] or [`Told::Closed`].
    Open { circuit: u32, beacon: Beacon, peer: PeerId },
    /// Sends one frame of 1 to 2,048 bytes; one too many for the queue is lost, as a datagram would be.
    Frame { circuit: u32, bytes: Vec<u8> },
    /// Something authentic came over this inbound circuit: it may stay.
    Vouch(u32),
    /// Sends what waits, and closes.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "circuits end by the beacon's limit; tests end them sooner")
    )]
    Close(u32),
    /// Has a beacon that carries join a stream's two ends; answered by [`Told::CarryHeld`], [`Told::CarryOpen`],
    /// [`Told::CarryClosed`]. The end of its line is its own.
    Carry(Wish),
    /// The time of up to three beacons; answered by [`Told::Clock`].
    Time,
    /// Begins again under another peer id, with connections of its own: this machine's addresses changed.
    Renew,
}

/// What the driver is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// How the beacons do; after each change.
    Beacons(Vec<BeaconStatus>),
    /// Where this device is reachable, and under which peer id; `None` while it is not.
    Reserved(Option<(Beacon, PeerId)>),
    /// The distinct values under a key that its owner signed, at whatever time, as they came; and how many beacons answered
    /// at all: with none, nobody was there to ask. `asked`: how many questions that took.
    Found { ticket: u64, values: Vec<Vec<u8>>, answered: u32, asked: u32 },
    /// How many beacons gave the value back, and how many questions it took.
    Stored { key: [u8; 32], copies: u32, asked: u32 },
    /// A circuit stands. For an inbound one `peer` is the beacon's word only.
    Circuit { circuit: u32, peer: PeerId },
    /// A frame came, 1 to 2,048 bytes.
    Frame { circuit: u32, bytes: Vec<u8> },
    /// A circuit is gone, or did not come to be; the last that is told of this number.
    Closed { circuit: u32, ended: Ended },
    /// This beacon holds the first end of a stream, and waits for the other.
    CarryHeld { number: u32, beacon: Beacon },
    /// Both ends are there.
    CarryOpen { number: u32 },
    /// A stream is gone, or did not come to be; the last that is told of this number.
    CarryClosed { number: u32, ended: CarryEnded },
    /// What to add to this machine's clock, in milliseconds, for the beacons' median; `None` if none answered. With it, the
    /// STUN responders of those that did.
    Clock { offset_ms: Option<i64>, stun: Vec<SocketAddr> },
}

/// The running task, to whoever owns it. It ends when this is dropped.
pub(crate) struct Swarm {
    asks: mpsc::Sender<Ask>,
    told: mpsc::Receiver<Told>,
}

impl Swarm {
    /// Starts the task; to be called inside a tokio runtime. Nothing is sent before there are beacons and something to ask.
    pub(crate) fn start() -> Self {
        Self::start_over(outward::tcp)
    }

    /// As [`Self::start`], over other connections than TCP; every swarm gets what one call of `make` makes.
    pub(crate) fn start_over(make: impl Fn() -> Connections + Send + Sync + 'static) -> Self {
        let (asks, asked) = mpsc::channel(ASKS);
        let (tell, told) = mpsc::channel(TOLD);
        tokio::spawn(task::Task::new(Ways::new(make), asked, tell).run());
        Self { asks, told }
    }

    /// Asks for something, without waiting: the owner also has to read, so it must never be held up here. Returns whether it
    /// was taken: not while too much waits already.
    #[must_use]
    pub(crate) fn ask(&self, ask: Ask) -> bool {
        self.asks.try_send(ask).is_ok()
    }

    /// Ends it, once streams have written what was in line.
    pub(crate) async fn close(self) {
        let Self { asks, mut told } = self;
        drop(asks);
        while told.recv().await.is_some() {}
    }

    /// What is told next; `None` once the task has ended.
    pub(crate) fn poll_told(&mut self, context: &mut Context<'_>) -> Poll<Option<Told>> {
        self.told.poll_recv(context)
    }
}

/// A duration between three and five quarters of `about`, so that many nodes that lost the same beacon do not all come back
/// at once.
fn jitter(about: Duration) -> Duration {
    let share = getrandom::u32().unwrap_or_default();
    about.mul_f64(0.75 + 0.5 * f64::from(share) / f64::from(u32::MAX))
}
