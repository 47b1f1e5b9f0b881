//! Chance, from one seed: the engine draws everything from the generator that it was given.

use std::time::Duration;

use rand_core::Rng as _;

/// The generator; its seed is the engine's only source of randomness.
pub type Rng = rand_chacha::ChaCha20Rng;

/// Draws `N` random bytes.
pub fn bytes<const N: usize>(rng: &mut Rng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// `base` ± 20 %, so that timers of many nodes do not march in step.
#[must_use]
pub fn jittered(base: Duration, rng: &mut Rng) -> Duration {
    base.mul_f64(0.8 + 0.4 * f64::from(rng.next_u32()) / f64::from(u32::MAX))
}

/// `base` less up to a tenth, for what must not come later than it says.
#[must_use]
pub fn earlier(base: Duration, rng: &mut Rng) -> Duration {
    base.mul_f64(1.0 - 0.1 * f64::from(rng.next_u32()) / f64::from(u32::MAX))
}

/// A random part of `span`, for what many would else do in one moment.
#[must_use]
pub fn within(span: Duration, rng: &mut Rng) -> Duration {
    span.mul_f64(f64::from(rng.next_u32()) / f64::from(u32::MAX))
}
