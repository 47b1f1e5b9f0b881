//! Bytes ↔ messages.

pub mod checksum;
pub mod ip;
