//! Bytes ↔ messages.

pub mod cbor;
