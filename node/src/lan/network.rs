//! The networks on which members are announced: devices with an IPv4 address that can multicast.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use crate::loopback::DEVICE_PREFIX;

/// Networks at most (chosen: the kernel allows a socket 20 groups, `igmp_max_memberships`, and a machine with hundreds of
/// devices has them for containers).
const MAX_NETWORKS: usize = 16;

/// One device of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    /// Its index.
    pub index: u32,
    /// Its first address.
    pub address: Ipv4Addr,
}

/// The networks, in the kernel's order: devices that are up and have a carrier, but for loopback and the VPIs' own. Runs on
/// the caller's tokio runtime.
///
/// # Errors
/// What the kernel says.
pub(crate) async fn networks() -> io::Result<Vec<Network>> {
    let (connection, handle, _events) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let links: Vec<_> = handle.link().get().execute().try_collect().await.map_err(io::Error::other)?;
    let found: Vec<_> = handle.address().get().execute().try_collect().await.map_err(io::Error::other)?;
    let network = |link: &LinkMessage| {
        let index = link.header.index;
        let mut here = found.iter().filter(|message| message.header.index == index);
        Some(Network { index, address: here.find_map(address)? })
    };
    Ok(links.iter().filter(|link| is_network(link)).filter_map(network).take(MAX_NETWORKS).collect())
}

fn is_network(link: &LinkMessage) -> bool {
    let flags = link.header.flags;
    let is_own = link
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::IfName(name) if name.starts_with(DEVICE_PREFIX)));
    flags.contains(LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Multicast)
        && !flags.contains(LinkFlags::Loopback)
        && !is_own
}

fn address(message: &AddressMessage) -> Option<Ipv4Addr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) if !address.is_loopback() => Some(*address),
        _ => None,
    })
}
