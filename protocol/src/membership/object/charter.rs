//! Charter, kind 1: who the roots and admins are, and by which rules devices come in.
//!
//! ```text
//!  1 version          2 previous id (absent in version 0)     3 time      4 name of the VPI
//!  5 signers [key]    6 roots [[key, is recovery]]            7 threshold
//!  8 admins [[device, name, capabilities]]
//!  9 policy [invite ttl s, lease ttl s (0: off), member cap, who may admit (0: members, 1: admins)]
//! 10 retired [[device, seq, id]]     11 pardons [device key or invite id]     12 nonce (16)
//! ```
//!
//! Signers, roots, retired and pardons ascend and name nobody twice; nobody is both admin and retired; admins stand in
//! the order of their names' precedence. The charter of version 0 is signed by all its roots, and its id is the VPI ID.

use minicbor::{Decoder, Encoder};

use super::{Kind, MAX_DEVICE_NAME, MAX_SIGNATURES, MAX_VPI_NAME, Target, field};
use crate::identity::{DeviceId, ObjectId, PublicKey};
use crate::wire::cbor::{
    CborError, Extensions, IN_MEMORY, MapReader, MapWriter, read_bytes, read_list, read_tuple, read_uint,
};

/// Roots of one charter, at most (specified: README §10).
pub const MAX_ROOTS: usize = 8;

/// Admins of one charter, at most (specified: README §10).
pub const MAX_ADMINS: usize = 16;

/// Retired admins and pardons of one charter, at most each (chosen: what a body of 2,048 bytes holds beside the
/// rest).
const MAX_LISTED: usize = 32;

/// Members that a policy may allow, at most (chosen: ten bits more than the default, far from any overflow).
const MAX_MEMBER_CAP: u64 = 1 << 22;

/// One version of the charter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charter {
    /// From 0, by one.
    pub version: u64,
    /// The charter of the version before; `None` in version 0 only.
    pub previous: Option<ObjectId>,
    /// Unix seconds.
    pub time: u64,
    /// The VPI's name, fixed by version 0.
    pub name: String,
    /// Who signs this charter.
    pub signers: Vec<PublicKey>,
    /// Who may sign its successor.
    pub roots: Vec<Root>,
    /// How many roots a successor needs.
    pub threshold: u64,
    /// Who may invite, remove, make epochs and leases.
    pub admins: Vec<Admin>,
    /// By which rules devices come in.
    pub policy: Policy,
    /// Where the chains of former admins end.
    pub retired: Vec<Cut>,
    /// Targets of removals that do not count.
    pub pardons: Vec<Target>,
    /// Makes the ids of two VPIs with equal keys differ.
    pub nonce: [u8; 16],
    /// Fields of later versions.
    pub extensions: Extensions,
}

/// A key that signs charters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// The key.
    pub key: PublicKey,
    /// Whether it is the recovery phrase's, which wins among rivals.
    pub is_recovery: bool,
}

/// A device that may do more than others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The device.
    pub device: DeviceId,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub capabilities: Capabilities,
}

/// What an admin may do; a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// To make invites.
    pub const INVITE: Self = Self(1);
    /// To remove devices and revoke invites.
    pub const REMOVE: Self = Self(2);
    /// To make epochs.
    pub const EPOCH: Self = Self(4);
    /// To make leases.
    pub const LEASE: Self = Self(8);
    /// All of it.
    pub const ALL: Self = Self(15);

    /// Whether every one of `others` is among these.
    #[must_use]
    pub fn has(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    pub(super) fn read(decoder: &mut Decoder<'_>) -> Option<Self> {
        read_uint(decoder, Self::ALL.0).map(Self)
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }
}

/// By which rules devices come in and stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long an invite lives if its maker says nothing, in seconds.
    pub invite_seconds: u64,
    /// How long a lease lives, in seconds; 0 turns leases off.
    pub lease_seconds: u64,
    /// How many members a witness lets in, at most.
    pub member_cap: u64,
    /// Whose Admit counts.
    pub who_may_admit: WhoMayAdmit,
}

impl Default for Policy {
    /// 24 hours, no leases, 4,096 members, any member may admit.
    fn default() -> Self {
        Self {
            invite_seconds: 24 * 3_600,
            lease_seconds: 0,
            member_cap: 4_096,
            who_may_admit: WhoMayAdmit::Members,
        }
    }
}

/// Whose Admit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhoMayAdmit {
    /// Every member's.
    Members,
    /// An admin's only.
    Admins,
}

/// Where a former admin's chain ends: the last object that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Whose chain.
    pub admin: DeviceId,
    /// The last place that counts.
    pub seq: u64,
    /// The object there.
    pub id: ObjectId,
}

impl Charter {
    /// Where the chain of a former admin ends.
    #[must_use]
    pub fn cut(&self, device: &DeviceId) -> Option<&Cut> {
        self.retired.iter().find(|cut| cut.admin == *device)
    }

    /// The admin whose device key is `device`.
    #[must_use]
    pub fn admin(&self, device: &DeviceId) -> Option<&Admin> {
        self.admins.iter().find(|admin| admin.device == *device)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut map = MapWriter::new().uint(0, Kind::Charter as u64).uint(1, self.version);
        if let Some(previous) = &self.previous {
            map = map.bytes(2, &previous.0);
        }
        map.uint(3, self.time)
            .text(4, &self.name)
            .list(5, &self.signers, |e, key| put_bytes(e, &key.0))
            .list(6, &self.roots, put_root)
            .uint(7, self.threshold)
            .list(8, &self.admins, put_admin)
            .with(9, |e| put_policy(e, &self.policy))
            .list(10, &self.retired, put_cut)
            .list(11, &self.pardons, |e, target| put_bytes(e, target.as_bytes()))
            .bytes(12, &self.nonce)
            .finish(&self.extensions)
    }

