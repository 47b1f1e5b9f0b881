//! Packets of applications that wait for the socket, a queue for each flow, so that none waits for another's.
//!
//! The device's own queue is one for all, and counts packets and not time: behind a line that is slower than applications
//! send, a bulk transfer fills it with super-packets, and an echo request would stand behind megabytes. So all that is
//! in the device is taken out at each turn, and leaves in the order of RFC 8290 §4: flows that had nothing waiting
//! first, the others in turns, as many bytes each. Flows are told apart by a hash, so that a few may share a queue. When too
//! many bytes wait, the oldest are dropped where most do.
//!
//! ```text
//! device ──► slots, 64 KiB each       fresh  [17: ■] ──────────────────► sealed first
//!            a free one is the        others [4: ■■■■■■] [9: ■■] ──────► then in turns
//!            one that was used last
//! ```

use std::collections::VecDeque;
use std::io::{self, ErrorKind};

use protocol::forward::Offload;
use protocol::wire::ip::{Ipv4, TCP, UDP};

use super::sys;
use crate::tun::PACKET_BYTES_MAX;

/// *Chosen*: what a few TCP streams keep on the way at several Gbit/s; with a third of it, four lost 2 % of their segments
/// to this queue. All of it may become memory of the node.
const BYTES_MAX: usize = 6 << 20;
/// *Chosen*: so that no more than 16 MiB become memory, whatever sizes come in which order. When all are taken, the rest
/// stays in the device: what is short of places and not of bytes is small, and leaves soon.
const SLOTS: usize = 256;
/// *Chosen*: the largest packet, and five lines of the cache, so that not all begin in one set of it.
const SLOT_BYTES: usize = (PACKET_BYTES_MAX + 1) + 320;
/// *Chosen*: two of a hundred flows share a queue with more than even odds, and few of a hundred do.
const FLOWS: usize = 1 << FLOW_BITS;
const FLOW_BITS: u32 = 10;
/// *Chosen*: bytes of a flow's turn where the way out is slow; a super-packet takes four turns, and is not waited for longer
/// than that.
const SLOW_TURN_BYTES: isize = 16 << 10;
/// *Chosen*: the same where it is fast: a full run of datagrams, which costs as much as a short one.
const TURN_BYTES: isize = 64 << 10;
/// *Chosen*: 1 MiB; memory of so many slots is kept.
const KEPT_SLOTS: usize = 16;

/// The packets, and whose turn it is.
pub(super) struct Waiting {
    slab: Box<[u8]>,
    entries: Box<[Entry]>,
    /// Slots without a packet; the one used last, which the cache has, is taken first.
    free: Vec<u16>,
    flows: Box<[Flow]>,
    /// Flows that had nothing waiting, in their order.
    fresh: VecDeque<u16>,
    /// The others.
    others: VecDeque<u16>,
    bytes: usize,
    /// Of a flow's turn.
    turn_bytes: isize,
    /// Slots in use at most since memory was given back.
    slots_most: usize,
}

/// What is in the slot of the same number.
#[derive(Clone, Copy, Default)]
struct Entry {
    bytes: usize,
    offload: Offload,
    /// The next packet of its flow.
    next: Option<u16>,
}

#[derive(Clone, Copy, Default)]
struct Flow {
    first: Option<u16>,
    last: u16,
    bytes: usize,
    /// What it may still send in this turn.
    credit: isize,
    /// It stands in one of the two queues of flows.
    is_listed: bool,
}

impl Waiting {
    /// Takes the memory: 16 MiB of address space, of which the kernel gives what is used.
    pub(super) fn new() -> Self {
        Self {
            slab: vec![0; SLOTS * SLOT_BYTES].into_boxed_slice(),
            entries: vec![Entry::default(); SLOTS].into_boxed_slice(),
            free: (0..SLOTS as u16).rev().collect(),
            flows: vec![Flow::default(); FLOWS].into_boxed_slice(),
            fresh: VecDeque::with_capacity(FLOWS),
            others: VecDeque::with_capacity(FLOWS),
            bytes: 0,
            turn_bytes: TURN_BYTES,
            slots_most: 0,
        }
    }

    /// Has the flows' turns be as long as suits the way out.
    pub(super) fn set_slow(&mut self, is_slow: bool) {
        self.turn_bytes = if is_slow { SLOW_TURN_BYTES } else { TURN_BYTES };
    }

    /// Whether more memory was used since [`Self::give_back`] than is kept.
    pub(super) fn is_large(&self) -> bool {
        self.slots_most > KEPT_SLOTS
    }

    /// Whether more is in use at this moment.
    pub(super) fn is_in_need(&self) -> bool {
        SLOTS - self.free.len() > KEPT_SLOTS
    }

    /// Gives the memory to the kernel, if no packet waits.
    pub(super) fn give_back(&mut self) {
        if self.is_empty() {
            sys::give_back(&mut self.slab);
            self.slots_most = 0;
        }
    }

