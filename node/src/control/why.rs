//! What `vpi why` tells: promised JSON.

use serde::{Deserialize, Serialize};

use super::status::{MemberState, PathStatus};

/// Why a member is reached, or is not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Why {
    /// The member, as `nas.home`.
    pub member: String,
    /// How it stands.
    pub state: MemberState,
    /// The selected path, if there is one.
    pub path: Option<PathStatus>,
    /// What keeps it, or what is asked of it, from being reached: a word that stays.
    pub cause: Cause,
    /// Bytes of the largest packet that goes to it whole.
    pub packet_bytes: Option<u16>,
    /// What the NATs at both ends are, as far as is known.
    pub nats: Nats,
    /// What came of it, lately, when applications of this machine asked for something there and got no answer.
    pub refused: Vec<Refused>,
    /// What was tried, and what came of it; the oldest first.
    pub steps: Vec<Tried>,
    /// One sentence: what that means, and what would help.
    pub advice: String,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cause {
    /// Nothing.
    None,
    /// There is no link, and nobody asked for one.
    NotWanted,
    /// It asked to join and was not let in yet.
    NotAdmitted,
    /// The member was removed.
    Removed,
    /// This device was.
    RemovedHere,
    /// This machine is on no network.
    NoNetwork,
    /// This machine's clock is wrong.
    ClockHere,
    /// A member's clock and this machine's are too far apart.
    Clocks,
    /// The member does not let this device reach what was asked for.
    Policy,
    /// Nothing listens there.
    NotListening,
    /// A firewall on the member's machine drops or rejects what was asked for.
    Firewall,
    /// Large datagrams do not pass, and are avoided.
    NarrowPath,
    /// Not even those pass that every path should carry.
    MtuHole,
    /// No UDP passes at this end.
    UdpBlockedHere,
    /// None passes at the other.
    UdpBlockedThere,
    /// Both NATs give out other ports for each target, and nobody passes on.
    HardNats,
    /// No direct path was found, and nobody passes on.
    NoDirectPath,
    /// No beacon answers.
    BeaconsSilent,
    /// The member does not answer.
    PeerSilent,
}

/// NATs, by words that stay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Nats {
    /// Before this machine.
    pub own: String,
    /// Before the member's.
    pub theirs: String,
}

/// What was asked for in vain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Refused {
    /// `tcp/22`, `udp/53` or `echo`.
    pub service: String,
    /// `policy`, `firewall`, `not_listening` or `no_answer`.
    pub by: String,
    /// How long ago, in seconds.
    pub ago_s: f64,
}

/// One thing that was tried, or that came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tried {
    /// How long ago, in seconds.
    pub ago_s: f64,
    /// Which kind of thing: a word that stays.
    pub step: String,
    /// In a sentence.
    pub text: String,
}
