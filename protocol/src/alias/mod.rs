//! 127.x.y.z ↔ member.
//!
//! Owns which alias a member has on this machine ([`assign`] says which is preferred, [`table`] who holds which)
//! and puts the two aliases of a session into its packets ([`mod@rewrite`]). An alias is each machine's own choice:
//! nothing here is told to or taken from others. README §13.

pub mod assign;
pub mod rewrite;
pub mod table;

pub use assign::{preferred_prefix, prefixes};
pub use rewrite::{RewriteError, rewrite, rewrite_source};
pub use table::{AliasTable, Assigned, Pin, PinError, TableFull};

#[cfg(test)]
mod tests;
