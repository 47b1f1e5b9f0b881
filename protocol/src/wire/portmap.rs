//! What a gateway is asked for a port of its own, and what it answers: PCP's MAP (RFC 6887) and NAT-PMP (RFC 6886), both at UDP
//! port 5351 of the gateway, both for UDP and IPv4 only.
//!
//! ```text
//! PCP      02 | 01 | 00 00 | lifetime u32 | own address 16                          the answer: 02 | 81 | 00 | result | lifetime
//!          nonce 12 | 11 00 00 00 | port u16 | outside u16 | outside 16   60 bytes  | epoch u32 | 0 × 12 | and the same again
//! NAT-PMP  00 | 00                                                         2 bytes  00 | 80 | result u16 | epoch u32 | outside 4
//!          00 | 01 | 00 00 | port u16 | outside u16 | lifetime u32        12 bytes  00 | 81 | result u16 | epoch u32 | port u16
//!                                                                                   | outside u16 | lifetime u32
//! ```
//!
//! A lifetime of 0 asks for the end of the mapping; seconds all.

use std::net::{Ipv4Addr, SocketAddrV4};

/// *Specified* (RFC 6887 §19.1): the port of a gateway where both protocols are spoken.
pub const SERVER_PORT: u16 = 5_351;
/// *Specified* (RFC 6887 §7): no message is longer.
pub const MAX_MESSAGE_BYTES: usize = 1_100;
/// *Specified* (RFC 6887 §11.1): a number that only whoever asked knows.
pub const NONCE_BYTES: usize = 12;
/// *Specified* (RFC 6887 §7.4, RFC 6886 §3.5): the gateway does not speak this version. In both it is the same number.
pub const UNSUPPORTED_VERSION: u16 = 1;

const PCP_VERSION: u8 = 2;
const PCP_MAP: u8 = 1;
const PMP_VERSION: u8 = 0;
const PMP_ADDRESS: u8 = 0;
const PMP_MAP_UDP: u8 = 1;
const ANSWER: u8 = 0x80;
const UDP: u8 = 17;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRequest {
    /// The own port.
    pub port: u16,
    /// What is wanted outside; all zero: anything.
    pub outside: SocketAddrV4,
    /// For how long; 0: no more.
    pub seconds: u32,
    /// This mapping's number (PCP).
    pub nonce: [u8; NONCE_BYTES],
}

/// What a gateway says of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Where others reach the own port; by NAT-PMP the port alone is said.
    pub outside: SocketAddrV4,
    /// For how long.
    pub seconds: u32,
}

/// PCP's request, of the host at `own`.
#[must_use]
pub fn pcp_request(own: Ipv4Addr, request: &MapRequest) -> Vec<u8> {
    let address = |ip: Ipv4Addr| ip.to_ipv6_mapped().octets();
    let mut out = vec![PCP_VERSION, PCP_MAP, 0, 0];
    out.extend_from_slice(&request.seconds.to_be_bytes());
    out.extend_from_slice(&address(own));
    out.extend_from_slice(&request.nonce);
    out.extend_from_slice(&[UDP, 0, 0, 0]);
    out.extend_from_slice(&request.port.to_be_bytes());
    out.extend_from_slice(&request.outside.port().to_be_bytes());
    out.extend_from_slice(&address(*request.outside.ip()));
    out
}

