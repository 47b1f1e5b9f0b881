//! Cuts one packet into valid packets: super-packets of the device, and TCP to a path's size.
//!
//! A path that carries less than the TUN's MTU must not be announced to the kernel too early (it remembers for ten
//! minutes); TCP is simply cut, in the same pass that cuts a super-packet. In: one IPv4 packet, whose transport checksum
//! is not looked at. Out: packets whose payloads, put together, are the same bytes (as RFC 9293 §3.4 allows any segment
//! boundaries). Every header field, sequence number and checksum is what a sender would have written: identification
//! counts up, CWR stays on the first (RFC 3168 §6.1.2), FIN and PSH on the last, the urgent pointer keeps its place.
//!
//! Cost for each byte: one copy, and one sum of what was copied.

use std::num::NonZeroU16;

use crate::wire::checksum::Sum;
use crate::wire::ip::{HEADER_BYTES, TCP, TCP_HEADER_BYTES, UDP, UDP_HEADER_BYTES};

/// Bytes of the shortest IPv4 and TCP header together.
const SHORTEST_HEADERS: usize = HEADER_BYTES + TCP_HEADER_BYTES;
/// Bytes of an IPv4 and a UDP header together.
const UDP_HEADERS: usize = HEADER_BYTES + UDP_HEADER_BYTES;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;

/// A TCP packet, seen as the packets it is cut into.
#[derive(Clone, Copy, Debug)]
pub struct TcpCut<'p> {
    headers: &'p [u8],
    payload: &'p [u8],
    segment_bytes: usize,
}

impl<'p> TcpCut<'p> {
    /// Looks at `packet`, a whole IPv4 packet, to be cut to `max_bytes`, headers included, and to `segment_bytes` of
    /// payload if that is less.
    ///
    /// `None` if it cannot be cut: not TCP, a fragment, lengths that do not fit, or headers that leave no room.
    #[must_use]
    pub fn new(packet: &'p [u8], max_bytes: usize, segment_bytes: Option<NonZeroU16>) -> Option<Self> {
        let fixed: &[u8; SHORTEST_HEADERS] = packet.first_chunk()?;
        if !is_whole(packet, TCP) {
            return None;
        }
        let header_bytes = HEADER_BYTES + usize::from(fixed[32] >> 4) * 4;
        if header_bytes < SHORTEST_HEADERS || max_bytes <= header_bytes {
            return None;
        }
        let (headers, payload) = packet.split_at_checked(header_bytes)?;
        let room = max_bytes - header_bytes;
        let segment_bytes = segment_bytes.map_or(room, |given| room.min(given.get().into()));
        Some(Self { headers, payload, segment_bytes })
    }

    /// How many packets come out; at least 1.
    #[must_use]
    pub fn count(&self) -> usize {
        self.payload.len().div_ceil(self.segment_bytes).max(1)
    }

    /// Bytes of packet number `index`, from 0.
    #[must_use]
    pub fn packet_bytes(&self, index: usize) -> usize {
        self.headers.len() + self.part(index).len()
    }

    /// Writes packet number `index` into `out`, which is exactly [`TcpCut::packet_bytes`] long.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn write(&self, index: usize, out: &mut [u8]) {
        let (part, is_last) = (self.part(index), index + 1 == self.count());
        let (headers, payload) = out.split_at_mut(self.headers.len());
        headers.copy_from_slice(self.headers);
        payload.copy_from_slice(part);
        let (ip, tcp) = headers.split_at_mut(HEADER_BYTES);

        write_ip(ip, self.headers.len() + part.len(), index);

        let skipped = index * self.segment_bytes;
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(skipped as u32);
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        if !is_last {
            tcp[13] &= !(FIN | PSH);
        }
        if index > 0 {
            tcp[13] &= !CWR;
            move_urgent_pointer(tcp, skipped);
        }
        tcp[16..18].fill(0);
        let checksum = transport_sum(ip, tcp, payload).checksum();
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    }

    fn part(&self, index: usize) -> &'p [u8] {
        let start = (index * self.segment_bytes).min(self.payload.len());
        let end = (start + self.segment_bytes).min(self.payload.len());
        &self.payload[start..end]
    }
}

