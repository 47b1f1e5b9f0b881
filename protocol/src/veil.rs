//! The veil: seals and opens every datagram that is not data (README §4 *Veiled*).
//!
//! ```text
//! header (clear, authenticated) | XChaCha20-Poly1305( time_ms u64 | type u8 | body ) | tag 16
//! ```
//!
//! Under the epoch's veil key (class member) or the invite's join-veil key (class join). What opens was made by a
//! holder of that key, and nothing more is known of it: whether it may be answered is for the gate to say.

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use crate::identity::Secret;
use crate::wire::header::VeilHeader;

/// Type of a handshake's first message (class member).
pub const INITIATION: u8 = 1;
/// Type of a handshake's second message (class member).
pub const RESPONSE: u8 = 2;
/// Type of a LAN announcement (class member), taken from the LAN socket only.
pub const ANNOUNCEMENT: u8 = 3;
/// Type of a joiner's question (class join).
pub const QUESTION: u8 = 1;
/// Type of a witness's answer (class join).
pub const ANSWER: u8 = 2;

/// Bytes of a member-class datagram beyond its body: header, time, type, tag.
pub const MEMBER_OVERHEAD_BYTES: usize = 28 + 8 + 1 + 16;

/// The content of a veiled datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Veiled {
    /// The sender's wall clock, in milliseconds since 1970.
    pub time_ms: u64,
    /// What the body is.
    pub kind: u8,
    /// The message itself.
    pub body: Vec<u8>,
}

impl Veiled {
    /// Seals the content into a datagram under `key`.
    #[must_use]
    pub fn seal(&self, key: &Secret, header: &VeilHeader) -> Vec<u8> {
        let mut datagram = header.to_bytes();
        let content = [&self.time_ms.to_be_bytes()[..], &[self.kind], &self.body].concat();
        let sealed = cipher(key)
            .encrypt(&nonce(header), Payload { msg: &content, aad: &datagram })
            .expect("a datagram is far below the limit of the AEAD");
        datagram.extend_from_slice(&sealed);
        datagram
    }

    /// Opens what [`VeilHeader::split`] gave; `None` unless it was sealed under `key` with this very header.
    #[must_use]
    pub fn open(key: &Secret, header: &VeilHeader, clear: &[u8], sealed: &[u8]) -> Option<Self> {
        let content = cipher(key).decrypt(&nonce(header), Payload { msg: sealed, aad: clear }).ok()?;
        let (time_ms, rest) = content.split_first_chunk::<8>()?;
        let (kind, body) = rest.split_first()?;
        Some(Self { time_ms: u64::from_be_bytes(*time_ms), kind: *kind, body: body.to_vec() })
    }
}

/// What a handshake inside a veil is bound to: the veil's header and its time.
#[must_use]
pub fn prologue(clear: &[u8], time_ms: u64) -> Vec<u8> {
    [clear, &time_ms.to_be_bytes()].concat()
}

fn cipher(key: &Secret) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&key.0.into())
}

fn nonce(header: &VeilHeader) -> XNonce {
    header.nonce.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::InviteId;
    use crate::wire::header::Class;

    fn header(join: bool, nonce: [u8; 24]) -> VeilHeader {
        let class = if join { Class::Join(InviteId([8; 16])) } else { Class::Member };
        VeilHeader { class, epoch_tag: [1, 2], nonce }
    }

    fn open(key: &Secret, datagram: &[u8]) -> Option<Veiled> {
        let (header, clear, sealed) = VeilHeader::split(datagram)?;
        Veiled::open(key, &header, clear, sealed)
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_and_nothing_else_does(
            key in any::<[u8; 32]>(),
            nonce in any::<[u8; 24]>(),
            join in any::<bool>(),
            time_ms in any::<u64>(),
            body in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let veiled = Veiled { time_ms, kind: INITIATION, body };
            let key = Secret(key);
            let datagram = veiled.seal(&key, &header(join, nonce));
            prop_assert_eq!(open(&key, &datagram), Some(veiled));
            for cut in 0..datagram.len() {
                prop_assert_eq!(open(&key, &datagram[..cut]), None);
            }
            for bit in 0..datagram.len() * 8 {
                let mut altered = datagram.clone();
                altered[bit / 8] ^= 1 << (bit % 8);
                prop_assert_eq!(open(&key, &altered), None);
            }
            let mut other = key.clone();
            other.0[0] ^= 1;
            prop_assert_eq!(open(&other, &datagram), None);
        }
    }
}
