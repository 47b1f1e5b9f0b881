//! Rewriting: a rewritten packet is, byte for byte, the one that would have been built with those addresses.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use crate::alias::{RewriteError, rewrite};
use crate::wire::ip::samples::{Sample, address, carried, counted, error, plain};
use crate::wire::ip::{ECHO_REPLY, ICMP, IpError, TCP, UDP, UNREACHABLE, samples};

const A: Ipv4Addr = Ipv4Addr::new(127, 80, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(127, 80, 12, 7);
const C: Ipv4Addr = Ipv4Addr::new(127, 99, 3, 9);
const D: Ipv4Addr = Ipv4Addr::new(127, 99, 200, 1);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn checksums_are_those_of_a_full_count(
        sample in carried(), a in address(), b in address(), c in address(), d in address(),
    ) {
        let mut packet = sample.build(a, b);
        prop_assert_eq!(rewrite(&mut packet, c, d), Ok(()));
        prop_assert_eq!(packet, sample.build(c, d));
    }

    #[test]
    fn there_and_back_gives_the_same_bytes(
        sample in carried(), a in address(), b in address(), c in address(), d in address(),
    ) {
        let before = sample.build(a, b);
        let mut packet = before.clone();
        prop_assert_eq!(rewrite(&mut packet, c, d), Ok(()));
        prop_assert_eq!(rewrite(&mut packet, a, b), Ok(()));
        prop_assert_eq!(packet, before);
    }

    #[test]
    fn a_wrong_checksum_is_not_made_right(sample in plain(), flip in 1u8..=255) {
        // The source port or the ICMP code: what the checksum is of, and rewriting does not look at.
        let (mut packet, mut expected) = (sample.build(A, B), sample.build(C, D));
        packet[21] ^= flip;
        expected[21] ^= flip;
        prop_assert_eq!(rewrite(&mut packet, C, D), Ok(()));
        prop_assert_eq!(packet, expected);
    }

    #[test]
    fn a_quote_between_others_is_refused(sample in error(), which in 0usize..2, flip in 1u8..=255) {
        let mut packet = sample.build(A, B);
        packet[28 + 12 + which * 4] ^= flip;
        unchanged(&packet, RewriteError::Quote);
    }

    #[test]
    fn the_error_of_a_packet_that_was_sent_the_same_way_is_refused(sample in error()) {
        let mut packet = sample.build(A, B);
        let (source, destination): ([u8; 4], [u8; 4]) =
            (packet[40..44].try_into().unwrap(), packet[44..48].try_into().unwrap());
        packet[40..44].copy_from_slice(&destination);
        packet[44..48].copy_from_slice(&source);
        unchanged(&packet, RewriteError::Quote);
    }
}

#[test]
fn a_udp_checksum_that_becomes_zero_is_sent_as_all_ones() {
    // The last word makes the sum come out, between the addresses that are given.
    let short = Sample::Udp { ports: [1, 2, 3, 4], has_checksum: true, data: vec![0, 0] }.build(C, D);
    let sample = Sample::Udp { ports: [1, 2, 3, 4], has_checksum: true, data: short[26..28].to_vec() };
    assert_eq!(sample.build(C, D)[26..28], [0xff, 0xff]);
    let mut packet = sample.build(A, B);
    assert_ne!(packet[26..28], [0xff, 0xff]);
    assert_eq!(rewrite(&mut packet, C, D), Ok(()));
    assert_eq!(packet, sample.build(C, D));
    assert_eq!(rewrite(&mut packet, A, B), Ok(()));
    assert_eq!(packet, sample.build(A, B));
}

#[test]
fn a_udp_packet_without_checksum_gets_none() {
    let mut packet = Sample::Udp { ports: [1; 4], has_checksum: false, data: vec![5; 7] }.build(A, B);
    assert_eq!(rewrite(&mut packet, C, D), Ok(()));
    assert_eq!(packet[26..28], [0, 0]);
}

