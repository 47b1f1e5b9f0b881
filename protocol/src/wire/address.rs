//! Addresses inside in-session messages (README §8): as short as their family allows.
//!
//! ```text
//! family u8: 4, 6; + 0x10 reflexive | address 4 or 16 | port u16        7 or 19 bytes
//! ```
//!
//! One address has one form: no port 0, and none of IPv4 in the form of IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::message::{MessageError, Reader};

/// Bytes of the longest address.
pub(super) const MAX_ADDRESS_BYTES: usize = 19;
/// The bit in the family that says [`Kind::Reflexive`].
const REFLEXIVE: u8 = 0x10;

/// How a device knows that it may be reached at an address (RFC 8445 §5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It is one of its own, or its owner named it.
    Host,
    /// Others see its datagrams come from there.
    Reflexive,
}

/// An address at which a device may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The address.
    pub address: SocketAddr,
    /// Where it is from.
    pub kind: Kind,
}

/// Says whether everybody can send to an address, as far as it is one of IPv4; those for documentation, which are nobody's, count as such.
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    let IpAddr::V4(ip) = ip.to_canonical() else { return false };
    let [a, b, _, _] = ip.octets();
    // RFC 6598, shared by a provider's customers; RFC 1112, reserved.
    let is_shared = a == 100 && (64..128).contains(&b);
    let is_here = ip.is_unspecified() || ip.is_loopback() || ip.is_link_local() || ip.is_private();
    !(is_here || is_shared || a == 0 || ip.is_multicast() || a >= 240)
}

/// Appends a candidate.
pub(super) fn put(out: &mut Vec<u8>, candidate: &Candidate) {
    let flag = match candidate.kind {
        Kind::Host => 0,
        Kind::Reflexive => REFLEXIVE,
    };
    match candidate.address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            out.push(4 | flag);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6 | flag);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&candidate.address.port().to_be_bytes());
}

/// Reads a candidate.
pub(super) fn read(reader: &mut Reader<'_>) -> Result<Candidate, MessageError> {
    let family = reader.u8()?;
    let ip = match family & !REFLEXIVE {
        4 => IpAddr::V4(Ipv4Addr::from(reader.array::<4>()?)),
        6 => IpAddr::V6(Ipv6Addr::from(reader.array::<16>()?)),
        _ => return Err(MessageError::Malformed),
    };
    let kind = if family & REFLEXIVE == 0 { Kind::Host } else { Kind::Reflexive };
    let port = reader.u16()?;
    if port == 0 || ip.to_canonical() != ip {
        return Err(MessageError::Malformed);
    }
    Ok(Candidate { address: SocketAddr::new(ip, port), kind })
}
