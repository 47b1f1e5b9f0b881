//! The state of a node as `vpi status --json` shows it. Names and shapes are promised in node/README.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::store::reach::Policy;

/// Everything that `vpi status` tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The version of the node's program.
    pub version: String,
    /// The VPIs, by name.
    pub vpis: Vec<VpiStatus>,
}

/// One VPI.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct VpiStatus {
    /// Its name on this machine.
    pub name: String,
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// The own alias.
    pub alias: Ipv4Addr,
    /// The /16 of its aliases, as `127.80.0.0/16`.
    pub prefix: String,
    /// The TUN device.
    pub device: String,
    /// The UDP port.
    pub port: u16,
    /// The number of the newest epoch.
    pub epoch: u64,
    /// The beacons it uses.
    pub beacons: Vec<BeaconStatus>,
    /// Its members, this node among them.
    pub members: Vec<MemberStatus>,
    /// What members reach on this machine beyond the exposures.
    pub policy: Policy,
    /// What a person should know, one sentence each.
    pub notices: Vec<String>,
    /// What was dropped since the start, by reason; reasons never met are left out. Only when asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub drops: Option<BTreeMap<String, u64>>,
}

/// One beacon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BeaconStatus {
    /// Its multiaddress.
    pub address: String,
    /// How it does: `unknown`, `answers`, `silent` or `reserved`.
    pub state: String,
    /// Round trip in milliseconds, once measured.
    pub rtt_ms: Option<f64>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MemberStatus {
    /// Its name.
    pub name: String,
    /// Its device key, 64 hexadecimal digits.
    pub id: String,
    /// Its alias on this machine.
    pub alias: Ipv4Addr,
    /// Whether the alias is the one that other machines are likely to use too.
    pub alias_usual: bool,
    /// How it stands.
    pub state: MemberState,
    /// The selected path; absent when there is none.
    pub path: Option<PathStatus>,
    /// Bytes of datagrams with packets received since the start.
    pub rx_bytes: u64,
    /// Bytes of datagrams with packets sent since the start.
    pub tx_bytes: u64,
    /// When something authentic last came from it.
    pub last_seen: Option<Time>,
}

/// How a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MemberState {
    /// This node.
    #[serde(rename = "self")]
    Own,
    /// Not yet a member in everybody's eyes.
    Joining,
    /// No link, none wanted.
    Idle,
    /// A link is being made.
    Connecting,
    /// A link without a third party.
    Direct,
    /// A link through another member.
    Relayed,
    /// A link through a beacon that carries packets.
    Carried,
    /// A link was wanted and could not be made.
    Unreachable,
    /// Joined by an invite that had more takers than uses.
    Contested,
    /// Removed.
    Removed,
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Own => "self",
            Self::Joining => "joining",
            Self::Idle => "idle",
            Self::Connecting => "connecting",
            Self::Direct => "direct",
            Self::Relayed => "relayed",
            Self::Carried => "carried",
            Self::Unreachable => "unreachable",
            Self::Contested => "contested",
            Self::Removed => "removed",
        })
    }
}

/// The selected path to a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PathStatus {
    /// What kind of path it is.
    pub kind: PathKind,
    /// The own end, address and port.
    pub local: String,
    /// The far end, address and port; with a relay that one's, and behind a `#` what it calls the way.
    pub remote: String,
    /// The name of the member that relays, or the address of the beacon that carries, if one does.
    pub via: Option<String>,
    /// Smoothed round trip in milliseconds, once measured.
    pub rtt_ms: Option<f64>,
}

/// Kinds of path, by the candidate at the far end (RFC 8445 §5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PathKind {
    /// An address of the other machine itself.
    Host,
    /// An address that a NAT gave it.
    Reflexive,
    /// An address that a NAT gave on request (PCP, NAT-PMP, UPnP).
    Mapped,
    /// Through a fellow member.
    Relayed,
    /// Through a beacon that carries packets, over TCP.
    Carried,
    /// Through a beacon, over TCP: no packets.
    Tcp,
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Host => "host",
            Self::Reflexive => "reflexive",
            Self::Mapped => "mapped",
            Self::Relayed => "relayed",
            Self::Carried => "carried",
            Self::Tcp => "tcp",
        })
    }
}

/// A moment in unix seconds, written as RFC 3339 in UTC: `2026-01-01T00:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(jiff::Timestamp);

impl Time {
    /// The moment `seconds` after 1970; the end of the year 9999 for anything later.
    #[must_use]
    pub(crate) fn from_unix(seconds: u64) -> Self {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let last = jiff::Timestamp::MAX.as_second();
        Self(
            jiff::Timestamp::from_second(seconds.min(last))
                .expect("a second between 1970 and the last one is valid"),
        )
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|_| D::Error::custom("a time has the form of RFC 3339"))
    }
}