    /// Whether no packet waits.
    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == SLOTS
    }

    /// Lets `read` write a packet into a slot and say how many bytes it has, and what the device left undone. Returns
    /// how many others were dropped to make room for it.
    ///
    /// # Errors
    /// Those of `read`, and nothing is added; `WouldBlock` when no slot is free, and nothing is read.
    pub(super) fn take(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> io::Result<(usize, Offload)>,
    ) -> io::Result<usize> {
        let slot = self.free.last().copied().ok_or(ErrorKind::WouldBlock)?;
        let place = &mut self.slab[usize::from(slot) * SLOT_BYTES..][..PACKET_BYTES_MAX];
        let (bytes, offload) = read(place)?;
        let flow = flow_of(&place[..bytes.min(PACKET_BYTES_MAX)]);
        self.free.pop();
        self.slots_most = self.slots_most.max(SLOTS - self.free.len());
        self.entries[usize::from(slot)] = Entry { bytes, offload, next: None };
        self.append(flow, slot, bytes);
        let mut dropped = 0;
        while self.bytes > BYTES_MAX {
            dropped += self.drop_one();
        }
        Ok(dropped)
    }

    /// The packet whose turn it is, which waits no more, and what the device left undone in it.
    pub(super) fn next(&mut self) -> Option<(&mut [u8], Offload)> {
        let flow = self.turn()?;
        let slot = self.pop(flow)?;
        let Entry { bytes, offload, .. } = self.entries[usize::from(slot)];
        self.flows[usize::from(flow)].credit -= bytes as isize;
        let packet = &mut self.slab[usize::from(slot) * SLOT_BYTES..][..bytes];
        Some((packet, offload))
    }

    /// Forgets all packets.
    pub(super) fn clear(&mut self) {
        while self.next().is_some() {}
    }

    fn append(&mut self, number: u16, slot: u16, bytes: usize) {
        let flow = &mut self.flows[usize::from(number)];
        match flow.first {
            None => flow.first = Some(slot),
            Some(_) => self.entries[usize::from(flow.last)].next = Some(slot),
        }
        flow.last = slot;
        flow.bytes += bytes;
        self.bytes += bytes;
        if !flow.is_listed {
            (flow.is_listed, flow.credit) = (true, self.turn_bytes);
            self.fresh.push_back(number);
        }
    }

    /// The flow that sends next: it has a packet, and credit.
    fn turn(&mut self) -> Option<u16> {
        loop {
            let (number, is_fresh) = match (self.fresh.front(), self.others.front()) {
                (Some(number), _) => (*number, true),
                (None, Some(number)) => (*number, false),
                (None, None) => return None,
            };
            let flow = &mut self.flows[usize::from(number)];
            if flow.first.is_some() && flow.credit > 0 {
                return Some(number);
            }
            if is_fresh {
                self.fresh.pop_front()
            } else {
                self.others.pop_front()
            };
            if flow.first.is_none() && !is_fresh {
                flow.is_listed = false;
                continue;
            }
            // One that is empty goes once round with the others: else it would be fresh with each packet.
            if flow.credit <= 0 {
                flow.credit += self.turn_bytes;
            }
            self.others.push_back(number);
        }
    }

    /// Takes the oldest packet of a flow out of its queue; its slot is free from then on.
    fn pop(&mut self, number: u16) -> Option<u16> {
        let flow = &mut self.flows[usize::from(number)];
        let slot = flow.first?;
        let entry = &self.entries[usize::from(slot)];
        flow.first = entry.next;
        flow.bytes -= entry.bytes;
        self.bytes -= entry.bytes;
        self.free.push(slot);
        Some(slot)
    }

    /// Drops the oldest packet of the flow that has most waiting; returns how many that were.
    fn drop_one(&mut self) -> usize {
        let most = (0..FLOWS as u16).max_by_key(|number| self.flows[usize::from(*number)].bytes);
        most.map_or(0, |number| usize::from(self.pop(number).is_some()))
    }
}

/// The queue of a packet: by addresses, protocol and ports. Fragments go by addresses and protocol, all of a packet and
/// those of all packets, and so does what has no ports.
fn flow_of(packet: &[u8]) -> u16 {
    let Ok(packet) = Ipv4::parse(packet) else { return 0 };
    let has_ports = matches!(packet.protocol(), TCP | UDP) && !packet.is_fragment();
    let (source_port, port) = packet.ports().filter(|_| has_ports).unwrap_or_default();
    let ports = u64::from(source_port) << 16 | u64::from(port);
    let key = ports << 32 | u64::from(packet.destination().to_bits());
    // The upper bits of a product by an odd number without a pattern (2^64 by the golden ratio) depend on all of the key.
    let mixed = (key ^ u64::from(packet.protocol())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (u64::BITS - FLOW_BITS)) as u16
}

#[cfg(test)]
mod tests;
