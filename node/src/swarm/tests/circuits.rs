//! Circuits between members, and strangers who come over one.

use std::time::Duration;

use libp2p::futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::futures::{FutureExt as _, StreamExt as _};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, SwarmBuilder, noise, relay, tcp, yamux};
use tokio::time::{Instant, sleep, timeout};

use super::super::circuits::{SAFE_FOR, UNPROVEN};
use super::beacon::{Silent, StockBeacon, Ways};
use super::*;
use crate::swarm::behaviour::build;
use crate::swarm::outward;

/// A beacon, and a member that is reachable there.
async fn reachable() -> (StockBeacon, Member, (Beacon, PeerId)) {
    let beacon = StockBeacon::start(Ways::default(), &[]).await;
    let mut member = Member::new(&[beacon.beacon]);
    member.ask(Ask::Reserve(true));
    let place = member.reserved().await.unwrap();
    (beacon, member, place)
}

#[tokio::test]
async fn frames_go_both_ways_over_several_circuits_between_two_members() {
    let (beacon, mut callee, place) = reachable().await;
    let mut caller = Member::new(&[beacon.beacon]);
    for circuit in 0..4_u32 {
        // Frames that are given before it stands wait for it.
        caller.ask(Ask::Open { circuit, beacon: place.0, peer: place.1 });
        caller.ask(Ask::Frame { circuit, bytes: circuit.to_be_bytes().to_vec() });
    }
    let mut seen = Vec::new();
    for _ in 0..4 {
        let (inbound, _) = callee.inbound().await;
        let asked = callee.frame(inbound).await;
        callee.ask(Ask::Vouch(inbound));
        callee.ask(Ask::Frame { circuit: inbound, bytes: [&asked[..], &[9; 1_200]].concat() });
        seen.push(asked);
    }
    seen.sort();
    assert_eq!(seen, (0..4_u32).map(|circuit| circuit.to_be_bytes().to_vec()).collect::<Vec<_>>());
    for circuit in 0..4_u32 {
        let answer = caller.frame(circuit).await;
        assert_eq!(answer, [&circuit.to_be_bytes()[..], &[9; 1_200]].concat());
        caller.ask(Ask::Close(circuit));
        assert_eq!(caller.closed(circuit).await, Ended::Asked);
    }
    for _ in 0..4 {
        let ended = callee.until(|told| match told {
            Told::Closed { ended, .. } => Some(*ended),
            _ => None,
        });
        assert_eq!(ended.await, Ended::Peer);
    }
}

#[tokio::test]
async fn two_members_call_each_other_over_different_beacons() {
    let (_first, mut one, to_one) = reachable().await;
    let (_second, mut other, to_other) = reachable().await;
    call(&mut one, &mut other, to_other).await;
    call(&mut other, &mut one, to_one).await;
}

async fn call(caller: &mut Member, callee: &mut Member, place: (Beacon, PeerId)) {
    caller.open(3, place).await.unwrap();
    caller.ask(Ask::Frame { circuit: 3, bytes: b"hello".to_vec() });
    let (inbound, _) = callee.inbound().await;
    assert_eq!(callee.frame(inbound).await, b"hello");
}

#[tokio::test]
async fn a_circuit_nobody_vouches_for_ends_after_five_seconds() {
    let (_beacon, mut callee, place) = reachable().await;
    let mut caller = Member::new(&[place.0]);
    caller.open(1, place).await.unwrap();
    let began_at = Instant::now();
    let (inbound, _) = callee.inbound().await;
    assert_eq!(callee.closed(inbound).await, Ended::Unvouched);
    assert!((4..8).contains(&began_at.elapsed().as_secs()), "{:?}", began_at.elapsed());
    assert_eq!(caller.closed(1).await, Ended::Peer);
    // The place is as it was.
    caller.open(2, place).await.unwrap();
    callee.inbound().await;
}

