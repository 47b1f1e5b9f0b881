//! Who is meant by what was typed, and what is told of members and invites. The answers are promised JSON.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

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
