//! The session is the source address: what stands in a packet's address fields is overwritten.
//!
//! In: a packet that a peer's session carried, and the two addresses that it has on this machine; or one of a service on
//! 127.0.0.1, which leaves as the own alias's. Out: the same packet with those, all checksums carried along (RFC 1624),
//! also inside the quote of an ICMP error, so that the socket which the error is about is found. README §13.
//!
//! | payload | also changed |
//! |---|---|
//! | TCP, UDP | transport checksum (not a UDP checksum of 0, which means none) |
//! | ICMP echo, later fragments | nothing |
//! | ICMP errors | the quoted header and its checksums, the ICMP checksum |

use std::net::Ipv4Addr;

use crate::drop::DropReason;
use crate::wire::checksum::Sum;
use crate::wire::ip::{self, IpError, Ipv4Mut};

/// Why a packet cannot be given other addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// The IP header is not one that is carried.
    #[error(transparent)]
    Ip(#[from] IpError),
    /// The transport header is cut short.
    #[error("packet ends within its transport header")]
    Truncated,
    /// Whether the transport covers the addresses is not known.
    #[error("packet is neither tcp, udp nor icmp")]
    Protocol,
    /// Whether the ICMP message holds addresses is not known.
    #[error("icmp message is neither an echo nor an error that is carried")]
    Icmp,
    /// The quoted packet is too short, has options, or did not go the other way between the same two.
    #[error("icmp error quotes a packet that cannot be rewritten")]
    Quote,
}

impl From<RewriteError> for DropReason {
    fn from(error: RewriteError) -> Self {
        match error {
            RewriteError::Ip(error) => error.into(),
            RewriteError::Truncated => Self::PacketMalformed,
            RewriteError::Protocol => Self::PacketProtocol,
            RewriteError::Icmp => Self::PacketIcmp,
            RewriteError::Quote => Self::PacketQuote,
        }
    }
}

/// Overwrites both addresses of `packet`, one whole IPv4 packet, and fixes every checksum that covers them.
///
/// In an ICMP error the quoted packet, which went the other way, gets them too: `destination` as its source,
/// `source` as its destination. Checksums that were wrong stay wrong.
///
/// # Errors
/// [`RewriteError`], by what cannot be rewritten; the packet is then as it was.
pub fn rewrite(packet: &mut [u8], source: Ipv4Addr, destination: Ipv4Addr) -> Result<(), RewriteError> {
    readdress::<false>(Ipv4Mut::parse(packet)?, source, destination)
}

/// Overwrites the source of `packet`, one whole IPv4 packet or a super-packet of the device's, as [`rewrite`] does.
///
/// `is_partial`: the transport checksum's field holds the sum of the pseudo-header only, and still does afterwards.
///
/// # Errors
/// As [`rewrite`].
pub fn rewrite_source(packet: &mut [u8], source: Ipv4Addr, is_partial: bool) -> Result<(), RewriteError> {
    let packet = Ipv4Mut::parse(packet)?;
    let destination = packet.view().destination();
    if is_partial {
        readdress::<true>(packet, source, destination)
    } else {
        readdress::<false>(packet, source, destination)
    }
}

/// Both of the above; `PARTIAL` as `is_partial`, known beforehand because most packets are not.
#[inline]
fn readdress<const PARTIAL: bool>(
    mut packet: Ipv4Mut<'_>,
    source: Ipv4Addr,
    destination: Ipv4Addr,
) -> Result<(), RewriteError> {
    let view = packet.view();
    let protocol = view.protocol();
    let is_later_fragment = view.fragment_offset_bytes() != 0;
    let change = view.readdressed(source, destination);
    match (protocol, view.payload().len()) {
        (ip::TCP | ip::UDP | ip::ICMP, _) if is_later_fragment => {}
        (ip::TCP, ip::TCP_HEADER_BYTES..) | (ip::UDP, ip::UDP_HEADER_BYTES..) => {
            update_transport::<PARTIAL>(protocol, packet.payload(), change);
        }
        (ip::ICMP, ip::ICMP_HEADER_BYTES..) => rewrite_icmp(&mut packet, source, destination)?,
        (ip::TCP | ip::UDP | ip::ICMP, _) => return Err(RewriteError::Truncated),
        _ => return Err(RewriteError::Protocol),
    }
    packet.set_addresses(source, destination);
    Ok(())
}

