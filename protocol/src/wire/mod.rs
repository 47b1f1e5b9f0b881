//! Bytes ↔ messages. Nothing here holds state or keys.

pub mod address;
pub mod announcement;
pub mod cbor;
pub mod checksum;
pub mod header;
pub mod hello;
pub mod ip;
pub mod message;
pub mod portmap;
pub mod stun;
