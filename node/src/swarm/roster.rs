//! The beacons that this device knows: how near they are, and how they did when they were last tried.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};

use super::address::{Beacon, is_public};
use super::book::ADDRESSES;

/// Beacons kept (chosen: a VPI names a handful; presences of members name some more).
pub(super) const BEACONS: usize = 64;
/// Beacons measured before one is chosen, and asked for the time.
pub(super) const MEASURED: usize = 3;
/// What makes another beacon worth a move: half the round trip, and this much less.
const NEARER_BY: Duration = Duration::from_millis(20);

/// How a beacon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BeaconState {
    /// Not tried yet.
    Unknown,
    /// It answered when it was last tried.
    Answers,
    /// It did not.
    Silent,
    /// This device is reachable there.
    Reserved,
}

impl fmt::Display for BeaconState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Answers => "answers",
            Self::Silent => "silent",
            Self::Reserved => "reserved",
        })
    }
}

/// One beacon as the user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BeaconStatus {
    /// The first of its addresses.
    pub(crate) beacon: Beacon,
    pub(crate) state: BeaconState,
    /// The last round trip, of a ping.
    pub(crate) rtt: Option<Duration>,
}

struct Entry {
    addresses: Vec<Beacon>,
    rtt: Option<Duration>,
    /// Attempts in a row without an answer.
    failures: u32,
}

/// The list, in the order in which the driver gave it.
#[derive(Default)]
pub(super) struct Roster {
    order: Vec<PeerId>,
    entries: HashMap<PeerId, Entry>,
}

impl Roster {
    /// Takes another list; what is known of those that stay is kept.
    pub(super) fn set(&mut self, beacons: Vec<Beacon>) {
        let mut before = std::mem::take(&mut self.entries);
        self.order.clear();
        for beacon in beacons {
            if let Some(entry) = self.entries.get_mut(&beacon.peer) {
                if entry.addresses.len() < ADDRESSES && !entry.addresses.contains(&beacon) {
                    entry.addresses.push(beacon);
                }
            } else if self.order.len() < BEACONS {
                let kept = before.remove(&beacon.peer);
                let (rtt, failures) = kept.map_or((None, 0), |kept| (kept.rtt, kept.failures));
                self.order.push(beacon.peer);
                self.entries.insert(beacon.peer, Entry { addresses: vec![beacon], rtt, failures });
            }
        }
    }

    /// The addresses of all, to be dialled by peer id.
    pub(super) fn addresses(&self) -> HashMap<PeerId, Vec<Multiaddr>> {
        let addresses = |entry: &Entry| entry.addresses.iter().map(Beacon::address).collect();
        self.entries.iter().map(|(peer, entry)| (*peer, addresses(entry))).collect()
    }

    /// Whether one of them is in a network that strangers cannot name.
    pub(super) fn has_one_inside(&self) -> bool {
        self.entries.values().flat_map(|entry| &entry.addresses).any(|beacon| !is_public(beacon.socket.ip()))
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.order.iter().copied()
    }

    /// All of them, those that failed least first.
    pub(super) fn by_health(&self) -> impl Iterator<Item = Beacon> {
        let mut all: Vec<_> = self.order.iter().filter_map(|peer| self.entries.get(peer)).collect();
        all.sort_by_key(|entry| entry.failures);
        all.into_iter().filter_map(|entry| entry.addresses.first().copied())
    }

    /// The first address of one. Later addresses of a beacon are tried where it is dialled by its peer id.
    pub(super) fn beacon(&self, peer: PeerId) -> Option<Beacon> {
        self.entries.get(&peer)?.addresses.first().copied()
    }

    /// Up to [`MEASURED`] to try next: those that failed least, by lot; among equals the first of the list, which may be this
    /// machine's own, is always tried.
    pub(super) fn sample(&self) -> Vec<PeerId> {
        let mut all: Vec<(u32, bool, u32, PeerId)> = (self.entries.iter())
            .map(|(peer, entry)| {
                let is_later = self.order.first() != Some(peer);
                (entry.failures, is_later, getrandom::u32().unwrap_or_default(), *peer)
            })
            .collect();
        all.sort_unstable();
        all.into_iter().take(MEASURED).map(|(.., peer)| peer).collect()
    }

    /// The nearest of these that answered.
    pub(super) fn nearest(&self, of: &[PeerId]) -> Option<PeerId> {
        let rtt = |peer: &PeerId| self.entries.get(peer).filter(|entry| entry.failures == 0)?.rtt;
        of.iter().filter_map(|peer| Some((rtt(peer)?, *peer))).min().map(|(_, peer)| peer)
    }

    /// Whether `other` is so much nearer than `held` that a move is worth it.
    pub(super) fn is_worth_a_move(&self, other: PeerId, held: PeerId) -> bool {
        let rtt = |peer| self.entries.get(&peer).and_then(|entry: &Entry| entry.rtt);
        let (Some(other), Some(held)) = (rtt(other), rtt(held)) else { return false };
        other * 2 < held && other + NEARER_BY < held
    }

