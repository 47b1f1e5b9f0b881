//! The Internet checksum: over whole bytes, and its change when a field changes.
//!
//! In: bytes in network order, or a field's old and new value. Out: the checksum field's value, in the
//! reader's order. RFC 1071 (the sum), RFC 1624 equation 3 (the update).
//!
//! A ones' complement sum has two zeros. Counted from 0 upward and folded, it is `0x0000` only if every word
//! was; so a header with any bit set has exactly one checksum, never `0xffff`, and an update from it gives the
//! bytes that a full count would. UDP alone sends `0xffff` for `0x0000`, which there means "none" (RFC 768).

use std::net::Ipv4Addr;

/// A ones' complement sum that is being counted: of bytes, or of the changes to them.
///
/// Holds more than 2^32 additions without overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes that start at an even place of what is summed; an odd last byte counts as if a zero followed.
    #[must_use]
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        let mut last = [0; 4];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        // In the machine's order, turned once at the end (RFC 1071 §2 B); `wrapping_add` because a check for
        // overflow would keep the loop from being vectorised, and no slice has 2^32 words.
        let sum = words.iter().fold(u64::from(u32::from_ne_bytes(last)), |sum, word| {
            sum.wrapping_add(u64::from(u32::from_ne_bytes(*word)))
        });
        self.add_word(u16::from_be_bytes(fold(sum).to_ne_bytes()))
    }

    /// Adds one 16-bit word.
    #[must_use]
    pub fn add_word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word))
    }

    /// Adds the pseudo-header of TCP and UDP (RFC 9293 §3.1); `length_bytes` is of transport header and data.
    #[must_use]
    pub fn add_pseudo_header(
        self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: u8,
        length_bytes: u16,
    ) -> Self {
        // 2^16 counts as 1, so that a whole address can be added like a word.
        let addresses = u64::from(source.to_bits()) + u64::from(destination.to_bits());
        Self(self.0 + addresses).add_word(u16::from(protocol)).add_word(length_bytes)
    }

    /// Counts that the word `old` becomes `new`.
    #[must_use]
    pub fn replace_word(self, old: u16, new: u16) -> Self {
        self.add_word(!old).add_word(new)
    }

    /// Counts that the address `old` becomes `new`.
    #[must_use]
    #[inline]
    pub fn replace_address(self, old: Ipv4Addr, new: Ipv4Addr) -> Self {
        Self(self.0 + u64::from(!old.to_bits()) + u64::from(new.to_bits()))
    }

    /// The checksum over what was added.
    #[must_use]
    pub fn checksum(self) -> u16 {
        !fold(self.0)
    }

    /// What a field that held `checksum` holds after the counted changes.
    #[must_use]
    #[inline]
    pub fn update(self, checksum: u16) -> u16 {
        self.add_word(!checksum).checksum()
    }
}

/// Adds the carries back in until 16 bits are left.
#[inline]
fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::ip::samples::counted;

    #[test]
    fn the_example_of_rfc_1071_gives_its_sum() {
        let sum = Sum::default().add_bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(!sum.checksum(), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_does_not_give_minus_zero() {
        assert_eq!(Sum::default().replace_word(0x5555, 0x3285).update(0xdd2f), 0x0000);
    }

    #[test]
    fn no_bytes_sum_to_zero() {
        assert_eq!(Sum::default().add_bytes(&[]).checksum(), 0xffff);
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Sum::default().add_bytes(&bytes).checksum(), counted(&bytes));
        }

        #[test]
        fn parts_sum_like_the_whole(bytes in proptest::collection::vec(any::<u8>(), 0..99), cut in 0usize..50) {
            let (head, tail) = bytes.split_at((cut * 2).min(bytes.len() & !1));
            prop_assert_eq!(Sum::default().add_bytes(head).add_bytes(tail).checksum(), counted(&bytes));
        }

        #[test]
        fn an_update_gives_what_a_full_count_gives(
            mut bytes in proptest::collection::vec(any::<u8>(), 8..99),
            new: [u8; 4],
            at in 0usize..50,
        ) {
            bytes[0] = 1; // never all zero, as no header is
            let at = 2 + (at * 2) % ((bytes.len() - 6) & !1).max(2);
            let before = counted(&bytes);
            let old: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
            bytes[at..at + 4].copy_from_slice(&new);
            let updated = Sum::default().replace_address(old.into(), new.into()).update(before);
            prop_assert_eq!(updated, counted(&bytes));
        }
    }
}
