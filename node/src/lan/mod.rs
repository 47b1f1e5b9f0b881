//! The LAN socket: veiled announcements to and from the other nodes on this machine's networks (protocol/README §4).
//!
//! In: announcements to 239.255.86.73 port 41413, for whichever VPI they are, and this machine's own to be sent. Out: what
//! was received, a bounded number a second; and one datagram on each network for each own announcement. Nothing is ever
//! answered here. One socket serves all VPIs; it is there while one of them wants it.
//!
//! Announcements leave from this socket and not from a data socket: a port of a VPI's would tell the network apart which
//! announcements are whose, and one more port would have to be kept silent.

mod network;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tracing::debug;

pub(crate) use network::{Network, networks};

/// The group of announcements (specified: protocol/README §4; RFC 2365 §6.1, the local scope).
pub(crate) const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 86, 73);
/// Its port (specified).
pub(crate) const PORT: u16 = 41_413;

/// Datagrams looked at in a second, and at once (chosen: more than a hundred nodes that start together send; each costs a
/// member at most one attempt to open it for each VPI).
const PER_SECOND: f64 = 200.0;
const AT_ONCE: f64 = 100.0;
/// What may wait in the kernel (chosen: about 100 announcements; more is a flood).
const QUEUE_BYTES: usize = 64 << 10;
/// Longer than any announcement: what fills it is none.
const BUFFER_BYTES: usize = 512;

/// The open socket.
pub(crate) struct Lan {
    socket: UdpSocket,
    networks: Vec<Network>,
    budget: f64,
    budget_at: Instant,
    buffer: [u8; BUFFER_BYTES],
}

impl Lan {
    /// Opens the socket, in no group yet. To be called inside a tokio runtime; needs no right.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        // Another node on this machine hears them as well.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.set_multicast_ttl_v4(1)?;
        socket.set_multicast_loop_v4(false)?;
        // Groups that other programs joined are none of ours.
        socket.set_multicast_all_v4(false)?;
        socket.set_recv_buffer_size(QUEUE_BYTES)?;
        // On every address: whoever writes to the port itself is not answered by the kernel either.
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            networks: Vec::new(),
            budget: AT_ONCE,
            budget_at: Instant::now(),
            buffer: [0; BUFFER_BYTES],
        })
    }

    /// Listens and sends on these networks from here on, and on no other.
    pub(crate) fn set_networks(&mut self, networks: Vec<Network>) {
        let socket = SockRef::from(&self.socket);
        for gone in self.networks.iter().filter(|known| networks.iter().all(|kept| kept.index != known.index))
        {
            // It fails where the device itself is gone, and the membership with it.
            let _ = socket.leave_multicast_v4_n(&GROUP, &InterfaceIndexOrAddress::Index(gone.index));
        }
        for network in &networks {
            match socket.join_multicast_v4_n(&GROUP, &InterfaceIndexOrAddress::Index(network.index)) {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    debug!(%error, index = network.index, "announcements on this network are not heard");
                }
                _ => {}
            }
        }
        self.networks = networks;
    }

    /// Sends one announcement on every network.
    pub(crate) fn announce(&self, datagram: &[u8]) {
        let socket = SockRef::from(&self.socket);
        for network in &self.networks {
            let to = SocketAddr::from((GROUP, PORT));
            let sent = socket
                .set_multicast_if_v4(&network.address)
                .and_then(|()| self.socket.try_send_to(datagram, to).map(drop));
            if let Err(error) = sent {
                debug!(%error, index = network.index, "an announcement was not sent");
            }
        }
    }

    /// Waits for a datagram. A call that is given up loses nothing.
    pub(crate) async fn receive(&mut self) -> (SocketAddr, &[u8]) {
        loop {
            if let Some(wait) = self.wait() {
                tokio::time::sleep(wait).await;
            }
            let received = self.socket.recv_from(&mut self.buffer).await;
            self.budget -= 1.0;
            match received {
                Ok((length, from)) => return (from, self.buffer.get(..length).unwrap_or_default()),
                Err(error) => debug!(%error, "the LAN socket cannot be read"),
            }
        }
    }

    /// How long the next datagram has to wait, if it has.
    fn wait(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let earned = now.saturating_duration_since(self.budget_at).as_secs_f64() * PER_SECOND;
        self.budget = (self.budget + earned).min(AT_ONCE);
        self.budget_at = now;
        (self.budget < 1.0).then(|| Duration::from_secs_f64((1.0 - self.budget) / PER_SECOND))
    }
}

#[cfg(test)]
mod tests;
