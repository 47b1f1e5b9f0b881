//! IPv4 packets as bytes: strict views, and the one ICMP error that a node writes itself.
//!
//! In: one packet as it came out of the tunnel or from the TUN device. Out: its fields, or [`IpError`] for
//! everything that two readers could understand differently (options, lengths that disagree). Checksums of
//! received packets are never judged here, only carried along: one that was wrong stays wrong.
//!
//! RFC 791 (header), RFC 792 and RFC 1191 §4 (ICMP).
//!
//! ```text
//!  0  0x45 | service | total length        8  ttl | protocol | checksum     16  destination
//!  4  identification | flags, offset      12  source                        20  payload
//! ```

use std::net::Ipv4Addr;

use crate::drop::DropReason;
use crate::wire::checksum::Sum;

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;

/// Size of the only header that is carried: 20 bytes, no options.
pub const HEADER_BYTES: usize = 20;
/// Size of the smallest TCP header (RFC 9293 §3.1).
pub const TCP_HEADER_BYTES: usize = 20;
/// Size of a UDP header (RFC 768).
pub const UDP_HEADER_BYTES: usize = 8;
/// Size of an ICMP header (RFC 792); in errors the quoted packet follows.
pub const ICMP_HEADER_BYTES: usize = 8;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// ICMP type: echo reply.
pub const ECHO_REPLY: u8 = 0;
/// ICMP type: destination unreachable; its code 4 is "fragmentation needed".
pub const UNREACHABLE: u8 = 3;
/// ICMP code of [`UNREACHABLE`]: communication administratively prohibited (RFC 1812 §5.2.7.1).
pub const PROHIBITED: u8 = 13;
/// Hops of a node's own "prohibited" as it leaves (chosen: a kernel's error has another number, so that who reads it knows
/// whose it is).
pub const PROHIBITED_HOPS: u8 = 255;
/// ICMP type: echo request.
pub const ECHO_REQUEST: u8 = 8;
/// ICMP type: time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// ICMP type: parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment offset, in units of eight bytes.
const OFFSET_MASK: u16 = 0x1fff;
/// Fewest bytes behind the quoted header that an ICMP error must carry (RFC 792): ports or identifiers.
const QUOTED_BYTES: usize = 8;
/// Size of the errors that [`fragmentation_needed`], [`host_unreachable`] and [`prohibited`] write.
pub const ERROR_BYTES: usize = HEADER_BYTES + ICMP_HEADER_BYTES + HEADER_BYTES + QUOTED_BYTES;

/// Why bytes are not an IPv4 packet that is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpError {
    /// Neither version 4 nor 6, a header that is cut short, or a total length that is not the packet's.
    #[error("packet is not ipv4 or its lengths do not fit")]
    Malformed,
    /// Version 6.
    #[error("packet is ipv6")]
    Ipv6,
    /// A header of more than 20 bytes.
    #[error("packet has ip options")]
    Options,
}

impl From<IpError> for DropReason {
    fn from(error: IpError) -> Self {
        match error {
            IpError::Malformed => Self::PacketMalformed,
            IpError::Ipv6 => Self::PacketIpv6,
            IpError::Options => Self::PacketOptions,
        }
    }
}

