//! The verdict: what passes, and every known way to make two readers disagree.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::{inbound, outbound};
use crate::drop::DropReason;
use crate::wire::ip::samples::{carried, packet, plain};
use crate::wire::ip::{ICMP, TCP, UDP};

mod exposed;
mod flows;
mod model;

const OWN: Ipv4Addr = Ipv4Addr::new(127, 80, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(127, 80, 12, 7);
const MORE: u16 = 0x2000;

proptest! {
    #[test]
    fn what_is_carried_passes_both_ways(sample in carried()) {
        prop_assert_eq!(shape(&sample.build(PEER, OWN)), Ok(()));
        prop_assert_eq!(outbound(&sample.build(OWN, PEER), OWN), Ok(PEER));
    }

    #[test]
    fn lengths_that_disagree_are_dropped(sample in plain(), claimed: u16) {
        let mut bytes = sample.build(PEER, OWN);
        prop_assume!(usize::from(claimed) != bytes.len());
        bytes[2..4].copy_from_slice(&claimed.to_be_bytes());
        prop_assert_eq!(shape(&bytes), Err(DropReason::PacketMalformed));
    }

    #[test]
    fn every_truncation_is_dropped(sample in carried(), keep: prop::sample::Index) {
        let bytes = sample.build(PEER, OWN);
        prop_assert_eq!(shape(&bytes[..keep.index(bytes.len())]), Err(DropReason::PacketMalformed));
    }

    #[test]
    fn another_version_or_header_length_is_dropped(sample in carried(), first: u8) {
        prop_assume!(first != 0x45);
        let mut bytes = sample.build(PEER, OWN);
        bytes[0] = first;
        let reason = match first {
            0x46..=0x4f => DropReason::PacketOptions,
            0x60..=0x6f => DropReason::PacketIpv6,
            _ => DropReason::PacketMalformed,
        };
        prop_assert_eq!(shape(&bytes), Err(reason));
    }
}

#[test]
fn a_tunnel_in_the_tunnel_is_dropped() {
    let inner = packet(UDP, PEER, OWN, 0, &[0; 8]);
    for protocol in [0, 2, 4, 41, 43, 44, 47, 50, 51, 60, 132, 255] {
        assert_eq!(shape(&packet(protocol, PEER, OWN, 0, &inner)), Err(DropReason::PacketProtocol));
        assert_eq!(shape(&packet(protocol, PEER, OWN, 8, &inner)), Err(DropReason::PacketProtocol));
    }
}

#[test]
fn tcp_headers_that_do_not_fit_are_dropped() {
    for words in 0..16u8 {
        let mut header = [0; 40];
        header[12] = words << 4;
        let fits = (5..=10).contains(&words);
        let expected = if fits { Ok(()) } else { Err(DropReason::PacketMalformed) };
        assert_eq!(shape(&packet(TCP, PEER, OWN, 0, &header)), expected);
        assert_eq!(shape(&packet(TCP, PEER, OWN, MORE, &header)), expected);
    }
    assert_eq!(shape(&packet(TCP, PEER, OWN, 0, &[0x50; 19])), Err(DropReason::PacketMalformed));
}

#[test]
fn udp_lengths_that_do_not_fit_are_dropped() {
    let with_length = |length: u16, flags| {
        let [high, low] = length.to_be_bytes();
        shape(&packet(UDP, PEER, OWN, flags, &[0, 1, 0, 2, high, low, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9]))
    };
    for length in (0..8).chain([17, 65_535]) {
        assert_eq!(with_length(length, 0), Err(DropReason::PacketMalformed));
    }
    for length in 8..=16 {
        assert_eq!(with_length(length, 0), Ok(()));
    }
    // The rest of a first fragment's length is still to come.
    assert_eq!(with_length(65_000, MORE), Ok(()));
    assert_eq!(with_length(7, MORE), Err(DropReason::PacketMalformed));
    assert_eq!(shape(&packet(UDP, PEER, OWN, 0, &[0; 7])), Err(DropReason::PacketMalformed));
}

#[test]
fn of_icmp_only_echoes_and_errors_pass() {
    for kind in 0..=255 {
        let carried = [0, 3, 8, 11, 12].contains(&kind);
        let expected = if carried { Ok(()) } else { Err(DropReason::PacketIcmp) };
        assert_eq!(shape(&packet(ICMP, PEER, OWN, 0, &[kind, 0, 0, 0, 0, 0, 0, 0])), expected);
    }
    assert_eq!(shape(&packet(ICMP, PEER, OWN, 0, &[8; 7])), Err(DropReason::PacketMalformed));
    assert_eq!(shape(&packet(ICMP, PEER, OWN, MORE, &[3; 64])), Err(DropReason::PacketFragment));
}

#[test]
fn a_fragment_that_could_overwrite_a_tcp_header_is_dropped() {
    for offset in 1..8 {
        for flags in [0, MORE] {
            let bytes = packet(TCP, PEER, OWN, flags | offset, &[0; 64]);
            assert_eq!(shape(&bytes), Err(DropReason::PacketFragment));
        }
    }
    assert_eq!(shape(&packet(TCP, PEER, OWN, 8, &[0; 64])), Ok(()));
    assert_eq!(shape(&packet(UDP, PEER, OWN, 1, &[0; 64])), Ok(()));
    assert_eq!(shape(&packet(ICMP, PEER, OWN, 1, &[0; 64])), Ok(()));
}

#[test]
fn a_first_fragment_without_the_whole_header_is_dropped() {
    let mut tcp = [0; 24];
    tcp[12] = 0x70;
    assert_eq!(shape(&packet(TCP, PEER, OWN, MORE, &tcp)), Err(DropReason::PacketMalformed));
    assert_eq!(shape(&packet(TCP, PEER, OWN, MORE, &tcp[..16])), Err(DropReason::PacketMalformed));
}

#[test]
fn fragments_that_leave_a_hole_or_reach_too_far_are_dropped() {
    for (flags, length) in [(MORE | 10, 7), (MORE, 63), (0x1fff, 1), (0x1ffe, 9), (10, 0), (MORE | 10, 0)] {
        let bytes = packet(UDP, PEER, OWN, flags, &vec![1; length]);
        assert_eq!(shape(&bytes), Err(DropReason::PacketFragment), "{flags:x} {length}");
    }
    // 20 + 8 · 0x1ff0 + 107 bytes make the largest packet there is.
    assert_eq!(shape(&packet(UDP, PEER, OWN, 0x1ff0, &[1; 107])), Ok(()));
    assert_eq!(shape(&packet(UDP, PEER, OWN, 0x1ff0, &[1; 108])), Err(DropReason::PacketFragment));
}

#[test]
fn only_the_own_alias_may_send() {
    let echo = [8, 0, 0, 0, 0, 0, 0, 0];
    for source in [PEER, Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST] {
        let bytes = packet(ICMP, source, PEER, 0, &echo);
        assert_eq!(outbound(&bytes, OWN), Err(DropReason::PacketSource));
    }
}

#[test]
fn nothing_is_sent_to_all_to_many_or_to_oneself() {
    let echo = [8, 0, 0, 0, 0, 0, 0, 0];
    for destination in [Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 251), Ipv4Addr::new(239, 1, 2, 3), OWN]
    {
        let bytes = packet(ICMP, OWN, destination, 0, &echo);
        assert_eq!(outbound(&bytes, OWN), Err(DropReason::PacketUnknownAlias));
    }
}

fn shape(packet: &[u8]) -> Result<(), DropReason> {
    inbound(packet).map(|_| ())
}
