//! This machine's own addresses, offered to peers as `Host` candidates (RFC 8445 §5.1.1.1).

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::LinkFlags;

/// The addresses at which this machine may be reached from elsewhere: global and private ones of devices
/// that are up and have a carrier, in the kernel's order.
///
/// Not among them: loopback, and with it every alias of a VPI; link-local ones; those that IPv6 has not yet
/// confirmed or no longer prefers. Runs on the caller's tokio runtime.
///
/// # Errors
/// What the kernel says.
pub(crate) async fn interface_addresses() -> io::Result<Vec<IpAddr>> {
    let (connection, handle, _events) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let links: Vec<_> = handle.link().get().execute().try_collect().await.map_err(io::Error::other)?;
    let is_live = |flags: LinkFlags| flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
    let live: BTreeSet<u32> =
        links.iter().filter(|link| is_live(link.header.flags)).map(|link| link.header.index).collect();
    let found: Vec<_> = handle.address().get().execute().try_collect().await.map_err(io::Error::other)?;
    let on_live = found.iter().filter(|message| live.contains(&message.header.index));
    Ok(on_live.filter_map(reachable_address).collect())
}

fn reachable_address(message: &AddressMessage) -> Option<IpAddr> {
    let unsure =
        AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed | AddressHeaderFlags::Deprecated;
    if message.header.scope != AddressScope::Universe || message.header.flags.intersects(unsure) {
        return None;
    }
    // On a point-to-point device `Address` is the other end, and `Local` this one; IPv6 has no `Local` else.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    is_reachable(address).then_some(address)
}

fn is_reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_multicast())
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast())
        }
    }
}
