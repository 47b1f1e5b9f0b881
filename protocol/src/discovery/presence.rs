//! Presence records: where a device may be reached, for those who hold the epoch's secret (README §18).
//!
//! ```text
//! A' = the device's key, blinded with (epoch, presence, device, slot)
//! box key = HKDF(K, "box", purpose u8 ‖ device key 32 ‖ slot u64)       content = the Presence's envelope
//! ```
//!
//! The largest Presence has 505 bytes (8 IPv6 candidates, a beacon's longest address and peer id, times of 2^40); what
//! later versions add to it may have 517 more.

use super::blind::{BlindedSigner, Purpose, blinded_public, blinding};
use super::record::{self, Class, KEY_BYTES, ReadKeys, Record, RecordError, Signer, WriteKeys};
use super::slot;
use crate::identity::{DeviceId, Secret, SigningSecret, VpiId, derive};
use crate::membership::epoch::EpochSecret;
use crate::membership::object::{Body, Object, Presence};
use crate::random::Rng;

/// Where the Presence of one device stands in one slot under one epoch, and what opens it there.
#[derive(Clone, Debug)]
pub struct Place {
    vpi: VpiId,
    device: DeviceId,
    keys: ReadKeys,
}

impl Place {
    /// The place of `device` in `slot`; `None` if `device` is no key that can be blinded.
    #[must_use]
    pub fn new(epoch: &EpochSecret, device: &DeviceId, slot: u64) -> Option<Self> {
        let h = blinding(epoch.secret(), epoch.vpi(), Purpose::Presence, device, slot);
        let keys =
            ReadKeys::new(&blinded_public(device, &h)?, box_key(epoch, Purpose::Presence, device, slot));
        Some(Self { vpi: *epoch.vpi(), device: *device, keys })
    }

    /// The key to look up.
    #[must_use]
    pub fn key(&self) -> &[u8; KEY_BYTES] {
        &self.keys.key
    }

    /// Checks one value that was found there, opens it, and verifies the Presence inside.
    ///
    /// # Errors
    /// A [`RecordError`]; [`RecordError::Content`] for anything but a Presence by this very device.
    pub fn open(&self, value: &[u8], wall_secs: u64) -> Result<Object, RecordError> {
        let (_, content) = self.keys.open(Class::Slot, value, wall_secs)?;
        let object = Object::open(&self.vpi, &content).map_err(|_| RecordError::Content)?;
        match presence_in(&object) {
            Some(presence) if presence.device == self.device => Ok(object),
            _ => Err(RecordError::Content),
        }
    }
}

/// Makes the record of `object`, a Presence of the device whose secret is `secret`, for `slot`.
///
/// `wall_secs` becomes its sequence. `None` if `object` is no Presence of that device or does not fit.
#[must_use]
pub fn seal(
    epoch: &EpochSecret,
    slot: u64,
    (secret, object): (&SigningSecret, &Object),
    wall_secs: u64,
    rng: &mut Rng,
) -> Option<Record> {
    let device = secret.public();
    presence_in(object).filter(|presence| presence.device == device)?;
    let h = blinding(epoch.secret(), epoch.vpi(), Purpose::Presence, &device, slot);
    let signer = Signer::Blinded(BlindedSigner::new(secret, &h)?);
    let keys = WriteKeys { signer, box_key: box_key(epoch, Purpose::Presence, &device, slot) };
    record::seal(Class::Slot, &keys, (wall_secs, slot::expiry_of(slot)), object.bytes(), rng)
}

/// The key of the boxes of records about `device` in `slot`.
pub(super) fn box_key(epoch: &EpochSecret, purpose: Purpose, device: &DeviceId, slot: u64) -> Secret {
    let arguments: [&[u8]; 3] = [&[purpose as u8], &device.0, &slot.to_be_bytes()];
    Secret(derive(epoch.vpi(), &epoch.secret().0, "box", &arguments))
}

/// What a Presence says; `None` for another kind.
pub(super) fn presence_in(object: &Object) -> Option<&Presence> {
    match object.body() {
        Body::Presence(presence) => Some(presence),
        _ => None,
    }
}
