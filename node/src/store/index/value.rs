//! One value of the index: the remotes of one device.
//!
//! ```text
//! value  = version 1 | CRC32C u32 over key and remotes | remote …                  (big-endian)
//! remote = last seen u64, unix seconds | 4 | IPv4 4 | port u16
//!        | last seen u64, unix seconds | 6 | IPv6 16 | port u16
//! ```
//!
//! The key is part of the checksum, so that a value which turns up under another key is noticed too.

use std::net::{IpAddr, SocketAddr};

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
pub(super) fn encode(key: &[u8], remotes: &[Remote]) -> Vec<u8> {
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
    [&[VERSION][..], &checksum(key, &body).to_be_bytes(), &body].concat()
}

/// The remotes in the value under `key`; `None` for anything that [`encode`] did not write there.
pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<Vec<Remote>> {
    let (version, rest) = value.split_first()?;
    let (sum, mut body) = rest.split_first_chunk::<4>()?;
    if *version != VERSION || checksum(key, body) != u32::from_be_bytes(*sum) {
        return None;
    }
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

    #[test]
    fn every_flipped_bit_truncation_and_foreign_key_is_noticed() {
        let remotes = ["192.0.2.7:41414", "[2001:db8::7]:1"]
            .map(|text| Remote { remote: text.parse().unwrap(), last_at: 1_800_000_000 });
        let value = encode(b"key", &remotes);

        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(b"key", &flipped), None, "bit {bit}");
            assert_eq!(decode(b"key", &value[..bit / 8]), None, "cut at {}", bit / 8);
        }
        assert_eq!(decode(b"kez", &value), None);
        assert_eq!(decode(b"key", &value).unwrap(), remotes);
    }
}
