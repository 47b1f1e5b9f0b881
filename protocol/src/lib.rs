//! What a node of a Virtual Private Internet decides.

pub mod alias;
pub mod drop;
pub mod filter;
pub mod identity;
pub mod membership;
pub mod wire;
