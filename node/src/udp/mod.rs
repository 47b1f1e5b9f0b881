//! The data socket: datagrams from and to other nodes.
//!
//! One UDP socket a VPI, for IPv4 and IPv6 at once, bound for the life of the process. In: batches of
//! datagrams with their sources (`recvmmsg`, `UDP_GRO`); out: batches with their destinations (`sendmmsg`,
//! `UDP_SEGMENT`), each tried at run time. The don't-
//! fragment bit is always set and the kernel's own idea of a path's MTU ignored (`IP_PMTUDISC_PROBE`), as
//! RFC 8899 §4.1 asks: sizes are found by our probes. ICMP errors never surface: anybody can forge them.

use std::io;

use thiserror::Error;

mod addresses;
mod batch;
mod received;
mod socket;
mod sys;
#[cfg(test)]
mod tests;
mod wake;
mod watch;

pub(crate) use addresses::interface_addresses;
pub(crate) use batch::Batch;
#[cfg(test)]
use batch::{BATCH_MAX, SLOT_BYTES};
pub(crate) use received::Received;
#[cfg(test)]
use socket::Refusal;
pub(crate) use socket::Socket;
pub(crate) use wake::WakeWatch;
pub(crate) use watch::AddressWatch;

/// Why the socket could not be opened.
#[derive(Debug, Error)]
pub(crate) enum UdpError {
    /// Another socket has the port, for IPv4, IPv6 or both.
    #[error("udp port {0} is in use: choose another with --port, or stop what uses it")]
    PortTaken(u16),
    /// The port is below `net.ipv4.ip_unprivileged_port_start`.
    #[error("udp port {0} needs root: choose one from 1024 on with --port")]
    PortForbidden(u16),
    /// Anything else the kernel says.
    #[error("udp port {port}: {source}")]
    Io {
        /// The port asked for, 0 for any.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
}