/// Reads the answer to PCP's `request`: what is mapped, or the code of a refusal; `None` for whatever else.
///
/// A gateway that speaks NAT-PMP only answers in that protocol's form (RFC 6887 §9): [`UNSUPPORTED_VERSION`].
#[must_use]
pub fn pcp_answer(datagram: &[u8], request: &MapRequest) -> Option<Result<Mapped, u16>> {
    let (&[version, kind, _, result, l0, l1, l2, l3], rest) = datagram.split_first_chunk::<8>()?;
    if version == PMP_VERSION && kind & ANSWER != 0 {
        return Some(Err(UNSUPPORTED_VERSION));
    }
    if version != PCP_VERSION || kind != PCP_MAP | ANSWER {
        // A version that neither end spoke before: the gateway names the one that it has.
        return (kind == PCP_MAP | ANSWER && u16::from(result) == UNSUPPORTED_VERSION)
            .then_some(Err(UNSUPPORTED_VERSION));
    }
    // Refusals, too, are this request's or none (RFC 6887 §11.4).
    let (nonce, rest) = rest.get(16..)?.split_first_chunk::<NONCE_BYTES>()?;
    let (&[protocol, _, _, _, p0, p1, o0, o1], rest) = rest.split_first_chunk::<8>()?;
    if *nonce != request.nonce || protocol != UDP || u16::from_be_bytes([p0, p1]) != request.port {
        return None;
    }
    if result != 0 {
        return Some(Err(result.into()));
    }
    let outside = std::net::Ipv6Addr::from(*rest.first_chunk::<16>()?).to_ipv4_mapped()?;
    let outside = SocketAddrV4::new(outside, u16::from_be_bytes([o0, o1]));
    Some(Ok(Mapped { outside, seconds: u32::from_be_bytes([l0, l1, l2, l3]) }))
}

/// NAT-PMP's question for the address of the gateway outside.
#[must_use]
pub fn pmp_address_request() -> Vec<u8> {
    vec![PMP_VERSION, PMP_ADDRESS]
}

/// Reads the answer to that; `None` for whatever else.
#[must_use]
pub fn pmp_address(datagram: &[u8]) -> Option<Result<Ipv4Addr, u16>> {
    let (&[version, kind, r0, r1, ..], rest) = datagram.split_first_chunk::<8>()?;
    if version != PMP_VERSION || kind != PMP_ADDRESS | ANSWER {
        return None;
    }
    match u16::from_be_bytes([r0, r1]) {
        0 => Some(Ok(Ipv4Addr::from(*rest.first_chunk::<4>()?))),
        code => Some(Err(code)),
    }
}

/// NAT-PMP's request. One for the end of a mapping names no port outside (RFC 6886 §3.4).
#[must_use]
pub fn pmp_request(request: &MapRequest) -> Vec<u8> {
    let outside = if request.seconds == 0 { 0 } else { request.outside.port() };
    let mut out = vec![PMP_VERSION, PMP_MAP_UDP, 0, 0];
    out.extend_from_slice(&request.port.to_be_bytes());
    out.extend_from_slice(&outside.to_be_bytes());
    out.extend_from_slice(&request.seconds.to_be_bytes());
    out
}

