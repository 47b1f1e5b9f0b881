//! What this machine lets members reach: its policy, and the services on 127.0.0.1 that it exposes.
//!
//! [`Reach`] is the whole of it, as the owner said it; [`Share`] is what of it concerns one member.

use std::collections::BTreeSet;

use crate::identity::DeviceId;
use crate::wire::ip::{self, Ipv4};

/// *Chosen*: exposures of one VPI. Far above the services of one machine, and eight comparisons deep.
pub const EXPOSURES_MAX: usize = 256;

/// What members reach beyond the exposures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Every service on the own alias and on 0.0.0.0.
    #[default]
    OwnAlias,
    /// Nothing but answers to what this machine's applications began.
    ExposedOnly,
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The protocol of this number in an IPv4 header.
    pub(super) fn of(number: u8) -> Option<Self> {
        match number {
            ip::TCP => Some(Self::Tcp),
            ip::UDP => Some(Self::Udp),
            _ => None,
        }
    }
}

/// A service on 127.0.0.1 that members may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// Its transport.
    pub protocol: Protocol,
    /// Its port; the same on the own alias.
    pub port: u16,
    /// Who may; `None`: every member. Devices that are no members are kept for when they are.
    pub to: Option<BTreeSet<DeviceId>>,
}

/// What of this machine members may reach; nothing is exposed by default.
///
/// Of `exposures` the first [`EXPOSURES_MAX`] with a port other than 0 count, so that what is wrong is closed; ask
/// [`Reach::check`] before. One port may stand there several times: each adds to who may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// What is reachable besides.
    pub policy: Policy,
    /// Services on 127.0.0.1.
    pub exposures: Vec<Exposure>,
}

/// Why a [`Reach`] cannot count in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReachError {
    /// More than [`EXPOSURES_MAX`].
    #[error("a vpi has at most {EXPOSURES_MAX} exposures")]
    TooMany,
    /// Port 0 is no service's.
    #[error("port 0 cannot be exposed")]
    Port,
}

impl Reach {
    /// Says whether all of it counts.
    ///
    /// # Errors
    /// [`ReachError`], by what does not.
    pub fn check(&self) -> Result<(), ReachError> {
        if self.exposures.len() > EXPOSURES_MAX {
            return Err(ReachError::TooMany);
        }
        if self.exposures.iter().any(|exposure| exposure.port == 0) {
            return Err(ReachError::Port);
        }
        Ok(())
    }

    /// What of it concerns `device`.
    #[must_use]
    pub fn share(&self, device: &DeviceId) -> Share {
        let ports = |protocol| {
            let ports: BTreeSet<u16> = self
                .exposures
                .iter()
                .take(EXPOSURES_MAX)
                .filter(|exposure| exposure.protocol == protocol && exposure.port != 0)
                .filter(|exposure| exposure.to.as_ref().is_none_or(|to| to.contains(device)))
                .map(|exposure| exposure.port)
                .collect();
            ports.into_iter().collect()
        };
        Share { policy: self.policy, tcp: ports(Protocol::Tcp), udp: ports(Protocol::Udp) }
    }
}

/// What one member may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    policy: Policy,
    /// Exposed to the member, ascending.
    tcp: Box<[u16]>,
    /// The same of UDP.
    udp: Box<[u16]>,
}

impl Share {
    /// What is reachable besides the exposures.
    #[inline]
    pub(super) fn policy(&self) -> Policy {
        self.policy
    }

    /// Says whether everything goes to the own alias, and nothing is to be looked at.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.policy == Policy::OwnAlias && self.tcp.is_empty() && self.udp.is_empty()
    }

    /// Says whether the member may reach this port on 127.0.0.1.
    #[must_use]
    pub fn exposes(&self, protocol: Protocol, port: u16) -> bool {
        let ports = match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        };
        ports.binary_search(&port).is_ok()
    }

    /// Says whether `error`, an ICMP error to this machine, is about what an exposed service sent: then it goes where
    /// the service is.
    #[must_use]
    pub fn is_about_exposed(&self, error: &Ipv4<'_>) -> bool {
        let sent = error.quote().and_then(|quote| Some((Protocol::of(quote.protocol())?, quote.ports()?.0)));
        sent.is_some_and(|(protocol, port)| self.exposes(protocol, port))
    }
}
