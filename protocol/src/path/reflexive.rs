//! Where others see this machine's datagrams come from: what servers say, and what members do.
//!
//! In: a wish to know, datagrams, the addresses in members' echoes. Out: requests, addresses that are worth telling, the
//! class of the NAT. A server or a member may lie: what they say is told to members as worth a check, no more.

use std::net::SocketAddr;
use std::time::Instant;

use super::nat::Nat;
use super::stun::{Sighting, Stun};
use crate::random::Rng;

/// Members whose word is kept, the newest.
const MAX_MEMBERS: usize = 8;
/// Addresses told (chosen: one a family and NAT, and one more).
const MAX_TOLD: usize = 3;

/// What others see.
#[derive(Debug, Default)]
pub struct Reflexive {
    stun: Stun,
    /// What the servers said that were asked last, or are being asked.
    seen: Vec<Sighting>,
    /// What members said, by their links. Their order stays, so that it does not look as if something changed.
    by_members: Vec<(u32, SocketAddr)>,
    /// What is told to all, the former kept where a NAT shows others only another port.
    lasting: Vec<SocketAddr>,
    nat: Option<Nat>,
    asked_at: Option<Instant>,
}

impl Reflexive {
    /// Asks these servers from here on. Returns whether they are others than before.
    pub fn set_servers(&mut self, servers: impl IntoIterator<Item = SocketAddr>) -> bool {
        self.stun.set_servers(servers)
    }

    /// Asks the servers, unless they are being asked.
    pub fn ask(&mut self, rng: &mut Rng, now: Instant) {
        if self.stun.ask(rng, now) {
            self.asked_at = Some(now);
            self.seen.clear();
        }
    }

    /// When the servers were asked last.
    #[must_use]
    pub fn asked_at(&self) -> Option<Instant> {
        self.asked_at
    }

    /// Says whether a response may come.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.stun.is_open()
    }

    /// The next request that is due, and whom to ask.
    pub fn poll(&mut self, rng: &mut Rng, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        self.stun.poll(rng, now)
    }

    /// When [`Reflexive::poll`] is to be asked again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.stun.poll_timeout()
    }

    /// Takes in a datagram that may answer a request; `hosts` are the addresses of this machine. Returns whether it does.
    pub fn on_datagram(&mut self, from: SocketAddr, datagram: &[u8], hosts: &[SocketAddr]) -> bool {
        let Some(sighting) = self.stun.on_datagram(from, datagram) else { return false };
        self.seen.push(sighting);
        self.nat = Nat::judge(&self.seen, hosts).or(self.nat);
        true
    }

    /// Takes in where a member, known by its link, saw a datagram come from. Returns whether that is news.
    pub fn on_member(&mut self, link: u32, observed: SocketAddr) -> bool {
        match self.by_members.iter_mut().find(|(known, _)| *known == link) {
            Some((_, former)) => std::mem::replace(former, observed) != observed,
            None => {
                self.by_members.push((link, observed));
                let gone = self.by_members.len().saturating_sub(MAX_MEMBERS);
                self.by_members.drain(..gone);
                true
            }
        }
    }

    /// Forgets everything but the servers: this machine is elsewhere.
    pub fn forget(&mut self) {
        self.stun.forget();
        self.seen.clear();
        self.by_members.clear();
        self.lasting.clear();
        self.nat = None;
    }

    /// The NAT, as far as is known.
    #[must_use]
    pub fn nat(&self) -> Option<Nat> {
        self.nat
    }

    /// Addresses to tell one member, the surest first; none of `hosts`.
    #[must_use]
    pub fn told(&self, hosts: &[SocketAddr]) -> Vec<SocketAddr> {
        let by_members = self.by_members.iter().map(|(_, observed)| *observed);
        distinct(self.by_servers().chain(by_members), hosts)
    }

    /// Addresses to tell everybody: what a server saw, or two members. While the NAT shows each of them another port, the
    /// former ones stay: none of them is right for others.
    pub fn lasting(&mut self, hosts: &[SocketAddr]) -> &[SocketAddr] {
        let is_shared = |(link, observed): &&(u32, SocketAddr)| {
            self.by_members.iter().any(|(other, same)| other != link && same == observed)
        };
        let by_members = self.by_members.iter().filter(is_shared).map(|(_, observed)| *observed);
        let mut told = distinct(self.by_servers().chain(by_members), hosts);
        let is_dependent = self.nat.is_some_and(|nat| !nat.is_endpoint_independent());
        if is_dependent {
            told.truncate(1);
        }
        let is_former = |told: &SocketAddr| self.lasting.iter().any(|former| former.ip() == told.ip());
        let is_kept = told.is_empty() || is_dependent && told.iter().all(is_former);
        if !is_kept {
            self.lasting = told;
        }
        &self.lasting
    }

    fn by_servers(&self) -> impl Iterator<Item = SocketAddr> {
        self.seen.iter().map(|sighting| sighting.observed)
    }
}

