//! Epoch, kind 6: an epoch secret's number and hash. Rekey, kind 7: a device's static key.
//!
//! ```text
//! Epoch: 1 admin  2 seq  3 previous id  4 time  5 number  6 SHA-256 of the secret  7 digest of the removed set
//! Rekey: 1 device  2 counter  3 static key  4 time
//! ```

use super::{Kind, field};
use crate::identity::{DeviceId, ObjectId, StaticKey};
use crate::wire::cbor::{CborError, Extensions, MapReader, MapWriter, read_bytes};

/// An epoch secret's number and hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Who made it.
    pub admin: DeviceId,
    /// The place in the admin's chain.
    pub seq: u64,
    /// The object one place before; the VPI ID at place 0.
    pub previous: ObjectId,
    /// Unix seconds.
    pub time: u64,
    /// The highest number is in force.
    pub number: u64,
    /// SHA-256 of the secret, by which members check what they are handed.
    pub secret_hash: [u8; 32],
    /// The removed set that its maker saw, as `removed_digest` gives it.
    pub removed_digest: [u8; 32],
    /// Fields of later versions.
    pub extensions: Extensions,
}

impl Epoch {
    pub(super) fn encode(&self) -> Vec<u8> {
        MapWriter::new()
            .uint(0, Kind::Epoch as u64)
            .bytes(1, &self.admin.0)
            .uint(2, self.seq)
            .bytes(3, &self.previous.0)
            .uint(4, self.time)
            .uint(5, self.number)
            .bytes(6, &self.secret_hash)
            .bytes(7, &self.removed_digest)
            .finish(&self.extensions)
    }

    pub(super) fn decode(mut map: MapReader<'_>) -> Result<Self, CborError> {
        let (admin, seq, previous, time) = field::chain(&mut map)?;
        Ok(Self {
            admin,
            seq,
            previous,
            time,
            number: map.required(5, field::count)?,
            secret_hash: map.required(6, read_bytes)?,
            removed_digest: map.required(7, read_bytes)?,
            extensions: map.finish()?,
        })
    }
}

/// A device's static key; the highest counter counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rekey {
    /// The device.
    pub device: DeviceId,
    /// From 0.
    pub counter: u64,
    /// The key of its handshakes.
    pub static_key: StaticKey,
    /// Unix seconds.
    pub time: u64,
    /// Fields of later versions.
    pub extensions: Extensions,
}

impl Rekey {
    pub(super) fn encode(&self) -> Vec<u8> {
        MapWriter::new()
            .uint(0, Kind::Rekey as u64)
            .bytes(1, &self.device.0)
            .uint(2, self.counter)
            .bytes(3, &self.static_key.0)
            .uint(4, self.time)
            .finish(&self.extensions)
    }

    pub(super) fn decode(mut map: MapReader<'_>) -> Result<Self, CborError> {
        Ok(Self {
            device: map.required(1, field::key)?,
            counter: map.required(2, field::count)?,
            static_key: map.required(3, field::static_key)?,
            time: map.required(4, field::count)?,
            extensions: map.finish()?,
        })
    }
}
