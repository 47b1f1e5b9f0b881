//! What arrived, handed over: packets to the device, consecutive ones of a flow as one, and the rest to the driver.
//!
//! In: what the forwarder makes of the datagrams of one turn, whichever way they came. Out: one call of the kernel for each
//! packet or super-packet, and places in the two queues; what finds none is counted.

use std::io;
use std::net::SocketAddr;

use protocol::drop::DropReason;
use protocol::forward::Inbound;
use protocol::identity::VpiId;
use protocol::tunnel::coalesce::{Coalesced, Coalescer};
use tokio::sync::mpsc::Sender;

use super::{Queues, Seen};
use crate::metrics::Drops;
use crate::tun::Tun;

/// The arrivals of one turn.
pub(super) struct Arrivals<'r, 'd> {
    vpi: VpiId,
    queues: &'r Queues,
    coalescer: Option<Coalescer<'d>>,
    device: Device<'r>,
}

/// The TUN device, if there is one, as the end of what is received.
struct Device<'r> {
    tun: Option<&'r Tun>,
    drops: &'r Drops,
    has_written: bool,
    failed: Option<io::Error>,
}

impl<'r, 'd> Arrivals<'r, 'd> {
    /// With nothing in it yet.
    pub(super) fn new(vpi: VpiId, tun: Option<&'r Tun>, queues: &'r Queues, drops: &'r Drops) -> Self {
        let device = Device { tun, drops, has_written: false, failed: None };
        Self { vpi, queues, coalescer: tun.and_then(Tun::coalescer), device }
    }

    /// Hands over what became of the next datagram. Returns where it is to be sent on, if it is another's.
    pub(super) fn take(&mut self, inbound: Inbound<'d>) -> Option<(SocketAddr, &'d mut [u8])> {
        let Queues { seen: members, veiled: anybody } = self.queues;
        match inbound {
            Inbound::Packet(packet) => match &mut self.coalescer {
                Some(coalescer) => coalescer.take(packet, &mut |packet| self.device.write(packet)),
                None => self.device.write(&Coalesced::from(&*packet)),
            },
            Inbound::Message { index, from, bytes } => {
                let message = Seen::Message { index, from, bytes: bytes.to_vec() };
                self.tell(members, message, DropReason::MessageFlood);
            }
            Inbound::Veiled { from, bytes } => {
                self.tell(anybody, Seen::Veiled { from, bytes: bytes.to_vec() }, DropReason::RateLimited);
            }
            Inbound::Stun { from, bytes } => {
                self.tell(anybody, Seen::Stun { from, bytes: bytes.to_vec() }, DropReason::RateLimited);
            }
            Inbound::PassOn { to, bytes } => return Some((to, bytes)),
            Inbound::Keepalive => {}
            Inbound::Drop(reason) => self.device.drops.count(reason),
        }
        None
    }

    /// Ends the turn. Returns whether the device took anything, and what it last failed with.
    pub(super) fn finish(mut self) -> (bool, Option<io::Error>) {
        if let Some(coalescer) = &mut self.coalescer {
            coalescer.finish(&mut |packet| self.device.write(packet));
        }
        (self.device.has_written, self.device.failed)
    }

    fn tell(&self, queue: &Sender<(VpiId, Seen)>, seen: Seen, otherwise: DropReason) {
        offer(queue, (self.vpi, seen), self.device.drops, otherwise);
    }
}

impl Device<'_> {
    fn write(&mut self, packet: &Coalesced<'_, '_>) {
        match self.tun.map(|tun| tun.write(packet)) {
            Some(Err(cause)) => {
                self.drops.count(DropReason::SendFailed);
                self.failed = Some(cause);
            }
            Some(Ok(())) => self.has_written = true,
            None => {}
        }
    }
}

/// Puts something into a bounded queue, or drops and counts it.
pub(super) fn offer(
    queue: &Sender<(VpiId, Seen)>,
    seen: (VpiId, Seen),
    drops: &Drops,
    otherwise: DropReason,
) {
    if queue.try_send(seen).is_err() {
        drops.count(otherwise);
    }
}
