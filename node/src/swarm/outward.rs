//! TCP that only dials; or another kind of connection that the owner brings, under the same rules.
//!
//! It refuses to listen, whoever asks. It refuses addresses inside this machine or its network unless one of the given
//! beacons is inside, too: otherwise a beacon that lies could have every member knock on doors in its own home.
//!
//! Where a beacon dies without a word, the kernel notices: probes on a silent connection, and an end to what is sent and
//! not acknowledged. libp2p's ping comes too seldom for that, and its first failure is silent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::core::transport::Boxed;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p::core::{Transport, transport::upgrade};
use libp2p::futures::{AsyncRead, AsyncWrite};
use libp2p::tcp::tokio::TcpStream;
use libp2p::tcp::{self, Config};
use socket2::{SockRef, TcpKeepalive};
use tracing::debug;

use super::address::is_public;
use crate::beacon::protocol::socket_of;

/// When a silent connection is probed (chosen: half the interval of pings, so that a dead beacon is noticed within 195 s for
/// about 2.5 kB an hour, and below the 350 s after which some NATs forget).
const KEEPALIVE_AFTER: Duration = Duration::from_secs(150);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEPALIVE_TRIES: u32 = 3;
/// What is sent and not acknowledged for this long ends the connection (chosen: the lookup is over by then; a Wi-Fi that
/// roams is not).
const UNACKNOWLEDGED_FOR: Duration = Duration::from_secs(30);

/// What the kernel holds that is not sent yet (chosen: what a beacon carries waits in a line of its own, which is short, and not
/// in the kernel's buffer, which is not).
const UNSENT_BYTES: u32 = 32 << 10;

/// Whether addresses inside may be dialled; shared with whoever knows the beacons.
#[derive(Clone, Debug, Default)]
pub(super) struct Inside(Arc<AtomicBool>);

impl Inside {
    pub(super) fn allow(&self, is_allowed: bool) {
        self.0.store(is_allowed, Ordering::Relaxed);
    }

    /// Whether this address may be dialled: TCP to a bare IP address, outside or allowed.
    pub(super) fn lets(&self, address: &Multiaddr) -> bool {
        socket_of(address).is_some_and(|socket| is_public(socket.ip()) || self.0.load(Ordering::Relaxed))
    }
}

/// A connection before anything is agreed on.
pub trait Pipe: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Pipe for T {}

/// What makes connections, before they are secured.
pub type Connections = Boxed<Box<dyn Pipe>>;

/// Where connections come from and whereto they may lead; the same for every peer id.
#[derive(Clone)]
pub(super) struct Ways {
    make: Arc<dyn Fn() -> Connections + Send + Sync>,
    pub(super) inside: Inside,
}

impl Ways {
    /// Ways over what `make` makes, a swarm each.
    pub(super) fn new(make: impl Fn() -> Connections + Send + Sync + 'static) -> Self {
        Self { make: Arc::new(make), inside: Inside::default() }
    }
}

/// TCP whose connections are watched by the kernel.
pub(super) fn tcp() -> Connections {
    let tcp = tcp::tokio::Transport::new(Config::default().nodelay(true));
    let watched = tcp.map(|stream, _| {
        if let Err(error) = watch(&stream) {
            debug!(%error, "a connection to a beacon is not watched by the kernel");
        }
        Box::new(stream) as Box<dyn Pipe>
    });
    watched.boxed()
}

/// The transport.
pub(super) struct Outward {
    raw: Connections,
    inside: Inside,
}

impl Outward {
    /// A transport ready to be secured.
    pub(super) fn build(ways: &Ways) -> upgrade::Builder<Self> {
        let outward = Self { raw: (ways.make)(), inside: ways.inside.clone() };
        outward.upgrade(libp2p::core::upgrade::Version::V1Lazy)
    }
}

/// Has the kernel end the connection when the other side is gone.
fn watch(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(&stream.0);
    let probes = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TRIES);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_FOR))
}

impl Transport for Outward {
    type Output = Box<dyn Pipe>;
    type Error = io::Error;
    type ListenerUpgrade = <Connections as Transport>::ListenerUpgrade;
    type Dial = <Connections as Transport>::Dial;

    fn listen_on(&mut self, _: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        Err(TransportError::MultiaddrNotSupported(address))
    }

    fn remove_listener(&mut self, _: ListenerId) -> bool {
        false
    }

    fn dial(&mut self, address: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        if socket_of(&address).is_some() && !self.inside.lets(&address) {
            return Err(TransportError::Other(io::ErrorKind::PermissionDenied.into()));
        }
        self.raw.dial(address, DialOpts { port_use: PortUse::New, ..opts })
    }

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.get_mut().raw).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::core::Endpoint;

    use super::*;

    #[test]
    fn nothing_can_be_made_to_listen() {
        let mut transport = Outward { raw: tcp(), inside: Inside::default() };
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
        let refused = transport.listen_on(ListenerId::next(), address.clone());
        assert!(matches!(refused, Err(TransportError::MultiaddrNotSupported(refused)) if refused == address));
    }

    #[test]
    fn an_address_inside_is_dialled_only_where_a_beacon_is_inside() {
        let inside = Inside::default();
        let mut transport = Outward { raw: tcp(), inside: inside.clone() };
        let address: Multiaddr = "/ip4/192.168.1.1/tcp/22".parse().unwrap();
        let opts = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
        assert!(matches!(transport.dial(address.clone(), opts), Err(TransportError::Other(_))));
        inside.allow(true);
        assert!(transport.dial(address, opts).is_ok());
    }
}
