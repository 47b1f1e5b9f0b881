//! Bytes ↔ messages.
