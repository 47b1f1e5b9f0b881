use super::places::KEPT_UNITS;
use super::*;

/// A UDP packet to this port, with so many bytes in all, and a number in its last ones.
fn packet(port: u16, bytes: usize, number: u32) -> Vec<u8> {
    let mut packet = vec![0; bytes];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(bytes as u16).to_be_bytes());
    packet[9] = UDP;
    packet[16..20].copy_from_slice(&[127, 80, 3, 9]);
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    packet[bytes - 4..].copy_from_slice(&number.to_be_bytes());
    packet
}

fn put(waiting: &mut Waiting, packet: &[u8]) -> usize {
    let read = |place: &mut [u8]| {
        place[..packet.len()].copy_from_slice(packet);
        Ok((packet.len(), Offload::default()))
    };
    waiting.take(read).unwrap()
}

/// Port and number of the next packet.
fn next(waiting: &mut Waiting) -> Option<(u16, u32)> {
    let packet = waiting.next()?.packet;
    let number = packet.last_chunk().copied().map(u32::from_be_bytes).unwrap();
    Some((u16::from_be_bytes([packet[22], packet[23]]), number))
}

#[test]
fn a_flow_keeps_its_order() {
    let mut waiting = Waiting::new();
    (0..200).for_each(|number| assert_eq!(put(&mut waiting, &packet(5, 1_400, number)), 0));
    (0..200).for_each(|number| assert_eq!(next(&mut waiting), Some((5, number))));
    assert!(waiting.is_empty());
    assert_eq!(next(&mut waiting), None);
}

#[test]
fn what_sends_little_does_not_stand_behind_what_sends_much() {
    for is_slow in [true, false] {
        let mut waiting = Waiting::new();
        waiting.set_slow(is_slow);
        (0..20).for_each(|number| _ = put(&mut waiting, &packet(1, 60_000, number)));
        assert_eq!(next(&mut waiting), Some((1, 0)), "it was there first");
        for number in 0..5 {
            put(&mut waiting, &packet(2, 84, number));
            assert_eq!(next(&mut waiting), Some((2, number)), "the echo request");
            assert_eq!(next(&mut waiting).map(|(port, _)| port), Some(1), "and then the bulk again");
        }
    }
}

#[test]
fn where_the_way_out_is_fast_turns_are_long() {
    let mut waiting = Waiting::new();
    for number in 0..80 {
        (1..=3).for_each(|port| _ = put(&mut waiting, &packet(port, 16 << 10, number)));
    }
    let ports: Vec<_> = std::iter::from_fn(|| next(&mut waiting)).map(|(port, _)| port).collect();
    let turns: Vec<_> = ports.chunk_by(|one, other| one == other).map(|turn| (turn[0], turn.len())).collect();
    let prompt = [1, 2, 3].map(|port| (port, 1));
    let turns_of = |packets| [1, 2, 3].map(|port| (port, packets));
    // What was sent before the first turn is missing in it.
    assert_eq!(turns, [prompt, turns_of(31), turns_of(32), turns_of(16)].concat());
}

#[test]
fn memory_is_given_back_once_nothing_waits() {
    let mut waiting = Waiting::new();
    // Packets of so many bytes that fit into what is kept.
    let kept = KEPT_UNITS / 16;
    for round in 0..3 {
        (0..=kept as u32).for_each(|number| _ = put(&mut waiting, &packet(1, 65_000, number)));
        assert!(waiting.is_large() && waiting.is_in_need(), "round {round}");
        waiting.give_back();
        (0..=kept as u32).for_each(|number| assert_eq!(next(&mut waiting), Some((1, number))));
        assert!(waiting.is_large() && !waiting.is_in_need(), "it had packets, and could not");
        waiting.give_back();
        assert!(!waiting.is_large());
    }
    (0..kept as u32).for_each(|number| _ = put(&mut waiting, &packet(1, 65_000, number)));
    assert!(!waiting.is_large(), "little is kept");
}

#[test]
fn flows_that_all_send_much_send_the_same() {
    let mut waiting = Waiting::new();
    let sizes = [1_400, 20_000, 60_000];
    let mut sent = [0; 3];
    for _ in 0..2_000 {
        // Each has something waiting at all times, the same number of bytes.
        for (flow, bytes) in sizes.into_iter().enumerate() {
            while waiting.flows[usize::from(flow_of(&packet(flow as u16, bytes, 0)))].bytes < 400_000 {
                assert_eq!(put(&mut waiting, &packet(flow as u16, bytes, 0)), 0);
            }
        }
        let (port, _) = next(&mut waiting).unwrap();
        sent[usize::from(port)] += sizes[usize::from(port)];
    }
    let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
    assert!(most - least <= TURN_BYTES as usize + 2 * 60_000, "{sent:?}");
}