/// A UDP super-packet, seen as the packets that it stands for; a datagram has no other place to be cut.
#[derive(Clone, Copy, Debug)]
pub struct UdpCut<'p> {
    headers: &'p [u8; UDP_HEADERS],
    payload: &'p [u8],
    segment_bytes: usize,
}

impl<'p> UdpCut<'p> {
    /// Looks at `packet`, an IPv4 UDP super-packet whose datagrams have `segment_bytes` of payload each, the last what
    /// is left. `None` if it is none: not UDP, a fragment, or lengths that do not fit.
    #[must_use]
    pub fn new(packet: &'p [u8], segment_bytes: NonZeroU16) -> Option<Self> {
        let (headers, payload) = packet.split_first_chunk()?;
        is_whole(packet, UDP).then_some(Self { headers, payload, segment_bytes: segment_bytes.get().into() })
    }

    /// How many packets come out; at least 1.
    #[must_use]
    pub fn count(&self) -> usize {
        self.payload.len().div_ceil(self.segment_bytes).max(1)
    }

    /// Bytes of packet number `index`, from 0.
    #[must_use]
    pub fn packet_bytes(&self, index: usize) -> usize {
        UDP_HEADERS + self.part(index).len()
    }

    /// Writes packet number `index` into `out`, which is exactly [`UdpCut::packet_bytes`] long.
    ///
    /// # Panics
    /// If `out` has another length.
    pub fn write(&self, index: usize, out: &mut [u8]) {
        let part = self.part(index);
        let (headers, payload) = out.split_at_mut(UDP_HEADERS);
        headers.copy_from_slice(self.headers);
        payload.copy_from_slice(part);
        let (ip, udp) = headers.split_at_mut(HEADER_BYTES);
        write_ip(ip, UDP_HEADERS + part.len(), index);
        udp[4..6].copy_from_slice(&((UDP_HEADER_BYTES + part.len()) as u16).to_be_bytes());
        udp[6..8].fill(0);
        let checksum = match transport_sum(ip, udp, payload).checksum() {
            0 => 0xffff,
            checksum => checksum,
        };
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
    }

    fn part(&self, index: usize) -> &'p [u8] {
        let start = (index * self.segment_bytes).min(self.payload.len());
        let end = (start + self.segment_bytes).min(self.payload.len());
        &self.payload[start..end]
    }
}

/// Says whether `packet` is an IPv4 packet of this protocol, without options, no fragment, of the length it says.
fn is_whole(packet: &[u8], protocol: u8) -> bool {
    let Some(header) = packet.first_chunk::<HEADER_BYTES>() else { return false };
    let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    header[0] == 0x45 && header[9] == protocol && !is_fragment && total == packet.len()
}

/// Gives piece number `index` its length, identification and header checksum.
fn write_ip(ip: &mut [u8], total_bytes: usize, index: usize) {
    ip[2..4].copy_from_slice(&(total_bytes as u16).to_be_bytes());
    let id = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(index as u16);
    ip[4..6].copy_from_slice(&id.to_be_bytes());
    ip[10..12].fill(0);
    let checksum = Sum::default().add_bytes(ip).checksum();
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Counts the urgent pointer from a piece that begins `skipped` bytes later; urgent data before it is past.
fn move_urgent_pointer(tcp: &mut [u8], skipped: usize) {
    if tcp[13] & URG == 0 {
        return;
    }
    let pointer = usize::from(u16::from_be_bytes([tcp[18], tcp[19]])).saturating_sub(skipped);
    if pointer == 0 {
        tcp[13] &= !URG;
    }
    tcp[18..20].copy_from_slice(&(pointer as u16).to_be_bytes());
}

/// The sum of pseudo-header, transport header and payload; both headers have an even length.
fn transport_sum(ip: &[u8], transport: &[u8], payload: &[u8]) -> Sum {
    let length = (transport.len() + payload.len()) as u16;
    let pseudo = Sum::default().add_bytes(&ip[12..20]).add_word(u16::from(ip[9])).add_word(length);
    pseudo.add_bytes(transport).add_bytes(payload)
}

#[cfg(test)]
mod tests;
