//! Where a beacon listens, and under which addresses others reach it.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use libp2p::core::transport::ListenerId;
use libp2p::futures::StreamExt as _;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm};
use tokio::net::UdpSocket;
use tokio::time::timeout;
use tracing::debug;

use super::protocol::{PORT, STUN_PORT, socket_of};
use super::swarm::Behaviour;
use super::{BeaconOptions, stun};
use crate::control::{Exit, Failure};
use crate::udp::interface_addresses;

/// *Chosen*: how long a listener may take to say where it listens; one that was not asked for is not waited for longer.
const SAID_WITHIN: Duration = Duration::from_secs(5);
const SAID_UNASKED_WITHIN: Duration = Duration::from_millis(300);

/// One place to listen at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    address: SocketAddr,
    /// Whether it was asked for; one that was not may be missing, such as IPv6 on a machine without.
    is_asked_for: bool,
}

/// A socket that is listened at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listening {
    socket: SocketAddr,
    is_quic: bool,
}

/// Listeners that have not yet said where they are.
type Waiting = HashMap<ListenerId, (Place, bool)>;

/// Listens where `options` say.
///
/// # Errors
/// A [`Failure`] for a place that was asked for and cannot be had.
pub(super) async fn at(
    swarm: &mut Swarm<Behaviour>,
    options: &BeaconOptions,
) -> anyhow::Result<BTreeSet<Listening>> {
    let mut waiting = Waiting::new();
    for (asked, is_quic) in [(&options.tcp, false), (&options.quic, true)] {
        for place in places(asked, PORT) {
            let free = if is_quic { Ok(()) } else { is_free(place.address) };
            let mut listen = || swarm.listen_on(multiaddr(place.address, is_quic)).map_err(io::Error::other);
            match free.and_then(|()| listen()) {
                Ok(id) => drop(waiting.insert(id, (place, is_quic))),
                Err(error) if place.is_asked_for => {
                    return Err(cannot_listen(name(is_quic), place.address, &error).into());
                }
                Err(error) => debug!(%error, address = %place.address, "not listened at"),
            }
        }
    }
    let mut listening = BTreeSet::new();
    for (only_asked, within) in [(true, SAID_WITHIN), (false, SAID_UNASKED_WITHIN)] {
        let said = timeout(within, hear(swarm, &mut waiting, &mut listening, only_asked)).await;
        said.unwrap_or(Ok(()))?;
    }
    Ok(listening)
}

