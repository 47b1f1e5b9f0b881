//! What this machine's applications began, so that its answers pass under [`super::Policy::ExposedOnly`].
//!
//! In: packets that applications send. Out: whether a packet of a member answers one of them. Only own packets make a
//! flow or keep it: a member can do neither, and what an application left is closed when its term is over, however
//! much the member sends. Filtering is address-and-port-dependent (RFC 4787 §5).
//!
//! ```text
//! TCP    SYN ──► opening ── ACK ──► open ── FIN ──► closing       opening, closing: 4 min; open: 2 h 4 min
//! UDP    any datagram ──► 180 s        ICMP   echo request ──► 60 s        each own packet starts the term again
//! ```
//!
//! The bound is on all members' flows together, and each that has any is sure of an equal part of it: beyond, a flow
//! gives way of the same member, or of the one that has most. Which one: that which would end first among a few, so
//! questions before connections.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::wire::ip::{self, Ipv4};

/// *Chosen*: flows of one VPI. As many as one address has ports; about 5 MB.
pub const FLOWS_MAX: usize = 65_536;
/// *Chosen*: flows that are looked at for each one that begins. It bounds the work, and what is over leaves faster
/// than what begins comes.
const LOOKS: usize = 16;

/// *Specified* (RFC 5382 §5): the least for a connection that is neither opening nor closing.
const TCP_OPEN: Duration = Duration::from_secs(7_440);
/// *Specified* (RFC 5382 §5): the least for one that is.
const TCP_OTHER: Duration = Duration::from_secs(240);
/// *Chosen*: between the 2 minutes that RFC 4787 §4.3 requires and the 5 that it advises.
const UDP: Duration = Duration::from_secs(180);
/// *Specified* (RFC 5508 §3.2): the least.
const ECHO: Duration = Duration::from_secs(60);

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A conversation with one member: protocol, own port, the member's port; of echoes the identifier, and 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u64);

impl Key {
    const FIRST: Self = Self(0);
    const LAST: Self = Self(u64::MAX);

    /// The conversation that a packet which this machine sent is of; `None` if it asks for no answer.
    pub(super) fn of_sent(packet: &Ipv4<'_>) -> Option<Self> {
        match packet.icmp() {
            Some((ip::ECHO_REQUEST, _)) => Self::of_echo(packet),
            _ => packet.ports().map(|(own, theirs)| Self::new(packet.protocol(), own, theirs)),
        }
    }

    /// The conversation that a member's packet would be an answer in.
    pub(super) fn of_received(packet: &Ipv4<'_>) -> Option<Self> {
        match packet.icmp() {
            Some((ip::ECHO_REPLY, _)) => Self::of_echo(packet),
            _ => packet.ports().map(|(theirs, own)| Self::new(packet.protocol(), own, theirs)),
        }
    }

    fn of_echo(packet: &Ipv4<'_>) -> Option<Self> {
        let identifier = packet.payload().get(4..)?.first_chunk()?;
        Some(Self::new(ip::ICMP, u16::from_be_bytes(*identifier), 0))
    }

    fn new(protocol: u8, own: u16, theirs: u16) -> Self {
        Self(u64::from(protocol) << 32 | u64::from(own) << 16 | u64::from(theirs))
    }
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    ends_at: Instant,
    /// A FIN was sent.
    is_closing: bool,
}

/// A member that has flows.
#[derive(Debug)]
struct Holder {
    /// How many; at least 1.
    flows: usize,
    /// The one that is looked at next.
    next: Key,
}

/// The flows of one VPI, each of a link.
#[derive(Debug, Default)]
pub struct Flows {
    flows: BTreeMap<(u32, Key), Flow>,
    holders: BTreeMap<u32, Holder>,
}

