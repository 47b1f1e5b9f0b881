//! One circuit: a pipe with frames in it, from its acceptance to its end.
//!
//! ```text
//! | length u16 | frame, 1 to 2,048 bytes | length u16 | …      (big-endian; a frame is one datagram of protocol/README §2 or §4)
//! ```
//!
//! Bytes that are no frame end the pipe without an answer. Nothing is written but frames that the driver gave.

use std::time::Duration;

use libp2p::futures::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::Told;
use crate::carry::{self, Malformed, Reader};

/// An inbound circuit over which nothing authentic came within this time ends (specified: node/README, Beacons).
const VOUCH_WITHIN: Duration = Duration::from_secs(5);
/// Frames it may bring until then (chosen: a handshake has one, and is sent again a few times).
const UNVOUCHED_FRAMES: u32 = 16;
/// A circuit over which no frame goes ends (chosen: twice the longest pause between two tries of a handshake, and some).
const IDLE_FOR: Duration = Duration::from_secs(30);
/// The longest life, and the most bytes in both directions (chosen: control only, so that a beacon or a member cannot hold
/// one for good; beacons allow less).
const LONGEST: Duration = Duration::from_secs(120);
const MOST_BYTES: usize = 1 << 20;
/// How long a frame may take to be written, or to be taken by the driver.
const STALLED_AFTER: Duration = Duration::from_secs(5);
/// How long an orderly end may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Why a circuit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ended {
    /// The driver closed it.
    Asked,
    /// The other end, the beacon or one of its limits did; these look alike.
    Peer,
    /// Nothing went over it for 30 s.
    Idle,
    /// An inbound one, and nothing authentic came within 5 s or 16 frames, or before another needed its place.
    Unvouched,
    /// What came was no frame.
    Malformed,
    /// One side took no frame for 5 s.
    Stalled,
    /// It was used for 2 minutes or 1 MiB.
    UsedUp,
    /// The beacon, or the member at the beacon, was not there or refused.
    Unreachable,
    /// Too many are open or waiting.
    Busy,
}

/// What the driver has to say to a circuit.
pub(super) struct Orders {
    pub(super) frames: mpsc::Receiver<Vec<u8>>,
    /// There for an inbound one.
    pub(super) vouch: Option<oneshot::Receiver<()>>,
    pub(super) close: oneshot::Receiver<()>,
}

/// Carries frames until the end; tells of each that came.
pub(super) async fn run<P>(circuit: u32, pipe: P, mut orders: Orders, told: &mpsc::Sender<Told>) -> Ended
where
    P: AsyncRead + AsyncWrite + Unpin,
{
    let (read, mut write) = pipe.split();
    let mut reader = Reader::new(read);
    let ended = loop_frames(circuit, &mut reader, &mut write, &mut orders, told).await;
    if ended == Ended::Asked {
        // What was given before the end still goes out.
        while let Ok(frame) = orders.frames.try_recv() {
            if write_frame(&mut write, &frame).await.is_err() {
                break;
            }
        }
    }
    // A beacon keeps a circuit until both ends have closed it.
    let _ = timeout(CLOSE_WITHIN, write.close()).await;
    ended
}

async fn loop_frames<R, W>(
    circuit: u32,
    reader: &mut Reader<R>,
    write: &mut W,
    orders: &mut Orders,
    told: &mpsc::Sender<Told>,
) -> Ended
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let began_at = Instant::now();
    let mut quiet_until = began_at + if orders.vouch.is_some() { VOUCH_WITHIN } else { IDLE_FOR };
    let (mut unvouched, mut bytes) = (0, 0);
    loop {
        tokio::select! {
            _ = &mut orders.close => return Ended::Asked,
            vouched = wait(&mut orders.vouch) => {
                if vouched.is_err() {
                    return Ended::Unvouched;
                }
                orders.vouch = None;
                quiet_until = Instant::now() + IDLE_FOR;
            }
            frame = reader.next() => {
                let frame = match frame {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return Ended::Peer,
                    Err(Malformed) => return Ended::Malformed,
                };
                bytes += frame.len();
                if orders.vouch.is_some() {
                    unvouched += 1;
                    if unvouched > UNVOUCHED_FRAMES {
                        return Ended::Unvouched;
                    }
                } else {
                    quiet_until = Instant::now() + IDLE_FOR;
                }
                let telling = told.send_timeout(Told::Frame { circuit, bytes: frame }, STALLED_AFTER);
                if telling.await.is_err() {
                    return Ended::Stalled;
                }
            }
            Some(frame) = orders.frames.recv() => {
                bytes += frame.len();
                if let Err(ended) = write_frame(write, &frame).await {
                    return ended;
                }
                if orders.vouch.is_none() {
                    quiet_until = Instant::now() + IDLE_FOR;
                }
            }
            () = sleep_until(quiet_until) => {
                return if orders.vouch.is_some() { Ended::Unvouched } else { Ended::Idle };
            }
            () = sleep_until(began_at + LONGEST) => return Ended::UsedUp,
        }
        if bytes > MOST_BYTES {
            return Ended::UsedUp;
        }
    }
}

/// Waits for the driver's word; for ever where none is needed.
async fn wait(vouch: &mut Option<oneshot::Receiver<()>>) -> Result<(), oneshot::error::RecvError> {
    match vouch {
        Some(vouch) => vouch.await,
        None => std::future::pending().await,
    }
}

async fn write_frame<W: AsyncWrite + Unpin>(write: &mut W, frame: &[u8]) -> Result<(), Ended> {
    match timeout(STALLED_AFTER, carry::write_frame(write, frame)).await {
        Ok(written) => written.map_err(|_| Ended::Peer),
        Err(_) => Err(Ended::Stalled),
    }
}

#[cfg(test)]
mod tests;
