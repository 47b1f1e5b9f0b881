//! What each end says of itself in the two handshake messages (README §5 *Handshake*).
//!
//! ```text
//! initiation   hello | count u8 (≤ 4) | count × (length u16 | envelope)
//! response     hello
//! hello        device 32 | suites u8 | charter id 32 | digest of the Removes 32 | epoch tag 2
//! ```

use std::fmt;

use super::message::{MessageError, Reader};
use crate::identity::{DeviceId, ObjectId};

/// Envelopes in an initiation at most: Invite, Join, Admit, Rekey.
pub const MAX_PROOFS: u8 = 4;

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

    /// The suites that both ends are willing to use.
    #[must_use]
    pub fn shared(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Says whether all of `other` are among these.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Debug for Suites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Suites({:#04b})", self.0)
    }
}

/// What each end says of itself in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who it is. The handshake proves a static key; which member may use it is for that member's own word to say, so
    /// that nobody gains by claiming the static key of another.
    pub device: DeviceId,
    /// AEAD suites it is willing to use.
    pub suites: Suites,
    /// What it holds; equal digests let packets pass at once.
    pub digests: Digests,
}

/// What a node holds of the objects that decide who belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    /// The charter in force; zeros while it is not known.
    pub charter: ObjectId,
    /// Digest of the set of Removes.
    pub removes: [u8; 32],
    /// Tag of the newest epoch.
    pub epoch_tag: [u8; 2],
}

/// Bytes of a hello.
pub const HELLO_BYTES: usize = 32 + 1 + 32 + 32 + 2;

impl Hello {
    fn encode(&self) -> Vec<u8> {
        let Digests { charter, removes, epoch_tag } = &self.digests;
        [&self.device.as_bytes()[..], &[self.suites.to_byte()], &charter.0[..], &removes[..], &epoch_tag[..]]
            .concat()
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        Ok(Self {
            device: DeviceId::from(reader.array::<32>()?),
            suites: Suites::from_byte(reader.u8()?),
            digests: Digests {
                charter: ObjectId(reader.array()?),
                removes: reader.array()?,
                epoch_tag: reader.array()?,
            },
        })
    }

    /// The payload of an initiation; `proofs` are the sender's envelopes for a peer that may not know it (at most 4).
    #[must_use]
    pub fn encode_initiation(&self, proofs: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::with_capacity(HELLO_BYTES + 1);
        out.extend_from_slice(&self.encode());
        let proofs = &proofs[..proofs.len().min(usize::from(MAX_PROOFS))];
        out.push(proofs.len() as u8);
        for proof in proofs {
            out.extend_from_slice(&(proof.len() as u16).to_be_bytes());
            out.extend_from_slice(proof);
        }
        out
    }

    /// Reads the payload of an initiation: the hello and the envelopes of the sender's proof.
    ///
    /// # Errors
    /// [`MessageError::Malformed`].
    pub fn decode_initiation(bytes: &[u8]) -> Result<(Self, Vec<&[u8]>), MessageError> {
        let mut reader = Reader(bytes);
        let hello = Self::decode(&mut reader)?;
        let count = reader.u8()?;
        if count > MAX_PROOFS {
            return Err(MessageError::Malformed);
        }
        let mut proofs = Vec::new();
        for _ in 0..count {
            let length = usize::from(reader.u16()?);
            proofs.push(reader.take(length)?);
        }
        if reader.0.is_empty() { Ok((hello, proofs)) } else { Err(MessageError::Malformed) }
    }

    /// The payload of a response.
    #[must_use]
    pub fn encode_response(&self) -> Vec<u8> {
        self.encode()
    }

    /// Reads the payload of a response.
    ///
    /// # Errors
    /// [`MessageError::Malformed`].
    pub fn decode_response(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(bytes);
        let hello = Self::decode(&mut reader)?;
        if reader.0.is_empty() { Ok(hello) } else { Err(MessageError::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshake_payloads_round_trip_and_truncations_are_refused() {
        let hello = Hello {
            device: DeviceId::from([7; 32]),
            suites: Suites::BOTH,
            digests: Digests { charter: ObjectId([1; 32]), removes: [2; 32], epoch_tag: [3, 4] },
        };
        let initiation = hello.encode_initiation(&[b"invite", b"join"]);
        assert_eq!(Hello::decode_initiation(&initiation), Ok((hello, vec![&b"invite"[..], b"join"])));
        let response = hello.encode_response();
        assert_eq!(Hello::decode_response(&response), Ok(hello));
        for cut in 0..initiation.len() {
            assert!(Hello::decode_initiation(&initiation[..cut]).is_err());
        }
        for cut in 0..response.len() {
            assert!(Hello::decode_response(&response[..cut]).is_err());
        }
    }
}