/// One whole IPv4 packet without options, to be read.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    header: &'a [u8; HEADER_BYTES],
    payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Reads `packet`, which is exactly one packet: 20 to 65,535 bytes, as many as its header says.
    ///
    /// # Errors
    /// [`IpError`], by what is wrong with the header.
    #[inline]
    pub fn parse(packet: &'a [u8]) -> Result<Self, IpError> {
        check_version(packet)?;
        let (header, payload) = packet.split_first_chunk().ok_or(IpError::Malformed)?;
        let view = Self { header, payload };
        if view.total_length() == packet.len() { Ok(view) } else { Err(IpError::Malformed) }
    }

    /// Where the packet says it comes from.
    pub fn source(&self) -> Ipv4Addr {
        let [.., a, b, c, d, _, _, _, _] = *self.header;
        Ipv4Addr::new(a, b, c, d)
    }

    /// What the fragments of one packet have in common (RFC 6864).
    pub fn identification(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// Where the packet says it goes.
    pub fn destination(&self) -> Ipv4Addr {
        let [.., a, b, c, d] = *self.header;
        Ipv4Addr::new(a, b, c, d)
    }

    /// The number of the transport protocol: [`TCP`], [`UDP`], [`ICMP`] or another.
    pub fn protocol(&self) -> u8 {
        self.header[9]
    }

    /// Hops that are left.
    pub fn ttl(&self) -> u8 {
        self.header[8]
    }

    /// Says whether the packet may not be cut on the way.
    pub fn dont_fragment(&self) -> bool {
        self.flags_and_offset() & DONT_FRAGMENT != 0
    }

    /// Says whether fragments follow this one.
    pub fn more_fragments(&self) -> bool {
        self.flags_and_offset() & MORE_FRAGMENTS != 0
    }

    /// Where the payload stands in the whole one, in bytes; 0 in first fragments and whole packets.
    pub fn fragment_offset_bytes(&self) -> usize {
        usize::from(self.flags_and_offset() & OFFSET_MASK) * 8
    }

    /// Says whether this is a part of a packet only.
    pub fn is_fragment(&self) -> bool {
        self.flags_and_offset() & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// What follows the header: the transport header and its data, or a later fragment's part of them.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Source and destination port, of TCP and UDP; `None` in later fragments and where they are cut off.
    #[inline]
    pub fn ports(&self) -> Option<(u16, u16)> {
        if !matches!(self.protocol(), TCP | UDP) || self.fragment_offset_bytes() != 0 {
            return None;
        }
        let [a, b, c, d] = *self.payload.first_chunk()?;
        Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }

    /// Type and code, of ICMP; `None` in later fragments and where they are cut off.
    pub fn icmp(&self) -> Option<(u8, u8)> {
        if self.protocol() != ICMP || self.fragment_offset_bytes() != 0 {
            return None;
        }
        let [kind, code] = *self.payload.first_chunk()?;
        Some((kind, code))
    }

    /// The packet that an ICMP error quotes: its header, and at least the first 8 bytes behind it. `None` in anything
    /// else, and where the quote is shorter or not of a packet that is carried.
    pub fn quote(&self) -> Option<Self> {
        let (kind, _) = self.icmp()?;
        let (_, quote) = self.payload.split_first_chunk::<ICMP_HEADER_BYTES>()?;
        if is_icmp_error(kind) { Self::parse_quote(quote).ok() } else { None }
    }

    /// As [`Ipv4Mut::parse_quote`].
    fn parse_quote(quote: &'a [u8]) -> Result<Self, IpError> {
        check_version(quote)?;
        let (header, rest) = quote.split_first_chunk().ok_or(IpError::Malformed)?;
        let claimed = Self { header, payload: rest }.total_length().saturating_sub(HEADER_BYTES);
        let payload = rest.get(..claimed.min(rest.len())).filter(|payload| payload.len() >= QUOTED_BYTES);
        Ok(Self { header, payload: payload.ok_or(IpError::Malformed)? })
    }

    /// The change of a checksum over both addresses when these take their place.
    #[inline]
    pub fn readdressed(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Sum {
        Sum::default().replace_address(self.source(), source).replace_address(self.destination(), destination)
    }

    fn total_length(&self) -> usize {
        usize::from(u16::from_be_bytes([self.header[2], self.header[3]]))
    }

    #[inline]
    fn flags_and_offset(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }
}

/// One IPv4 packet without options, to be changed in place.
#[derive(Debug)]
pub struct Ipv4Mut<'a> {
    header: &'a mut [u8; HEADER_BYTES],
    payload: &'a mut [u8],
}

impl<'a> Ipv4Mut<'a> {
    /// Reads `packet` as [`Ipv4::parse`] does.
    ///
    /// # Errors
    /// The same.
    #[inline]
    pub fn parse(packet: &'a mut [u8]) -> Result<Self, IpError> {
        Ipv4::parse(packet)?;
        let (header, payload) = packet.split_first_chunk_mut().ok_or(IpError::Malformed)?;
        Ok(Self { header, payload })
    }

    /// Reads the packet that an ICMP error quotes: a header, and at least the first 8 bytes behind it.
    ///
    /// `quote` is all that follows the ICMP header. Its tail may be missing; what stands behind the quoted
    /// packet's own total length (RFC 4884 pads, then extends) is not part of the view.
    ///
    /// # Errors
    /// [`IpError`], by what is wrong with the quoted header; [`IpError::Malformed`] below 28 bytes.
    pub fn parse_quote(quote: &'a mut [u8]) -> Result<Self, IpError> {
        let held = Ipv4::parse_quote(quote)?.payload.len();
        let (header, rest) = quote.split_first_chunk_mut().ok_or(IpError::Malformed)?;
        Ok(Self { header, payload: rest.get_mut(..held).ok_or(IpError::Malformed)? })
    }

    /// The same packet, to be read.
    #[inline]
    pub fn view(&self) -> Ipv4<'_> {
        Ipv4 { header: self.header, payload: self.payload }
    }

    /// What follows the header, to be changed.
    #[inline]
    pub fn payload(&mut self) -> &mut [u8] {
        self.payload
    }

    /// The header's checksum field.
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[10], self.header[11]])
    }

    /// Overwrites both addresses and fixes the header's checksum.
    #[inline]
    pub fn set_addresses(&mut self, source: Ipv4Addr, destination: Ipv4Addr) {
        let checksum = self.view().readdressed(source, destination).update(self.checksum());
        [self.header[10], self.header[11]] = checksum.to_be_bytes();
        self.header[12..16].copy_from_slice(&source.octets());
        self.header[16..20].copy_from_slice(&destination.octets());
    }
}

