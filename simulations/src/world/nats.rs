//! Hosts behind NATs: as whom they send, and who it is that a datagram arrives at.

use std::net::{Ipv4Addr, SocketAddr};

use super::World;
use crate::host::Host;
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

    /// As whom `host` sends to `to`; none if it is lost at its NAT.
    pub(super) fn leaves(&mut self, host: usize, to: SocketAddr) -> Option<SocketAddr> {
        let Host { address, site, .. } = self.hosts[host];
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

    /// Whom a datagram arrives at that `sender` sent, if a host did; none if nobody is there, or a NAT drops it.
    pub(super) fn arrives_at(
        &mut self,
        (from, to): (SocketAddr, SocketAddr),
        sender: Option<usize>,
    ) -> Option<usize> {
        let home = sender.and_then(|sender| self.hosts[sender].site);
        let (site, to) = match self.sites.iter().position(|site| site.is_at(to)) {
            Some(site) => (Some(site), self.sites[site].inward((from, to), self.now)?),
            None => (None, to),
        };
        // An address of an inside leads there only from the same inside.
        let is_near = |host: &Host| host.site == site || (host.site.is_some() && host.site == home);
        self.hosts.iter().position(|host| host.addresses().contains(&to) && host.is_awake() && is_near(host))
    }
}
