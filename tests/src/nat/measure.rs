//! What a NAT does, found from both of its sides by sending: mapping, filtering, ports, hairpinning and timeout in the
//! words of RFC 4787, with the tests of RFC 5780 §4 and no look at its rules.
//!
//! One thread holds all sockets, inside and outside, each opened in its own namespace: what one sends, another is asked for.
//!
//! ```text
//!   host inside ── NAT ── near 1 ┐ two ports of one public address
//!                      ── near 2 ┘
//!                      ── far      another public address
//! ```

use std::fmt;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Site;
use crate::{Host, Lab};

/// How long a datagram may take that has nothing in its way. The first ones wait for ARP; the machine may be busy.
const ARRIVES: Duration = Duration::from_secs(2);
/// How long after a datagram that came another one is still waited for that was sent before it.
const OVERDUE: Duration = Duration::from_millis(150);
/// Fresh sockets whose ports are looked at: as many random ports are no sequence.
const PORTS: usize = 8;

/// On what something depends, as RFC 4787 §4.1 and §5 have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Nothing is mapped or filtered.
    None,
    /// The same whoever the remote is.
    EndpointIndependent,
    /// Another one for each remote address.
    AddressDependent,
    /// Another one for each remote address and port.
    AddressAndPortDependent,
    /// All of it: nothing passes.
    All,
}

impl fmt::Display for Behaviour {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::None => "none",
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent => "address-dependent",
            Self::AddressAndPortDependent => "address-and-port-dependent",
            Self::All => "all",
        })
    }
}

/// Which external ports mappings get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// There are no mappings.
    None,
    /// The inside's own.
    Preserved,
    /// Each one more than the last.
    Sequential,
    /// Neither.
    Random,
}

impl fmt::Display for Ports {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::None => "none",
            Self::Preserved => "preserved",
            Self::Sequential => "sequential",
            Self::Random => "random",
        })
    }
}

/// What was found out about a NAT.
#[derive(Clone, Copy, Debug)]
pub struct Findings {
    /// How many mappings a socket has.
    pub mapping: Behaviour,
    /// Who may use one.
    pub filtering: Behaviour,
    /// Which ports they get.
    pub ports: Ports,
    /// One inside reaches the mapping of another, and appears there under the NAT's address.
    pub has_hairpin: bool,
    /// Two hosts inside with the same port share it towards different remotes; none without a second host.
    pub overloads: Option<bool>,
    /// The mapping stayed for other remotes while it was used with one for longer than it lives, and was gone after it was
    /// left alone that long; none without a timeout that can be waited for.
    pub timeout: Option<Timeout>,
}

/// What was found out about how long a mapping lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout {
    /// It stayed, for all remotes, while it was used with one.
    pub lasts_in_use: bool,
    /// It was gone after it was left alone.
    pub ends_unused: bool,
}

/// Finds out what the NAT of a site of `lab` does, from its host `name`, with the public hosts `p1` and `p2`.
///
/// Of `site` only the timeout is looked at, to wait as long, and whether there is a second host.
///
/// # Errors
/// A socket that cannot be opened, or a NAT that does what no kind does: loses datagrams, or answers for an address that is
/// not its own.
pub fn measure(lab: &Lab, name: &str, site: Site) -> Result<Findings> {
    let host = lab.host(name)?;
    let bench = Bench::new(lab, host)?;
    if bench.try_map(&bench.open()?, &bench.near[0])?.is_none() {
        let (mapping, filtering) = (Behaviour::None, Behaviour::All);
        let (has_hairpin, overloads, timeout) = (false, None, None);
        return Ok(Findings { mapping, filtering, ports: Ports::None, has_hairpin, overloads, timeout });
    }
    let mapping = bench.mapping()?;
    let filtering = match (mapping, bench.filtering()?) {
        (Behaviour::None, Behaviour::EndpointIndependent) => Behaviour::None,
        (_, filtering) => filtering,
    };
    let second = if site.has_second { Some(lab.host(&format!("{name}2"))?) } else { None };
    Ok(Findings {
        mapping,
        filtering,
        ports: bench.ports()?,
        has_hairpin: mapping != Behaviour::None && bench.hairpin(second.unwrap_or(host))?,
        overloads: second.map(|second| bench.overloads(second)).transpose()?,
        timeout: site.timeout_secs.map(|secs| bench.timeout(Duration::from_secs(secs.into()))).transpose()?,
    })
}

