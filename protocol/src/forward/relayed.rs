//! Relayed datagrams in the fast path (README §19): passed on under another label, or taken as a member's by way of another.
//!
//! Nothing is opened to be passed on: one look-up, eight bytes written in place, the rest as it came.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{LinkId, Note, Traffic};
use crate::drop::DropReason;
use crate::relay::share::Shares;
use crate::wire::header::{read_relay_header, write_relay_header};

/// The pause between two notes about one circuit: it lives for several of them.
const NOTE_PAUSE: Duration = Duration::from_secs(10);

/// One end of a circuit that this node passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The link with the member.
    pub link: LinkId,
    /// Where it is.
    pub at: SocketAddr,
    /// What it knows the circuit by.
    pub label: u32,
}

/// Whose datagram it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// This node's, under this label.
    Own(u32),
    /// Another member's, at this address; the label is written.
    Others(SocketAddr),
}

/// From one end to the other.
#[derive(Debug)]
struct Way {
    from: End,
    to: End,
    noted_at: Option<Instant>,
    traffic: Arc<Traffic>,
}

/// What is passed on, and what comes by way of others.
#[derive(Debug, Default)]
pub(super) struct Relayed {
    ways: BTreeMap<u32, Way>,
    legs: BTreeSet<(SocketAddr, u32)>,
    shares: Shares,
}

impl Relayed {
    /// Passes on between these two from here on.
    pub(super) fn join(&mut self, [a, b]: [End; 2], traffic: &Arc<Traffic>) {
        for (from, to) in [(a, b), (b, a)] {
            let traffic = Arc::clone(traffic);
            self.ways.insert(from.label, Way { from, to, noted_at: None, traffic });
        }
    }

    /// Passes nothing on under these labels any more.
    pub(super) fn part(&mut self, labels: [u32; 2]) {
        labels.iter().for_each(|label| drop(self.ways.remove(label)));
    }

    /// Takes what comes under this label from there as this node's own, or does not any more.
    pub(super) fn set_leg(&mut self, leg: (SocketAddr, u32), is_open: bool) {
        if is_open {
            self.legs.insert(leg);
        } else {
            self.legs.remove(&leg);
        }
    }

    /// Finds out whose `datagram` from `from` is; if another's, writes the label that it has there.
    pub(super) fn look(
        &mut self,
        from: SocketAddr,
        datagram: &mut [u8],
        notes: &mut VecDeque<Note>,
        now: Instant,
    ) -> Result<Whose, DropReason> {
        let label = read_relay_header(datagram).ok_or(DropReason::Malformed)?;
        if self.legs.contains(&(from, label)) {
            return Ok(Whose::Own(label));
        }
        let way = self.ways.get_mut(&label).filter(|way| way.from.at == from);
        let way = way.ok_or(DropReason::RelayLabel)?;
        way.traffic.count_received(datagram.len());
        if !self.shares.take(way.from.link, datagram.len(), now) {
            return Err(DropReason::RelayFlood);
        }
        way.traffic.count_sent(datagram.len());
        write_relay_header(datagram, way.to.label);
        if way.noted_at.is_none_or(|at| now >= at + NOTE_PAUSE) {
            way.noted_at = Some(now);
            notes.push_back(Note::Relayed { label });
        }
        Ok(Whose::Others(way.to.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::header::DATA;

    fn end(n: u8) -> End {
        let label = 0x0101_0101 * u32::from(n);
        End { link: u32::from(n), at: SocketAddr::from(([192, 0, 2, n], 41_414)), label }
    }

    fn datagram(label: u32) -> Vec<u8> {
        let mut datagram = vec![7; 48];
        write_relay_header(&mut datagram, label);
        datagram[8] = DATA;
        datagram
    }

    fn setup() -> (Relayed, VecDeque<Note>, Arc<Traffic>, Instant) {
        let (mut relayed, traffic) = (Relayed::default(), Arc::default());
        relayed.join([end(1), end(2)], &traffic);
        (relayed, VecDeque::new(), traffic, Instant::now())
    }

    #[test]
    fn a_datagram_is_passed_on_with_the_other_label_and_as_it_is() {
        let (mut relayed, mut notes, traffic, now) = setup();
        for (from, to) in [(end(1), end(2)), (end(2), end(1))] {
            let mut bytes = datagram(from.label);
            assert_eq!(relayed.look(from.at, &mut bytes, &mut notes, now), Ok(Whose::Others(to.at)));
            assert_eq!(bytes, datagram(to.label));
            assert_eq!(notes.pop_front(), Some(Note::Relayed { label: from.label }));
            let _ = relayed.look(from.at, &mut datagram(from.label), &mut notes, now);
            assert!(notes.is_empty(), "a note says enough for ten seconds");
        }
        assert_eq!((traffic.received_bytes(), traffic.sent_bytes()), (4 * 48, 4 * 48));
    }

    #[test]
    fn a_label_counts_from_its_owners_address_and_while_it_lives() {
        let (mut relayed, mut notes, _, now) = setup();
        let mut look = |relayed: &mut Relayed, from: SocketAddr, label| {
            relayed.look(from, &mut datagram(label), &mut notes, now)
        };
        for (from, label) in
            [(end(2).at, end(1).label), (end(3).at, end(1).label), (end(1).at, end(2).label), (end(1).at, 7)]
        {
            assert_eq!(look(&mut relayed, from, label), Err(DropReason::RelayLabel));
        }
        relayed.part([end(1).label, end(2).label]);
        assert_eq!(look(&mut relayed, end(1).at, end(1).label), Err(DropReason::RelayLabel));
        relayed.set_leg((end(1).at, end(1).label), true);
        assert_eq!(look(&mut relayed, end(1).at, end(1).label), Ok(Whose::Own(end(1).label)));
        assert_eq!(look(&mut relayed, end(2).at, end(1).label), Err(DropReason::RelayLabel));
        relayed.set_leg((end(1).at, end(1).label), false);
        assert_eq!(look(&mut relayed, end(1).at, end(1).label), Err(DropReason::RelayLabel));
    }

    #[test]
    fn a_flood_is_held_back_and_the_other_end_is_not() {
        let (mut relayed, mut notes, _, now) = setup();
        let mut pass = |end: End| relayed.look(end.at, &mut datagram(end.label), &mut notes, now).is_ok();
        let passed = (0..1_000_000).filter(|_| pass(end(1))).count();
        assert!(
            passed * 48 <= crate::relay::share::BURST_BYTES as usize,
            "{passed} datagrams at one instant"
        );
        assert!(pass(end(2)));
    }
}
