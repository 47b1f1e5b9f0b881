//! Who is who: identifiers, and the keys behind them.
//!
//! Owns the fixed-size identifiers that every other room speaks of, the Ed25519 keys that sign objects, the
//! X25519 keys that make handshakes, and the one key derivation (HKDF-SHA256, RFC 5869). Nothing here draws
//! randomness by itself: keys are made from 32 bytes that the caller drew.

use std::fmt;

use aws_lc_rs::{agreement, digest, hkdf};
use ed25519_dalek::hazmat::ExpandedSecretKey;
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use zeroize::{Zeroize, ZeroizeOnDrop};

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// The raw bytes.
            pub fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// The first eight hexadecimal digits: enough for a person, never for a decision.
            pub fn short(&self) -> String {
                data_encoding::HEXLOWER.encode(&self.0[..4])
            }

            /// Reads the hexadecimal form that `Display` writes, in either case.
            pub fn from_hex(text: &str) -> Option<Self> {
                let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
                bytes.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.short())
            }
        }

        impl From<[u8; $bytes]> for $name {
            fn from(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }
        }
    };
}

identifier! {
    /// A VPI: the id of its founding charter.
    VpiId, 32
}
identifier! {
    /// An Ed25519 public key that signs objects: a device's, a root's or an invite's.
    PublicKey, 32
}
identifier! {
    /// An X25519 public key that makes handshakes.
    StaticKey, 32
}
identifier! {
    /// A signed object: SHA-256 of `"vpi/v1 id"` and its body, signatures left out.
    ObjectId, 32
}
identifier! {
    /// An invite, as joins and veils name it.
    InviteId, 16
}

/// A member, for ever: its device's public key.
pub type DeviceId = PublicKey;

impl PublicKey {
    /// Says whether `signature` over `message` was made by this key (`verify_strict`: no small-order keys, no
    /// second form of one signature).
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| {
            key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
        })
    }
}

/// An Ed25519 secret key; wiped when dropped, never printed.
#[derive(Clone)]
pub struct SigningSecret(SigningKey);

impl SigningSecret {
    /// The key whose seed (RFC 8032 §5.1.5) is `seed`.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, for the file that keeps it.
    #[must_use]
    pub fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The key that others verify with.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `message`; deterministic (RFC 8032).
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// Scalar and nonce prefix (RFC 8032 §5.1.5), from which blinded keys are made; wiped when dropped.
    pub(crate) fn expanded(&self) -> ExpandedSecretKey {
        ExpandedSecretKey::from(self.0.as_bytes())
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningSecret({:?})", self.public())
    }
}

/// An X25519 secret key; wiped when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct StaticSecret([u8; 32]);

impl StaticSecret {
    /// The key made of these 32 random bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the file that keeps them.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    /// The key that others address.
    #[must_use]
    pub fn public(&self) -> StaticKey {
        let key = self.private().compute_public_key().expect("an X25519 key has a public half");
        StaticKey(key.as_ref().try_into().expect("an X25519 public key is 32 bytes"))
    }

    /// The shared secret with `peer` (RFC 7748 §6.1); `None` for a low-order key of the peer.
    #[must_use]
    pub fn agree(&self, peer: &StaticKey) -> Option<[u8; 32]> {
        let peer = agreement::UnparsedPublicKey::new(&agreement::X25519, peer.0);
        agreement::agree(&self.private(), peer, (), |secret| {
            let shared: [u8; 32] = secret.try_into().map_err(|_| ())?;
            // RFC 7748 §6.1: all zeros betrays a low-order point.
            if bool::from(subtle::ConstantTimeEq::ct_eq(&shared[..], &[0; 32][..])) {
                Err(())
            } else {
                Ok(shared)
            }
        })
        .ok()
    }

    fn private(&self) -> agreement::PrivateKey {
        agreement::PrivateKey::from_private_key(&agreement::X25519, &self.0)
            .expect("any 32 bytes are an X25519 private key")
    }
}

impl fmt::Debug for StaticSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticSecret({:?})", self.public())
    }
}

/// Thirty-two secret bytes (an epoch secret, a key derived from one); wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Derives `N` bytes from `secret`: HKDF-SHA256 with salt = VPI ID and info = `"vpi/v1 " ‖ label ‖ 0 ‖ arguments`.
///
/// `arguments` must be of fixed sizes for one label, so that no two lists of them read the same.
#[must_use]
pub fn derive<const N: usize>(vpi: &VpiId, secret: &[u8; 32], label: &str, arguments: &[&[u8]]) -> [u8; N] {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut info: Vec<&[u8]> = vec![b"vpi/v1 ", label.as_bytes(), &[0]];
    info.extend_from_slice(arguments);
    let mut out = [0; N];
    hkdf::Salt::new(hkdf::HKDF_SHA256, &vpi.0)
        .extract(secret)
        .expand(&info, Length(N))
        .and_then(|okm| okm.fill(&mut out))
        .expect("HKDF gives up to 8,160 bytes");
    out
}

/// SHA-256 over the parts, one after the other.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_order_keys_agree_on_nothing() {
        let secret = StaticSecret::from_bytes([7; 32]);
        for low in [[0; 32], {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }] {
            assert_eq!(secret.agree(&StaticKey(low)), None);
        }
    }

    #[test]
    fn two_secrets_agree() {
        let (a, b) = (StaticSecret::from_bytes([1; 32]), StaticSecret::from_bytes([2; 32]));
        assert_eq!(a.agree(&b.public()), b.agree(&a.public()));
        assert!(a.agree(&b.public()).is_some());
    }

    #[test]
    fn derived_keys_differ_by_vpi_label_and_argument() {
        let of = |vpi: u8, label: &str, argument: &[u8]| {
            derive::<32>(&VpiId([vpi; 32]), &[9; 32], label, &[argument])
        };
        let keys = [of(1, "veil", b""), of(2, "veil", b""), of(1, "psk", b""), of(1, "veil", b"x")];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys.iter().skip(i + 1).all(|b| a != b));
        }
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", Secret([0x41; 32])), "Secret");
        assert!(!format!("{:?}", StaticSecret::from_bytes([0x41; 32])).contains("41414141"));
    }

    #[test]
    fn a_signature_holds_for_its_key_and_message_only() {
        let (key, other) = (SigningSecret::from_seed(&[1; 32]), SigningSecret::from_seed(&[2; 32]));
        let signature = key.sign(b"m");
        assert!(key.public().verify(b"m", &signature));
        assert!(!key.public().verify(b"n", &signature));
        assert!(!other.public().verify(b"m", &signature));
    }
}
