//! The STUN responder: tells whoever asks over UDP from where its datagram came (RFC 8489, binding method only).
//!
//! In: datagrams. Out: one response to each well-formed binding request ([`stun`]), within a rate; silence to everything else,
//! errors included, because an error response would be one more thing to make it send.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::bucket::{Bucket, Rate};
use protocol::wire::stun::{self, MAX_MESSAGE_BYTES};
use tokio::net::UdpSocket;
use tracing::debug;

use super::group::Group;
use super::metrics::Shared;

/// *Chosen*: answers to one network. A member asks when its address may have changed, and twice when it probes its NAT.
const GROUP_RATE: Rate = Rate { per_second: 50.0, burst: 200.0 };
/// *Chosen*: answers in all: 64 kB a second, so that a forged source is nobody's flood.
const TOTAL_RATE: Rate = Rate { per_second: 2_000.0, burst: 2_000.0 };
/// *Chosen*: networks whose rate is remembered; above it, only those are answered until others have been quiet.
const RATES_MAX: usize = 8_192;
/// Rest after a failed call, so that it does not spin the loop.
const PAUSE: Duration = Duration::from_millis(100);

/// How often is answered.
#[derive(Debug)]
struct Rates {
    total: Bucket,
    groups: BTreeMap<Group, Bucket>,
}

impl Rates {
    fn new() -> Self {
        Self { total: Bucket::new(TOTAL_RATE), groups: BTreeMap::new() }
    }

    fn allow(&mut self, ip: IpAddr, now: Instant) -> bool {
        let group = Group::of_ip(ip);
        if self.groups.len() >= RATES_MAX && !self.groups.contains_key(&group) {
            self.groups.retain(|_, bucket| !bucket.is_full(now));
            if self.groups.len() >= RATES_MAX {
                return false;
            }
        }
        // The network's first: what it may not have takes nothing from all.
        self.groups.entry(group).or_insert_with(|| Bucket::new(GROUP_RATE)).take(now) && self.total.take(now)
    }
}

/// Answers on `socket`, for ever.
pub(super) async fn serve(socket: UdpSocket, shared: Arc<Shared>) {
    let mut rates = Rates::new();
    // One more than the longest request, so that a longer one shows.
    let mut buffer = [0; MAX_MESSAGE_BYTES + 1];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                debug!(%error, "the STUN socket cannot be read");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(response) = answer(buffer.get(..length).unwrap_or_default(), from) else {
            shared.stun_ignored.count();
            continue;
        };
        if !rates.allow(from.ip(), Instant::now()) {
            shared.stun_limited.count();
            continue;
        }
        // A socket whose buffer is full loses it; the asker asks again.
        if socket.try_send_to(&response, from).is_ok() {
            shared.stun_answered.count();
        }
    }
}

/// Binds the socket that [`serve`] answers on.
///
/// # Errors
/// What the kernel says.
pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None)?;
    if address.is_ipv6() {
        // So that 0.0.0.0 has the same port beside it.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// The response to the request in `datagram`, which came from `from`; `None` for anything else.
fn answer(datagram: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
    stun::read_request(datagram).map(|transaction| stun::response(&transaction, from))
}

#[cfg(test)]
mod tests;
