//! The transport AEADs and the choice between them.

use aws_lc_rs::aead::{AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::wire::hello::Suites;

/// An AEAD for data datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// ChaCha20-Poly1305 (RFC 8439); everybody has it.
    ChaCha20Poly1305,
    /// AES-256-GCM (NIST SP 800-38D); three times as fast where the processor has instructions for it.
    Aes256Gcm,
}

impl Suite {
    /// The suite of two ends: AES-256-GCM where both name it, else ChaCha20-Poly1305; `None` if they share none.
    #[must_use]
    pub fn choose(ours: Suites, theirs: Suites) -> Option<Self> {
        let shared = ours.shared(theirs);
        if shared.has(Suites::AES) {
            Some(Self::Aes256Gcm)
        } else {
            shared.has(Suites::CHACHA).then_some(Self::ChaCha20Poly1305)
        }
    }

    /// The key of this suite made of `bytes`.
    pub(super) fn key(self, bytes: &[u8; 32]) -> LessSafeKey {
        let algorithm = match self {
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Self::Aes256Gcm => &AES_256_GCM,
        };
        LessSafeKey::new(UnboundKey::new(algorithm, bytes).expect("both suites take 32 bytes"))
    }
}

/// The nonce of a data datagram: four zero bytes, then its counter, big-endian.
pub(super) fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aes_wins_where_both_have_it() {
        assert_eq!(Suite::choose(Suites::BOTH, Suites::BOTH), Some(Suite::Aes256Gcm));
        assert_eq!(Suite::choose(Suites::BOTH, Suites::CHACHA), Some(Suite::ChaCha20Poly1305));
        assert_eq!(Suite::choose(Suites::AES, Suites::CHACHA), None);
        assert_eq!(Suites::from_byte(0xff), Suites::BOTH);
    }
}
