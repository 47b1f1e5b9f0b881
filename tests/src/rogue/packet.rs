//! IPv4 packets as no application makes them, with right checksums unless a test writes over them.

use std::net::Ipv4Addr;

/// IP protocol numbers.
pub const ICMP: u8 = 1;
#[allow(missing_docs, reason = "as above")]
pub const TCP: u8 = 6;
#[allow(missing_docs, reason = "as above")]
pub const UDP: u8 = 17;
/// The flag *more fragments*, in the field that [`ipv4`] takes.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// ICMP destination unreachable.
pub const UNREACHABLE: u8 = 3;

/// Both ends of a packet.
pub type Ends = (Ipv4Addr, Ipv4Addr);

/// A packet without options; `fragment` is the field of flags and offset (in units of 8 bytes).
#[must_use]
pub fn ipv4(protocol: u8, ends: Ends, fragment: u16, payload: &[u8]) -> Vec<u8> {
    with_options(protocol, ends, fragment, &[], payload)
}

/// A packet with `options`, whose length must be a multiple of 4.
#[must_use]
pub fn with_options(
    protocol: u8,
    (source, destination): Ends,
    fragment: u16,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).unwrap_or(u8::MAX) & 0x0f;
    let total = u16::try_from(20 + options.len() + payload.len()).unwrap_or(u16::MAX);
    let mut header = vec![0x40 | words, 0];
    header.extend(total.to_be_bytes());
    header.extend([0x1d, 0x0c]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    header.extend(options);
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(payload);
    header
}

/// A UDP header and its payload, as [`ipv4`] takes it; without a checksum.
#[must_use]
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::new();
    for field in [source, destination, length, 0] {
        bytes.extend(field.to_be_bytes());
    }
    bytes.extend(payload);
    bytes
}

/// A TCP SYN from `source` to `destination`, with `ends` for its checksum.
#[must_use]
pub fn syn(ends: Ends, source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    let pseudo = [&ends.0.octets()[..], &ends.1.octets(), &[0, TCP, 0, 20]].concat();
    let sum = checksum(&[&pseudo, &bytes]);
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// An ICMP message: type, code, the four bytes behind the checksum zero, then `body`.
#[must_use]
pub fn icmp(kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0, 0, 0, 0, 0];
    bytes.extend(body);
    let sum = checksum(&[&bytes]);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// RFC 1071; each part of even length but the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 =
        words.map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_and_an_icmp_message_sum_up_to_nothing() {
        let ends = (Ipv4Addr::new(127, 80, 0, 1), Ipv4Addr::LOCALHOST);
        let packet = ipv4(ICMP, ends, 0, &icmp(8, 0, b"odd"));
        assert_eq!((checksum(&[&packet[..20]]), checksum(&[&packet[20..]])), (0, 0));
    }
}
