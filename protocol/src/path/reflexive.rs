//! Where others see this machine's datagrams come from: what servers say, and what members do.
//!
//! In: a wish to know, datagrams, the addresses in members' echoes. Out: requests, addresses that are worth telling, the
//! class of the NAT. A server or a member may lie: what they say is told to members as worth a check, no more.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::Remote;
use super::nat::{Mapping, Nat};
use super::stun::{Sighting, Stun};
use crate::random::Rng;
use crate::wire::address::is_public;

/// Members whose word is kept, the newest.
const MAX_MEMBERS: usize = 8;
/// What members saw says something of the NAT for as long (chosen: the shortest life of a mapping that is not used).
const MEMBERS_WORD_FOR: Duration = Duration::from_secs(30);
/// Addresses told (chosen: one a family and NAT, and one more).
const MAX_TOLD: usize = 3;

/// What a member saw.
#[derive(Clone, Copy, Debug)]
struct Word {
    /// The member's link.
    link: u32,
    observed: SocketAddr,
    /// Where the member was, if nobody stood between.
    member: Option<SocketAddr>,
    at: Instant,
}

/// What others see.
#[derive(Debug, Default)]
pub struct Reflexive {
    stun: Stun,
    /// What the servers said that were asked last, or are being asked.
    seen: Vec<Sighting>,
    /// When the newest of it came.
    seen_at: Option<Instant>,
    /// What members said. Their order stays, so that it does not look as if something changed.
    by_members: Vec<Word>,
    /// What is told to all, the former kept where a NAT shows others only another port.
    lasting: Vec<SocketAddr>,
    nat: Option<Nat>,
    asked_at: Option<Instant>,
    /// A socket that had sent nothing has asked where this machine is.
    was_fresh: bool,
    /// Whom, in the order of asking.
    asked: Vec<SocketAddr>,
    /// The addresses of IPv4 where servers saw this machine at the last asking that is over and was answered.
    seen_under: Vec<IpAddr>,
}

impl Reflexive {
    /// Asks these servers from here on. Returns whether they are others than before.
    pub fn set_servers(&mut self, servers: impl IntoIterator<Item = SocketAddr>) -> bool {
        self.stun.set_servers(servers)
    }

    /// Asks the servers from the own socket or another, unless they are being asked. Returns whether it does.
    pub fn ask(&mut self, side: Option<u32>, rng: &mut Rng, now: Instant) -> bool {
        let is_asked = self.stun.ask(side, rng, now);
        if is_asked {
            self.asked_at = Some(now);
            self.was_fresh |= side.is_some();
            self.asked = self.stun.asked().collect();
            self.seen.clear();
        }
        is_asked
    }

    /// Says whether only a socket that has sent nothing yet shows which port the NAT gives out next.
    #[must_use]
    pub fn wants_side(&self) -> bool {
        self.nat.is_some_and(|nat| nat.step().is_some())
    }

    /// Says whether a socket that has sent nothing yet is to be asked about the NAT once: mappings of the own one may be from
    /// before, another process's for instance, and then their ports do not follow the order of asking.
    #[must_use]
    pub fn wants_second_look(&self) -> bool {
        let is_unordered = |nat: Nat| nat.mapping == Mapping::AddressAndPortDependent { step: None };
        !self.was_fresh && self.nat.is_some_and(is_unordered)
    }

    /// When a server last said something.
    #[must_use]
    pub fn seen_at(&self) -> Option<Instant> {
        self.seen_at
    }

    /// When the servers were asked last.
    #[must_use]
    pub fn asked_at(&self) -> Option<Instant> {
        self.asked_at
    }

    /// Whom was asked last, from 0 to 3 servers.
    #[must_use]
    pub fn asked(&self) -> &[SocketAddr] {
        &self.asked
    }

    /// What those said who were asked last.
    #[must_use]
    pub fn seen(&self) -> &[Sighting] {
        &self.seen
    }

    /// Waits for no response any more; what came stays.
    pub fn give_up(&mut self) {
        self.stun.forget();
        self.conclude();
    }

    /// Says whether servers see this machine, and none of them at `ip`, an address of IPv4. What a single one says beside others
    /// changes nothing, nor does an asking that is under way.
    #[must_use]
    pub fn is_seen_elsewhere(&self, ip: IpAddr) -> bool {
        !self.seen_under.is_empty() && !self.seen_under.contains(&ip)
    }

    fn conclude(&mut self) {
        let public = self.seen.iter().map(|sighting| sighting.observed.ip().to_canonical());
        let public: Vec<IpAddr> = public.filter(|ip| is_public(*ip)).collect();
        if !self.stun.is_open() && !public.is_empty() {
            self.seen_under = public;
        }
    }

