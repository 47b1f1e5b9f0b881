//! The far end of a path: an address outside, or what a member or a beacon passes datagrams on under.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where a datagram goes, or came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remote {
    /// A socket, straight over the own one.
    Udp(SocketAddr),
    /// A fellow member that passes datagrams on (README §1, `0x82`).
    Relayed {
        /// Where that member is.
        via: SocketAddr,
        /// What it calls the way to the other end.
        label: u32,
    },
    /// A pipe through a beacon, by the number that this machine gave it. It carries handshakes and in-session messages,
    /// never packets.
    Circuit(u32),
}

impl Remote {
    /// The address outside, if it is one.
    #[must_use]
    pub fn udp(self) -> Option<SocketAddr> {
        match self {
            Self::Udp(address) => Some(address),
            Self::Relayed { .. } | Self::Circuit(_) => None,
        }
    }

    /// How good a path is, whatever its round trip: direct before a member's help, that before a beacon's.
    #[must_use]
    pub fn rank(self) -> u8 {
        match self {
            Self::Udp(_) => 2,
            Self::Relayed { .. } => 1,
            Self::Circuit(_) => 0,
        }
    }

    /// The host that datagrams from here are counted against: circuits all against one.
    #[must_use]
    pub fn host(self) -> IpAddr {
        match self {
            Self::Udp(address) | Self::Relayed { via: address, .. } => address.ip(),
            Self::Circuit(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        }
    }
}

impl From<SocketAddr> for Remote {
    fn from(address: SocketAddr) -> Self {
        Self::Udp(address)
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => address.fmt(f),
            Self::Relayed { via, label } => write!(f, "{via}#{label:08x}"),
            Self::Circuit(number) => write!(f, "circuit {number:08x}"),
        }
    }
}
