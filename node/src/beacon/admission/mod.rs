//! Who comes into the table of beacons: what answered when it was dialled back.
//!
//! ```text
//! inbound connection ─► identify says "Kademlia server" ─► dial back, TCP, to the address seen ─► it answers ─► diverse? ─► table
//! ```
//!
//! In: what peers say of themselves, from where, and how dials ended. Out: addresses to dial, peers to take or to forget. A
//! peer says which of its ports to dial and never which address, or beacons would knock where strangers tell them to. Kademlia
//! itself admits nobody (`BucketInserts::Manual`).

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, StreamProtocol};

use super::group::{Group, ip_of};
use super::protocol::KAD;

/// *Chosen*: beacons of one network in the table: less than half of one bucket of 20.
pub(super) const GROUP_MAX: usize = 8;
/// *Chosen*: beacons in the table: with 20 a bucket, those of 50 buckets, more than any network of beacons fills.
pub(super) const TABLE_MAX: usize = 1_000;
/// *Chosen*: dial-backs under way; a dial ends within 20 s.
const PENDING_MAX: usize = 64;
/// *Chosen*: those that wait because one to their address is under way: as many of an address as could come into the table, and
/// in all.
const WAITING_OF_ADDRESS: usize = GROUP_MAX;
const WAITING_MAX: usize = 64;
/// *Chosen*: after this long a dial-back that nobody reported the end of is over.
const PENDING_FOR: Duration = Duration::from_secs(60);
/// *Chosen*: dials in a row that a beacon may miss before it leaves the table; each look at the table makes one.
const FAILURES_MAX: u8 = 3;

/// What identify told over a connection that the other end opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Introduction<'a> {
    /// Who.
    pub(super) peer: PeerId,
    /// From where, as the socket says.
    pub(super) remote: &'a Multiaddr,
    /// What it says it speaks.
    pub(super) protocols: &'a [StreamProtocol],
    /// Where it says it listens.
    pub(super) addresses: &'a [Multiaddr],
}

/// Dial-backs under way, and who misses dials.
#[derive(Debug, Default)]
pub(super) struct Admission {
    pending: BTreeMap<PeerId, Pending>,
    waiting: VecDeque<Waiting>,
    failures: BTreeMap<PeerId, u8>,
}

#[derive(Debug)]
struct Pending {
    since: Instant,
    ip: Option<IpAddr>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    peer: PeerId,
    ip: IpAddr,
    back: Multiaddr,
}

impl Admission {
    /// Judges an introduction by a peer that is not in the table. Gives the address to dial back, if it is to be now.
    pub(super) fn introduce(&mut self, who: Introduction<'_>, now: Instant) -> Option<Multiaddr> {
        if !who.protocols.contains(&KAD) {
            return None;
        }
        let back = dial_back_address(who.remote, who.addresses)?;
        self.forget(now);
        if self.pending.contains_key(&who.peer) || self.waiting.iter().any(|waiting| waiting.peer == who.peer)
        {
            return None;
        }
        let ip = ip_of(who.remote);
        if self.may_dial(ip) {
            self.pending.insert(who.peer, Pending { since: now, ip });
            return Some(back);
        }
        let of_address = self.waiting.iter().filter(|waiting| Some(waiting.ip) == ip).count();
        if let Some(ip) = ip.filter(|_| of_address < WAITING_OF_ADDRESS && self.waiting.len() < WAITING_MAX) {
            self.waiting.push_back(Waiting { since: now, peer: who.peer, ip, back });
        }
        None
    }

    /// Who waited longest of those whose turn it is, and the address to dial back.
    pub(super) fn next(&mut self, now: Instant) -> Option<(PeerId, Multiaddr)> {
        self.forget(now);
        let index = self.waiting.iter().position(|waiting| self.may_dial(Some(waiting.ip)))?;
        let Waiting { peer, ip, back, .. } = self.waiting.remove(index)?;
        self.pending.insert(peer, Pending { since: now, ip: Some(ip) });
        Some((peer, back))
    }

    /// Says whether there is room for one more. One at a time to an address: whoever makes peers there makes no flood of dials.
    fn may_dial(&self, ip: Option<IpAddr>) -> bool {
        self.pending.len() < PENDING_MAX
            && (ip.is_none() || self.pending.values().all(|pending| pending.ip != ip))
    }

    fn forget(&mut self, now: Instant) {
        let is_recent = |since: Instant| now.saturating_duration_since(since) < PENDING_FOR;
        self.pending.retain(|_, pending| is_recent(pending.since));
        self.waiting.retain(|waiting| is_recent(waiting.since));
    }

    /// A connection that this beacon opened to `peer` stands.
    pub(super) fn on_answer(&mut self, peer: &PeerId) {
        self.pending.remove(peer);
        self.failures.remove(peer);
    }

    /// A dial to `peer` failed. Says whether it is to leave the table, if it is in.
    pub(super) fn on_miss(&mut self, peer: &PeerId, is_in_table: bool) -> bool {
        self.pending.remove(peer);
        if !is_in_table {
            self.failures.remove(peer);
            return false;
        }
        let failures = self.failures.entry(*peer).or_default();
        *failures += 1;
        let is_gone = *failures >= FAILURES_MAX;
        if is_gone {
            self.failures.remove(peer);
        }
        is_gone
    }
}

/// Judges whether a peer at `address`, which answered there, may come into a table in which `others` are.
pub(super) fn is_diverse(address: &Multiaddr, others: impl Iterator<Item = Group>) -> bool {
    let group = Group::of(address);
    let (mut count, mut of_group) = (0, 0);
    for other in others {
        count += 1;
        of_group += usize::from(other == group);
    }
    // What has no network is inside this process.
    count < TABLE_MAX && (of_group < GROUP_MAX || group == Group::Other)
}

/// Where to dial back who comes from `remote`: at the address seen, at the first TCP port that it says it listens on there; where
/// there are no addresses of IP, at the first one of that kind.
fn dial_back_address(remote: &Multiaddr, claimed: &[Multiaddr]) -> Option<Multiaddr> {
    let Some(ip) = ip_of(remote) else {
        return claimed.iter().find(|address| is_in_process(address)).cloned();
    };
    let port = claimed.iter().find_map(|address| {
        let mut parts = address.iter();
        match (ip_of(address), parts.next(), parts.next(), parts.next()) {
            (Some(claimed), Some(_), Some(Protocol::Tcp(port)), None | Some(Protocol::P2p(_)))
                if claimed == ip && port != 0 =>
            {
                Some(port)
            }
            _ => None,
        }
    })?;
    Some(Multiaddr::from(ip).with(Protocol::Tcp(port)))
}

fn is_in_process(address: &Multiaddr) -> bool {
    let mut parts = address.iter();
    matches!((parts.next(), parts.next()), (Some(Protocol::Memory(_)), None | Some(Protocol::P2p(_))))
}

#[cfg(test)]
mod tests;
