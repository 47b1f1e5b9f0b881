//! What a member may reach.
//!
//! In: one packet, from a member's session or from an application. Out: passed, or the reason to drop it.
//! Nothing is remembered between packets.

pub mod verdict;

pub use verdict::{inbound, outbound};

#[cfg(test)]
mod tests;
