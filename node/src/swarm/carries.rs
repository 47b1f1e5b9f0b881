//! Streams that carry packets, the member's side: asked for at beacons, waited on, served until they end.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use libp2p::futures::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use libp2p::swarm::Stream;
use libp2p_stream::{Control, OpenStreamError};
use protocol::identity::Secret;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio::time::timeout;
use tracing::debug;

use super::Told;
use super::address::Beacon;
use crate::beacon::protocol::{CARRY, HELD, HOLD_FOR, JOINED};
use crate::carry::{Line, Reader, write_frame};

/// Streams at once, those that are asked for included (specified: protocol/README §20, as an engine has).
const CARRIES: usize = 32;
/// Beacons asked for one stream (chosen: those of a VPI; each that is gone takes its while).
pub(super) const ASKED: usize = 8;
/// How long a beacon may take to be connected, and to say that it carries.
const OPEN_WITHIN: Duration = Duration::from_secs(6);
/// How long the other end may take, and the word of it: longer than the beacon waits.
const JOINED_WITHIN: Duration = HOLD_FOR.saturating_add(Duration::from_secs(3));
/// How long a frame may take to be written.
const STALLED_AFTER: Duration = Duration::from_secs(10);
/// How long an orderly end may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Why a stream is gone, or did not come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CarryEnded {
    /// No beacon that was asked carries.
    NoneCarries,
    /// None could be asked, the other end did not come, or one end or the beacon closed it.
    Gone,
}

/// One stream that is wanted.
#[derive(Debug)]
pub(crate) struct Wish {
    /// Its number.
    pub(crate) number: u32,
    /// By which the beacon knows both ends.
    pub(crate) token: Secret,
    /// The beacon to be asked first; the only one, if this is not the first end.
    pub(crate) at: Option<Beacon>,
    /// This is the first end: any beacon that carries will do.
    pub(crate) is_offer: bool,
    /// What goes over it, and where what comes is put.
    pub(crate) line: Arc<Line>,
}

/// A stream, or one that is asked for.
struct Link {
    task: Id,
    /// Under which peer id it is.
    generation: u64,
}

/// The table.
pub(super) struct Carries {
    links: HashMap<u32, Link>,
    /// How often the peer id changed.
    generation: u64,
    tasks: JoinSet<()>,
    told: mpsc::Sender<Told>,
}

impl Carries {
    pub(super) fn new(told: mpsc::Sender<Told>) -> Self {
        Self { links: HashMap::new(), generation: 0, tasks: JoinSet::new(), told }
    }

    /// Asks for one at these beacons, in this order. What becomes of it is told.
    ///
    /// # Errors
    /// [`CarryEnded::Gone`] where there are too many.
    pub(super) fn open(
        &mut self,
        wish: Wish,
        beacons: Vec<Beacon>,
        mut control: Control,
    ) -> Result<(), CarryEnded> {
        let number = wish.number;
        if self.links.len() >= CARRIES || self.links.contains_key(&number) {
            return Err(CarryEnded::Gone);
        }
        let told = self.told.clone();
        let task = self.tasks.spawn(async move {
            let opened = tokio::select! {
                opened = open(&wish, &beacons, &mut control, &told) => opened,
                () = wish.line.ended() => Err(CarryEnded::Gone),
            };
            let ended = match opened {
                Ok(stream) => {
                    if told.send(Told::CarryOpen { number }).await.is_err() {
                        return;
                    }
                    serve(stream, &wish.line).await;
                    CarryEnded::Gone
                }
                Err(ended) => ended,
            };
            let _ = told.send(Told::CarryClosed { number, ended }).await;
        });
        self.links.insert(number, Link { task: task.id(), generation: self.generation });
        Ok(())
    }

    /// The peer id is another from here on.
    pub(super) fn on_renewed(&mut self) {
        self.generation += 1;
    }

    /// Whether one goes on under the peer id before.
    pub(super) fn has_older(&self) -> bool {
        self.links.values().any(|link| link.generation < self.generation)
    }

