//! How a member is reached: the addresses to try, the one that is used, and how much it carries.
//!
//! In: handshakes that completed at an address, sources that datagrams came from, echoes. Out: probes to send. A path
//! changes only after an echo of a probe that was sent to it ("challenge", as RFC 9000 §8.2), never because a datagram
//! arrived. Sizes follow RFC 8899: a base size that every path carries, then a probe of the full size; the search
//! between the two is not done yet.

mod remote;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand_core::Rng as _;

use crate::random::Rng;
use crate::wire::header::DATA_OVERHEAD_BYTES;

pub use remote::Remote;

/// The inner packet that every path carries, in bytes: a UDP payload of 1,200 (specified: RFC 8899 §5.1.2, RFC 9000).
pub const BASE_PACKET_BYTES: u16 = 1_200 - DATA_OVERHEAD_BYTES as u16;
/// The largest inner packet, in bytes: the MTU of the TUN device (specified: README §14).
pub const FULL_PACKET_BYTES: u16 = 1_420;

/// Addresses kept for one member (specified: README §14, presence carries as many).
const MAX_CANDIDATES: usize = 8;
/// Probes waiting for an echo at most.
const MAX_OUTSTANDING: usize = 8;
/// Challenges to unvalidated addresses: at most three a second (specified: README §14).
const CHALLENGE_PAUSE: Duration = Duration::from_millis(334);
/// A probe without an echo is forgotten after this long.
const PROBE_LIFE: Duration = Duration::from_secs(5);
/// Full-size probes tried on one path, and the pause between them.
const SIZE_PROBES: u8 = 3;
const SIZE_PROBE_PAUSE: Duration = Duration::from_secs(1);
/// The round trip is measured this long after a path was selected: a start is a busy moment.
const RTT_PROBE_AFTER: Duration = Duration::from_secs(1);
/// The shortest probe: type and id.
const SHORT_PROBE_BYTES: usize = 9;

/// Why a probe was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To find out whether the peer is at an address that its datagrams came from.
    Challenge,
    /// To find out whether the path carries full packets.
    Size,
    /// To measure the round trip.
    Ping,
}

/// A probe to be sealed and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Random; the echo repeats it.
    pub id: u64,
    /// The far end under test.
    pub to: Remote,
    /// Length of the message in bytes.
    pub length: usize,
}

/// What an echo taught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Why the probe was sent.
    pub purpose: Purpose,
    /// The probe's id.
    pub id: u64,
    /// The round trip.
    pub rtt: Duration,
    /// The selected path, or what it carries, is another than before.
    pub changed: bool,
}

#[derive(Debug)]
struct Outstanding {
    id: u64,
    to: Remote,
    purpose: Purpose,
    sent_at: Instant,
}

/// The path that is used.
#[derive(Debug)]
struct Selected {
    remote: Remote,
    packet_bytes: u16,
    size_probes_left: u8,
    next_size_probe_at: Instant,
    rtt_probe_at: Option<Instant>,
    rtt: Option<Duration>,
}

/// Says whether a member may be at `address`: one host's, and not this machine's own.
#[must_use]
pub fn is_candidate(address: &SocketAddr) -> bool {
    let is_host = match address.ip().to_canonical() {
        IpAddr::V4(v4) => !(v4.is_broadcast() || v4.octets()[0] == 0 || v4.octets()[0] >= 240),
        IpAddr::V6(_) => true,
    };
    let ip = address.ip().to_canonical();
    is_host && address.port() != 0 && !(ip.is_loopback() || ip.is_multicast() || ip.is_unspecified())
}

/// The addresses of one member.
#[derive(Debug, Default)]
pub struct Path {
    candidates: Vec<SocketAddr>,
    selected: Option<Selected>,
    outstanding: Vec<Outstanding>,
    /// The far end to challenge, and when.
    challenge: Option<(Remote, Instant)>,
    challenged_at: Option<Instant>,
}

impl Path {
    /// Adds an address to try. The newest stand first; the one that is used is never pushed out.
    pub fn add_candidate(&mut self, address: SocketAddr) {
        let used = self.remote().and_then(Remote::udp);
        self.candidates.retain(|known| *known != address);
        self.candidates.insert(0, address);
        if self.candidates.len() > MAX_CANDIDATES {
            let last = self.candidates.iter().rposition(|known| Some(*known) != used);
            self.candidates.remove(last.unwrap_or(MAX_CANDIDATES));
        }
    }

    /// The far ends to send an initiation to, the used one first; at most 9.
    pub fn remotes(&self) -> impl Iterator<Item = Remote> {
        let used = self.remote();
        let known = self.candidates.iter().copied().map(Remote::Udp);
        used.into_iter().chain(known.filter(move |known| Some(*known) != used))
    }

