//! PCP (RFC 6887) and NAT-PMP (RFC 6886): one datagram asks, one answers.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use protocol::path::portmap::{Ask, Outcome};
use protocol::wire::portmap::{self, MAX_MESSAGE_BYTES, MapRequest, Mapped, SERVER_PORT};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

/// The pause behind each request (specified: RFC 6886 §3.1, whose nine tries are more than a gateway beside this machine needs).
const PAUSES: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1_000),
    Duration::from_millis(2_000),
];

/// Asks by PCP.
pub(super) async fn pcp(ask: &Ask) -> Outcome {
    let request = request(ask);
    let datagram = portmap::pcp_request(ask.gateway.own, &request);
    let answer = exchange(ask, &datagram, |answer| portmap::pcp_answer(answer, &request)).await;
    answer.map_or(Outcome::Silent, outcome)
}

/// Asks by NAT-PMP, which says where the gateway is outside in an answer of its own.
pub(super) async fn nat_pmp(ask: &Ask) -> Outcome {
    let mut address = Ipv4Addr::UNSPECIFIED;
    if !ask.is_release() {
        match exchange(ask, &portmap::pmp_address_request(), portmap::pmp_address).await {
            Some(Ok(found)) => address = found,
            Some(Err(code)) => return Outcome::Refused(code),
            None => return Outcome::Silent,
        }
    }
    let request = request(ask);
    let datagram = portmap::pmp_request(&request);
    let answer = exchange(ask, &datagram, |answer| portmap::pmp_answer(answer, &request, address)).await;
    answer.map_or(Outcome::Silent, outcome)
}

fn request(ask: &Ask) -> MapRequest {
    let seconds = u32::try_from(ask.lease.as_secs()).unwrap_or(u32::MAX);
    // A mapping that is given back is not wanted anywhere (RFC 6887 §15).
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let outside = if ask.is_release() { any } else { ask.outside };
    MapRequest { port: ask.port, outside, seconds, nonce: ask.nonce }
}

fn outcome(answer: Result<Mapped, u16>) -> Outcome {
    match answer {
        Ok(Mapped { outside, seconds }) => {
            Outcome::Mapped { outside, lease: Duration::from_secs(seconds.into()) }
        }
        Err(code) => Outcome::Refused(code),
    }
}

/// Sends `datagram` to the gateway until it is answered by what `read` takes; `None`: it is not.
async fn exchange<T>(ask: &Ask, datagram: &[u8], read: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    let socket = connect(ask).await.ok()?;
    let mut answer = [0; MAX_MESSAGE_BYTES];
    for pause in PAUSES {
        let until = Instant::now() + pause;
        socket.send(datagram).await.ok()?;
        while let Ok(received) = timeout_at(until, socket.recv(&mut answer)).await {
            // Refused: nobody has that port.
            let length = received.ok()?;
            if let Some(read) = answer.get(..length).and_then(&read) {
                return Some(read);
            }
        }
    }
    None
}

/// A socket that hears nobody but the gateway.
async fn connect(ask: &Ask) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((ask.gateway.own, 0)).await?;
    socket.connect((ask.gateway.address, SERVER_PORT)).await?;
    Ok(socket)
}
