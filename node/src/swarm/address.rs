//! Where a beacon is: `/ip4/192.0.2.1/tcp/41415/p2p/12D3Koo…`, and nothing else.
//!
//! Names are refused: looking one up tells a resolver whom this device is about to meet, and its answer is nobody's word.
//! So are QUIC addresses: a socket that dials QUIC answers strangers.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// One address of a beacon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Beacon {
    /// Its peer id, which the connection proves.
    pub(crate) peer: PeerId,
    /// Its TCP address.
    pub(crate) socket: SocketAddr,
}

/// Why a text is no beacon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BeaconError {
    /// It is no multiaddress.
    #[error(
        "this is no multiaddress; write it as the beacon prints it, like /ip4/192.0.2.1/tcp/41415/p2p/12D3Koo…"
    )]
    Malformed,
    /// It has a name in it.
    #[error(
        "it has a name in it; write the beacon's IP address, as in /ip4/192.0.2.1/tcp/41415/p2p/12D3Koo…"
    )]
    Name,
    /// It is not TCP.
    #[error("members reach a beacon over TCP only; take the address with /tcp/ that the beacon prints")]
    NotTcp,
    /// The peer id is missing.
    #[error("the beacon's peer id is missing; add /p2p/ and the id that the beacon prints")]
    NoPeer,
    /// It has more to it.
    #[error("there is more behind the beacon's peer id; leave that out")]
    TooLong,
    /// Nobody can be there.
    #[error("no beacon can be at this address or port; take one that the beacon prints")]
    Nowhere,
}

impl Beacon {
    /// The address to dial, without the peer id.
    pub(super) fn address(&self) -> Multiaddr {
        Multiaddr::from(self.socket.ip()).with(Protocol::Tcp(self.socket.port()))
    }

    /// What to listen on for a reservation; with a member's peer id behind it, what to open a circuit to.
    pub(super) fn circuit(&self) -> Multiaddr {
        Multiaddr::from(*self).with(Protocol::P2pCircuit)
    }
}

impl From<Beacon> for Multiaddr {
    fn from(beacon: Beacon) -> Self {
        beacon.address().with(Protocol::P2p(beacon.peer))
    }
}

impl TryFrom<&Multiaddr> for Beacon {
    type Error = BeaconError;

    fn try_from(address: &Multiaddr) -> Result<Self, BeaconError> {
        let mut parts = address.iter();
        let ip: IpAddr = match parts.next() {
            Some(Protocol::Ip4(ip)) => ip.into(),
            Some(Protocol::Ip6(ip)) => ip.into(),
            Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_)) => {
                return Err(BeaconError::Name);
            }
            _ => return Err(BeaconError::Malformed),
        };
        let Some(Protocol::Tcp(port)) = parts.next() else { return Err(BeaconError::NotTcp) };
        let Some(Protocol::P2p(peer)) = parts.next() else { return Err(BeaconError::NoPeer) };
        if parts.next().is_some() {
            return Err(BeaconError::TooLong);
        }
        if port == 0 || ip.is_unspecified() || ip.is_multicast() {
            return Err(BeaconError::Nowhere);
        }
        Ok(Self { peer, socket: SocketAddr::new(ip, port) })
    }
}

impl FromStr for Beacon {
    type Err = BeaconError;

    fn from_str(text: &str) -> Result<Self, BeaconError> {
        Self::try_from(&Multiaddr::from_str(text).map_err(|_| BeaconError::Malformed)?)
    }
}

impl fmt::Display for Beacon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Multiaddr::from(*self).fmt(f)
    }
}

/// Whether an address can be anybody's on the internet, and so may be dialled because a stranger named it.
pub(super) fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let is_shared = a == 100 && (64..128).contains(&b); // RFC 6598
            !(a == 0 || is_shared || ip.is_private() || ip.is_loopback() || ip.is_link_local())
                && !(ip.is_multicast() || ip.is_broadcast())
        }
        IpAddr::V6(ip) => {
            let is_here = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
            !(is_here || ip.is_unique_local() || ip.is_unicast_link_local())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    #[test]
    fn a_beacon_is_read_and_written_alike() {
        for text in
            [format!("/ip4/192.0.2.1/tcp/41415/p2p/{PEER}"), format!("/ip6/2001:db8::1/tcp/9/p2p/{PEER}")]
        {
            assert_eq!(text.parse::<Beacon>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn each_wrong_address_has_its_own_reason() {
        let why = |text: &str| text.parse::<Beacon>().unwrap_err();
        assert_eq!(why("192.0.2.1:41415"), BeaconError::Malformed);
        assert_eq!(why(""), BeaconError::Malformed);
        assert_eq!(why(&format!("/dns4/example.org/tcp/41415/p2p/{PEER}")), BeaconError::Name);
        assert_eq!(why(&format!("/ip4/192.0.2.1/udp/41415/quic-v1/p2p/{PEER}")), BeaconError::NotTcp);
        assert_eq!(why("/ip4/192.0.2.1/tcp/41415"), BeaconError::NoPeer);
        assert_eq!(why(&format!("/ip4/192.0.2.1/tcp/41415/p2p/{PEER}/p2p-circuit")), BeaconError::TooLong);
        assert_eq!(why(&format!("/ip4/0.0.0.0/tcp/41415/p2p/{PEER}")), BeaconError::Nowhere);
        assert_eq!(why(&format!("/ip4/192.0.2.1/tcp/0/p2p/{PEER}")), BeaconError::Nowhere);
    }

    #[test]
    fn only_public_addresses_are_dialled_on_a_strangers_word() {
        let public = |text: &str| is_public(text.parse().unwrap());
        for inside in ["127.64.0.9", "10.0.0.1", "172.31.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"]
        {
            assert!(!public(inside), "{inside}");
            assert!(!public(&format!("::ffff:{inside}")), "{inside}");
        }
        for inside in
            ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::1", "::", "fe80::1", "fd00::1", "ff02::1"]
        {
            assert!(!public(inside), "{inside}");
        }
        for outside in ["1.1.1.1", "100.128.0.1", "172.32.0.1", "2001:4860::8888"] {
            assert!(public(outside), "{outside}");
        }
    }
}
