//! Blinded keys: a writer's Ed25519 key as only those who hold the epoch's secret can recognise it (README §18).
//!
//! ```text
//! h  = HKDF(K, "blind", purpose u8 ‖ device key 32 ‖ slot u64), 64 bytes, read little-endian, mod l
//! a' = h·a mod l        a = the writer's clamped secret scalar (RFC 8032 §5.1.5) mod l
//! A' = h·A              A = the writer's public key
//! r  = SHA-512(prefix' ‖ message) mod l      prefix' = SHA-256("vpi/v1 blind prefix" ‖ 00 ‖ prefix 32 ‖ h's 64 bytes)
//! ```
//!
//! As Tor's rend-spec v3, appendix A.2, but for two points. h is not clamped: clamping keeps a scalar a multiple of the
//! cofactor, and needs to, only where a key may have a part of small order; such a key is refused here, so that h·A is one
//! point however h is written. And where Tor binds h to the public key and a period, it is bound here to the device's
//! key, which is also whom the record is *about*: a bulletin is signed with an admin's key and about a sleeper.
//!
//! Signatures are those of RFC 8032 under A', verified strictly like any other. Only the nonce's prefix differs from
//! that of the plain key: one prefix under two keys would give the secret away.

use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::{Sha512, VerifyingKey};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::identity::{DeviceId, PublicKey, Secret, SigningSecret, VpiId, derive, sha256};

/// What a record under a blinded key is for; no two share a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A device's Presence.
    Presence = 1,
    /// What an admin leaves for a sleeping device.
    Bulletin = 2,
}

/// The factor h before it is reduced; whoever has it can tell which device a record is of. Wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Blinding([u8; 64]);

impl Blinding {
    /// h mod l; `None` for 0, which no honest derivation gives.
    fn factor(&self) -> Option<Scalar> {
        let factor = Scalar::from_bytes_mod_order_wide(&self.0);
        (factor != Scalar::ZERO).then_some(factor)
    }
}

impl std::fmt::Debug for Blinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Blinding")
    }
}

/// The blinding for records about `device` in `slot`, under the secret of one epoch.
#[must_use]
pub fn blinding(epoch: &Secret, vpi: &VpiId, purpose: Purpose, device: &DeviceId, slot: u64) -> Blinding {
    Blinding(derive(vpi, &epoch.0, "blind", &[&[purpose as u8], &device.0, &slot.to_be_bytes()]))
}

/// The blinded form of `writer`, by which its records are found and verified.
///
/// `None` if `writer` is no point of prime order (no honest key is another), or if the blinding is 0.
#[must_use]
pub fn blinded_public(writer: &PublicKey, blinding: &Blinding) -> Option<PublicKey> {
    let key = VerifyingKey::from_bytes(&writer.0).ok().filter(|key| !key.is_weak())?;
    let point = key.to_edwards();
    point.is_torsion_free().then_some(())?;
    Some(PublicKey((blinding.factor()? * point).compress().to_bytes()))
}

/// A writer's secret key in blinded form; wiped when dropped, never printed.
pub struct BlindedSigner {
    key: ExpandedSecretKey,
    public: VerifyingKey,
}

impl BlindedSigner {
    /// Blinds `secret`; `None` if the blinding is 0.
    #[must_use]
    pub fn new(secret: &SigningSecret, blinding: &Blinding) -> Option<Self> {
        let plain = secret.expanded();
        let hash_prefix = sha256(&[b"vpi/v1 blind prefix\0", &plain.hash_prefix, &blinding.0]);
        let key = ExpandedSecretKey { scalar: blinding.factor()? * plain.scalar, hash_prefix };
        let public = VerifyingKey::from(EdwardsPoint::mul_base(&key.scalar));
        Some(Self { key, public })
    }

    /// The key that others verify with: [`blinded_public`] of the writer's.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.public.to_bytes())
    }

    /// Signs `message`; deterministic.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        raw_sign::<Sha512>(&self.key, message, &self.public).to_bytes()
    }
}

