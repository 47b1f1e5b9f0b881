//! A record: what the DHT keeps, and all that can be checked of it without a secret (README §18).
//!
//! ```text
//!  0         1        33             41           49         73                       n-64           n
//! +---------+--------+--------------+------------+----------+-------------------------+--------------+
//! | version | A' 32  | sequence u64 | expiry u64 | nonce 24 | sealed: length u16 |    | signature 64 |
//! | 1       |        |              |            |          | content | zeros  + 16   |              |
//! +---------+--------+--------------+------------+----------+-------------------------+--------------+
//!   AAD of the box = bytes 0..49          signed = "vpi/v1 record" ‖ 00 ‖ bytes 0..n-64, by A'
//! key = SHA-256(A')      sequence and expiry in unix seconds; the expiry is a full hour
//! ```
//!
//! A beacon learns of a record its class (from its size), its hour and when it was written. [`check`] is the same for
//! beacons, which store what passes, and for readers, who then open the box.

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::blind::BlindedSigner;
use super::slot::{LIFE_SECS, NEXT_SECS, SLOT_SECS};
use crate::identity::{PublicKey, Secret, SigningSecret, sha256};
use crate::random::{self, Rng};

/// Bytes of a record's key.
pub const KEY_BYTES: usize = 32;
/// The version of every record (specified).
pub const VERSION: u8 = 1;
/// How far ahead of the checker's clock a sequence may be, in seconds; an expiry gets the same (specified: README §18).
pub const MAX_AHEAD_SECS: u64 = 300;
/// How long a bulletin lives, in seconds: 30 days (specified: README §18).
pub const BULLETIN_LIFE_SECS: u64 = 30 * 86_400;

/// What is signed starts with this, so that no record is a signature over anything else.
const DOMAIN: &[u8] = b"vpi/v1 record\0";
const PUBLIC_AT: usize = 1;
const SEQUENCE_AT: usize = PUBLIC_AT + 32;
const EXPIRY_AT: usize = SEQUENCE_AT + 8;
const NONCE_AT: usize = EXPIRY_AT + 8;
const SEALED_AT: usize = NONCE_AT + 24;
const TAG_BYTES: usize = 16;
const SIGNATURE_BYTES: usize = 64;

/// What kind of life a record has: all that its size says of what is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A Presence or a lobby record: ends two hours after the start of its slot.
    Slot,
    /// A bulletin: ends within 30 days.
    Bulletin,
}

impl Class {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Slot, Self::Bulletin];

    /// Bytes in the box: length, content and padding (specified: README §18). The largest Presence of this version has
    /// 505; a bulletin's Epoch, secret and 17 Removes fit 4 KiB.
    #[must_use]
    pub const fn box_bytes(self) -> usize {
        match self {
            Self::Slot => 1_024,
            Self::Bulletin => 4_096,
        }
    }

    /// The longest content, in bytes.
    #[must_use]
    pub const fn content_bytes(self) -> usize {
        self.box_bytes() - 2
    }

    /// Bytes of every value of this class.
    #[must_use]
    pub const fn value_bytes(self) -> usize {
        SEALED_AT + self.box_bytes() + TAG_BYTES + SIGNATURE_BYTES
    }

    /// The longest that a record of this class may have left to live, in seconds. A slot's records are written up to
    /// [`NEXT_SECS`] before it; clocks differ by up to [`MAX_AHEAD_SECS`].
    #[must_use]
    pub const fn max_left_secs(self) -> u64 {
        match self {
            Self::Slot => LIFE_SECS + NEXT_SECS + MAX_AHEAD_SECS,
            Self::Bulletin => BULLETIN_LIFE_SECS + MAX_AHEAD_SECS,
        }
    }

    fn of_length(length: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.value_bytes() == length)
    }
}

/// Bytes of the longest value.
pub const MAX_VALUE_BYTES: usize = Class::Bulletin.value_bytes();

/// One record as it is put into the DHT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it is put: SHA-256 of the key that signs it.
    pub key: [u8; KEY_BYTES],
    /// What is put there.
    pub value: Vec<u8>,
    /// When it ends, in unix seconds.
    pub expiry: u64,
}

/// Why a value is no record, or none to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Its length is that of no class, or not that of the class that was asked for.
    #[error("the record has a length that none has")]
    Length,
    /// Another version.
    #[error("the record is of another version")]
    Version,
    /// It stands under a key that is not that of its signer.
    #[error("the record is not its key's")]
    Key,
    /// Its sequence is too far ahead.
    #[error("the record is dated ahead")]
    Ahead,
    /// It ended.
    #[error("the record has ended")]
    Expired,
    /// Its expiry is no full hour, or further off than its class allows.
    #[error("the record claims a life that none has")]
    Life,
    /// The signature does not verify.
    #[error("the record's signature does not verify")]
    Signature,
    /// The box does not open, or its padding is off.
    #[error("the record's box does not open")]
    Box,
    /// What is inside is not what such a record holds.
    #[error("the record's content is not what it should be")]
    Content,
}

/// What a record says to whoever holds no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What kind of life it has.
    pub class: Class,
    /// When it was made, in unix seconds: of two under one key the higher counts.
    pub sequence: u64,
    /// When it ends, in unix seconds.
    pub expiry: u64,
}

