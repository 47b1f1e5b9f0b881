//! How a member is reached: the addresses to try, the one that is used, and how much it carries.
//!
//! In: handshakes that completed at an address, sources that datagrams came from, echoes, addresses that were checked
//! ([`punch`]). Out: probes to send. A path changes only after an echo of a probe that was sent to it ("challenge", as RFC
//! 9000 §8.2), never because a datagram arrived. Of the two ends the *leading* one, by its key, chooses among paths that
//! work; the other follows what it hears, so that they never change places for ever. How large packets may be, `size` finds out.

pub mod burst;
pub mod keepalive;
pub mod nat;
pub mod portmap;
pub mod punch;
pub mod reflexive;
mod remote;
mod size;
pub mod stun;

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use rand_core::Rng as _;

use crate::random::Rng;
use crate::wire::header::{DATA_OVERHEAD_BYTES, RELAY_HEADER_BYTES};
use crate::wire::message::SHORTEST_BYTES;

pub use remote::Remote;

use size::Size;

/// The inner packet that every path carries, in bytes: a UDP payload of 1,200 (specified: RFC 8899 §5.1.2, RFC 9000).
pub const BASE_PACKET_BYTES: u16 = 1_200 - DATA_OVERHEAD_BYTES as u16;
/// The largest inner packet, in bytes: the MTU of the TUN device (specified: README §14).
pub const FULL_PACKET_BYTES: u16 = 1_420;

/// Addresses kept for one member (specified: README §14, presence carries as many).
const MAX_CANDIDATES: usize = 8;
/// Probes waiting for an echo at most.
const MAX_OUTSTANDING: usize = 8;
/// Challenges to unvalidated addresses: at most three a second (specified: README §14).
const CHALLENGE_PAUSE: Duration = Duration::from_millis(334);
/// A challenge as it goes out.
const CHALLENGE_BYTES: usize = SHORTEST_BYTES + DATA_OVERHEAD_BYTES;
/// What is counted at most of the bytes that came from an unvalidated address: some challenges' (chosen).
const MAX_CREDIT: usize = 16 * CHALLENGE_BYTES;
/// A probe without an echo is forgotten after this long.
const PROBE_LIFE: Duration = Duration::from_secs(5);
/// The round trip is measured this long after a path was selected: a start is a busy moment.
const RTT_PROBE_AFTER: Duration = Duration::from_secs(1);
/// Bytes of a probe that is no challenge and tests no size: what may be sent in answer, an echo with an address and a
/// challenge, is no more.
const PING_BYTES: usize = punch::CHECK_BYTES;
/// A path that is used is preferred to one that is no nearer than this, or than a quarter of its own round trip (chosen:
/// more than one measurement differs from the next).
const NEARER_BY: Duration = Duration::from_millis(5);
/// After a choice of its own a leading end does not follow the other to another path that is no better while the chosen one
/// answers: the other has not heard of the choice yet, or made one itself at the same moment.
const FOLLOWS_NOT_FOR: Duration = Duration::from_secs(3);
/// After a change of paths datagrams that were under way on the former one come for as long as its round trip, within
/// these bounds.
const LEFT_FOR: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_millis(1_000);
/// Before a path is taken only because the other end uses it, the used one has three round trips to answer, within these bounds.
const DOUBT: RangeInclusive<Duration> = Duration::from_millis(300)..=Duration::from_millis(1_000);

/// Why a probe was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To find out whether the peer is at an address that its datagrams came from.
    Challenge,
    /// To find out whether the path carries packets of this many bytes.
    Size(u16),
    /// To measure the round trip.
    Ping,
}

/// A probe to be sealed and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Random; the echo repeats it.
    pub id: u64,
    /// The far end under test.
    pub to: Remote,
    /// Length of the message in bytes.
    pub length: usize,
}

/// What an echo taught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Why the probe was sent.
    pub purpose: Purpose,
    /// The probe's id.
    pub id: u64,
    /// The round trip.
    pub rtt: Duration,
    /// The selected path, or what it carries, is another than before.
    pub changed: bool,
}

#[derive(Debug)]
struct Outstanding {
    id: u64,
    to: Remote,
    purpose: Purpose,
    sent_at: Instant,
}

/// The path that is used.
#[derive(Debug)]
struct Selected {
    remote: Remote,
    size: Size,
    rtt_probe_at: Option<Instant>,
    rtt: Option<Duration>,
    /// When it last echoed.
    echoed_at: Option<Instant>,
}