    /// The addresses where the member may be, the used one first; at most 8.
    pub fn candidates(&self) -> impl Iterator<Item = SocketAddr> {
        self.remotes().filter_map(Remote::udp)
    }

    /// The far end that is used, if any.
    #[must_use]
    pub fn remote(&self) -> Option<Remote> {
        self.selected.as_ref().map(|selected| selected.remote)
    }

    /// The largest inner packet that the path is known to carry, in bytes.
    #[must_use]
    pub fn packet_bytes(&self) -> u16 {
        self.selected.as_ref().map_or(BASE_PACKET_BYTES, |selected| selected.packet_bytes)
    }

    /// Says whether nothing larger than [`Path::packet_bytes`] is being tried.
    #[must_use]
    pub fn is_size_settled(&self) -> bool {
        self.selected.as_ref().is_some_and(|selected| selected.size_probes_left == 0)
    }

    /// The round trip last measured on the used path.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.selected.as_ref().and_then(|selected| selected.rtt)
    }

    /// Uses `remote`, where a handshake just completed. `rtt` is the handshake's, if this end initiated it. Returns
    /// whether another address was used before.
    pub fn select(&mut self, remote: Remote, rtt: Option<Duration>, now: Instant) -> bool {
        if let Remote::Udp(address) = remote {
            self.add_candidate(address);
        }
        if let Some(selected) = self.selected.as_mut().filter(|selected| selected.remote == remote) {
            selected.rtt = selected.rtt.or(rtt);
            return false;
        }
        self.selected = Some(Selected {
            remote,
            packet_bytes: BASE_PACKET_BYTES,
            size_probes_left: SIZE_PROBES,
            next_size_probe_at: now,
            rtt_probe_at: Some(now + RTT_PROBE_AFTER),
            rtt,
        });
        true
    }

    /// Forgets which address was used; the addresses to try stay.
    pub fn unselect(&mut self) {
        self.selected = None;
        self.outstanding.clear();
        self.challenge = None;
    }

    /// Notes that an authentic datagram came from `source`: if it is not the used address, it is challenged.
    pub fn on_source(&mut self, source: Remote, now: Instant) {
        if self.remote().is_some_and(|remote| remote != source) {
            let due = self.challenged_at.map_or(now, |at| now.max(at + CHALLENGE_PAUSE));
            self.challenge = Some((source, due));
        }
    }

    /// Makes a probe that measures the round trip; `None` while too many are out or no address is used.
    pub fn ping(&mut self, rng: &mut Rng, now: Instant) -> Option<Probe> {
        let to = self.remote()?;
        self.probe((to, Purpose::Ping, SHORT_PROBE_BYTES), rng, now)
    }

    /// The next probe that is due, if any.
    pub fn poll_probe(&mut self, rng: &mut Rng, now: Instant) -> Option<Probe> {
        self.outstanding.retain(|probe| now < probe.sent_at + PROBE_LIFE);
        if let Some((to, _)) = self.challenge.take_if(|(_, due)| now >= *due) {
            self.challenged_at = Some(now);
            return self.probe((to, Purpose::Challenge, SHORT_PROBE_BYTES), rng, now);
        }
        let selected = self.selected.as_mut()?;
        if selected.rtt_probe_at.take_if(|due| now >= *due).is_some() {
            return self.ping(rng, now);
        }
        if selected.size_probes_left == 0 || now < selected.next_size_probe_at {
            return None;
        }
        selected.size_probes_left -= 1;
        selected.next_size_probe_at = now + SIZE_PROBE_PAUSE;
        let to = selected.remote;
        self.probe((to, Purpose::Size, usize::from(FULL_PACKET_BYTES)), rng, now)
    }

    /// When [`Path::poll_probe`] is to be asked again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let size = self.selected.as_ref().filter(|selected| selected.size_probes_left > 0);
        let size_at = size.map(|selected| selected.next_size_probe_at);
        let rtt_at = self.selected.as_ref().and_then(|selected| selected.rtt_probe_at);
        let challenge_at = self.challenge.map(|(_, due)| due);
        [challenge_at, rtt_at, size_at].into_iter().flatten().min()
    }

    /// Takes in an echo; `None` if no probe of that id is out.
    pub fn on_echo(&mut self, id: u64, now: Instant) -> Option<Echo> {
        let at = self.outstanding.iter().position(|probe| probe.id == id)?;
        let Outstanding { to, purpose, sent_at, .. } = self.outstanding.swap_remove(at);
        let rtt = now.saturating_duration_since(sent_at);
        let mut changed = purpose == Purpose::Challenge && self.select(to, Some(rtt), now);
        if let Some(selected) = self.selected.as_mut().filter(|selected| selected.remote == to) {
            selected.rtt = Some(rtt);
            if purpose == Purpose::Size {
                changed |= selected.packet_bytes != FULL_PACKET_BYTES;
                selected.packet_bytes = FULL_PACKET_BYTES;
                selected.size_probes_left = 0;
            }
        }
        Some(Echo { purpose, id, rtt, changed })
    }

    fn probe(
        &mut self,
        (to, purpose, length): (Remote, Purpose, usize),
        rng: &mut Rng,
        now: Instant,
    ) -> Option<Probe> {
        if self.outstanding.len() >= MAX_OUTSTANDING {
            return None;
        }
        let id = rng.next_u64();
        self.outstanding.push(Outstanding { id, to, purpose, sent_at: now });
        Some(Probe { id, to, length })
    }
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 41_414))
    }

    fn remote(n: u8) -> Remote {
        Remote::Udp(address(n))
    }

    fn selected(now: Instant) -> (Path, Rng) {
        let mut path = Path::default();
        path.select(remote(1), None, now);
        (path, Rng::from_seed([1; 32]))
    }

    #[test]
    fn a_path_grows_to_full_size_when_the_probe_is_echoed() {
        let now = Instant::now();
        let (mut path, mut rng) = selected(now);
        assert_eq!((path.packet_bytes(), path.is_size_settled()), (BASE_PACKET_BYTES, false));
        let probe = path.poll_probe(&mut rng, now).unwrap();
        assert_eq!((probe.to, probe.length), (remote(1), usize::from(FULL_PACKET_BYTES)));
        assert_eq!(path.poll_probe(&mut rng, now), None);
        let echo = path.on_echo(probe.id, now + Duration::from_millis(20)).unwrap();
        assert!(echo.changed);
        assert_eq!((path.packet_bytes(), path.is_size_settled()), (FULL_PACKET_BYTES, true));
        assert_eq!(path.rtt(), Some(Duration::from_millis(20)));
        assert_eq!(path.on_echo(probe.id, now), None, "an echo counts once");
    }

    #[test]
    fn a_path_that_echoes_no_full_probe_stays_at_the_base_size() {
        let start = Instant::now();
        let (mut path, mut rng) = selected(start);
        let mut probes = 0;
        while let Some(at) = path.poll_timeout() {
            let probe = path.poll_probe(&mut rng, at);
            probes += u32::from(probe.is_some_and(|probe| probe.length > SHORT_PROBE_BYTES));
        }
        assert_eq!((probes, path.packet_bytes(), path.is_size_settled()), (3, BASE_PACKET_BYTES, true));
    }

    #[test]
    fn a_source_changes_the_path_only_after_its_echo() {
        let now = Instant::now();
        let (mut path, mut rng) = selected(now);
        let size = path.poll_probe(&mut rng, now).unwrap();
        path.on_echo(size.id, now);
        path.on_source(remote(2), now);
        assert_eq!(path.remote(), Some(remote(1)));
        let challenge = path.poll_probe(&mut rng, now).unwrap();
        assert_eq!(challenge.to, remote(2));
        assert_eq!(path.remote(), Some(remote(1)));
        assert!(path.on_echo(challenge.id, now).unwrap().changed);
        assert_eq!(path.remote(), Some(remote(2)));
        assert_eq!(path.packet_bytes(), BASE_PACKET_BYTES, "another path may carry less");
    }

    #[test]
    fn at_most_three_challenges_a_second() {
        let start = Instant::now();
        let (mut path, mut rng) = selected(start);
        let mut challenges = 0;
        for ms in 0..1_000 {
            let now = start + Duration::from_millis(ms);
            path.on_source(remote(2 + (ms % 7) as u8), now);
            while let Some(probe) = path.poll_probe(&mut rng, now) {
                challenges += u32::from(probe.to != remote(1));
            }
        }
        assert!((1..=3).contains(&challenges), "{challenges}");
    }

    #[test]
    fn only_the_address_of_one_other_host_is_a_candidate() {
        for (text, expected) in [
            ("192.0.2.1:41414", true),
            ("10.0.0.1:1", true),
            ("[2001:db8::1]:41414", true),
            ("192.0.2.1:0", false),
            ("127.0.0.1:41414", false),
            ("127.80.3.9:41414", false),
            ("[::ffff:127.80.3.9]:41414", false),
            ("[::1]:41414", false),
            ("0.0.0.0:1", false),
            ("0.1.2.3:1", false),
            ("[::]:1", false),
            ("224.0.0.1:1", false),
            ("[ff02::1]:1", false),
            ("255.255.255.255:1", false),
            ("240.0.0.1:1", false),
        ] {
            assert_eq!(is_candidate(&text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn candidates_are_bounded_and_the_used_one_stays_first() {
        let (mut path, _) = selected(Instant::now());
        for n in 2..100 {
            path.add_candidate(address(n));
        }
        let candidates: Vec<_> = path.candidates().collect();
        assert_eq!(
            (candidates.len(), candidates[0], candidates[1]),
            (MAX_CANDIDATES, address(1), address(99))
        );
    }
}
