//! Streams through beacons that carry packets: what goes to them, and what came over them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use protocol::drop::DropReason;
use protocol::forward::Inbound;
use protocol::path::Remote;
use protocol::tunnel::coalesce::Coalesced;

use super::Seen;
use super::run::{Device, Runner, offer};
use crate::carry::Line;

/// Frames taken of one stream before the sockets get their turn (chosen: as many as a turn of datagrams).
const TURN: usize = 64;

/// The streams' lines, by the engine's numbers.
pub(super) type Lines = BTreeMap<u32, Arc<Line>>;

impl Runner {
    /// Takes in a stream's line, or lets it go, with what came over it.
    pub(super) fn set_line(&mut self, number: u32, line: Option<Arc<Line>>) {
        match line {
            Some(line) => drop(self.lines.insert(number, line)),
            None => {
                self.take_carried();
                self.lines.remove(&number);
            }
        }
    }

    /// Takes what came over streams, as from the socket. Returns whether anything was handed to the device, and whether there
    /// is more.
    pub(super) fn take_carried(&mut self) -> (bool, bool) {
        if self.lines.is_empty() {
            return (false, false);
        }
        let (now, mut is_more) = (Instant::now(), false);
        // The coalescer keeps what it has not written yet.
        let mut arrived: Vec<(u32, Vec<Vec<u8>>)> = Vec::new();
        for (number, line) in &self.lines {
            let frames: Vec<_> = std::iter::from_fn(|| line.take_arrived()).take(TURN).collect();
            is_more |= frames.len() == TURN;
            arrived.push((*number, frames));
        }
        let mut device =
            Device { tun: self.tun.as_deref(), drops: &self.drops, has_written: false, failed: None };
        let mut coalescer = self.tun.as_ref().and_then(|tun| tun.coalescer());
        for (number, frames) in &mut arrived {
            for frame in frames {
                match (self.forwarder.passed_on(Remote::Carried(*number), frame, now), &mut coalescer) {
                    (Inbound::Packet(packet), Some(coalescer)) => {
                        coalescer.take(packet, &mut |packet| device.write(packet));
                    }
                    (Inbound::Packet(packet), None) => device.write(&Coalesced::from(&*packet)),
                    (Inbound::Message { index, from, bytes }, _) => {
                        let seen = Seen::Message { index, from, bytes: bytes.to_vec() };
                        offer(&self.queues.seen, (self.vpi, seen), &self.drops, DropReason::MessageFlood);
                    }
                    (Inbound::Veiled { from, bytes }, _) => {
                        let seen = Seen::Veiled { from, bytes: bytes.to_vec() };
                        offer(&self.queues.veiled, (self.vpi, seen), &self.drops, DropReason::RateLimited);
                    }
                    (Inbound::Keepalive, _) => {}
                    (Inbound::Drop(reason), _) => self.drops.count(reason),
                    (Inbound::Stun { .. } | Inbound::PassOn { .. }, _) => {
                        self.drops.count(DropReason::Malformed);
                    }
                }
            }
        }
        if let Some(coalescer) = &mut coalescer {
            coalescer.finish(&mut |packet| device.write(packet));
        }
        let has_written = device.has_written;
        if let Some(cause) = device.failed {
            self.on_device_error(&cause);
        }
        (has_written, is_more)
    }
}
