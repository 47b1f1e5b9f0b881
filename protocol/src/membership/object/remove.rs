//! Remove, kind 5: the end of a device's membership or of an invite. Nothing but a charter's pardon undoes it.
//!
//! ```text
//!  1 signer   2 seq?   3 previous id?   4 time   5 target (device key 32 or invite id 16)   6 reason
//! ```
//!
//! An admin's stands in its chain and has fields 2 and 3. A device removes itself without them, and nothing else.

use std::cmp::Ordering;
use std::fmt;

use minicbor::Decoder;

use super::{Kind, field};
use crate::identity::{DeviceId, InviteId, ObjectId, PublicKey};
use crate::wire::cbor::{CborError, Extensions, MapReader, MapWriter, read_uint};

/// The end of a device's membership or of an invite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remove {
    /// The admin, or the device that leaves.
    pub signer: DeviceId,
    /// The place in the admin's chain and the object one place before; `None` for a device that leaves.
    pub link: Option<(u64, ObjectId)>,
    /// Unix seconds.
    pub time: u64,
    /// What is removed.
    pub target: Target,
    /// Why, for people; no rule asks for it.
    pub reason: Reason,
    /// Fields of later versions.
    pub extensions: Extensions,
}

impl Remove {
    /// Whether a device removes itself.
    #[must_use]
    pub fn is_leave(&self) -> bool {
        self.link.is_none()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut map = MapWriter::new().uint(0, Kind::Remove as u64).bytes(1, &self.signer.0);
        if let Some((seq, previous)) = &self.link {
            map = map.uint(2, *seq).bytes(3, &previous.0);
        }
        map.uint(4, self.time)
            .bytes(5, self.target.as_bytes())
            .uint(6, u64::from(self.reason.number()))
            .finish(&self.extensions)
    }

    pub(super) fn decode(mut map: MapReader<'_>) -> Result<Self, CborError> {
        let signer = map.required(1, field::key)?;
        let link = match map.optional(2, field::count)? {
            Some(seq) => Some((seq, map.required(3, field::object_id)?)),
            None => None,
        };
        let remove = Self {
            signer,
            link,
            time: map.required(4, field::count)?,
            target: map.required(5, Target::read)?,
            reason: map.required(6, Reason::read)?,
            extensions: map.finish()?,
        };
        let is_own = remove.target == Target::Device(remove.signer);
        if remove.is_leave() && !is_own { Err(CborError::Field(5)) } else { Ok(remove) }
    }
}

/// What a Remove or a pardon is about; ordered by the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// A device: 32 bytes.
    Device(DeviceId),
    /// An invite: 16 bytes.
    Invite(InviteId),
}

impl Target {
    /// The device key or the invite id.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Device(device) => &device.0,
            Self::Invite(invite) => &invite.0,
        }
    }

    pub(super) fn read(decoder: &mut Decoder<'_>) -> Option<Self> {
        let bytes = decoder.bytes().ok()?;
        let device = bytes.try_into().map(|key| Self::Device(PublicKey(key)));
        device.or_else(|_| bytes.try_into().map(|id| Self::Invite(InviteId(id)))).ok()
    }
}

impl Ord for Target {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl PartialOrd for Target {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(device) => write!(f, "device {device:?}"),
            Self::Invite(invite) => write!(f, "invite {invite:?}"),
        }
    }
}

/// Why something was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Nobody said.
    #[default]
    Unspecified,
    /// The device left by itself.
    Left,
    /// The device was lost or stolen.
    Lost,
    /// Another device took its place.
    Replaced,
    /// An invite that is not to be used.
    Revoked,
    /// A reason of a later version.
    Other(u8),
}

impl Reason {
    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::Left => 1,
            Self::Lost => 2,
            Self::Replaced => 3,
            Self::Revoked => 4,
            Self::Other(number) => number,
        }
    }

    /// The reason with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Unspecified,
            1 => Self::Left,
            2 => Self::Lost,
            3 => Self::Replaced,
            4 => Self::Revoked,
            other => Self::Other(other),
        }
    }

    fn read(decoder: &mut Decoder<'_>) -> Option<Self> {
        read_uint(decoder, u64::from(u8::MAX)).and_then(|n| u8::try_from(n).ok()).map(Self::from_number)
    }
}
