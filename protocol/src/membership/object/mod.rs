//! Signed objects: the envelope, and what stands in each kind of body.
//!
//! In go bytes from anybody; out comes an [`Object`] whose signatures, encoding and fields hold, or an
//! [`ObjectError`]. Whether it *counts* is the reducer's business.
//!
//! ```text
//! envelope = [1, body: bstr, [[key id: 8 bytes, signature: 64 bytes], ...]]   key ids ascending
//! body     = {0: kind, 1: ..., 2: ...}          deterministic CBOR, see wire/cbor.rs
//! key id   = the first 8 bytes of the signer's public key
//! id       = SHA-256("vpi/v1 id" ‖ body)
//! signed   = "vpi/v1 " ‖ kind name ‖ 0 ‖ VPI ID ‖ body
//! ```
//!
//! | kind | name | fields of the body | signed by fields |
//! |---|---|---|---|
//! | 1 | charter | see charter.rs | 5 |
//! | 2 | invite | see invite.rs | 1 |
//! | 3 | join | see join.rs | 2 and 7 |
//! | 4 | admit | see join.rs | 1 |
//! | 6 | epoch | see epoch.rs | 1 |
//! | 7 | rekey | see epoch.rs | 1 |

mod charter;
mod envelope;
mod epoch;
mod field;
mod invite;
mod join;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

pub use charter::{Admin, Capabilities, Charter, Cut, MAX_ADMINS, MAX_ROOTS, Policy, Root, WhoMayAdmit};
pub use epoch::{Epoch, Rekey};
pub use invite::{Invite, MAX_INVITE_SECONDS, MAX_USES};
pub use join::{Admit, Join};

pub use self::envelope::{MAX_BODY_BYTES, MAX_OBJECT_BYTES, MAX_SIGNATURES};
use crate::identity::{ObjectId, PublicKey, SigningSecret, VpiId, sha256};
use crate::wire::cbor::{CborError, MapReader, read_uint};

/// Letters of a device's name, at most (specified: MEMBERSHIP, "Objects"); it becomes a DNS label.
pub const MAX_DEVICE_NAME: usize = 32;

/// Letters of a VPI's name, at most (specified: MEMBERSHIP, "Objects"): `vpi-` and the name fit a device name
/// of Linux (15).
pub const MAX_VPI_NAME: usize = 11;

/// Says whether `name` is 1 to `most` of `[a-z0-9-]`.
#[must_use]
pub fn is_name(name: &str, most: usize) -> bool {
    (1..=most).contains(&name.len())
        && name.bytes().all(|letter| matches!(letter, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// Why bytes are no object, or why an object cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// The body is over [`MAX_BODY_BYTES`], or there are over [`MAX_SIGNATURES`].
    #[error("the object is larger than any may be")]
    TooLarge,
    /// The envelope is not one of version 1 in its one form.
    #[error("the envelope is not of a known form")]
    Envelope,
    /// The body's bytes or fields are off.
    #[error("the body does not decode: {0}")]
    Body(#[from] CborError),
    /// A kind that this version does not know.
    #[error("objects of kind {0} are not known")]
    UnknownKind(u64),
    /// The signatures are not exactly those of the keys that the body names.
    #[error("the signatures are not by exactly the named signers")]
    Signers,
    /// A signature does not verify in this VPI.
    #[error("a signature does not verify")]
    Signature,
    /// A charter of version 0 that founds another VPI.
    #[error("the charter founds another VPI")]
    OtherVpi,
}

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
    /// An epoch secret's number and hash.
    Epoch = 6,
    /// A device's static key.
    Rekey = 7,
}

impl Kind {
    /// Every kind, in the order of the numbers.
    pub const ALL: [Self; 6] =
        [Self::Charter, Self::Invite, Self::Join, Self::Admit, Self::Epoch, Self::Rekey];

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
            Self::Epoch => "epoch",
            Self::Rekey => "rekey",
        }
    }

    /// The fields of the body that name the signers: each one key, or an array of keys.
    fn signer_fields(self) -> &'static [u64] {
        match self {
            Self::Charter => &[5],
            Self::Join => &[2, 7],
            Self::Invite | Self::Admit | Self::Epoch | Self::Rekey => &[1],
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
    Epoch(Epoch),
    Rekey(Rekey),
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
            Self::Epoch(_) => Kind::Epoch,
            Self::Rekey(_) => Kind::Rekey,
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
            Self::Epoch(epoch) => epoch.time,
            Self::Rekey(rekey) => rekey.time,
        }
    }

    /// The place in an admin's chain, for the kinds that have one.
    #[must_use]
    pub fn link(&self) -> Option<Link> {
        match self {
            Self::Invite(Invite { admin, seq, previous, .. })
            | Self::Epoch(Epoch { admin, seq, previous, .. }) => {
                Some(Link { admin: *admin, seq: *seq, previous: *previous })
            }
            Self::Charter(_) | Self::Join(_) | Self::Admit(_) | Self::Rekey(_) => None,
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
            Self::Epoch(epoch) => epoch.encode(),
            Self::Rekey(rekey) => rekey.encode(),
        }
    }

    /// The id that an object with this body has, whoever signs it.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        body_id(&self.encode())
    }

    fn decode(bytes: &[u8]) -> Result<Self, ObjectError> {
        let kind = kind_of(bytes)?;
        let mut map = MapReader::open(bytes)?;
        map.skip_field()?;
        Ok(match kind {
            Kind::Charter => Self::Charter(Charter::decode(map)?),
            Kind::Invite => Self::Invite(Invite::decode(map)?),
            Kind::Join => Self::Join(Join::decode(map)?),
            Kind::Admit => Self::Admit(Admit::decode(map)?),
            Kind::Epoch => Self::Epoch(Epoch::decode(map)?),
            Kind::Rekey => Self::Rekey(Rekey::decode(map)?),
        })
    }
}