    /// Says whether a response may come.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.stun.is_open()
    }

    /// The next request that is due, and whom to ask.
    pub fn poll(&mut self, rng: &mut Rng, now: Instant) -> Option<(Remote, Vec<u8>)> {
        let request = self.stun.poll(rng, now);
        self.conclude();
        request
    }

    /// When [`Reflexive::poll`] is to be asked again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.stun.poll_timeout()
    }

    /// Takes in a datagram that may answer a request; `hosts` are the addresses of this machine. Returns whether it does.
    pub fn on_datagram(&mut self, from: Remote, datagram: &[u8], hosts: &[SocketAddr], now: Instant) -> bool {
        let Some(sighting) = self.stun.on_datagram(from, datagram) else { return false };
        self.seen.push(sighting);
        self.seen_at = Some(now);
        self.judge(hosts, now);
        self.conclude();
        true
    }

    /// Takes in where a member, known by its link and heard straight at `from` or not, saw a datagram come from. Returns
    /// whether that is news.
    pub fn on_member(
        &mut self,
        (link, from): (u32, Remote),
        observed: SocketAddr,
        hosts: &[SocketAddr],
        now: Instant,
    ) -> bool {
        let word = Word { link, observed, member: from.udp().filter(is_outside), at: now };
        let is_news = match self.by_members.iter_mut().find(|known| known.link == link) {
            Some(former) => std::mem::replace(former, word).observed != observed,
            None => {
                self.by_members.push(word);
                let gone = self.by_members.len().saturating_sub(MAX_MEMBERS);
                self.by_members.drain(..gone);
                true
            }
        };
        self.judge(hosts, now);
        is_news
    }

    /// Where a member, known by its link, last saw this device.
    #[must_use]
    pub fn word_of(&self, link: u32) -> Option<SocketAddr> {
        self.by_members.iter().find(|word| word.link == link).map(|word| word.observed)
    }

    /// Judges by what servers said and, where they are too few, by what members saw lately.
    fn judge(&mut self, hosts: &[SocketAddr], now: Instant) {
        let lately = self.by_members.iter().filter(|word| now < word.at + MEMBERS_WORD_FOR);
        let seen = lately
            .filter_map(|word| Some(Sighting { server: word.member?, observed: word.observed, place: None }));
        let all: Vec<Sighting> = self.seen.iter().copied().chain(seen).collect();
        self.nat = Nat::judge(&self.seen, hosts).or_else(|| Nat::judge(&all, hosts)).or(self.nat);
    }

    /// Forgets everything but the servers: this machine is elsewhere.
    pub fn forget(&mut self) {
        self.stun.forget();
        self.seen.clear();
        self.asked.clear();
        self.by_members.clear();
        self.lasting.clear();
        self.seen_under.clear();
        self.seen_at = None;
        self.nat = None;
        self.was_fresh = false;
    }

    /// The NAT, as far as is known.
    #[must_use]
    pub fn nat(&self) -> Option<Nat> {
        self.nat
    }

    /// Addresses to tell one member, the surest first; none of `hosts`.
    #[must_use]
    pub fn told(&self, hosts: &[SocketAddr]) -> Vec<SocketAddr> {
        let by_members = self.by_members.iter().map(|word| word.observed);
        distinct(self.by_servers().chain(by_members), hosts)
    }

    /// Addresses to tell everybody: what a server saw, or two members. While the NAT shows each of them another port, the
    /// former ones stay: none of them is right for others.
    pub fn lasting(&mut self, hosts: &[SocketAddr]) -> &[SocketAddr] {
        let is_shared = |word: &&Word| {
            let mut others = self.by_members.iter().filter(|other| other.link != word.link);
            others.any(|other| other.observed == word.observed)
        };
        let by_members = self.by_members.iter().filter(is_shared).map(|word| word.observed);
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

    /// What servers saw, the last that was asked first: the next port follows that one's, if any follows.
    fn by_servers(&self) -> impl Iterator<Item = SocketAddr> {
        let mut seen: Vec<&Sighting> = self.seen.iter().collect();
        seen.sort_by_key(|sighting| std::cmp::Reverse(sighting.place));
        seen.into_iter().map(|sighting| sighting.observed)
    }
}

