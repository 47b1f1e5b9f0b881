//! The primitives that `snow` runs the Noise handshake on: X25519, ChaCha20-Poly1305 and SHA-256 from `aws-lc-rs`,
//! randomness from the engine's seeded generator.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest;
use rand_core::{Rng as _, SeedableRng as _};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroize;

use crate::identity::{StaticKey, StaticSecret};
use crate::random::{self, Rng};

/// Gives `snow` its primitives; one for each handshake, with a seed of its own.
pub(super) struct Resolver {
    seed: [u8; 32],
}

impl Resolver {
    /// A resolver whose ephemeral keys come from `rng`.
    pub(super) fn new(rng: &mut Rng) -> Self {
        Self { seed: random::bytes(rng) }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.seed.zeroize();
    }
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Seeded(Rng::from_seed(self.seed))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(X25519::default()) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::SHA256).then(|| Box::new(Sha256::default()) as Box<dyn Hash>)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::ChaChaPoly).then(|| Box::new(ChaChaPoly::default()) as Box<dyn Cipher>)
    }
}

struct Seeded(Rng);

impl Random for Seeded {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

/// X25519 (RFC 7748); an agreement with a low-order key is an error.
#[derive(Default)]
struct X25519 {
    secret: [u8; 32],
    public: [u8; 32],
}

impl Drop for X25519 {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, privkey: &[u8]) {
        self.secret.copy_from_slice(privkey);
        self.public = StaticSecret::from_bytes(self.secret).public().0;
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut secret = [0; 32];
        rng.try_fill_bytes(&mut secret)?;
        self.set(&secret);
        secret.zeroize();
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.secret
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let peer: &[u8; 32] = pubkey.first_chunk().ok_or(snow::Error::Dh)?;
        let mut shared =
            StaticSecret::from_bytes(self.secret).agree(&StaticKey(*peer)).ok_or(snow::Error::Dh)?;
        out[..32].copy_from_slice(&shared);
        shared.zeroize();
        Ok(())
    }
}

/// ChaCha20-Poly1305 with Noise's nonce: four zero bytes, then the number, little-endian (Noise §12.3).
#[derive(Default)]
struct ChaChaPoly {
    key: Option<LessSafeKey>,
}

impl ChaChaPoly {
    fn nonce(number: u64) -> Nonce {
        let mut bytes = [0; 12];
        bytes[4..].copy_from_slice(&number.to_le_bytes());
        Nonce::assume_unique_for_key(bytes)
    }

    fn key(&self) -> &LessSafeKey {
        self.key.as_ref().expect("snow sets the key before it uses the cipher")
    }
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.key = Some(LessSafeKey::new(
            UnboundKey::new(&CHACHA20_POLY1305, key).expect("a ChaCha20-Poly1305 key is 32 bytes"),
        ));
    }

    fn encrypt(&self, nonce: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (body, tag) = out[..plaintext.len() + 16].split_at_mut(plaintext.len());
        body.copy_from_slice(plaintext);
        let sealed = self
            .key()
            .seal_in_place_separate_tag(Self::nonce(nonce), Aad::from(authtext), body)
            .expect("a handshake message is far below the limit of the AEAD");
        tag.copy_from_slice(sealed.as_ref());
        plaintext.len() + 16
    }

    fn decrypt(
        &self,
        nonce: u64,
        authtext: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, snow::Error> {
        let mut buffer = ciphertext.to_vec();
        let plaintext = self
            .key()
            .open_in_place(Self::nonce(nonce), Aad::from(authtext), &mut buffer)
            .map_err(|_| snow::Error::Decrypt)?;
        let target = out.get_mut(..plaintext.len()).ok_or(snow::Error::Decrypt)?;
        target.copy_from_slice(plaintext);
        Ok(plaintext.len())
    }
}

struct Sha256(digest::Context);

impl Default for Sha256 {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        *self = Self::default();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(self.0.clone().finish().as_ref());
    }
}
