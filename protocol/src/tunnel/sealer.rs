//! Seals packets into data datagrams.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{Aad, LessSafeKey};

use super::suite::{Suite, nonce};
use crate::wire::header::{DATA_HEADER_BYTES, DATA_OVERHEAD_BYTES, write_data_header};

/// Datagrams that one session may seal at most; a rekey is due long before (specified: README §6, 2^32; the margin
/// of 2^20 lets many threads notice it without ever wrapping or reusing a counter).
pub const REJECT_AFTER_DATAGRAMS: u64 = (1 << 32) + (1 << 20);

/// A session has sealed all the datagrams it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session has used up its counters")]
pub struct Exhausted;

/// The sending half of a session.
///
/// Shared: the pump seals packets and the engine seals in-session messages with one counter between them.
pub struct Sealer {
    key: LessSafeKey,
    /// The index under which the other end finds the session.
    receiver: u32,
    counter: AtomicU64,
}

impl Sealer {
    /// The sending half with `key`, addressed to the other end's index `receiver`.
    pub(super) fn new(suite: Suite, key: &[u8; 32], receiver: u32) -> Self {
        Self { key: suite.key(key), receiver, counter: AtomicU64::new(0) }
    }

    /// How many datagrams were sealed.
    #[must_use]
    pub fn sealed(&self) -> u64 {
        self.counter.load(Ordering::Relaxed)
    }

    /// Seals one datagram in place.
    ///
    /// `datagram` is the whole datagram: 16 bytes for the header, the plaintext, 16 bytes for the tag. Header and tag
    /// are written here.
    ///
    /// # Errors
    /// [`Exhausted`] once [`REJECT_AFTER_DATAGRAMS`] were sealed; nothing was written then.
    ///
    /// # Panics
    /// If `datagram` is shorter than [`DATA_OVERHEAD_BYTES`].
    pub fn seal(&self, datagram: &mut [u8]) -> Result<(), Exhausted> {
        assert!(datagram.len() >= DATA_OVERHEAD_BYTES, "a data datagram holds a header and a tag");
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        if counter >= REJECT_AFTER_DATAGRAMS {
            self.counter.store(REJECT_AFTER_DATAGRAMS, Ordering::Relaxed);
            return Err(Exhausted);
        }
        let (header, rest) = datagram.split_at_mut(DATA_HEADER_BYTES);
        write_data_header(header, self.receiver, counter);
        let (plaintext, tag) = rest.split_at_mut(rest.len() - (DATA_OVERHEAD_BYTES - DATA_HEADER_BYTES));
        let sealed = self
            .key
            .seal_in_place_separate_tag(nonce(counter), Aad::from(&*header), plaintext)
            .expect("a datagram is far below the limit of the AEAD");
        tag.copy_from_slice(sealed.as_ref());
        Ok(())
    }

    /// Seals `plaintext` into a datagram of its own; for in-session messages, not for the packet path.
    ///
    /// # Errors
    /// As [`Sealer::seal`].
    pub fn seal_message(&self, plaintext: &[u8]) -> Result<Vec<u8>, Exhausted> {
        let mut datagram = vec![0; plaintext.len() + DATA_OVERHEAD_BYTES];
        datagram[DATA_HEADER_BYTES..DATA_HEADER_BYTES + plaintext.len()].copy_from_slice(plaintext);
        self.seal(&mut datagram)?;
        Ok(datagram)
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({} sealed)", self.sealed())
    }
}
