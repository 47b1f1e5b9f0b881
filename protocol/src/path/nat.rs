//! What the NAT before this machine does to the addresses of its datagrams, in the terms of RFC 4787 §4.
//!
//! In: what servers and members saw. Out: the class of the mapping, and what is worth trying between two such NATs; it forbids
//! nothing. Filtering (§5) does not show from inside.
//!
//! ```text
//!                 steady or unknown    in sequence             other
//! steady, unknown checks               foretells the other's   sprays, when asked to
//! in sequence     checks               both foretell           checks
//! other           opens many sockets   checks                  checks
//! ```

use std::net::{IpAddr, SocketAddr};

use super::stun::Sighting;
use crate::wire::message::NatCode;

/// Sightings that a mapping's class needs (specified: README §14): with fewer, chance decides.
const LEAST_SIGHTINGS: usize = 3;
/// Ports that a sequential allocator goes on by from one mapping to the next, at most (chosen: others use it meanwhile).
const MAX_STEP: i16 = 64;

/// Which datagrams of one socket seem to come from one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// All: there is no NAT.
    None,
    /// All.
    EndpointIndependent,
    /// Those to one address.
    AddressDependent,
    /// Those to one address and port, as far as is known. `step`: the ports follow each other at this distance or more.
    AddressAndPortDependent {
        /// Negative: downwards.
        step: Option<i16>,
    },
}

/// In the number of a class: the port outside was the one inside.
const PRESERVES_PORT: u8 = 0x10;

/// What is tried towards a member, beside checks of the addresses that it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tactic {
    /// Nothing: either checks find a way, or nothing does.
    Checks,
    /// Sending to the ports that its NAT is likely to give out next; `is_mutual`: it does the same.
    Foretell {
        /// Each datagram of this end's takes a port of its own NAT, too.
        is_mutual: bool,
    },
    /// Many sockets, which the member sends to by chance.
    Open,
    /// Sending to many ports of its NAT, when it says that it has opened many.
    Spray,
}

impl Tactic {
    /// Chooses by both NATs; `None`: not known.
    #[must_use]
    pub fn choose(own: Option<Nat>, theirs: Option<Nat>) -> Self {
        let is_steady = |nat: Option<Nat>| nat.is_none_or(|nat| nat.is_endpoint_independent());
        let is_sequence = |nat: Option<Nat>| nat.is_some_and(|nat| nat.step().is_some());
        match (is_steady(own), is_steady(theirs)) {
            (true, true) => Self::Checks,
            (true, false) if is_sequence(theirs) => Self::Foretell { is_mutual: false },
            (true, false) => Self::Spray,
            (false, true) if is_sequence(own) => Self::Checks,
            (false, true) => Self::Open,
            (false, false) if is_sequence(own) && is_sequence(theirs) => Self::Foretell { is_mutual: true },
            (false, false) => Self::Checks,
        }
    }
}

/// A NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat {
    /// Its mapping.
    pub mapping: Mapping,
    /// The port outside was the one inside (RFC 4787 §4.2.1).
    pub preserves_port: bool,
}

impl Nat {
    /// Judges by `sightings`, whatever their order, of a socket that this machine knows under the addresses `hosts`; `None`
    /// while they are too few.
    #[must_use]
    pub fn judge(sightings: &[Sighting], hosts: &[SocketAddr]) -> Option<Self> {
        // Families have NATs of their own; the one that is rare is IPv6's.
        let family = |sighting: &&Sighting| sighting.observed.is_ipv4();
        let mut seen: Vec<Sighting> = sightings.iter().filter(family).copied().collect();
        seen.sort_by_key(|sighting| (sighting.place.is_none(), sighting.place));
        let first = seen.first()?;
        if seen.iter().all(|sighting| hosts.contains(&sighting.observed)) {
            return Some(Self { mapping: Mapping::None, preserves_port: true });
        }
        let is_elsewhere = |sighting: &Sighting| sighting.server.ip() != first.server.ip();
        if seen.len() < LEAST_SIGHTINGS || !seen.iter().any(is_elsewhere) {
            return None;
        }
        let is_port_of_ours = |port: u16| hosts.iter().any(|host| host.port() == port);
        let preserves_port = seen.iter().all(|sighting| is_port_of_ours(sighting.observed.port()));
        let mapping = if seen.iter().all(|sighting| sighting.observed == first.observed) {
            Mapping::EndpointIndependent
        } else if is_by_address(&seen) {
            Mapping::AddressDependent
        } else {
            Mapping::AddressAndPortDependent { step: step(&seen) }
        };
        Some(Self { mapping, preserves_port })
    }

    /// Says whether another member finds this device at an address that a server saw.
    #[must_use]
    pub fn is_endpoint_independent(&self) -> bool {
        matches!(self.mapping, Mapping::None | Mapping::EndpointIndependent)
    }

