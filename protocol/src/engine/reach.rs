//! What members may reach on this machine: each link is told its share, whichever comes first, the link or the wish.

use std::net::Ipv4Addr;

use super::Engine;
use super::outbox::{Event, Outbox};
use super::peer::Peer;
use crate::alias;
use crate::drop::DropReason;
use crate::filter::Reach;
use crate::forward::Update;
use crate::identity::DeviceId;
use crate::wire::ip::{ERROR_BYTES, Ipv4};

impl Engine {
    /// Takes in what the owner lets members reach, in place of what was before.
    pub(super) fn on_reach(&mut self, reach: Reach) {
        self.reach = reach;
        for (device, peer) in &self.peers {
            self.out.updates.push_back(share(&self.reach, device, peer));
        }
    }

    /// Tells the forwarder what `device` may reach, whose link it has just been told.
    pub(super) fn share_reach(&mut self, device: &DeviceId) {
        if let Some(peer) = self.peers.get(device) {
            self.out.updates.push_back(share(&self.reach, device, peer));
        }
    }
}

/// Hands an application the ICMP `error` about a packet that was held for `device`: at 127.0.0.1 if what sent it is
/// exposed, as the forwarder made the own alias its source.
pub(super) fn tell_application(
    (reach, device): (&Reach, &DeviceId),
    mut error: [u8; ERROR_BYTES],
    out: &mut Outbox,
) {
    let Ok(view) = Ipv4::parse(&error) else { return };
    let peer = view.source();
    let is_translated = reach.share(device).is_about_exposed(&view);
    if is_translated && alias::rewrite(&mut error, peer, Ipv4Addr::LOCALHOST).is_err() {
        return out.events.push_back(Event::Dropped(DropReason::PacketQuote));
    }
    out.packets.push_back(error.to_vec());
}

fn share(reach: &Reach, device: &DeviceId, peer: &Peer) -> Update {
    Update::Reach { link: peer.link, share: reach.share(device) }
}
