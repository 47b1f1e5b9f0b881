//! An internet inside this process: libp2p's memory transport under addresses of IP.
//!
//! ```text
//! /ip4/11.0.7.1/tcp/41415 ◄─► /memory/N, N = address and port         first 6 bytes of a connection: who dials, and its port
//! ```
//!
//! Every host has an address in a network of its own, so that what beacons bound by network is bounded as on the internet.
//! Every byte takes [`Net::delay`] one way, a connection one round trip before the first. Where nobody listens nobody answers:
//! a dial hangs until the dialler has enough, as with a host that is switched off. Bytes are those that TCP would carry.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::core::Transport;
use libp2p::core::transport::memory::{Channel, MemoryTransport};
use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::futures::future::{BoxFuture, Ready, pending, ready as at_once};
use libp2p::futures::stream::FuturesUnordered;
use libp2p::futures::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, FutureExt as _, StreamExt as _,
};
use libp2p::multiaddr::Protocol;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use vpi::benchmark::{Connections, Pipe};

/// The first port that a host dials from.
const FIRST_PORT: u16 = 32_768;
/// What is read from a channel at once.
const CHUNK_BYTES: usize = 2 << 10;

/// The way between all hosts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Net {
    /// One way.
    pub(crate) delay: Duration,
}

/// One host: its address, and what has gone over its wire.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    net: Net,
    ip: Ipv4Addr,
    port: Arc<AtomicU16>,
    bytes: Arc<AtomicU64>,
}

impl Net {
    /// The host at `ip`.
    pub(crate) fn host(self, ip: Ipv4Addr) -> Host {
        Host { net: self, ip, port: Arc::new(AtomicU16::new(FIRST_PORT)), bytes: Arc::default() }
    }
}

impl Host {
    /// What connects and listens there.
    pub(crate) fn connections(&self) -> Connections {
        let (memory, arriving) = (MemoryTransport::new(), FuturesUnordered::new());
        Wire { host: self.clone(), memory, listeners: Vec::new(), arriving }.boxed()
    }

    /// Bytes in and out so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn stream(&self, channel: Channel<Vec<u8>>) -> Box<dyn Pipe> {
        let (delay, bytes) = (self.net.delay, Arc::clone(&self.bytes));
        Box::new(Delayed { channel, delay, bytes, under_way: VecDeque::new(), is_over: false, wait: None })
    }
}

type Arrival = Option<(ListenerId, Multiaddr, SocketAddrV4, Channel<Vec<u8>>)>;

/// The transport of one host.
struct Wire {
    host: Host,
    memory: MemoryTransport,
    listeners: Vec<ListenerId>,
    /// Connections that have not yet said from where they are.
    arriving: FuturesUnordered<BoxFuture<'static, Arrival>>,
}

impl Transport for Wire {
    type Output = Box<dyn Pipe>;
    type Error = io::Error;
    type ListenerUpgrade = Ready<io::Result<Self::Output>>;
    type Dial = BoxFuture<'static, io::Result<Self::Output>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        let Some(place) = memory_of(&address) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let listen = self.memory.listen_on(id, place);
        listen.map_err(|error| TransportError::Other(io::Error::other(error)))?;
        self.listeners.push(id);
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.memory.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let Some(place) = memory_of(&address) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let Ok(dial) = self.memory.dial(place, opts) else { return Ok(pending().boxed()) };
        let host = self.host.clone();
        let port = host.port.fetch_add(1, Ordering::Relaxed);
        let from = [&host.ip.octets()[..], &port.to_be_bytes()].concat();
        let connect = async move {
            sleep(host.net.delay * 2).await;
            let Ok(mut channel) = dial.await else { return pending().await };
            channel.write_all(&from).await?;
            channel.flush().await?;
            Ok(host.stream(channel))
        };
        Ok(connect.boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        loop {
            if let Poll::Ready(Some(arrival)) = self.arriving.poll_next_unpin(cx) {
                let Some((listener_id, local_addr, from, channel)) = arrival else { continue };
                let upgrade = at_once(Ok(self.host.stream(channel)));
                let send_back_addr = address_of(from);
                return Poll::Ready(TransportEvent::Incoming {
                    listener_id,
                    upgrade,
                    local_addr,
                    send_back_addr,
                });
            }
            return Poll::Ready(match ready!(Pin::new(&mut self.memory).poll(cx)) {
                TransportEvent::Incoming { listener_id, upgrade, local_addr, .. } => {
                    let arrive = async move {
                        let mut channel = upgrade.await.ok()?;
                        let mut from = [0; 6];
                        channel.read_exact(&mut from).await.ok()?;
                        let [a, b, c, d, high, low] = from;
                        let from =
                            SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]));
                        Some((listener_id, ip_of(&local_addr)?, from, channel))
                    };
                    self.arriving.push(arrive.boxed());
                    continue;
                }
                TransportEvent::NewAddress { listener_id, listen_addr } => {
                    let Some(listen_addr) = ip_of(&listen_addr) else { continue };
                    TransportEvent::NewAddress { listener_id, listen_addr }
                }
                TransportEvent::AddressExpired { .. } => continue,
                TransportEvent::ListenerClosed { listener_id, reason } => {
                    TransportEvent::ListenerClosed { listener_id, reason: reason.map_err(io::Error::other) }
                }
                TransportEvent::ListenerError { listener_id, error } => {
                    TransportEvent::ListenerError { listener_id, error: io::Error::other(error) }
                }
            });
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // By itself a listener leaves its address taken.
        for id in self.listeners.drain(..) {
            self.memory.remove_listener(id);
        }
    }
}

