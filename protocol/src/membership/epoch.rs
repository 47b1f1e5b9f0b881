//! Epoch secrets: the keys that derive from one, the few that are kept, and the box in which one travels.
//!
//! ```text
//! tag = derive(K, "tag")[..2]     veil key = derive(K, "veil")     psk = derive(K, "psk")
//! join-veil key = derive(K, "join", invite id)                     hash in the Epoch object = SHA-256(K)
//!
//! sealed secret (80 bytes) = ephemeral X25519 key 32 ‖ XChaCha20-Poly1305(K) 32 ‖ tag 16
//! its key = HKDF(salt VPI ID, X25519(ephemeral, recipient), "seal", ephemeral, recipient); nonce = 24 zero bytes
//! ```
//!
//! A secret says who can be heard, never who belongs: that is the reducer's word alone.

use std::collections::BTreeMap;

use chacha20poly1305::aead::{Aead as _, KeyInit as _};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::identity::{InviteId, Secret, StaticKey, StaticSecret, VpiId, derive, sha256};
use crate::random::{self, Rng};

/// Secrets that are kept, at most (specified: README §15).
pub const MAX_EPOCHS: usize = 32;

/// Bytes of a sealed secret.
pub const SEALED_BYTES: usize = 32 + 32 + 16;

/// Two bytes that tell a veil's epoch; two epochs of one number differ in it, two others may not.
pub type EpochTag = [u8; 2];

/// One epoch secret with its number; wiped when dropped, never printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochSecret {
    vpi: VpiId,
    number: u64,
    secret: Secret,
    /// Derived once: both are asked for with every datagram.
    tag: EpochTag,
    hash: [u8; 32],
}

impl EpochSecret {
    /// The secret of epoch `number` of `vpi`.
    #[must_use]
    pub fn new(vpi: VpiId, number: u64, secret: Secret) -> Self {
        let [first, second, ..] = derive::<32>(&vpi, &secret.0, "tag", &[]);
        let hash = secret_hash(&secret);
        Self { vpi, number, secret, tag: [first, second], hash }
    }

    /// The VPI whose epoch it is.
    #[must_use]
    pub fn vpi(&self) -> &VpiId {
        &self.vpi
    }

    /// The number of the epoch.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The 32 bytes, for the file that keeps them and for the box in which they travel.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// By which veils name the epoch.
    #[must_use]
    pub fn tag(&self) -> EpochTag {
        self.tag
    }

    /// The key of member-class veils.
    #[must_use]
    pub fn veil_key(&self) -> Secret {
        Secret(derive(&self.vpi, &self.secret.0, "veil", &[]))
    }

    /// The pre-shared key of handshakes.
    #[must_use]
    pub fn psk(&self) -> Secret {
        Secret(derive(&self.vpi, &self.secret.0, "psk", &[]))
    }

    /// The key of join-class veils for one invite.
    #[must_use]
    pub fn join_veil_key(&self, invite: &InviteId) -> Secret {
        Secret(derive(&self.vpi, &self.secret.0, "join", &[&invite.0]))
    }

    /// What the Epoch object says of it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }
}

/// SHA-256 of an epoch secret: what the Epoch object says of it.
#[must_use]
pub fn secret_hash(secret: &Secret) -> [u8; 32] {
    sha256(&[&secret.0])
}

/// The secrets that a node keeps, by number and tag.
#[derive(Clone, Debug, Default)]
pub struct Epochs(BTreeMap<(u64, EpochTag), EpochSecret>);

impl Epochs {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps `epoch`; beyond [`MAX_EPOCHS`] the lowest number goes, and is returned so that its file goes too.
    pub fn insert(&mut self, epoch: EpochSecret) -> Option<EpochSecret> {
        self.0.insert((epoch.number, epoch.tag()), epoch);
        if self.0.len() <= MAX_EPOCHS { None } else { self.0.pop_first().map(|(_, oldest)| oldest) }
    }

    /// The one with this number and tag.
    #[must_use]
    pub fn get(&self, number: u64, tag: EpochTag) -> Option<&EpochSecret> {
        self.0.get(&(number, tag))
    }

    /// Every one with this tag, newest first.
    pub fn by_tag(&self, tag: EpochTag) -> impl Iterator<Item = &EpochSecret> {
        self.iter().filter(move |epoch| epoch.tag() == tag)
    }

    /// The one that an Epoch object names by SHA-256 of the secret.
    #[must_use]
    pub fn by_hash(&self, hash: &[u8; 32]) -> Option<&EpochSecret> {
        self.0.values().find(|epoch| epoch.hash() == *hash)
    }

    /// The one with the highest number.
    #[must_use]
    pub fn newest(&self) -> Option<&EpochSecret> {
        self.0.values().next_back()
    }

    /// All, newest first.
    pub fn iter(&self) -> impl Iterator<Item = &EpochSecret> {
        self.0.values().rev()
    }
}