#[test]
fn a_flow_that_sends_little_never_waits_for_a_round() {
    let mut waiting = Waiting::new();
    (1..=10).for_each(|port| (0..40).for_each(|number| _ = put(&mut waiting, &packet(port, 60_000, number))));
    (0..10).for_each(|_| assert!(next(&mut waiting).is_some(), "what each sends before its first turn"));
    // Ten small ones, one after the other, in the time of less than one turn of each of the others.
    for number in 0..10 {
        put(&mut waiting, &packet(99, 84, number));
        assert_eq!(next(&mut waiting), Some((99, number)));
        (0..5).for_each(|_| assert_ne!(next(&mut waiting).unwrap().0, 99));
    }
    // One that goes on sending waits like the others.
    (0..400).for_each(|number| _ = put(&mut waiting, &packet(99, 1_000, number)));
    let before = std::iter::from_fn(|| next(&mut waiting)).take(17).filter(|(port, _)| *port == 99).count();
    assert!((10..=16).contains(&before), "{before} of 1,000 bytes each");
}

#[test]
fn of_much_that_waits_each_flow_loses_one_segment_and_not_before_that_has_left_another() {
    let mut waiting = Waiting::new();
    let each = (CALM_BYTES + 2 * CALM_FLOW_BYTES) / 60_000 / 2 + 2;
    (0..each as u32)
        .for_each(|number| (1..=2).for_each(|port| _ = put(&mut waiting, &packet(port, 60_000, number))));
    put(&mut waiting, &packet(3, 84, 0));
    let mut lost = [0; 4];
    for number in 0..4 * each as u32 {
        let due = waiting.next().unwrap();
        let port = u16::from_be_bytes([due.packet[22], due.packet[23]]);
        lost[usize::from(port)] += usize::from(due.loses_one);
        if port != 3 {
            put(&mut waiting, &packet(port, 60_000, number));
        }
    }
    assert!(lost[1..3].iter().all(|lost| (1..=3).contains(lost)), "{lost:?} while each went round twice");
    assert_eq!(lost[3], 0, "it had little waiting");
    let mut calm = Waiting::new();
    (0..each as u32 - 4)
        .for_each(|number| (1..=2).for_each(|port| _ = put(&mut calm, &packet(port, 60_000, number))));
    while let Some(due) = calm.next() {
        assert!(!due.loses_one);
    }
}

#[test]
fn what_does_not_fit_is_dropped_where_most_waits() {
    let mut waiting = Waiting::new();
    put(&mut waiting, &packet(2, 84, 7));
    let dropped: usize = (0..1_000).map(|number| put(&mut waiting, &packet(1, 65_000, number))).sum();
    assert!((240..=250).contains(&dropped), "48 MiB hold 750 and some: {dropped}");
    assert_eq!(next(&mut waiting), Some((2, 7)));
    (dropped as u32..1_000).for_each(|number| assert_eq!(next(&mut waiting), Some((1, number))));
    assert!(waiting.is_empty());
}

#[test]
fn many_small_packets_of_one_flow_do_not_cost_others_theirs() {
    let mut waiting = Waiting::new();
    (0..100).for_each(|number| assert_eq!(put(&mut waiting, &packet(1, 60_000, number)), 0));
    let dropped: usize = (0..5_000).map(|number| put(&mut waiting, &packet(2, 100, number))).sum();
    assert_eq!(dropped, 5_100 - (PACKETS_MAX - 1), "and one place is free");
    let of_first = std::iter::from_fn(|| next(&mut waiting)).filter(|(port, _)| *port == 1).count();
    assert_eq!(of_first, 100);
}

#[test]
fn what_cannot_be_read_leaves_no_trace() {
    let mut waiting = Waiting::new();
    let error = waiting.take(|_| Err(ErrorKind::WouldBlock.into())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(waiting.is_empty());
    put(&mut waiting, &packet(1, 100, 3));
    waiting.clear();
    assert!(waiting.is_empty());
    assert_eq!((next(&mut waiting), waiting.bytes), (None, 0));
}

#[test]
fn fragments_of_a_packet_share_a_flow() {
    let [mut first, mut last] = [packet(9, 1_000, 0), packet(77, 600, 0)];
    first[6] = 0x20;
    last[7] = 100;
    assert_eq!(flow_of(&first), flow_of(&last));
    assert_ne!(flow_of(&packet(9, 1_000, 0)), flow_of(&packet(77, 600, 0)));
}
