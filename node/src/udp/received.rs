//! Datagrams that were received in one turn, in memory that is taken once.
//!
//! ```text
//! slab   | slot 0, 64 KiB: 1452 | 1452 | … | slot 1 | … | slot 31 |      entry i: source, and how slot i is divided
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use super::batch::SLOT_BYTES;

/// *Chosen*: messages that one turn of receiving holds; each is one datagram, or a run of one sender's (UDP GRO). Every
/// slot is filled sooner or later, whoever sends: they are what a flood can add to the node's memory.
pub(super) const MESSAGES_MAX: usize = 32;
/// Bytes of a slot: those of the largest message (*specified*: 64 KiB), and five lines of the cache (*chosen*), so that
/// not the beginnings of all slots fall into one set of it.
pub(super) const MESSAGE_BYTES: usize = (64 << 10) + 320;
/// *Chosen*: bytes after which a turn ends, so that what was received is still in the cache when it is opened.
const TURN_BYTES: usize = 256 << 10;
/// *Chosen*: messages that a call asks for at least.
const ASKED_MIN: usize = 4;

/// Datagrams that were received, to be opened in place.
pub(crate) struct Received {
    /// 2 MiB of address space; the kernel gives the pages that datagrams touch.
    slab: Box<[u8]>,
    entries: [Entry; MESSAGES_MAX],
    filled: usize,
    bytes: usize,
    /// Mean bytes of the last call's messages, to foresee the next.
    mean_bytes: usize,
    /// How many it received.
    last_count: usize,
}

/// What is in the slot of the same number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) address: SocketAddr,
    /// 0: nothing that anybody should see.
    pub(super) bytes: usize,
    /// Size of each datagram in it; the last may be smaller.
    pub(super) segment_bytes: usize,
}

impl Received {
    /// Takes the memory.
    pub(crate) fn new() -> Self {
        let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let none = Entry { address: nobody, bytes: 0, segment_bytes: 1 };
        let slab = vec![0; MESSAGES_MAX * MESSAGE_BYTES].into_boxed_slice();
        Self { slab, entries: [none; MESSAGES_MAX], filled: 0, bytes: 0, mean_bytes: 0, last_count: 0 }
    }

    /// Forgets all datagrams.
    pub(super) fn clear(&mut self) {
        (self.filled, self.bytes) = (0, 0);
    }

    /// Whether the turn has received what it may.
    pub(super) fn is_full(&self) -> bool {
        self.filled == MESSAGES_MAX || self.bytes >= TURN_BYTES
    }

    /// How many messages were received.
    pub(super) fn messages(&self) -> usize {
        self.filled
    }

    /// Lets `receive` fill slots and entries behind those that are filled, and say how many; returns whether it filled
    /// all that it was given, so that more may be there.
    pub(super) fn fill(
        &mut self,
        receive: impl FnOnce(&mut [u8], &mut [Entry]) -> io::Result<usize>,
    ) -> io::Result<bool> {
        // As many as end the turn, if they are like the last. And not many more than there were: each costs some
        // preparation, which a packet alone would wait for.
        let fitting = TURN_BYTES / self.mean_bytes.max(1);
        let asked = fitting.min(4 * self.last_count).clamp(ASKED_MIN, MESSAGES_MAX);
        let end = (self.filled + asked).min(MESSAGES_MAX);
        let slots = &mut self.slab[self.filled * MESSAGE_BYTES..end * MESSAGE_BYTES];
        let entries = &mut self.entries[self.filled..end];
        let count = receive(slots, entries)?.min(entries.len());
        let was_all = count == entries.len();
        let bytes: usize = entries[..count].iter().map(|entry| entry.bytes).sum();
        self.mean_bytes = bytes / count.max(1);
        self.bytes += bytes;
        self.last_count = count;
        self.filled += count;
        Ok(was_all)
    }

    /// How many datagrams [`Received::datagrams`] leaves out: none of ours is empty, or larger than [`SLOT_BYTES`].
    pub(crate) fn left_out(&self) -> usize {
        let entries = self.entries.iter().take(self.filled);
        let of_entry = |entry: &Entry| match entry.segment_bytes.max(1) {
            _ if entry.bytes == 0 => 1,
            segment if segment <= SLOT_BYTES => 0,
            segment => entry.bytes / segment + usize::from(entry.bytes % segment > SLOT_BYTES),
        };
        entries.map(of_entry).sum()
    }

    /// The datagrams, in the order in which they came, but for those that are none of ours.
    pub(crate) fn datagrams(&mut self) -> impl Iterator<Item = (SocketAddr, &mut [u8])> {
        let slots = self.slab.chunks_exact_mut(MESSAGE_BYTES);
        let received = self.entries.iter().take(self.filled).zip(slots);
        received
            .filter_map(|(entry, slot)| Some((entry, slot.get_mut(..entry.bytes)?)))
            .flat_map(|(entry, message)| {
                let datagrams = message.chunks_mut(entry.segment_bytes.max(1));
                datagrams.map(|datagram| (entry.address, datagram))
            })
            .filter(|(_, datagram)| datagram.len() <= SLOT_BYTES)
    }
}