    /// Waits for those whose lines have ended to write what is in them.
    pub(super) async fn finish(&mut self) {
        let _ = timeout(CLOSE_WITHIN, async { while self.tasks.join_next().await.is_some() {} }).await;
    }

    /// Waits until one has ended and was told of. A call that is given up loses nothing; with none it never returns.
    pub(super) async fn ended(&mut self) {
        let task = match self.tasks.join_next_with_id().await {
            Some(Ok((task, ()))) => task,
            Some(Err(error)) => error.id(),
            None => std::future::pending().await,
        };
        self.links.retain(|_, link| link.task != task);
    }
}

/// Finds a beacon that carries, and waits there for the other end. That none carries is said only if all have answered.
async fn open(
    wish: &Wish,
    beacons: &[Beacon],
    control: &mut Control,
    told: &mpsc::Sender<Told>,
) -> Result<Stream, CarryEnded> {
    let number = wish.number;
    let mut ended = if beacons.is_empty() { CarryEnded::Gone } else { CarryEnded::NoneCarries };
    for beacon in beacons {
        let asked = timeout(OPEN_WITHIN, ask(wish, *beacon, control)).await;
        let (mut stream, word) = match asked {
            Ok(Ok(asked)) => asked,
            Ok(Err(refused)) => {
                debug!(number, %beacon, ?refused, "a beacon holds no end of a stream");
                if refused == CarryEnded::Gone {
                    ended = refused;
                }
                continue;
            }
            Err(_) => {
                ended = CarryEnded::Gone;
                continue;
            }
        };
        if word == JOINED {
            return Ok(stream);
        }
        if wish.is_offer && told.send(Told::CarryHeld { number, beacon: *beacon }).await.is_err() {
            return Err(CarryEnded::Gone);
        }
        let mut word = [0];
        return match timeout(JOINED_WITHIN, stream.read_exact(&mut word)).await {
            Ok(Ok(())) if word == [JOINED] => Ok(stream),
            _ => Err(CarryEnded::Gone),
        };
    }
    Err(ended)
}

/// Asks one beacon; returns its first word.
async fn ask(wish: &Wish, beacon: Beacon, control: &mut Control) -> Result<(Stream, u8), CarryEnded> {
    let mut stream = control.open_stream(beacon.peer, CARRY).await.map_err(|error| match error {
        OpenStreamError::UnsupportedProtocol(_) => CarryEnded::NoneCarries,
        _ => CarryEnded::Gone,
    })?;
    let mut word = [0];
    let asking = async {
        stream.write_all(&wish.token.0).await?;
        stream.flush().await?;
        stream.read_exact(&mut word).await
    };
    match asking.await {
        Ok(()) if matches!(word, [HELD | JOINED]) => Ok((stream, word[0])),
        _ => Err(CarryEnded::Gone),
    }
}

/// Moves frames until either end is gone, or the driver ends it: then what is in line still goes out, a goodbye among it.
async fn serve(stream: Stream, line: &Line) {
    let (read, mut write) = stream.split();
    let mut take = pin!(take(read, line));
    let is_over = tokio::select! {
        () = take.as_mut() => true,
        () = give(&mut write, line) => false,
    };
    let _ = timeout(CLOSE_WITHIN, write.close()).await;
    if is_over {
        line.taken().await;
    } else {
        // The beacon ends its side once it has passed on what was written; before that it may still be on its way.
        let _ = timeout(CLOSE_WITHIN, take).await;
    }
}

async fn take(read: ReadHalf<Stream>, line: &Line) {
    let mut reader = Reader::new(read);
    while let Ok(Some(frame)) = reader.next().await {
        line.arrive(frame);
    }
}

async fn give(write: &mut WriteHalf<Stream>, line: &Line) {
    while let Some(frame) = line.to_write().await {
        if !matches!(timeout(STALLED_AFTER, write_frame(write, &frame)).await, Ok(Ok(()))) {
            return;
        }
    }
}
