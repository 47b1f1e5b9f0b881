//! Opens data datagrams.

use aws_lc_rs::aead::{Aad, LessSafeKey};

use super::replay::ReplayWindow;
use super::suite::{Suite, nonce};
use crate::wire::header::{DATA_HEADER_BYTES, DATA_OVERHEAD_BYTES, read_data_header};

/// Why a data datagram did not open. The session is unchanged either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Shorter than header and tag, or with a reserved byte set.
    #[error("the datagram is malformed")]
    Malformed,
    /// The counter was seen, or has left the window (RFC 6479).
    #[error("the counter was already used")]
    Replayed,
    /// The tag does not verify.
    #[error("the datagram is forged")]
    Forged,
}

/// The receiving half of a session; one thread owns it.
pub struct Opener {
    key: LessSafeKey,
    window: ReplayWindow,
}

impl Opener {
    /// The receiving half with `key`.
    pub(super) fn new(suite: Suite, key: &[u8; 32]) -> Self {
        Self { key: suite.key(key), window: ReplayWindow::default() }
    }

    /// Opens one datagram in place and returns its plaintext, which lies within it.
    ///
    /// `datagram` is the whole UDP payload, addressed to this session.
    ///
    /// # Errors
    /// [`OpenError`]; the datagram's content is undefined afterwards, the session is unchanged.
    pub fn open<'d>(&mut self, datagram: &'d mut [u8]) -> Result<&'d mut [u8], OpenError> {
        if datagram.len() < DATA_OVERHEAD_BYTES {
            return Err(OpenError::Malformed);
        }
        let (header, sealed) = datagram.split_at_mut(DATA_HEADER_BYTES);
        let (_, counter) = read_data_header(header).ok_or(OpenError::Malformed)?;
        if !self.window.is_new(counter) {
            return Err(OpenError::Replayed);
        }
        let plaintext = self
            .key
            .open_in_place(nonce(counter), Aad::from(&*header), sealed)
            .map_err(|_| OpenError::Forged)?;
        self.window.mark(counter);
        Ok(plaintext)
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opener")
    }
}
