//! STUN, the binding method only (RFC 8489): from where a datagram of this socket arrives elsewhere.
//!
//! ```text
//! request    00 01 | length u16 | 21 12 a4 42 | transaction 12 | attributes        20 to 548 bytes; none are sent
//! response   01 01 | length u16 | 21 12 a4 42 | transaction 12 | 00 20 | 00 08 | 00 family | port ⊕ | address ⊕
//!            32 bytes for IPv4, 44 for IPv6; others' may have more attributes
//! ```
//!
//! Nothing is authenticated: what a response says is worth trying, no more.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// *Specified* (RFC 8489 §5, §14.2, §18).
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_RESPONSE: [u8; 2] = [0x01, 0x01];
const MAPPED_ADDRESS: u16 = 0x0001;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const FINGERPRINT: u16 = 0x8028;
/// Attributes below this must be understood (RFC 8489 §14).
const FIRST_OPTIONAL: u16 = 0x8000;
const HEADER_BYTES: usize = 20;
/// *Specified* (RFC 8489 §6.1): what fits every path; whatever is longer is none.
pub const MAX_MESSAGE_BYTES: usize = 548;
/// The first byte of a datagram that may be STUN is below this (specified: README §1).
pub const FIRST_BYTES: std::ops::Range<u8> = 0x00..0x40;

/// What request and response have in common; random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransactionId(pub [u8; 12]);

/// A binding request without attributes.
#[must_use]
pub fn request(transaction: &TransactionId) -> Vec<u8> {
    [&BINDING_REQUEST[..], &[0, 0], &COOKIE, &transaction.0].concat()
}

/// The response to a request that came from `observed`.
#[must_use]
pub fn response(transaction: &TransactionId, observed: SocketAddr) -> Vec<u8> {
    let mask = mask(transaction);
    let masked = |octets: &[u8]| -> Vec<u8> { octets.iter().zip(mask.clone()).map(|(a, b)| a ^ b).collect() };
    let (family, address) = match observed.ip().to_canonical() {
        IpAddr::V4(ip) => (1, masked(&ip.octets())),
        IpAddr::V6(ip) => (2, masked(&ip.octets())),
    };
    let value = [&[0, family][..], &masked(&observed.port().to_be_bytes()), &address].concat();
    // At most 20, and 4 more.
    let length = |bytes: usize| (bytes as u16).to_be_bytes();
    let attribute = [&XOR_MAPPED_ADDRESS.to_be_bytes()[..], &length(value.len()), &value].concat();
    [&BINDING_RESPONSE[..], &length(attribute.len()), &COOKIE, &transaction.0, &attribute].concat()
}

/// The transaction of a well-formed binding request (§6.3); its attributes are walked, not looked at, but for a
/// fingerprint, which must be right.
#[must_use]
pub fn read_request(datagram: &[u8]) -> Option<TransactionId> {
    let (transaction, mut attributes) = Attributes::split(datagram, BINDING_REQUEST)?;
    attributes.by_ref().for_each(drop);
    attributes.is_whole().then_some(transaction)
}

/// The transaction of a well-formed binding response, and the address that it names; `None` for an error, for what names
/// no address of one host, and for an attribute that must be understood and is not (§6.3.3).
#[must_use]
pub fn read_response(datagram: &[u8]) -> Option<(TransactionId, SocketAddr)> {
    let (transaction, mut attributes) = Attributes::split(datagram, BINDING_RESPONSE)?;
    let mut observed = None;
    for (kind, value) in attributes.by_ref() {
        match kind {
            XOR_MAPPED_ADDRESS if observed.is_none() => observed = Some(unmask(value, &transaction)?),
            XOR_MAPPED_ADDRESS | MAPPED_ADDRESS | MESSAGE_INTEGRITY | MESSAGE_INTEGRITY_SHA256 => {}
            FIRST_OPTIONAL.. => {}
            _ => return None,
        }
    }
    let observed = observed.filter(|observed| observed.port() != 0)?;
    attributes.is_whole().then_some((transaction, observed))
}