    /// From one port to the next, where they follow each other.
    #[must_use]
    pub fn step(&self) -> Option<i16> {
        match self.mapping {
            Mapping::AddressAndPortDependent { step } => step,
            Mapping::None | Mapping::EndpointIndependent | Mapping::AddressDependent => None,
        }
    }

    /// What a member says of its NAT; `None` where it does not know, or says nothing that is known here.
    #[must_use]
    pub fn read(code: NatCode) -> Option<Self> {
        let step =
            (code.step != 0 && code.step.unsigned_abs() <= MAX_STEP.unsigned_abs()).then_some(code.step);
        let mapping = match code.class & !PRESERVES_PORT {
            1 => Mapping::None,
            2 => Mapping::EndpointIndependent,
            3 => Mapping::AddressDependent,
            4 => Mapping::AddressAndPortDependent { step: Some(step?) },
            5 => Mapping::AddressAndPortDependent { step: None },
            _ => return None,
        };
        Some(Self { mapping, preserves_port: code.class & PRESERVES_PORT != 0 })
    }

    /// The same for a member to read.
    #[must_use]
    pub fn told(&self) -> NatCode {
        NatCode { class: self.code(), step: self.step().unwrap_or(0) }
    }

    /// The number in a Presence (README §14); 0 is kept for what is not known.
    #[must_use]
    pub fn code(&self) -> u8 {
        let mapping = match self.mapping {
            Mapping::None => 1,
            Mapping::EndpointIndependent => 2,
            Mapping::AddressDependent => 3,
            Mapping::AddressAndPortDependent { step: Some(_) } => 4,
            Mapping::AddressAndPortDependent { step: None } => 5,
        };
        mapping | if self.preserves_port { PRESERVES_PORT } else { 0 }
    }
}

/// Several servers share an address, and whatever went to one address seemed to come from one.
fn is_by_address(seen: &[Sighting]) -> bool {
    let together = |ip: IpAddr| seen.iter().filter(move |sighting| sighting.server.ip() == ip);
    let is_one = |ip: IpAddr| {
        let mut observed = together(ip).map(|sighting| sighting.observed);
        let first = observed.next();
        observed.all(|other| Some(other) == first)
    };
    let has_several = seen.iter().any(|sighting| together(sighting.server.ip()).nth(1).is_some());
    has_several && seen.iter().all(|sighting| is_one(sighting.server.ip()))
}