    pub(super) fn decode(mut map: MapReader<'_>) -> Result<Self, CborError> {
        let charter = Self {
            version: map.required(1, field::count)?,
            previous: map.optional(2, field::object_id)?,
            time: map.required(3, field::count)?,
            name: map.required(4, |d| field::name(d, MAX_VPI_NAME))?,
            signers: map.required(5, |d| read_list(d, MAX_SIGNATURES, field::key))?,
            roots: map.required(6, |d| read_list(d, MAX_ROOTS, read_root))?,
            threshold: map.required(7, |d| read_uint(d, MAX_ROOTS as u64))?,
            admins: map.required(8, |d| read_list(d, MAX_ADMINS, read_admin))?,
            policy: map.required(9, read_policy)?,
            retired: map.required(10, |d| read_list(d, MAX_LISTED, read_cut))?,
            pardons: map.required(11, |d| read_list(d, MAX_LISTED, Target::read))?,
            nonce: map.required(12, read_bytes)?,
            extensions: map.finish()?,
        };
        charter.check()?;
        Ok(charter)
    }

    /// What must hold between the fields.
    fn check(&self) -> Result<(), CborError> {
        let is = |holds: bool, key: u64| if holds { Ok(()) } else { Err(CborError::Field(key)) };
        is(self.previous.is_none() == (self.version == 0), 2)?;
        is(self.signers.is_sorted_by(|a, b| a < b), 5)?;
        is(!self.roots.is_empty() && self.roots.is_sorted_by(|a, b| a.key < b.key), 6)?;
        is(self.version > 0 || self.signers.iter().eq(self.roots.iter().map(|root| &root.key)), 5)?;
        is((1..=self.roots.len() as u64).contains(&self.threshold), 7)?;
        let mut devices: Vec<_> = self.admins.iter().map(|admin| admin.device).collect();
        devices.sort_unstable();
        is(!devices.is_empty() && devices.is_sorted_by(|a, b| a < b), 8)?;
        let is_former = |cut: &Cut| self.admin(&cut.admin).is_none();
        is(self.retired.is_sorted_by(|a, b| a.admin < b.admin) && self.retired.iter().all(is_former), 10)?;
        is(self.pardons.is_sorted_by(|a, b| a < b), 11)
    }
}

fn put_bytes(encoder: &mut Encoder<Vec<u8>>, bytes: &[u8]) {
    encoder.bytes(bytes).expect(IN_MEMORY);
}

fn put_root(encoder: &mut Encoder<Vec<u8>>, root: &Root) {
    encoder.array(2).expect(IN_MEMORY).bytes(&root.key.0).expect(IN_MEMORY);
    encoder.bool(root.is_recovery).expect(IN_MEMORY);
}

fn read_root(decoder: &mut Decoder<'_>) -> Option<Root> {
    read_tuple(decoder, 2)?;
    Some(Root { key: field::key(decoder)?, is_recovery: decoder.bool().ok()? })
}

fn put_admin(encoder: &mut Encoder<Vec<u8>>, admin: &Admin) {
    encoder.array(3).expect(IN_MEMORY).bytes(&admin.device.0).expect(IN_MEMORY);
    encoder.str(&admin.name).expect(IN_MEMORY).u64(admin.capabilities.bits()).expect(IN_MEMORY);
}

fn read_admin(decoder: &mut Decoder<'_>) -> Option<Admin> {
    read_tuple(decoder, 3)?;
    Some(Admin {
        device: field::key(decoder)?,
        name: field::name(decoder, MAX_DEVICE_NAME)?,
        capabilities: Capabilities::read(decoder)?,
    })
}

fn put_policy(encoder: &mut Encoder<Vec<u8>>, policy: &Policy) {
    let who = match policy.who_may_admit {
        WhoMayAdmit::Members => 0,
        WhoMayAdmit::Admins => 1,
    };
    encoder.array(4).expect(IN_MEMORY);
    for value in [policy.invite_seconds, policy.lease_seconds, policy.member_cap, who] {
        encoder.u64(value).expect(IN_MEMORY);
    }
}

fn read_policy(decoder: &mut Decoder<'_>) -> Option<Policy> {
    read_tuple(decoder, 4)?;
    Some(Policy {
        invite_seconds: read_uint(decoder, super::MAX_INVITE_SECONDS)?,
        lease_seconds: field::count(decoder)?,
        member_cap: read_uint(decoder, MAX_MEMBER_CAP)?,
        who_may_admit: match decoder.u64().ok()? {
            0 => WhoMayAdmit::Members,
            1 => WhoMayAdmit::Admins,
            _ => return None,
        },
    })
}

fn put_cut(encoder: &mut Encoder<Vec<u8>>, cut: &Cut) {
    encoder.array(3).expect(IN_MEMORY).bytes(&cut.admin.0).expect(IN_MEMORY);
    encoder.u64(cut.seq).expect(IN_MEMORY).bytes(&cut.id.0).expect(IN_MEMORY);
}

fn read_cut(decoder: &mut Decoder<'_>) -> Option<Cut> {
    read_tuple(decoder, 3)?;
    Some(Cut { admin: field::key(decoder)?, seq: field::count(decoder)?, id: field::object_id(decoder)? })
}
