//! The socket itself: bound once, then batches in and out, with errors sorted into those that mean something.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Type};

use super::{Batch, Received, UdpError, sys};

/// *Chosen*: asked of the kernel for what arrives; 4 MiB are 30 ms at 1 Gbit/s, which a burst of 64 full
/// GSO buffers fits in. The kernel silently gives less, down to `net.core.rmem_max`.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// *Chosen*: the same for what leaves, and the kernel takes it twice, for its own structures beside the bytes: 1.3 ms at 1
/// Gbit/s. What is in it waits for a slow line in one queue for all; the pump's own, one for each flow, is behind it.
const SEND_BUFFER_BYTES: usize = 128 << 10;

/// *Chosen*: how many errors left by ICMP are passed over in one call before it says that it would block.
const STALE_ERRORS_MAX: usize = 64;

/// Why one datagram was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is larger than the outgoing device's MTU.
    TooBig,
    /// Anything else: no route, an address of a family that this machine lacks, a local firewall, no memory.
    Unsent(ErrorKind),
}

/// Which addresses the socket takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4 only.
    V4,
    /// Both; IPv4 as `::ffff:a.b.c.d` towards the kernel only.
    Dual,
}

/// The non-blocking data socket.
pub(crate) struct Socket {
    pub(super) socket: socket2::Socket,
    family: Family,
    port: u16,
}

impl Socket {
    /// Binds to `port`, or to one that the kernel chooses for 0, on all addresses.
    ///
    /// Falls back to IPv4 alone where the kernel has no IPv6.
    ///
    /// # Errors
    /// [`UdpError`]; a port that is taken for either family is never shared.
    pub(crate) fn bind(port: u16) -> Result<Self, UdpError> {
        let bound = match bind(Family::Dual, port) {
            Err(error) if is_without_ipv6(&error) => bind(Family::V4, port),
            other => other,
        };
        bound.map_err(|source| match source.kind() {
            ErrorKind::AddrInUse => UdpError::PortTaken(port),
            ErrorKind::PermissionDenied => UdpError::PortForbidden(port),
            _ => UdpError::Io { port, source },
        })
    }

    /// The port it is bound to.
    pub(crate) fn local_port(&self) -> u16 {
        self.port
    }

    /// Receives into `received`, in place of what is in it, until there is none or the turn is full; returns the
    /// number of messages, each one datagram or a run of them.
    ///
    /// Sources are never IPv4-mapped. Datagrams that are empty, or larger than [`super::batch::SLOT_BYTES`] and therefore
    /// none of ours, are counted but not among them. One system call, two when there is more than the last time.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; others only if the socket or the machine's memory is gone.
    pub(crate) fn recv_batch(&self, received: &mut Received) -> io::Result<usize> {
        received.clear();
        let mut stale = 0;
        while !received.is_full() {
            match received.fill(|slots, entries| sys::receive(self.as_fd(), slots, entries)) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if is_passing(&error) || is_of_icmp(&error) => {
                    stale += 1;
                    if stale > STALE_ERRORS_MAX {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if received.messages() == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(received.messages()) }
    }

    /// Sends the datagrams of `batch` in their order and empties it.
    ///
    /// One that cannot be sent is skipped: `refused` is given its destination, its length in bytes and why.
    ///
    /// # Errors
    /// `WouldBlock` only, when the kernel's buffer is full: the unsent rest stays in the batch for the next
    /// call.
    pub(crate) fn send_batch(
        &self,
        batch: &mut Batch,
        mut refused: impl FnMut(SocketAddr, usize, Refusal),
    ) -> io::Result<()> {
        let mut stale = 0;
        while let Some((to, bytes)) = batch.first_unsent() {
            match sys::send(self.as_fd(), self.family, batch.unsent()) {
                Ok(sent) => {
                    batch.learn();
                    batch.advance(sent);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(error),
                Err(error) if is_passing(&error) && stale < STALE_ERRORS_MAX => stale += 1,
                // The run, or each of its datagrams: the next attempts tell.
                Err(error) if may_be_of_run(&error) && batch.split_first() => {}
                Err(error) => {
                    refused(to, bytes, refusal(&error));
                    batch.advance(1);
                }
            }
        }
        batch.clear();
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// One attempt, for the one family or both.
pub(super) fn bind(family: Family, port: u16) -> io::Result<Socket> {
    let (domain, address) = match family {
        Family::V4 => (Domain::IPV4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        Family::Dual => (Domain::IPV6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
    };
    let socket = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if family == Family::Dual {
        socket.set_only_v6(false)?;
    }
    sys::always_set_df(socket.as_fd(), family)?;
    if let Err(error) = sys::receive_runs(socket.as_fd()) {
        tracing::info!(%error, "the kernel hands out no runs of datagrams (UDP GRO); they are received one by one");
    }
    socket.bind(&address.into())?;
    // A smaller buffer loses bursts and nothing else.
    let set = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    if let Err(error) = set.and_then(|()| socket.set_send_buffer_size(SEND_BUFFER_BYTES)) {
        tracing::debug!(%error, "udp buffer keeps its size");
    }
    let port = socket.local_addr()?.as_socket().map_or(port, |address| address.port());
    Ok(Socket { socket, family, port })
}

fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

/// Whether an error says nothing of the datagram at hand: a signal, or a closed port that was met earlier.
fn is_passing(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INTR | Errno::CONNREFUSED))
}

/// Whether an error comes from an ICMP message (Linux `icmp_err_convert`). Sending has some of them for
/// reasons of its own; receiving has not.
fn is_of_icmp(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::NETUNREACH
                | Errno::HOSTUNREACH
                | Errno::HOSTDOWN
                | Errno::NOPROTOOPT
                | Errno::OPNOTSUPP
                | Errno::MSGSIZE
                | Errno::NONET
                | Errno::PROTO
                | Errno::ACCESS
        )
    )
}

/// Whether the kernel says this of a run whose datagrams it may take one by one: no checksum offload on the way out
/// (`EIO`), no such option (`EINVAL`), or too large (either of two).
fn may_be_of_run(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::INVAL | Errno::MSGSIZE | Errno::OPNOTSUPP))
}

fn refusal(error: &io::Error) -> Refusal {
    match Errno::from_io_error(error) {
        Some(Errno::MSGSIZE) => Refusal::TooBig,
        _ => Refusal::Unsent(error.kind()),
    }
}
