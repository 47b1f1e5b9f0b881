//! One NAT: its mappings, the flows that keep each of them, and who comes in.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{Behaviour, Dependence, Ports};
use crate::chance::Chance;

/// Random ports that are tried before a datagram is lost, as with Linux.
const ATTEMPTS: usize = 128;

/// One NAT.
#[derive(Debug)]
pub(super) struct Layer {
    behaviour: Behaviour,
    outside: Ipv4Addr,
    mappings: Vec<Mapping>,
    /// How many sequential ports were given out.
    given: u16,
}

/// An external port that an endpoint inside has; for one remote or some, if the mapping depends on it.
#[derive(Debug)]
struct Mapping {
    inside: SocketAddr,
    /// For whom it was made.
    remote: SocketAddr,
    port: u16,
    /// Whom it was used with, and when last. It lives as long as one of them.
    flows: BTreeMap<SocketAddr, Duration>,
}

impl Layer {
    pub(super) fn new(behaviour: Behaviour, outside: Ipv4Addr) -> Self {
        Self { behaviour, outside, mappings: Vec::new(), given: 0 }
    }

    pub(super) fn forget(&mut self) {
        self.mappings.clear();
    }

    pub(super) fn outside(&self) -> IpAddr {
        self.outside.into()
    }

    pub(super) fn has_hairpin(&self) -> bool {
        self.behaviour.has_hairpin
    }

    /// As whom a datagram leaves; none if there is no port for it.
    pub(super) fn outward(
        &mut self,
        (from, to): (SocketAddr, SocketAddr),
        now: Duration,
        chance: &mut Chance,
    ) -> Option<SocketAddr> {
        self.expire(now);
        let mapping = self.behaviour.mapping;
        // What came in to a mapping is answered from there, whoever the mapping was made for.
        let is_it = |held: &Mapping| {
            held.inside == from && (held.flows.contains_key(&to) || same(mapping, held.remote, to))
        };
        let place = match self.mappings.iter().position(is_it) {
            Some(place) => place,
            None => {
                let port = self.port((from, to), chance)?;
                self.mappings.push(Mapping { inside: from, remote: to, port, flows: BTreeMap::new() });
                self.mappings.len() - 1
            }
        };
        let held = self.mappings.get_mut(place)?;
        held.flows.insert(to, now);
        Some(SocketAddr::new(self.outside.into(), held.port))
    }

    /// To whom of the inside a datagram goes; none if it is filtered. What comes from the layer's own address has turned round
    /// here, and is not.
    pub(super) fn inward(
        &mut self,
        (from, to): (SocketAddr, SocketAddr),
        now: Duration,
    ) -> Option<SocketAddr> {
        self.expire(now);
        let (filtering, own) = (self.behaviour.filtering, self.outside());
        let admits = |held: &Mapping| {
            from.ip() == own || held.flows.keys().any(|remote| same(filtering, *remote, from))
        };
        let at_port = || self.mappings.iter().enumerate().filter(|(_, held)| held.port == to.port());
        // Of those who share a port, the one that talks to this remote comes first.
        let place = at_port().find(|(_, held)| held.flows.contains_key(&from));
        let (place, _) = place.or_else(|| at_port().find(|(_, held)| admits(held)))?;
        let held = self.mappings.get_mut(place)?;
        held.flows.insert(from, now);
        Some(held.inside)
    }

    fn expire(&mut self, now: Duration) {
        let timeout = self.behaviour.timeout;
        for held in &mut self.mappings {
            held.flows.retain(|_, used_at| now - *used_at < timeout);
        }
        self.mappings.retain(|held| !held.flows.is_empty());
    }

    fn port(&mut self, (from, to): (SocketAddr, SocketAddr), chance: &mut Chance) -> Option<u16> {
        match self.behaviour.ports {
            Ports::Preserved if self.is_free_for(from.port(), to) => Some(from.port()),
            Ports::Preserved => self.random((1_024, 64_512), chance),
            Ports::Random { first, count } => self.random((first, count), chance),
            Ports::Sequential { first, count } => {
                let port = first + self.given;
                self.given = (self.given + 1) % count;
                self.is_free_for(port, to).then_some(port)
            }
        }
    }

    fn random(&self, (first, count): (u16, u16), chance: &mut Chance) -> Option<u16> {
        let mut draws = (0..ATTEMPTS).map(|_| first + chance.below(count.into()) as u16);
        draws.find(|port| self.mappings.iter().all(|held| held.port != *port))
    }

    /// Whether an answer of `remote` to this port can only be meant for who is about to get it.
    fn is_free_for(&self, port: u16, remote: SocketAddr) -> bool {
        self.mappings.iter().all(|held| held.port != port || !held.flows.contains_key(&remote))
    }
}

/// Whether two remotes are one, as far as it depends on them.
fn same(dependence: Dependence, one: SocketAddr, other: SocketAddr) -> bool {
    match dependence {
        Dependence::EndpointIndependent => true,
        Dependence::AddressDependent => one.ip() == other.ip(),
        Dependence::AddressAndPortDependent => one == other,
    }
}
