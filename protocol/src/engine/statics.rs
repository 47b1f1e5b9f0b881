//! This device's static keys: the one that its word names, and former ones that members may still call.

use super::news::Origin;
use super::{Engine, Time};
use crate::identity::StaticSecret;
use crate::membership::admin;
use crate::random::Rng;
use crate::tunnel::handshake::{Context, HandshakeError, Received};

/// Former static keys that are still heard (chosen: the one before, and one that was never announced).
const MAX_FORMER: usize = 2;

impl Engine {
    /// Takes another static key of this device's, which is on disk.
    pub(super) fn add_static(&mut self, secret: StaticSecret) {
        if secret.public() != self.config.static_secret.public() {
            self.former_statics.insert(0, secret);
            self.former_statics.truncate(MAX_FORMER);
        }
        self.choose_static();
    }

    /// Uses the static key that members know: what a disk held too much, or lost, does not count.
    pub(super) fn choose_static(&mut self) {
        let own = self.config.device.public();
        let Some(key) = self.roster.membership().member(&own).and_then(|member| member.static_key) else {
            return;
        };
        if let Some(known) = self.former_statics.iter_mut().find(|former| former.public() == key) {
            std::mem::swap(known, &mut self.config.static_secret);
        }
    }

    /// Makes `secret`, which is on disk, the static key of this device, and tells the others.
    pub(super) fn rekey_static(&mut self, secret: StaticSecret, time: Time) {
        let own = self.config.device.public();
        let newest = self.roster.objects().rekeys_of(&own).first().map(|(_, rekey)| rekey.counter);
        // Above every former one, also one that a disk forgot. What a clock far ahead counts to, one more follows.
        let counter = newest.map_or(0, |newest| newest.saturating_add(1)).max(time.wall_secs());
        let (device, key) = (&self.config.device, secret.public());
        let made = admin::rekey(&self.config.vpi, device, counter, key, time.wall_secs());
        let Ok(object) = made else { return };
        self.add_static(secret);
        let taken = self.roster.insert([object]);
        self.on_news(taken, Origin::Own, time);
    }
}

/// Reads an initiation to any of these static keys.
pub(super) fn receive<'s>(
    statics: impl Iterator<Item = &'s StaticSecret>,
    context: Context<'_>,
    body: &[u8],
    rng: &mut Rng,
) -> Result<Received, HandshakeError> {
    let mut received = Err(HandshakeError);
    for secret in statics {
        received = Received::new(secret, context, body, rng);
        if received.is_ok() {
            break;
        }
    }
    received
}