fn address_of(at: SocketAddrV4) -> Multiaddr {
    Multiaddr::from(*at.ip()).with(Protocol::Tcp(at.port()))
}

/// The multiaddress of a beacon.
pub(crate) fn address(at: SocketAddr) -> Multiaddr {
    Multiaddr::from(at.ip()).with(Protocol::Tcp(at.port()))
}

/// Where an address of IP and TCP is in memory; `None` for any other, such as a circuit.
fn memory_of(address: &Multiaddr) -> Option<Multiaddr> {
    let mut parts = address.iter();
    let (Protocol::Ip4(ip), Protocol::Tcp(port)) = (parts.next()?, parts.next()?) else { return None };
    let is_whole = matches!((parts.next(), parts.next()), (None | Some(Protocol::P2p(_)), None));
    let number = u64::from(u32::from(ip)) << 16 | u64::from(port);
    is_whole.then(|| Protocol::Memory(number).into())
}

fn ip_of(memory: &Multiaddr) -> Option<Multiaddr> {
    let Some(Protocol::Memory(number)) = memory.iter().next() else { return None };
    let ip = IpAddr::from(Ipv4Addr::from(u32::try_from(number >> 16).ok()?));
    Some(address(SocketAddr::new(ip, (number & 0xffff) as u16)))
}

/// One end of a connection, where what comes in is held back for a while.
struct Delayed {
    channel: Channel<Vec<u8>>,
    delay: Duration,
    bytes: Arc<AtomicU64>,
    under_way: VecDeque<(Instant, Vec<u8>)>,
    is_over: bool,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Delayed {
    fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl AsyncRead for Delayed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
        while !self.is_over {
            let mut chunk = [0; CHUNK_BYTES];
            match Pin::new(&mut self.channel).poll_read(cx, &mut chunk) {
                // The other end is gone, without a word or with one: what it sent before arrives.
                Poll::Ready(Ok(0) | Err(_)) => self.is_over = true,
                Poll::Ready(Ok(length)) => {
                    self.count(length);
                    let due_at = Instant::now() + self.delay;
                    let chunk = chunk.iter().take(length).copied().collect();
                    self.under_way.push_back((due_at, chunk));
                }
                Poll::Pending => break,
            }
        }
        let Some((due_at, _)) = self.under_way.front() else {
            return if self.is_over { Poll::Ready(Ok(0)) } else { Poll::Pending };
        };
        let due_at = *due_at;
        if due_at > Instant::now() {
            match &mut self.wait {
                Some(wait) if wait.deadline() != due_at => wait.as_mut().reset(due_at),
                Some(_) => {}
                none => *none = Some(Box::pin(sleep_until(due_at))),
            }
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
            }
        }
        let Some((_, chunk)) = self.under_way.front_mut() else { return Poll::Ready(Ok(0)) };
        let length = chunk.len().min(to.len());
        for (to, from) in to.iter_mut().zip(chunk.drain(..length)) {
            *to = from;
        }
        if chunk.is_empty() {
            self.under_way.pop_front();
        }
        Poll::Ready(Ok(length))
    }
}

impl AsyncWrite for Delayed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let length = ready!(Pin::new(&mut self.channel).poll_write(cx, from))?;
        self.count(length);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.channel).poll_close(cx)
    }
}
