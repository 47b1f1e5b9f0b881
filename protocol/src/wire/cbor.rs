//! Deterministic CBOR (RFC 8949 §4.2.1), the strict subset in which every signed object is written.
//!
//! Allowed: unsigned and negative integers, byte strings, text, arrays, maps with ascending unsigned keys, false
//! and true; each length definite and each number in its shortest form, at most [`MAX_DEPTH`] levels, nothing
//! behind the end. In go bytes that nobody vouches for; out come fields, or a [`CborError`]. One value therefore
//! has one encoding, and a signature or an id over bytes is one over the value.
//!
//! An object's body is one map whose fields are read in ascending order (`MapReader`) and written in the same
//! order (`MapWriter`). Fields from [`FIRST_EXTENSION`] on belong to later versions: they are kept as they came.

#[cfg(test)]
mod tests;

use minicbor::data::Type;
use minicbor::decode::Error as DecodeError;
use minicbor::{Decoder, Encoder};

/// Levels of arrays and maps, the outermost counted (specified: README §10).
pub const MAX_DEPTH: usize = 4;

/// The first field number that a decoder keeps without knowing it (specified: README §10).
pub const FIRST_EXTENSION: u64 = 64;

/// Why bytes are not the map that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// They end early, or are no CBOR at all.
    #[error("the bytes end early or are no CBOR")]
    Malformed,
    /// They are CBOR, but not in its one deterministic form, or have bytes behind their end.
    #[error("the CBOR is not in deterministic form")]
    NotCanonical,
    /// A required field is missing, or a field has the wrong type, size or range.
    #[error("field {0} is missing or out of range")]
    Field(u64),
    /// A field that no version of this object has.
    #[error("field {0} is not known")]
    UnknownField(u64),
}

impl From<DecodeError> for CborError {
    fn from(_: DecodeError) -> Self {
        Self::Malformed
    }
}

/// Checks that `bytes` are exactly one item of the subset.
///
/// # Errors
/// [`CborError::Malformed`] or [`CborError::NotCanonical`].
pub fn canonical(bytes: &[u8]) -> Result<(), CborError> {
    let mut decoder = Decoder::new(bytes);
    canonical_item(&mut decoder, 0)?;
    if decoder.position() == bytes.len() { Ok(()) } else { Err(CborError::NotCanonical) }
}

/// The fields of later versions, as they came: their keys and values, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    fields: u64,
    bytes: Vec<u8>,
}

impl Extensions {
    /// How many fields there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.fields
    }
}

/// Reads one map, field by field, in ascending order.
pub(crate) struct MapReader<'b> {
    decoder: Decoder<'b>,
    left: u64,
}

impl<'b> MapReader<'b> {
    /// Begins with `bytes`, which must be one map of the subset and nothing else.
    ///
    /// # Errors
    /// As [`canonical`]; [`CborError::NotCanonical`] also for what is no map.
    pub(crate) fn open(bytes: &'b [u8]) -> Result<Self, CborError> {
        canonical(bytes)?;
        let mut decoder = Decoder::new(bytes);
        if decoder.datatype()? != Type::Map {
            return Err(CborError::NotCanonical);
        }
        let left = decoder.map()?.ok_or(CborError::NotCanonical)?;
        Ok(Self { decoder, left })
    }

