//! Packets of applications that wait for the socket, a queue for each flow, so that none waits for another's.
//!
//! The device's own queue is one for all, and counts packets and not time: behind a line that is slower than applications
//! send, a bulk transfer fills it with super-packets, and an echo request would stand behind megabytes. So all that is
//! in the device is taken out at each turn, and leaves in the order of RFC 8290 §4 with the turns of DRR (Shreedhar and
//! Varghese, 1995): flows that send little first, the others in turns, as many bytes each. Flows are told apart by a hash, so
//! that a few may share a queue. Where much waits, those that have more than an equal share of it lose one segment each
//! time what they have waiting has left; when there is no place any more, the oldest are dropped where most wait.
//!
//! ```text
//! device ──► places ──► fresh  [17: ■] ──────────────────► sealed first
//!                       others [4: ■■■■■■] [9: ■■] ──────► then in turns
//! ```

use std::collections::VecDeque;
use std::io::{self, ErrorKind};

use protocol::forward::Offload;
use protocol::wire::ip::{Ipv4, TCP, UDP};

use crate::tun::PACKET_BYTES_MAX;

mod places;
use places::Places;

/// *Chosen*: packets; as many as fit of those that a hundred streams send, 47 KiB at the mean. When there is no place for a
/// packet, the oldest of the flow that costs most is dropped.
const PACKETS_MAX: usize = 1_024;
/// What a packet costs at least: its share of [`PACKETS_MAX`], in bytes of [`Places`].
const COST_MIN: usize = 48 << 10;
/// *Chosen*: what a few TCP streams keep on the way at several Gbit/s; with a third of it, four lost 2 % of their segments.
const CALM_BYTES: usize = 6 << 20;
/// *Chosen*: more than that for each flow, half a turn's bytes.
const CALM_FLOW_BYTES: usize = 256 << 10;
/// *Chosen*: two of a hundred flows share a queue with more than even odds, and few of a hundred do.
const FLOWS: usize = 1 << FLOW_BITS;
const FLOW_BITS: u32 = 10;
/// *Chosen*: bytes of a flow's turn where the way out is slow; a super-packet takes four turns, and is not waited for longer
/// than that.
const SLOW_TURN_BYTES: isize = 16 << 10;
/// *Chosen*: the same where it is fast: eight full runs of datagrams. Each turn wakes the peer, whose memory others have had
/// meanwhile: with one run a turn, a hundred busy peers needed nearly twice the processor for each byte, and the node
/// that sends to them half as much again.
const TURN_BYTES: isize = 512 << 10;
/// *Chosen*: what a flow that had nothing waiting sends before all others, in the time that the others take for a turn each.
const PROMPT_BYTES: isize = 16 << 10;

/// The packets, and whose turn it is.
pub(super) struct Waiting {
    places: Places,
    entries: Box<[Entry]>,
    /// Entries without a packet.
    free: Vec<u16>,
    flows: Box<[Flow]>,
    /// Flows that sent little since their last turn, in their order.
    fresh: VecDeque<u16>,
    /// All others, and those that have sent before their turn.
    others: VecDeque<u16>,
    bytes: usize,
    /// Flows that have packets waiting.
    busy: usize,
    /// Of a flow's turn.
    turn_bytes: isize,
    /// The flow that last had to make room.
    costliest: u16,
}

/// A packet whose turn it is.
pub(super) struct Due<'w> {
    pub(super) packet: &'w mut [u8],
    /// What the device left undone in it.
    pub(super) offload: Offload,
    /// Its first datagram is to be lost, so that its sender slows down.
    pub(super) loses_one: bool,
}

/// A packet that waits.
#[derive(Clone, Copy, Default)]
struct Entry {
    /// The first unit of its place.
    place: usize,
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
    /// What its packets take of all there is.
    cost: usize,
    /// What it may still send in this turn.
    credit: isize,
    /// What it may still send before its turn.
    prompt: isize,
    /// What leaves before it may lose a segment again.
    spared: usize,
    is_fresh: bool,
    is_other: bool,
}

impl Waiting {
    /// Takes the memory: 48 MiB of address space, of which the kernel gives what is used.
    pub(super) fn new() -> Self {
        Self {
            places: Places::new(),
            entries: vec![Entry::default(); PACKETS_MAX].into_boxed_slice(),
            free: (0..PACKETS_MAX as u16).rev().collect(),
            flows: vec![Flow::default(); FLOWS].into_boxed_slice(),
            fresh: VecDeque::with_capacity(FLOWS),
            others: VecDeque::with_capacity(FLOWS),
            bytes: 0,
            busy: 0,
            turn_bytes: TURN_BYTES,
            costliest: 0,
        }
    }

    /// Has the flows' turns be as long as suits the way out.
    pub(super) fn set_slow(&mut self, is_slow: bool) {
        self.turn_bytes = if is_slow { SLOW_TURN_BYTES } else { TURN_BYTES };
    }

    /// Whether more memory was used since [`Self::give_back`] than is kept.
    pub(super) fn is_large(&self) -> bool {
        self.places.is_large()
    }

    /// Whether more is in use at this moment.
    pub(super) fn is_in_need(&self) -> bool {
        self.places.is_in_need()
    }

    /// Gives the memory to the kernel, if no packet waits.
    pub(super) fn give_back(&mut self) {
        self.places.give_back();
    }

    /// Whether no packet waits.
    pub(super) fn is_empty(&self) -> bool {
        self.busy == 0
    }

