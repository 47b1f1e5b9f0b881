//! The pieces are valid, and put together they are the packet.

use proptest::prelude::*;

use super::*;

fn packet(options: usize, flags: u8, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let header_bytes = 40 + options * 4;
    let mut packet = vec![0; header_bytes];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&((header_bytes + payload.len()) as u16).to_be_bytes());
    packet[4..6].copy_from_slice(&0xfffeu16.to_be_bytes());
    packet[6] = 0x40;
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&[127, 80, 1, 2]);
    packet[16..20].copy_from_slice(&[127, 80, 3, 4]);
    packet[24..28].copy_from_slice(&sequence.to_be_bytes());
    packet[32] = ((5 + options) << 4) as u8;
    packet[33] = flags;
    packet.extend_from_slice(payload);
    packet
}

fn pieces(packet: &[u8], max_bytes: usize, segment_bytes: Option<NonZeroU16>) -> Vec<Vec<u8>> {
    let cut = TcpCut::new(packet, max_bytes, segment_bytes).unwrap();
    (0..cut.count())
        .map(|index| {
            let mut out = vec![0; cut.packet_bytes(index)];
            cut.write(index, &mut out);
            out
        })
        .collect()
}

/// The slow definition of RFC 1071.
fn checksum_of(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

proptest! {
    #[test]
    fn the_pieces_are_valid_and_carry_the_same_bytes(
        options in 0usize..=10,
        flags in any::<u8>().prop_map(|flags| flags & !URG),
        sequence in any::<u32>(),
        payload in prop::collection::vec(any::<u8>(), 0..3_000),
        max_bytes in 81usize..1_500,
        segment_bytes in prop::option::of(1u16..1_600),
    ) {
        let whole = packet(options, flags, sequence, &payload);
        let segment_bytes = segment_bytes.and_then(NonZeroU16::new);
        let pieces = pieces(&whole, max_bytes, segment_bytes);
        let header_bytes = 40 + options * 4;
        let mut together = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            let (first, last) = (index == 0, index + 1 == pieces.len());
            prop_assert!(piece.len() <= max_bytes);
            let limit = segment_bytes.map_or(max_bytes, |given| usize::from(given.get()));
            prop_assert!(piece.len() - header_bytes <= limit);
            prop_assert_eq!(usize::from(u16::from_be_bytes([piece[2], piece[3]])), piece.len());
            prop_assert_eq!(checksum_of(&[&piece[..20]]), 0xffff);
            let length = ((piece.len() - 20) as u16).to_be_bytes();
            prop_assert_eq!(checksum_of(&[&piece[12..20], &[0, 6], &length, &piece[20..]]), 0xffff);
            let at = u32::from_be_bytes([piece[24], piece[25], piece[26], piece[27]]);
            prop_assert_eq!(at, sequence.wrapping_add(together.len() as u32));
            let expected = flags & !(if last { 0 } else { FIN | PSH }) & !(if first { 0 } else { CWR });
            prop_assert_eq!(piece[33], expected);
            prop_assert_eq!(&piece[40..header_bytes], &whole[40..header_bytes]);
            together.extend_from_slice(&piece[header_bytes..]);
        }
        prop_assert_eq!(together, payload);
    }

    #[test]
    fn the_datagrams_of_a_super_packet_are_valid_and_carry_the_same_bytes(
        payload in prop::collection::vec(any::<u8>(), 1..3_000),
        segment_bytes in 1u16..1_400,
    ) {
        let mut whole = packet(0, 0, 0, &[])[..20].to_vec();
        whole[9] = 17;
        whole[2..4].copy_from_slice(&(28 + payload.len() as u16).to_be_bytes());
        whole.extend_from_slice(&[1, 2, 3, 4, 0xaa, 0xaa, 0xbb, 0xbb]);
        whole.extend_from_slice(&payload);
        let cut = UdpCut::new(&whole, NonZeroU16::new(segment_bytes).unwrap()).unwrap();
        let mut together = Vec::new();
        for index in 0..cut.count() {
            let mut piece = vec![0; cut.packet_bytes(index)];
            cut.write(index, &mut piece);
            prop_assert_eq!(checksum_of(&[&piece[..20]]), 0xffff);
            prop_assert_eq!(usize::from(u16::from_be_bytes([piece[2], piece[3]])), piece.len());
            prop_assert_eq!(u16::from_be_bytes([piece[4], piece[5]]), 0xfffeu16.wrapping_add(index as u16));
            prop_assert_eq!(usize::from(u16::from_be_bytes([piece[24], piece[25]])), piece.len() - 20);
            prop_assert_eq!(checksum_of(&[&piece[12..20], &[0, 17], &piece[24..26], &piece[20..]]), 0xffff);
            prop_assert_ne!(&piece[26..28], &[0, 0]);
            prop_assert!(piece.len() - 28 == usize::from(segment_bytes) || index + 1 == cut.count());
            together.extend_from_slice(&piece[28..]);
        }
        prop_assert_eq!(together, payload);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), max_bytes in 0usize..200) {
        if let Some(cut) = TcpCut::new(&bytes, max_bytes, None) {
            for index in 0..cut.count() {
                cut.write(index, &mut vec![0; cut.packet_bytes(index)]);
            }
        }
    }
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let whole = packet(0, 0, 0, &[1; 100]);
    assert!(TcpCut::new(&whole, 40, None).is_none(), "no room for a payload");
    let alter = |at: usize, value: u8| {
        let mut altered = whole.clone();
        altered[at] = value;
        altered
    };
    assert!(TcpCut::new(&alter(9, 17), 100, None).is_none(), "not TCP");
    assert!(TcpCut::new(&alter(6, 0x20), 100, None).is_none(), "a fragment");
    assert!(TcpCut::new(&alter(0, 0x46), 100, None).is_none(), "IP options");
}

#[test]
fn the_urgent_pointer_points_to_the_same_byte_in_every_piece() {
    let mut whole = packet(0, URG, 0, &[1; 100]);
    whole[38..40].copy_from_slice(&60u16.to_be_bytes());
    let seen: Vec<_> = pieces(&whole, 80, None)
        .iter()
        .map(|piece| (piece[33] & URG != 0, u16::from_be_bytes([piece[38], piece[39]])))
        .collect();
    assert_eq!(seen, [(true, 60), (true, 20), (false, 0)]);
}
