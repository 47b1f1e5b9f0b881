//! An object as members exchange it: opened from bytes that anybody sent, or signed here.

use std::fmt;
use std::sync::Arc;

use super::body::{body_id, kind_of};
use super::{Body, Kind, envelope};
use crate::identity::{ObjectId, SigningSecret, VpiId};
use crate::wire::cbor::CborError;

/// Why bytes are no object, or why an object cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// The body is over [`MAX_BODY_BYTES`](super::MAX_BODY_BYTES), or there are over [`MAX_SIGNATURES`](super::MAX_SIGNATURES).
    #[error("the object is larger than any may be")]
    TooLarge,
    /// The envelope is not one of version 1 in its one form.
    #[error("the envelope is not of a known form")]
    Envelope,
    /// The body's bytes or fields are off.
    #[error("the body does not decode: {0}")]
    Body(#[from] CborError),
    /// A kind that this version does not know.
    #[error("objects of kind {0} are not known")]
    UnknownKind(u64),
    /// The signatures are not exactly those of the keys that the body names.
    #[error("the signatures are not by exactly the named signers")]
    Signers,
    /// A signature does not verify in this VPI.
    #[error("a signature does not verify")]
    Signature,
    /// A charter of version 0 that founds another VPI.
    #[error("the charter founds another VPI")]
    OtherVpi,
}

/// One object whose signatures, encoding and fields hold. Cheap to clone; equal ids are equal objects.
#[derive(Clone)]
pub struct Object(Arc<Opened>);

struct Opened {
    id: ObjectId,
    body: Body,
    bytes: Arc<[u8]>,
}

impl Object {
    /// Opens the envelope `bytes`, at most [`MAX_OBJECT_BYTES`](super::MAX_OBJECT_BYTES), as an object of `vpi`.
    ///
    /// The received bytes are verified first, by exactly the keys that the body names; then the body is decoded
    /// strictly; then encoding the result must give the same bytes again (README §10).
    ///
    /// # Errors
    /// An [`ObjectError`] that says which of it does not hold.
    pub fn open(vpi: &VpiId, bytes: &[u8]) -> Result<Self, ObjectError> {
        let envelope = envelope::Envelope::read(bytes)?;
        let kind = kind_of(envelope.body)?;
        let signers = envelope::named_signers(kind, envelope.body)?;
        envelope.verify(&signed_bytes(kind, vpi, envelope.body), &signers)?;
        let body = Body::decode(envelope.body)?;
        if body.encode() != envelope.body {
            return Err(CborError::NotCanonical.into());
        }
        let id = body_id(envelope.body);
        if matches!(&body, Body::Charter(charter) if charter.version == 0) && id.0 != vpi.0 {
            return Err(ObjectError::OtherVpi);
        }
        Ok(Self(Arc::new(Opened { id, body, bytes: bytes.into() })))
    }

    /// The kind that an envelope says it holds; nothing is verified. `None` if it has no known one.
    #[must_use]
    pub fn kind_in(bytes: &[u8]) -> Option<Kind> {
        kind_of(envelope::Envelope::read(bytes).ok()?.body).ok()
    }

    /// Signs `body` as an object of `vpi` with `signers`, the secrets of exactly the keys it names, in any order.
    ///
    /// # Errors
    /// As [`Object::open`], which the result has passed: what is signed here, every member accepts.
    pub fn sign(vpi: &VpiId, body: &Body, signers: &[&SigningSecret]) -> Result<Self, ObjectError> {
        let encoded = body.encode();
        let message = signed_bytes(body.kind(), vpi, &encoded);
        Self::open(vpi, &envelope::write(&encoded, &message, signers))
    }

    /// SHA-256 of `"vpi/v1 id"` and the body.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.0.id
    }

    /// What it says.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.0.body
    }

    /// The kind of its body.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.body.kind()
    }

    /// The envelope as it came, at most [`MAX_OBJECT_BYTES`](super::MAX_OBJECT_BYTES).
    #[must_use]
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.0.bytes
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Object {}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:?})", self.kind().name(), self.0.id)
    }
}

/// The bytes that signers sign.
pub(super) fn signed_bytes(kind: Kind, vpi: &VpiId, body: &[u8]) -> Vec<u8> {
    [b"vpi/v1 ", kind.name().as_bytes(), &[0], &vpi.0, body].concat()
}