#[tokio::test]
async fn nobody_at_the_beacon_and_nobody_at_its_address_is_told_apart_from_success() {
    let (beacon, _callee, (at, _)) = reachable().await;
    let mut caller = Member::new(&[beacon.beacon]);
    assert_eq!(caller.open(1, (at, PeerId::random())).await, Err(Ended::Unreachable));
    let nobody = Beacon { peer: PeerId::random(), socket: "127.0.0.1:1".parse().unwrap() };
    assert_eq!(caller.open(2, (nobody, PeerId::random())).await, Err(Ended::Unreachable));
}

#[tokio::test]
async fn eight_circuits_come_in_and_a_ninth_is_refused_until_one_ends() {
    let (_beacon, mut callee, place) = reachable().await;
    // A beacon takes five from one caller.
    let mut callers = [Member::new(&[place.0]), Member::new(&[place.0]), Member::new(&[place.0])];
    let mut inbound = Vec::new();
    for circuit in 0..8 {
        callers[circuit % 2].open(u32::try_from(circuit).unwrap(), place).await.unwrap();
        let (number, _) = callee.inbound().await;
        callee.ask(Ask::Vouch(number));
        inbound.push(number);
    }
    assert_eq!(callers[2].open(100, place).await, Err(Ended::Unreachable));
    callee.ask(Ask::Close(inbound[0]));
    assert_eq!(callee.closed(inbound[0]).await, Ended::Asked);
    assert_eq!(callers[0].closed(0).await, Ended::Peer);
    callers[2].open(101, place).await.unwrap();
}

#[tokio::test]
async fn strangers_in_all_places_give_way_to_who_comes_and_not_to_each_other() {
    let (_beacon, mut callee, place) = reachable().await;
    let mut strangers: Vec<Member> = (0..4).map(|_| Member::new(&[place.0])).collect();
    let mut inbound = Vec::new();
    for stranger in &mut strangers {
        for circuit in 0..4 {
            stranger.open(circuit, place).await.unwrap();
            inbound.push(callee.inbound().await.0);
        }
        assert_eq!(stranger.open(4, place).await, Err(Ended::Unreachable));
    }
    let mut member = Member::new(&[place.0]);
    member.open(7, place).await.unwrap();
    let (proven, _) = callee.inbound().await;
    callee.ask(Ask::Vouch(proven));
    assert_eq!(callee.closed(inbound[0]).await, Ended::Unvouched);
    assert_eq!(strangers[0].closed(0).await, Ended::Peer);
    member.ask(Ask::Frame { circuit: 7, bytes: b"here".to_vec() });
    assert_eq!(callee.frame(proven).await, b"here");
}

#[tokio::test]
async fn as_many_strangers_as_there_are_places_keep_nobody_out_for_longer_than_a_second() {
    let (_beacon, mut callee, place) = reachable().await;
    let mut strangers: Vec<Member> = (0..UNPROVEN).map(|_| Member::new(&[place.0])).collect();
    let mut inbound = Vec::new();
    for stranger in &mut strangers {
        stranger.open(0, place).await.unwrap();
        inbound.push(callee.inbound().await.0);
    }
    sleep(SAFE_FOR).await;
    Member::new(&[place.0]).open(7, place).await.unwrap();
    assert_eq!(callee.closed(inbound[0]).await, Ended::Unvouched, "the oldest gives way");
}

#[tokio::test]
async fn no_more_than_thirty_two_circuits_are_opened_and_an_end_makes_room() {
    let silent = Silent::start().await;
    let mut caller = Member::new(&[silent.beacon]);
    for circuit in 0..33 {
        caller.ask(Ask::Open { circuit, beacon: silent.beacon, peer: PeerId::random() });
    }
    assert_eq!(caller.closed(32).await, Ended::Busy);
    // One that waits is closed at once, and its place is free.
    caller.ask(Ask::Close(31));
    assert_eq!(caller.closed(31).await, Ended::Asked);
    caller.ask(Ask::Open { circuit: 40, beacon: silent.beacon, peer: PeerId::random() });
    caller.ask(Ask::Open { circuit: 41, beacon: silent.beacon, peer: PeerId::random() });
    assert_eq!(caller.closed(41).await, Ended::Busy);
}

