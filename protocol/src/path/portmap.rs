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
//!                      Held: renewed at half of the lease, at half of the rest … and when it is over: Asking PCP
//! ```
//!
//! A gateway may lie: what it says is an address that is worth a try, as a STUN server's. A machine whose own address is one of
//! the internet asks nobody.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use rand_core::Rng as _;

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
/// Whoever asks has an outcome by then (chosen: well beyond what it takes).
const ASK_FOR: Duration = Duration::from_secs(60);
/// UPnP's gateways leave it to who asks to find a port that is free; so many are tried (chosen: few are taken).
const PORTS_TRIED: u8 = 4;
/// *Specified* (UPnP WANIPConnection:1 §2.4.16): the port is another's.
const UPNP_CONFLICT: u16 = 718;

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
    /// For how long; zero: no more.
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
    rest: Duration,
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
            rest: REST,
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

    /// Asks at once where nothing is mapped and nobody is being asked. Returns whether it does.
    pub fn hasten(&mut self, now: Instant) -> bool {
        let is_resting = matches!(self.state, State::Resting { .. });
        if is_resting {
            self.state = State::Due { way: Way::Pcp, ports: 0, at: now };
        }
        is_resting
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
        if !is_public(IpAddr::V4(*outside.ip())) {
            // The gateway is behind another one, which lets nobody in.
            self.release = self.ask(way, outside, Duration::ZERO);
            return self.take_rest(rng, now);
        }
        let lease = lease.min(LONGEST_LEASE);
        self.wanted = outside;
        self.rest = REST;
        let renew_at = Some(now + random::jittered(lease / 2, rng));
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
                let left = held.ends_at.saturating_duration_since(now) / 2;
                held.renew_at = Some(now + left.max(RENEW_PAUSE));
            }
            State::Off | State::Due { .. } | State::Resting { .. } => {}
        }
    }

    fn take_rest(&mut self, rng: &mut Rng, now: Instant) {
        self.wanted = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, self.port);
        self.state = State::Resting { until: now + random::jittered(self.rest, rng) };
        self.rest = (self.rest * 2).min(LONGEST_REST);
    }

    /// What the gateway is to be asked, if it is time: after each input, until `None`. [`PortMap::outside`] may be another after it.
    pub fn poll(&mut self, now: Instant) -> Option<Ask> {
        if let Some(release) = self.release.take() {
            return Some(release);
        }
        match &mut self.state {
            State::Resting { until: at } | State::Held(Held { ends_at: at, .. }) if now >= *at => {
                self.state = State::Due { way: Way::Pcp, ports: 0, at: now };
            }
            State::Asking { way, until, .. } if now >= *until => {
                self.state = match way.next() {
                    Some(way) => State::Due { way, ports: 0, at: now },
                    None => State::Resting { until: now + LONGEST_REST },
                };
            }
            State::Held(Held { way, outside, renew_at, .. }) => {
                let (way, outside) = renew_at.take_if(|at| now >= *at).map(|_| (*way, *outside))?;
                return self.ask(way, outside, LEASE);
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

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    const OUTSIDE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(11, 0, 1, 2), 41_414);

    fn gateway(own: [u8; 4]) -> Option<Gateway> {
        Some(Gateway { address: Ipv4Addr::new(192, 168, 1, 1), own: own.into() })
    }

    struct Trial {
        map: PortMap,
        rng: Rng,
        now: Instant,
    }

    impl Trial {
        fn begin() -> Self {
            let (mut map, now) = (PortMap::new([7; NONCE_BYTES]), Instant::now());
            map.set_gateway(gateway([192, 168, 1, 2]), 41_414, now);
            Self { map, rng: Rng::from_seed([1; 32]), now }
        }

        fn asked(&mut self) -> Ask {
            self.map.poll(self.now).expect("something is asked")
        }

        fn say(&mut self, ask: &Ask, outcome: Outcome) -> bool {
            self.map.on_outcome(ask, outcome, &mut self.rng, self.now)
        }

        /// Goes on to when something is due, and says how long that takes.
        fn wait(&mut self) -> Duration {
            let at = self.map.poll_timeout().expect("something will be due");
            let waited = at.saturating_duration_since(self.now);
            self.now = self.now.max(at);
            waited
        }

        fn mapped(&mut self, lease: u64) -> Ask {
            let ask = self.asked();
            assert!(self.say(&ask, mapped(OUTSIDE, lease)));
            ask
        }
    }

    fn mapped(outside: SocketAddrV4, lease: u64) -> Outcome {
        Outcome::Mapped { outside, lease: Duration::from_secs(lease) }
    }

    #[test]
    fn protocols_are_tried_in_turn_and_a_gateway_that_has_none_rests_longer_each_time() {
        let mut trial = Trial::begin();
        let mut rests = Vec::new();
        for _ in 0..8 {
            for way in Way::ALL {
                let ask = trial.asked();
                assert_eq!((ask.way, ask.lease, ask.outside.port()), (way, LEASE, 41_414));
                assert!(trial.map.poll(trial.now).is_none(), "one at a time");
                assert!(!trial.say(&ask, Outcome::Silent));
            }
            rests.push(trial.wait());
        }
        assert_eq!(trial.map.tried().len(), 3);
        assert!(rests[0] >= REST.mul_f64(0.8) && rests[0] <= REST.mul_f64(1.2), "{rests:?}");
        assert!(rests[1] > rests[0] && rests[7] >= LONGEST_REST.mul_f64(0.8), "{rests:?}");
        assert!(rests[7] <= LONGEST_REST.mul_f64(1.2), "{rests:?}");
        trial.mapped(3_600);
        assert_eq!(trial.map.outside(), Some(OUTSIDE.into()));
    }

    #[test]
    fn a_mapping_is_renewed_at_half_of_its_lease_and_asked_for_anew_once_it_is_over() {
        let mut trial = Trial::begin();
        let first = trial.mapped(600);
        let waited = trial.wait();
        assert!((240..=360).contains(&waited.as_secs()), "{waited:?}");
        let renewal = trial.asked();
        assert_eq!((renewal.outside, renewal.nonce), (OUTSIDE, first.nonce));
        assert!(!trial.say(&renewal, mapped(OUTSIDE, 600)), "nothing is another than before");

        trial.wait();
        let (mut askings, begun) = (0, trial.now);
        while trial.map.outside().is_some() {
            if let Some(ask) = trial.map.poll(trial.now) {
                askings += 1;
                trial.say(&ask, Outcome::Silent);
            } else {
                trial.wait();
            }
        }
        assert!((4..20).contains(&askings), "{askings}");
        assert!(trial.now - begun <= Duration::from_secs(360));
        assert!(trial.map.is_asking(), "from the first protocol on");
    }

    #[test]
    fn another_port_outside_is_told_and_asked_for_from_then_on() {
        let mut trial = Trial::begin();
        trial.mapped(600);
        trial.wait();
        let ask = trial.asked();
        let other = SocketAddrV4::new(*OUTSIDE.ip(), 9_999);
        assert!(trial.say(&ask, mapped(other, 600)));
        trial.wait();
        assert_eq!((trial.map.outside(), trial.asked().outside), (Some(other.into()), other));
    }

    #[test]
    fn an_address_behind_another_nat_is_given_back_and_told_to_nobody() {
        for ip in [[10, 0, 0, 1], [100, 64, 0, 1], [192, 168, 0, 1], [0, 0, 0, 0]] {
            let mut trial = Trial::begin();
            let ask = trial.asked();
            let outside = SocketAddrV4::new(ip.into(), 5);
            assert!(!trial.say(&ask, mapped(outside, 600)));
            assert_eq!(trial.map.outside(), None);
            let release = trial.asked();
            assert_eq!((release.is_release(), release.outside, release.way), (true, outside, Way::Pcp));
            assert!(trial.wait() >= REST / 2 && trial.map.tried().len() == 1);
        }
    }

    #[test]
    fn leases_that_make_no_sense_are_none_or_cut() {
        let mut trial = Trial::begin();
        let ask = trial.asked();
        assert!(!trial.say(&ask, mapped(OUTSIDE, 3)));
        assert_eq!(trial.asked().way, Way::NatPmp);
        let mut trial = Trial::begin();
        trial.mapped(u64::from(u32::MAX));
        assert!(trial.wait() <= LONGEST_LEASE.mul_f64(0.6));
        let mut trial = Trial::begin();
        let ask = trial.asked();
        assert!(!trial.say(&ask, mapped(SocketAddrV4::new(*OUTSIDE.ip(), 0), 600)));
    }

    #[test]
    fn a_port_that_another_has_at_a_upnp_gateway_is_not_insisted_on() {
        let mut trial = Trial::begin();
        for _ in 0..2 {
            let ask = trial.asked();
            trial.say(&ask, Outcome::Refused(2));
        }
        let mut ports = Vec::new();
        for _ in 0..PORTS_TRIED {
            let ask = trial.asked();
            assert_eq!(ask.way, Way::Upnp);
            assert!(!ports.contains(&ask.outside.port()) && ask.outside.port() >= 1_024);
            ports.push(ask.outside.port());
            trial.say(&ask, Outcome::Refused(UPNP_CONFLICT));
        }
        assert!(trial.map.poll(trial.now).is_none() && !trial.map.is_asking());
    }

    #[test]
    fn what_is_held_or_on_its_way_is_given_back_at_the_end() {
        let mut trial = Trial::begin();
        trial.mapped(600);
        trial.map.close();
        let release = trial.asked();
        assert!(release.is_release() && release.outside == OUTSIDE);
        assert_eq!((trial.map.poll(trial.now), trial.map.poll_timeout()), (None, None));

        let mut trial = Trial::begin();
        let ask = trial.asked();
        trial.map.close();
        assert!(trial.asked().is_release());
        assert!(!trial.say(&ask, mapped(OUTSIDE, 600)) && trial.map.outside().is_none());

        let mut trial = Trial::begin();
        trial.map.close();
        assert_eq!(trial.map.poll(trial.now), None, "nothing was asked yet");
    }

    #[test]
    fn at_another_gateway_all_begins_anew_and_without_one_nothing_is_asked() {
        let mut trial = Trial::begin();
        trial.mapped(600);
        trial.map.set_gateway(gateway([192, 168, 1, 2]), 41_414, trial.now);
        assert!(trial.map.outside().is_some(), "the same as before");
        let late = trial.map.ask(Way::Pcp, OUTSIDE, LEASE).unwrap();
        trial.map.set_gateway(gateway([192, 168, 9, 2]), 41_414, trial.now);
        assert!(trial.map.outside().is_none() && trial.map.tried().is_empty());
        assert_eq!(trial.asked().gateway.own, Ipv4Addr::new(192, 168, 9, 2));
        assert!(!trial.say(&late, mapped(OUTSIDE, 600)), "the former one's word comes too late");
        for none in [None, gateway([11, 0, 1, 2])] {
            trial.map.set_gateway(none, 41_414, trial.now);
            assert_eq!((trial.map.poll(trial.now), trial.map.poll_timeout()), (None, None));
        }
    }

    #[test]
    fn whoever_asks_and_says_nothing_more_stops_nothing() {
        let mut trial = Trial::begin();
        for way in Way::ALL {
            assert_eq!(trial.asked().way, way);
            assert_eq!(trial.wait(), ASK_FOR);
        }
        assert_eq!(trial.map.poll(trial.now), None);
        trial.map.hasten(trial.now);
        assert_eq!(trial.asked().way, Way::Pcp);
    }
}
