//! The envelope around a body: its bytes, its signatures, and who must have made them.

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use super::{Kind, ObjectError};
use crate::identity::{PublicKey, SigningSecret};
use crate::wire::cbor::{IN_MEMORY, MapReader, canonical, read_bytes, read_list, read_tuple};

/// Bytes of a body, at most (specified: README §10).
pub const MAX_BODY_BYTES: usize = 2_048;

/// Signatures on one object, at most (specified: README §10).
pub const MAX_SIGNATURES: usize = 16;

/// Bytes of an envelope, at most: array head, version, the body behind a three-byte head, the list's head, and
/// for each signature two one- and two-byte heads around 8 and 64 bytes.
pub const MAX_OBJECT_BYTES: usize = 1 + 1 + 3 + MAX_BODY_BYTES + 1 + MAX_SIGNATURES * SIGNATURE_BYTES;

const VERSION: u64 = 1;
const SIGNATURE_BYTES: usize = 1 + 1 + 8 + 2 + 64;

type KeyId = [u8; 8];

/// An envelope whose form holds and whose signatures nobody has verified.
pub(super) struct Envelope<'b> {
    pub(super) body: &'b [u8],
    signatures: Vec<(KeyId, [u8; 64])>,
}

impl<'b> Envelope<'b> {
    /// Takes an envelope apart.
    ///
    /// # Errors
    /// [`ObjectError::TooLarge`]; [`ObjectError::Envelope`] for anything but the form of version 1.
    pub(super) fn read(bytes: &'b [u8]) -> Result<Self, ObjectError> {
        if bytes.len() > MAX_OBJECT_BYTES {
            return Err(ObjectError::TooLarge);
        }
        canonical(bytes).map_err(|_| ObjectError::Envelope)?;
        let mut decoder = Decoder::new(bytes);
        let (body, signatures) = parts(&mut decoder).ok_or(ObjectError::Envelope)?;
        if body.len() > MAX_BODY_BYTES {
            return Err(ObjectError::TooLarge);
        }
        Ok(Self { body, signatures })
    }

    /// Checks that the signatures are one of `message` by each of `signers`, and no other.
    ///
    /// # Errors
    /// [`ObjectError::Signers`] when they are by other keys, [`ObjectError::Signature`] when one is forged.
    pub(super) fn verify(&self, message: &[u8], signers: &[PublicKey]) -> Result<(), ObjectError> {
        let named = signers.iter().map(key_id);
        if !named.eq(self.signatures.iter().map(|(id, _)| *id)) {
            return Err(ObjectError::Signers);
        }
        let all =
            signers.iter().zip(&self.signatures).all(|(key, (_, signature))| key.verify(message, signature));
        if all { Ok(()) } else { Err(ObjectError::Signature) }
    }
}

/// The keys that a body of `kind` names as its signers, ascending by key id.
///
/// # Errors
/// [`ObjectError::Signers`] when it names none, too many, or two with one key id.
pub(super) fn named_signers(kind: Kind, body: &[u8]) -> Result<Vec<PublicKey>, ObjectError> {
    let mut map = MapReader::open(body)?;
    let mut signers = Vec::new();
    while let Some(key) = map.next_key()? {
        if kind.signer_fields().contains(&key) {
            let mut named = map.required(key, keys)?;
            signers.append(&mut named);
        } else {
            map.skip_field()?;
        }
    }
    signers.sort_unstable();
    let is_ascending = signers.windows(2).all(|pair| match pair {
        [a, b] => key_id(a) < key_id(b),
        _ => true,
    });
    let is_bounded = (kind.signer_fields().len()..=MAX_SIGNATURES).contains(&signers.len());
    if is_ascending && is_bounded { Ok(signers) } else { Err(ObjectError::Signers) }
}

/// Writes the envelope of `body` with the signature of `message` by each of `signers`.
pub(super) fn write(body: &[u8], message: &[u8], signers: &[&SigningSecret]) -> Vec<u8> {
    let mut signatures: Vec<_> =
        signers.iter().map(|secret| (key_id(&secret.public()), secret.sign(message))).collect();
    signatures.sort_unstable();
    let mut encoder = Encoder::new(Vec::new());
    encoder.array(3).expect(IN_MEMORY).u64(VERSION).expect(IN_MEMORY);
    encoder.bytes(body).expect(IN_MEMORY).array(signatures.len() as u64).expect(IN_MEMORY);
    for (id, signature) in &signatures {
        encoder.array(2).expect(IN_MEMORY).bytes(id).expect(IN_MEMORY).bytes(signature).expect(IN_MEMORY);
    }
    encoder.into_writer()
}

type Parts<'b> = (&'b [u8], Vec<(KeyId, [u8; 64])>);

fn parts<'b>(decoder: &mut Decoder<'b>) -> Option<Parts<'b>> {
    read_tuple(decoder, 3)?;
    (decoder.u64().ok()? == VERSION).then_some(())?;
    let body = decoder.bytes().ok()?;
    let signatures = read_list(decoder, MAX_SIGNATURES, |d| {
        read_tuple(d, 2)?;
        Some((read_bytes(d)?, read_bytes(d)?))
    })?;
    Some((body, signatures))
}

/// One key, or an array of keys.
fn keys(decoder: &mut Decoder<'_>) -> Option<Vec<PublicKey>> {
    match decoder.datatype().ok()? {
        Type::Bytes => Some(vec![PublicKey(read_bytes(decoder)?)]),
        _ => read_list(decoder, MAX_SIGNATURES, |d| read_bytes(d).map(PublicKey)),
    }
}

fn key_id(key: &PublicKey) -> KeyId {
    let [a, b, c, d, e, f, g, h, ..] = key.0;
    [a, b, c, d, e, f, g, h]
}