    /// It answered. Returns whether that is news.
    pub(super) fn on_rtt(&mut self, peer: PeerId, rtt: Duration) -> bool {
        let Some(entry) = self.entries.get_mut(&peer) else { return false };
        let is_news = entry.failures > 0 || entry.rtt != Some(rtt);
        entry.failures = 0;
        entry.rtt = Some(rtt);
        is_news
    }

    /// It did not answer, or refused. Returns whether that is news.
    pub(super) fn on_failed(&mut self, peer: PeerId) -> bool {
        let Some(entry) = self.entries.get_mut(&peer) else { return false };
        entry.failures = entry.failures.saturating_add(1);
        entry.failures == 1
    }

    /// What the user sees; `reserved` is where this device is reachable.
    pub(super) fn status(&self, reserved: Option<PeerId>) -> Vec<BeaconStatus> {
        let state = |peer: PeerId, entry: &Entry| match (entry.failures, entry.rtt) {
            _ if reserved == Some(peer) => BeaconState::Reserved,
            (1.., _) => BeaconState::Silent,
            (0, Some(_)) => BeaconState::Answers,
            (0, None) => BeaconState::Unknown,
        };
        let status = |peer: PeerId| {
            let entry = self.entries.get(&peer)?;
            let beacon = *entry.addresses.first()?;
            Some(BeaconStatus { beacon, state: state(peer, entry), rtt: entry.rtt })
        };
        self.peers().filter_map(status).collect()
    }

    /// Up to `most` of them, those nearest to a key first: where a lookup starts.
    pub(super) fn nearest_to_key(&self, key: &[u8; 32], most: usize) -> Vec<(PeerId, Multiaddr)> {
        let target = libp2p::kad::KBucketKey::new(key.to_vec());
        let mut all: Vec<_> = (self.entries.iter())
            .filter_map(|(peer, entry)| Some((*peer, entry.addresses.first()?, entry.failures)))
            .collect();
        // Of more than fit, those that are silent come last; among the rest the place in the key space decides.
        all.sort_by_cached_key(|(peer, _, failures)| {
            (*failures > 0, libp2p::kad::KBucketKey::from(*peer).distance(&target))
        });
        all.into_iter().take(most).map(|(peer, beacon, _)| (peer, beacon.address())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beacon(port: u16) -> Beacon {
        Beacon { peer: PeerId::random(), socket: ([192, 0, 2, 1], port).into() }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_beacon_is_kept_once_with_a_few_addresses_and_there_are_no_more_than_sixty_four() {
        let mut roster = Roster::default();
        let one = beacon(1);
        let again = (1..9).map(|port| Beacon { socket: ([192, 0, 2, 2], port).into(), ..one });
        roster.set([one].into_iter().chain(again).chain((0..100).map(beacon)).collect());
        assert_eq!(roster.status(None).len(), BEACONS);
        assert_eq!(roster.addresses()[&one.peer].len(), ADDRESSES);
        assert_eq!(roster.nearest_to_key(&[3; 32], 20).len(), 20);
    }

    #[test]
    fn what_is_known_of_a_beacon_outlives_another_list() {
        let mut roster = Roster::default();
        let (stays, goes) = (beacon(1), beacon(2));
        roster.set(vec![stays, goes]);
        assert!(roster.on_failed(stays.peer) && roster.on_rtt(goes.peer, ms(9)));
        roster.set(vec![stays]);
        let [status] = &roster.status(None)[..] else { panic!() };
        assert_eq!((status.beacon, status.state), (stays, BeaconState::Silent));
        assert!(!roster.on_rtt(goes.peer, ms(9)));
    }

    #[test]
    fn those_that_failed_are_tried_last_and_are_never_the_nearest() {
        let mut roster = Roster::default();
        let all: Vec<Beacon> = (1..=5).map(beacon).collect();
        roster.set(all.clone());
        for silent in &all[..2] {
            roster.on_rtt(silent.peer, ms(1));
            roster.on_failed(silent.peer);
        }
        let mut sample = roster.sample();
        assert_eq!(sample.len(), MEASURED);
        assert!(sample.iter().all(|peer| all[2..].iter().any(|beacon| beacon.peer == *peer)));
        roster.on_rtt(all[3].peer, ms(30));
        roster.on_rtt(all[4].peer, ms(20));
        sample.push(all[0].peer);
        assert_eq!(roster.nearest(&sample), Some(all[4].peer));
        roster.on_rtt(all[0].peer, ms(1));
        assert_eq!(roster.nearest(&sample), Some(all[0].peer));
    }

    #[test]
    fn a_move_is_worth_it_for_half_the_way_and_twenty_milliseconds() {
        let mut roster = Roster::default();
        let (held, other) = (beacon(1), beacon(2));
        roster.set(vec![held, other]);
        assert!(!roster.is_worth_a_move(other.peer, held.peer));
        for (held_ms, other_ms, is_worth) in
            [(100, 49, true), (100, 51, false), (30, 9, true), (30, 11, false), (20, 1, false)]
        {
            roster.on_rtt(held.peer, ms(held_ms));
            roster.on_rtt(other.peer, ms(other_ms));
            assert_eq!(roster.is_worth_a_move(other.peer, held.peer), is_worth, "{held_ms} {other_ms}");
        }
    }
}
