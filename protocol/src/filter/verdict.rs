//! The verdict on one packet, by nothing but its own bytes.
//!
//! In: a packet as it came out of a session (before its addresses are rewritten) or from the TUN device. Out:
//! passed, or the [`DropReason`]. The same shapes pass in both directions, so that what a member would drop is
//! not sent to it; the directions differ in what addresses mean.
//!
//! What passes can be read in one way only: lengths agree, and the whole transport header stands in the first
//! fragment, where no later one can overwrite it (RFC 1858, RFC 3128).

use std::net::Ipv4Addr;

use super::Target;
use crate::drop::DropReason;
use crate::wire::ip::{self, Ipv4};

/// *Specified* (RFC 9293 §3.1): the largest TCP header, 15 words.
const TCP_HEADER_BYTES_MAX: usize = 60;
/// *Specified* (RFC 791 §3.1): the largest packet that fragments can make.
const PACKET_BYTES_MAX: usize = 65_535;

/// Judges a packet from a member's session; its addresses mean nothing and are not looked at.
///
/// # Errors
/// The reason to drop it.
pub fn inbound(packet: &[u8]) -> Result<Ipv4<'_>, DropReason> {
    carried(packet)
}

/// Judges a packet from an application and returns the alias that it is for.
///
/// `own` is this node's alias: the only source that passes, and no destination. Whether the result is a
/// member's alias is the table's to say.
///
/// # Errors
/// The reason to drop it: [`DropReason::PacketUnknownAlias`] also for broadcast and multicast.
pub fn outbound(packet: &[u8], own: Ipv4Addr) -> Result<Ipv4Addr, DropReason> {
    match outgoing(packet, own)? {
        (packet, Target::Own) => Ok(packet.destination()),
        (_, Target::Localhost) => Err(DropReason::PacketSource),
    }
}

/// Judges a packet from an application as [`outbound`] does, but lets 127.0.0.1 stand as its source, too: whether a
/// service there may speak is for [`super::Access`] to say. Returns the packet and whose source address it has.
///
/// # Errors
/// As [`outbound`].
#[inline]
pub fn outgoing(packet: &[u8], own: Ipv4Addr) -> Result<(Ipv4<'_>, Target), DropReason> {
    let packet = carried(packet)?;
    let from = match packet.source() {
        source if source == own => Target::Own,
        Ipv4Addr::LOCALHOST => Target::Localhost,
        _ => return Err(DropReason::PacketSource),
    };
    let destination = packet.destination();
    if destination == own || destination.is_multicast() || destination.is_broadcast() {
        return Err(DropReason::PacketUnknownAlias);
    }
    Ok((packet, from))
}

/// Reads a packet of a shape that is carried.
#[inline]
fn carried(packet: &[u8]) -> Result<Ipv4<'_>, DropReason> {
    let packet = Ipv4::parse(packet)?;
    if packet.is_fragment() {
        check_fragment(&packet)?;
    }
    let payload = packet.payload();
    match packet.protocol() {
        ip::TCP | ip::UDP | ip::ICMP if packet.fragment_offset_bytes() != 0 => {}
        ip::TCP => check_tcp(payload)?,
        ip::UDP => check_udp(payload, packet.more_fragments())?,
        ip::ICMP => check_icmp(payload, packet.more_fragments())?,
        _ => return Err(DropReason::PacketProtocol),
    }
    Ok(packet)
}

/// Drops fragments that overlap a transport header, leave a hole, or reach beyond the largest packet.
fn check_fragment(packet: &Ipv4<'_>) -> Result<(), DropReason> {
    let (offset, length) = (packet.fragment_offset_bytes(), packet.payload().len());
    // Headers of UDP and ICMP end where the smallest offset begins.
    let overlaps = packet.protocol() == ip::TCP && offset != 0 && offset < TCP_HEADER_BYTES_MAX;
    let leaves_hole = packet.more_fragments() && !length.is_multiple_of(8);
    let is_too_far = ip::HEADER_BYTES + offset + length > PACKET_BYTES_MAX;
    if overlaps || leaves_hole || is_too_far || length == 0 {
        return Err(DropReason::PacketFragment);
    }
    Ok(())
}

/// Requires the whole header, options included.
fn check_tcp(payload: &[u8]) -> Result<(), DropReason> {
    let header: &[u8; ip::TCP_HEADER_BYTES] = payload.first_chunk().ok_or(DropReason::PacketMalformed)?;
    let length = usize::from(header[12] >> 4) * 4;
    if (ip::TCP_HEADER_BYTES..=payload.len()).contains(&length) {
        Ok(())
    } else {
        Err(DropReason::PacketMalformed)
    }
}

/// Requires the header and a length within the payload; of a first fragment, the rest is still to come.
fn check_udp(payload: &[u8], is_first_fragment: bool) -> Result<(), DropReason> {
    let header: &[u8; ip::UDP_HEADER_BYTES] = payload.first_chunk().ok_or(DropReason::PacketMalformed)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if length >= ip::UDP_HEADER_BYTES && (length <= payload.len() || is_first_fragment) {
        Ok(())
    } else {
        Err(DropReason::PacketMalformed)
    }
}

/// Lets echoes pass, and errors that are whole: the quote of one that is cut cannot be rewritten.
fn check_icmp(payload: &[u8], is_first_fragment: bool) -> Result<(), DropReason> {
    let header: &[u8; ip::ICMP_HEADER_BYTES] = payload.first_chunk().ok_or(DropReason::PacketMalformed)?;
    match header[0] {
        ip::ECHO_REQUEST | ip::ECHO_REPLY => Ok(()),
        kind if !ip::is_icmp_error(kind) => Err(DropReason::PacketIcmp),
        _ if is_first_fragment => Err(DropReason::PacketFragment),
        _ => Ok(()),
    }
}
