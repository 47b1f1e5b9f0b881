//! Datagrams to send, in one slab of memory that is taken once: one behind the other, so that those of one size for one
//! destination are sent as one (UDP GSO).
//!
//! ```text
//! slab   | 1452 | 1452 | 1452 | 600 | 1452 | 1452 | …        run i: destination, and which bytes of the slab
//!        └─────── run 0 ────────────┘└── run 1 ──          all of a run have one size, the last may be smaller
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;

/// *Chosen*: runs a system call, or datagrams if each has a run of its own; more gain nothing measurable.
pub(crate) const BATCH_MAX: usize = 64;

/// *Chosen*: the largest datagram of ours is 1,460 bytes (TUN MTU 1,420, data 32, relay label 8); the power of
/// two above leaves room for a path's MTU of 1,500 to be probed in full.
pub(crate) const SLOT_BYTES: usize = 2048;

/// *Specified* (Linux `UDP_MAX_SEGMENTS`, of kernels before 6.9): datagrams in a run.
const SEGMENTS_MAX: usize = 64;
/// *Specified*: bytes of a run, which the kernel treats as one datagram, over IPv6 (65,535 − 40 − 8).
const RUN_BYTES_MAX: usize = 65_487;
/// *Chosen*: two full runs, and room for what a super-packet of the device becomes (71 KiB on the smallest path), so
/// that one is never read that cannot be sealed; larger slabs leave the cache.
const SLAB_BYTES: usize = 208 << 10;
/// *Chosen*: see [`SLAB_BYTES`].
const SUPER_PACKET_BYTES: usize = 72 << 10;
/// *Chosen*: 8 slots, for whoever sends a few messages now and then.
const SMALL_BYTES: usize = 8 * SLOT_BYTES;
/// *Chosen*: destinations that do not take runs; who remembers more forgets all, and learns again.
const SINGLE_MAX: usize = 64;

/// Datagrams with the address that each goes to.
pub(crate) struct Batch {
    slab: Box<[u8]>,
    used: usize,
    runs: [Run; BATCH_MAX],
    filled: usize,
    /// How many of the runs are sent.
    sent: usize,
    /// The first unsent run is sent one datagram at a time: the kernel refused it as a whole.
    is_split: bool,
    /// To these, every datagram is a run of its own.
    single: Vec<SocketAddr>,
}

/// Datagrams to one destination, all of `segment_bytes` but the last, which may be smaller.
#[derive(Debug, Clone, Copy)]
struct Run {
    to: SocketAddr,
    start: usize,
    bytes: usize,
    segment_bytes: usize,
}

/// What one header of `sendmmsg` describes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'b> {
    pub(super) to: SocketAddr,
    pub(super) bytes: &'b [u8],
    /// How the kernel is to cut it; `None`: it is one datagram.
    pub(super) segment_bytes: Option<NonZeroU16>,
}

impl Batch {
    /// Takes the memory: 208 KiB, of which the kernel gives what is used.
    pub(crate) fn new() -> Self {
        Self::of(SLAB_BYTES)
    }

    /// The same with 16 KiB: no super-packet finds room.
    pub(crate) fn small() -> Self {
        Self::of(SMALL_BYTES)
    }