/// The distance of ports that follow each other in the order of asking; only who was asked in one go says something of it.
fn step(seen: &[Sighting]) -> Option<i16> {
    let asked = || seen.iter().filter(|sighting| sighting.place.is_some());
    if asked().count() < LEAST_SIGHTINGS {
        return None;
    }
    let pairs = asked().zip(asked().skip(1));
    // Ports wrap around.
    let steps = pairs.map(|(a, b)| {
        let is_one_host = a.observed.ip() == b.observed.ip();
        is_one_host.then(|| b.observed.port().wrapping_sub(a.observed.port()).cast_signed())
    });
    let steps: Vec<i16> = steps.collect::<Option<_>>()?;
    let is_near = |step: &i16| step.unsigned_abs() <= MAX_STEP.unsigned_abs() && *step != 0;
    let is_one_way = steps.iter().all(|step| *step > 0) || steps.iter().all(|step| *step < 0);
    (is_one_way && steps.iter().all(is_near)).then(|| steps.into_iter().min_by_key(|step| step.abs()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "192.168.1.5:41414";

    /// What servers saw: `(server, port of the mapping)`, in the order of asking.
    fn judge(seen: &[(&str, u16)]) -> Option<Nat> {
        let sighting = |(place, (server, port)): (usize, &(&str, u16))| Sighting {
            server: server.parse().unwrap(),
            observed: SocketAddr::from(([198, 51, 100, 7], *port)),
            place: Some(place),
        };
        let sightings: Vec<_> = seen.iter().enumerate().map(sighting).rev().collect();
        Nat::judge(&sightings, &[HOST.parse().unwrap()])
    }

    #[test]
    fn one_address_for_all_servers_is_endpoint_independent() {
        let nat =
            judge(&[("192.0.2.1:3478", 50_001), ("192.0.2.2:3478", 50_001), ("192.0.2.3:3478", 50_001)]);
        let nat = nat.unwrap();
        assert_eq!((nat.mapping, nat.preserves_port), (Mapping::EndpointIndependent, false));
        assert!(nat.is_endpoint_independent());
        let nat = judge(&[("192.0.2.1:1", 41_414), ("192.0.2.2:1", 41_414), ("192.0.2.2:2", 41_414)]);
        assert!(nat.unwrap().preserves_port);
    }

    #[test]
    fn one_address_for_each_server_address_is_address_dependent() {
        let nat = judge(&[("192.0.2.1:1", 50_001), ("192.0.2.1:2", 50_001), ("192.0.2.2:1", 60_321)]);
        assert_eq!(nat.unwrap().mapping, Mapping::AddressDependent);
    }

    #[test]
    fn sequences_and_chance_are_told_apart() {
        for (ports, step) in [
            ([20_000, 20_001, 20_002], Some(1)),
            ([20_000, 20_004, 20_006], Some(2)),
            ([65_535, 1, 3], Some(2)),
            ([20_004, 20_002, 20_000], Some(-2)),
            ([20_000, 48_211, 33_017], None),
            ([20_000, 20_001, 19_999], None),
            ([20_000, 20_001, 20_001], None),
        ] {
            let servers = ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1"];
            let seen: Vec<_> = servers.into_iter().zip(ports).collect();
            let nat = judge(&seen).unwrap();
            assert_eq!(nat.mapping, Mapping::AddressAndPortDependent { step }, "{ports:?}");
            assert!(!nat.is_endpoint_independent());
        }
    }

    #[test]
    fn what_members_saw_tells_steady_from_other_and_no_sequence() {
        let judge = |ports: [u16; 3]| {
            let sightings = (1..).zip(ports).map(|(n, port)| Sighting {
                server: SocketAddr::from(([192, 0, 2, n], 41_414)),
                observed: SocketAddr::from(([198, 51, 100, 7], port)),
                place: None,
            });
            let seen: Vec<_> = sightings.collect();
            Nat::judge(&seen, &[HOST.parse().unwrap()]).unwrap().mapping
        };
        assert_eq!(judge([20_000; 3]), Mapping::EndpointIndependent);
        assert_eq!(judge([20_000, 20_001, 20_002]), Mapping::AddressAndPortDependent { step: None });
    }

    #[test]
    fn what_is_told_of_a_nat_is_read_and_nonsense_is_nothing() {
        for mapping in [
            Mapping::None,
            Mapping::EndpointIndependent,
            Mapping::AddressDependent,
            Mapping::AddressAndPortDependent { step: Some(-3) },
            Mapping::AddressAndPortDependent { step: None },
        ] {
            for preserves_port in [false, true] {
                let nat = Nat { mapping, preserves_port };
                assert_eq!(Nat::read(nat.told()), Some(nat));
            }
        }
        for (class, step) in [(0, 0), (6, 1), (0x20, 1), (255, 1), (4, 0), (4, 65), (4, i16::MIN)] {
            assert_eq!(Nat::read(NatCode { class, step }), None, "{class} {step}");
        }
    }

    #[test]
    fn a_tactic_is_chosen_where_it_may_help_and_the_two_ends_choose_what_fits() {
        let nat = |mapping| Some(Nat { mapping, preserves_port: false });
        let steady = nat(Mapping::EndpointIndependent);
        let sequence = nat(Mapping::AddressAndPortDependent { step: Some(1) });
        let random = nat(Mapping::AddressAndPortDependent { step: None });
        let (alone, mutual) = (Tactic::Foretell { is_mutual: false }, Tactic::Foretell { is_mutual: true });
        for (one, other, tactics) in [
            (steady, steady, [Tactic::Checks; 2]),
            (None, None, [Tactic::Checks; 2]),
            (steady, sequence, [alone, Tactic::Checks]),
            (None, sequence, [alone, Tactic::Checks]),
            (steady, random, [Tactic::Spray, Tactic::Open]),
            (None, random, [Tactic::Spray, Tactic::Open]),
            (nat(Mapping::None), nat(Mapping::AddressDependent), [Tactic::Spray, Tactic::Open]),
            (sequence, sequence, [mutual; 2]),
            (sequence, random, [Tactic::Checks; 2]),
            (random, random, [Tactic::Checks; 2]),
        ] {
            assert_eq!(
                [Tactic::choose(one, other), Tactic::choose(other, one)],
                tactics,
                "{one:?} {other:?}"
            );
        }
    }

    #[test]
    fn fewer_than_three_sightings_or_two_servers_say_nothing() {
        assert_eq!(judge(&[]), None);
        assert_eq!(judge(&[("192.0.2.1:1", 5), ("192.0.2.2:1", 5)]), None);
        assert_eq!(judge(&[("192.0.2.1:1", 5), ("192.0.2.1:2", 5), ("192.0.2.1:3", 5)]), None);
    }

    #[test]
    fn who_is_seen_under_an_own_address_has_no_nat() {
        let observed = HOST.parse().unwrap();
        let sighting = Sighting { server: "192.0.2.1:1".parse().unwrap(), observed, place: Some(0) };
        let nat = Nat::judge(&[sighting], &[observed]).unwrap();
        assert_eq!((nat.mapping, nat.code()), (Mapping::None, 0x11));
    }
}
