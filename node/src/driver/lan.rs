//! This machine's networks: addresses for the engines, announcements out and in.

use std::net::{IpAddr, SocketAddr};

use protocol::drop::DropReason;
use protocol::engine::Command;
use protocol::relay::consent::Consent;
use tracing::{debug, warn};

use super::node::Node;
use super::time;
use super::vpi::Vpi;
use crate::lan::{Lan, networks};
use crate::mapping;

impl Node {
    /// Tells every engine where this machine is, and listens on the networks that it is on: at the start, when the
    /// addresses changed, and when there is another number of VPIs.
    pub(super) async fn on_networks(&mut self) {
        let (time, addresses) = (time(), self.watch.addresses());
        let is_wanted = self.options.settings.lan;
        let may_map = self.options.settings.port_mapping;
        let gateway = self.watch.gateway().filter(|_| may_map).and_then(mapping::towards);
        self.placed = self.vpis.len();
        for vpi in self.vpis.values_mut() {
            vpi.engine.handle_command(Command::Announce(is_wanted), time);
            let consent = match self.options.settings.relay {
                None => Consent::Auto,
                Some(true) => Consent::Yes,
                Some(false) => Consent::No,
            };
            vpi.engine.handle_command(Command::Relay(consent), time);
            let own = own_addresses(vpi, &addresses);
            // Before the addresses: with them nothing is told that a former gateway maps.
            vpi.engine.handle_command(Command::Gateway(gateway, vpi.settings.port), time);
            vpi.place(&self.options.settings, own, time);
        }
        self.on_beside();
        if !is_wanted || self.vpis.is_empty() {
            self.lan = None;
            return;
        }
        if self.lan.is_none() {
            match Lan::open() {
                Ok(lan) => self.lan = Some(lan),
                Err(error) => warn!(%error, "members on the same network are not announced to or heard"),
            }
        }
        match (networks().await, &mut self.lan) {
            (Ok(networks), Some(lan)) => lan.set_networks(networks),
            (Err(error), _) => debug!(%error, "the kernel does not tell this machine's networks"),
            (Ok(_), None) => {}
        }
    }

    /// Hands an announcement to the engines: only the one whose secret it is sealed under can open it.
    pub(super) fn on_announcement(&mut self, from: SocketAddr, datagram: &[u8]) {
        let time = time();
        for vpi in self.vpis.values_mut() {
            match vpi.engine.handle_announcement(from, datagram, time) {
                Ok(()) => return,
                // Of another VPI of this node's, or of none; two epochs may have one tag.
                Err(DropReason::UnknownEpoch | DropReason::VeilForged) => {}
                Err(reason) => {
                    vpi.drops.count(reason);
                    return;
                }
            }
        }
        if let Some(vpi) = self.vpis.values().next() {
            vpi.drops.count(DropReason::UnknownEpoch);
        }
    }

    /// Sends an announcement of this device's on all networks.
    pub(super) fn announce(&self, datagram: &[u8]) {
        if let Some(lan) = &self.lan {
            lan.announce(datagram);
        }
    }
}

/// Waits for an announcement; without a socket, for ever.
pub(super) async fn heard(lan: &mut Option<Lan>) -> (SocketAddr, Vec<u8>) {
    match lan {
        Some(lan) => {
            let (from, datagram) = lan.receive().await;
            (from, datagram.to_vec())
        }
        None => std::future::pending().await,
    }
}

/// Where this VPI's data socket is reached: as its owner said, then as this machine's devices say, IPv4 first.
fn own_addresses(vpi: &Vpi, addresses: &[IpAddr]) -> Vec<SocketAddr> {
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|address| address.is_ipv4());
    let found = v4.into_iter().chain(v6).map(|address| SocketAddr::new(address, vpi.settings.port));
    vpi.settings.endpoints.iter().copied().chain(found).collect()
}