impl Selected {
    fn is_worse_than(&self, found: &Found) -> bool {
        match (found.remote.rank().cmp(&self.remote.rank()), self.rtt) {
            (Ordering::Greater, _) => true,
            (Ordering::Less, _) => false,
            (Ordering::Equal, None) => found.is_nearer,
            (Ordering::Equal, Some(rtt)) if found.is_nearer => found.rtt <= rtt + NEARER_BY,
            (Ordering::Equal, Some(rtt)) => found.rtt + NEARER_BY.max(rtt / 4) < rtt,
        }
    }
}

/// Says whether a member may be at `address`: one host's, and not this machine's own.
#[must_use]
pub fn is_candidate(address: &SocketAddr) -> bool {
    let is_host = match address.ip().to_canonical() {
        IpAddr::V4(v4) => !(v4.is_broadcast() || v4.octets()[0] == 0 || v4.octets()[0] >= 240),
        IpAddr::V6(_) => true,
    };
    let ip = address.ip().to_canonical();
    is_host && address.port() != 0 && !(ip.is_loopback() || ip.is_multicast() || ip.is_unspecified())
}

/// The inner packet that every path of this sort carries. A stream has no size of its own.
fn base_bytes(remote: Remote) -> u16 {
    match remote {
        Remote::Relayed { .. } => BASE_PACKET_BYTES - RELAY_HEADER_BYTES as u16,
        Remote::Carried(_) => FULL_PACKET_BYTES,
        Remote::Udp(_) | Remote::Side { .. } | Remote::Circuit(_) => BASE_PACKET_BYTES,
    }
}

/// A far end that answered a check.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The far end.
    pub remote: Remote,
    /// Its round trip.
    pub rtt: Duration,
    /// When the check was sent.
    pub sent_at: Instant,
    /// It is of a better sort than the used one: not behind another NAT, for instance.
    pub is_nearer: bool,
    /// Nothing had been heard on the used path for so long that any other is better.
    pub is_silent: bool,
}

/// The other end uses a worse path than this one does, or another than this one chose.
#[derive(Debug)]
struct Doubt {
    source: Remote,
    is_asked: bool,
    until: Instant,
}

/// The addresses of one member.
#[derive(Debug, Default)]
pub struct Path {
    candidates: Vec<SocketAddr>,
    selected: Option<Selected>,
    outstanding: Vec<Outstanding>,
    /// The far end to challenge, and when.
    challenge: Option<(Remote, Instant)>,
    challenged_at: Option<Instant>,
    /// The last unvalidated address, and how many bytes came from there beyond those that were sent there.
    credit: Option<(Remote, usize)>,
    doubt: Option<Doubt>,
    /// Until when no other end's choice is followed.
    leads_until: Option<Instant>,
    /// The far end used before, and until when datagrams that were under way may still come from there.
    left: Option<(Remote, Instant)>,
}

impl Path {
    /// Adds an address to try. The newest stand first; the one that is used is never pushed out.
    pub fn add_candidate(&mut self, address: SocketAddr) {
        let used = self.remote().and_then(Remote::udp);
        self.candidates.retain(|known| *known != address);
        self.candidates.insert(0, address);
        if self.candidates.len() > MAX_CANDIDATES {
            let last = self.candidates.iter().rposition(|known| Some(*known) != used);
            self.candidates.remove(last.unwrap_or(MAX_CANDIDATES));
        }
    }

    /// The far ends to send an initiation to, the used one first; at most 9.
    pub fn remotes(&self) -> impl Iterator<Item = Remote> {
        let used = self.remote();
        let known = self.candidates.iter().copied().map(Remote::Udp);
        used.into_iter().chain(known.filter(move |known| Some(*known) != used))
    }

    /// The addresses where the member may be, the used one first; at most 8.
    pub fn candidates(&self) -> impl Iterator<Item = SocketAddr> {
        self.remotes().filter_map(Remote::udp)
    }

    /// The far end that is used, if any.
    #[must_use]
    pub fn remote(&self) -> Option<Remote> {
        self.selected.as_ref().map(|selected| selected.remote)
    }

    /// The largest inner packet that the path is known to carry, in bytes.
    #[must_use]
    pub fn packet_bytes(&self) -> u16 {
        self.selected.as_ref().map_or(BASE_PACKET_BYTES, |selected| selected.size.bytes())
    }

