//! Binding requests from the data socket, and the responses to them (RFC 8489 §6.2.1).
//!
//! In: servers, a wish to ask them, datagrams. Out: requests, and what the servers saw. A datagram is looked at only while
//! a request waits, and taken only from the server that was asked, with the request's random id.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Remote;
use crate::random::{self, Rng};
use crate::wire::stun::{self, TransactionId};

/// Servers kept (chosen: more than are asked, so that others stand in for those that are silent).
const MAX_SERVERS: usize = 8;
/// Servers asked at once (specified: README §14): a NAT's mapping shows with three.
const MAX_ASKED: usize = 3;
/// The pause behind each request, ± 20 % (specified: RFC 8489 §6.2.1, whose seven tries are too many for a socket that asks
/// others as well).
const PAUSES: [Duration; 4] = [
    Duration::from_millis(500),
    Duration::from_millis(1_000),
    Duration::from_millis(2_000),
    Duration::from_millis(4_000),
];

#[derive(Debug)]
struct Transaction {
    id: TransactionId,
    server: SocketAddr,
    /// The socket of this machine's, if not the own one.
    side: Option<u32>,
    /// Requests sent.
    tries: usize,
    due_at: Instant,
    /// Its place among those asked together.
    place: usize,
}

impl Transaction {
    fn remote(&self) -> Remote {
        match self.side {
            Some(socket) => Remote::Side { address: self.server, socket },
            None => Remote::Udp(self.server),
        }
    }
}

/// What a server said, or a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The server.
    pub server: SocketAddr,
    /// Where the request came from, as the server saw it.
    pub observed: SocketAddr,
    /// The request's place among those sent together, from 0; `None` for what somebody saw who was not asked so.
    pub place: Option<usize>,
}

/// The servers, and the requests that wait.
#[derive(Debug, Default)]
pub struct Stun {
    servers: Vec<SocketAddr>,
    open: Vec<Transaction>,
}

impl Stun {
    /// Asks these from here on, the best first. Returns whether they are others than before.
    pub fn set_servers(&mut self, servers: impl IntoIterator<Item = SocketAddr>) -> bool {
        let mut wanted: Vec<SocketAddr> = Vec::new();
        for server in servers {
            if wanted.len() < MAX_SERVERS && !wanted.contains(&server) {
                wanted.push(server);
            }
        }
        // Their order changes as some do not answer.
        let is_same = wanted.len() == self.servers.len() && wanted.iter().all(|it| self.servers.contains(it));
        if !is_same {
            self.servers = wanted;
        }
        !is_same
    }

    /// Asks up to three servers from the own socket or another, unless requests wait already. Returns whether it does.
    pub fn ask(&mut self, side: Option<u32>, rng: &mut Rng, now: Instant) -> bool {
        if !self.open.is_empty() {
            return false;
        }
        let asked = self.servers.iter().take(MAX_ASKED).enumerate();
        let opened = asked.map(|(place, server)| {
            let id = TransactionId(random::bytes(rng));
            Transaction { id, server: *server, side, tries: 0, due_at: now, place }
        });
        self.open = opened.collect();
        !self.open.is_empty()
    }

    /// Whose response may come.
    pub fn asked(&self) -> impl Iterator<Item = SocketAddr> {
        self.open.iter().map(|open| open.server)
    }

    /// Says whether a response may come.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// The next request that is due, and whom to ask.
    pub fn poll(&mut self, rng: &mut Rng, now: Instant) -> Option<(Remote, Vec<u8>)> {
        while let Some(at) = self.open.iter().position(|open| now >= open.due_at) {
            let open = self.open.get_mut(at)?;
            if let Some(pause) = PAUSES.get(open.tries) {
                open.tries += 1;
                open.due_at = now + random::jittered(*pause, rng);
                return Some((open.remote(), stun::request(&open.id)));
            }
            let silent = self.open.remove(at).server;
            self.put_back(silent);
        }
        None
    }

