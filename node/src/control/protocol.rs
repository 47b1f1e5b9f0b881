//! What a command and the running node say to each other.
//!
//! A connection carries one request and its replies, each a line of JSON (RFC 8259) ended by `\n`:
//!
//! ```text
//! command                                node
//!    ── {"ping":{"member":"nas",…}} ──►
//!    ◄── {"pong":{"rtt_ms":8.4,…}} ──        none, one or many; see Reply::is_last
//!    ◄── "done" ──                           exactly one; then the node closes
//! ```
//!
//! The command keeps its side open until the last reply: closing it withdraws the request. The shapes under
//! [`Status`] and in the modules beside it are the JSON that node/README promises; the rest may change with any version.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use protocol::identity::{DeviceId, VpiId};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    exit::Failure,
    id,
    members::{Invites, Left, Remove, Removed, Revoke, Revoked, Who},
    netcheck::Netcheck,
    reach::{Expose, Opened, Reachable},
    status::{PathKind, Status, Time},
    why::Why,
};
use crate::metrics::Family;
use crate::store::reach::{Policy, Service};

/// The largest request: a token is 800 bytes, the lists beside it a few hundred each.
pub(crate) const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// The largest reply: a status of 20,000 members at 400 bytes each.
pub(crate) const MAX_REPLY_BYTES: usize = 8 * 1024 * 1024;

/// How long the node may be silent before a command gives up: long work reports [`Reply::Progress`] more often.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What a command asks of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Who is there; answered by [`Reply::Hello`].
    Hello,
    /// Found a VPI; answered by [`Reply::Entered`].
    Create(Create),
    /// Join a VPI; answered by [`Reply::Progress`], then [`Reply::Entered`].
    Join(Join),
    /// The machine is set up: open the TUN device of this VPI; answered by [`Reply::Done`].
    Attach {
        /// The VPI that was entered.
        #[serde(with = "id")]
        vpi: VpiId,
    },
    /// Close the TUN devices of this VPI, or of all; answered by [`Reply::Detached`].
    Detach {
        /// Local name or id, as typed.
        vpi: Option<String>,
    },
    /// Make an invite; answered by [`Reply::Invited`].
    Invite(Invite),
    /// Tell the state of this VPI, or of all; answered by [`Reply::Status`].
    Status {
        /// Local name or id, as typed.
        vpi: Option<String>,
        /// Whether to fill in [`VpiStatus::drops`](super::status::VpiStatus::drops).
        drops: bool,
    },
    /// Probe a member through its tunnel, once a second; answered by `count` [`Reply::Pong`]s, then
    /// [`Reply::Done`].
    Ping {
        /// `name.VPI`, a name or an alias, as typed.
        member: String,
        /// How many probes, at least 1.
        count: u32,
    },
    /// A person has seen the recovery phrase of this VPI; answered by [`Reply::Done`].
    Shown {
        /// The VPI that was founded.
        #[serde(with = "id")]
        vpi: VpiId,
    },
    /// Which device is this; answered by [`Reply::Device`]. The first to ask has the device key drawn.
    Device,
    /// Which member is this; answered by [`Reply::Who`].
    Whois {
        /// An alias.
        alias: Ipv4Addr,
    },
    /// Why is this member reached, or not; answered by [`Reply::Why`].
    Why {
        /// `name.VPI`, a name or an alias, as typed.
        member: String,
    },
    /// What stands between this machine and the internet; answered by [`Reply::Netcheck`].
    Netcheck {
        /// Local name or id of a VPI, as typed; the first one's socket without it.
        vpi: Option<String>,
        /// Whether servers and gateway are asked once more.
        looks: bool,
    },
    /// What members reach in this VPI, or in all; answered by [`Reply::Reachable`].
    Exposures {
        /// Local name or id, as typed.
        vpi: Option<String>,
    },
    /// Let members reach a service on 127.0.0.1; answered by [`Reply::Opened`].
    Expose(Expose),
    /// Close it again; answered by [`Reply::Opened`].
    Unexpose {
        /// Local name or id, as typed.
        vpi: String,
        /// What is exposed.
        service: Service,
    },
    /// Choose what members reach beyond the exposures; answered by [`Reply::Opened`].
    Policy {
        /// Local name or id, as typed.
        vpi: String,
        /// What they reach.
        policy: Policy,
    },
    /// The invites of a VPI; answered by [`Reply::Invites`].
    Invites {
        /// Local name or id, as typed.
        vpi: String,
    },
    /// Remove a member; answered by [`Reply::Removed`] when it is signed and on disk.
    Remove(Remove),
    /// Take an invite back; answered by [`Reply::Revoked`] when it is signed and on disk.
    Revoke(Revoke),
    /// Leave a VPI, or clear what is left of one that removed this device; answered by [`Reply::Left`].
    Leave {
        /// Local name or id, as typed.
        vpi: String,
    },
    /// Counters and gauges; answered by [`Reply::Metrics`].
    Metrics,
}

impl Request {
    /// Says whether the request changes anything, here or for other members.
    #[must_use]
    pub(crate) fn is_change(&self) -> bool {
        match self {
            Self::Hello
            | Self::Status { .. }
            | Self::Ping { .. }
            | Self::Device
            | Self::Whois { .. }
            | Self::Why { .. }
            | Self::Netcheck { .. }
            | Self::Exposures { .. }
            | Self::Invites { .. }
            | Self::Metrics => false,
            Self::Create(_)
            | Self::Join(_)
            | Self::Attach { .. }
            | Self::Detach { .. }
            | Self::Invite(_)
            | Self::Shown { .. }
            | Self::Expose(_)
            | Self::Unexpose { .. }
            | Self::Policy { .. }
            | Self::Remove(_)
            | Self::Revoke(_)
            | Self::Leave { .. } => true,
        }
    }
}