    fn of(slab_bytes: usize) -> Self {
        let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let none = Run { to: nobody, start: 0, bytes: 0, segment_bytes: 0 };
        Self {
            slab: vec![0; slab_bytes].into_boxed_slice(),
            used: 0,
            runs: [none; BATCH_MAX],
            filled: 0,
            sent: 0,
            is_split: false,
            single: Vec::new(),
        }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Whether the next [`Self::push`] is refused.
    pub(crate) fn is_full(&self) -> bool {
        self.filled == BATCH_MAX || self.used + SLOT_BYTES > self.slab.len()
    }

    /// Whether whatever one super-packet of the device becomes finds room.
    pub(crate) fn has_room_for_super_packet(&self) -> bool {
        self.filled <= BATCH_MAX / 2 && self.used + SUPER_PACKET_BYTES <= self.slab.len()
    }

    /// Forgets all datagrams.
    pub(crate) fn clear(&mut self) {
        (self.used, self.filled, self.sent, self.is_split) = (0, 0, 0, false);
    }

    /// Adds a datagram for `to`, which `write` writes into the [`SLOT_BYTES`] bytes it is given and returns
    /// the length of; 0 adds nothing.
    ///
    /// Returns false, without calling `write`, when the batch is full. Copies nothing.
    pub(crate) fn push(&mut self, to: SocketAddr, write: impl FnOnce(&mut [u8]) -> usize) -> bool {
        if self.is_full() {
            return false;
        }
        let bytes = write(&mut self.slab[self.used..self.used + SLOT_BYTES]);
        assert!(bytes <= SLOT_BYTES, "a datagram is not longer than what it was written into");
        if bytes == 0 {
            return true;
        }
        match self.open_run(to, bytes) {
            Some(run) => run.bytes += bytes,
            None => {
                self.runs[self.filled] = Run { to, start: self.used, bytes, segment_bytes: bytes };
                self.filled += 1;
            }
        }
        self.used += bytes;
        true
    }

    /// The last run, if one more datagram of so many bytes may join it.
    fn open_run(&mut self, to: SocketAddr, bytes: usize) -> Option<&mut Run> {
        if self.filled == self.sent || self.single.contains(&to) {
            return None;
        }
        let run = self.runs[..self.filled].last_mut()?;
        let joins = run.to == to
            && bytes <= run.segment_bytes
            && run.bytes.is_multiple_of(run.segment_bytes)
            && run.bytes / run.segment_bytes < SEGMENTS_MAX
            && run.bytes + bytes <= RUN_BYTES_MAX;
        joins.then_some(run)
    }

    /// What is still to be sent: whole runs, or one datagram if the first run has to be split.
    pub(super) fn unsent(&self) -> impl Iterator<Item = Message<'_>> {
        let count = if self.is_split { 1 } else { BATCH_MAX };
        let runs = self.runs[..self.filled].iter().skip(self.sent).take(count);
        runs.map(|run| {
            let held = run.bytes.min(if self.is_split { run.segment_bytes } else { usize::MAX });
            let is_many = held > run.segment_bytes;
            let segment_bytes = if is_many { NonZeroU16::new(run.segment_bytes as u16) } else { None };
            Message { to: run.to, bytes: &self.slab[run.start..run.start + held], segment_bytes }
        })
    }

    /// Marks the first `count` of them as sent, or given up.
    pub(super) fn advance(&mut self, count: usize) {
        let Some(run) = self.runs[..self.filled].get_mut(self.sent).filter(|_| self.is_split && count > 0)
        else {
            self.sent = (self.sent + count).min(self.filled);
            return;
        };
        let sent = run.segment_bytes.min(run.bytes);
        (run.start, run.bytes) = (run.start + sent, run.bytes - sent);
        if run.bytes == 0 {
            self.sent += 1;
            self.is_split = false;
        }
    }

    /// Destination and bytes of the first of them.
    pub(super) fn first_unsent(&self) -> Option<(SocketAddr, usize)> {
        self.unsent().next().map(|message| (message.to, message.bytes.len()))
    }

    /// Has the first unsent run sent one datagram at a time; false if that is so, or it is only one.
    pub(super) fn split_first(&mut self) -> bool {
        let is_run = self.unsent().next().is_some_and(|message| message.segment_bytes.is_some());
        self.is_split |= is_run;
        is_run
    }

    /// Notes that what [`Self::unsent`] showed was sent: a datagram of full size that passes alone and did not pass in a
    /// run says that its destination takes none.
    pub(super) fn learn(&mut self) {
        let Some(run) = self.runs[..self.filled].get(self.sent).filter(|_| self.is_split) else { return };
        if run.bytes < run.segment_bytes || self.single.contains(&run.to) {
            return;
        }
        if self.single.len() == SINGLE_MAX {
            self.single.clear();
        }
        tracing::info!("a path takes no runs of datagrams (UDP GSO): they are sent one by one");
        self.single.push(run.to);
    }
}