/// Waits until the listeners have said where they are.
async fn hear(
    swarm: &mut Swarm<Behaviour>,
    waiting: &mut Waiting,
    listening: &mut BTreeSet<Listening>,
    only_asked: bool,
) -> Result<(), Failure> {
    while waiting.values().any(|(place, _)| place.is_asked_for || !only_asked) {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { listener_id, address } => {
                if let Some((place, is_quic)) = waiting.remove(&listener_id) {
                    let port = socket_of(&address).map_or(place.address.port(), |socket| socket.port());
                    let socket = SocketAddr::new(place.address.ip(), port);
                    listening.insert(Listening { socket, is_quic });
                }
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                if let Some((place, is_quic)) = waiting.remove(&listener_id)
                    && place.is_asked_for
                {
                    let reason = reason.err().unwrap_or_else(|| io::ErrorKind::NotConnected.into());
                    return Err(cannot_listen(name(is_quic), place.address, &reason));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Finds out whether nobody listens for TCP at `address`: libp2p shares its port (SO_REUSEPORT), so that a second beacon of the
/// same user would take every other connection of the first.
///
/// # Errors
/// What the kernel says to whoever does not share.
fn is_free(address: SocketAddr) -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections that are closing do not count.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// Binds the sockets for STUN. To be called inside a tokio runtime.
///
/// # Errors
/// A [`Failure`] for a place that was asked for and cannot be had.
pub(super) fn stun(asked: &[SocketAddr]) -> Result<Vec<UdpSocket>, Failure> {
    let mut sockets = Vec::new();
    for place in places(asked, STUN_PORT) {
        match stun::bind(place.address) {
            Ok(socket) => sockets.push(socket),
            Err(error) if place.is_asked_for => return Err(cannot_listen("STUN", place.address, &error)),
            Err(error) => debug!(%error, address = %place.address, "no STUN here"),
        }
    }
    Ok(sockets)
}

/// The addresses under which others reach what is listened at: with the IPs `named`, or else those of this machine.
pub(super) async fn external_addresses(listening: &BTreeSet<Listening>, named: &[IpAddr]) -> Vec<Multiaddr> {
    let machine = interface_addresses().await.unwrap_or_else(|error| {
        debug!(%error, "this machine's addresses are not known");
        Vec::new()
    });
    let of = |place: &Listening| {
        let (port, is_quic) = (place.socket.port(), place.is_quic);
        let at = reached_at(place.socket.ip(), named, &machine);
        at.into_iter().map(move |ip| multiaddr(SocketAddr::new(ip, port), is_quic))
    };
    listening.iter().flat_map(of).collect()
}

/// Where to listen: where it was `asked`, or at every address.
fn places(asked: &[SocketAddr], port: u16) -> Vec<Place> {
    let every = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
    if asked.is_empty() {
        every.map(|ip| Place { address: SocketAddr::new(ip, port), is_asked_for: ip.is_ipv4() }).to_vec()
    } else {
        asked.iter().map(|address| Place { address: *address, is_asked_for: true }).collect()
    }
}

/// The IP addresses under which a listener at `local` is known: those `named`, or its own, or those of this machine; of its own
/// version of IP only.
fn reached_at(local: IpAddr, named: &[IpAddr], machine: &[IpAddr]) -> BTreeSet<IpAddr> {
    let same = |ip: &&IpAddr| ip.is_ipv4() == local.is_ipv4();
    match (named, local.is_unspecified()) {
        ([], true) => machine.iter().filter(same).copied().collect(),
        ([], false) => BTreeSet::from([local]),
        (named, _) => named.iter().filter(same).copied().collect(),
    }
}

/// The failure for a place that cannot be listened at.
fn cannot_listen(what: &str, address: SocketAddr, reason: &dyn Display) -> Failure {
    let message = format!("cannot listen on {address} for {what}: {reason}");
    Failure::new(Exit::Failed, message, "stop what listens there, or choose another place")
}

fn name(is_quic: bool) -> &'static str {
    if is_quic { "QUIC" } else { "TCP" }
}

fn multiaddr(socket: SocketAddr, is_quic: bool) -> Multiaddr {
    let address = Multiaddr::from(socket.ip());
    if is_quic {
        address.with(Protocol::Udp(socket.port())).with(Protocol::QuicV1)
    } else {
        address.with(Protocol::Tcp(socket.port()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_beacon_is_reached_at_what_was_named_or_at_this_machines_addresses_of_the_same_version() {
        let machine = ips(&["192.0.2.1", "2001:db8::1"]);
        let reached = |local: &str, named: &[&str]| {
            let reached = reached_at(local.parse().unwrap(), &ips(named), &machine);
            reached.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(reached("0.0.0.0", &[]), ["192.0.2.1"]);
        assert_eq!(reached("::", &[]), ["2001:db8::1"]);
        assert_eq!(reached("127.0.0.1", &[]), ["127.0.0.1"]);
        assert_eq!(reached("0.0.0.0", &["198.51.100.1", "2001:db8::2"]), ["198.51.100.1"]);
        assert_eq!(reached("::", &["198.51.100.1"]), Vec::<String>::new());
    }

    #[test]
    fn without_a_wish_every_address_is_listened_at_and_ipv6_may_be_missing() {
        let all = places(&[], 41_415);
        assert_eq!(
            all.iter().map(|place| place.address.to_string()).collect::<Vec<_>>(),
            ["0.0.0.0:41415", "[::]:41415"]
        );
        assert_eq!(all.iter().map(|place| place.is_asked_for).collect::<Vec<_>>(), [true, false]);
        let one = places(&["192.0.2.1:9".parse().unwrap()], 41_415);
        assert!(matches!(&one[..], [place] if place.is_asked_for && place.address.port() == 9));
    }
}
