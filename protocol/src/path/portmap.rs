//! A port of the gateway that leads to the data socket, so that others reach it first: asked for, kept, given back.
//!
//! In: the gateway, what came of asking it, time. Out: what to ask it for next, and where others reach the data socket. The
//! protocols, the dearest last, are PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP's internet gateway device; one that worked is
//! stayed with until its mapping is lost.
//!
//! ```text
//!           gateway             refused, silent           refused, silent
//! Off ──────────────► Asking PCP ──────────► … NAT-PMP ──────────► … UPnP ──► Resting (10 min, doubling to 6 h) ──► Asking PCP
//!                        │ mapped                                                ▲ mapped, but to no address of the internet
//!                        ▼                                                       │ (given back at once)
//!                      Held: renewed at half of the lease, at half of the rest … and when it is over, or another's: Asking PCP
//! ```
//!
//! A gateway may lie: what it says is an address that is worth a try, as a STUN server's. A machine whose own address is one of
//! the internet asks nobody.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use rand_core::Rng as _;

use crate::bucket::{Bucket, Rate};
use crate::random::{self, Rng};
use crate::wire::address::is_public;
use crate::wire::portmap::NONCE_BYTES;

/// The lease that is asked for (chosen: a killed node's mapping is gone within an hour, and an idle one wakes twice an hour).
pub const LEASE: Duration = Duration::from_secs(3_600);
/// A mapping with a shorter lease is none: renewing it would be all that is done.
const SHORTEST_LEASE: Duration = Duration::from_secs(10);
/// What a gateway says beyond is not believed: it is asked again by then.
const LONGEST_LEASE: Duration = Duration::from_secs(86_400);
/// Between two askings for the same lease at least (specified: RFC 6887 §11.2.1).
const RENEW_PAUSE: Duration = Duration::from_secs(4);
/// After a gateway did not map, it is asked again, ± 20 %, twice as late each time, up to the second (chosen: somebody may
/// have changed its settings; two askings cost it ten datagrams).
const REST: Duration = Duration::from_secs(600);
const LONGEST_REST: Duration = Duration::from_secs(6 * 3_600);
/// Doublings behind which a rest is the longest.
const DOUBLINGS: u32 = 6;
/// Who wishes it is not asked again before (chosen: as for STUN servers).
const ASK_AGAIN: Duration = Duration::from_secs(20);
/// How often others are to reach the data socket elsewhere by a gateway's word: each time is a signed word to all members. A
/// gateway that changes it more often counts as one that does not map (chosen: a line that comes and goes has four).
const MOVES: Rate = Rate { per_second: 1.0 / 600.0, burst: 4.0 };
/// Whoever asks has an outcome by then (chosen: well beyond what it takes).
const ASK_FOR: Duration = Duration::from_secs(60);
/// UPnP's gateways leave it to who asks to find a port that is free; so many are tried (chosen: few are taken).
const PORTS_TRIED: u8 = 4;
/// *Specified* (UPnP WANIPConnection:1 §2.4.16): the port is another's.
pub const UPNP_CONFLICT: u16 = 718;

/// A protocol to ask in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// The Port Control Protocol.
    Pcp,
    /// The NAT Port Mapping Protocol.
    NatPmp,
    /// A WANIPConnection or WANPPPConnection of UPnP.
    Upnp,
}

impl Way {
    /// All, in the order of asking.
    pub const ALL: [Self; 3] = [Self::Pcp, Self::NatPmp, Self::Upnp];

    fn next(self) -> Option<Self> {
        match self {
            Self::Pcp => Some(Self::NatPmp),
            Self::NatPmp => Some(Self::Upnp),
            Self::Upnp => None,
        }
    }
}

/// Where the default route of IPv4 leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// The next router.
    pub address: Ipv4Addr,
    /// This machine's address towards it.
    pub own: Ipv4Addr,
}

/// What a gateway is to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Whom.
    pub gateway: Gateway,
    /// In which protocol.
    pub way: Way,
    /// The port of the data socket.
    pub port: u16,
    /// What is wanted outside: an address of all zeros is any. Of a mapping that is given back, what it was.
    pub outside: SocketAddrV4,
    /// For how long; zero: no more. What is another's is not to be ended: where a gateway does not see to that, whoever asks does.
    pub lease: Duration,
    /// Which mapping: the same for each process of this device, so that one that was killed does not keep its next out.
    pub nonce: [u8; NONCE_BYTES],
}

impl Ask {
    /// Says whether a mapping is given back, and no outcome is waited for.
    #[must_use]
    pub fn is_release(&self) -> bool {
        self.lease.is_zero()
    }
}

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It maps.
    Mapped {
        /// Where others reach the data socket.
        outside: SocketAddrV4,
        /// For how long.
        lease: Duration,
    },
    /// It does not want to, by a number of the protocol's.
    Refused(u16),
    /// Nobody answered, or nothing that makes sense.
    Silent,
}

