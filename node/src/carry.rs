//! Frames of a stream that carries packets through a beacon (protocol/README §20): their form, and the lines in which they wait.
//!
//! A line is short and drops the oldest: what waits behind a slow stream is late, and whoever sent it sends again. Neither the
//! pump nor a beacon ever waits for one.
//!
//! ```text
//! pump, driver ──► out ──► ┌ stream task ┐ ══► beacon        length u16 | frame, 1 to 2,048 bytes | length u16 | …
//!         pump ◄── arrived ◄──└─────────────┘ ◄══                (big-endian; a frame is one datagram of protocol/README §2 or §4)
//! ```

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libp2p::futures::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use protocol::drop::DropReason;
use tokio::sync::Notify;

use crate::metrics::Drops;

/// The longest frame: more than any datagram on the wire (protocol/README §4).
pub(crate) const FRAME_BYTES: usize = 2_048;
const LENGTH_BYTES: usize = 2;

/// What a frame takes beyond its bytes (chosen): in a line a place and what the allocator adds; on the wire its length, and its
/// part of what yamux, Noise, TCP and IP add. Without it a line of the shortest frames would hold sixty times its bytes.
const OVERHEAD_BYTES: usize = 64;

/// Bytes that wait on a member's side, each way (chosen: two super-packets cut to frames; half a second at 2 Mbit/s).
const LINE_BYTES: usize = 128 << 10;

/// What a frame costs, of a line and of a rate.
pub(crate) fn cost(frame: &[u8]) -> usize {
    frame.len() + OVERHEAD_BYTES
}

/// How long the pump may take for what came, and how often that is looked at (chosen: a turn of a busy pump takes a few
/// milliseconds).
const TAKEN_WITHIN: Duration = Duration::from_millis(200);
const TAKEN_AGAIN: Duration = Duration::from_millis(2);

/// Frames that wait, the oldest first.
#[derive(Debug)]
pub(crate) struct Ring {
    held: Mutex<Held>,
    ready: Notify,
    most_bytes: usize,
}

#[derive(Debug, Default)]
struct Held {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    is_ended: bool,
}

impl Ring {
    /// An empty one for so many bytes.
    pub(crate) fn new(most_bytes: usize) -> Self {
        Self { held: Mutex::default(), ready: Notify::new(), most_bytes }
    }

    /// A panic while it was held leaves nothing half done here.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame; returns how many older ones gave way. One that has ended takes none.
    pub(crate) fn push(&self, frame: Vec<u8>) -> usize {
        let mut held = self.held();
        if held.is_ended {
            return 1;
        }
        held.bytes += cost(&frame);
        held.frames.push_back(frame);
        let mut lost = 0;
        while held.bytes > self.most_bytes
            && let Some(oldest) = held.frames.pop_front()
        {
            held.bytes -= cost(&oldest);
            lost += 1;
        }
        drop(held);
        self.ready.notify_one();
        lost
    }

    /// The oldest frame, if there is one.
    pub(crate) fn pop(&self) -> Option<Vec<u8>> {
        let mut held = self.held();
        let frame = held.frames.pop_front()?;
        held.bytes -= cost(&frame);
        Some(frame)
    }

    /// Ends it: what waits is still taken, and nothing is added.
    pub(crate) fn end(&self) {
        self.held().is_ended = true;
        self.ready.notify_one();
    }

    /// Waits for the oldest frame; `None` once it has ended and is empty. For one reader. A call that is given up loses nothing.
    pub(crate) async fn next(&self) -> Option<Vec<u8>> {
        loop {
            if let Some(frame) = self.pop() {
                return Some(frame);
            }
            if self.held().is_ended {
                return None;
            }
            self.ready.notified().await;
        }
    }

    /// Waits until it has ended; for whoever would read it, before they do.
    async fn ended(&self) {
        while !self.held().is_ended {
            self.ready.notified().await;
        }
    }

    fn is_empty(&self) -> bool {
        self.held().frames.is_empty()
    }
}

/// A member's end of one stream: what waits to be written to it, and what came over it.
#[derive(Debug)]
pub(crate) struct Line {
    out: Ring,
    arrived: Ring,
    /// Wakes the pump.
    wake: Arc<OwnedFd>,
    drops: Arc<Drops>,
}

impl Line {
    /// An empty one; the pump that has `wake` takes what arrives.
    pub(crate) fn new(wake: Arc<OwnedFd>, drops: Arc<Drops>) -> Self {
        Self { out: Ring::new(LINE_BYTES), arrived: Ring::new(LINE_BYTES), wake, drops }
    }

    /// Puts a datagram in the line to be written.
    pub(crate) fn send(&self, datagram: Vec<u8>) {
        let lost = self.out.push(datagram);
        (0..lost).for_each(|_| self.drops.count(DropReason::CarryQueue));
    }