/// Counts `change` into the TCP or UDP checksum; returns the field before and after.
///
/// `None` where `payload` ends before the checksum, or the protocol has none that covers addresses.
#[inline]
fn update_transport<const PARTIAL: bool>(
    protocol: u8,
    payload: &mut [u8],
    change: Sum,
) -> Option<(u16, u16)> {
    let at = match protocol {
        ip::TCP => 16,
        ip::UDP => 6,
        _ => return None,
    };
    let field = payload.get_mut(at..)?.first_chunk_mut::<2>()?;
    let old = u16::from_be_bytes(*field);
    let new = match (protocol, old, change.update(old)) {
        // The sum itself changes as its complement does.
        _ if PARTIAL => !change.update(!old),
        (ip::UDP, 0, _) => 0,
        (ip::UDP, _, 0) => 0xffff,
        (_, _, updated) => updated,
    };
    *field = new.to_be_bytes();
    Some((old, new))
}

/// Rewrites what an ICMP message holds of addresses: in an echo nothing, in an error the quoted packet.
fn rewrite_icmp(
    packet: &mut Ipv4Mut<'_>,
    source: Ipv4Addr,
    destination: Ipv4Addr,
) -> Result<(), RewriteError> {
    let view = packet.view();
    let is_cut = view.is_fragment();
    let went = (view.destination(), view.source());
    let (icmp, quote) = packet.payload().split_first_chunk_mut().ok_or(RewriteError::Truncated)?;
    let icmp: &mut [u8; ip::ICMP_HEADER_BYTES] = icmp;
    match icmp[0] {
        ip::ECHO_REQUEST | ip::ECHO_REPLY => return Ok(()),
        kind if !ip::is_icmp_error(kind) => return Err(RewriteError::Icmp),
        // The rest of the quote, with checksums in it, may be in another fragment.
        _ if is_cut => return Err(RewriteError::Quote),
        _ => {}
    }
    let mut quote = Ipv4Mut::parse_quote(quote).map_err(|_| RewriteError::Quote)?;
    if (quote.view().source(), quote.view().destination()) != went {
        return Err(RewriteError::Quote);
    }
    let change = rewrite_quote(&mut quote, destination, source)?;
    let checksum = change.update(u16::from_be_bytes([icmp[2], icmp[3]]));
    [icmp[2], icmp[3]] = checksum.to_be_bytes();
    Ok(())
}

/// Gives the quoted packet these addresses; returns the change of a checksum over the whole quote.
///
/// Every field stands at an even place of the ICMP message (headers have 8 and 20 bytes), so whole words
/// change, however long the message is.
fn rewrite_quote(
    quote: &mut Ipv4Mut<'_>,
    source: Ipv4Addr,
    destination: Ipv4Addr,
) -> Result<Sum, RewriteError> {
    let view = quote.view();
    let protocol = view.protocol();
    let is_later_fragment = view.fragment_offset_bytes() != 0;
    let mut change = view.readdressed(source, destination);
    let transport = match protocol {
        ip::TCP | ip::UDP if is_later_fragment => None,
        // `None` also for TCP whose quote ends before the checksum, as 8 bytes do, or in its middle.
        ip::TCP | ip::UDP => update_transport::<false>(protocol, quote.payload(), change),
        ip::ICMP => None,
        _ => return Err(RewriteError::Quote),
    };
    if let Some((old, new)) = transport {
        change = change.replace_word(old, new);
    }
    let old = quote.checksum();
    quote.set_addresses(source, destination);
    Ok(change.replace_word(old, quote.checksum()))
}
