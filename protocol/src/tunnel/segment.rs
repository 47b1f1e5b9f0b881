//! Cuts a TCP packet into valid packets of at most a given size.
//!
//! A path that carries less than the TUN's MTU must not be announced to the kernel too early (it remembers for ten
//! minutes); TCP is simply cut. In: one IPv4 TCP packet. Out: packets whose payloads, put together, are the same bytes
//! (as RFC 9293 §3.4 allows any segment boundaries). Every header field, sequence number and checksum is what a sender
//! would have written: identification counts up, CWR stays on the first (RFC 3168 §6.1.2), FIN and PSH on the last.

use crate::wire::checksum::Sum;
use crate::wire::ip::{HEADER_BYTES, TCP, TCP_HEADER_BYTES};

/// Bytes of the shortest IPv4 and TCP header together.
const SHORTEST_HEADERS: usize = HEADER_BYTES + TCP_HEADER_BYTES;

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
    /// Looks at `packet`, a whole IPv4 packet, to be cut to `max_bytes`, headers included.
    ///
    /// `None` if it cannot be cut: not TCP, a fragment, with urgent data (whose pointer is relative to one segment),
    /// lengths that do not fit, or headers that leave no room.
    #[must_use]
    pub fn new(packet: &'p [u8], max_bytes: usize) -> Option<Self> {
        let fixed: &[u8; SHORTEST_HEADERS] = packet.first_chunk()?;
        let is_fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0;
        if fixed[0] != 0x45 || fixed[9] != TCP || is_fragment || fixed[33] & URG != 0 {
            return None;
        }
        let header_bytes = HEADER_BYTES + usize::from(fixed[32] >> 4) * 4;
        let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if header_bytes < SHORTEST_HEADERS || total != packet.len() || max_bytes <= header_bytes {
            return None;
        }
        let (headers, payload) = packet.split_at_checked(header_bytes)?;
        Some(Self { headers, payload, segment_bytes: max_bytes - header_bytes })
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

        ip[2..4].copy_from_slice(&((self.headers.len() + part.len()) as u16).to_be_bytes());
        let id = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(index as u16);
        ip[4..6].copy_from_slice(&id.to_be_bytes());
        ip[10..12].fill(0);
        let checksum = Sum::default().add_bytes(ip).checksum();
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());

        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let sequence = sequence.wrapping_add((index * self.segment_bytes) as u32);
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        if !is_last {
            tcp[13] &= !(FIN | PSH);
        }
        if index > 0 {
            tcp[13] &= !CWR;
        }
        tcp[16..18].fill(0);
        let length = (tcp.len() + part.len()) as u16;
        let pseudo = Sum::default().add_bytes(&ip[12..20]).add_word(u16::from(TCP)).add_word(length);
        let checksum = pseudo.add_bytes(tcp).add_bytes(payload).checksum();
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    }

    fn part(&self, index: usize) -> &'p [u8] {
        let start = (index * self.segment_bytes).min(self.payload.len());
        let end = (start + self.segment_bytes).min(self.payload.len());
        &self.payload[start..end]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(options: usize, flags: u8, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let header_bytes = 40 + options * 4;
        let mut packet = vec![0; header_bytes];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&((header_bytes + payload.len()) as u16).to_be_bytes());
        packet[4..6].copy_from_slice(&0xfffeu16.to_be_bytes());
        packet[6] = 0x40;
        packet[8] = 64;
        packet[9] = 6;
        packet[12..16].copy_from_slice(&[127, 80, 1, 2]);
        packet[16..20].copy_from_slice(&[127, 80, 3, 4]);
        packet[24..28].copy_from_slice(&sequence.to_be_bytes());
        packet[32] = ((5 + options) << 4) as u8;
        packet[33] = flags;
        packet.extend_from_slice(payload);
        packet
    }

    fn pieces(packet: &[u8], max_bytes: usize) -> Vec<Vec<u8>> {
        let cut = TcpCut::new(packet, max_bytes).unwrap();
        (0..cut.count())
            .map(|index| {
                let mut out = vec![0; cut.packet_bytes(index)];
                cut.write(index, &mut out);
                out
            })
            .collect()
    }

    /// The slow definition of RFC 1071.
    fn checksum_of(parts: &[&[u8]]) -> u16 {
        let bytes: Vec<u8> = parts.concat();
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn the_pieces_are_valid_and_carry_the_same_bytes(
            options in 0usize..=10,
            flags in any::<u8>().prop_map(|flags| flags & !URG),
            sequence in any::<u32>(),
            payload in prop::collection::vec(any::<u8>(), 0..3_000),
            max_bytes in 81usize..1_500,
        ) {
            let whole = packet(options, flags, sequence, &payload);
            let pieces = pieces(&whole, max_bytes);
            let header_bytes = 40 + options * 4;
            let mut together = Vec::new();
            for (index, piece) in pieces.iter().enumerate() {
                let (first, last) = (index == 0, index + 1 == pieces.len());
                prop_assert!(piece.len() <= max_bytes);
                prop_assert_eq!(usize::from(u16::from_be_bytes([piece[2], piece[3]])), piece.len());
                prop_assert_eq!(checksum_of(&[&piece[..20]]), 0xffff);
                let length = ((piece.len() - 20) as u16).to_be_bytes();
                prop_assert_eq!(checksum_of(&[&piece[12..20], &[0, 6], &length, &piece[20..]]), 0xffff);
                let at = u32::from_be_bytes([piece[24], piece[25], piece[26], piece[27]]);
                prop_assert_eq!(at, sequence.wrapping_add(together.len() as u32));
                let expected = flags & !(if last { 0 } else { FIN | PSH }) & !(if first { 0 } else { CWR });
                prop_assert_eq!(piece[33], expected);
                prop_assert_eq!(&piece[40..header_bytes], &whole[40..header_bytes]);
                together.extend_from_slice(&piece[header_bytes..]);
            }
            prop_assert_eq!(together, payload);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), max_bytes in 0usize..200) {
            if let Some(cut) = TcpCut::new(&bytes, max_bytes) {
                for index in 0..cut.count() {
                    cut.write(index, &mut vec![0; cut.packet_bytes(index)]);
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        let whole = packet(0, 0, 0, &[1; 100]);
        assert!(TcpCut::new(&whole, 40).is_none(), "no room for a payload");
        let alter = |at: usize, value: u8| {
            let mut altered = whole.clone();
            altered[at] = value;
            altered
        };
        assert!(TcpCut::new(&alter(9, 17), 100).is_none(), "not TCP");
        assert!(TcpCut::new(&alter(6, 0x20), 100).is_none(), "a fragment");
        assert!(TcpCut::new(&alter(33, URG), 100).is_none(), "urgent data");
        assert!(TcpCut::new(&alter(0, 0x46), 100).is_none(), "IP options");
    }
}
