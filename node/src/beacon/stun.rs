//! The STUN responder: tells whoever asks over UDP from where its datagram came (RFC 8489, binding method only).
//!
//! ```text
//! request    00 01 | length u16 | 21 12 a4 42 | transaction 12 | attributes, not looked at        20 to 548 bytes
//! response   01 01 | length u16 | 21 12 a4 42 | transaction 12 | 00 20 | 00 08 | 00 family | port ⊕ | address ⊕
//!            32 bytes for IPv4, 44 for IPv6
//! ```
//!
//! In: datagrams. Out: one response to each well-formed binding request, within a rate; silence to everything else, errors
//! included, because an error response would be one more thing to make it send. The response has no attribute but the one.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::bucket::{Bucket, Rate};
use tokio::net::UdpSocket;
use tracing::debug;

use super::group::Group;
use super::metrics::Shared;

/// *Specified* (RFC 8489 §5, §14.2, §18).
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_RESPONSE: [u8; 2] = [0x01, 0x01];
const XOR_MAPPED_ADDRESS: [u8; 2] = [0x00, 0x20];
const FINGERPRINT: [u8; 2] = [0x80, 0x28];
const HEADER_BYTES: usize = 20;
/// *Specified* (RFC 8489 §6.1): what fits every path; a longer request is none.
const MAX_REQUEST_BYTES: usize = 548;
/// *Chosen*: answers to one network. A member asks when its address may have changed, and twice when it probes its NAT.
const GROUP_RATE: Rate = Rate { per_second: 50.0, burst: 200.0 };
/// *Chosen*: answers in all: 64 kB a second, so that a forged source is nobody's flood.
const TOTAL_RATE: Rate = Rate { per_second: 2_000.0, burst: 2_000.0 };
/// *Chosen*: networks whose rate is remembered; above it, only those are answered until others have been quiet.
const RATES_MAX: usize = 8_192;
/// Rest after a failed call, so that it does not spin the loop.
const PAUSE: Duration = Duration::from_millis(100);

/// How often is answered.
#[derive(Debug)]
struct Rates {
    total: Bucket,
    groups: BTreeMap<Group, Bucket>,
}

impl Rates {
    fn new() -> Self {
        Self { total: Bucket::new(TOTAL_RATE), groups: BTreeMap::new() }
    }

    fn allow(&mut self, ip: IpAddr, now: Instant) -> bool {
        let group = Group::of_ip(ip);
        if self.groups.len() >= RATES_MAX && !self.groups.contains_key(&group) {
            self.groups.retain(|_, bucket| !bucket.is_full(now));
            if self.groups.len() >= RATES_MAX {
                return false;
            }
        }
        // The network's first: what it may not have takes nothing from all.
        self.groups.entry(group).or_insert_with(|| Bucket::new(GROUP_RATE)).take(now) && self.total.take(now)
    }
}

/// Answers on `socket`, for ever.
pub(super) async fn serve(socket: UdpSocket, shared: Arc<Shared>) {
    let mut rates = Rates::new();
    // One more than the longest request, so that a longer one shows.
    let mut buffer = [0; MAX_REQUEST_BYTES + 1];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                debug!(%error, "the STUN socket cannot be read");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(response) = answer(buffer.get(..length).unwrap_or_default(), from) else {
            shared.stun_ignored.count();
            continue;
        };
        if !rates.allow(from.ip(), Instant::now()) {
            shared.stun_limited.count();
            continue;
        }
        // A socket whose buffer is full loses it; the asker asks again.
        if socket.try_send_to(&response, from).is_ok() {
            shared.stun_answered.count();
        }
    }
}

