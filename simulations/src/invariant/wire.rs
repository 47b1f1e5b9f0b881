//! What is sent and what comes out: only members are answered, and a packet is one that a member sent.

use std::net::SocketAddr;

use protocol::drop::DropReason;
use protocol::engine::Transmit;
use protocol::wire::ip::Ipv4;

use crate::adversary;
use crate::host::Host;
use crate::traffic::{Arrived, Ledger, recognise};

/// Datagrams that one input may cause at most: all held packets, a page of news, an exchange's questions.
const MAX_TRANSMITS_AT_ONCE: usize = 200;
/// Bytes of what a source that is not known yet may be sent: a challenge, which is a sealed probe of the least size, or an
/// echo, with the address that it goes to.
const CHALLENGE_BYTES: [usize; 2] = [41, 48];

/// Says whether a datagram to this address was sent to where a member may be, by guess.
type Guessed<'g> = &'g dyn Fn(SocketAddr) -> bool;

/// Only members are answered, and no input makes a host send without measure. Who has brought a genuine datagram from
/// its own address, as a member that moved would, may be challenged; it gets nothing more. Of a NAT any port may be meant.
pub(crate) fn check_transmits(
    transmits: &[Transmit],
    (known, is_guessed): (&[(SocketAddr, usize)], Guessed<'_>),
    may_challenge: bool,
) -> Result<(), String> {
    if transmits.len() > MAX_TRANSMITS_AT_ONCE {
        return Err(format!("{} datagrams for one input", transmits.len()));
    }
    for transmit in transmits {
        // What goes through a pipe goes to whoever is at its end.
        let Some(to) = transmit.to.udp() else { continue };
        if to == adversary::address() {
            if may_challenge && CHALLENGE_BYTES.contains(&transmit.datagram.len()) {
                continue;
            }
            return Err(format!("a stranger was answered with {} bytes", transmit.datagram.len()));
        }
        if !known.iter().any(|(address, _)| *address == to) && !is_guessed(to) {
            return Err(format!("a datagram was sent to {}, where nobody ever was", transmit.to));
        }
    }
    Ok(())
}

/// A packet that came out at host `at` is one that was sent to it, unchanged, once, under the alias of its sender, who
/// is a member in that host's eyes. Returns its number; `None` for an error of the node's own.
pub(crate) fn check_packet(
    packet: &[u8],
    at: usize,
    hosts: &[Host],
    ledger: &mut Ledger,
) -> Result<Option<u64>, String> {
    let host = &hosts[at];
    let to_own = |view: &Ipv4<'_>| Some(view.destination()) == host.alias_of(&host.id());
    match recognise(packet) {
        Arrived::Strange(what) => Err(format!("a packet of {} bytes came out that {what}", packet.len())),
        Arrived::Error(view) if to_own(&view) && host.device_at(view.source()).is_some() => Ok(None),
        Arrived::Error(_) => Err("an error came out under an address that is no member's".to_owned()),
        Arrived::Whole(number, view) => {
            let sent = ledger.get_mut(number).ok_or("a packet came out that nobody sent")?;
            let sender = hosts[sent.from].id();
            if sent.to != at || !to_own(&view) {
                return Err(format!("packet {number} to {} came out at {at}", sent.to));
            }
            if host.device_at(view.source()) != Some(sender) {
                return Err(format!("packet {number} of {} came out as from {}", sent.from, view.source()));
            }
            let belongs = host.node.as_ref().is_some_and(|node| node.is_member(&sender));
            if !belongs {
                return Err(format!("packet {number} came out at {at}, for whom {} is no member", sent.from));
            }
            if sent.arrived_at.is_some() {
                return Err(format!("packet {number} came out twice"));
            }
            if sent.bytes != packet.len() {
                return Err(format!("packet {number} has {} bytes, not {}", packet.len(), sent.bytes));
            }
            Ok(Some(number))
        }
    }
}

/// Reasons for which a datagram may be dropped and still be one that the host took: sent again, it is a replay.
pub(crate) fn is_taken(dropped: &[DropReason]) -> bool {
    dropped.iter().all(|reason| {
        matches!(reason, DropReason::VeilReplayed | DropReason::Replayed | DropReason::ControlOnly)
    })
}
