//! What an object says: its kind and, for each kind, its fields.

use super::{Admit, Charter, Confirm, Epoch, Invite, Join, Lease, ObjectError, Presence, Rekey, Remove};
use crate::identity::{ObjectId, PublicKey, sha256};
use crate::wire::cbor::{MapReader, read_uint};

/// The kinds of objects, with their numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Who the roots and admins are.
    Charter = 1,
    /// An admin's permission for somebody to join.
    Invite = 2,
    /// A device's wish to join.
    Join = 3,
    /// A member's word that it let a device in.
    Admit = 4,
    /// The end of a device's membership or of an invite.
    Remove = 5,
    /// An epoch secret's number and hash.
    Epoch = 6,
    /// A device's static key.
    Rekey = 7,
    /// Where a device may be reached.
    Presence = 8,
    /// An admin's word that a device is a member until a time.
    Lease = 9,
    /// An admin's word that joins stand.
    Confirm = 10,
}

impl Kind {
    /// Every kind, in the order of the numbers.
    pub const ALL: [Self; 10] = [
        Self::Charter,
        Self::Invite,
        Self::Join,
        Self::Admit,
        Self::Remove,
        Self::Epoch,
        Self::Rekey,
        Self::Presence,
        Self::Lease,
        Self::Confirm,
    ];

    /// The kind with this number on the wire.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| u64::from(*kind as u8) == number)
    }

    /// The name under which it is signed and shown.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Charter => "charter",
            Self::Invite => "invite",
            Self::Join => "join",
            Self::Admit => "admit",
            Self::Remove => "remove",
            Self::Epoch => "epoch",
            Self::Rekey => "rekey",
            Self::Presence => "presence",
            Self::Lease => "lease",
            Self::Confirm => "confirm",
        }
    }

    /// The fields of the body that name the signers: each one key, or an array of keys.
    pub(super) fn signer_fields(self) -> &'static [u64] {
        match self {
            Self::Charter => &[5],
            Self::Join => &[2, 7],
            Self::Invite
            | Self::Admit
            | Self::Remove
            | Self::Epoch
            | Self::Rekey
            | Self::Presence
            | Self::Lease
            | Self::Confirm => &[1],
        }
    }
}

/// What an object says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is its kind")]
pub enum Body {
    Charter(Charter),
    Invite(Invite),
    Join(Join),
    Admit(Admit),
    Remove(Remove),
    Epoch(Epoch),
    Rekey(Rekey),
    Presence(Presence),
    Lease(Lease),
    Confirm(Confirm),
}

/// The place of an object in its admin's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whose chain.
    pub admin: PublicKey,
    /// The place, from 0.
    pub seq: u64,
    /// The object one place before; the VPI ID at place 0.
    pub previous: ObjectId,
}

impl Body {
    /// The kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Charter(_) => Kind::Charter,
            Self::Invite(_) => Kind::Invite,
            Self::Join(_) => Kind::Join,
            Self::Admit(_) => Kind::Admit,
            Self::Remove(_) => Kind::Remove,
            Self::Epoch(_) => Kind::Epoch,
            Self::Rekey(_) => Kind::Rekey,
            Self::Presence(_) => Kind::Presence,
            Self::Lease(_) => Kind::Lease,
            Self::Confirm(_) => Kind::Confirm,
        }
    }

    /// The time its signer claims, in unix seconds.
    #[must_use]
    pub fn time(&self) -> u64 {
        match self {
            Self::Charter(charter) => charter.time,
            Self::Invite(invite) => invite.time,
            Self::Join(join) => join.time,
            Self::Admit(admit) => admit.time,
            Self::Remove(remove) => remove.time,
            Self::Epoch(epoch) => epoch.time,
            Self::Rekey(rekey) => rekey.time,
            Self::Presence(presence) => presence.time,
            Self::Lease(lease) => lease.from,
            Self::Confirm(confirm) => confirm.time,
        }
    }

    /// The place in an admin's chain, for the kinds that have one.
    #[must_use]
    pub fn link(&self) -> Option<Link> {
        match self {
            Self::Invite(Invite { admin, seq, previous, .. })
            | Self::Epoch(Epoch { admin, seq, previous, .. })
            | Self::Confirm(Confirm { admin, seq, previous, .. })
            | Self::Remove(Remove { signer: admin, link: Some((seq, previous)), .. }) => {
                Some(Link { admin: *admin, seq: *seq, previous: *previous })
            }
            Self::Charter(_)
            | Self::Join(_)
            | Self::Admit(_)
            | Self::Remove(Remove { link: None, .. })
            | Self::Rekey(_)
            | Self::Presence(_)
            | Self::Lease(_) => None,
        }
    }

    /// The body's one encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Charter(charter) => charter.encode(),
            Self::Invite(invite) => invite.encode(),
            Self::Join(join) => join.encode(),
            Self::Admit(admit) => admit.encode(),
            Self::Remove(remove) => remove.encode(),
            Self::Epoch(epoch) => epoch.encode(),
            Self::Rekey(rekey) => rekey.encode(),
            Self::Presence(presence) => presence.encode(),
            Self::Lease(lease) => lease.encode(),
            Self::Confirm(confirm) => confirm.encode(),
        }
    }

    /// The id that an object with this body has, whoever signs it.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        body_id(&self.encode())
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, ObjectError> {
        let kind = kind_of(bytes)?;
        let mut map = MapReader::open(bytes)?;
        map.skip_field()?;
        Ok(match kind {
            Kind::Charter => Self::Charter(Charter::decode(map)?),
            Kind::Invite => Self::Invite(Invite::decode(map)?),
            Kind::Join => Self::Join(Join::decode(map)?),
            Kind::Admit => Self::Admit(Admit::decode(map)?),
            Kind::Remove => Self::Remove(Remove::decode(map)?),
            Kind::Epoch => Self::Epoch(Epoch::decode(map)?),
            Kind::Rekey => Self::Rekey(Rekey::decode(map)?),
            Kind::Presence => Self::Presence(Presence::decode(map)?),
            Kind::Lease => Self::Lease(Lease::decode(map)?),
            Kind::Confirm => Self::Confirm(Confirm::decode(map)?),
        })
    }
}

/// The id of an object whose encoded body is `body`.
pub(super) fn body_id(body: &[u8]) -> ObjectId {
    ObjectId(sha256(&[b"vpi/v1 id", body]))
}

/// The kind that an encoded body says it is.
pub(super) fn kind_of(body: &[u8]) -> Result<Kind, ObjectError> {
    let number = MapReader::open(body)?.required(0, |d| read_uint(d, u64::MAX))?;
    Kind::from_number(number).ok_or(ObjectError::UnknownKind(number))
}
