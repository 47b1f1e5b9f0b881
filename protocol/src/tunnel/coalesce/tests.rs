//! What comes out, cut again, is what went in, in the order of each flow.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::tunnel::segment::{TcpCut, UdpCut};
use crate::wire::ip::samples::counted;

/// One packet to be made: which flow, and how it differs from the one that a sender would write next.
#[derive(Clone, Debug)]
struct Step {
    flow: u8,
    payload: usize,
    twist: u8,
    ends_turn: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let payload = prop_oneof![8 => Just(100usize), 1 => 0usize..120];
    let twist = prop_oneof![12 => Just(0u8), 1 => 1u8..12];
    let step = (0u8..11, payload, twist, prop::bool::weighted(0.03))
        .prop_map(|(flow, payload, twist, ends_turn)| Step { flow: flow / 4, payload, twist, ends_turn });
    prop::collection::vec(step, 1..300)
}

proptest! {
    #[test]
    fn cut_again_it_is_what_went_in(steps in steps(), spread in any::<bool>()) {
        let mut senders = BTreeMap::new();
        let mut packets: Vec<(Vec<u8>, bool)> = steps
            .iter()
            .enumerate()
            .map(|(number, step)| {
                let flow = if spread { number as u8 % 11 } else { step.flow };
                let next = senders.entry(flow).or_insert((u32::MAX - 300, 0xfffe));
                (packet(flow, step, next), step.ends_turn)
            })
            .collect();
        let sent: Vec<_> = packets.iter().map(|(packet, _)| packet.clone()).collect();

        let (out, count) = run(&mut packets);

        prop_assert!(count <= sent.len());
        prop_assert_eq!(by_flow(&out), by_flow(&sent));
    }

    #[test]
    fn no_bytes_make_it_panic(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 20..120), 1..9)) {
        let mut packets: Vec<_> = packets.into_iter().map(|packet| (packet, false)).collect();
        let count = packets.len();
        prop_assert_eq!(run(&mut packets).1, count);
    }
}

proptest! {
    #[test]
    fn datagrams_cut_again_are_what_went_in(steps in steps(), is_counted in any::<bool>()) {
        let mut next_ids = BTreeMap::new();
        let mut packets: Vec<(Vec<u8>, bool)> = steps
            .iter()
            .map(|step| {
                let id = next_ids.entry(step.flow).or_insert(0xfffe_u16);
                *id = id.wrapping_add(u16::from(is_counted));
                (datagram(step, *id), step.ends_turn)
            })
            .collect();
        let sent: Vec<_> = packets.iter().map(|(packet, _)| packet.clone()).collect();

        let (out, count) = run(&mut packets);

        prop_assert!(count <= sent.len());
        prop_assert_eq!(by_flow(&told(&out)), by_flow(&told(&sent)));
    }
}

#[test]
fn a_burst_of_datagrams_becomes_one_packet() {
    let step = |payload| Step { flow: 1, payload, twist: 0, ends_turn: false };
    let sizes = std::iter::repeat_n(128, 63).chain([100]);
    let mut packets: Vec<_> = sizes.map(|bytes| (datagram(&step(bytes), 0), false)).collect();
    let (out, count) = run(&mut packets);
    assert_eq!((out.len(), count), (64, 1));
}

#[test]
fn datagrams_stay_alone_where_the_kernel_takes_no_others() {
    let step = Step { flow: 1, payload: 128, twist: 0, ends_turn: false };
    let mut packets: Vec<_> = (0..3).map(|_| datagram(&step, 0)).collect();
    let mut alone = 0;
    let mut coalescer = Coalescer::new(false);
    let mut emit = |packet: &Coalesced<'_, '_>| alone += usize::from(packet.segment_bytes.is_none());
    packets.iter_mut().for_each(|packet| coalescer.take(packet, &mut emit));
    coalescer.finish(&mut emit);
    assert_eq!(alone, 3);
}

#[test]
fn a_burst_becomes_one_packet() {
    let mut next = (7, 7);
    let step = |twist| Step { flow: 1, payload: 1_368, twist, ends_turn: false };
    let mut packets: Vec<_> =
        (0..47).map(|number| (packet(1, &step(u8::from(number == 46)), &mut next), false)).collect();
    let (out, count) = run(&mut packets);
    assert_eq!((out.len(), count), (47, 1));
}

#[test]
fn a_wrong_checksum_stays_alone_and_wrong() {
    let mut next = (7, 7);
    let step = Step { flow: 1, payload: 100, twist: 0, ends_turn: false };
    let mut packets: Vec<_> = (0..3).map(|_| (packet(1, &step, &mut next), false)).collect();
    packets[1].0[70] ^= 1;
    let sent: Vec<_> = packets.iter().map(|(packet, _)| packet.clone()).collect();
    let (out, count) = run(&mut packets);
    assert_eq!((out, count), (sent, 3));
}

