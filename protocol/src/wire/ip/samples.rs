//! Packets for tests, built whole from their meaning: every checksum is a full count, word by word as RFC 1071
//! §1 tells it, so that it shares nothing with the code that it judges.

use std::net::Ipv4Addr;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{ECHO_REPLY, ECHO_REQUEST, ICMP, PARAMETER_PROBLEM, TCP, TIME_EXCEEDED, UDP, UNREACHABLE};

/// One packet, but for its addresses.
#[derive(Clone, Debug)]
pub(crate) enum Sample {
    /// Any ports and flags, `options` words of options.
    Tcp { head: [u8; 20], options: u8, data: Vec<u8> },
    /// With or without a checksum.
    Udp { ports: [u8; 4], has_checksum: bool, data: Vec<u8> },
    /// An echo request or reply.
    Echo { kind: u8, data: Vec<u8> },
    /// An error that quotes the first bytes of a packet that went the other way, then `behind`.
    Error { kind: u8, quoted: Box<Sample>, quote_bytes: usize, behind: Vec<u8> },
    /// `bytes` of the payload of another packet from `at` on.
    Fragment { whole: Box<Sample>, at: usize, bytes: usize },
}

impl Sample {
    /// The packet between these addresses.
    pub(crate) fn build(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        match self {
            Self::Tcp { head, options, data } => {
                let mut payload = head.to_vec();
                payload[12] = (5 + options) << 4;
                payload.extend(vec![1; usize::from(*options) * 4]);
                payload.extend(data);
                set_transport_checksum(&mut payload, 16, TCP, source, destination);
                packet(TCP, source, destination, 0x4000, &payload)
            }
            Self::Udp { ports, has_checksum, data } => {
                let mut payload = ports.to_vec();
                payload.extend((8 + data.len() as u16).to_be_bytes());
                payload.extend([0, 0]);
                payload.extend(data);
                if *has_checksum {
                    set_transport_checksum(&mut payload, 6, UDP, source, destination);
                }
                packet(UDP, source, destination, 0, &payload)
            }
            Self::Echo { kind, data } => icmp(&[*kind, 0, 0, 0, 7, 7, 0, 1], data, source, destination),
            Self::Error { kind, quoted, quote_bytes, behind } => {
                let mut quote = quoted.build(destination, source);
                quote.truncate(28.max(*quote_bytes));
                quote.extend(behind);
                icmp(&[*kind, 3, 0, 0, 0, 0, 0, 0], &quote, source, destination)
            }
            Self::Fragment { whole, at, bytes } => {
                let whole = whole.build(source, destination);
                let payload = &whole[20..];
                let at = at / 8 * 8;
                let end = (at + bytes.next_multiple_of(8)).min(payload.len());
                let more = if end < payload.len() { 0x2000 } else { 0 };
                packet(
                    whole[9],
                    source,
                    destination,
                    more | (at / 8) as u16,
                    payload.get(at..end).unwrap_or_default(),
                )
            }
        }
    }
}

/// Whole packets that are no errors.
pub(crate) fn plain() -> impl Strategy<Value = Sample> + Clone {
    let data = || vec(any::<u8>(), 0..90);
    prop_oneof![
        (any::<[u8; 20]>(), 0u8..=10, data()).prop_map(|(head, options, data)| Sample::Tcp {
            head,
            options,
            data
        }),
        (any::<[u8; 4]>(), any::<bool>(), data()).prop_map(|(ports, has_checksum, data)| Sample::Udp {
            ports,
            has_checksum,
            data
        }),
        (prop_oneof![Just(ECHO_REQUEST), Just(ECHO_REPLY)], data())
            .prop_map(|(kind, data)| Sample::Echo { kind, data }),
    ]
}

/// Fragments of them: the first with the whole transport header, later ones behind any.
pub(crate) fn fragment() -> impl Strategy<Value = Sample> + Clone {
    let first = (plain(), 60usize..90).prop_map(|(whole, bytes)| (whole, 0, bytes));
    let later = (plain(), 64usize..150, 1usize..90);
    prop_oneof![first, later].prop_map(|(whole, at, bytes)| Sample::Fragment {
        whole: Box::new(whole),
        at,
        bytes,
    })
}

/// Errors about any of these, with quotes of every length and something behind some.
pub(crate) fn error() -> impl Strategy<Value = Sample> + Clone {
    let kinds = prop_oneof![Just(UNREACHABLE), Just(TIME_EXCEEDED), Just(PARAMETER_PROBLEM)];
    let quoted = prop_oneof![plain(), fragment()]
        .prop_filter("too short to be quoted", |sample| sample.build(ANY, ANY).len() >= 28);
    (kinds, quoted, 28usize..140, vec(any::<u8>(), 0..30)).prop_map(|(kind, quoted, quote_bytes, behind)| {
        let length = quoted.build(ANY, ANY).len();
        // With half of a TCP checksum in it, no one quote is the right one.
        let quote_bytes = if quote_bytes == 37 { 36 } else { quote_bytes };
        // What follows a quote that was cut would be read as its data, which no sender means.
        let behind = if quote_bytes < length { Vec::new() } else { behind };
        Sample::Error { kind, quoted: Box::new(quoted), quote_bytes, behind }
    })
}

/// Every packet that is carried.
pub(crate) fn carried() -> impl Strategy<Value = Sample> + Clone {
    let fragment = fragment().prop_filter("nothing left", |sample| sample.build(ANY, ANY).len() > 20);
    prop_oneof![plain(), fragment, error()]
}

/// Any address.
pub(crate) fn address() -> impl Strategy<Value = Ipv4Addr> + Clone {
    any::<u32>().prop_map(Ipv4Addr::from_bits)
}

/// A packet with this payload; `flags_and_offset` as in the header.
pub(crate) fn packet(
    protocol: u8,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    flags_and_offset: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(flags_and_offset.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let checksum = counted(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// The checksum of `bytes`.
pub(crate) fn counted(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

const ANY: Ipv4Addr = Ipv4Addr::new(127, 80, 0, 1);

fn icmp(head: &[u8; 8], rest: &[u8], source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let mut payload = [head, rest].concat();
    let checksum = counted(&payload);
    payload[2..4].copy_from_slice(&checksum.to_be_bytes());
    packet(ICMP, source, destination, 0, &payload)
}

fn set_transport_checksum(
    payload: &mut [u8],
    at: usize,
    protocol: u8,
    source: Ipv4Addr,
    destination: Ipv4Addr,
) {
    payload[at..at + 2].fill(0);
    let length = (payload.len() as u16).to_be_bytes();
    let pseudo = [&source.octets()[..], &destination.octets(), &[0, protocol], &length, payload].concat();
    let checksum = match (protocol, counted(&pseudo)) {
        (UDP, 0) => 0xffff,
        (_, checksum) => checksum,
    };
    payload[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}
