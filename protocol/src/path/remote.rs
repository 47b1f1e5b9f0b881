//! The far end of a path: an address outside, or what a member or a beacon passes datagrams on under.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where a datagram goes, or came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remote {
    /// A socket, straight over the own one.
    Udp(SocketAddr),
    /// A socket, over another of this machine's than the own one: one that was opened for the moment, or by which the other
    /// end was found.
    Side {
        /// The other end's.
        address: SocketAddr,
        /// This end's, by the number that the engine gave it.
        socket: u32,
    },
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
    /// A stream through a beacon that carries, by the number that this machine gave it: everything goes over it (README §20).
    Carried(u32),
}

impl Remote {
    /// The address outside, if it is one.
    #[must_use]
    pub fn udp(self) -> Option<SocketAddr> {
        match self {
            Self::Udp(address) | Self::Side { address, .. } => Some(address),
            Self::Relayed { .. } | Self::Circuit(_) | Self::Carried(_) => None,
        }
    }

    /// The number of the socket of this machine's, if it is not the own one.
    #[must_use]
    pub fn side(self) -> Option<u32> {
        match self {
            Self::Side { socket, .. } => Some(socket),
            Self::Udp(_) | Self::Relayed { .. } | Self::Circuit(_) | Self::Carried(_) => None,
        }
    }

    /// Says whether nobody stands between.
    #[must_use]
    pub fn is_direct(self) -> bool {
        self.udp().is_some()
    }

    /// How good a path is, whatever its round trip: direct before a member's help, that before a beacon's; and of a beacon's
    /// what carries packets first.
    #[must_use]
    pub fn rank(self) -> u8 {
        match self {
            Self::Udp(_) | Self::Side { .. } => 3,
            Self::Relayed { .. } => 2,
            Self::Carried(_) => 1,
            Self::Circuit(_) => 0,
        }
    }

    /// The host that datagrams from here are counted against: what comes by way of beacons all against one.
    #[must_use]
    pub fn host(self) -> IpAddr {
        match self {
            Self::Udp(address) | Self::Side { address, .. } | Self::Relayed { via: address, .. } => {
                address.ip()
            }
            Self::Circuit(_) | Self::Carried(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
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
            Self::Side { address, socket } => write!(f, "{address} by socket {socket}"),
            Self::Relayed { via, label } => write!(f, "{via}#{label:08x}"),
            Self::Circuit(number) => write!(f, "circuit {number:08x}"),
            Self::Carried(number) => write!(f, "stream {number:08x}"),
        }
    }
}
