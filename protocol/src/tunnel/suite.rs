//! The transport AEADs and the choice between them.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// An AEAD for data datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// ChaCha20-Poly1305 (RFC 8439); everybody has it.
    ChaCha20Poly1305,
    /// AES-256-GCM (NIST SP 800-38D); three times as fast where the processor has instructions for it.
    Aes256Gcm,
}

/// The suites that one end is willing to use, as a bit set: 1 ChaCha20-Poly1305, 2 AES-256-GCM.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Suites(u8);

impl Suites {
    /// ChaCha20-Poly1305 only.
    pub const CHACHA: Self = Self(1);
    /// AES-256-GCM only.
    pub const AES: Self = Self(2);
    /// Both.
    pub const BOTH: Self = Self(3);

    /// The byte on the wire.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        self.0
    }

    /// Reads the byte on the wire; unknown bits are another version's business and are ignored.
    #[must_use]
    pub fn from_byte(byte: u8) -> Self {
        Self(byte & Self::BOTH.0)
    }

    /// The suite that two ends use: AES-256-GCM where both name it, else ChaCha20-Poly1305; `None` if they share none.
    #[must_use]
    pub fn choose(self, other: Self) -> Option<Suite> {
        match self.0 & other.0 {
            0 => None,
            shared if shared & Self::AES.0 != 0 => Some(Suite::Aes256Gcm),
            _ => Some(Suite::ChaCha20Poly1305),
        }
    }
}

impl fmt::Debug for Suites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Suites({:#04b})", self.0)
    }
}

impl Suite {
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
        assert_eq!(Suites::BOTH.choose(Suites::BOTH), Some(Suite::Aes256Gcm));
        assert_eq!(Suites::BOTH.choose(Suites::CHACHA), Some(Suite::ChaCha20Poly1305));
        assert_eq!(Suites::AES.choose(Suites::CHACHA), None);
        assert_eq!(Suites::from_byte(0xff), Suites::BOTH);
    }
}
