//! What a node of a Virtual Private Internet decides.
#![forbid(unsafe_code)]

pub mod drop;
pub mod gate;
pub mod identity;
pub mod path;
pub mod tunnel;
pub mod veil;
pub mod wire;
