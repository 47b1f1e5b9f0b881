//! One value of the index: the remotes of one device, or its newest Presence.
//!
//! ```text
//! value  = version 1 | CRC32C u32 over key and body | body                         (big-endian)
//! body   = remote …                                                                in the tree of paths
//!        | counter u64 | last heard u64, unix seconds | envelope                   in the tree of Presences
//! remote = last seen u64, unix seconds | 4 | IPv4 4 | port u16
//!        | last seen u64, unix seconds | 6 | IPv6 16 | port u16
//! ```
//!
//! The key is part of the checksum, so that a value which turns up under another key is noticed too.

use std::net::{IpAddr, SocketAddr};

use protocol::identity::DeviceId;

use super::super::LastPresence;

const VERSION: u8 = 1;

/// Where a device answered from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Remote {
    /// Its address; an IPv6 scope is not kept.
    pub(super) remote: SocketAddr,
    /// When it last answered, in unix seconds.
    pub(super) last_at: u64,
}

/// The value under `key` that holds `remotes`.
pub(super) fn encode_paths(key: &[u8], remotes: &[Remote]) -> Vec<u8> {
    let mut body = Vec::new();
    for remote in remotes {
        body.extend_from_slice(&remote.last_at.to_be_bytes());
        match remote.remote.ip() {
            IpAddr::V4(ip) => {
                body.push(4);
                body.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                body.push(6);
                body.extend_from_slice(&ip.octets());
            }
        }
        body.extend_from_slice(&remote.remote.port().to_be_bytes());
    }
    seal(key, &body)
}

/// The remotes in the value under `key`; `None` for anything that [`encode_paths`] did not write there.
pub(super) fn decode_paths(key: &[u8], value: &[u8]) -> Option<Vec<Remote>> {
    let mut body = open(key, value)?;
    let mut remotes = Vec::new();
    while !body.is_empty() {
        let last_at = u64::from_be_bytes(take(&mut body)?);
        let ip = match take(&mut body)? {
            [4] => IpAddr::from(take::<4>(&mut body)?),
            [6] => IpAddr::from(take::<16>(&mut body)?),
            _ => return None,
        };
        let port = u16::from_be_bytes(take(&mut body)?);
        remotes.push(Remote { remote: SocketAddr::new(ip, port), last_at });
    }
    Some(remotes)
}

/// The value under `key` that holds `presence`.
pub(super) fn encode_presence(key: &[u8], presence: &LastPresence) -> Vec<u8> {
    let (counter, last_at) = (presence.counter.to_be_bytes(), presence.last_at.to_be_bytes());
    seal(key, &[&counter[..], &last_at, &presence.object].concat())
}

/// The Presence of `device` in the value under `key`; `None` for anything that [`encode_presence`] did not write there.
pub(super) fn decode_presence(device: DeviceId, key: &[u8], value: &[u8]) -> Option<LastPresence> {
    let mut body = open(key, value)?;
    let counter = u64::from_be_bytes(take(&mut body)?);
    let last_at = u64::from_be_bytes(take(&mut body)?);
    Some(LastPresence { device, counter, last_at, object: body.into() })
}

fn seal(key: &[u8], body: &[u8]) -> Vec<u8> {
    [&[VERSION][..], &checksum(key, body).to_be_bytes(), body].concat()
}

fn open<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (version, rest) = value.split_first()?;
    let (sum, body) = rest.split_first_chunk::<4>()?;
    (*version == VERSION && checksum(key, body) == u32::from_be_bytes(*sum)).then_some(body)
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), body)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::damage::damaged;

    #[test]
    fn every_flipped_bit_truncation_and_foreign_key_is_noticed() {
        let remotes = ["192.0.2.7:41414", "[2001:db8::7]:1"]
            .map(|text| Remote { remote: text.parse().unwrap(), last_at: 1_800_000_000 });
        let device = DeviceId::from([7; 32]);
        let presence =
            LastPresence { device, counter: 3, last_at: 1_800_000_000, object: b"object"[..].into() };
        let value = encode_paths(b"key", &remotes);
        check(&value, |key, value| decode_paths(key, value).is_some());
        assert_eq!(decode_paths(b"key", &value).unwrap(), remotes);
        let value = encode_presence(b"key", &presence);
        check(&value, |key, value| decode_presence(device, key, value).is_some());
        assert_eq!(decode_presence(device, b"key", &value).unwrap(), presence);
    }

    fn check(value: &[u8], is_taken: impl Fn(&[u8], &[u8]) -> bool) {
        for bytes in damaged(value) {
            assert!(!is_taken(b"key", &bytes), "{bytes:?}");
        }
        assert!(!is_taken(b"kez", value));
        assert!(is_taken(b"key", value));
    }
}
