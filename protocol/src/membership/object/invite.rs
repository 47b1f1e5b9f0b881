//! Invite, kind 2: an admin's permission for somebody to join. It travels inside the token, so that any member
//! can judge it while its maker is away.
//!
//! ```text
//!  1 admin    2 seq    3 previous id    4 time    5 invite id (16)    6 invite key    7 max uses
//!  8 not after    9 name?    10 capabilities    11 groups [name]?    12 bound device?    13 admitters [device]?
//! ```
//!
//! A field marked `?` is absent when it says nothing; an empty array is refused.

use super::{Kind, MAX_DEVICE_NAME, charter::Capabilities, field};
use crate::identity::{DeviceId, InviteId, ObjectId, PublicKey};
use crate::wire::cbor::{
    CborError, Extensions, IN_MEMORY, MapReader, MapWriter, read_bytes, read_list, read_uint,
};

/// The longest life of an invite, in seconds: 30 days (specified: README §10).
pub const MAX_INVITE_SECONDS: u64 = 30 * 24 * 3_600;

/// Uses of one invite, at most (chosen: the default member cap).
pub const MAX_USES: u64 = 4_096;

/// Groups that one invite grants, at most (chosen: they must fit the token beside the rest).
const MAX_GROUPS: usize = 8;

/// Admitters of one invite, at most (specified: README §10).
const MAX_ADMITTERS: usize = 2;

/// One permission to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    /// Who made it.
    pub admin: DeviceId,
    /// The place in the admin's chain.
    pub seq: u64,
    /// The object one place before; the VPI ID at place 0.
    pub previous: ObjectId,
    /// Unix seconds.
    pub time: u64,
    /// The id by which joins and veils name it.
    pub invite_id: InviteId,
    /// The key that must sign each Join, beside the device's.
    pub invite_key: PublicKey,
    /// How many joins it lets in, 1 to [`MAX_USES`].
    pub max_uses: u64,
    /// When it ends, in unix seconds; at most [`MAX_INVITE_SECONDS`] after `time`.
    pub not_after: u64,
    /// The name that the joiner is asked to take.
    pub name: Option<String>,
    /// What the joiner may do.
    pub capabilities: Capabilities,
    /// The groups that the joiner is in.
    pub groups: Vec<String>,
    /// The only device that may use it.
    pub bound_device: Option<DeviceId>,
    /// The only members that may admit by it; empty for no such limit.
    pub admitters: Vec<DeviceId>,
    /// Fields of later versions.
    pub extensions: Extensions,
}

impl Invite {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut map = MapWriter::new()
            .uint(0, Kind::Invite as u64)
            .bytes(1, &self.admin.0)
            .uint(2, self.seq)
            .bytes(3, &self.previous.0)
            .uint(4, self.time)
            .bytes(5, &self.invite_id.0)
            .bytes(6, &self.invite_key.0)
            .uint(7, self.max_uses)
            .uint(8, self.not_after);
        if let Some(name) = &self.name {
            map = map.text(9, name);
        }
        map = map.uint(10, self.capabilities.bits());
        if !self.groups.is_empty() {
            map = map.list(11, &self.groups, |e, group| {
                e.str(group).expect(IN_MEMORY);
            });
        }
        if let Some(device) = &self.bound_device {
            map = map.bytes(12, &device.0);
        }
        if !self.admitters.is_empty() {
            map = map.list(13, &self.admitters, |e, device| {
                e.bytes(&device.0).expect(IN_MEMORY);
            });
        }
        map.finish(&self.extensions)
    }

    pub(super) fn decode(mut map: MapReader<'_>) -> Result<Self, CborError> {
        let (admin, seq, previous, time) = field::chain(&mut map)?;
        Ok(Self {
            admin,
            seq,
            previous,
            time,
            invite_id: map.required(5, read_bytes)?.into(),
            invite_key: map.required(6, field::key)?,
            max_uses: map.required(7, |d| read_uint(d, MAX_USES).filter(|uses| *uses > 0))?,
            not_after: map.required(8, |d| {
                field::count(d).filter(|end| (time..=time + MAX_INVITE_SECONDS).contains(end))
            })?,
            name: map.optional(9, |d| field::name(d, MAX_DEVICE_NAME))?,
            capabilities: map.required(10, Capabilities::read)?,
            groups: map
                .optional(11, |d| some_of(read_list(d, MAX_GROUPS, |d| field::name(d, MAX_DEVICE_NAME))?))?
                .unwrap_or_default(),
            bound_device: map.optional(12, field::key)?,
            admitters: map
                .optional(13, |d| some_of(read_list(d, MAX_ADMITTERS, field::key)?))?
                .unwrap_or_default(),
            extensions: map.finish()?,
        })
    }
}

/// A list that says something and names nobody twice.
fn some_of<T: Ord>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty() && list.is_sorted_by(|a, b| a < b)).then_some(list)
}