/// Says whether who is there stands outside of any network of its own: what it sees is what others see.
fn is_outside(address: &SocketAddr) -> bool {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => !(ip.is_private() || ip.is_link_local()),
        IpAddr::V6(_) => false,
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
        ask_from(reflexive, None, ports);
    }

    fn ask_from(reflexive: &mut Reflexive, side: Option<u32>, ports: [u16; 3]) {
        let (mut rng, now) = (Rng::from_seed([1; 32]), Instant::now());
        reflexive.set_servers((1..4).map(|n| SocketAddr::from(([192, 0, 2, n], 3478))));
        reflexive.ask(side, &mut rng, now);
        for port in ports {
            let (server, request) = reflexive.poll(&mut rng, now).unwrap();
            let response = stun::response(&stun::read_request(&request).unwrap(), outside(port));
            assert!(reflexive.on_datagram(server, &response, &[host()], now));
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
    fn this_machine_is_elsewhere_if_all_servers_say_so_once_they_have_spoken() {
        let (mut reflexive, ip) = (Reflexive::default(), |n: u8| IpAddr::from([198, 51, 100, n]));
        assert!(!reflexive.is_seen_elsewhere(ip(9)), "nobody said anything");
        ask(&mut reflexive, [50_001; 3]);
        assert!(reflexive.is_seen_elsewhere(ip(9)) && !reflexive.is_seen_elsewhere(ip(7)));
        let (mut rng, now) = (Rng::from_seed([1; 32]), Instant::now());
        reflexive.ask(None, &mut rng, now);
        for seen in [ip(9), ip(9), ip(7)] {
            assert!(!reflexive.is_seen_elsewhere(ip(7)), "one of them may lie");
            let (server, request) = reflexive.poll(&mut rng, now).unwrap();
            let response = stun::response(&stun::read_request(&request).unwrap(), SocketAddr::new(seen, 1));
            assert!(reflexive.on_datagram(server, &response, &[host()], now));
        }
        assert!(!reflexive.is_seen_elsewhere(ip(7)) && !reflexive.is_seen_elsewhere(ip(9)));
        // Asked again, and not answered; one on this network sees nothing of it.
        reflexive.ask(None, &mut rng, now);
        let (server, request) = reflexive.poll(&mut rng, now).unwrap();
        let response = stun::response(&stun::read_request(&request).unwrap(), host());
        assert!(reflexive.on_datagram(server, &response, &[host()], now));
        reflexive.give_up();
        assert!(reflexive.is_seen_elsewhere(ip(8)) && !reflexive.is_seen_elsewhere(ip(7)));
        reflexive.forget();
        assert!(!reflexive.is_seen_elsewhere(ip(8)));
    }

    #[test]
    fn a_nat_that_shows_each_another_port_does_not_make_a_presence_after_each_asking() {
        let mut reflexive = Reflexive::default();
        ask(&mut reflexive, [20_000, 31_317, 27_511]);
        assert_eq!(reflexive.lasting(&[host()]), [outside(27_511)]);
        ask(&mut reflexive, [40_000, 51_317, 47_511]);
        assert_eq!(reflexive.lasting(&[host()]), [outside(27_511)]);
        assert_eq!(reflexive.told(&[host()]).first(), Some(&outside(47_511)));
    }

    #[test]
    fn mappings_from_before_do_not_hide_that_ports_follow_each_other() {
        let mut reflexive = Reflexive::default();
        ask(&mut reflexive, [20_007, 20_005, 20_006]);
        assert!(reflexive.wants_second_look() && !reflexive.wants_side());
        ask_from(&mut reflexive, Some(0), [20_010, 20_011, 20_012]);
        assert!(reflexive.wants_side() && !reflexive.wants_second_look());
    }

    #[test]
    fn a_nat_that_gives_out_any_port_is_looked_at_twice_in_each_place() {
        let mut reflexive = Reflexive::default();
        ask(&mut reflexive, [20_000, 31_317, 27_511]);
        assert!(reflexive.wants_second_look());
        ask_from(&mut reflexive, Some(0), [40_000, 51_317, 47_511]);
        ask(&mut reflexive, [20_000, 31_317, 27_511]);
        assert!(!reflexive.wants_second_look());
        reflexive.forget();
        ask(&mut reflexive, [20_000, 31_317, 27_511]);
        assert!(reflexive.wants_second_look());
        ask(&mut reflexive, [50_001; 3]);
        assert!(!reflexive.wants_second_look(), "one port for all");
    }

    #[test]
    fn one_members_word_is_for_members_with_a_link_and_twos_for_all() {
        let (mut reflexive, now) = (Reflexive::default(), Instant::now());
        let mut heard = |link: u32, observed| {
            let from = Remote::Udp(SocketAddr::from(([192, 0, 2, link as u8], 41_414)));
            let is_news = reflexive.on_member((link, from), observed, &[host()], now);
            (is_news, reflexive.told(&[host()]), reflexive.lasting(&[host()]).to_vec())
        };
        assert!(heard(1, outside(5)).0 && !heard(1, outside(5)).0);
        let (is_news, told, _) = heard(1, host());
        assert!(is_news && told.is_empty());
        let (_, told, lasting) = heard(1, outside(6));
        assert_eq!((told, lasting), (vec![outside(6)], vec![]));
        assert_eq!(heard(2, outside(6)).2, [outside(6)]);
        for link in 0..100 {
            heard(link, outside(link as u16 + 1));
        }
        assert_eq!((reflexive.by_members.len(), reflexive.told(&[]).len()), (MAX_MEMBERS, MAX_TOLD));
    }

    #[test]
    fn three_members_tell_what_the_nat_does_and_those_inside_do_not() {
        let judge = |members: [[u8; 4]; 3]| {
            let (mut reflexive, now) = (Reflexive::default(), Instant::now());
            for (link, ip) in (1..).zip(members) {
                let from = Remote::Udp(SocketAddr::from((ip, 41_414)));
                reflexive.on_member((link, from), outside(6), &[host()], now);
            }
            reflexive.nat()
        };
        let outside = judge([[192, 0, 2, 1], [192, 0, 2, 1], [192, 0, 2, 2]]);
        assert!(outside.unwrap().is_endpoint_independent());
        assert_eq!(judge([[192, 0, 2, 1], [192, 168, 1, 9], [192, 0, 2, 2]]), None);
    }
}