/// Says whether a datagram has what every STUN message has, without a look at its attributes.
#[must_use]
pub fn is_message(datagram: &[u8]) -> bool {
    (HEADER_BYTES..=MAX_MESSAGE_BYTES).contains(&datagram.len())
        && datagram.first().is_some_and(|first| FIRST_BYTES.contains(first))
        && datagram.get(4..8) == Some(&COOKIE[..])
}

/// The attributes of a message, one after the other.
struct Attributes<'d> {
    message: &'d [u8],
    rest: &'d [u8],
    is_broken: bool,
}

impl<'d> Attributes<'d> {
    fn split(datagram: &'d [u8], wanted: [u8; 2]) -> Option<(TransactionId, Self)> {
        let (header, rest) = datagram.split_first_chunk::<HEADER_BYTES>()?;
        let [k0, k1, l0, l1, _, _, _, _, transaction @ ..] = *header;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let is_wanted = is_message(datagram) && [k0, k1] == wanted && length == rest.len();
        let attributes = Self { message: datagram, rest, is_broken: false };
        is_wanted.then_some((TransactionId(transaction), attributes))
    }

    /// Nothing is left over, and a fingerprint was right.
    fn is_whole(&self) -> bool {
        !self.is_broken && self.rest.is_empty()
    }

    fn read(&mut self) -> Option<(u16, &'d [u8])> {
        let ([t0, t1, l0, l1], tail) = self.rest.split_first_chunk::<4>()?;
        let (kind, length) = (u16::from_be_bytes([*t0, *t1]), usize::from(u16::from_be_bytes([*l0, *l1])));
        let (padded, tail) = tail.split_at_checked(length.next_multiple_of(4))?;
        let value = padded.get(..length)?;
        if kind == FINGERPRINT {
            let before = self.message.get(..self.message.len() - self.rest.len())?;
            // The last attribute, or none (§14.7).
            let is_right = value == fingerprint(before).to_be_bytes() && tail.is_empty();
            is_right.then_some(())?;
        }
        self.rest = tail;
        Some((kind, value))
    }
}

impl<'d> Iterator for Attributes<'d> {
    type Item = (u16, &'d [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_broken || self.rest.is_empty() {
            return None;
        }
        let attribute = self.read();
        self.is_broken = attribute.is_none();
        attribute
    }
}

fn mask(transaction: &TransactionId) -> impl Iterator<Item = u8> + Clone {
    COOKIE.into_iter().chain(transaction.0)
}

fn unmask(value: &[u8], transaction: &TransactionId) -> Option<SocketAddr> {
    let ([_, family, p0, p1], address) = value.split_first_chunk::<4>()?;
    let unmasked: Vec<u8> = address.iter().zip(mask(transaction)).map(|(a, b)| a ^ b).collect();
    let port = u16::from_be_bytes([p0 ^ COOKIE[0], p1 ^ COOKIE[1]]);
    let ip = match (family, address.len()) {
        (1, 4) => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(unmasked).ok()?)),
        (2, 16) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(unmasked).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