/// Seals `secret` so that only the holder of `to`'s secret half can read it; bound to `vpi`, to `to` and to the
/// key made for this one box. `None` for a low-order `to`.
#[must_use]
pub fn seal_secret(
    rng: &mut Rng,
    vpi: &VpiId,
    to: &StaticKey,
    secret: &Secret,
) -> Option<[u8; SEALED_BYTES]> {
    let ephemeral = StaticSecret::from_bytes(random::bytes(rng));
    let cipher = box_cipher(vpi, &ephemeral, to, &ephemeral.public(), to)?;
    // The key serves this box alone, so the nonce need not vary.
    let sealed = cipher.encrypt(&XNonce::default(), &secret.0[..]).ok()?;
    let mut out = [0; SEALED_BYTES];
    let (head, tail) = out.split_at_mut(32);
    head.copy_from_slice(ephemeral.public().as_bytes());
    tail.copy_from_slice(&sealed);
    Some(out)
}

/// Opens what [`seal_secret`] sealed to `own`; `None` for any other bytes.
#[must_use]
pub fn open_secret(vpi: &VpiId, own: &StaticSecret, sealed: &[u8; SEALED_BYTES]) -> Option<Secret> {
    let (head, tail) = sealed.split_first_chunk::<32>()?;
    let ephemeral = StaticKey(*head);
    let cipher = box_cipher(vpi, own, &ephemeral, &ephemeral, &own.public())?;
    let secret = Zeroizing::new(cipher.decrypt(&XNonce::default(), tail).ok()?);
    secret.as_slice().try_into().ok().map(Secret)
}

fn box_cipher(
    vpi: &VpiId,
    own: &StaticSecret,
    other: &StaticKey,
    ephemeral: &StaticKey,
    recipient: &StaticKey,
) -> Option<XChaCha20Poly1305> {
    let shared = Zeroizing::new(own.agree(other)?);
    let key = Zeroizing::new(derive::<32>(vpi, &shared, "seal", &[&ephemeral.0, &recipient.0]));
    Some(XChaCha20Poly1305::new((&*key).into()))
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    const VPI: VpiId = VpiId([1; 32]);

    fn epoch(number: u64, byte: u8) -> EpochSecret {
        EpochSecret::new(VPI, number, Secret([byte; 32]))
    }

    #[test]
    fn keys_of_one_secret_differ_and_stay_as_they_are() {
        let one = epoch(0, 2);
        assert_ne!(one.veil_key(), one.psk());
        assert_ne!(one.join_veil_key(&InviteId([1; 16])), one.join_veil_key(&InviteId([2; 16])));
        let known = data_encoding::HEXLOWER.encode(&one.veil_key().0);
        assert_eq!(known, "aef4aebae523cc4409e65e9814f7636d55cae4fe7417acfae9e84415c86603e0");
        assert_eq!(data_encoding::HEXLOWER.encode(&one.tag()), "1036");
    }

    #[test]
    fn only_the_newest_secrets_are_kept() {
        let mut epochs = Epochs::new();
        for number in 0..40 {
            let gone = epochs.insert(epoch(number, 7));
            assert_eq!(gone.map(|epoch| epoch.number()), number.checked_sub(MAX_EPOCHS as u64));
        }
        assert_eq!(epochs.iter().count(), MAX_EPOCHS);
        assert_eq!(epochs.newest().map(EpochSecret::number), Some(39));
        assert_eq!(epochs.get(7, epoch(7, 7).tag()), None);
    }

    #[test]
    fn two_secrets_of_one_number_stay_apart() {
        let mut epochs = Epochs::new();
        epochs.insert(epoch(3, 1));
        epochs.insert(epoch(3, 2));
        assert_eq!(epochs.by_hash(&epoch(3, 1).hash()), Some(&epoch(3, 1)));
        assert_eq!(epochs.by_tag(epoch(3, 2).tag()).collect::<Vec<_>>(), [&epoch(3, 2)]);
    }

    #[test]
    fn a_sealed_secret_opens_for_its_recipient_in_its_vpi_only() {
        let mut rng = Rng::from_seed([5; 32]);
        let (own, other) = (StaticSecret::from_bytes([3; 32]), StaticSecret::from_bytes([4; 32]));
        let sealed = seal_secret(&mut rng, &VPI, &own.public(), &Secret([9; 32])).unwrap();
        assert_eq!(open_secret(&VPI, &own, &sealed), Some(Secret([9; 32])));
        assert_eq!(open_secret(&VPI, &other, &sealed), None);
        assert_eq!(open_secret(&VpiId([2; 32]), &own, &sealed), None);
        for bit in 0..SEALED_BYTES * 8 {
            let mut flipped = sealed;
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The top bit of an X25519 key is ignored by the curve (RFC 7748 §5), but bound by the derivation.
            assert_eq!(open_secret(&VPI, &own, &flipped), None, "bit {bit}");
        }
        assert_eq!(seal_secret(&mut rng, &VPI, &StaticKey([0; 32]), &Secret([9; 32])), None);
    }
}
