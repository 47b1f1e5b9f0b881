//! What a member may reach.
//!
//! In: one packet, from a member's session or from an application, and what this machine's owner lets the member reach.
//! Out: where the packet goes, or the reason to drop it. README §13.
//!
//! | file | decides by |
//! |---|---|
//! | `verdict` | the packet's own bytes: what is carried at all, whoever it is from |
//! | `access` | the member's [`Share`]: own alias, 127.0.0.1, or nothing |
//! | `exposure` | what the owner said: [`Policy`] and [`Exposure`]s |
//! | `flow` | what applications of this machine began |
//! | `fragment` | where a packet's first fragment went |

mod access;
mod exposure;
mod flow;
mod fragment;
pub mod verdict;

pub use access::{Access, Target};
pub use exposure::{EXPOSURES_MAX, Exposure, Policy, Protocol, Reach, ReachError, Share};
pub use flow::{FLOWS_MAX, Flows};
pub use fragment::FRAGMENTED_MAX;
pub use verdict::{inbound, outbound, outgoing};

#[cfg(test)]
mod tests;
