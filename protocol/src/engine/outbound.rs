//! The first packet to a member: held, while it wakes the link.

use super::outbox::Event;
use super::outbox::Outbox;
use super::{Engine, Time};
use crate::drop::DropReason;
use crate::filter;
use crate::forward::Egress;
use crate::path::Remote;

impl Engine {
    /// Holds a packet of an application until the link of its destination is up.
    pub(super) fn hold(&mut self, packet: Vec<u8>, time: Time) {
        match self.try_hold(packet, time) {
            Ok(()) => {}
            Err(reason) => self.out.events.push_back(Event::Dropped(reason)),
        }
    }

    fn try_hold(&mut self, packet: Vec<u8>, time: Time) -> Result<(), DropReason> {
        let alias = filter::outbound(&packet, self.aliases.own())?;
        let device = self.aliases.device_at(alias).ok_or(DropReason::PacketUnknownAlias)?;
        let peer = self.peers.get_mut(&device).ok_or(DropReason::PacketUnknownAlias)?;
        let dropped = peer.hold(packet, time.now);
        if peer.route.is_some() {
            // The link came up while the packet was on its way here.
            self.flush(&device, time);
        } else if peer.is_settled() || peer.sessions.current(time.now).is_none() {
            self.wake(&device, time);
        }
        dropped.map_or(Ok(()), |_| Err(DropReason::PacketQueue))
    }
}

impl Egress for Outbox {
    fn leave_by(&mut self, side: Option<u32>) {
        self.side = side;
    }

    fn datagram(
        &mut self,
        to: std::net::SocketAddr,
        bytes: usize,
        fill: impl FnOnce(&mut [u8]) -> bool,
    ) -> bool {
        let mut datagram = vec![0; bytes];
        let filled = fill(&mut datagram);
        if filled {
            let to = self.side.map_or(Remote::Udp(to), |socket| Remote::Side { address: to, socket });
            self.transmit(to, datagram);
        }
        filled
    }

    fn carried(&mut self, number: u32, bytes: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let mut datagram = vec![0; bytes];
        let filled = fill(&mut datagram);
        if filled {
            self.transmit(Remote::Carried(number), datagram);
        }
        filled
    }
}