/// What a stranger says first; the second is the first message of Noise as libp2p sends it, its contents made up.
fn openings() -> [Vec<u8>; 5] {
    let hello = b"\x13/multistream/1.0.0\n\x07/noise\n";
    let noise = [&hello[..], &[0, 32], &[0x5a; 32]].concat();
    let garbage = (0..4_000_u32).map(|number| ((number * 7_919) >> 3) as u8).collect();
    let frames = [&[0, 60][..], &[0x81; 60]].concat().repeat(3);
    [hello.to_vec(), noise, garbage, frames, Vec::new()]
}

#[tokio::test]
async fn a_stranger_who_says_anything_or_nothing_gets_no_byte() {
    let (_beacon, mut callee, (at, peer)) = reachable().await;
    let ways = outward::Ways::new(outward::tcp);
    ways.inside.allow(true);
    let mut stranger = build(&ways, 1).unwrap();
    let address = at.circuit().with(Protocol::P2p(peer));
    let dialer = stranger.dialer.clone();
    let polled = tokio::spawn(async move {
        loop {
            stranger.swarm.select_next_some().await;
        }
    });
    for opening in openings() {
        let mut pipe = timeout(LIMIT, dialer.open(address.clone())).await.unwrap().unwrap();
        let (inbound, _) = callee.inbound().await;
        let _ = pipe.write_all(&opening).await;
        let _ = pipe.flush().await;
        let mut got = Vec::new();
        let _ = timeout(LIMIT, pipe.read_to_end(&mut got)).await.expect("it is closed");
        assert!(got.is_empty(), "after {opening:?}");
        assert!(matches!(callee.closed(inbound).await, Ended::Malformed | Ended::Unvouched));
        let _ = pipe.close().await;
    }
    polled.abort();
}

#[derive(NetworkBehaviour)]
struct Stranger {
    relay: relay::client::Behaviour,
}

#[tokio::test]
async fn a_stock_libp2p_dialler_comes_to_no_connection() {
    let (_beacon, mut callee, (at, peer)) = reachable().await;
    let mut stranger = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_, relay| Stranger { relay })
        .unwrap()
        .build();
    let address: Multiaddr = at.circuit().with(Protocol::P2p(peer));
    stranger.dial(address).unwrap();
    let ended = async {
        loop {
            match stranger.select_next_some().await {
                SwarmEvent::ConnectionEstablished { peer_id, .. } => assert_eq!(peer_id, at.peer),
                SwarmEvent::OutgoingConnectionError { peer_id: Some(failed), .. } if failed == peer => break,
                _ => {}
            }
        }
    };
    timeout(LIMIT, ended).await.expect("the stranger is turned away");
    // It came as far as the pipe, and what it said was no frame.
    let (inbound, _) = callee.inbound().await;
    assert_eq!(callee.closed(inbound).await, Ended::Malformed);
}

#[tokio::test]
async fn an_owner_who_reads_nothing_keeps_little_and_loses_nothing_that_was_told() {
    let (_beacon, mut callee, place) = reachable().await;
    let mut caller = Member::new(&[place.0]);
    caller.open(1, place).await.unwrap();
    let (inbound, _) = callee.inbound().await;
    callee.ask(Ask::Vouch(inbound));
    for number in 0..40_u8 {
        caller.ask(Ask::Frame { circuit: 1, bytes: vec![number; 100] });
        // As slow as a driver is; a burst beyond the queue would be lost.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(poll_fn(|cx| callee.swarm.poll_told(cx)).now_or_never().is_some());
    let mut last = 0;
    while last < 39 {
        let frame = callee.frame(inbound).await;
        assert!(frame[0] >= last);
        last = frame[0];
    }
}