/// The sockets outside, and the host inside.
struct Bench<'l> {
    host: &'l Host,
    near: [Socket; 2],
    far: Socket,
}

impl<'l> Bench<'l> {
    fn new(lab: &Lab, host: &'l Host) -> Result<Self> {
        let (p1, p2) = (lab.host("p1")?, lab.host("p2")?);
        Ok(Self { host, near: [Socket::open(p1, 0)?, Socket::open(p1, 0)?], far: Socket::open(p2, 0)? })
    }

    fn open(&self) -> Result<Socket> {
        Socket::open(self.host, 0)
    }

    /// As whom `outside` sees `inside`, which sends to it; none if nothing comes.
    fn try_map(&self, inside: &Socket, outside: &Socket) -> Result<Option<SocketAddrV4>> {
        let word = inside.send(outside.address)?;
        let Some(seen) = outside.heard(word, ARRIVES)? else { return Ok(None) };
        if *seen.ip() != self.host.outside {
            bail!("{} is seen as {seen}, not {}", inside.address, self.host.outside);
        }
        Ok(Some(seen))
    }

    fn map(&self, inside: &Socket, outside: &Socket) -> Result<SocketAddrV4> {
        let seen = self.try_map(inside, outside)?;
        seen.with_context(|| format!("nothing from {} came to {}", inside.address, outside.address))
    }

    /// One socket and three remotes (RFC 5780 §4.3).
    fn mapping(&self) -> Result<Behaviour> {
        let inside = self.open()?;
        let first = self.map(&inside, &self.near[0])?;
        let other_port = self.map(&inside, &self.near[1])?;
        let other_address = self.map(&inside, &self.far)?;
        Ok(if first == inside.address {
            Behaviour::None
        } else if first == other_port && first == other_address {
            Behaviour::EndpointIndependent
        } else if first == other_port {
            Behaviour::AddressDependent
        } else {
            Behaviour::AddressAndPortDependent
        })
    }

    /// One remote that was sent to, and two that were not; what the first one sends last comes in any case, and what has not
    /// come then is not coming (RFC 5780 §4.4).
    fn filtering(&self) -> Result<Behaviour> {
        let inside = self.open()?;
        let seen = self.map(&inside, &self.near[0])?;
        let from_far = self.far.send(seen)?;
        let from_near = self.near[1].send(seen)?;
        let from_peer = self.near[0].send(seen)?;
        let came = inside.heard_of([from_peer, from_near, from_far], ARRIVES)?;
        match came {
            [true, true, true] => Ok(Behaviour::EndpointIndependent),
            [true, true, false] => Ok(Behaviour::AddressDependent),
            [true, false, false] => Ok(Behaviour::AddressAndPortDependent),
            [true, false, true] => bail!("a stranger came in, and another port of the peer did not"),
            [false, _, _] => bail!("an answer did not come in"),
        }
    }

    fn ports(&self) -> Result<Ports> {
        let sockets: Vec<_> = (0..PORTS).map(|_| self.open()).collect::<Result<_>>()?;
        let mut seen = Vec::new();
        for socket in &sockets {
            seen.push((socket.address.port(), self.map(socket, &self.near[0])?.port()));
        }
        Ok(if seen.iter().all(|(own, mapped)| own == mapped) {
            Ports::Preserved
        } else if seen.windows(2).all(|pair| pair[0].1.wrapping_add(1) == pair[1].1) {
            Ports::Sequential
        } else {
            Ports::Random
        })
    }

