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
    let (packet, _) = waiting.next()?;
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
        let first = if is_slow { 0..1 } else { 0..2 };
        first.for_each(|number| assert_eq!(next(&mut waiting), Some((1, number)), "its first turn"));
        for number in 0..5 {
            put(&mut waiting, &packet(2, 84, number));
            assert_eq!(next(&mut waiting), Some((2, number)), "the echo request");
            assert_eq!(next(&mut waiting).map(|(port, _)| port), Some(1), "and then the bulk again");
        }
    }
}

#[test]
fn where_the_way_out_is_fast_each_sends_a_full_run_of_datagrams_at_a_time() {
    let mut waiting = Waiting::new();
    for number in 0..12 {
        (1..=3).for_each(|port| _ = put(&mut waiting, &packet(port, 16 << 10, number)));
    }
    let ports: Vec<_> = std::iter::from_fn(|| next(&mut waiting)).map(|(port, _)| port).collect();
    let turns: Vec<_> = ports.chunk_by(|one, other| one == other).map(|turn| (turn[0], turn.len())).collect();
    assert_eq!(turns, [1, 2, 3, 1, 2, 3, 1, 2, 3].map(|port| (port, 4)));
}

#[test]
fn memory_is_given_back_once_nothing_waits() {
    let mut waiting = Waiting::new();
    let full = |number| {
        let mut packet = packet(1, 60_000, number);
        packet[28..59_996].fill(0xa5);
        packet
    };
    for round in 0..3 {
        (0..=KEPT_SLOTS as u32).for_each(|number| _ = put(&mut waiting, &full(number)));
        assert!(waiting.is_large() && waiting.is_in_need(), "round {round}");
        waiting.give_back();
        (0..=KEPT_SLOTS as u32).for_each(|number| assert_eq!(next(&mut waiting), Some((1, number))));
        assert!(waiting.is_large() && !waiting.is_in_need(), "it had packets, and could not");
        waiting.give_back();
        assert!(!waiting.is_large() && waiting.slab.iter().filter(|byte| **byte != 0).count() < 256 << 10);
    }
    (0..KEPT_SLOTS as u32).for_each(|number| _ = put(&mut waiting, &packet(1, 60_000, number)));
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
            while waiting.flows[usize::from(flow_of(&packet(flow as u16, bytes, 0)))].bytes < 120_000 {
                assert_eq!(put(&mut waiting, &packet(flow as u16, bytes, 0)), 0);
            }
        }
        let (port, _) = next(&mut waiting).unwrap();
        sent[usize::from(port)] += sizes[usize::from(port)];
    }
    let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
    assert!(most - least <= TURN_BYTES as usize + 60_000, "{sent:?}");
}

#[test]
fn what_does_not_fit_is_dropped_where_most_waits() {
    let mut waiting = Waiting::new();
    put(&mut waiting, &packet(2, 84, 7));
    let fitting = BYTES_MAX / 60_000;
    let dropped: usize = (0..200).map(|number| put(&mut waiting, &packet(1, 60_000, number))).sum();
    assert_eq!(dropped, 200 - fitting);
    assert_eq!(next(&mut waiting), Some((2, 7)));
    (200 - fitting as u32..200).for_each(|number| assert_eq!(next(&mut waiting), Some((1, number))));
    assert!(waiting.is_empty());
}

#[test]
fn when_all_slots_are_taken_nothing_is_read() {
    let mut waiting = Waiting::new();
    waiting.set_slow(true);
    (0..SLOTS as u32).for_each(|number| assert_eq!(put(&mut waiting, &packet(1, 100, number)), 0));
    let error = waiting.take(|_| unreachable!("it would be lost")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(next(&mut waiting), Some((1, 0)));
    put(&mut waiting, &packet(2, 84, 7));
    let before = std::iter::from_fn(|| next(&mut waiting)).take_while(|found| *found != (2, 7)).count();
    assert!(
        before <= SLOW_TURN_BYTES as usize / 100 + 1,
        "it waits for the first turn of the others, and not for all: {before}"
    );
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
