//! What a node of a Virtual Private Internet decides.
#![forbid(unsafe_code)]

pub mod alias;
pub mod drop;
pub mod engine;
pub mod filter;
pub mod forward;
pub mod gate;
pub mod identity;
pub mod membership;
pub mod path;
pub mod random;
pub mod tunnel;
pub mod veil;
pub mod wire;
