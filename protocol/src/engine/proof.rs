//! Showing a member that this device is one, and being shown: envelopes in an initiation (README §5.1).
//!
//! A member may not have heard of another yet: its Join and Admit travel with the first initiation, and with every
//! attempt that went unanswered. The responder's own reducer decides; before it does, nothing is answered or kept.

use super::news::Origin;
use super::{Engine, Event, Time};
use crate::drop::DropReason;
use crate::identity::{DeviceId, StaticKey};
use crate::membership::object::{Body, Object};
use crate::tunnel::handshake::INITIATION_BYTES;
use crate::veil::MEMBER_OVERHEAD_BYTES;
use crate::wire::hello::{HELLO_BYTES, MAX_PROOFS};

/// An initiation's datagram with its proofs, in bytes at most (specified: README §5.1).
const MAX_DATAGRAM_BYTES: usize = 1_232;
/// The same where a member passes it on: with the label before it, it is as long as what every path carries.
pub(super) const RELAYED_BYTES: usize = 1_192;
/// What the envelopes, with two bytes of length before each, leave to the rest.
const OTHER_BYTES: usize = MEMBER_OVERHEAD_BYTES + INITIATION_BYTES + HELLO_BYTES + 1;

impl Engine {
    /// The envelopes that show this device to be a member, the least known first; what does not fit, others fetch.
    pub(super) fn own_proofs(&self, is_relayed: bool) -> Vec<Object> {
        let max_bytes = if is_relayed { RELAYED_BYTES } else { MAX_DATAGRAM_BYTES } - OTHER_BYTES;
        let own = self.config.device.public();
        let (objects, membership) = (self.roster.objects(), self.roster.membership());
        let join = membership.member(&own).and_then(|member| objects.get(&member.join?));
        let invite = join.and_then(|join| match join.body() {
            Body::Join(body) => membership.invite(&body.invite_id).map(|state| state.object().clone()),
            _ => None,
        });
        let admit = join.and_then(|join| {
            let mut admits: Vec<_> = objects.admits_of(&join.id()).collect();
            admits.retain(|(_, admit)| membership.has_vouching(&admit.witness));
            let has_left = |witness| membership.member(witness).is_none();
            admits
                .into_iter()
                .min_by_key(|(object, admit)| (has_left(&admit.witness), admit.time, object.id()))
                .map(|(object, _)| object)
        });
        let rekey = objects.rekeys_of(&own).first().map(|(object, _)| (*object).clone());
        let mut bytes = 0;
        [join.cloned(), admit.cloned(), rekey, invite]
            .into_iter()
            .flatten()
            .filter(|object| self.roster.to_tell(&object.id()).is_some())
            .filter(|object| {
                let with_it = bytes + 2 + object.bytes().len();
                let fits = with_it <= max_bytes;
                bytes = if fits { with_it } else { bytes };
                fits
            })
            .take(usize::from(MAX_PROOFS))
            .collect()
    }

    /// Whether `device` is a member whose static key this is; of one that is not known, the envelopes may show it. A trial
    /// that fails is remembered by the `nonce` of its veil: who plays it again takes no trial from others.
    pub(super) fn is_peer(
        &mut self,
        (device, key): (&DeviceId, &StaticKey),
        (proofs, nonce): (&[&[u8]], [u8; 24]),
        time: Time,
    ) -> bool {
        // While this device is itself no member, it knows none and answers nobody.
        if self.joining.is_some() {
            return false;
        }
        if !self.roster.has_static(device, key) && !proofs.is_empty() {
            if !self.trials.take(time.now) {
                self.out.events.push_back(Event::Dropped(DropReason::RateLimited));
                return false;
            }
            let taken = self.roster.prove(proofs, (device, key), time.wall_secs());
            if taken.is_empty() {
                self.gate.on_failed(nonce, time.now);
            } else {
                self.on_news(taken, Origin::Member(*device), time);
            }
        }
        self.roster.has_static(device, key) && self.peers.contains_key(device)
    }
}