    /// Says whether nothing larger than [`Path::packet_bytes`] is being tried.
    #[must_use]
    pub fn is_size_settled(&self) -> bool {
        self.selected.as_ref().is_some_and(|selected| selected.size.is_settled())
    }

    /// Says whether larger packets than [`Path::packet_bytes`] were tried and did not pass.
    #[must_use]
    pub fn is_narrow(&self) -> bool {
        self.selected.as_ref().is_some_and(|selected| selected.size.is_narrow())
    }

    /// Says whether small datagrams pass, and those that every path should carry do not.
    #[must_use]
    pub fn is_hole(&self) -> bool {
        self.selected.as_ref().is_some_and(|selected| selected.size.is_hole())
    }

    /// Notes that large packets are sent: whether they pass is looked at.
    pub fn on_large(&mut self, now: Instant) {
        if let Some(selected) = &mut self.selected {
            selected.size.on_large(now);
        }
    }

    /// The round trip last measured on the used path.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.selected.as_ref().and_then(|selected| selected.rtt)
    }

    /// Says whether the used path has echoed since then.
    #[must_use]
    pub fn has_echoed_since(&self, since: Instant) -> bool {
        self.selected.as_ref().is_some_and(|selected| selected.echoed_at.is_some_and(|at| at >= since))
    }

    /// Uses `remote`, where a handshake just completed. `rtt` is the handshake's, if this end initiated it. Returns
    /// whether another address was used before.
    pub fn select(&mut self, remote: Remote, rtt: Option<Duration>, now: Instant) -> bool {
        if let Remote::Udp(address) = remote {
            self.add_candidate(address);
        }
        if let Some(selected) = self.selected.as_mut().filter(|selected| selected.remote == remote) {
            selected.rtt = selected.rtt.or(rtt);
            return false;
        }
        self.left = self.selected.take().map(|left| {
            let under_way = left.rtt.unwrap_or(*LEFT_FOR.end());
            (left.remote, now + under_way.clamp(*LEFT_FOR.start(), *LEFT_FOR.end()))
        });
        self.selected = Some(Selected {
            remote,
            size: Size::new(base_bytes(remote), now),
            rtt_probe_at: Some(now + RTT_PROBE_AFTER),
            rtt,
            echoed_at: None,
        });
        self.doubt = None;
        true
    }

    /// Considers a far end that answered a check; `leads` says whether this end is the one that chooses. Returns whether
    /// it is used from here on; then the other end is to hear something from there.
    pub fn consider(&mut self, found: Found, leads: bool, now: Instant) -> bool {
        let Some(selected) = self.selected.as_mut() else { return false };
        if selected.remote == found.remote {
            selected.rtt = Some(found.rtt);
            selected.echoed_at = Some(now);
            return false;
        }
        let is_lost = found.is_silent && selected.echoed_at.is_none_or(|at| at < found.sent_at);
        let is_chosen = leads && selected.is_worse_than(&found);
        if !(is_lost || is_chosen) {
            return false;
        }
        if leads {
            self.leads_until = Some(now + FOLLOWS_NOT_FOR);
        }
        self.select(found.remote, Some(found.rtt), now)
    }

    /// Forgets which address was used; the addresses to try stay.
    pub fn unselect(&mut self) {
        self.selected = None;
        self.outstanding.clear();
        self.challenge = None;
        self.credit = None;
        self.doubt = None;
        self.leads_until = None;
        self.left = None;
    }

    /// Notes that an authentic datagram came from `source`, with `bytes` more than what is sent there in answer: if it is not
    /// the used far end, it is challenged; a worse one only once the used one does not answer. Nothing more is sent to an
    /// unvalidated address than came from it.
    pub fn on_source(&mut self, source: Remote, bytes: usize, now: Instant) {
        let Some(used) = self.remote().filter(|used| *used != source) else { return };
        if source.is_direct() {
            let before = self.credit.map_or(0, |(known, bytes)| if known == source { bytes } else { 0 });
            self.credit = Some((source, (before + bytes).min(MAX_CREDIT)));
        }
        let leads = self.leads_until.is_some_and(|until| now < until);
        let is_left = self.left.is_some_and(|(left, until)| left == source && now < until);
        if is_left {
            return;
        }
        if source.rank() < used.rank() || leads && source.rank() == used.rank() {
            let rtt = self.selected.as_ref().and_then(|selected| selected.rtt);
            let patience = rtt.map_or(*DOUBT.end(), |rtt| (3 * rtt).clamp(*DOUBT.start(), *DOUBT.end()));
            self.doubt.get_or_insert(Doubt { source, is_asked: false, until: now + patience });
            return;
        }
        let has_credit = self.credit.is_some_and(|(_, bytes)| bytes >= CHALLENGE_BYTES);
        if has_credit || !source.is_direct() {
            self.will_challenge(source, now);
        }
    }

    /// The used path does not answer: a worse one that the other end uses is challenged at once.
    pub fn on_silent(&mut self, now: Instant) {
        if let Some(doubt) = self.doubt.take() {
            self.will_challenge(doubt.source, now);
        }
    }

    /// Takes what a challenge costs from the credit of the address; says whether there was as much.
    fn spend_challenge(&mut self, to: Remote) -> bool {
        match &mut self.credit {
            _ if !to.is_direct() => true,
            Some((known, bytes)) if *known == to && *bytes >= CHALLENGE_BYTES => {
                *bytes -= CHALLENGE_BYTES;
                true
            }
            Some(_) | None => false,
        }
    }

    fn will_challenge(&mut self, source: Remote, now: Instant) {
        let due = self.challenged_at.map_or(now, |at| now.max(at + CHALLENGE_PAUSE));
        self.challenge = Some((source, due));
    }

    /// Makes a probe that measures the round trip; `None` while too many are out or no address is used.
    pub fn ping(&mut self, rng: &mut Rng, now: Instant) -> Option<Probe> {
        let to = self.remote()?;
        self.probe((to, Purpose::Ping, PING_BYTES), rng, now)
    }

    /// The next probe that is due, if any.
    pub fn poll_probe(&mut self, rng: &mut Rng, now: Instant) -> Option<Probe> {
        self.outstanding.retain(|probe| now < probe.sent_at + PROBE_LIFE);
        if let Some(doubt) = &mut self.doubt {
            if !std::mem::replace(&mut doubt.is_asked, true) {
                return self.ping(rng, now);
            }
            let source = doubt.source;
            if now >= doubt.until {
                self.doubt = None;
                self.will_challenge(source, now);
            }
        }
        if let Some((to, _)) = self.challenge.take_if(|(_, due)| now >= *due)
            && self.spend_challenge(to)
        {
            self.challenged_at = Some(now);
            return self.probe((to, Purpose::Challenge, SHORTEST_BYTES), rng, now);
        }
        let selected = self.selected.as_mut()?;
        if selected.rtt_probe_at.take_if(|due| now >= *due).is_some() {
            return self.ping(rng, now);
        }
        let bytes = selected.size.poll(selected.rtt, now)?;
        let to = selected.remote;
        self.probe((to, Purpose::Size(bytes), usize::from(bytes)), rng, now)
    }

    /// When [`Path::poll_probe`] is to be asked again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let size_at = self.selected.as_ref().and_then(|selected| selected.size.poll_timeout());
        let rtt_at = self.selected.as_ref().and_then(|selected| selected.rtt_probe_at);
        let challenge_at = self.challenge.map(|(_, due)| due);
        let doubt_at = self.doubt.as_ref().map(|doubt| doubt.until);
        [challenge_at, rtt_at, size_at, doubt_at].into_iter().flatten().min()
    }

    /// Takes in an echo; `None` if no probe of that id is out.
    pub fn on_echo(&mut self, id: u64, now: Instant) -> Option<Echo> {
        let at = self.outstanding.iter().position(|probe| probe.id == id)?;
        let Outstanding { to, purpose, sent_at, .. } = self.outstanding.swap_remove(at);
        let rtt = now.saturating_duration_since(sent_at);
        let mut changed = purpose == Purpose::Challenge && self.select(to, Some(rtt), now);
        if let Some(selected) = self.selected.as_mut().filter(|selected| selected.remote == to) {
            selected.rtt = Some(rtt);
            selected.echoed_at = Some(now);
            self.doubt = None;
            if let Purpose::Size(bytes) = purpose {
                changed |= selected.size.on_echo(bytes, now);
            }
        }
        Some(Echo { purpose, id, rtt, changed })
    }

    fn probe(
        &mut self,
        (to, purpose, length): (Remote, Purpose, usize),
        rng: &mut Rng,
        now: Instant,
    ) -> Option<Probe> {
        if self.outstanding.len() >= MAX_OUTSTANDING {
            return None;
        }
        let id = rng.next_u64();
        self.outstanding.push(Outstanding { id, to, purpose, sent_at: now });
        Some(Probe { id, to, length })
    }
}

#[cfg(test)]
mod tests;
