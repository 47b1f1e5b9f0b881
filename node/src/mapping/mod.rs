//! Ports of the gateway that lead to data sockets: asks it for them, and gives them back.
//!
//! In: an engine's wish, which protocol and when included. Out: what came of it. Each asking has sockets of its own, for as long
//! as it takes: they hear the gateway only, and never answer. Of others' code nothing is used: PCP and NAT-PMP are a datagram
//! each way, and the crates for UPnP follow any address that any neighbour names, to pages of any length.
//!
//! ```text
//! pmp.rs    PCP and NAT-PMP, UDP port 5351 of the gateway
//! upnp.rs   its internet gateway device: found by SSDP, port 1900, then spoken to by http.rs
//! ```

mod http;
mod pmp;
#[cfg(test)]
mod tests;
mod upnp;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use protocol::identity::VpiId;
use protocol::path::portmap::{Ask, Gateway, Outcome, Way};
use protocol::wire::portmap::SERVER_PORT;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::{JoinHandle, JoinSet};
use tracing::debug;

use self::upnp::Service;

/// Outcomes that may wait: each VPI has one asking at a time.
const WAITING: usize = 16;

/// What came of an asking, and by which service of UPnP.
type Told = (VpiId, Ask, Outcome, Option<Service>);

/// Everything that is being asked of gateways.
pub(crate) struct Mappings {
    sender: Sender<Told>,
    told: Receiver<Told>,
    running: BTreeMap<VpiId, JoinHandle<()>>,
    /// The service that maps a port for a VPI: it is not looked for again, least of all at the end, which is not to take long.
    services: BTreeMap<VpiId, Service>,
    releases: JoinSet<()>,
}

impl Mappings {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        let (sender, told) = channel(WAITING);
        let (running, services) = (BTreeMap::new(), BTreeMap::new());
        Self { sender, told, running, services, releases: JoinSet::new() }
    }

    /// Begins what an engine wants, in the place of what is under way for it.
    pub(crate) fn ask(&mut self, vpi: VpiId, ask: Ask) {
        if let Some(former) = self.running.remove(&vpi) {
            former.abort();
        }
        while self.releases.try_join_next().is_some() {}
        let known = self.services.remove(&vpi).filter(|service| service.is_of(&ask));
        if ask.is_release() {
            self.releases.spawn(async move {
                carry_out(&ask, known).await;
            });
            return;
        }
        let sender = self.sender.clone();
        self.services.extend(known.clone().map(|service| (vpi, service)));
        let task = tokio::spawn(async move {
            let (outcome, service) = carry_out(&ask, known).await;
            debug!(way = ?ask.way, ?outcome, "the gateway was asked for a port");
            // Nobody listens any more only when the node stops.
            let _ = sender.send((vpi, ask, outcome, service)).await;
        });
        self.running.insert(vpi, task);
    }

    /// Waits for what came of an asking. A call that is given up loses nothing.
    pub(crate) async fn told(&mut self) -> (VpiId, Ask, Outcome) {
        match self.told.recv().await {
            Some((vpi, ask, outcome, service)) => {
                self.services.extend(service.map(|service| (vpi, service)));
                (vpi, ask, outcome)
            }
            None => std::future::pending().await,
        }
    }

    /// Ends all askings, and waits for what is given back, for as long at most.
    pub(crate) async fn close(&mut self, within: Duration) {
        for task in std::mem::take(&mut self.running).into_values() {
            task.abort();
        }
        let all = async { while self.releases.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(within, all).await;
    }
}

/// Asks what is to be asked, of this service if it is known; returns the service that maps.
async fn carry_out(ask: &Ask, known: Option<Service>) -> (Outcome, Option<Service>) {
    match ask.way {
        Way::Pcp => (pmp::pcp(ask).await, None),
        Way::NatPmp => (pmp::nat_pmp(ask).await, None),
        Way::Upnp => upnp::map(ask, known).await,
    }
}

/// The gateway at this address, and the own address towards it; `None` if no way leads there.
pub(crate) fn towards(address: Ipv4Addr) -> Option<Gateway> {
    // Nothing is sent: the kernel only chooses.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((address, SERVER_PORT)).ok()?;
    match socket.local_addr().ok()?.ip() {
        std::net::IpAddr::V4(own) => Some(Gateway { address, own }),
        std::net::IpAddr::V6(_) => None,
    }
}
