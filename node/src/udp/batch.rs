//! Up to 64 datagrams in one slab of memory that is taken once: the shape in which the socket reads and writes.
//!
//! ```text
//! slab   | slot 0, 2048 bytes | slot 1 | … | slot 63 |      entry i: address and length of what is in slot i
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

/// *Chosen*: datagrams a system call; more gain nothing measurable.
pub(crate) const BATCH_MAX: usize = 64;

/// *Chosen*: the largest datagram of ours is 1,460 bytes (TUN MTU 1,420, data 32, relay label 8); the power of
/// two above leaves room for a path's MTU of 1,500 to be probed in full.
pub(crate) const SLOT_BYTES: usize = 2048;

/// Datagrams with the address that each came from or goes to.
pub(crate) struct Batch {
    slab: Box<[u8]>,
    entries: [Entry; BATCH_MAX],
    filled: usize,
    /// How many of the filled ones are sent.
    sent: usize,
}

/// What is in the slot of the same number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) address: SocketAddr,
    /// 0: nothing that anybody should see.
    pub(super) bytes: usize,
}

impl Batch {
    /// Takes the memory: 128 KiB.
    pub(crate) fn new() -> Self {
        let nobody = Entry { address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), bytes: 0 };
        let slab = vec![0; BATCH_MAX * SLOT_BYTES].into_boxed_slice();
        Self { slab, entries: [nobody; BATCH_MAX], filled: 0, sent: 0 }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Whether the next [`Self::push`] is refused.
    pub(crate) fn is_full(&self) -> bool {
        self.filled == BATCH_MAX
    }

    /// Forgets all datagrams.
    pub(crate) fn clear(&mut self) {
        (self.filled, self.sent) = (0, 0);
    }

    /// Adds a datagram for `to`, which `write` writes into the [`SLOT_BYTES`] bytes it is given and returns
    /// the length of; 0 adds nothing.
    ///
    /// Returns false, without calling `write`, when the batch is full.
    pub(crate) fn push(&mut self, to: SocketAddr, write: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let slot = self.slab.chunks_exact_mut(SLOT_BYTES).nth(self.filled);
        let (Some(slot), Some(entry)) = (slot, self.entries.get_mut(self.filled)) else { return false };
        let bytes = write(slot);
        assert!(bytes <= SLOT_BYTES, "a datagram is not longer than what it was written into");
        if bytes > 0 {
            *entry = Entry { address: to, bytes };
            self.filled += 1;
        }
        true
    }

    /// The datagrams that were received, to be opened in place.
    pub(crate) fn datagrams(&mut self) -> impl Iterator<Item = (SocketAddr, &mut [u8])> {
        let slots = self.slab.chunks_exact_mut(SLOT_BYTES);
        let received = self.entries.iter().take(self.filled).zip(slots);
        received
            .filter(|(entry, _)| entry.bytes > 0)
            .filter_map(|(entry, slot)| Some((entry.address, slot.get_mut(..entry.bytes)?)))
    }

    /// Lets `receive` fill slots and entries from the first on and say how many it filled.
    pub(super) fn fill(
        &mut self,
        receive: impl FnOnce(&mut [u8], &mut [Entry; BATCH_MAX]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        self.clear();
        self.filled = receive(&mut self.slab, &mut self.entries)?.min(BATCH_MAX);
        Ok(self.filled)
    }

    /// The datagrams still to be sent.
    pub(super) fn unsent(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let slots = self.slab.chunks_exact(SLOT_BYTES);
        let filled = self.entries.iter().take(self.filled).zip(slots).skip(self.sent);
        filled.filter_map(|(entry, slot)| Some((entry.address, slot.get(..entry.bytes)?)))
    }

    /// The first of them.
    pub(super) fn first_unsent(&self) -> Option<(SocketAddr, &[u8])> {
        self.unsent().next()
    }

    /// Marks the first `count` of them as sent, or given up.
    pub(super) fn advance(&mut self, count: usize) {
        self.sent = (self.sent + count).min(self.filled);
    }
}
