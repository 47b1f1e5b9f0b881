//! The first bytes of every datagram on the data socket (README §2–4).
//!
//! ```text
//! data     0x80 | 0 0 0 | receiver index u32 | counter u64 | ciphertext | tag 16
//! veiled   0x81 | class | epoch tag 2 | nonce 24 | [invite id 16, class join only] | ciphertext | tag 16
//! ```

use crate::identity::InviteId;

/// First byte of a data datagram.
pub const DATA: u8 = 0x80;
/// First byte of a veiled datagram.
pub const VEILED: u8 = 0x81;
/// First byte of a datagram that a fellow member passes on.
pub const RELAYED: u8 = 0x82;

/// Bytes before what is passed on.
pub const RELAY_HEADER_BYTES: usize = 8;

/// Bytes before the ciphertext of a data datagram.
pub const DATA_HEADER_BYTES: usize = 16;
/// Bytes that a data datagram is longer than its plaintext: header and tag.
pub const DATA_OVERHEAD_BYTES: usize = 32;

/// Writes the header of a data datagram into the first 16 bytes of `header`.
pub fn write_data_header(header: &mut [u8], receiver: u32, counter: u64) {
    header[..4].copy_from_slice(&[DATA, 0, 0, 0]);
    header[4..8].copy_from_slice(&receiver.to_be_bytes());
    header[8..16].copy_from_slice(&counter.to_be_bytes());
}

/// Reads the header of a data datagram: receiver index and counter. `None` if the datagram is not one, or too short
/// to hold header and tag is left to the opener.
#[must_use]
pub fn read_data_header(datagram: &[u8]) -> Option<(u32, u64)> {
    let header: &[u8; DATA_HEADER_BYTES] = datagram.first_chunk()?;
    let [DATA, 0, 0, 0, i0, i1, i2, i3, counter @ ..] = *header else { return None };
    Some((u32::from_be_bytes([i0, i1, i2, i3]), u64::from_be_bytes(counter)))
}

/// Writes the header of a relayed datagram into the first 8 bytes of `header`.
pub fn write_relay_header(header: &mut [u8], label: u32) {
    header[..4].copy_from_slice(&[RELAYED, 0, 0, 0]);
    header[4..RELAY_HEADER_BYTES].copy_from_slice(&label.to_be_bytes());
}

/// Reads the label of a relayed datagram. `None` if it is none, or what it carries is neither data nor veiled: nothing is
/// passed on twice.
#[must_use]
pub fn read_relay_header(datagram: &[u8]) -> Option<u32> {
    let [RELAYED, 0, 0, 0, label @ .., DATA | VEILED] =
        datagram.first_chunk::<{ RELAY_HEADER_BYTES + 1 }>()?
    else {
        return None;
    };
    Some(u32::from_be_bytes(*label.first_chunk()?))
}

/// What a veiled datagram carries, and under which key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A handshake between members, under the epoch's veil key.
    Member,
    /// A join, under the invite's join-veil key.
    Join(InviteId),
}

/// The clear part of a veiled datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VeilHeader {
    /// What it carries.
    pub class: Class,
    /// Two bytes derived from the epoch's secret.
    pub epoch_tag: [u8; 2],
    /// The XChaCha20-Poly1305 nonce, random.
    pub nonce: [u8; 24],
}

/// The epoch's tag of a veiled datagram; `None` if it is too short to have one.
#[must_use]
pub fn veil_tag(datagram: &[u8]) -> Option<[u8; 2]> {
    let [VEILED, _, t0, t1, ..] = datagram else { return None };
    Some([*t0, *t1])
}

impl VeilHeader {
    /// The bytes on the wire: 28, or 44 for a join.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (class, invite) = match &self.class {
            Class::Member => (0, None),
            Class::Join(invite) => (1, Some(invite)),
        };
        let mut bytes = vec![VEILED, class];
        bytes.extend_from_slice(&self.epoch_tag);
        bytes.extend_from_slice(&self.nonce);
        bytes.extend(invite.into_iter().flat_map(|invite| invite.0));
        bytes
    }

    /// Splits a datagram into its header, the header's bytes and the ciphertext with its tag; `None` if it is none.
    #[must_use]
    pub fn split(datagram: &[u8]) -> Option<(Self, &[u8], &[u8])> {
        let [VEILED, class, t0, t1, rest @ ..] = datagram else { return None };
        let (nonce, rest) = rest.split_first_chunk::<24>()?;
        let (class, sealed) = match class {
            0 => (Class::Member, rest),
            1 => {
                let (invite, sealed) = rest.split_first_chunk::<16>()?;
                (Class::Join(InviteId(*invite)), sealed)
            }
            _ => return None,
        };
        let header = &datagram[..datagram.len() - sealed.len()];
        Some((Self { class, epoch_tag: [*t0, *t1], nonce: *nonce }, header, sealed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_header_has_known_bytes() {
        let mut header = [0xff; 16];
        write_data_header(&mut header, 0x0102_0304, 0x0506);
        assert_eq!(header, [0x80, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 5, 6]);
        assert_eq!(read_data_header(&header), Some((0x0102_0304, 0x0506)));
    }

    #[test]
    fn a_reserved_byte_or_a_short_header_is_no_data() {
        let mut header = [0; 16];
        write_data_header(&mut header, 1, 2);
        for cut in 0..16 {
            assert_eq!(read_data_header(&header[..cut]), None);
        }
        for at in 0..4 {
            let mut altered = header;
            altered[at] ^= 1;
            assert_eq!(read_data_header(&altered), None);
        }
    }

    #[test]
    fn a_relay_header_has_known_bytes_and_carries_no_other() {
        let mut datagram = [0xff; 9];
        write_relay_header(&mut datagram, 0x0102_0304);
        for (inner, label) in
            [(DATA, Some(0x0102_0304)), (VEILED, Some(0x0102_0304)), (RELAYED, None), (1, None)]
        {
            datagram[8] = inner;
            assert_eq!(datagram, [0x82, 0, 0, 0, 1, 2, 3, 4, inner]);
            assert_eq!(read_relay_header(&datagram), label);
        }
        datagram[8] = DATA;
        for cut in 0..9 {
            assert_eq!(read_relay_header(&datagram[..cut]), None);
        }
        for bit in 0..72 {
            let mut altered = datagram;
            altered[bit / 8] ^= 1 << (bit % 8);
            let is_label = (32..64).contains(&bit) || altered[8] == VEILED;
            assert_eq!(read_relay_header(&altered).is_some(), is_label, "bit {bit}");
        }
    }

    #[test]
    fn veil_headers_round_trip_and_every_truncation_is_refused() {
        for class in [Class::Member, Class::Join(InviteId([9; 16]))] {
            let header = VeilHeader { class, epoch_tag: [1, 2], nonce: [3; 24] };
            let mut datagram = header.to_bytes();
            let clear = datagram.len();
            datagram.extend_from_slice(b"sealed");
            assert_eq!(VeilHeader::split(&datagram), Some((header, &datagram[..clear], &b"sealed"[..])));
            assert_eq!((veil_tag(&datagram), veil_tag(&datagram[..3])), (Some([1, 2]), None));
            for cut in 0..clear {
                assert_eq!(VeilHeader::split(&datagram[..cut]), None, "cut at {cut}");
            }
        }
        assert_eq!(VeilHeader::split(&[VEILED, 7, 0, 0]), None);
    }
}
