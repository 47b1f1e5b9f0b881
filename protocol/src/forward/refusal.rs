//! The word to a member about a packet of its that may not be let in, so that its application does not wait (README §13).
//!
//! In: packets that the [`crate::filter::Access`] of their link dropped. Out: one ICMP error for each, as far as bounds allow.

use std::time::Instant;

use super::{Egress, Forwarder, send_packet};
use crate::bucket::Rate;
use crate::wire::ip::{self, Ipv4};

/// Packets about which one member is told that it may not reach what they are for (chosen: enough for a person who tries, and
/// no more than a whisper to who scans).
pub(super) const RATE: Rate = Rate { per_second: 8.0, burst: 16.0 };
/// Such words that wait to be sent, of all members (chosen: one turn's).
const WAITING_MAX: usize = 64;

impl Forwarder {
    /// Says whether members are to be told about packets of theirs.
    #[must_use]
    pub fn has_refusals(&self) -> bool {
        !self.refusals.is_empty()
    }

    /// Tells members about packets of theirs that were not let in.
    pub fn send_refusals(&mut self, egress: &mut impl Egress) {
        while let Some((id, error)) = self.refusals.pop_front() {
            let Some(link) = self.links.get(&id) else { continue };
            if let Some(route) = &link.route {
                send_packet(&error, route, &link.traffic, egress);
            }
        }
    }

    /// Has the sender of `packet`, which came in the session `index` and may not be let in, told so.
    pub(super) fn refuse(&mut self, index: u32, packet: &[u8], now: Instant) {
        let Some(id) = self.receivers.get(&index).map(|receiver| receiver.link) else { return };
        let Some(link) = self.links.get_mut(&id) else { return };
        let error = Ipv4::parse(packet).ok().and_then(|packet| ip::prohibited(&packet));
        if let Some(error) = error
            && self.refusals.len() < WAITING_MAX
            && link.refusals.take(now)
        {
            self.refusals.push_back((id, error));
        }
    }
}
