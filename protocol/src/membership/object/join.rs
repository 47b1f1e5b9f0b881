//! Join, kind 3: a device's wish to be a member. Admit, kind 4: a member's word that it let one in.
//!
//! ```text
//! Join:  1 invite id (16)  2 device  3 static key  4 name  5 time  6 nonce (16)  7 invite key
//! Admit: 1 witness  2 join id  3 time  4 epoch seen
//! ```
//!
//! Join is signed by the device and by the invite key; it carries the latter so that it verifies by itself, and
//! the reducer requires it to be the Invite's.

use super::{Kind, MAX_DEVICE_NAME, field};
use crate::identity::{DeviceId, InviteId, ObjectId, PublicKey, StaticKey};
use crate::wire::cbor::{CborError, Extensions, MapReader, MapWriter, read_bytes};

/// A device's wish to be a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// By which invite.
    pub invite_id: InviteId,
    /// The device.
    pub device: DeviceId,
    /// The key of its handshakes, until it makes a Rekey.
    pub static_key: StaticKey,
    /// The name it wants.
    pub name: String,
    /// Unix seconds.
    pub time: u64,
    /// Makes two wishes of one device differ.
    pub nonce: [u8; 16],
    /// The key of the invite.
    pub invite_key: PublicKey,
    /// Fields of later versions.
    pub extensions: Extensions,
}

impl Join {
    pub(super) fn encode(&self) -> Vec<u8> {
        MapWriter::new()
            .uint(0, Kind::Join as u64)
            .bytes(1, &self.invite_id.0)
            .bytes(2, &self.device.0)
            .bytes(3, &self.static_key.0)
            .text(4, &self.name)
            .uint(5, self.time)
            .bytes(6, &self.nonce)
            .bytes(7, &self.invite_key.0)
            .finish(&self.extensions)
    }

    pub(super) fn decode(mut map: MapReader<'_>) -> Result<Self, CborError> {
        Ok(Self {
            invite_id: map.required(1, read_bytes)?.into(),
            device: map.required(2, field::key)?,
            static_key: map.required(3, field::static_key)?,
            name: map.required(4, |d| field::name(d, MAX_DEVICE_NAME))?,
            time: map.required(5, field::count)?,
            nonce: map.required(6, read_bytes)?,
            invite_key: map.required(7, field::key)?,
            extensions: map.finish()?,
        })
    }
}

/// A member's word that it let a device in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admit {
    /// The member.
    pub witness: DeviceId,
    /// The Join.
    pub join_id: ObjectId,
    /// Unix seconds.
    pub time: u64,
    /// The number of the epoch that the witness was in.
    pub epoch_seen: u64,
    /// Fields of later versions.
    pub extensions: Extensions,
}

impl Admit {
    pub(super) fn encode(&self) -> Vec<u8> {
        MapWriter::new()
            .uint(0, Kind::Admit as u64)
            .bytes(1, &self.witness.0)
            .bytes(2, &self.join_id.0)
            .uint(3, self.time)
            .uint(4, self.epoch_seen)
            .finish(&self.extensions)
    }

    pub(super) fn decode(mut map: MapReader<'_>) -> Result<Self, CborError> {
        Ok(Self {
            witness: map.required(1, field::key)?,
            join_id: map.required(2, field::object_id)?,
            time: map.required(3, field::count)?,
            epoch_seen: map.required(4, field::count)?,
            extensions: map.finish()?,
        })
    }
}
