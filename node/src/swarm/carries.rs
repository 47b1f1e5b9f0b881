//! Streams that carry packets, the member's side: asked for at beacons, waited on, served until they end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use libp2p::futures::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use libp2p::swarm::Stream;
use libp2p_stream::{Control, OpenStreamError};
use protocol::identity::Secret;
use tokio::sync::{mpsc, oneshot};
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

/// The table.
pub(super) struct Carries {
    links: HashMap<u32, (oneshot::Sender<()>, Id)>,
    tasks: JoinSet<()>,
    told: mpsc::Sender<Told>,
}

impl Carries {
    pub(super) fn new(told: mpsc::Sender<Told>) -> Self {
        Self { links: HashMap::new(), tasks: JoinSet::new(), told }
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
        let (close, mut closed) = oneshot::channel();
        let task = self.tasks.spawn(async move {
            let opened = tokio::select! {
                opened = open(&wish, &beacons, &mut control, &told) => opened,
                _ = &mut closed => Err(CarryEnded::Gone),
            };
            let ended = match opened {
                Ok(stream) => {
                    if told.send(Told::CarryOpen { number }).await.is_err() {
                        return;
                    }
                    serve(stream, &wish.line, closed).await;
                    CarryEnded::Gone
                }
                Err(ended) => ended,
            };
            let _ = told.send(Told::CarryClosed { number, ended }).await;
        });
        self.links.insert(number, (close, task.id()));
        Ok(())
    }

    /// Closes it, after what waits has been written.
    pub(super) fn close(&mut self, number: u32) {
        if let Some((close, task)) = self.links.remove(&number) {
            let _ = close.send(());
            // Its place is free once it has ended.
            let (kept, _) = oneshot::channel();
            self.links.insert(number, (kept, task));
        }
    }

    /// Waits until one has ended and was told of. A call that is given up loses nothing; with none it never returns.
    pub(super) async fn ended(&mut self) {
        let task = match self.tasks.join_next_with_id().await {
            Some(Ok((task, ()))) => task,
            Some(Err(error)) => error.id(),
            None => std::future::pending().await,
        };
        self.links.retain(|_, (_, of)| *of != task);
    }
}

/// Finds a beacon that carries, and waits there for the other end.
async fn open(
    wish: &Wish,
    beacons: &[Beacon],
    control: &mut Control,
    told: &mpsc::Sender<Told>,
) -> Result<Stream, CarryEnded> {
    let number = wish.number;
    let mut ended = CarryEnded::Gone;
    for beacon in beacons {
        let asked = timeout(OPEN_WITHIN, ask(wish, *beacon, control)).await;
        let (mut stream, word) = match asked {
            Ok(Ok(asked)) => asked,
            Ok(Err(refused)) => {
                debug!(number, %beacon, ?refused, "a beacon holds no end of a stream");
                if refused == CarryEnded::NoneCarries {
                    ended = refused;
                }
                continue;
            }
            Err(_) => continue,
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

/// Moves frames until either end is gone, or the driver closes it.
async fn serve(stream: Stream, line: &Line, closed: oneshot::Receiver<()>) {
    let (read, mut write) = stream.split();
    tokio::select! {
        () = take(read, line) => {}
        () = give(&mut write, line) => {}
        _ = closed => {
            // What was given before the end still goes out: a goodbye is among it.
            let _ = timeout(CLOSE_WITHIN, async {
                while let Some(frame) = line.to_write().pop() {
                    if write_frame(&mut write, &frame).await.is_err() {
                        return;
                    }
                }
            })
            .await;
        }
    }
    let _ = timeout(CLOSE_WITHIN, write.close()).await;
}

async fn take(read: ReadHalf<Stream>, line: &Line) {
    let mut reader = Reader::new(read);
    while let Ok(Some(frame)) = reader.next().await {
        line.arrive(frame);
    }
}

async fn give(write: &mut WriteHalf<Stream>, line: &Line) {
    loop {
        let frame = line.to_write().next().await;
        if !matches!(timeout(STALLED_AFTER, write_frame(write, &frame)).await, Ok(Ok(()))) {
            return;
        }
    }
}
