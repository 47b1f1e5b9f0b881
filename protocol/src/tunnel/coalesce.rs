//! Puts consecutive packets of a flow together, TCP and UDP, so that the kernel takes them as one.
//!
//! The inverse of [`super::segment`]: what comes out, cut again, is byte for byte what went in. In: packets as they come
//! out of sessions, one turn's at a time. Out: super-packets, and whatever has nothing to join, as it came. Packets of
//! one flow keep their order; those of different flows may overtake each other within a turn. Nothing is waited for: a
//! turn ends when the caller says so.
//!
//! A packet joins the one before it if a sender cutting one super-packet would have written it next: the same headers
//! but for length, checksums and an identification that follows on; as large as the others, or smaller and the last.
//! TCP's sequence numbers follow on, too, and ACK and PSH are the only flags. UDP's identification may be any where DF is
//! set: it then says nothing (RFC 6864 §4.1), and a socket that is not connected writes 0 on Linux. The checksum must be
//! there and right: the kernel does not look at the checksum of a super-packet, and a wrong one must not become right on
//! the way.
//!
//! Cost for each packet: one sum of its bytes, up to `FLOWS_MAX` comparisons of 12 bytes, one of the headers. No copy:
//! payloads stay where they were opened.

use std::num::NonZeroU16;

use crate::wire::checksum::Sum;
use crate::wire::ip::{HEADER_BYTES, TCP, TCP_HEADER_BYTES, UDP, UDP_HEADER_BYTES};

/// Flows that are put together at once (chosen: more than send in one turn of a busy link; the oldest gives way).
const FLOWS_MAX: usize = 8;
/// Packets in one super-packet (chosen: 65,535 bytes hold 58 of the smallest path's).
pub const PARTS_MAX: usize = 64;
/// Bytes of the largest IPv4 packet (specified: RFC 791 §3.1).
const PACKET_BYTES_MAX: usize = 65_535;

const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
/// DF, in the first byte of flags and offset.
const DONT_FRAGMENT: u8 = 0x40;
/// Where the protocol stands in an IPv4 packet.
const PROTOCOL: usize = 9;
/// Where a flow's addresses and ports stand in an IPv4 packet without options.
const FLOW: std::ops::Range<usize> = 12..24;

/// Something for the device: a packet, or a super-packet.
#[derive(Debug)]
pub struct Coalesced<'c, 'd> {
    /// What stands first: the headers of a super-packet, whose transport checksum is of the pseudo-header only.
    pub headers: &'c [u8],
    /// What follows, in this order: at most [`PARTS_MAX`].
    pub payloads: &'c [&'d [u8]],
    /// Bytes of each payload but the last; `None`: it is an ordinary packet, its checksums complete.
    pub segment_bytes: Option<NonZeroU16>,
}

impl<'c> From<&'c [u8]> for Coalesced<'c, '_> {
    /// An ordinary packet.
    fn from(packet: &'c [u8]) -> Self {
        Self { headers: packet, payloads: &[], segment_bytes: None }
    }
}

/// The packets of one turn that wait for their next.
#[derive(Debug)]
pub struct Coalescer<'d> {
    flows: [Option<Flow<'d>>; FLOWS_MAX],
    /// The flow that gives way next.
    oldest: usize,
    joins_udp: bool,
}

#[derive(Debug)]
struct Flow<'d> {
    headers: &'d mut [u8],
    payloads: [&'d [u8]; PARTS_MAX],
    count: usize,
    total_bytes: usize,
    has_push: bool,
}

impl<'d> Coalescer<'d> {
    /// With nothing in it. TCP is put together, and with `joins_udp` UDP, too: if the kernel takes that.
    #[must_use]
    pub fn new(joins_udp: bool) -> Self {
        Self { flows: [const { None }; FLOWS_MAX], oldest: 0, joins_udp }
    }

