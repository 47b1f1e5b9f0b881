//! Bytes ↔ messages. Nothing here holds state or keys.

pub mod header;
pub mod message;