/// What came last of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The protocol.
    pub way: Way,
    /// What came of it.
    pub outcome: Outcome,
    /// When.
    pub at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No gateway is known, none is wanted, or all is over.
    Off,
    /// Asking may begin; so many ports were tried.
    Due {
        way: Way,
        ports: u8,
        at: Instant,
    },
    /// An outcome is waited for.
    Asking {
        way: Way,
        ports: u8,
        until: Instant,
    },
    /// Nobody mapped.
    Resting {
        until: Instant,
    },
    Held(Held),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    way: Way,
    outside: SocketAddrV4,
    ends_at: Instant,
    /// `None`: an outcome is waited for.
    renew_at: Option<Instant>,
}

/// The mapping of one data socket.
#[derive(Debug)]
pub struct PortMap {
    state: State,
    gateway: Option<Gateway>,
    port: u16,
    nonce: [u8; NONCE_BYTES],
    /// What is asked for outside, and kept while the gateway is the same.
    wanted: SocketAddrV4,
    /// Rests in a row.
    rests: u32,
    moves: Bucket,
    tried: Vec<Tried>,
    release: Option<Ask>,
}

impl PortMap {
    /// A mapping of this number, for nothing yet.
    #[must_use]
    pub fn new(nonce: [u8; NONCE_BYTES]) -> Self {
        Self {
            state: State::Off,
            gateway: None,
            port: 0,
            nonce,
            wanted: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
            rests: 0,
            moves: Bucket::new(MOVES),
            tried: Vec::new(),
            release: None,
        }
    }

    /// The data socket of this port is behind that gateway from here on; `None`: behind none, or none is to be asked. A mapping
    /// at another gateway is out of reach, and ends by itself.
    pub fn set_gateway(&mut self, gateway: Option<Gateway>, port: u16, now: Instant) {
        let gateway = gateway.filter(|gateway| !is_public(IpAddr::V4(gateway.own)) && port != 0);
        if gateway == self.gateway && port == self.port {
            return;
        }
        *self = Self { gateway, port, ..Self::new(self.nonce) };
        self.wanted.set_port(port);
        if gateway.is_some() {
            self.state = State::Due { way: Way::Pcp, ports: 0, at: now };
        }
    }

    /// Whom is asked.
    #[must_use]
    pub fn gateway(&self) -> Option<Gateway> {
        self.gateway
    }

    /// Where others reach the data socket, while a gateway maps it.
    #[must_use]
    pub fn outside(&self) -> Option<SocketAddr> {
        match self.state {
            State::Held(held) => Some(SocketAddr::V4(held.outside)),
            State::Off | State::Due { .. } | State::Asking { .. } | State::Resting { .. } => None,
        }
    }

    /// How long the mapping lasts that is held, by which protocol.
    #[must_use]
    pub fn held(&self) -> Option<(Way, Instant)> {
        match self.state {
            State::Held(held) => Some((held.way, held.ends_at)),
            State::Off | State::Due { .. } | State::Asking { .. } | State::Resting { .. } => None,
        }
    }

    /// What came of each protocol that was tried at this gateway, in the order of asking.
    #[must_use]
    pub fn tried(&self) -> &[Tried] {
        &self.tried
    }

    /// Asks at once where nothing is mapped, and nobody is being asked or just was; the rest that follows is no longer for it.
    /// Returns whether it does.
    pub fn hasten(&mut self, now: Instant) -> bool {
        let is_hastened = matches!(self.state, State::Resting { .. })
            && self.tried.iter().all(|tried| now >= tried.at + ASK_AGAIN);
        if is_hastened {
            self.rests = self.rests.saturating_sub(1);
            self.state = State::Due { way: Way::Pcp, ports: 0, at: now };
        }
        is_hastened
    }

