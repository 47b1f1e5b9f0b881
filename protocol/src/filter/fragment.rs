//! Where the later fragments of a packet go: they carry no ports and follow their first.
//!
//! In: the target that a first fragment was given, then the identification of a later one. Out: the same target. One
//! table for each link and direction, so that no member's fragments push out another's. A later fragment that
//! overtook its first is not known here.
//!
//! This table is never what keeps a member out: a packet that is put together again has a header only from a first
//! fragment, which was judged by its ports, and no later one reaches into that header.

use std::time::{Duration, Instant};

use super::Target;
use crate::wire::ip::Ipv4;

/// *Chosen*: packets of one member whose fragments are on their way at once; the oldest gives way.
pub const FRAGMENTED_MAX: usize = 64;
/// *Chosen*: as long as Linux waits for the rest of a packet.
const KEEP_FOR: Duration = Duration::from_secs(30);

/// Fragmented packets of one link and direction.
#[derive(Debug, Default)]
pub(super) struct Fragmented {
    /// Grows to [`FRAGMENTED_MAX`], then goes round.
    packets: Vec<Packet>,
    oldest: usize,
}

#[derive(Debug)]
struct Packet {
    identification: u16,
    protocol: u8,
    target: Target,
    ends_at: Instant,
}

impl Packet {
    fn is_of(&self, fragment: &Ipv4<'_>) -> bool {
        (self.identification, self.protocol) == (fragment.identification(), fragment.protocol())
    }
}

impl Fragmented {
    /// Notes where the first fragment of a packet goes.
    pub(super) fn on_first(&mut self, first: &Ipv4<'_>, target: Target, now: Instant) {
        let packet = Packet {
            identification: first.identification(),
            protocol: first.protocol(),
            target,
            ends_at: now + KEEP_FOR,
        };
        if let Some(known) = self.packets.iter_mut().find(|known| known.is_of(first)) {
            *known = packet;
        } else if self.packets.len() < FRAGMENTED_MAX {
            self.packets.push(packet);
        } else if let Some(oldest) = self.packets.get_mut(self.oldest) {
            *oldest = packet;
            self.oldest = (self.oldest + 1) % FRAGMENTED_MAX;
        }
    }

    /// Forgets the packet of a first fragment that does not pass.
    pub(super) fn on_refused(&mut self, first: &Ipv4<'_>, now: Instant) {
        if let Some(known) = self.packets.iter_mut().find(|known| known.is_of(first)) {
            known.ends_at = now;
        }
    }

    /// Where a later fragment goes; `None` if its first is not known.
    pub(super) fn target(&self, later: &Ipv4<'_>, now: Instant) -> Option<Target> {
        let known = self.packets.iter().find(|known| known.is_of(later) && now < known.ends_at)?;
        Some(known.target)
    }
}