    /// What is to be written next; `None` at the end.
    pub(crate) async fn to_write(&self) -> Option<Vec<u8>> {
        self.out.next().await
    }

    /// Its owner wants it no more: what was put in line is written, then the stream ends.
    pub(crate) fn end(&self) {
        self.out.end();
    }

    /// Waits for that; to be called before anything is written.
    pub(crate) async fn ended(&self) {
        self.out.ended().await;
    }

    /// Waits until the pump has taken what came, so that a goodbye is heard before the end is; not for long.
    pub(crate) async fn taken(&self) {
        let taking = async {
            while !self.arrived.is_empty() {
                tokio::time::sleep(TAKEN_AGAIN).await;
            }
        };
        // A pump that is gone takes nothing.
        let _ = tokio::time::timeout(TAKEN_WITHIN, taking).await;
    }

    /// A datagram came.
    pub(crate) fn arrive(&self, datagram: Vec<u8>) {
        let lost = self.arrived.push(datagram);
        (0..lost).for_each(|_| self.drops.count(DropReason::CarryQueue));
        // An error would be that the counter is full: the pump is awake then.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }

    /// The next that came.
    pub(crate) fn take_arrived(&self) -> Option<Vec<u8>> {
        self.arrived.pop()
    }
}

/// Writes one frame; what is no frame is left out.
///
/// # Errors
/// The stream has ended.
pub(crate) async fn write_frame<W: AsyncWrite + Unpin>(write: &mut W, frame: &[u8]) -> io::Result<()> {
    let length = u16::try_from(frame.len()).unwrap_or(0);
    if length == 0 || frame.len() > FRAME_BYTES {
        return Ok(());
    }
    write.write_all(&[&length.to_be_bytes(), frame].concat()).await?;
    write.flush().await
}

/// Bytes that are no frame.
#[derive(Debug)]
pub(crate) struct Malformed;

/// Frames out of a stream. What a call that was given up had read is kept for the next.
pub(crate) struct Reader<R> {
    read: R,
    /// Less than two frames.
    held: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Nothing is read yet.
    pub(crate) fn new(read: R) -> Self {
        Self { read, held: Vec::new() }
    }

    /// The next frame, or `None` at the end of the stream.
    ///
    /// # Errors
    /// Bytes that are no frame.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, Malformed> {
        let mut chunk = [0; LENGTH_BYTES + FRAME_BYTES];
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            match self.read.read(&mut chunk).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(length) => self.held.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            }
        }
    }

    /// A whole frame, if one is there.
    fn take(&mut self) -> Result<Option<Vec<u8>>, Malformed> {
        let Some((length, rest)) = self.held.split_first_chunk() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*length));
        if length == 0 || length > FRAME_BYTES {
            return Err(Malformed);
        }
        let Some(frame) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
        self.held.drain(..LENGTH_BYTES + length);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_full_loses_the_oldest_and_nothing_else() {
        let ring = Ring::new(3 * (1_000 + OVERHEAD_BYTES));
        let lost: usize = (0..6).map(|n| ring.push(vec![n; 1_000])).sum();
        assert_eq!(lost, 3);
        let left: Vec<u8> = std::iter::from_fn(|| ring.pop()).map(|frame| frame[0]).collect();
        assert_eq!(left, [3, 4, 5]);
        assert_eq!(ring.push(vec![0; 3_000]), 0, "what was taken out counts no more");
    }

    #[test]
    fn the_shortest_frames_take_no_more_memory_than_long_ones() {
        let ring = Ring::new(6_400);
        let lost: usize = (0..1_000).map(|_| ring.push(vec![0])).sum();
        assert_eq!(std::iter::from_fn(|| ring.pop()).count(), 6_400 / (1 + OVERHEAD_BYTES));
        assert_eq!(lost, 1_000 - 6_400 / (1 + OVERHEAD_BYTES));
    }

    #[tokio::test]
    async fn what_waits_at_the_end_is_still_taken_and_nothing_is_added() {
        let ring = Ring::new(3_000);
        ring.push(vec![1]);
        ring.end();
        assert_eq!(ring.push(vec![2]), 1);
        assert_eq!((ring.next().await, ring.next().await), (Some(vec![1]), None));
        ring.ended().await;
    }

    #[tokio::test]
    async fn whoever_waits_for_a_frame_gets_it_and_one_that_gave_up_loses_none() {
        let ring = Arc::new(Ring::new(3_000));
        let gave_up = tokio::time::timeout(std::time::Duration::from_millis(5), ring.next()).await;
        assert!(gave_up.is_err());
        let waits = tokio::spawn({
            let ring = Arc::clone(&ring);
            async move { (ring.next().await, ring.next().await) }
        });
        ring.push(vec![1]);
        ring.push(vec![2]);
        assert_eq!(waits.await.unwrap(), (Some(vec![1]), Some(vec![2])));
    }
}