impl Flows {
    /// Notes that an application sends `packet` to the member at `link`.
    ///
    /// `picks_up` says that a TCP connection which is not known may be one that an application began earlier; without
    /// it, only a SYN begins one. What is said in reply (SYN with ACK) or refused (RST) begins none.
    pub(super) fn on_sent(&mut self, link: u32, packet: &Ipv4<'_>, picks_up: bool, now: Instant) {
        let Some(key) = Key::of_sent(packet) else { return };
        let known = self.flows.get_mut(&(link, key)).filter(|flow| now < flow.ends_at);
        let (term, is_closing) = match packet.protocol() {
            ip::UDP => (UDP, false),
            ip::ICMP => (ECHO, false),
            _ => {
                let flags = packet.payload().get(13).map_or(RST, |flags| flags & (FIN | SYN | RST | ACK));
                let was_closing = known.as_ref().is_some_and(|flow| flow.is_closing);
                match flags {
                    SYN => (TCP_OTHER, false),
                    ACK if !was_closing => (TCP_OPEN, false),
                    flags if flags & (SYN | RST) == 0 => (TCP_OTHER, true),
                    _ => return,
                }
            }
        };
        let flow = Flow { ends_at: now + term, is_closing };
        let begins = packet.protocol() != ip::TCP || picks_up || is_syn(packet);
        match known {
            Some(known) => *known = flow,
            None if begins => self.insert(link, key, flow, now),
            None => {}
        }
    }

    /// Says whether the member at `link` is part of this conversation.
    pub(super) fn holds(&self, link: u32, key: Key, now: Instant) -> bool {
        self.flows.get(&(link, key)).is_some_and(|flow| now < flow.ends_at)
    }

    /// Forgets all flows with the member at `link`.
    pub fn forget(&mut self, link: u32) {
        if self.holders.remove(&link).is_none() {
            return;
        }
        loop {
            let next = self.of(link, Key::FIRST).next();
            let Some((key, _)) = next else { return };
            self.flows.remove(&(link, key));
        }
    }

    fn insert(&mut self, link: u32, key: Key, flow: Flow, now: Instant) {
        self.sweep(link, now);
        let is_over = self.flows.contains_key(&(link, key));
        if !is_over && self.flows.len() >= FLOWS_MAX {
            self.make_room(link, now);
        }
        if self.flows.insert((link, key), flow).is_none() {
            self.holders.entry(link).or_insert(Holder { flows: 0, next: Key::FIRST }).flows += 1;
        }
    }

    /// Takes out one flow at least: of `link` if it has its part, else of the member that has most.
    fn make_room(&mut self, link: u32, now: Instant) {
        let own = self.holders.get(&link).map_or(0, |holder| holder.flows);
        let sharers = self.holders.len() + usize::from(own == 0);
        let greediest = || self.holders.iter().max_by_key(|(_, holder)| holder.flows).map(|(link, _)| *link);
        let from = if own >= FLOWS_MAX / sharers { Some(link) } else { greediest() };
        let Some(from) = from else { return };
        let first = self.sweep(from, now);
        if let Some(key) = first.filter(|_| self.flows.len() >= FLOWS_MAX) {
            self.remove(from, key);
        }
    }

    /// Looks at the next few flows of `link`, in turn; takes out what is over. Returns the one that ends first.
    fn sweep(&mut self, link: u32, now: Instant) -> Option<Key> {
        let mut first: Option<(Instant, Key)> = None;
        for _ in 0..LOOKS {
            let next = self.holders.get(&link)?.next;
            let found = self.of(link, next).next();
            let after = found.map_or(Key::FIRST, |(key, _)| Key(key.0 + 1));
            self.holders.get_mut(&link)?.next = after;
            match found {
                Some((key, ends_at)) if ends_at <= now => self.remove(link, key),
                Some((key, ends_at)) if first.is_none_or(|(earliest, _)| ends_at < earliest) => {
                    first = Some((ends_at, key));
                }
                Some(_) | None => {}
            }
        }
        first.map(|(_, key)| key)
    }

    fn remove(&mut self, link: u32, key: Key) {
        if self.flows.remove(&(link, key)).is_none() {
            return;
        }
        if let Some(holder) = self.holders.get_mut(&link) {
            holder.flows -= 1;
            if holder.flows == 0 {
                self.holders.remove(&link);
            }
        }
    }

    /// The flows of `link` from `key` on, with their ends.
    fn of(&self, link: u32, key: Key) -> impl Iterator<Item = (Key, Instant)> + '_ {
        self.flows.range((link, key)..=(link, Key::LAST)).map(|((_, key), flow)| (*key, flow.ends_at))
    }
}

/// Says whether a TCP packet asks for a connection.
fn is_syn(packet: &Ipv4<'_>) -> bool {
    packet.payload().get(13).is_some_and(|flags| flags & (SYN | RST | ACK | FIN) == SYN)
}
