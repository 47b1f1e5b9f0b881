//! Who counts as one: the network that an address is in, for every bound that strangers share.

use std::fmt;
use std::net::IpAddr;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

/// An IPv4 /24, an IPv6 /48, or all addresses that are neither.
///
/// *Chosen*: the smallest networks that are routed on their own, so the smallest that a stranger gets for one price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Group {
    /// The first three bytes.
    V4([u8; 3]),
    /// The first six bytes.
    V6([u8; 6]),
    /// No IP address at all, such as a transport inside one process.
    Other,
}

impl Group {
    /// The group of an IP address; an IPv4 address inside an IPv6 one is the IPv4 address.
    pub(crate) fn of_ip(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f])
            }
        }
    }

    /// The group of the address that `address` begins with.
    pub(crate) fn of(address: &Multiaddr) -> Self {
        ip_of(address).map_or(Self::Other, Self::of_ip)
    }

    /// The bytes that stand for it, a byte of kind first.
    pub(crate) fn to_bytes(self) -> [u8; 7] {
        match self {
            Self::V4([a, b, c]) => [4, a, b, c, 0, 0, 0],
            Self::V6([a, b, c, d, e, f]) => [6, a, b, c, d, e, f],
            Self::Other => [0; 7],
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4([a, b, c]) => write!(to, "{a}.{b}.{c}.0/24"),
            Self::V6([a, b, c, d, e, f]) => {
                write!(to, "{a:02x}{b:02x}:{c:02x}{d:02x}:{e:02x}{f:02x}::/48")
            }
            Self::Other => to.write_str("no network"),
        }
    }
}

/// The IP address that `address` begins with, an IPv4 address inside an IPv6 one as itself.
pub(crate) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip).to_canonical()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_group_and_others_are_not() {
        let group = |text: &str| Group::of(&text.parse().unwrap());
        assert_eq!(group("/ip4/192.0.2.1/tcp/1"), group("/ip4/192.0.2.254/udp/2/quic-v1"));
        assert_ne!(group("/ip4/192.0.2.1/tcp/1"), group("/ip4/192.0.3.1/tcp/1"));
        assert_eq!(group("/ip6/2001:db8:1:2::1/tcp/1"), group("/ip6/2001:db8:1:ffff::9/tcp/1"));
        assert_ne!(group("/ip6/2001:db8:1::1/tcp/1"), group("/ip6/2001:db8:2::1/tcp/1"));
        assert_eq!(group("/ip6/::ffff:192.0.2.1/tcp/1"), group("/ip4/192.0.2.9/tcp/1"));
        assert_eq!(group("/memory/7"), Group::Other);
    }

    #[test]
    fn a_group_is_written_as_its_network() {
        assert_eq!(Group::of_ip("192.0.2.7".parse().unwrap()).to_string(), "192.0.2.0/24");
        assert_eq!(Group::of_ip("2001:db8:1::7".parse().unwrap()).to_string(), "2001:0db8:0001::/48");
    }
}
