//! IPv4 views and the error that a node writes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::samples::{address, carried, counted, packet, plain};
use super::*;
use crate::alias::{RewriteError, rewrite};
use crate::filter::{inbound, outbound};

const OWN: Ipv4Addr = Ipv4Addr::new(127, 80, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(127, 80, 12, 7);

#[test]
fn the_fields_are_read_from_known_bytes() {
    let bytes = packet(UDP, OWN, PEER, 0x4000, &[0x16, 0x2e, 0, 53, 0, 9, 0, 0, b'x']);
    let view = Ipv4::parse(&bytes).unwrap();
    assert_eq!((view.source(), view.destination()), (OWN, PEER));
    assert_eq!((view.protocol(), view.ttl()), (UDP, 64));
    assert!(view.dont_fragment() && !view.more_fragments() && !view.is_fragment());
    assert_eq!(view.fragment_offset_bytes(), 0);
    assert_eq!(view.ports(), Some((5678, 53)));
    assert_eq!(view.icmp(), None);
    assert_eq!(view.payload().len(), 9);
}

#[test]
fn a_later_fragment_has_neither_ports_nor_type() {
    for protocol in [TCP, UDP, ICMP] {
        let bytes = packet(protocol, OWN, PEER, 0x2000 | 185, &[1; 16]);
        let view = Ipv4::parse(&bytes).unwrap();
        assert!(view.is_fragment() && view.more_fragments() && !view.dont_fragment());
        assert_eq!(view.fragment_offset_bytes(), 1480);
        assert_eq!((view.ports(), view.icmp()), (None, None));
    }
}

#[test]
fn every_other_first_byte_is_an_error_of_its_kind() {
    let mut bytes = packet(UDP, OWN, PEER, 0, &[0; 60]);
    for first in (0..=255).filter(|first| *first != 0x45) {
        bytes[0] = first;
        let expected = match first {
            0x46..=0x4f => IpError::Options,
            0x60..=0x6f => IpError::Ipv6,
            _ => IpError::Malformed,
        };
        assert_eq!(Ipv4::parse(&bytes).unwrap_err(), expected);
        assert_eq!(Ipv4Mut::parse(&mut bytes).unwrap_err(), expected);
    }
}

#[test]
fn every_truncation_and_every_extension_is_malformed() {
    let bytes = packet(UDP, OWN, PEER, 0, &[0; 12]);
    for length in 0..bytes.len() {
        assert_eq!(Ipv4::parse(&bytes[..length]).unwrap_err(), IpError::Malformed);
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(Ipv4::parse(&longer).unwrap_err(), IpError::Malformed);
}

#[test]
fn no_error_is_written_about_what_must_not_be_answered() {
    let error =
        fragmentation_needed(&Ipv4::parse(&packet(UDP, OWN, PEER, 0, &[0; 8])).unwrap(), 1168).unwrap();
    let later = packet(UDP, OWN, PEER, 185, &[0; 16]);
    let later_icmp = packet(ICMP, OWN, PEER, 185, &[8; 16]);
    let short = packet(UDP, OWN, PEER, 0, &[0; 7]);
    for bytes in [&error[..], &later, &later_icmp, &short] {
        assert_eq!(fragmentation_needed(&Ipv4::parse(bytes).unwrap(), 1168), None);
    }
}

proptest! {
    #[test]
    fn the_error_is_whole_and_comes_from_the_peer(sample in plain(), mtu: u16) {
        let bytes = sample.build(OWN, PEER);
        let error = fragmentation_needed(&Ipv4::parse(&bytes).unwrap(), mtu).unwrap();
        let view = Ipv4::parse(&error).unwrap();
        prop_assert_eq!((view.source(), view.destination()), (PEER, OWN));
        prop_assert_eq!(view.icmp(), Some((3, 4)));
        prop_assert_eq!(&error[24..28], &[&[0, 0][..], &mtu.to_be_bytes()].concat());
        prop_assert_eq!(&error[28..], &bytes[..28]);
        prop_assert_eq!((counted(&error[..20]), counted(&error[20..])), (0, 0));
        prop_assert_eq!(inbound(&error).map(|_| ()), Ok(()));
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..80)) {
        read_everything(&bytes);
    }

    #[test]
    fn no_damage_to_a_packet_panics(
        sample in carried(), from in address(), to in address(), damage in vec((any::<usize>(), any::<u8>()), 1..6),
        keep in 0usize..200,
    ) {
        let mut bytes = sample.build(from, to);
        bytes.truncate(keep.max(20));
        let length = (bytes.len() as u16).to_be_bytes();
        bytes[2..4].copy_from_slice(&length);
        for (at, value) in damage {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        read_everything(&bytes);
    }
}

fn read_everything(bytes: &[u8]) {
    if let Ok(view) = Ipv4::parse(bytes) {
        let _ = (view.ports(), view.icmp(), fragmentation_needed(&view, 1168));
    }
    let passes = inbound(bytes);
    let _ = outbound(bytes, OWN);
    let _ = Ipv4Mut::parse_quote(&mut bytes.to_vec());
    let mut changed = bytes.to_vec();
    match rewrite(&mut changed, PEER, OWN) {
        Ok(()) => assert_eq!(changed.len(), bytes.len()),
        Err(error) => {
            assert_eq!(changed, bytes, "a packet that is not rewritten stays as it was");
            // Only what an error quotes is left to rewriting to judge.
            assert!(passes.is_err() || error == RewriteError::Quote);
        }
    }
}
