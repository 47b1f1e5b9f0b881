//! What one VPI is to have on this machine, checked once, and what of it can be missing.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{LoopbackError, pool};
use crate::store::settings::VpiSettings;
use crate::tun;

/// *Specified* (protocol/README): the MTU of every VPI's device, in bytes.
pub(crate) const MTU_BYTES: u32 = 1420;

/// *Chosen*: every device's name begins so, which keeps clear of other tools' devices and nft's keywords.
pub(crate) const DEVICE_PREFIX: &str = "vpi-";

/// What carries a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// What one VPI has on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    device: String,
    prefix: Ipv4Addr,
    own: Ipv4Addr,
    mtu_bytes: u32,
    exposed: BTreeSet<(Transport, u16)>,
}

impl Plan {
    /// Checks and keeps the facts of one VPI.
    ///
    /// `device` is `vpi-` and 1 to 11 of `[a-z0-9-]`; `prefix` is a /16 of the pool 127.64.0.0/10, and
    /// `own`, the own alias, lies in it, neither first nor last.
    ///
    /// # Errors
    /// [`LoopbackError::Device`], [`LoopbackError::Prefix`] or [`LoopbackError::Own`].
    pub(crate) fn new(device: &str, prefix: Ipv4Addr, own: Ipv4Addr) -> Result<Self, LoopbackError> {
        let name = device.strip_prefix(DEVICE_PREFIX).unwrap_or_default();
        let is_plain = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if name.is_empty() || device.len() > tun::NAME_MAX_BYTES || !name.bytes().all(is_plain) {
            return Err(LoopbackError::Device(device.to_owned()));
        }
        if !pool::is_prefix(prefix) {
            return Err(LoopbackError::Prefix(prefix));
        }
        if !pool::is_within(own, prefix) || matches!(own.octets(), [_, _, 0, 0] | [_, _, 255, 255]) {
            return Err(LoopbackError::Own(own));
        }
        Ok(Self { device: device.to_owned(), prefix, own, mtu_bytes: MTU_BYTES, exposed: BTreeSet::new() })
    }

    /// What the settings of a VPI ask for.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub(crate) fn of(settings: &VpiSettings) -> Result<Self, LoopbackError> {
        let exposed = settings.exposures.iter().map(|exposure| (exposure.proto, exposure.port));
        Ok(Self::new(&settings.device, settings.prefix, settings.alias)?.exposing(exposed))
    }

    /// The same, with these services on 127.0.0.1 let through the firewall table, whoever may reach them.
    pub(crate) fn exposing(self, services: impl IntoIterator<Item = (Transport, u16)>) -> Self {
        Self { exposed: services.into_iter().collect(), ..self }
    }

    /// The TUN device's name.
    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    /// The first address of the /16.
    pub(crate) fn prefix(&self) -> Ipv4Addr {
        self.prefix
    }

    /// The own alias.
    pub(crate) fn own(&self) -> Ipv4Addr {
        self.own
    }

    /// Ports of 127.0.0.1 that members may reach, in order.
    pub(crate) fn exposed(&self) -> &BTreeSet<(Transport, u16)> {
        &self.exposed
    }

    /// The device's MTU.
    pub(crate) fn mtu_bytes(&self) -> u32 {
        self.mtu_bytes
    }
}

/// One part of the set-up that is not there, as [`super::missing`] finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Without it, other users of this machine could take a peer's alias.
    Guard,
    /// The TUN device, or it is not persistent.
    Device,
    /// One of the device's kernel settings, by its name.
    Setting(&'static str),
    /// The own alias.
    Address,
    /// The device is down or has another MTU.
    Link,
    /// The route of the /16 into the device.
    Route,
}

impl fmt::Display for Missing {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guard => to.write_str("the guard route"),
            Self::Device => to.write_str("the persistent tun device"),
            Self::Setting(name) => write!(to, "the device's setting {name}"),
            Self::Address => to.write_str("the own alias"),
            Self::Link => to.write_str("the device being up with its mtu"),
            Self::Route => to.write_str("the route into the device"),
        }
    }
}