/// The first few, each once, without those that are known anyway.
fn distinct(all: impl Iterator<Item = SocketAddr>, hosts: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut told: Vec<SocketAddr> = Vec::new();
    for address in all.filter(|address| super::is_candidate(address) && !hosts.contains(address)) {
        if told.len() < MAX_TOLD && !told.contains(&address) {
            told.push(address);
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;
    use crate::wire::stun;

    fn outside(port: u16) -> SocketAddr {
        SocketAddr::from(([198, 51, 100, 7], port))
    }

    fn host() -> SocketAddr {
        "192.168.1.5:41414".parse().unwrap()
    }

    /// Asks three servers, which see the ports.
    fn ask(reflexive: &mut Reflexive, ports: [u16; 3]) {
        let (mut rng, now) = (Rng::from_seed([1; 32]), Instant::now());
        reflexive.set_servers((1..4).map(|n| SocketAddr::from(([192, 0, 2, n], 3478))));
        reflexive.ask(&mut rng, now);
        for port in ports {
            let (server, request) = reflexive.poll(&mut rng, now).unwrap();
            let response = stun::response(&stun::read_request(&request).unwrap(), outside(port));
            assert!(reflexive.on_datagram(server, &response, &[host()]));
        }
        assert!(!reflexive.is_open());
    }

    #[test]
    fn what_servers_see_is_told_to_all() {
        let mut reflexive = Reflexive::default();
        ask(&mut reflexive, [50_001; 3]);
        assert_eq!(reflexive.told(&[host()]), [outside(50_001)]);
        assert_eq!(reflexive.lasting(&[host()]), [outside(50_001)]);
        ask(&mut reflexive, [50_002; 3]);
        assert_eq!(reflexive.lasting(&[host()]), [outside(50_002)], "another mapping");
        reflexive.forget();
        assert!(reflexive.told(&[]).is_empty() && reflexive.lasting(&[]).is_empty());
    }

    #[test]
    fn a_nat_that_shows_each_another_port_does_not_make_a_presence_after_each_asking() {
        let mut reflexive = Reflexive::default();
        ask(&mut reflexive, [20_000, 31_317, 27_511]);
        assert_eq!(reflexive.lasting(&[host()]), [outside(20_000)]);
        ask(&mut reflexive, [40_000, 51_317, 47_511]);
        assert_eq!(reflexive.lasting(&[host()]), [outside(20_000)]);
        assert_eq!(reflexive.told(&[host()]).first(), Some(&outside(40_000)));
    }

    #[test]
    fn one_members_word_is_for_members_with_a_link_and_twos_for_all() {
        let mut reflexive = Reflexive::default();
        assert!(reflexive.on_member(1, outside(5)) && !reflexive.on_member(1, outside(5)));
        assert!(reflexive.on_member(1, host()));
        assert!(reflexive.told(&[host()]).is_empty());
        assert!(reflexive.on_member(1, outside(6)));
        assert_eq!(reflexive.told(&[host()]), [outside(6)]);
        assert!(reflexive.lasting(&[host()]).is_empty());
        reflexive.on_member(2, outside(6));
        assert_eq!(reflexive.lasting(&[host()]), [outside(6)]);
        for link in 0..100 {
            reflexive.on_member(link, outside(link as u16 + 1));
        }
        assert_eq!((reflexive.by_members.len(), reflexive.told(&[]).len()), (MAX_MEMBERS, MAX_TOLD));
    }
}