/// Says whether an ICMP message of this type quotes the packet that it is about, among those carried.
///
/// Source quench (4) is deprecated (RFC 6633) and redirect (5) has no meaning between two hosts.
#[must_use]
pub fn is_icmp_error(kind: u8) -> bool {
    matches!(kind, UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// Writes "fragmentation needed" (RFC 1191) about `packet`, as if its destination had sent it to its source.
///
/// `mtu` is the largest whole packet in bytes that would have passed. The quote is the header and 8 bytes.
/// `None` where no error may be sent (RFC 1122 §3.2.2): about later fragments, ICMP other than echo, and
/// packets with fewer than 8 bytes to quote.
#[must_use]
pub fn fragmentation_needed(packet: &Ipv4<'_>, mtu: u16) -> Option<[u8; ERROR_BYTES]> {
    unreachable(packet, 4, mtu)
}

/// Writes "host unreachable" (RFC 792) about `packet`, as [`fragmentation_needed`] does.
#[must_use]
pub fn host_unreachable(packet: &Ipv4<'_>) -> Option<[u8; ERROR_BYTES]> {
    unreachable(packet, 1, 0)
}

/// Writes "administratively prohibited" (RFC 1812 §5.2.7.1) about `packet`, as [`fragmentation_needed`] does, with
/// [`PROHIBITED_HOPS`].
#[must_use]
pub fn prohibited(packet: &Ipv4<'_>) -> Option<[u8; ERROR_BYTES]> {
    let mut error = unreachable(packet, PROHIBITED, 0)?;
    [error[8], error[10], error[11]] = [PROHIBITED_HOPS, 0, 0];
    let checksum = Sum::default().add_bytes(error.get(..HEADER_BYTES)?).checksum();
    error[10..12].copy_from_slice(&checksum.to_be_bytes());
    Some(error)
}

fn unreachable(packet: &Ipv4<'_>, code: u8, mtu: u16) -> Option<[u8; ERROR_BYTES]> {
    let quoted: &[u8; QUOTED_BYTES] = packet.payload.first_chunk()?;
    let is_answerable = match packet.icmp() {
        Some((kind, _)) => matches!(kind, ECHO_REQUEST | ECHO_REPLY),
        None => packet.fragment_offset_bytes() == 0,
    };
    if !is_answerable {
        return None;
    }
    let [mtu_high, mtu_low] = mtu.to_be_bytes();
    let mut icmp = [UNREACHABLE, code, 0, 0, 0, 0, mtu_high, mtu_low];
    let checksum = Sum::default().add_bytes(&icmp).add_bytes(packet.header).add_bytes(quoted).checksum();
    [icmp[2], icmp[3]] = checksum.to_be_bytes();

    let mut error = [0; ERROR_BYTES];
    let header = error_header(packet.destination(), packet.source());
    error[..20].copy_from_slice(&header);
    error[20..28].copy_from_slice(&icmp);
    error[28..48].copy_from_slice(packet.header);
    error[48..].copy_from_slice(quoted);
    Some(error)
}

/// The header of an error: never cut, therefore without an identification (RFC 6864 §4.1), 64 hops.
fn error_header(source: Ipv4Addr, destination: Ipv4Addr) -> [u8; HEADER_BYTES] {
    let [flags, _] = DONT_FRAGMENT.to_be_bytes();
    let mut header = [0x45, 0, 0, ERROR_BYTES as u8, 0, 0, flags, 0, 64, ICMP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    [header[10], header[11]] = Sum::default().add_bytes(&header).checksum().to_be_bytes();
    header
}

/// Judges the first byte: version 4 with a header of five words, else which error.
#[inline]
fn check_version(packet: &[u8]) -> Result<(), IpError> {
    match packet.first() {
        Some(0x45) => Ok(()),
        Some(0x46..=0x4f) => Err(IpError::Options),
        Some(0x60..=0x6f) => Err(IpError::Ipv6),
        _ => Err(IpError::Malformed),
    }
}
