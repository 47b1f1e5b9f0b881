//! What a beacon speaks beside libp2p's own protocols: names, default ports, and the bytes of `/vpi/time/1` and `/vpi/carry/1`.
//!
//! ```text
//! /vpi/time/1   member: opens a stream, writes nothing
//!               beacon: unix time u64, milliseconds | STUN port u16, 0 = none      (big-endian), then closes
//! /vpi/carry/1  member: opens a stream | token 32
//!               beacon: 1 held, if it is the first with this token | 2 joined, once the other is there, then frames either way
//! ```
//!
//! Beacon and member read the same constants from here (node/README, Beacons).

use std::net::SocketAddr;
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, StreamProtocol};

/// Kademlia among beacons; members are its clients.
pub(crate) const KAD: StreamProtocol = StreamProtocol::new("/vpi/kad/1");
/// The beacon's clock, and the port of its STUN responder.
pub(crate) const TIME: StreamProtocol = StreamProtocol::new("/vpi/time/1");
/// Streams that carry packets between two members.
pub(crate) const CARRY: StreamProtocol = StreamProtocol::new("/vpi/carry/1");
/// Bytes of the token by which the two ends of a stream are known.
pub(crate) const TOKEN_BYTES: usize = 32;
/// What a beacon writes to an end that waits for the other, and to both when they are joined.
pub(crate) const HELD: u8 = 1;
pub(crate) const JOINED: u8 = 2;
/// How long a beacon holds one end. *Chosen*: the other is told over a pipe, and may have to connect to the beacon.
pub(crate) const HOLD_FOR: Duration = Duration::from_secs(10);

/// What identify tells as the protocol's version, on both sides.
pub(crate) const IDENTIFY_VERSION: &str = "/vpi/1";
/// What identify tells as the program: no version, so that it tells nobody apart.
pub(crate) const AGENT: &str = "vpi";

/// *Chosen*: where a beacon listens for TCP and QUIC unless it is told otherwise; two above the node's port of
/// announcements, and not registered for anything.
pub(crate) const PORT: u16 = 41_415;
/// *Specified* (RFC 8489 §12): the port of STUN. A member asks it there as long as it has not been told another.
pub(crate) const STUN_PORT: u16 = 3_478;

/// Copies of one record: as many beacons as are closest to its key. *Specified* for all, or readers would look elsewhere
/// than writers wrote (Kademlia's k).
pub(crate) const REPLICATION: usize = 20;

/// Length of an answer of `/vpi/time/1`.
pub(crate) const TIME_BYTES: usize = 10;

/// One answer of `/vpi/time/1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeAnswer {
    /// Unix time of the beacon, in milliseconds.
    pub(crate) wall_ms: u64,
    /// UDP port of its STUN responder, at the same address; `None` if it has none.
    pub(crate) stun: Option<u16>,
}

impl TimeAnswer {
    /// The bytes of the answer.
    pub(crate) fn encode(self) -> [u8; TIME_BYTES] {
        let mut bytes = [0; TIME_BYTES];
        bytes[..8].copy_from_slice(&self.wall_ms.to_be_bytes());
        bytes[8..].copy_from_slice(&self.stun.unwrap_or(0).to_be_bytes());
        bytes
    }

    /// Reads an answer, whole.
    pub(crate) fn decode(bytes: &[u8; TIME_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, high, low] = *bytes;
        let stun = u16::from_be_bytes([high, low]);
        Self { wall_ms: u64::from_be_bytes([a, b, c, d, e, f, g, h]), stun: (stun != 0).then_some(stun) }
    }
}

/// The address and port of a TCP or QUIC multiaddress that begins with a bare address; names are not asked for.
pub(crate) fn socket_of(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_back_and_has_known_bytes() {
        let answer = TimeAnswer { wall_ms: 0x0102_0304_0506_0708, stun: Some(3_478) };
        let bytes = answer.encode();
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 0x0d, 0x96]);
        assert_eq!(TimeAnswer::decode(&bytes), answer);
        let without = TimeAnswer { wall_ms: u64::MAX, stun: None };
        assert_eq!(TimeAnswer::decode(&without.encode()), without);
    }

    #[test]
    fn a_bare_address_is_read_and_a_name_is_not() {
        let read = |text: &str| socket_of(&text.parse().unwrap()).map(|socket| socket.to_string());
        assert_eq!(read("/ip4/192.0.2.1/tcp/41415").as_deref(), Some("192.0.2.1:41415"));
        assert_eq!(read("/ip6/2001:db8::1/udp/9/quic-v1").as_deref(), Some("[2001:db8::1]:9"));
        assert_eq!(read("/dns4/example.org/tcp/41415"), None);
        assert_eq!(read("/p2p-circuit"), None);
    }
}
