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
mod tests;
