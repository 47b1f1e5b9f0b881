//! The body of a LAN announcement (README §4, *Announcements*): who is here, and at which addresses.
//!
//! ```text
//! device key 32 | count u8 ≤ 8 | 8 × ( family u8: 4, 6 | address 16 | port u16 )        185 bytes, always
//! ```
//!
//! An IPv4 address stands in the first 4 of its 16 bytes; whatever is not used is zero.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::identity::DeviceId;

/// Addresses in one announcement (specified: as many as a path tries).
pub const MAX_ADDRESSES: usize = 8;
/// Bytes of one address: family, address, port.
const SLOT_BYTES: usize = 19;
/// Bytes of every body (specified): announcements of all nodes look alike.
pub const BODY_BYTES: usize = 32 + 1 + MAX_ADDRESSES * SLOT_BYTES;

/// Who is on this network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The device that says it is here.
    pub device: DeviceId,
    /// Where it is, the best first; at most 8.
    pub addresses: Vec<SocketAddr>,
}

impl Announcement {
    /// The body; what is beyond 8 addresses is left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let addresses = self.addresses.iter().take(MAX_ADDRESSES);
        let mut body = self.device.0.to_vec();
        body.push(addresses.len() as u8);
        for address in addresses {
            let (family, bytes) = match address.ip() {
                IpAddr::V4(v4) => {
                    let mut bytes = [0; 16];
                    bytes[..4].copy_from_slice(&v4.octets());
                    (4, bytes)
                }
                IpAddr::V6(v6) => (6, v6.octets()),
            };
            body.push(family);
            body.extend_from_slice(&bytes);
            body.extend_from_slice(&address.port().to_be_bytes());
        }
        body.resize(BODY_BYTES, 0);
        body
    }

    /// Reads a body; `None` unless it is exactly what [`Announcement::encode`] writes.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<Self> {
        let (device, rest) = body.split_first_chunk::<32>()?;
        let (count, slots) = rest.split_first()?;
        let addresses = slots.chunks_exact(SLOT_BYTES).take(usize::from(*count)).map(address);
        let read = Self { device: DeviceId::from(*device), addresses: addresses.collect::<Option<_>>()? };
        // Counts, lengths and zeros all at once.
        (usize::from(*count) <= MAX_ADDRESSES && read.encode() == body).then_some(read)
    }
}

fn address(slot: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = slot.split_first()?;
    let (bytes, port) = rest.split_first_chunk::<16>()?;
    let ip = match family {
        4 => IpAddr::V4(Ipv4Addr::from(*bytes.first_chunk::<4>()?)),
        6 => IpAddr::V6(Ipv6Addr::from(*bytes)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(*port.first_chunk::<2>()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement(addresses: &[&str]) -> Announcement {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Announcement { device: DeviceId::from([0x44; 32]), addresses }
    }

    #[test]
    fn known_bytes() {
        let body = announcement(&["10.77.0.1:41414", "[fd00::7]:2"]).encode();
        let mut expected = vec![0x44; 32];
        expected.extend_from_slice(&[2, 4, 10, 77, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa1, 0xc6]);
        expected.extend_from_slice(&[6, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 2]);
        expected.resize(185, 0);
        assert_eq!(body, expected);
    }

    #[test]
    fn every_announcement_has_one_size_and_is_read_back() {
        let eight = ["192.0.2.1:1", "[2001:db8::1]:65535"].repeat(4);
        for count in 0..=MAX_ADDRESSES {
            let made = announcement(&eight[..count]);
            let body = made.encode();
            assert_eq!(body.len(), BODY_BYTES);
            assert_eq!(Announcement::decode(&body), Some(made));
        }
        let nine = ["192.0.2.1:1"; 9];
        assert_eq!(announcement(&nine).encode(), announcement(&nine[..8]).encode());
    }

    #[test]
    fn truncations_second_forms_and_counts_too_high_are_refused() {
        let made = announcement(&["192.0.2.1:1"]);
        let body = made.encode();
        for cut in 0..body.len() {
            assert_eq!(Announcement::decode(&body[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Announcement::decode(&[&body[..], &[0]].concat()), None);
        for at in 32..body.len() {
            let mut altered = body.clone();
            altered[at] ^= 0x80;
            let read = Announcement::decode(&altered);
            assert!(read.is_none_or(|read| read != made && read.encode() == altered), "byte {at}");
        }
        let mut many = body;
        many[32] = 9;
        assert_eq!(Announcement::decode(&many), None);
    }
}