/// Reads the answer to NAT-PMP's `request` of a gateway that is at `address` outside; `None` for whatever else.
#[must_use]
pub fn pmp_answer(datagram: &[u8], request: &MapRequest, address: Ipv4Addr) -> Option<Result<Mapped, u16>> {
    let (&[version, kind, r0, r1, ..], rest) = datagram.split_first_chunk::<8>()?;
    if version != PMP_VERSION || kind != PMP_MAP_UDP | ANSWER {
        return None;
    }
    let code = u16::from_be_bytes([r0, r1]);
    if code != 0 {
        return Some(Err(code));
    }
    let &[p0, p1, o0, o1, l0, l1, l2, l3] = rest.first_chunk::<8>()?;
    let outside = SocketAddrV4::new(address, u16::from_be_bytes([o0, o1]));
    let is_ours = u16::from_be_bytes([p0, p1]) == request.port;
    is_ours.then_some(Ok(Mapped { outside, seconds: u32::from_be_bytes([l0, l1, l2, l3]) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
    const OUTSIDE: Ipv4Addr = Ipv4Addr::new(11, 0, 1, 2);

    fn request() -> MapRequest {
        let outside = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 41_414);
        MapRequest { port: 41_414, outside, seconds: 3_600, nonce: *b"nnnnnnnnnnnn" }
    }

    /// What miniupnpd answers, from a capture but for the nonce.
    fn pcp_bytes() -> Vec<u8> {
        let mut bytes = vec![2, 0x81, 0, 0, 0, 0, 0x0e, 0x10, 0, 0, 0, 1];
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(b"nnnnnnnnnnnn\x11\0\0\0\xa1\xc6\xc3\x51");
        bytes.extend_from_slice(&OUTSIDE.to_ipv6_mapped().octets());
        bytes
    }

    #[test]
    fn requests_are_the_bytes_of_the_rfcs() {
        let bytes = pcp_request(OWN, &request());
        assert_eq!(bytes.len(), 60);
        assert_eq!(bytes[..8], [2, 1, 0, 0, 0, 0, 0x0e, 0x10]);
        assert_eq!(bytes[8..24], OWN.to_ipv6_mapped().octets());
        assert_eq!(bytes[24..44], *b"nnnnnnnnnnnn\x11\0\0\0\xa1\xc6\xa1\xc6");
        assert_eq!(bytes[44..], Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets());
        assert_eq!(pmp_address_request(), [0, 0]);
        assert_eq!(pmp_request(&request()), [0, 1, 0, 0, 0xa1, 0xc6, 0xa1, 0xc6, 0, 0, 0x0e, 0x10]);
        let end = MapRequest { seconds: 0, ..request() };
        assert_eq!(pmp_request(&end), [0, 1, 0, 0, 0xa1, 0xc6, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn answers_are_read_and_belong_to_their_request() {
        let mapped = Mapped { outside: SocketAddrV4::new(OUTSIDE, 0xc351), seconds: 3_600 };
        assert_eq!(pcp_answer(&pcp_bytes(), &request()), Some(Ok(mapped)));
        let others = [MapRequest { nonce: [0; 12], ..request() }, MapRequest { port: 1, ..request() }];
        assert!(others.iter().all(|other| pcp_answer(&pcp_bytes(), other).is_none()));
        let bytes = [0, 0x81, 0, 0, 0, 0, 0, 1, 0xa1, 0xc6, 0xc3, 0x51, 0, 0, 0x0e, 0x10];
        assert_eq!(pmp_answer(&bytes, &request(), OUTSIDE), Some(Ok(mapped)));
        assert_eq!(pmp_answer(&bytes, &MapRequest { port: 1, ..request() }, OUTSIDE), None);
        assert_eq!(pmp_address(&[0, 0x80, 0, 0, 0, 0, 0, 1, 11, 0, 1, 2]), Some(Ok(OUTSIDE)));
    }

    #[test]
    fn refusals_keep_their_code_and_an_older_protocol_is_told_from_silence() {
        let mut refused = pcp_bytes();
        refused[3] = 2;
        assert_eq!(pcp_answer(&refused, &request()), Some(Err(2)));
        let others = [MapRequest { nonce: [0; 12], ..request() }, MapRequest { port: 1, ..request() }];
        assert!(others.iter().all(|other| pcp_answer(&refused, other).is_none()), "others' refusals");
        refused[36] = 6;
        assert_eq!(pcp_answer(&refused, &request()), None, "of TCP");
        assert_eq!(pcp_answer(&refused[..24], &request()), None, "of nothing");
        let older = [0, 0x81, 0, 1, 0, 0, 0, 1];
        assert_eq!(pcp_answer(&older, &request()), Some(Err(UNSUPPORTED_VERSION)));
        assert_eq!(pmp_answer(&[0, 0x81, 0, 2, 0, 0, 0, 1], &request(), OUTSIDE), Some(Err(2)));
        assert_eq!(pmp_address(&[0, 0x80, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0]), Some(Err(3)));
    }

    #[test]
    fn what_is_cut_off_or_asked_back_says_nothing() {
        for length in 0..pcp_bytes().len() {
            assert_eq!(pcp_answer(&pcp_bytes()[..length], &request()), None, "{length}");
        }
        let own = [pcp_request(OWN, &request()), pmp_request(&request()), pmp_address_request()];
        for bytes in &own {
            assert_eq!(pcp_answer(bytes, &request()), None);
            assert_eq!(pmp_answer(bytes, &request(), OUTSIDE), None);
            assert_eq!(pmp_address(bytes), None);
        }
    }
}