/// Binds the socket that [`serve`] answers on.
///
/// # Errors
/// What the kernel says.
pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None)?;
    if address.is_ipv6() {
        // So that 0.0.0.0 has the same port beside it.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// The response to the request in `datagram`, which came from `from`; `None` for anything else.
fn answer(datagram: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
    let transaction = transaction_of(datagram)?;
    let ip = from.ip().to_canonical();
    let port = from.port() ^ u16::from_be_bytes([COOKIE[0], COOKIE[1]]);
    let mask = [&COOKIE[..], &transaction].concat();
    let masked = |octets: &[u8]| -> Vec<u8> { octets.iter().zip(&mask).map(|(a, b)| a ^ b).collect() };
    let (family, address) = match ip {
        IpAddr::V4(ip) => (1, masked(&ip.octets())),
        IpAddr::V6(ip) => (2, masked(&ip.octets())),
    };
    let value = [&[0, family][..], &port.to_be_bytes(), &address].concat();
    let length = |bytes: usize| u16::try_from(bytes).map(u16::to_be_bytes).ok();
    let attribute = [&XOR_MAPPED_ADDRESS[..], &length(value.len())?, &value].concat();
    let header = [&BINDING_RESPONSE[..], &length(attribute.len())?, &COOKIE, &transaction].concat();
    Some([header, attribute].concat())
}

/// The transaction id of a well-formed binding request (RFC 8489 §6.3); its attributes are walked, and a fingerprint among
/// them must be right.
fn transaction_of(datagram: &[u8]) -> Option<[u8; 12]> {
    let (header, attributes) = datagram.split_first_chunk::<HEADER_BYTES>()?;
    let [k0, k1, l0, l1, c0, c1, c2, c3, transaction @ ..] = *header;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let is_binding = [k0, k1] == BINDING_REQUEST && [c0, c1, c2, c3] == COOKIE;
    if !is_binding || length != attributes.len() || datagram.len() > MAX_REQUEST_BYTES {
        return None;
    }
    let mut rest = attributes;
    while let Some(([t0, t1, l0, l1], tail)) = rest.split_first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        let (value, tail) = tail.split_at_checked(length.next_multiple_of(4))?;
        if [*t0, *t1] == FINGERPRINT {
            let before = datagram.get(..datagram.len() - rest.len())?;
            // The last attribute, or none (§14.7).
            if value != fingerprint(before).to_be_bytes() || !tail.is_empty() {
                return None;
            }
        }
        rest = tail;
    }
    rest.is_empty().then_some(transaction)
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
    /// The attribute XOR-MAPPED-ADDRESS of RFC 5769 §2.2: 192.0.2.1, port 32853.
    const MAPPED_V4: &str = "002000080001a147e112a643";
    /// That of §2.3: 2001:db8:1234:5678:11:2233:4455:6677, port 32853.
    const MAPPED_V6: &str = "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9";

    fn request() -> Vec<u8> {
        HEXLOWER.decode(REQUEST.as_bytes()).unwrap()
    }

    #[test]
    fn the_request_of_rfc_5769_gets_the_mapped_addresses_of_rfc_5769() {
        let transaction = "b7e7a701bc34d686fa87dfae";
        let v4 = answer(&request(), "192.0.2.1:32853".parse().unwrap()).unwrap();
        assert_eq!(HEXLOWER.encode(&v4), format!("0101000c2112a442{transaction}{MAPPED_V4}"));
        let v6 = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
        let v6 = answer(&request(), v6).unwrap();
        assert_eq!(HEXLOWER.encode(&v6), format!("010100182112a442{transaction}{MAPPED_V6}"));
        let inside = answer(&request(), "[::ffff:192.0.2.1]:32853".parse().unwrap()).unwrap();
        assert_eq!(inside, v4);
    }

    #[test]
    fn a_bare_request_is_answered_in_32_bytes() {
        let mut bare = request()[..20].to_vec();
        bare[2..4].copy_from_slice(&[0, 0]);
        assert_eq!(answer(&bare, "192.0.2.1:1".parse().unwrap()).unwrap().len(), 32);
    }

    #[test]
    fn truncated_and_flipped_requests_get_no_answer() {
        let (whole, from) = (request(), "192.0.2.1:1".parse().unwrap());
        for length in 0..whole.len() {
            assert!(answer(&whole[..length], from).is_none(), "{length} bytes");
        }
        // The fingerprint covers every bit; without it, or swallowed by a longer attribute, it is none.
        let heads = [20, 40, 48, 60, 76, 100].map(|at| at..at + 4);
        for byte in (0..whole.len()).filter(|byte| !heads.iter().any(|head| head.contains(byte))) {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[byte] ^= 1 << bit;
                assert!(answer(&flipped, from).is_none(), "byte {byte}, bit {bit}");
            }
        }
    }

    #[test]
    fn responses_indications_other_methods_and_long_requests_get_no_answer() {
        let from = "192.0.2.1:1".parse().unwrap();
        for kind in [[0x01, 0x01], [0x01, 0x11], [0x00, 0x11], [0x00, 0x03], [0x40, 0x01], [0xff, 0xff]] {
            let mut other = request()[..20].to_vec();
            other[..4].copy_from_slice(&[kind[0], kind[1], 0, 0]);
            assert!(answer(&other, from).is_none(), "{kind:?}");
        }
        let mut long = request()[..20].to_vec();
        // One unknown optional attribute that fills the rest.
        long.extend([0x80, 0x22, 0x02, 0x10]);
        long.resize(20 + 4 + 528, 0);
        long[2..4].copy_from_slice(&532_u16.to_be_bytes());
        assert!(answer(&long, from).is_none(), "552 bytes");
    }

    #[test]
    fn a_network_and_all_together_are_answered_within_their_rates() {
        let (mut rates, now) = (Rates::new(), Instant::now());
        let mut answered = |ip: &str| (0..1_000).filter(|_| rates.allow(ip.parse().unwrap(), now)).count();
        assert_eq!(answered("192.0.2.1"), 200);
        assert_eq!(answered("192.0.2.2"), 0);
        let others: usize = (0..20).map(|number| answered(&format!("198.51.{number}.1"))).sum();
        assert_eq!(others, 1_800);
        let later = now + Duration::from_secs(1);
        assert_eq!((0..1_000).filter(|_| rates.allow("192.0.2.1".parse().unwrap(), later)).count(), 50);
    }
}