    /// Two sockets inside send to what each other was seen as, more than once: what the first one opens lets the second in.
    fn hairpin(&self, second: &Host) -> Result<bool> {
        let (a, b) = (self.open()?, Socket::open(second, 0)?);
        let (a_seen, b_seen) = (self.map(&a, &self.near[0])?, self.map(&b, &self.near[0])?);
        a.send(b_seen)?;
        b.send(a_seen)?;
        a.send(b_seen)?;
        let word = a.send(b_seen)?;
        // What comes to a public socket after it was sent lost its way, or is not coming.
        self.map(&a, &self.far)?;
        let Some(from) = b.heard(word, OVERDUE)? else { return Ok(false) };
        if *from.ip() != self.host.outside {
            bail!("a neighbour is seen as {from}, not from {}", self.host.outside);
        }
        Ok(true)
    }

    /// The same port of two hosts, and a remote each.
    fn overloads(&self, second: &Host) -> Result<bool> {
        let a = self.open()?;
        let b = Socket::open(second, a.address.port())?;
        Ok(self.map(&a, &self.near[0])? == self.map(&b, &self.far)?)
    }

    fn timeout(&self, lives: Duration) -> Result<Timeout> {
        let (used, unused) = (self.open()?, self.open()?);
        let left_alone = self.map(&unused, &self.near[0])?;
        let seen = self.map(&used, &self.near[0])?;
        let until = Instant::now() + lives + lives / 2;
        // The remote begins where it is let in, so that the flow is one that began outside.
        let opening = self.far.send(seen)?;
        if used.heard(opening, OVERDUE)?.is_none() {
            self.map(&used, &self.far)?;
        }
        while Instant::now() < until {
            let word = self.far.send(seen)?;
            used.heard(word, OVERDUE)?;
            self.map(&used, &self.far)?;
            thread::sleep(lives / 10);
        }
        let late = self.near[0].send(left_alone)?;
        let ends_unused = unused.heard(late, OVERDUE)?.is_none();
        Ok(Timeout { lasts_in_use: self.map(&used, &self.near[1])? == seen, ends_unused })
    }
}

/// A socket on some host, and its address there.
struct Socket {
    socket: UdpSocket,
    address: SocketAddrV4,
}

impl Socket {
    fn open(host: &Host, port: u16) -> Result<Self> {
        let socket = host.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?))?;
        let address = SocketAddrV4::new(host.address, socket.local_addr()?.port());
        Ok(Self { socket, address })
    }

    /// Sends a datagram that is like no other, and returns what is in it.
    fn send(&self, to: SocketAddrV4) -> Result<u64> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let word = NEXT.fetch_add(1, Ordering::Relaxed);
        match self.socket.send_to(&word.to_be_bytes(), to) {
            // An ICMP error of what was sent before; that datagram is missed where it is waited for.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => self.send(to),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(word),
        }
    }

    /// Waits for the first of these, and a little for the others; returns which came.
    fn heard_of<const N: usize>(&self, words: [u64; N], limit: Duration) -> Result<[bool; N]> {
        let (mut came, mut until) = ([false; N], Instant::now() + limit);
        while !came.iter().all(|came| *came) {
            let Some((word, _)) = self.next(until)? else { break };
            let Some(place) = words.iter().position(|awaited| *awaited == word) else { continue };
            came[place] = true;
            if place == 0 {
                until = Instant::now() + OVERDUE;
            }
        }
        Ok(came)
    }

    /// Waits for a datagram; returns whom it came from. What else comes meanwhile is gone.
    fn heard(&self, word: u64, limit: Duration) -> Result<Option<SocketAddrV4>> {
        let until = Instant::now() + limit;
        while let Some((came, from)) = self.next(until)? {
            if came == word {
                return Ok(Some(from));
            }
        }
        Ok(None)
    }

    /// What comes next, and from whom; none if nothing comes before `until`.
    fn next(&self, until: Instant) -> Result<Option<(u64, SocketAddrV4)>> {
        let mut buffer = [0; 8];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // Zero would be for ever; what is there already is read in any case.
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match self.socket.recv_from(&mut buffer) {
                Ok((8, SocketAddr::V4(from))) => return Ok(Some((u64::from_be_bytes(buffer), from))),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if left.is_zero() {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