    /// Lets `read` write a packet into a place and say how many bytes it has, and what the device left undone. Returns
    /// how many others were dropped to make room for it.
    ///
    /// # Errors
    /// Those of `read`, and nothing is added; there is room for a packet at all times.
    pub(super) fn take(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> io::Result<(usize, Offload)>,
    ) -> io::Result<usize> {
        let (slot, place) = self.free.last().copied().zip(self.places.room()).ok_or(ErrorKind::WouldBlock)?;
        let room = self.places.bytes(place, PACKET_BYTES_MAX);
        let (bytes, offload) = read(room)?;
        let flow = flow_of(&room[..bytes.min(PACKET_BYTES_MAX)]);
        self.places.keep(place, bytes);
        self.free.pop();
        self.entries[usize::from(slot)] = Entry { place, bytes, offload, next: None };
        self.append(flow, slot);
        Ok(self.make_room())
    }

    /// The packet whose turn it is, which waits no more.
    pub(super) fn next(&mut self) -> Option<Due<'_>> {
        let number = self.turn()?;
        let loses_one = self.loses_one(number);
        let Entry { place, bytes, offload, .. } = self.pop(number)?;
        let flow = &mut self.flows[usize::from(number)];
        flow.credit -= bytes as isize;
        flow.prompt -= bytes as isize;
        flow.spared = flow.spared.saturating_sub(bytes);
        Some(Due { packet: self.places.bytes(place, bytes), offload, loses_one })
    }

    /// Forgets all packets.
    pub(super) fn clear(&mut self) {
        while self.next().is_some() {}
    }

    /// Sees to it that the next packet finds an entry and a place; returns how many were dropped for that.
    fn make_room(&mut self) -> usize {
        let mut dropped = 0;
        while self.free.is_empty() || self.places.room().is_none() {
            dropped += self.drop_one();
        }
        dropped
    }

    fn append(&mut self, number: u16, slot: u16) {
        let bytes = self.entries[usize::from(slot)].bytes;
        let flow = &mut self.flows[usize::from(number)];
        let had_none = flow.first.is_none();
        match flow.first {
            None => {
                flow.first = Some(slot);
                self.busy += 1;
            }
            Some(_) => self.entries[usize::from(flow.last)].next = Some(slot),
        }
        flow.last = slot;
        flow.bytes += bytes;
        flow.cost += bytes.max(COST_MIN);
        self.bytes += bytes;
        if !flow.is_fresh && !flow.is_other {
            (flow.credit, flow.prompt) = (self.turn_bytes, PROMPT_BYTES);
        }
        if had_none && !flow.is_fresh && flow.prompt > 0 {
            flow.is_fresh = true;
            self.fresh.push_back(number);
        }
    }

    /// The flow that sends next.
    fn turn(&mut self) -> Option<u16> {
        while let Some(number) = self.fresh.front().copied() {
            let flow = &mut self.flows[usize::from(number)];
            if flow.first.is_some() && flow.prompt > 0 {
                return Some(number);
            }
            // One that is empty waits for its turn, too: else it would be fresh with each packet.
            self.fresh.pop_front();
            flow.is_fresh = false;
            if !std::mem::replace(&mut flow.is_other, true) {
                self.others.push_back(number);
            }
        }
        loop {
            let number = *self.others.front()?;
            let flow = &mut self.flows[usize::from(number)];
            let due = flow.first.map(|slot| self.entries[usize::from(slot)].bytes as isize);
            if due.is_some_and(|bytes| bytes <= flow.credit) {
                return Some(number);
            }
            self.others.pop_front();
            if due.is_none() {
                flow.is_other = false;
                continue;
            }
            // What is left of a longer turn is no more than what the largest packet needs.
            flow.credit = flow.credit.min(PACKET_BYTES_MAX as isize) + self.turn_bytes;
            flow.prompt = PROMPT_BYTES;
            self.others.push_back(number);
        }
    }

    /// Says whether this flow's next packet loses its first datagram.
    fn loses_one(&mut self, number: u16) -> bool {
        let flow = &mut self.flows[usize::from(number)];
        let is_much = self.bytes > CALM_BYTES + self.busy * CALM_FLOW_BYTES;
        let loses_one = is_much && flow.spared == 0 && flow.bytes * self.busy >= self.bytes;
        if loses_one {
            flow.spared = flow.bytes;
        }
        loses_one
    }

    /// Takes the oldest packet of a flow out of its queue; its place is free from then on, and has its bytes until the next
    /// is taken.
    fn pop(&mut self, number: u16) -> Option<Entry> {
        let flow = &mut self.flows[usize::from(number)];
        let slot = flow.first?;
        let entry = self.entries[usize::from(slot)];
        flow.first = entry.next;
        flow.bytes -= entry.bytes;
        flow.cost -= entry.bytes.max(COST_MIN);
        self.bytes -= entry.bytes;
        self.busy -= usize::from(flow.first.is_none());
        self.free.push(slot);
        self.places.release(entry.place, entry.bytes);
        Some(entry)
    }

    /// Drops the oldest packet of the flow that costs most; returns how many that were.
    fn drop_one(&mut self) -> usize {
        let cost = |number: u16| self.flows[usize::from(number)].cost;
        // More than half of all is the most.
        if cost(self.costliest) <= PACKETS_MAX * COST_MIN / 2 {
            self.costliest = (0..FLOWS as u16).max_by_key(|number| cost(*number)).unwrap_or_default();
        }
        usize::from(self.pop(self.costliest).is_some())
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