    /// When [`Stun::poll`] is to be asked again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.open.iter().map(|open| open.due_at).min()
    }

    /// Takes in a datagram; `None` unless it answers a request that waits.
    pub fn on_datagram(&mut self, from: Remote, datagram: &[u8]) -> Option<Sighting> {
        let (id, observed) = stun::read_response(datagram)?;
        let at = self.open.iter().position(|open| open.id == id && open.remote() == from)?;
        let Transaction { server, place, .. } = self.open.remove(at);
        Some(Sighting { server, observed, place: Some(place) })
    }

    /// Forgets what waits.
    pub fn forget(&mut self) {
        self.open.clear();
    }

    /// A server that did not answer is asked after all others.
    fn put_back(&mut self, silent: SocketAddr) {
        if let Some(at) = self.servers.iter().position(|server| *server == silent) {
            let silent = self.servers.remove(at);
            self.servers.push(silent);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    fn server(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 3478))
    }

    fn asking(servers: u8) -> (Stun, Rng, Instant) {
        let (mut stun, mut rng, now) = (Stun::default(), Rng::from_seed([1; 32]), Instant::now());
        assert_eq!(stun.set_servers((0..servers).map(server)), servers > 0);
        assert_eq!(stun.ask(None, &mut rng, now), servers > 0);
        (stun, rng, now)
    }

    fn polled(stun: &mut Stun, rng: &mut Rng, now: Instant) -> Vec<(Remote, Vec<u8>)> {
        std::iter::from_fn(|| stun.poll(rng, now)).collect()
    }

    #[test]
    fn three_servers_are_asked_four_times_each_and_then_others() {
        let (mut stun, mut rng, start) = asking(5);
        let mut requests: Vec<Remote> = Vec::new();
        let mut now = start;
        while let Some(at) = stun.poll_timeout() {
            now = at;
            requests.extend(polled(&mut stun, &mut rng, now).iter().map(|(to, _)| *to));
        }
        assert_eq!(requests.len(), 12);
        assert!((0..3).all(|n| requests.iter().filter(|to| **to == server(n).into()).count() == 4));
        let lasted = now - start;
        assert!(lasted > Duration::from_secs(6) && lasted < Duration::from_secs(9), "{lasted:?}");
        assert!(!stun.is_open() && stun.ask(None, &mut rng, now));
        let next: Vec<_> = polled(&mut stun, &mut rng, now).into_iter().map(|(to, _)| to).collect();
        assert_eq!(next[..2], [server(3).into(), server(4).into()], "the silent ones come last");
    }

    #[test]
    fn only_the_asked_servers_response_with_the_requests_id_counts_and_once() {
        let (mut stun, mut rng, now) = asking(2);
        let observed: SocketAddr = "198.51.100.7:50001".parse().unwrap();
        let requests = polled(&mut stun, &mut rng, now);
        let (to, request) = &requests[1];
        let id = stun::read_request(request).unwrap();
        let response = stun::response(&id, observed);
        assert_eq!(stun.on_datagram(server(0).into(), &response), None, "from another server");
        let other = stun::response(&TransactionId([0; 12]), observed);
        assert_eq!(stun.on_datagram(*to, &other), None, "another id");
        assert_eq!(stun.on_datagram(*to, request), None, "a request");
        let side = Remote::Side { address: server(1), socket: 1 };
        assert_eq!(stun.on_datagram(side, &response), None, "at another socket");
        let sighting = Sighting { server: server(1), observed, place: Some(1) };
        assert_eq!(stun.on_datagram(*to, &response), Some(sighting));
        assert_eq!(stun.on_datagram(*to, &response), None, "again");
    }

    #[test]
    fn without_servers_nothing_is_open_and_many_are_bounded() {
        let (mut stun, mut rng, now) = asking(0);
        assert!(!stun.is_open() && stun.poll(&mut rng, now).is_none() && stun.poll_timeout().is_none());
        assert!(stun.set_servers((0..200).map(server)));
        assert!(!stun.set_servers((0..200).map(server)), "the same as before");
        assert_eq!(stun.servers.len(), MAX_SERVERS);
    }
}
