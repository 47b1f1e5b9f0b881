//! Presence, kind 8: where a device may be reached, by its own word. Only the newest of a device counts.
//!
//! ```text
//! 1 device   2 time   3 counter   4 candidates [IPv4 4 ‖ port u16  or  IPv6 16 ‖ port u16], at most 8, best first
//! 5 beacon [multiaddress, peer id]?   6 NAT class   7 flags
//! ```
//!
//! An IPv4 address has the four-byte form only, and no port is 0. NAT class and flags are numbers; 0 says
//! nothing, and bits that are not known here are of later versions.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use minicbor::{Decoder, Encoder};

use super::{Kind, field};
use crate::identity::DeviceId;
use crate::wire::cbor::{
    CborError, Extensions, IN_MEMORY, MapReader, MapWriter, read_list, read_tuple, read_uint,
};

/// Candidates of one Presence, at most (specified: README §10).
pub const MAX_CANDIDATES: usize = 8;

/// Bytes of a beacon's multiaddress, at most (chosen: a DNS name of 63 bytes and a certificate's hash fit).
pub const MAX_BEACON_ADDRESS: usize = 128;

/// Bytes of a beacon's peer id, at most (chosen: a multihash of SHA-256 has 34, one of an inlined key 38).
pub const MAX_BEACON_PEER: usize = 64;

/// The flag of a device that passes datagrams on for fellow members.
pub const RELAYS: u64 = 1;

/// Where a device may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// The device.
    pub device: DeviceId,
    /// Unix seconds.
    pub time: u64,
    /// Grows with each Presence of the device.
    pub counter: u64,
    /// Sockets that may reach it, the best first, at most [`MAX_CANDIDATES`]; flow labels and scopes do not travel.
    pub candidates: Vec<SocketAddr>,
    /// The beacon through which it may be reached: a multiaddress of 1 to [`MAX_BEACON_ADDRESS`] bytes, and a peer id
    /// of 1 to [`MAX_BEACON_PEER`].
    pub beacon: Option<(String, Vec<u8>)>,
    /// The class of the NAT that it is behind; 0 while unknown.
    pub nat: u8,
    /// [`RELAYS`], and bits of later versions.
    pub flags: u64,
    /// Fields of later versions.
    pub extensions: Extensions,
}

impl Presence {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut map = MapWriter::new()
            .uint(0, Kind::Presence as u64)
            .bytes(1, &self.device.0)
            .uint(2, self.time)
            .uint(3, self.counter)
            .list(4, &self.candidates, put_socket);
        if let Some((address, peer)) = &self.beacon {
            map = map.with(5, |e| {
                e.array(2).expect(IN_MEMORY).str(address).expect(IN_MEMORY).bytes(peer).expect(IN_MEMORY);
            });
        }
        map.uint(6, u64::from(self.nat)).uint(7, self.flags).finish(&self.extensions)
    }

    pub(super) fn decode(mut map: MapReader<'_>) -> Result<Self, CborError> {
        let read_class = |d: &mut Decoder<'_>| u8::try_from(read_uint(d, u64::from(u8::MAX))?).ok();
        Ok(Self {
            device: map.required(1, field::key)?,
            time: map.required(2, field::count)?,
            counter: map.required(3, field::count)?,
            candidates: map.required(4, |d| read_list(d, MAX_CANDIDATES, read_socket))?,
            beacon: map.optional(5, read_beacon)?,
            nat: map.required(6, read_class)?,
            flags: map.required(7, field::count)?,
            extensions: map.finish()?,
        })
    }
}

fn put_socket(encoder: &mut Encoder<Vec<u8>>, socket: &SocketAddr) {
    let mut bytes = match socket {
        SocketAddr::V4(socket) => socket.ip().octets().to_vec(),
        SocketAddr::V6(socket) => socket.ip().octets().to_vec(),
    };
    bytes.extend_from_slice(&socket.port().to_be_bytes());
    encoder.bytes(&bytes).expect(IN_MEMORY);
}

fn read_socket(decoder: &mut Decoder<'_>) -> Option<SocketAddr> {
    let (address, port) = decoder.bytes().ok()?.split_last_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    let ip = match address.len() {
        4 => <[u8; 4]>::try_from(address).map(|octets| Ipv4Addr::from(octets).into()).ok()?,
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?).into(),
    };
    let socket = SocketAddr::new(ip, port);
    let has_one_form = !matches!(ip, std::net::IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    (port != 0 && has_one_form).then_some(socket)
}

fn read_beacon(decoder: &mut Decoder<'_>) -> Option<(String, Vec<u8>)> {
    read_tuple(decoder, 2)?;
    let address = decoder.str().ok().filter(|text| (1..=MAX_BEACON_ADDRESS).contains(&text.len()))?;
    let peer = decoder.bytes().ok().filter(|peer| (1..=MAX_BEACON_PEER).contains(&peer.len()))?;
    Some((address.to_owned(), peer.to_vec()))
}