/// One object whose signatures, encoding and fields hold. Cheap to clone; equal ids are equal objects.
#[derive(Clone)]
pub struct Object(Arc<Opened>);

struct Opened {
    id: ObjectId,
    body: Body,
    bytes: Arc<[u8]>,
}

impl Object {
    /// Opens the envelope `bytes`, at most [`MAX_OBJECT_BYTES`], as an object of `vpi`.
    ///
    /// The received bytes are verified first, by exactly the keys that the body names; then the body is decoded
    /// strictly; then encoding the result must give the same bytes again (MEMBERSHIP, "Envelope").
    ///
    /// # Errors
    /// An [`ObjectError`] that says which of it does not hold.
    pub fn open(vpi: &VpiId, bytes: &[u8]) -> Result<Self, ObjectError> {
        let envelope = envelope::Envelope::read(bytes)?;
        let kind = kind_of(envelope.body)?;
        let signers = envelope::named_signers(kind, envelope.body)?;
        envelope.verify(&signed_bytes(kind, vpi, envelope.body), &signers)?;
        let body = Body::decode(envelope.body)?;
        if body.encode() != envelope.body {
            return Err(CborError::NotCanonical.into());
        }
        let id = body_id(envelope.body);
        if matches!(&body, Body::Charter(charter) if charter.version == 0) && id.0 != vpi.0 {
            return Err(ObjectError::OtherVpi);
        }
        Ok(Self(Arc::new(Opened { id, body, bytes: bytes.into() })))
    }

    /// Signs `body` as an object of `vpi` with `signers`, the secrets of exactly the keys it names, in any order.
    ///
    /// # Errors
    /// As [`Object::open`], which the result has passed: what is signed here, every member accepts.
    pub fn sign(vpi: &VpiId, body: &Body, signers: &[&SigningSecret]) -> Result<Self, ObjectError> {
        let encoded = body.encode();
        let message = signed_bytes(body.kind(), vpi, &encoded);
        Self::open(vpi, &envelope::write(&encoded, &message, signers))
    }

    /// SHA-256 of `"vpi/v1 id"` and the body.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.0.id
    }

    /// What it says.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.0.body
    }

    /// The kind of its body.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.body.kind()
    }

    /// The envelope as it came, at most [`MAX_OBJECT_BYTES`].
    #[must_use]
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.0.bytes
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Object {}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:?})", self.kind().name(), self.0.id)
    }
}

fn body_id(body: &[u8]) -> ObjectId {
    ObjectId(sha256(&[b"vpi/v1 id", body]))
}

fn signed_bytes(kind: Kind, vpi: &VpiId, body: &[u8]) -> Vec<u8> {
    [b"vpi/v1 ", kind.name().as_bytes(), &[0], &vpi.0, body].concat()
}

fn kind_of(body: &[u8]) -> Result<Kind, ObjectError> {
    let number = MapReader::open(body)?.required(0, |d| read_uint(d, u64::MAX))?;
    Kind::from_number(number).ok_or(ObjectError::UnknownKind(number))
}