#[test]
fn transport_headers_that_are_cut_short_are_refused() {
    for (protocol, header_bytes) in [(TCP, 20), (UDP, 8), (ICMP, 8)] {
        for length in 0..header_bytes {
            unchanged(&samples::packet(protocol, A, B, 0, &vec![8; length]), RewriteError::Truncated);
            unchanged(&samples::packet(protocol, A, B, 0x2000, &vec![8; length]), RewriteError::Truncated);
        }
    }
}

#[test]
fn other_protocols_and_other_icmp_are_refused() {
    for protocol in (0..=255).filter(|protocol| ![TCP, UDP, ICMP].contains(protocol)) {
        unchanged(&samples::packet(protocol, A, B, 0, &[0; 40]), RewriteError::Protocol);
        unchanged(&samples::packet(protocol, A, B, 8, &[0; 40]), RewriteError::Protocol);
    }
    for kind in (0..=255).filter(|kind| ![0, 3, 8, 11, 12].contains(kind)) {
        unchanged(&samples::packet(ICMP, A, B, 0, &[kind; 40]), RewriteError::Icmp);
    }
}

#[test]
fn headers_that_are_not_carried_are_refused() {
    let mut options = samples::packet(UDP, A, B, 0, &[0; 40]);
    options[0] = 0x46;
    unchanged(&options, RewriteError::Ip(IpError::Options));
    let mut v6 = samples::packet(41, A, B, 0, &[0; 40]);
    v6[0] = 0x60;
    unchanged(&v6, RewriteError::Ip(IpError::Ipv6));
    unchanged(&[], RewriteError::Ip(IpError::Malformed));
}

#[test]
fn quotes_that_cannot_be_rewritten_are_refused() {
    let quoted = Sample::Udp { ports: [1; 4], has_checksum: true, data: vec![1; 9] }.build(B, A);
    for length in 0..28 {
        unchanged(&with_quote(&quoted[..length]), RewriteError::Quote);
    }
    assert_eq!(rewrite(&mut with_quote(&quoted[..28]), C, D), Ok(()));
    // A first byte of another kind, a total length below 28, a protocol that may cover addresses.
    for (at, value) in [(0, 0x46), (0, 0x65), (0, 0x44), (3, 27), (9, 132)] {
        let mut quote = quoted.clone();
        quote[at] = value;
        unchanged(&with_quote(&quote), RewriteError::Quote);
    }
}

#[test]
fn an_error_that_is_cut_is_refused() {
    let quoted = Sample::Echo { kind: ECHO_REPLY, data: vec![1; 90] }.build(B, A);
    let whole = with_quote(&quoted);
    unchanged(&samples::packet(ICMP, A, B, 0x2000, &whole[20..100]), RewriteError::Quote);
}

#[test]
fn a_quote_that_ends_within_a_tcp_checksum_leaves_the_error_valid() {
    let quoted = Sample::Tcp { head: [3; 20], options: 0, data: Vec::new() };
    let before = quoted.build(B, A);
    let error =
        Sample::Error { kind: UNREACHABLE, quoted: Box::new(quoted), quote_bytes: 37, behind: Vec::new() };
    let mut packet = error.build(A, B);
    assert_eq!(rewrite(&mut packet, C, D), Ok(()));
    assert_eq!((counted(&packet[..20]), counted(&packet[20..]), counted(&packet[28..48])), (0, 0, 0));
    assert_eq!(packet[48..], before[20..37]);
}

/// "Port unreachable" from A to B about a packet that begins like this.
fn with_quote(quote: &[u8]) -> Vec<u8> {
    samples::packet(ICMP, A, B, 0, &[&[3, 3, 0, 0, 0, 0, 0, 0], quote].concat())
}

/// Requires that `packet` is refused and left as it was.
fn unchanged(packet: &[u8], error: RewriteError) {
    let mut changed = packet.to_vec();
    assert_eq!(rewrite(&mut changed, C, D), Err(error));
    assert_eq!(changed, packet);
}
