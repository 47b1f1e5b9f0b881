//! Network address translators, as RFC 4787 tells them apart: mapping, filtering, ports, hairpinning, timeout; one behind the
//! other where there are several.
//!
//! ```text
//!   host 10.1.0.1:41414 ──► layer 0 ──► layer 1 ──► from 203.0.113.1:9000      outward: at once, when it is sent
//!                       ◄── layer 0 ◄── layer 1 ◄── to   203.0.113.1:9000      inward: when it arrives
//! ```
//!
//! The kinds are those of `netns-scripts/nat`, whose files describe what real ones were measured to do.

mod layer;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use self::layer::Layer;
use crate::chance::Chance;

/// How long a flow lives that is not used: Linux, once it was answered.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The ports of a NAT that does not preserve them.
const TRANSLATED: Ports = Ports::Random { first: 1_024, count: 31_744 };

/// On what something depends (RFC 4787 §4.1, §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dependence {
    /// The same whoever the remote is.
    EndpointIndependent,
    /// Another for each remote address.
    AddressDependent,
    /// Another for each remote address and port.
    AddressAndPortDependent,
}

/// Which external ports mappings get (RFC 4787 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    /// The inside's own, shared by two that talk to different remotes; where that cannot be, a random one.
    Preserved,
    /// One after the other, from `first` on, and over again after `count`.
    Sequential { first: u16, count: u16 },
    /// A free one of `count` from `first` on.
    Random { first: u16, count: u16 },
}

/// What one layer does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    pub(crate) mapping: Dependence,
    pub(crate) filtering: Dependence,
    pub(crate) ports: Ports,
    /// The inside reaches external endpoints of other insides; such datagrams are not filtered (RFC 4787 §6).
    pub(crate) has_hairpin: bool,
    /// How long a flow lives that neither end uses.
    pub(crate) timeout: Duration,
}

impl Behaviour {
    /// No hairpinning, and flows that live as long as with Linux.
    pub(crate) fn new(mapping: Dependence, filtering: Dependence, ports: Ports) -> Self {
        Self { mapping, filtering, ports, has_hairpin: false, timeout: TIMEOUT }
    }
}

/// The kinds that a host may stand behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Public,
    Independent,
    AddressDependent,
    PortPreserving,
    Translating,
    Random,
    Sequential,
    Carrier,
    UdpBlocked,
}

impl Kind {
    /// Every kind.
    pub(crate) const ALL: [Self; 9] = [
        Self::Public,
        Self::Independent,
        Self::AddressDependent,
        Self::PortPreserving,
        Self::Translating,
        Self::Random,
        Self::Sequential,
        Self::Carrier,
        Self::UdpBlocked,
    ];

    /// Its layers, from the inside out; none where nothing is translated.
    pub(crate) fn layers(self) -> Vec<Behaviour> {
        use Dependence::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
        let preserving = Behaviour::new(EndpointIndependent, AddressAndPortDependent, Ports::Preserved);
        let translating = Behaviour::new(EndpointIndependent, AddressAndPortDependent, TRANSLATED);
        let dependent = |ports| Behaviour::new(AddressAndPortDependent, AddressAndPortDependent, ports);
        match self {
            Self::Public | Self::UdpBlocked => vec![],
            Self::Independent => vec![Behaviour { filtering: EndpointIndependent, ..translating }],
            Self::AddressDependent => vec![Behaviour { filtering: AddressDependent, ..translating }],
            Self::PortPreserving => vec![preserving],
            Self::Translating => vec![translating],
            Self::Random => vec![dependent(Ports::Random { first: 1_024, count: 64_512 })],
            Self::Sequential => vec![dependent(Ports::Sequential { first: 20_000, count: 1_024 })],
            Self::Carrier => vec![preserving, translating],
        }
    }
}

/// A place where hosts stand, and what is between them and the internet.
#[derive(Debug)]
pub(crate) struct Site {
    /// From the inside out.
    layers: Vec<Layer>,
    blocks_udp: bool,
}

impl Site {
    /// A site of this kind; its address in the internet, if it is one that has one of its own, is `outside`.
    pub(crate) fn new(kind: Kind, outside: Ipv4Addr) -> Self {
        Self { blocks_udp: kind == Kind::UdpBlocked, ..Self::of(&kind.layers(), outside) }
    }

    /// A site behind layers that do this, from the inside out. Those further in have addresses of 100.64.0.0/10 (RFC 6598)
    /// with the same last bytes.
    pub(crate) fn of(behaviours: &[Behaviour], outside: Ipv4Addr) -> Self {
        let [_, _, c, d] = outside.octets();
        let inner = |depth: usize| Ipv4Addr::new(100, 64 + depth as u8, c, d);
        let addresses = (1..behaviours.len()).map(inner).chain([outside]);
        let layers =
            behaviours.iter().zip(addresses).map(|(behaviour, address)| Layer::new(*behaviour, address));
        Self { layers: layers.collect(), blocks_udp: false }
    }

    /// Every layer forgets its mappings.
    pub(crate) fn forget(&mut self) {
        self.layers.iter_mut().for_each(Layer::forget);
    }

    /// Whether this is the address of its outermost layer.
    pub(crate) fn is_at(&self, address: SocketAddr) -> bool {
        self.layers.last().is_some_and(|layer| layer.outside() == address.ip())
    }

    /// A host at `from` sends to `to`: as whom it leaves the layers that it passes; none if it is lost at one. To the address of
    /// a layer it passes those up to it, and turns round there (see [`Site::inward`]).
    pub(crate) fn outward(
        &mut self,
        (from, to): (SocketAddr, SocketAddr),
        now: Duration,
        chance: &mut Chance,
    ) -> Option<SocketAddr> {
        let mut from = from;
        if self.blocks_udp {
            return None;
        }
        for layer in &mut self.layers {
            let turns = layer.outside() == to.ip();
            if turns && !layer.has_hairpin() {
                return None;
            }
            from = layer.outward((from, to), now, chance)?;
            if turns {
                break;
            }
        }
        Some(from)
    }

    /// A datagram from `from` arrives at `to`, an address of one of the layers: at whom of the inside it comes out; none if a
    /// layer drops it.
    pub(crate) fn inward(
        &mut self,
        (from, to): (SocketAddr, SocketAddr),
        now: Duration,
    ) -> Option<SocketAddr> {
        let outermost = self.layers.iter().rposition(|layer| layer.outside() == to.ip())?;
        let mut to = to;
        for layer in self.layers[..=outermost].iter_mut().rev() {
            to = layer.inward((from, to), now)?;
        }
        Some(to)
    }
}