    /// Takes the next `packet`, one whole IPv4 packet; hands `emit` what is ready.
    pub fn take(&mut self, packet: &'d mut [u8], emit: &mut impl FnMut(&Coalesced<'_, 'd>)) {
        let has_ports = packet.len() >= FLOW.end
            && (packet[PROTOCOL] == TCP || self.joins_udp && packet[PROTOCOL] == UDP);
        if !has_ports {
            return emit_alone(packet, emit);
        }
        let known = self.find(packet);
        let Some(header_bytes) = joinable_header(packet) else {
            // In its place in the flow. A fragment's flow is not known by ports: all are let go.
            if is_fragment(packet) {
                self.finish(emit);
            } else {
                self.let_go(known, emit);
            }
            return emit_alone(packet, emit);
        };
        let (headers, payload) = packet.split_at_mut(header_bytes);
        if let Some(at) = known {
            if let Some(flow) = self.flows[at].as_mut().filter(|flow| flow.is_next(headers, payload)) {
                flow.push(headers, payload);
                if flow.is_complete() {
                    self.let_go(known, emit);
                }
                return;
            }
            self.let_go(known, emit);
        }
        let flow = Flow::new(headers, payload);
        if flow.has_push {
            return flow.emit(emit);
        }
        let at = self.flows.iter().position(Option::is_none).unwrap_or(self.oldest);
        self.let_go(Some(at), emit);
        self.oldest = (at + 1) % FLOWS_MAX;
        self.flows[at] = Some(flow);
    }

    /// Ends the turn: hands `emit` all that waits.
    pub fn finish(&mut self, emit: &mut impl FnMut(&Coalesced<'_, 'd>)) {
        (0..FLOWS_MAX).for_each(|at| self.let_go(Some(at), emit));
    }

    fn find(&self, packet: &[u8]) -> Option<usize> {
        let is_of = |flow: &Flow<'_>| {
            flow.headers[FLOW] == packet[FLOW] && flow.headers[PROTOCOL] == packet[PROTOCOL]
        };
        self.flows.iter().position(|known| known.as_ref().is_some_and(is_of))
    }

    fn let_go(&mut self, at: Option<usize>, emit: &mut impl FnMut(&Coalesced<'_, 'd>)) {
        if let Some(flow) = at.and_then(|at| self.flows[at].take()) {
            flow.emit(emit);
        }
    }
}

impl<'d> Flow<'d> {
    fn new(headers: &'d mut [u8], payload: &'d [u8]) -> Self {
        let total_bytes = headers.len() + payload.len();
        let has_push = has_push(headers);
        let mut payloads: [&[u8]; PARTS_MAX] = [&[]; PARTS_MAX];
        payloads[0] = payload;
        Self { headers, payloads, count: 1, total_bytes, has_push }
    }

    /// Says whether a packet of this flow with these headers is what a sender would have written next.
    fn is_next(&self, headers: &[u8], payload: &[u8]) -> bool {
        let first = &*self.headers;
        let same = |range: std::ops::Range<usize>| first.get(range.clone()) == headers.get(range);
        let skipped = (self.total_bytes - first.len()) as u32;
        let is_udp = first[PROTOCOL] == UDP;
        let follows_on = || {
            word(headers, 4) == word(first, 4).wrapping_add(self.count as u16)
                || is_udp && headers[6] & DONT_FRAGMENT != 0
        };
        self.count < PARTS_MAX
            && self.total_bytes + payload.len() <= PACKET_BYTES_MAX
            && payload.len() <= self.payloads[0].len()
            && first.len() == headers.len()
            // Service; flags, hops.
            && same(1..2)
            && same(6..9)
            && follows_on()
            // Acknowledgement and header length; window; urgent pointer and options.
            && (is_udp
                || same(28..33)
                    && same(34..36)
                    && same(38..first.len())
                    && sequence(headers) == sequence(first).wrapping_add(skipped))
    }

