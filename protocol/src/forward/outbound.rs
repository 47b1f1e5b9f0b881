//! One packet into its datagrams: whole where it fits the path, cut where it may be cut.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use super::fragment::Fragments;
use super::{Egress, Route, Traffic};
use crate::alias;
use crate::drop::DropReason;
use crate::path::Remote;
use crate::tunnel::segment::{TcpCut, UdpCut};
use crate::wire::header::{DATA_HEADER_BYTES, DATA_OVERHEAD_BYTES, RELAY_HEADER_BYTES, write_relay_header};
use crate::wire::ip;

/// The largest datagram of a UDP super-packet that is cut to a smaller path (chosen: the TUN's MTU is below it).
const SCRATCH_BYTES: usize = 2_048;

/// What becomes of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Outbound {
    /// It was handed to the egress, as one datagram or several.
    Sent,
    /// There is no session: the engine holds it and wakes the link.
    Hold,
    /// It does not fit and may not be cut: this packet tells the application so (ICMP 3/4).
    TooLarge([u8; ip::ERROR_BYTES]),
    /// Silence.
    Drop(DropReason),
}

impl Outbound {
    /// Makes what it tells about a packet for `peer`, if anything, reach the application at `service`; returns whether
    /// that could be done.
    pub(super) fn redirect(&mut self, peer: Ipv4Addr, service: Ipv4Addr) -> bool {
        match self {
            Self::TooLarge(error) => alias::rewrite(error, peer, service).is_ok(),
            Self::Sent | Self::Hold | Self::Drop(_) => true,
        }
    }
}

/// Seals `packet`, its checksums complete, for `route`, in as many datagrams as the path asks for.
///
/// While larger sizes are being tried, what may not be cut is sent whole: the kernel remembers a refusal for ten
/// minutes, and most paths will have carried it.
pub fn send_packet(packet: &[u8], route: &Route, traffic: &Traffic, egress: &mut impl Egress) -> Outbound {
    let max_bytes = usize::from(route.packet_bytes);
    let mut send = |bytes: usize, write: &dyn Fn(&mut [u8])| send_one(bytes, write, route, traffic, egress);
    if packet.len() <= max_bytes {
        return send(packet.len(), &|out| out.copy_from_slice(packet));
    }
    if let Some(cut) = TcpCut::new(packet, max_bytes, None) {
        return all((0..cut.count()).map(|index| send(cut.packet_bytes(index), &|out| cut.write(index, out))));
    }
    if let Some(cut) = Fragments::new(packet, max_bytes) {
        return all((0..cut.count()).map(|index| send(cut.bytes(index), &|out| cut.write(index, out))));
    }
    if !route.is_size_settled {
        return send(packet.len(), &|out| out.copy_from_slice(packet));
    }
    ip::Ipv4::parse(packet)
        .ok()
        .and_then(|packet| ip::fragmentation_needed(&packet, route.packet_bytes))
        .map_or(Outbound::Drop(DropReason::PacketTooLarge), Outbound::TooLarge)
}

/// Seals the packets that the super-packet `packet` stands for, each with `segment_bytes` of payload.
///
/// TCP is cut to the path's size in the same pass; each byte is copied once and summed once, straight into the
/// datagram. Datagrams of UDP that do not fit the path go the way of any other packet.
pub(super) fn send_super_packet(
    packet: &[u8],
    segment_bytes: NonZeroU16,
    (route, traffic): (&Route, &Traffic),
    egress: &mut impl Egress,
) -> Outbound {
    let max_bytes = usize::from(route.packet_bytes);
    if let Some(cut) = TcpCut::new(packet, max_bytes, Some(segment_bytes)) {
        return all((0..cut.count()).map(|index| {
            send_one(cut.packet_bytes(index), &|out| cut.write(index, out), route, traffic, egress)
        }));
    }
    let Some(cut) = UdpCut::new(packet, segment_bytes) else {
        return Outbound::Drop(DropReason::PacketMalformed);
    };
    all((0..cut.count()).map(|index| {
        let bytes = cut.packet_bytes(index);
        if bytes <= max_bytes {
            return send_one(bytes, &|out| cut.write(index, out), route, traffic, egress);
        }
        let mut scratch = [0; SCRATCH_BYTES];
        let Some(datagram) = scratch.get_mut(..bytes) else {
            return Outbound::Drop(DropReason::PacketTooLarge);
        };
        cut.write(index, datagram);
        send_packet(datagram, route, traffic, egress)
    }))
}

/// The first outcome that is not `Sent`, once all are done.
fn all(outcomes: impl Iterator<Item = Outbound>) -> Outbound {
    outcomes.fold(Outbound::Sent, |worst, outcome| if worst == Outbound::Sent { outcome } else { worst })
}

fn send_one(
    bytes: usize,
    write: &dyn Fn(&mut [u8]),
    route: &Route,
    traffic: &Traffic,
    egress: &mut impl Egress,
) -> Outbound {
    let total = bytes + DATA_OVERHEAD_BYTES;
    let mut sealed = false;
    let mut seal = |datagram: &mut [u8]| {
        write(&mut datagram[DATA_HEADER_BYTES..DATA_HEADER_BYTES + bytes]);
        sealed = route.sealer.seal(datagram).is_ok();
        sealed
    };
    let (to, label) = match route.remote {
        Remote::Udp(to) | Remote::Side { address: to, .. } => (Some(to), None),
        Remote::Relayed { via, label } => (Some(via), Some(label)),
        Remote::Carried(number) => {
            egress.carried(number, total, &mut seal);
            (None, None)
        }
        Remote::Circuit(_) => (None, None),
    };
    if let Some(to) = to {
        egress.leave_by(route.remote.side());
        let before = if label.is_some() { RELAY_HEADER_BYTES } else { 0 };
        egress.datagram(to, before + total, |whole| {
            let (header, datagram) = whole.split_at_mut(before);
            label.iter().for_each(|label| write_relay_header(header, *label));
            seal(datagram)
        });
    }
    if sealed {
        traffic.count_sent(total);
        Outbound::Sent
    } else {
        Outbound::Drop(DropReason::SendFailed)
    }
}
