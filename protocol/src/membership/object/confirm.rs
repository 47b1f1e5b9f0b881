//! Confirm, kind 10: an admin's word that joins stand, whoever admitted them and whatever became of their invite.
//! Lease, kind 9: an admin's word that a device is a member until a time.
//!
//! ```text
//! Confirm: 1 admin  2 seq  3 previous id  4 time  5 join ids [id], 1 to 32, ascending
//! Lease:   1 admin  2 device  3 from  4 until
//! ```
//!
//! A Lease stands in no chain: only the newest of a device counts, and a missing one denies.

use super::{Kind, field};
use crate::identity::{DeviceId, ObjectId};
use crate::wire::cbor::{CborError, Extensions, IN_MEMORY, MapReader, MapWriter, read_list};

/// Joins of one Confirm, at most (specified: README §10).
pub const MAX_CONFIRMED: usize = 32;

/// An admin's word that joins stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// Who says so.
    pub admin: DeviceId,
    /// The place in the admin's chain.
    pub seq: u64,
    /// The object one place before; the VPI ID at place 0.
    pub previous: ObjectId,
    /// Unix seconds.
    pub time: u64,
    /// The Joins, 1 to [`MAX_CONFIRMED`], ascending.
    pub joins: Vec<ObjectId>,
    /// Fields of later versions.
    pub extensions: Extensions,
}

impl Confirm {
    pub(super) fn encode(&self) -> Vec<u8> {
        MapWriter::new()
            .uint(0, Kind::Confirm as u64)
            .bytes(1, &self.admin.0)
            .uint(2, self.seq)
            .bytes(3, &self.previous.0)
            .uint(4, self.time)
            .list(5, &self.joins, |e, id| {
                e.bytes(&id.0).expect(IN_MEMORY);
            })
            .finish(&self.extensions)
    }

    pub(super) fn decode(mut map: MapReader<'_>) -> Result<Self, CborError> {
        let (admin, seq, previous, time) = field::chain(&mut map)?;
        let is_list = |joins: &Vec<ObjectId>| !joins.is_empty() && joins.is_sorted_by(|a, b| a < b);
        Ok(Self {
            admin,
            seq,
            previous,
            time,
            joins: map.required(5, |d| read_list(d, MAX_CONFIRMED, field::object_id).filter(is_list))?,
            extensions: map.finish()?,
        })
    }
}

/// An admin's word that a device is a member until a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who says so.
    pub admin: DeviceId,
    /// The member.
    pub device: DeviceId,
    /// When it was made, in unix seconds.
    pub from: u64,
    /// When it ends, in unix seconds; not before `from`.
    pub until: u64,
    /// Fields of later versions.
    pub extensions: Extensions,
}

impl Lease {
    pub(super) fn encode(&self) -> Vec<u8> {
        MapWriter::new()
            .uint(0, Kind::Lease as u64)
            .bytes(1, &self.admin.0)
            .bytes(2, &self.device.0)
            .uint(3, self.from)
            .uint(4, self.until)
            .finish(&self.extensions)
    }

    pub(super) fn decode(mut map: MapReader<'_>) -> Result<Self, CborError> {
        let (admin, device) = (map.required(1, field::key)?, map.required(2, field::key)?);
        let from = map.required(3, field::count)?;
        let until = map.required(4, |d| field::count(d).filter(|until| *until >= from))?;
        Ok(Self { admin, device, from, until, extensions: map.finish()? })
    }
}