    fn push(&mut self, headers: &[u8], payload: &'d [u8]) {
        self.payloads[self.count] = payload;
        self.count += 1;
        self.total_bytes += payload.len();
        self.has_push = has_push(headers);
    }

    /// Nothing can follow: a sender sets PSH on its last, and only the last is smaller.
    fn is_complete(&self) -> bool {
        let last = self.payloads[self.count - 1];
        self.has_push || self.count == PARTS_MAX || last.len() < self.payloads[0].len()
    }

    fn emit(self, emit: &mut impl FnMut(&Coalesced<'_, 'd>)) {
        let payloads = &self.payloads[..self.count];
        if self.count == 1 {
            return emit(&Coalesced { headers: self.headers, payloads, segment_bytes: None });
        }
        let segment_bytes = NonZeroU16::new(self.payloads[0].len() as u16);
        let (ip, transport) = self.headers.split_at_mut(HEADER_BYTES);
        ip[2..4].copy_from_slice(&(self.total_bytes as u16).to_be_bytes());
        ip[10..12].fill(0);
        let checksum = Sum::default().add_bytes(ip).checksum();
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        let length = (self.total_bytes - HEADER_BYTES) as u16;
        let checksum = (!pseudo_sum(ip, length).checksum()).to_be_bytes();
        if ip[PROTOCOL] == UDP {
            transport[4..6].copy_from_slice(&length.to_be_bytes());
            transport[6..8].copy_from_slice(&checksum);
        } else {
            if self.has_push {
                transport[13] |= PSH;
            }
            transport[16..18].copy_from_slice(&checksum);
        }
        emit(&Coalesced { headers: self.headers, payloads, segment_bytes });
    }
}

fn emit_alone<'d>(packet: &[u8], emit: &mut impl FnMut(&Coalesced<'_, 'd>)) {
    emit(&Coalesced::from(packet));
}

/// Bytes of the headers of a TCP or UDP packet that may join others, whose ports are known to be there; else `None`.
fn joinable_header(packet: &[u8]) -> Option<usize> {
    let fixed: &[u8; HEADER_BYTES + UDP_HEADER_BYTES] = packet.first_chunk()?;
    let header_bytes = match fixed[PROTOCOL] {
        UDP => {
            let has_checksum = word(fixed, 26) != 0;
            let is_whole = usize::from(word(fixed, 24)) == packet.len() - HEADER_BYTES;
            (has_checksum && is_whole).then_some(fixed.len())?
        }
        _ => {
            let fixed: &[u8; HEADER_BYTES + TCP_HEADER_BYTES] = packet.first_chunk()?;
            let header_bytes = HEADER_BYTES + usize::from(fixed[32] >> 4) * 4;
            (fixed[33] & !PSH == ACK && header_bytes >= fixed.len()).then_some(header_bytes)?
        }
    };
    let is_plain = fixed[0] == 0x45
        && !is_fragment(packet)
        && usize::from(word(fixed, 2)) == packet.len()
        && header_bytes < packet.len();
    let is_right =
        || pseudo_sum(fixed, (packet.len() - HEADER_BYTES) as u16).add_bytes(&packet[HEADER_BYTES..]);
    (is_plain && is_right().checksum() == 0).then_some(header_bytes)
}

/// Says whether PSH is set in the headers of a packet that may join others: a sender sets it on its last.
fn has_push(headers: &[u8]) -> bool {
    headers[PROTOCOL] == TCP && headers[33] & PSH != 0
}

fn is_fragment(packet: &[u8]) -> bool {
    word(packet, 6) & 0x3fff != 0
}

/// The sum of the transport's pseudo-header.
fn pseudo_sum(ip: &[u8], length: u16) -> Sum {
    Sum::default().add_bytes(&ip[12..20]).add_word(u16::from(ip[PROTOCOL])).add_word(length)
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn sequence(headers: &[u8]) -> u32 {
    u32::from(word(headers, 24)) << 16 | u32::from(word(headers, 26))
}

#[cfg(test)]
mod tests;
