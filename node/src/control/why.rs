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
    /// What was tried, and what came of it; the oldest first.
    pub steps: Vec<Tried>,
    /// One sentence: what that means, and what would help.
    pub advice: String,
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
