//! What members reach on this machine: the policy, and the services on 127.0.0.1 that are exposed.
//!
//! In: what `vpi expose`, `unexpose` and `policy` say. Out: the same at each start, as a part of `vpi.toml`. Who may
//! reach what is decided by the engine's filter; the machine's firewall table lets exposed ports through.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use protocol::filter;
use protocol::identity::DeviceId;
use serde::{Deserialize, Serialize};

use crate::loopback::Transport;

/// Exposures of one VPI: what the filter takes.
pub(crate) const EXPOSURES_MAX: usize = filter::EXPOSURES_MAX;

/// What members reach beyond the exposures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Policy {
    /// Every service that listens on the own alias or on 0.0.0.0.
    #[default]
    OwnAlias,
    /// Nothing but the exposures, and answers to what this machine began.
    ExposedOnly,
}

impl Policy {
    /// The same, as the engine's filter takes it.
    pub(super) fn to_filter(self) -> filter::Policy {
        match self {
            Self::OwnAlias => filter::Policy::OwnAlias,
            Self::ExposedOnly => filter::Policy::ExposedOnly,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.pad(match self {
            Self::OwnAlias => "own-alias",
            Self::ExposedOnly => "exposed-only",
        })
    }
}

/// A service of this machine, written `tcp/22`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Service {
    /// What carries it.
    pub(crate) proto: Transport,
    /// Its port, the same on 127.0.0.1 and on the own alias; not 0.
    pub(crate) port: u16,
}

impl fmt::Display for Service {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.pad(&format!("{}/{}", self.proto, self.port))
    }
}

/// A text is no service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a service is tcp/PORT or udp/PORT with a port from 1 to 65535, such as tcp/22")]
pub(crate) struct NoService;

impl FromStr for Service {
    type Err = NoService;

    fn from_str(text: &str) -> Result<Self, NoService> {
        let (proto, port) = text.split_once('/').ok_or(NoService)?;
        let proto = match proto.to_ascii_lowercase().as_str() {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            _ => return Err(NoService),
        };
        // `parse` alone takes a sign, too.
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| is_number && *port != 0).ok_or(NoService)?;
        Ok(Self { proto, port })
    }
}

/// A service on 127.0.0.1 that members may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exposure {
    /// What carries it.
    pub(crate) proto: Transport,
    /// Its port, not 0.
    pub(crate) port: u16,
    /// The devices that may, as 64 hexadecimal digits each; absent: every member.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "devices")]
    pub(crate) to: Option<BTreeSet<DeviceId>>,
}

impl Exposure {
    /// The same, as the engine's filter takes it.
    pub(super) fn to_filter(&self) -> filter::Exposure {
        let protocol = match self.proto {
            Transport::Tcp => filter::Protocol::Tcp,
            Transport::Udp => filter::Protocol::Udp,
        };
        filter::Exposure { protocol, port: self.port, to: self.to.clone() }
    }

    /// The service that is exposed.
    pub(crate) fn service(&self) -> Service {
        Service { proto: self.proto, port: self.port }
    }
}

/// Says what is wrong with a list of exposures, if anything is.
pub(crate) fn problem(exposures: &[Exposure]) -> Option<&'static str> {
    let services: BTreeSet<Service> = exposures.iter().map(Exposure::service).collect();
    if exposures.len() > EXPOSURES_MAX {
        Some("`exposures` has more than 256 entries")
    } else if services.len() < exposures.len() {
        Some("`exposures` names a service twice")
    } else if exposures.iter().any(|exposure| exposure.port == 0) {
        Some("`exposures` has a `port` of 0")
    } else {
        None
    }
}

/// Device keys as text.
mod devices {
    use std::collections::BTreeSet;

    use protocol::identity::DeviceId;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(
        devices: &Option<BTreeSet<DeviceId>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let texts: Option<Vec<String>> =
            devices.as_ref().map(|devices| devices.iter().map(ToString::to_string).collect());
        texts.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<BTreeSet<DeviceId>>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let devices: Option<BTreeSet<DeviceId>> = texts.iter().map(|text| DeviceId::from_hex(text)).collect();
        devices.map(Some).ok_or_else(|| D::Error::custom("each of `to` is a device: 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposure(port: u16, to: Option<u8>) -> Exposure {
        let to = to.map(|byte| BTreeSet::from([DeviceId::from([byte; 32])]));
        Exposure { proto: Transport::Tcp, port, to }
    }

    #[test]
    fn a_service_is_a_transport_and_a_port() {
        for (text, proto, port) in [
            ("tcp/22", Transport::Tcp, 22),
            ("udp/1", Transport::Udp, 1),
            ("TCP/65535", Transport::Tcp, 65_535),
        ] {
            assert_eq!(text.parse(), Ok(Service { proto, port }));
        }
        assert_eq!(Service { proto: Transport::Udp, port: 53 }.to_string(), "udp/53");
        for bad in [
            "",
            "tcp",
            "tcp/",
            "/22",
            "22/tcp",
            "tcp/0",
            "tcp/65536",
            "tcp/+22",
            "tcp/-1",
            "icmp/1",
            "tcp/2/2",
        ] {
            assert_eq!(bad.parse::<Service>(), Err(NoService), "{bad}");
        }
    }

    #[test]
    fn exposures_that_contradict_each_other_are_named() {
        assert_eq!(problem(&[exposure(22, None), exposure(23, Some(1))]), None);
        assert!(problem(&[exposure(22, None), exposure(22, Some(1))]).unwrap().contains("twice"));
        assert!(problem(&[exposure(0, None)]).unwrap().contains("port"));
        let many: Vec<_> = (1..=257).map(|port| exposure(port, None)).collect();
        assert!(problem(&many).unwrap().contains("256"));
        assert_eq!(problem(&many[..EXPOSURES_MAX]), None);
    }

    #[test]
    fn an_exposure_for_nobody_is_not_one_for_everybody() {
        let nobody = Exposure { to: Some(BTreeSet::new()), ..exposure(22, None) };
        for kept in [nobody, exposure(22, None), exposure(22, Some(7))] {
            let text = toml::to_string(&kept).unwrap();
            assert_eq!(toml::from_str::<Exposure>(&text).unwrap(), kept, "{text}");
        }
        let bad = "proto = \"tcp\"\nport = 22\nto = [\"nas\"]\n";
        assert!(toml::from_str::<Exposure>(bad).unwrap_err().to_string().contains("64 hexadecimal"));
        assert!(toml::from_str::<Exposure>("proto = \"icmp\"\nport = 22\n").is_err());
    }
}
