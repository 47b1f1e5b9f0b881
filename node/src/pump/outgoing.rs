//! Datagrams on their way out: a batch, and whatever it may leave by.
//!
//! In: datagrams with their ways, from the forwarder. Out: one call of the kernel for as many as the batch holds, or a frame
//! in a stream's line.

use std::net::SocketAddr;
use std::sync::Arc;

use protocol::drop::DropReason;
use protocol::forward::Egress;

use super::lines::Lines;
use super::sides::Sides;
use crate::metrics::Drops;
use crate::udp::{Batch, Socket};

/// The batch of outgoing datagrams, flushed whenever it is full or the next leaves by another socket.
pub(super) struct Outgoing {
    pub(super) batch: Batch,
    /// The own one.
    pub(super) socket: Arc<Socket>,
    /// Sockets beside that one, by their numbers.
    pub(super) sides: Sides,
    /// Streams through beacons, by their numbers.
    pub(super) lines: Lines,
    /// The socket by which what is in the batch leaves, if not the own one; one that is closed takes it along.
    pub(super) leaves_by: Option<u32>,
    /// The kernel takes no more datagrams.
    pub(super) is_blocked: bool,
    /// The next datagram is lost, so that its sender slows down.
    pub(super) loses_next: bool,
    drops: Arc<Drops>,
}

impl Outgoing {
    /// An empty batch, which leaves by `socket`.
    pub(super) fn new(socket: Arc<Socket>, drops: Arc<Drops>) -> Self {
        Self {
            batch: Batch::new(),
            socket,
            sides: Sides::new(),
            lines: Lines::new(),
            leaves_by: None,
            is_blocked: false,
            loses_next: false,
            drops,
        }
    }

    /// Hands what is in the batch to the kernel.
    pub(super) fn flush(&mut self) {
        self.is_blocked = false;
        if self.batch.is_empty() {
            return;
        }
        let socket = match self.leaves_by {
            None => Some(&self.socket),
            Some(number) => self.sides.get(&number),
        };
        let Some(socket) = socket else { return self.give_up() };
        let refused = |_, _, _| self.drops.count(DropReason::SendFailed);
        self.is_blocked = socket.send_batch(&mut self.batch, refused).is_err();
    }

    fn give_up(&mut self) {
        self.drops.count(DropReason::SendFailed);
        self.batch.clear();
        self.is_blocked = false;
    }
}

impl Egress for Outgoing {
    fn leave_by(&mut self, side: Option<u32>) {
        if self.leaves_by != side {
            self.flush();
            if self.is_blocked {
                // The kernel takes no more by the other socket: what it was given is lost, as on a full line.
                self.give_up();
            }
            self.leaves_by = side;
        }
    }

    fn datagram(&mut self, to: SocketAddr, bytes: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        if std::mem::take(&mut self.loses_next) {
            return false;
        }
        if self.batch.is_full() && !self.is_blocked {
            self.flush();
        }
        let mut filled = false;
        self.batch.push(to, |slot| {
            filled = slot.get_mut(..bytes).is_some_and(fill);
            if filled { bytes } else { 0 }
        });
        filled
    }

    fn carried(&mut self, number: u32, bytes: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        if std::mem::take(&mut self.loses_next) {
            return false;
        }
        let Some(line) = self.lines.get(&number) else { return false };
        let mut frame = vec![0; bytes];
        let filled = fill(&mut frame);
        if filled {
            line.send(frame);
        }
        filled
    }
}