    /// Says whether an outcome is waited for.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        matches!(self.state, State::Due { .. } | State::Asking { .. })
    }

    /// Gives back what is held, or may come of what was asked; nothing is asked any more until there is another gateway.
    pub fn close(&mut self) {
        let way = match self.state {
            State::Held(held) => Some((held.way, held.outside)),
            State::Asking { way, .. } => Some((way, self.wanted)),
            State::Off | State::Due { .. } | State::Resting { .. } => None,
        };
        self.release = way.and_then(|(way, outside)| self.ask(way, outside, Duration::ZERO));
        self.state = State::Off;
    }

    /// Takes in what came of `ask`. Returns whether others reach the data socket elsewhere than before.
    pub fn on_outcome(&mut self, ask: &Ask, outcome: Outcome, rng: &mut Rng, now: Instant) -> bool {
        let is_waited_for = match self.state {
            State::Asking { way, .. } => way == ask.way,
            State::Held(held) => held.renew_at.is_none() && held.way == ask.way,
            State::Off | State::Due { .. } | State::Resting { .. } => false,
        };
        if !is_waited_for || self.gateway != Some(ask.gateway) || self.port != ask.port || ask.is_release() {
            return false;
        }
        let outcome = match outcome {
            Outcome::Mapped { lease, .. } if lease < SHORTEST_LEASE => Outcome::Silent,
            Outcome::Mapped { outside, .. } if outside.port() == 0 => Outcome::Silent,
            // Its line is down: what it maps is there when that is back.
            Outcome::Mapped { outside, .. } if outside.ip().is_unspecified() && self.held().is_some() => {
                Outcome::Silent
            }
            outcome => outcome,
        };
        self.tried.retain(|tried| tried.way != ask.way);
        self.tried.push(Tried { way: ask.way, outcome, at: now });
        self.tried.sort_by_key(|tried| tried.way);
        let before = self.outside();
        match outcome {
            Outcome::Mapped { outside, lease } => self.on_mapped(ask.way, (outside, lease), rng, now),
            Outcome::Refused(code) => self.on_refused(code, rng, now),
            Outcome::Silent => self.on_failed(rng, now),
        }
        self.outside() != before
    }

    fn on_mapped(
        &mut self,
        way: Way,
        (outside, lease): (SocketAddrV4, Duration),
        rng: &mut Rng,
        now: Instant,
    ) {
        let is_move = self.outside() != Some(SocketAddr::V4(outside));
        // A gateway behind another one lets nobody in.
        if !is_public(IpAddr::V4(*outside.ip())) || is_move && !self.moves.take(now) {
            self.release = self.ask(way, outside, Duration::ZERO);
            return self.take_rest(rng, now);
        }
        let lease = lease.min(LONGEST_LEASE);
        self.wanted = outside;
        self.rests = 0;
        let renew_at = Some(now + renewal(lease, rng));
        self.state = State::Held(Held { way, outside, ends_at: now + lease, renew_at });
    }

    fn on_refused(&mut self, code: u16, rng: &mut Rng, now: Instant) {
        match self.state {
            State::Asking { way: Way::Upnp, ports, .. }
                if code == UPNP_CONFLICT && ports + 1 < PORTS_TRIED =>
            {
                self.wanted.set_port(1_024 + (rng.next_u32() % (65_536 - 1_024)) as u16);
                self.state = State::Due { way: Way::Upnp, ports: ports + 1, at: now };
            }
            // Lost, for instance when the gateway began anew: what others would reach there is another's.
            State::Held(Held { way: Way::Upnp, .. }) if code == UPNP_CONFLICT => {
                self.state = State::Due { way: Way::Pcp, ports: 0, at: now };
            }
            _ => self.on_failed(rng, now),
        }
    }

    fn on_failed(&mut self, rng: &mut Rng, now: Instant) {
        match &mut self.state {
            State::Asking { way, .. } => match way.next() {
                Some(way) => self.state = State::Due { way, ports: 0, at: now },
                None => self.take_rest(rng, now),
            },
            State::Held(held) => {
                let left = held.ends_at.saturating_duration_since(now);
                held.renew_at = Some(now + renewal(left, rng).max(RENEW_PAUSE));
            }
            State::Off | State::Due { .. } | State::Resting { .. } => {}
        }
    }

    fn take_rest(&mut self, rng: &mut Rng, now: Instant) {
        self.wanted = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, self.port);
        let rest = (REST * (1 << self.rests.min(DOUBLINGS))).min(LONGEST_REST);
        self.state = State::Resting { until: now + random::jittered(rest, rng) };
        self.rests = self.rests.saturating_add(1);
    }

    /// What the gateway is to be asked, if it is time: after each input, until `None`. [`PortMap::outside`] may be another after it.
    pub fn poll(&mut self, rng: &mut Rng, now: Instant) -> Option<Ask> {
        if let Some(release) = self.release.take() {
            return Some(release);
        }
        match self.state {
            State::Resting { until: at } | State::Held(Held { ends_at: at, .. }) if now >= at => {
                self.state = State::Due { way: Way::Pcp, ports: 0, at: now };
            }
            State::Asking { until, .. } if now >= until => self.on_failed(rng, now),
            State::Held(held) => {
                held.renew_at.filter(|at| now >= *at)?;
                self.state = State::Held(Held { renew_at: None, ..held });
                return self.ask(held.way, held.outside, LEASE);
            }
            State::Off | State::Due { .. } | State::Asking { .. } | State::Resting { .. } => {}
        }
        let State::Due { way, ports, .. } = self.state else { return None };
        self.state = State::Asking { way, ports, until: now + ASK_FOR };
        self.ask(way, self.wanted, LEASE)
    }

    fn ask(&self, way: Way, outside: SocketAddrV4, lease: Duration) -> Option<Ask> {
        let (gateway, port, nonce) = (self.gateway?, self.port, self.nonce);
        Some(Ask { gateway, way, port, outside, lease, nonce })
    }

    /// When [`PortMap::poll`] is to be asked again, beside after each input.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Due { at, .. } => Some(at),
            State::Asking { until, .. } | State::Resting { until } => Some(until),
            State::Held(held) => Some(held.renew_at.map_or(held.ends_at, |at| at.min(held.ends_at))),
            State::Off => None,
        }
    }
}

/// After how long what lasts for `left` is renewed: at a half to five eighths of it (specified: RFC 6887 §11.2.1), so that those
/// who asked together, when the power came back, do not again.
fn renewal(left: Duration, rng: &mut Rng) -> Duration {
    left.mul_f64(0.5 + 0.125 * f64::from(rng.next_u32()) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