/// Coalesces, turn by turn, and cuts again; also says how many packets and super-packets there were.
fn run(packets: &mut [(Vec<u8>, bool)]) -> (Vec<Vec<u8>>, usize) {
    let (mut out, mut count) = (Vec::new(), 0);
    let mut emit = |packet: &Coalesced<'_, '_>| {
        count += 1;
        let whole = [packet.headers, &packet.payloads.concat()].concat();
        if packet.segment_bytes.is_none() {
            return out.push(whole);
        }
        let segment_bytes = packet.segment_bytes.unwrap();
        let mut cut: Vec<Vec<u8>> = Vec::new();
        if whole[9] == UDP {
            let pieces = UdpCut::new(&whole, segment_bytes).unwrap();
            cut.resize_with(pieces.count(), Vec::new);
            for (index, piece) in cut.iter_mut().enumerate() {
                piece.resize(pieces.packet_bytes(index), 0);
                pieces.write(index, piece);
            }
        } else {
            let pieces = TcpCut::new(&whole, usize::MAX, Some(segment_bytes)).unwrap();
            cut.resize_with(pieces.count(), Vec::new);
            for (index, piece) in cut.iter_mut().enumerate() {
                piece.resize(pieces.packet_bytes(index), 0);
                pieces.write(index, piece);
            }
        }
        assert_eq!(cut.len(), packet.payloads.len());
        out.append(&mut cut);
    };
    let mut coalescer = Coalescer::new(true);
    for (packet, ends_turn) in packets {
        coalescer.take(packet, &mut emit);
        if *ends_turn {
            coalescer.finish(&mut emit);
        }
    }
    coalescer.finish(&mut emit);
    (out, count)
}

/// Each flow's packets in their order. Fragments and other protocols are flows of their own.
fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for packet in packets {
        flows.entry([&packet[9..10], &packet[FLOW]].concat()).or_default().push(packet.clone());
    }
    flows
}

/// The packets without what says nothing: the identification of those that may not be fragmented, and the checksum over
/// it.
fn told(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut packets = packets.to_vec();
    for packet in packets.iter_mut().filter(|packet| packet[6] & DONT_FRAGMENT != 0) {
        assert_eq!(Sum::default().add_bytes(&packet[..20]).checksum(), 0, "a right header");
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packets
}

/// Writes a UDP packet of `step.flow` with this identification.
fn datagram(step: &Step, id: u16) -> Vec<u8> {
    let mut packet = vec![0; 28];
    packet[0] = 0x45;
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6] = DONT_FRAGMENT;
    packet[8] = 64;
    packet[9] = UDP;
    packet[12..24].copy_from_slice(&[127, 80, 1, 2, 127, 80, 3, 4, 0x12, step.flow, 0, 53]);
    match step.twist {
        1 | 2 => packet[6] = 0,
        3 => packet[6] = 0x20,
        4 => packet[8] = 63,
        5 => packet[1] = 2,
        6 => packet[6] = 0xc0,
        _ => {}
    }
    packet.extend((0..step.payload).map(|at| (at as u8) ^ (id as u8)));
    let total = packet.len() as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[24..26].copy_from_slice(&(total - 20 + u16::from(step.twist == 7)).to_be_bytes());
    let checksum = counted(&packet[..20]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    let pseudo = [&packet[12..20], &[0, UDP][..], &(total - 20).to_be_bytes()].concat();
    let checksum = match counted(&[&pseudo, &packet[20..]].concat()) {
        _ if step.twist == 8 => 0,
        checksum if step.twist == 9 => checksum ^ 0x0100,
        0 => 0xffff,
        checksum => checksum,
    };
    packet[26..28].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// Writes the next packet of `flow`; `next` is its sequence number and identification.
fn packet(flow: u8, step: &Step, next: &mut (u32, u16)) -> Vec<u8> {
    let mut packet = vec![0; 52];
    packet[0] = 0x45;
    packet[6] = 0x40;
    packet[8] = 64;
    packet[9] = if step.twist == 2 { 17 } else { 6 };
    packet[12..24].copy_from_slice(&[127, 80, 1, 2, 127, 80, 3, 4, 0x12, flow, 0, 80]);
    if step.twist == 3 {
        next.0 = next.0.wrapping_add(1);
    }
    if step.twist == 4 {
        next.1 = next.1.wrapping_add(1);
    }
    packet[4..6].copy_from_slice(&next.1.to_be_bytes());
    packet[24..28].copy_from_slice(&next.0.to_be_bytes());
    packet[32] = 8 << 4;
    packet[33] = ACK;
    packet[34] = 9;
    match step.twist {
        1 => packet[33] |= PSH,
        5 => packet[33] |= 0x01,
        6 => packet[33] |= 0x80,
        7 => packet[35] = 1,
        8 => packet[51] = 1,
        9 => packet[1] = 2,
        10 => packet[30] = 1,
        11 => packet[6] = 0x20,
        _ => {}
    }
    packet.extend((0..step.payload).map(|at| (at as u8) ^ (next.0 as u8)));
    let total = packet.len() as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    let checksum = counted(&packet[..20]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    let pseudo = [&packet[12..20], &[0, 6][..], &(total - 20).to_be_bytes()].concat();
    let checksum = counted(&[&pseudo, &packet[20..]].concat());
    packet[36..38].copy_from_slice(&checksum.to_be_bytes());
    *next = (next.0.wrapping_add(step.payload as u32), next.1.wrapping_add(1));
    packet
}
