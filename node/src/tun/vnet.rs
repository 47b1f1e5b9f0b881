//! The header in front of each packet that says what the sender of it left undone: `struct virtio_net_hdr`.
//!
//! ```text
//! flags u8 | gso type u8 | header bytes u16 | gso size u16 | checksum from u16 | checksum at u16     machine's order
//! ```
//!
//! Linux `include/uapi/linux/virtio_net.h`; virtio 1.2 §5.1.6.

use std::num::NonZeroU16;

use protocol::forward::Offload;
use protocol::wire::ip::UDP;

/// *Specified*: bytes of the header.
pub(super) const VNET_BYTES: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP_L4: u8 = 5;
/// Set beside the type when the first segment has CWR; the others then lose it, as our cut does anyway.
const GSO_ECN: u8 = 0x80;

/// Where the transport header begins in an IPv4 packet without options, and the checksums in it.
const CHECKSUM_FROM: u16 = 20;
const TCP_CHECKSUM_AT: u16 = 16;
const UDP_CHECKSUM_AT: u16 = 6;

/// The header of an ordinary packet: nothing is left undone.
pub(super) const PLAIN: [u8; VNET_BYTES] = [0; VNET_BYTES];

/// Reads what the kernel left undone. `None` for what it was not told that we take.
pub(super) fn decode(header: [u8; VNET_BYTES]) -> Option<Offload> {
    let [flags, kind, _, _, size0, size1, ..] = header;
    let segment_bytes = match kind & !GSO_ECN {
        GSO_NONE => None,
        GSO_TCPV4 | GSO_UDP_L4 => Some(NonZeroU16::new(u16::from_ne_bytes([size0, size1]))?),
        _ => return None,
    };
    Some(Offload { has_partial_checksum: flags & NEEDS_CHECKSUM != 0, segment_bytes })
}

/// Writes the header of a TCP or UDP super-packet with these headers, whose checksum is of the pseudo-header only.
pub(super) fn encode(headers: &[u8], segment_bytes: NonZeroU16) -> [u8; VNET_BYTES] {
    let (kind, checksum_at) =
        if is_udp(headers) { (GSO_UDP_L4, UDP_CHECKSUM_AT) } else { (GSO_TCPV4, TCP_CHECKSUM_AT) };
    let mut header = [NEEDS_CHECKSUM, kind, 0, 0, 0, 0, 0, 0, 0, 0];
    let words = [headers.len() as u16, segment_bytes.get(), CHECKSUM_FROM, checksum_at];
    for (to, from) in header[2..].chunks_exact_mut(2).zip(words) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    header
}

/// Whether the IPv4 packet behind these headers is UDP.
fn is_udp(headers: &[u8]) -> bool {
    headers.get(9) == Some(&UDP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let size = NonZeroU16::new(1_368);
        for protocol in [6, UDP] {
            let mut headers = [0; 52];
            headers[9] = protocol;
            let header = encode(&headers, size.unwrap());
            assert_eq!(decode(header), Some(Offload { has_partial_checksum: true, segment_bytes: size }));
        }
        assert_eq!(decode(PLAIN), Some(Offload::default()));
    }

    #[test]
    fn kinds_that_were_not_asked_for_are_refused() {
        assert_eq!(decode([0, 4, 0, 0, 1, 1, 0, 0, 0, 0]), None, "TCP over IPv6");
        assert_eq!(decode([0, GSO_TCPV4, 0, 0, 0, 0, 0, 0, 0, 0]), None, "segments of no bytes");
    }
}
