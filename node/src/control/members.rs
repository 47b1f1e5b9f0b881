//! Who is meant by what was typed, and what is told of members and invites. The answers are promised JSON.

use std::{fmt, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::{protocol::Plan, status::Time};

/// Which member an alias is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Who {
    /// The VPI's name on this machine.
    pub vpi: String,
    /// The member, as `nas.home`.
    pub member: String,
    /// Its device key, 64 hexadecimal digits.
    pub id: String,
    /// The alias that was asked for.
    pub alias: Ipv4Addr,
}

/// Arguments of [`Request::Remove`](super::protocol::Request::Remove).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Remove {
    /// Local name or id of the VPI, as typed.
    pub vpi: String,
    /// The member, as typed.
    pub member: String,
    /// What the others are told.
    pub reason: Reason,
    /// Sign without having settled with another member since the start (protocol/README §12).
    pub offline: bool,
}

/// Why a member is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// Not said.
    #[default]
    Unspecified,
    /// The device was lost or stolen.
    Lost,
    /// Another device took its place.
    Replaced,
}

/// Who was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Removed {
    /// The VPI's name on this machine.
    pub vpi: String,
    /// As `nas.home`, or the first digits of its key.
    pub member: String,
    /// Its device key, 64 hexadecimal digits.
    pub id: String,
}

/// Arguments of [`Request::Revoke`](super::protocol::Request::Revoke).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revoke {
    /// Local name or id of the VPI, as typed.
    pub vpi: String,
    /// The invite's id, or as many of its first digits as no other has, as typed.
    pub invite: String,
    /// Sign without having settled with another member since the start (protocol/README §12).
    pub offline: bool,
}

/// Which invite was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revoked {
    /// The VPI's name on this machine.
    pub vpi: String,
    /// The invite's id, 32 hexadecimal digits.
    pub invite: String,
}

/// What this device left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Left {
    /// The VPI's former name on this machine.
    pub vpi: String,
    /// How many members are known to know; absent when others had removed this device.
    pub told: Option<u32>,
    /// What is to be taken off this machine.
    pub plan: Plan,
}

/// The invites of one VPI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Invites {
    /// The VPI's name on this machine.
    pub vpi: String,
    /// By their end.
    pub invites: Vec<InviteStatus>,
}

/// One invite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InviteStatus {
    /// Its id, 32 hexadecimal digits.
    pub invite: String,
    /// The name that the joiner takes; `null`: its own choice.
    pub name: Option<String>,
    /// The only device that may use it; `null`: any.
    pub device: Option<String>,
    /// Who made it, as `nas.home`; `null` when that is no member any more.
    pub admin: Option<String>,
    /// How many devices it lets in.
    pub uses: u64,
    /// How many more.
    pub uses_left: u64,
    /// The last moment at which it may be used.
    pub expires: Time,
    /// Whether it may.
    pub state: InviteState,
}

/// Whether an invite lets anybody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum InviteState {
    /// It does.
    Open,
    /// As many joined as it lets in.
    UsedUp,
    /// Its end has passed.
    Expired,
    /// An admin took it back.
    Revoked,
    /// Its admin's history does not bear it.
    Void,
}

impl fmt::Display for InviteState {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.pad(match self {
            Self::Open => "open",
            Self::UsedUp => "used up",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Void => "void",
        })
    }
}