/// The value of FINGERPRINT behind `message`, whose length counts it already: CRC-32 of ISO 3309, xored with "STUN" (§14.7).
fn fingerprint(message: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in message {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc ^ 0x5354_554e
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    /// RFC 5769 §2.1, with its attributes: software, priority, ICE, username, integrity, fingerprint.
    const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae\
        802200105354554e207465737420636c69656e74\
        002400046e0001ff80290008932ff9b151263b36\
        000600096576746a3a68367659202020\
        000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2\
        80280004e57a3bcf";
    /// RFC 5769 §2.2: software, the address 192.0.2.1 port 32853, integrity, fingerprint.
    const RESPONSE_V4: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae\
        8022000b7465737420766563746f7220\
        002000080001a147e112a643\
        000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7\
        80280004c07d4c96";
    /// RFC 5769 §2.3: the same with 2001:db8:1234:5678:11:2233:4455:6677.
    const RESPONSE_V6: &str = "010100482112a442b7e7a701bc34d686fa87dfae\
        8022000b7465737420766563746f7220\
        002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9\
        00080014a382954e4be67bf11784c97c8292c275bfe3ed41\
        80280004c8fb0b4c";
    const TRANSACTION: TransactionId =
        TransactionId([0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae]);

    fn bytes(text: &str) -> Vec<u8> {
        HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    fn v4() -> SocketAddr {
        "192.0.2.1:32853".parse().unwrap()
    }

    fn v6() -> SocketAddr {
        "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap()
    }

    #[test]
    fn the_messages_of_rfc_5769_are_read() {
        assert_eq!(read_request(&bytes(REQUEST)), Some(TRANSACTION));
        assert_eq!(read_response(&bytes(RESPONSE_V4)), Some((TRANSACTION, v4())));
        assert_eq!(read_response(&bytes(RESPONSE_V6)), Some((TRANSACTION, v6())));
    }

    #[test]
    fn a_response_names_the_addresses_of_rfc_5769() {
        let mapped = |text: &str| {
            text[text.find("00200").unwrap()..][..if text == RESPONSE_V4 { 24 } else { 48 }].to_owned()
        };
        for (address, text, length) in [(v4(), RESPONSE_V4, "0c"), (v6(), RESPONSE_V6, "18")] {
            let made = response(&TRANSACTION, address);
            let header = format!("010100{length}2112a442b7e7a701bc34d686fa87dfae");
            assert_eq!(HEXLOWER.encode(&made), header + &mapped(text));
        }
        let inside = "[::ffff:192.0.2.1]:32853".parse().unwrap();
        assert_eq!(response(&TRANSACTION, inside), response(&TRANSACTION, v4()));
    }

    #[test]
    fn a_request_and_its_response_round_trip() {
        let asked = request(&TRANSACTION);
        assert_eq!((asked.len(), read_request(&asked)), (20, Some(TRANSACTION)));
        for address in [v4(), v6()] {
            assert_eq!(read_response(&response(&TRANSACTION, address)), Some((TRANSACTION, address)));
        }
    }

    #[test]
    fn truncated_and_flipped_messages_are_none() {
        for whole in [bytes(REQUEST), bytes(RESPONSE_V4), bytes(RESPONSE_V6)] {
            for length in 0..whole.len() {
                let cut = &whole[..length];
                assert!(read_request(cut).is_none() && read_response(cut).is_none(), "{length} bytes");
            }
            // The fingerprint covers every bit, while it is one: these make the attribute before it reach to the end.
            let swallows = [411, 507, 509, 635];
            let fingerprint_kind = (whole.len() - 8) * 8..(whole.len() - 6) * 8;
            let is_covered = |bit: &usize| !fingerprint_kind.contains(bit) && !swallows.contains(bit);
            for bit in (0..whole.len() * 8).filter(is_covered) {
                let mut flipped = whole.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let read = read_request(&flipped).is_some() || read_response(&flipped).is_some();
                assert!(!read, "bit {bit}");
            }
        }
    }

    #[test]
    fn errors_indications_port_zero_and_what_must_be_understood_are_none() {
        let answer = response(&TRANSACTION, v4());
        for kind in [[0x01, 0x11], [0x00, 0x11], [0x01, 0x03], [0x00, 0x01], [0x41, 0x01]] {
            let mut other = answer.clone();
            other[..2].copy_from_slice(&kind);
            assert_eq!(read_response(&other), None, "{kind:?}");
        }
        assert_eq!(read_response(&response(&TRANSACTION, "192.0.2.1:0".parse().unwrap())), None);
        let mut more = answer;
        more[3] += 4;
        more.extend([0x00, 0x21, 0, 0]);
        assert_eq!(read_response(&more), None, "an attribute that is not known and must be");
        more[32] = 0x80;
        assert_eq!(read_response(&more), Some((TRANSACTION, v4())));
        let mut bare = request(&TRANSACTION);
        bare[..2].copy_from_slice(&BINDING_RESPONSE);
        assert_eq!(read_response(&bare), None, "no address");
    }

    #[test]
    fn a_message_of_more_than_548_bytes_is_none() {
        for (length, is_read) in [(524_u16, true), (528, false)] {
            let mut long = request(&TRANSACTION);
            long.extend([0x80, 0x22]);
            long.extend(length.to_be_bytes());
            long.resize(24 + usize::from(length), 0);
            long[2..4].copy_from_slice(&(length + 4).to_be_bytes());
            assert_eq!(read_request(&long).is_some(), is_read, "{} bytes", long.len());
        }
    }
}
