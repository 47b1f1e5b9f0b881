//! The fields that several kinds share, read strictly: keys, ids, names, times, sequences.

use minicbor::Decoder;

use super::is_name;
use crate::identity::{ObjectId, PublicKey, StaticKey, StaticSecret};
use crate::wire::cbor::{CborError, MapReader, read_bytes, read_uint};

/// The largest time, sequence, counter or version that decodes (chosen: no sum of a few of them overflows, and
/// no honest count comes near).
pub const MAX_COUNT: u64 = 1 << 40;

/// A time in unix seconds, a sequence, a counter or a version.
pub(super) fn count(decoder: &mut Decoder<'_>) -> Option<u64> {
    read_uint(decoder, MAX_COUNT)
}

/// An Ed25519 public key.
pub(super) fn key(decoder: &mut Decoder<'_>) -> Option<PublicKey> {
    read_bytes(decoder).map(PublicKey)
}

/// An object's id.
pub(super) fn object_id(decoder: &mut Decoder<'_>) -> Option<ObjectId> {
    read_bytes(decoder).map(ObjectId)
}

/// An X25519 public key that is not of low order (RFC 7748 §6.1): agreeing with one gives zero for any secret.
pub(super) fn static_key(decoder: &mut Decoder<'_>) -> Option<StaticKey> {
    let key = StaticKey(read_bytes(decoder)?);
    StaticSecret::from_bytes([1; 32]).agree(&key).map(|_| key)
}

/// A name of 1 to `most` of `[a-z0-9-]`.
pub(super) fn name(decoder: &mut Decoder<'_>, most: usize) -> Option<String> {
    decoder.str().ok().filter(|name| is_name(name, most)).map(ToOwned::to_owned)
}

/// Fields 1 to 4 of every object in an admin's chain: admin, sequence, predecessor, time.
pub(super) fn chain(map: &mut MapReader<'_>) -> Result<(PublicKey, u64, ObjectId, u64), CborError> {
    Ok((map.required(1, key)?, map.required(2, count)?, map.required(3, object_id)?, map.required(4, count)?))
}
