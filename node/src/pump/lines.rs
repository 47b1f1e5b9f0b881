//! Streams through beacons that carry packets: what goes to them, and what came over them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use protocol::path::Remote;

use super::arrivals::Arrivals;
use super::run::Runner;
use crate::carry::Line;

/// Frames taken of one stream before the sockets get their turn (chosen: as many as a turn of datagrams).
const TURN: usize = 64;

/// The streams' lines, by the engine's numbers.
pub(super) type Lines = BTreeMap<u32, Arc<Line>>;

impl Runner {
    /// Takes in a stream's line, or lets it go, with what came over it.
    pub(super) fn set_line(&mut self, number: u32, line: Option<Arc<Line>>) {
        match line {
            Some(line) => drop(self.outgoing.lines.insert(number, line)),
            None => {
                self.take_carried();
                self.outgoing.lines.remove(&number);
            }
        }
    }

    /// Takes what came over streams, as from the socket. Returns whether anything was handed to the device, and whether there
    /// is more.
    pub(super) fn take_carried(&mut self) -> (bool, bool) {
        if self.outgoing.lines.is_empty() {
            return (false, false);
        }
        let (now, mut is_more) = (Instant::now(), false);
        // The coalescer keeps what it has not written yet.
        let mut arrived: Vec<(u32, Vec<Vec<u8>>)> = Vec::new();
        for (number, line) in &self.outgoing.lines {
            let frames: Vec<_> = std::iter::from_fn(|| line.take_arrived()).take(TURN).collect();
            is_more |= frames.len() == TURN;
            arrived.push((*number, frames));
        }
        let mut arrivals = Arrivals::new(self.vpi, self.tun.as_deref(), &self.queues, &self.drops);
        for (number, frames) in &mut arrived {
            for frame in frames {
                arrivals.take(self.forwarder.passed_on(Remote::Carried(*number), frame, now));
            }
        }
        let ended = arrivals.finish();
        (self.after(ended), is_more)
    }
}