impl std::fmt::Debug for BlindedSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlindedSigner({:?})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VPI: VpiId = VpiId([1; 32]);

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whoever_knows_the_epoch_finds_the_key_and_only_the_device_signs_with_it(
            seed in any::<[u8; 32]>(),
            epoch in any::<[u8; 32]>(),
            slot in any::<u64>(),
            message in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let (secret, epoch) = (SigningSecret::from_seed(&seed), Secret(epoch));
            let of = |slot| blinding(&epoch, &VPI, Purpose::Presence, &secret.public(), slot);
            let signer = BlindedSigner::new(&secret, &of(slot)).unwrap();
            prop_assert_eq!(blinded_public(&secret.public(), &of(slot)), Some(signer.public()));
            let signature = signer.sign(&message);
            prop_assert!(signer.public().verify(&message, &signature));
            prop_assert!(!secret.public().verify(&message, &signature));
            prop_assert!(!signer.public().verify(&message, &secret.sign(&message)));
            let other = BlindedSigner::new(&secret, &of(slot ^ 1)).unwrap();
            prop_assert!(!other.public().verify(&message, &signature));
            // One nonce under two keys would give the secret away.
            prop_assert_ne!(&other.sign(&message)[..32], &signature[..32]);
        }
    }

    #[test]
    fn keys_differ_by_epoch_vpi_purpose_device_and_slot() {
        let writer = SigningSecret::from_seed(&[7; 32]).public();
        let of = |epoch: u8, vpi: u8, purpose, device: u8, slot| {
            let h =
                blinding(&Secret([epoch; 32]), &VpiId([vpi; 32]), purpose, &PublicKey([device; 32]), slot);
            blinded_public(&writer, &h).unwrap()
        };
        let keys = [
            of(1, 1, Purpose::Presence, 1, 1),
            of(2, 1, Purpose::Presence, 1, 1),
            of(1, 2, Purpose::Presence, 1, 1),
            of(1, 1, Purpose::Bulletin, 1, 1),
            of(1, 1, Purpose::Presence, 2, 1),
            of(1, 1, Purpose::Presence, 1, 2),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys.iter().skip(i + 1).all(|b| a != b));
        }
    }

    #[test]
    fn a_blinding_of_zero_and_keys_that_are_not_of_prime_order_are_refused() {
        let secret = SigningSecret::from_seed(&[7; 32]);
        // l itself, the order of the base point, in little-endian.
        let order = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";
        let mut wide = [0; 64];
        assert!(BlindedSigner::new(&secret, &Blinding(wide)).is_none());
        wide[..32].copy_from_slice(&data_encoding::HEXLOWER.decode(order.as_bytes()).unwrap());
        assert!(BlindedSigner::new(&secret, &Blinding(wide)).is_none());
        assert_eq!(blinded_public(&secret.public(), &Blinding(wide)), None);

        wide[0] ^= 1;
        let identity = EdwardsPoint::default().compress().to_bytes();
        let small = curve25519_dalek::constants::EIGHT_TORSION[1];
        let mixed = small + VerifyingKey::from_bytes(&secret.public().0).unwrap().to_edwards();
        for bad in [identity, small.compress().to_bytes(), mixed.compress().to_bytes(), [0xff; 32]] {
            assert_eq!(blinded_public(&PublicKey(bad), &Blinding(wide)), None);
        }
        assert!(blinded_public(&secret.public(), &Blinding(wide)).is_some());
    }

    #[test]
    fn blindings_and_signers_do_not_print() {
        let h = blinding(&Secret([0x41; 32]), &VPI, Purpose::Presence, &PublicKey([2; 32]), 3);
        assert_eq!(format!("{h:?}"), "Blinding");
        let signer = BlindedSigner::new(&SigningSecret::from_seed(&[7; 32]), &h).unwrap();
        assert_eq!(format!("{signer:?}"), format!("BlindedSigner({:?})", signer.public()));
    }
}
