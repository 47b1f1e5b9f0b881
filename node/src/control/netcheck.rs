//! What `vpi netcheck` tells: promised JSON.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::status::BeaconStatus;

/// Where this machine is in the network, as far as the data socket of one VPI shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Netcheck {
    /// The VPI whose socket was looked through.
    pub vpi: String,
    /// The port of that socket.
    pub port: u16,
    /// This machine's addresses.
    pub addresses: Vec<IpAddr>,
    /// What stands before it.
    pub nat: NatReport,
    /// Who was asked where datagrams come from.
    pub stun: StunReport,
    /// Who maps ports.
    pub port_mapping: MappingReport,
    /// IPv6 outside of the tunnel.
    pub ipv6: Ipv6Report,
    /// The beacons of the VPI.
    pub beacons: Vec<BeaconStatus>,
    /// All that was asked has been answered, or given up.
    pub is_settled: bool,
    /// One sentence: what that means, and what would help.
    pub advice: String,
}

/// A NAT, in the terms of RFC 4787; each a word that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NatReport {
    /// §4.1: `none`, `endpoint-independent`, `address-dependent`, `address-and-port-dependent` or `unknown`.
    pub mapping: String,
    /// §5: `none` without a NAT, `endpoint-independent` at a port that a gateway maps, else `unknown`: it does not show from inside.
    pub filtering: String,
    /// §4.2: `preserved`, `sequential`, `other` or `unknown`.
    pub ports: String,
    /// `passes`, `blocked` or `unknown`.
    pub udp: String,
}

/// The last asking of STUN servers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StunReport {
    /// How long ago, in seconds; absent if never.
    pub ago_s: Option<f64>,
    /// Who was asked.
    pub servers: Vec<StunServer>,
}

/// One STUN server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StunServer {
    /// Its address.
    pub server: SocketAddr,
    /// Where it saw the socket; absent if it did not answer.
    pub observed: Option<SocketAddr>,
}

/// Who maps ports, and what came of asking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MappingReport {
    /// The gateway that is asked; absent without one, with an address of the internet, or if the settings forbid it.
    pub gateway: Option<Ipv4Addr>,
    /// Where others get in, while a port is mapped.
    pub outside: Option<SocketAddr>,
    /// For how many seconds more, unless it is renewed.
    pub lease_s: Option<f64>,
    /// The protocols that were tried.
    pub tried: Vec<TriedProtocol>,
}

/// One protocol that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TriedProtocol {
    /// `PCP`, `NAT-PMP` or `UPnP`.
    pub protocol: String,
    /// `mapped`, `refused` or `silent`.
    pub outcome: String,
    /// In a sentence.
    pub text: String,
    /// How long ago, in seconds.
    pub ago_s: f64,
}

/// IPv6 outside of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ipv6Report {
    /// This machine has an address of the internet.
    pub has_address: bool,
    /// A server was reached by it.
    pub is_seen: bool,
}
