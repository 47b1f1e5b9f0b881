//! Cuts an IPv4 packet that allows it into fragments (RFC 791 §3.2).

use crate::wire::checksum::Sum;
use crate::wire::ip::HEADER_BYTES;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// A packet, seen as the fragments it is cut into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragments<'p> {
    header: &'p [u8; HEADER_BYTES],
    payload: &'p [u8],
    part_bytes: usize,
}

impl<'p> Fragments<'p> {
    /// Looks at `packet`, a whole IPv4 packet without options, to be cut to `max_bytes`, header included. `None` if it
    /// may not be cut (DF), or if `max_bytes` leaves no room.
    pub(super) fn new(packet: &'p [u8], max_bytes: usize) -> Option<Self> {
        let (header, payload) = packet.split_first_chunk()?;
        let part_bytes = max_bytes.checked_sub(HEADER_BYTES)? / 8 * 8;
        let fragments = Self { header, payload, part_bytes };
        let may_cut = fragments.flags_and_offset() & DONT_FRAGMENT == 0;
        (may_cut && part_bytes > 0).then_some(fragments)
    }

    /// How many come out; at least 1.
    pub(super) fn count(&self) -> usize {
        self.payload.len().div_ceil(self.part_bytes).max(1)
    }

    /// Bytes of fragment number `index`, from 0.
    pub(super) fn bytes(&self, index: usize) -> usize {
        HEADER_BYTES + self.part(index).len()
    }

    /// Writes fragment number `index` into `out`, which is exactly [`Fragments::bytes`] long.
    pub(super) fn write(&self, index: usize, out: &mut [u8]) {
        let part = self.part(index);
        let (header, payload) = out.split_at_mut(HEADER_BYTES);
        header.copy_from_slice(self.header);
        payload.copy_from_slice(part);
        header[2..4].copy_from_slice(&((HEADER_BYTES + part.len()) as u16).to_be_bytes());
        let word = self.flags_and_offset();
        let offset = (word & OFFSET_MASK) + (index * self.part_bytes / 8) as u16;
        let is_last = index + 1 == self.count() && word & MORE_FRAGMENTS == 0;
        let word = (offset & OFFSET_MASK) | if is_last { 0 } else { MORE_FRAGMENTS };
        header[6..8].copy_from_slice(&word.to_be_bytes());
        header[10..12].fill(0);
        let checksum = Sum::default().add_bytes(header).checksum();
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    fn flags_and_offset(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    fn part(&self, index: usize) -> &'p [u8] {
        let start = (index * self.part_bytes).min(self.payload.len());
        let end = (start + self.part_bytes).min(self.payload.len());
        &self.payload[start..end]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::ip::Ipv4;

    fn packet(flags: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; HEADER_BYTES];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&((HEADER_BYTES + payload.len()) as u16).to_be_bytes());
        packet[6..8].copy_from_slice(&flags.to_be_bytes());
        packet[9] = 17;
        packet.extend_from_slice(payload);
        packet
    }

    proptest! {
        #[test]
        fn the_fragments_put_together_are_the_packet(
            payload in prop::collection::vec(any::<u8>(), 0..4_000),
            max_bytes in 28usize..1_500,
            more in any::<bool>(),
            offset in 0u16..1_000,
        ) {
            let whole = packet(offset | if more { MORE_FRAGMENTS } else { 0 }, &payload);
            let fragments = Fragments::new(&whole, max_bytes).unwrap();
            let mut together = Vec::new();
            for index in 0..fragments.count() {
                let mut out = vec![0; fragments.bytes(index)];
                fragments.write(index, &mut out);
                prop_assert!(out.len() <= max_bytes);
                prop_assert_eq!(Sum::default().add_bytes(&out[..HEADER_BYTES]).checksum(), 0);
                let view = Ipv4::parse(&out).unwrap();
                prop_assert_eq!(view.fragment_offset_bytes(), usize::from(offset) * 8 + together.len());
                prop_assert_eq!(view.more_fragments(), more || index + 1 < fragments.count());
                together.extend_from_slice(view.payload());
            }
            prop_assert_eq!(together, payload);
        }
    }

    #[test]
    fn a_packet_that_may_not_be_cut_is_not() {
        assert!(Fragments::new(&packet(DONT_FRAGMENT, &[0; 100]), 60).is_none());
        assert!(Fragments::new(&packet(0, &[0; 100]), 27).is_none());
    }
}