/// Checks all that needs no secret: what a beacon asks before it stores, and a reader before it opens.
///
/// `key` is the DHT key that the value stands under, `wall_secs` the checker's clock in unix seconds. The one public-key
/// operation comes last.
///
/// # Errors
/// A [`RecordError`] that says what does not hold.
pub fn check(key: &[u8], value: &[u8], wall_secs: u64) -> Result<Checked, RecordError> {
    let parts = Parts::of(value)?;
    if sha256(&[&parts.public.0])[..] != *key {
        return Err(RecordError::Key);
    }
    let Parts { class, sequence, expiry, .. } = parts;
    if sequence > wall_secs.saturating_add(MAX_AHEAD_SECS) {
        return Err(RecordError::Ahead);
    }
    if expiry <= wall_secs {
        return Err(RecordError::Expired);
    }
    if !expiry.is_multiple_of(SLOT_SECS) || expiry > wall_secs.saturating_add(class.max_left_secs()) {
        return Err(RecordError::Life);
    }
    if !parts.public.verify(&[DOMAIN, parts.signed].concat(), parts.signature) {
        return Err(RecordError::Signature);
    }
    Ok(Checked { class, sequence, expiry })
}

/// A key that records are signed with.
pub(super) enum Signer {
    /// A device's, blinded.
    Blinded(BlindedSigner),
    /// A lobby's, which every holder of the token has.
    Lobby(SigningSecret),
}

impl Signer {
    fn public(&self) -> PublicKey {
        match self {
            Self::Blinded(signer) => signer.public(),
            Self::Lobby(secret) => secret.public(),
        }
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        match self {
            Self::Blinded(signer) => signer.sign(message),
            Self::Lobby(secret) => secret.sign(message),
        }
    }
}

/// Both keys of one record: who signs it, and who can read it.
pub(super) struct WriteKeys {
    pub(super) signer: Signer,
    pub(super) box_key: Secret,
}

/// Where one record stands and what opens it.
#[derive(Clone, Debug)]
pub(super) struct ReadKeys {
    pub(super) key: [u8; KEY_BYTES],
    pub(super) box_key: Secret,
}

impl ReadKeys {
    /// The keys of records by `signer` (as it signs: blinded) in boxes under `box_key`.
    pub(super) fn new(signer: &PublicKey, box_key: Secret) -> Self {
        Self { key: sha256(&[&signer.0]), box_key }
    }

    /// Checks `value` and opens its box; returns what was checked and the content.
    pub(super) fn open(
        &self,
        class: Class,
        value: &[u8],
        wall_secs: u64,
    ) -> Result<(Checked, Zeroizing<Vec<u8>>), RecordError> {
        let checked = check(&self.key, value, wall_secs)?;
        if checked.class != class {
            return Err(RecordError::Length);
        }
        let Parts { associated, nonce, sealed, .. } = Parts::of(value)?;
        let opened = cipher(&self.box_key).decrypt(&nonce, Payload { msg: sealed, aad: associated });
        let padded = Zeroizing::new(opened.map_err(|_| RecordError::Box)?);
        let (length, rest) = padded.split_first_chunk::<2>().ok_or(RecordError::Box)?;
        let content = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)));
        // One content has one padded form.
        let (content, padding) = content.ok_or(RecordError::Box)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(RecordError::Box);
        }
        Ok((checked, Zeroizing::new(content.to_vec())))
    }
}

/// Makes the record of `content` with its sequence and expiry; `None` if the content is too long for the class.
pub(super) fn seal(
    class: Class,
    keys: &WriteKeys,
    (sequence, expiry): (u64, u64),
    content: &[u8],
    rng: &mut Rng,
) -> Option<Record> {
    let length = u16::try_from(content.len()).ok().filter(|_| content.len() <= class.content_bytes())?;
    let public = keys.signer.public();
    let mut value = Vec::with_capacity(class.value_bytes());
    value.push(VERSION);
    value.extend_from_slice(&public.0);
    value.extend_from_slice(&sequence.to_be_bytes());
    value.extend_from_slice(&expiry.to_be_bytes());

    let mut padded = Zeroizing::new(Vec::with_capacity(class.box_bytes()));
    padded.extend_from_slice(&length.to_be_bytes());
    padded.extend_from_slice(content);
    padded.resize(class.box_bytes(), 0);
    let nonce: [u8; 24] = random::bytes(rng);
    let sealed = cipher(&keys.box_key).encrypt(&nonce.into(), Payload { msg: &padded, aad: &value }).ok()?;

    value.extend_from_slice(&nonce);
    value.extend_from_slice(&sealed);
    let signature = keys.signer.sign(&[DOMAIN, &value].concat());
    value.extend_from_slice(&signature);
    Some(Record { key: sha256(&[&public.0]), value, expiry })
}

fn cipher(key: &Secret) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&key.0.into())
}

/// A value taken apart; nothing of it is verified but its length and version.
struct Parts<'v> {
    class: Class,
    public: PublicKey,
    sequence: u64,
    expiry: u64,
    associated: &'v [u8],
    nonce: XNonce,
    sealed: &'v [u8],
    signed: &'v [u8],
    signature: &'v [u8; SIGNATURE_BYTES],
}

impl<'v> Parts<'v> {
    fn of(value: &'v [u8]) -> Result<Self, RecordError> {
        let class = Class::of_length(value.len()).ok_or(RecordError::Length)?;
        if value.first() != Some(&VERSION) {
            return Err(RecordError::Version);
        }
        Self::cut(class, value).ok_or(RecordError::Length)
    }

    fn cut(class: Class, value: &'v [u8]) -> Option<Self> {
        let (signed, signature) = value.split_last_chunk()?;
        let (associated, rest) = signed.split_at_checked(NONCE_AT)?;
        let (nonce, sealed) = rest.split_first_chunk::<24>()?;
        Some(Self {
            class,
            public: PublicKey(*value.get(PUBLIC_AT..)?.first_chunk()?),
            sequence: u64::from_be_bytes(*value.get(SEQUENCE_AT..)?.first_chunk()?),
            expiry: u64::from_be_bytes(*value.get(EXPIRY_AT..)?.first_chunk()?),
            associated,
            nonce: (*nonce).into(),
            sealed,
            signed,
            signature,
        })
    }
}