    /// Reads field `key` with `read` if it is the next one; `None` when the map has no such field.
    ///
    /// # Errors
    /// [`CborError::Field`] when `read` refuses the value.
    pub(crate) fn optional<T>(
        &mut self,
        key: u64,
        read: impl FnOnce(&mut Decoder<'b>) -> Option<T>,
    ) -> Result<Option<T>, CborError> {
        if self.next_key()? != Some(key) {
            return Ok(None);
        }
        self.decoder.u64()?;
        self.left -= 1;
        read(&mut self.decoder).map(Some).ok_or(CborError::Field(key))
    }

    /// Reads field `key` with `read`.
    ///
    /// # Errors
    /// [`CborError::Field`] when it is not the next one, or when `read` refuses the value.
    pub(crate) fn required<T>(
        &mut self,
        key: u64,
        read: impl FnOnce(&mut Decoder<'b>) -> Option<T>,
    ) -> Result<T, CborError> {
        self.optional(key, read)?.ok_or(CborError::Field(key))
    }

    /// Ends the map and returns the fields of later versions.
    ///
    /// # Errors
    /// [`CborError::UnknownField`] for a field that was not read and is below [`FIRST_EXTENSION`].
    pub(crate) fn finish(mut self) -> Result<Extensions, CborError> {
        let start = self.decoder.position();
        let fields = self.left;
        while let Some(key) = self.next_key()? {
            if key < FIRST_EXTENSION {
                return Err(CborError::UnknownField(key));
            }
            self.skip_field()?;
        }
        let bytes = self.decoder.input().get(start..self.decoder.position()).unwrap_or_default().to_vec();
        Ok(Extensions { fields, bytes })
    }

    /// The key of the next field; `None` at the end.
    pub(crate) fn next_key(&self) -> Result<Option<u64>, CborError> {
        if self.left == 0 { Ok(None) } else { Ok(Some(self.decoder.clone().u64()?)) }
    }

    /// Passes over the next field, whatever it holds.
    pub(crate) fn skip_field(&mut self) -> Result<(), CborError> {
        self.decoder.u64()?;
        self.decoder.skip()?;
        self.left -= 1;
        Ok(())
    }
}

/// An unsigned integer of at most `most`.
pub(crate) fn read_uint(decoder: &mut Decoder<'_>, most: u64) -> Option<u64> {
    decoder.u64().ok().filter(|value| *value <= most)
}

/// A byte string of exactly `N` bytes.
pub(crate) fn read_bytes<const N: usize>(decoder: &mut Decoder<'_>) -> Option<[u8; N]> {
    decoder.bytes().ok()?.try_into().ok()
}

/// An array of at most `most` items, each read with `read`.
pub(crate) fn read_list<'b, T>(
    decoder: &mut Decoder<'b>,
    most: usize,
    mut read: impl FnMut(&mut Decoder<'b>) -> Option<T>,
) -> Option<Vec<T>> {
    let length = usize::try_from(decoder.array().ok()??).ok()?;
    if length > most {
        return None;
    }
    (0..length).map(|_| read(decoder)).collect()
}

/// The head of an array of exactly `length` items, which the caller reads next.
pub(crate) fn read_tuple(decoder: &mut Decoder<'_>, length: u64) -> Option<()> {
    (decoder.array().ok()?? == length).then_some(())
}

/// Writes one map, field by field, in ascending order.
pub(crate) struct MapWriter {
    encoder: Encoder<Vec<u8>>,
    fields: u64,
}

/// Why every call to an [`Encoder`] over a `Vec` is expected to succeed.
pub(crate) const IN_MEMORY: &str = "writing to memory does not fail";

impl MapWriter {
    /// Begins an empty map.
    pub(crate) fn new() -> Self {
        Self { encoder: Encoder::new(Vec::new()), fields: 0 }
    }

    /// Adds an unsigned integer.
    pub(crate) fn uint(self, key: u64, value: u64) -> Self {
        self.with(key, |encoder| {
            encoder.u64(value).expect(IN_MEMORY);
        })
    }

    /// Adds a byte string.
    pub(crate) fn bytes(self, key: u64, value: &[u8]) -> Self {
        self.with(key, |encoder| {
            encoder.bytes(value).expect(IN_MEMORY);
        })
    }

    /// Adds text.
    pub(crate) fn text(self, key: u64, value: &str) -> Self {
        self.with(key, |encoder| {
            encoder.str(value).expect(IN_MEMORY);
        })
    }

    /// Adds an array, each item written with `write`.
    pub(crate) fn list<T>(self, key: u64, items: &[T], write: impl Fn(&mut Encoder<Vec<u8>>, &T)) -> Self {
        self.with(key, |encoder| {
            encoder.array(items.len() as u64).expect(IN_MEMORY);
            items.iter().for_each(|item| write(encoder, item));
        })
    }

    /// Adds a field whose value `write` writes.
    pub(crate) fn with(mut self, key: u64, write: impl FnOnce(&mut Encoder<Vec<u8>>)) -> Self {
        self.encoder.u64(key).expect(IN_MEMORY);
        write(&mut self.encoder);
        self.fields += 1;
        self
    }

    /// Ends the map with the fields of later versions and returns its bytes.
    pub(crate) fn finish(self, extensions: &Extensions) -> Vec<u8> {
        let mut head = Encoder::new(Vec::new());
        head.map(self.fields + extensions.fields).expect(IN_MEMORY);
        let mut bytes = head.into_writer();
        bytes.append(&mut self.encoder.into_writer());
        bytes.extend_from_slice(&extensions.bytes);
        bytes
    }
}

/// Passes over one item and checks its form; `depth` levels lie around it.
fn canonical_item(decoder: &mut Decoder<'_>, depth: usize) -> Result<(), CborError> {
    let start = decoder.position();
    match decoder.datatype()? {
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => {
            canonical_key(decoder)?;
            Ok(())
        }
        Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::Int => {
            let value = i128::from(decoder.int()?);
            let argument = u64::try_from(-1 - value).map_err(|_| CborError::NotCanonical)?;
            shortest_head(decoder.position() - start, argument)
        }
        Type::Bytes => {
            let length = decoder.bytes()?.len();
            shortest_head(decoder.position() - start - length, length as u64)
        }
        Type::String => {
            let length = decoder.str()?.len();
            shortest_head(decoder.position() - start - length, length as u64)
        }
        Type::Array => {
            let length = decoder.array()?.ok_or(CborError::NotCanonical)?;
            shortest_head(decoder.position() - start, length)?;
            let inner = one_deeper(depth)?;
            (0..length).try_for_each(|_| canonical_item(decoder, inner))
        }
        Type::Map => canonical_map(decoder, one_deeper(depth)?),
        Type::Bool => {
            decoder.bool()?;
            Ok(())
        }
        _ => Err(CborError::NotCanonical),
    }
}

fn canonical_map(decoder: &mut Decoder<'_>, inner: usize) -> Result<(), CborError> {
    let start = decoder.position();
    let length = decoder.map()?.ok_or(CborError::NotCanonical)?;
    shortest_head(decoder.position() - start, length)?;
    let mut previous = None;
    for _ in 0..length {
        if !matches!(decoder.datatype()?, Type::U8 | Type::U16 | Type::U32 | Type::U64) {
            return Err(CborError::NotCanonical);
        }
        let key = canonical_key(decoder)?;
        if previous.is_some_and(|previous| previous >= key) {
            return Err(CborError::NotCanonical);
        }
        previous = Some(key);
        canonical_item(decoder, inner)?;
    }
    Ok(())
}

/// An unsigned integer in its shortest form.
fn canonical_key(decoder: &mut Decoder<'_>) -> Result<u64, CborError> {
    let start = decoder.position();
    let value = decoder.u64()?;
    shortest_head(decoder.position() - start, value)?;
    Ok(value)
}

fn one_deeper(depth: usize) -> Result<usize, CborError> {
    if depth < MAX_DEPTH { Ok(depth + 1) } else { Err(CborError::NotCanonical) }
}

/// RFC 8949 §3: the argument of a head takes 0, 1, 2, 4 or 8 bytes behind the first.
fn shortest_head(head_bytes: usize, argument: u64) -> Result<(), CborError> {
    let shortest = match argument {
        0..24 => 1,
        24..0x100 => 2,
        0x100..0x1_0000 => 3,
        0x1_0000..0x1_0000_0000 => 5,
        _ => 9,
    };
    if head_bytes == shortest { Ok(()) } else { Err(CborError::NotCanonical) }
}
