//! Hosts behind NATs: as whom they send, and who it is that a datagram arrives at.

use std::net::{Ipv4Addr, SocketAddr};

use protocol::engine::{Command, MemberState};
use protocol::path::Remote;

use super::World;
use crate::host::{Host, Input};
use crate::net::nat::{Kind, Site};

impl World {
    /// Hosts that are added from here on stand behind a NAT of this kind, together.
    pub(crate) fn stand_behind(&mut self, kind: Kind) {
        self.site = None;
        if kind != Kind::Public {
            self.site = Some(self.sites.len());
            let outside = Ipv4Addr::new(203, 0, 113, 101 + self.sites.len() as u8);
            self.sites.push(Site::new(kind, outside));
        }
    }

    /// `host` stands behind a NAT of this kind from here on, alone, and knows it.
    pub(crate) fn move_behind(&mut self, host: usize, kind: Kind) {
        self.stand_behind(kind);
        let site = self.site.take();
        let last = host as u8 + 1;
        // The same number of an inside leads to different hosts at different sites.
        let network = site.map_or([198, 51, 100, last], |site| [10, site as u8, 0, last]);
        let address = SocketAddr::from((network, 41_414));
        (self.hosts[host].address, self.hosts[host].site) = (address, site);
        self.known.push((address, host));
        self.trace.line(self.now, format_args!("{host} is at {address}, behind {kind:?}"));
    }

    /// The NAT of `host` forgets its mappings, and nobody is told.
    pub(crate) fn forget_mappings(&mut self, host: usize) {
        if let Some(site) = self.hosts[host].site {
            self.trace.line(self.now, format_args!("the NAT of {host} forgets its mappings"));
            self.sites[site].forget();
        }
    }

    /// The node of `host` learns where it is.
    pub(crate) fn addresses(&mut self, host: usize) -> Result<(), String> {
        let addresses = self.hosts[host].addresses();
        self.give(host, Input::Command(Command::Addresses(addresses)))
    }

    /// Whether packets of one host's go to another at once, as its node says.
    pub(crate) fn is_linked(&self, (host, other): (usize, usize)) -> bool {
        let state = self.hosts[host]
            .node
            .as_ref()
            .and_then(|node| node.engine.member_state(&self.hosts[other].id(), self.instant(host)));
        state == Some(MemberState::Direct)
    }

    /// By which path one host reaches another, as its node says.
    pub(crate) fn path(&self, (host, other): (usize, usize)) -> Option<Remote> {
        let node = self.hosts[host].node.as_ref()?;
        let device = self.hosts[other].id();
        let status = node.engine.status(self.instant(host));
        status.members.into_iter().find(|member| member.device == device)?.remote
    }

    /// Whether a datagram to `to` goes to a NAT, whoever is behind the port.
    pub(super) fn is_at_nat(&self, to: SocketAddr) -> bool {
        self.sites.iter().any(|site| site.is_at(to))
    }

    /// As whom `host` sends to `to` by the socket at `address`; none if it is lost at its NAT.
    pub(super) fn leaves(
        &mut self,
        (host, address): (usize, SocketAddr),
        to: SocketAddr,
    ) -> Option<SocketAddr> {
        let Host { site, .. } = self.hosts[host];
        let Some(site) = site else { return Some(address) };
        if self.hosts.iter().any(|other| other.site == Some(site) && other.address == to) {
            return Some(address);
        }
        let seen = self.sites[site].outward((address, to), self.now, &mut self.chance);
        match seen {
            None => self.trace.line(self.now, format_args!("the NAT of {host} sends nothing")),
            // An address of this host's, as long as its NAT says so.
            Some(seen) if !self.known.contains(&(seen, host)) => {
                self.trace.line(self.now, format_args!("{host} is {seen} to {to}"));
                self.known.push((seen, host));
            }
            Some(_) => {}
        }
        seen
    }

    /// Whom a datagram arrives at that `sender` sent, if a host did, and the far end as it looks from there; none if nobody is
    /// there, or a NAT drops it.
    pub(super) fn arrives_at(
        &mut self,
        (from, to): (SocketAddr, SocketAddr),
        sender: Option<usize>,
    ) -> Option<(usize, Remote)> {
        let home = sender.and_then(|sender| self.hosts[sender].site);
        let (site, to) = match self.sites.iter().position(|site| site.is_at(to)) {
            Some(site) => (Some(site), self.sites[site].inward((from, to), self.now)?),
            None => (None, to),
        };
        // An address of an inside leads there only from the same inside.
        let is_near = |host: &Host| host.site == site || (host.site.is_some() && host.site == home);
        let mut near = self.hosts.iter().enumerate().filter(|(_, host)| host.is_awake() && is_near(host));
        near.find_map(|(number, host)| Some((number, host.heard_at(to, from)?)))
    }
}