/// Arguments of [`Request::Create`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Create {
    /// The name of the VPI: 1 to 11 of `[a-z0-9-]`.
    pub name: String,
    /// How this device is called: 1 to 32 of `[a-z0-9-]`.
    pub member_name: String,
    /// The UDP port; the node chooses when absent.
    pub port: Option<u16>,
    /// Multiaddresses of beacons, each ending in a peer id.
    pub beacons: Vec<String>,
    /// Addresses under which others reach this device, beside those that the node finds out.
    pub endpoints: Vec<SocketAddr>,
}

/// Arguments of [`Request::Join`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Join {
    /// The invite token, without white space.
    pub token: Hidden,
    /// How this device is called: 1 to 32 of `[a-z0-9-]`.
    pub member_name: String,
    /// The UDP port; the node chooses when absent.
    pub port: Option<u16>,
    /// Addresses under which others reach this device, beside those that the node finds out.
    pub endpoints: Vec<SocketAddr>,
}

/// Arguments of [`Request::Invite`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Invite {
    /// Local name or id of the VPI, as typed.
    pub vpi: String,
    /// The name that the joining device must take.
    pub name: Option<String>,
    /// How many devices may join, 1 to 1,000.
    pub uses: u16,
    /// How long the token holds, in seconds, 1 s to 30 days.
    pub expires_s: u32,
    /// The one device that may join.
    #[serde(with = "id::optional")]
    pub device: Option<DeviceId>,
    /// Sign without having settled with another member since the start (protocol/README §12).
    pub offline: bool,
}

/// What the node answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// Who answers.
    Hello(Hello),
    /// One line for the person who waits; not the last reply.
    Progress(String),
    /// Founded or joined, and on disk.
    Entered(Entered),
    /// The devices that were closed, for the command to take away; empty when none was there.
    Detached(Vec<Plan>),
    /// The invite is made.
    Invited(Invited),
    /// The state of the node.
    Status(Status),
    /// One probe came back or was given up; not the last reply.
    Pong(Pong),
    /// The key of this device.
    Device {
        /// 64 hexadecimal digits.
        id: String,
    },
    /// Which member an alias is.
    Who(Who),
    /// What was tried to reach a member.
    Why(Why),
    /// What stands between this machine and the internet.
    Netcheck(Netcheck),
    /// What members reach, by the VPI's name.
    Reachable(Vec<Reachable>),
    /// What members reach was changed, and is on disk.
    Opened(Opened),
    /// The invites of one VPI.
    Invites(Invites),
    /// A member is removed.
    Removed(Removed),
    /// An invite is taken back.
    Revoked(Revoked),
    /// This device left a VPI, of which nothing is kept here; the machine's part is the command's.
    Left(Left),
    /// Counters and gauges.
    Metrics(Vec<Family>),
    /// Done, with nothing to tell.
    Done,
    /// Not done.
    Failed(Failure),
}

impl Reply {
    /// Says whether the connection closes after this reply.
    #[must_use]
    pub(crate) fn is_last(&self) -> bool {
        match self {
            Self::Progress(_) | Self::Pong(_) => false,
            Self::Hello(_)
            | Self::Entered(_)
            | Self::Detached(_)
            | Self::Invited(_)
            | Self::Status(_)
            | Self::Device { .. }
            | Self::Who(_)
            | Self::Why(_)
            | Self::Netcheck(_)
            | Self::Reachable(_)
            | Self::Opened(_)
            | Self::Invites(_)
            | Self::Removed(_)
            | Self::Revoked(_)
            | Self::Left(_)
            | Self::Metrics(_)
            | Self::Done
            | Self::Failed(_) => true,
        }
    }
}

/// The node behind the socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The version of the node's program.
    pub version: String,
    /// The user that the node runs as: the owner of its TUN devices.
    pub uid: u32,
    /// The inode of the network namespace that the node runs in.
    pub network: u64,
}

/// What a founded or joined VPI is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entered {
    /// The VPI's name on this machine.
    pub name: String,
    /// The VPI.
    #[serde(with = "id")]
    pub id: VpiId,
    /// The recovery key in hexadecimal: 32 bytes that the node drew and did not keep; on `create` only.
    pub recovery: Option<Hidden>,
    /// How the machine is to be set up; its `own` is the own alias.
    pub plan: Plan,
}

/// What one VPI has on this machine (node/README, On the machine); the MTU is the same for all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Name of the TUN device, `vpi-` and 1 to 11 of `[a-z0-9-]`.
    pub device: String,
    /// First address of the /16.
    pub prefix: Ipv4Addr,
    /// The own alias, within the prefix.
    pub own: Ipv4Addr,
    /// Services on 127.0.0.1 that the firewall table lets through.
    #[serde(default)]
    pub exposed: Vec<Service>,
}

/// A made invite; the JSON of `vpi invite --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Invited {
    /// The token.
    pub token: Hidden,
    /// The invite's id in hexadecimal.
    pub invite: String,
    /// The last moment at which it may be used.
    pub expires: Time,
    /// How many devices may join.
    pub uses: u16,
}

/// One probe of a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pong {
    /// The member, as `name.VPI`.
    pub member: String,
    /// Round trip in milliseconds; absent when no echo came in time.
    pub rtt_ms: Option<f64>,
    /// The kind of path it took; absent when there is none.
    pub path: Option<PathKind>,
}

/// Text that gives power to whoever reads it: wiped when dropped, never printed by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub(crate) struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden")
    }
}
