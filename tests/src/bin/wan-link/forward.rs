//! One direction: reads packets in batches, keeps them until they are due, and sends them as near to that instant as the
//! machine allows.
//!
//! The thread sleeps in `poll` until [`SPIN`] before the next packet is due, and looks without sleeping from there on:
//! a sleeping thread is woken late, by the timer's slack and by whatever else runs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use tun_rs::SyncDevice;

use crate::fate::{Fate, Line};

/// How long before a packet is due the thread stops sleeping.
const SPIN: Duration = Duration::from_micros(60);
/// How often a thread looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);
/// Packets read in a row before those that are due get their turn.
const BATCH: usize = 64;
/// Packets kept at most: 1 s at 10 Gbit/s in full packets. What comes beyond is dropped as before a full queue, so that
/// a long delay without a rate cannot take the machine's memory.
const MAX_KEPT: usize = 1 << 20;
const LARGEST_PACKET: usize = 1 << 16;
/// A packet that leaves this much after it was due is counted as late.
const LATE: Duration = Duration::from_millis(1);

/// What became of the packets of one direction.
#[derive(Debug, Default)]
pub(crate) struct Statistics {
    received: u64,
    sent: u64,
    sent_bytes: u64,
    dropped: u64,
    lost: u64,
    twice: u64,
    held: u64,
    /// The kernel would not take it.
    refused: u64,
    kept: u64,
    late: u64,
    latest: Duration,
    lateness: Duration,
}

impl Statistics {
    /// One line: packets by what became of them; `late` by more than a millisecond; `kept` were under way at the end.
    pub(crate) fn to_json(&self, direction: &str) -> Value {
        let mean = self.lateness.as_secs_f64() * 1e6
            / f64::from(u32::try_from(self.sent.max(1)).unwrap_or(u32::MAX));
        json!({
            "direction": direction, "received": self.received, "sent": self.sent, "sent_bytes": self.sent_bytes,
            "dropped": self.dropped, "lost": self.lost, "twice": self.twice, "held": self.held,
            "refused": self.refused, "kept": self.kept, "late": self.late,
            "late_us": {"mean": mean.round(), "max": self.latest.as_micros()},
        })
    }
}

/// A packet under way; the count keeps packets that are due at one instant in their order.
type Kept = Reverse<(Instant, u64, Vec<u8>)>;

/// Forwards until it is not wanted any more.
///
/// # Errors
/// A device is gone.
pub(crate) fn forward(
    from: &SyncDevice,
    to: &SyncDevice,
    line: Line,
    wanted: &AtomicBool,
) -> Result<Statistics> {
    // The finest that Linux has, instead of 50 µs.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let mut direction = Direction { line, kept: BinaryHeap::new(), statistics: Statistics::default() };
    let mut buffer = vec![0; LARGEST_PACKET];
    while wanted.load(Ordering::Relaxed) {
        direction.wait(from)?;
        direction.read(from, &mut buffer)?;
        direction.send(to)?;
    }
    direction.statistics.kept = direction.kept.len() as u64;
    Ok(direction.statistics)
}

struct Direction {
    line: Line,
    kept: BinaryHeap<Kept>,
    statistics: Statistics,
}

impl Direction {
    /// Sleeps until a packet comes, or one is nearly due.
    fn wait(&self, from: &SyncDevice) -> Result<()> {
        let sleep = self.kept.peek().map_or(LOOK, |Reverse((due_at, ..))| {
            due_at.saturating_duration_since(Instant::now()).saturating_sub(SPIN).min(LOOK)
        });
        if !sleep.is_zero() {
            let mut wishes = [PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN)];
            match poll(&mut wishes, Some(&Timespec::try_from(sleep)?)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read(&mut self, from: &SyncDevice, buffer: &mut [u8]) -> Result<()> {
        for _ in 0..BATCH {
            let length = match from.recv(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            self.keep(buffer.get(..length).unwrap_or_default(), Instant::now());
        }
        Ok(())
    }

    fn keep(&mut self, packet: &[u8], now: Instant) {
        self.statistics.received += 1;
        match self.line.decide(packet.len(), now) {
            Fate::Leaves { .. } if self.kept.len() >= MAX_KEPT => self.statistics.dropped += 1,
            Fate::Leaves { at, is_twice, is_held } => {
                self.statistics.held += u64::from(is_held);
                self.statistics.twice += u64::from(is_twice);
                // The number of the packet, doubled: room for its copy.
                let number = self.statistics.received * 2;
                if is_twice {
                    self.kept.push(Reverse((at, number + 1, packet.to_vec())));
                }
                self.kept.push(Reverse((at, number, packet.to_vec())));
            }
            Fate::Dropped => self.statistics.dropped += 1,
            Fate::Lost => self.statistics.lost += 1,
        }
    }

    fn send(&mut self, to: &SyncDevice) -> Result<()> {
        let mut now = Instant::now();
        while let Some(Reverse((due_at, ..))) = self.kept.peek()
            && *due_at <= now
        {
            let Some(Reverse((due_at, _, packet))) = self.kept.pop() else { break };
            match to.send(&packet) {
                Ok(_) => self.count_sent(packet.len(), now.duration_since(due_at)),
                Err(error) if is_refusal(&error) => self.statistics.refused += 1,
                Err(error) => return Err(error.into()),
            }
            now = Instant::now();
        }
        Ok(())
    }

    fn count_sent(&mut self, length_bytes: usize, late: Duration) {
        self.statistics.sent += 1;
        self.statistics.sent_bytes += length_bytes as u64;
        self.statistics.lateness += late;
        self.statistics.latest = self.statistics.latest.max(late);
        self.statistics.late += u64::from(late > LATE);
    }
}

/// No room at this moment, or not a packet that the kernel takes; the next one may pass.
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, OutOfMemory, WouldBlock};
    matches!(error.kind(), WouldBlock | InvalidInput | OutOfMemory)
}
