//! What strangers and members can do to a node from outside: nothing that breaks it, and of strangers it says nothing.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "the lab is test code, and its clock starts somewhere"
)]

mod candidates;
mod dht;
mod lab;
mod lan;
mod members;
mod relay;
mod review;

use std::net::SocketAddr;
use std::time::Duration;

use lab::{Lab, STRANGER, config};
use protocol::drop::DropReason;
use protocol::engine::{Command, Engine, Time};
use protocol::filter::{Exposure, Policy, Protocol, Reach};
use protocol::forward::Inbound;
use protocol::identity::{DeviceId, ObjectId, Secret, SigningSecret, StaticSecret};
use protocol::membership::epoch::EpochSecret;
use protocol::membership::object::{Admit, Body, Object, Rekey};
use protocol::random::{self, Rng};
use protocol::wire::cbor::Extensions;
use protocol::wire::header::VEILED;
use protocol::wire::message::Message;
use rand_core::{Rng as _, SeedableRng as _};

const VICTIM: usize = 0;
const FRIEND: usize = 1;
const ROGUE: usize = 2;

#[test]
fn what_a_stranger_alters_or_makes_up_is_not_answered_and_breaks_nothing() {
    let mut lab = Lab::new(2);
    assert!(lab.reaches(FRIEND, VICTIM) && lab.reaches(VICTIM, ROGUE));
    let recorded = lab.heard.clone();
    let mut rng = Rng::from_seed([1; 32]);
    for _ in 0..20_000 {
        let flight = &recorded[below(&mut rng, recorded.len())];
        let altered = alter(&flight.bytes, &mut rng);
        // Also in the name of the sender: then it may be answered, but never elsewhere.
        let from = if one_in(4, &mut rng) { flight.from } else { STRANGER };
        lab.datagram(VICTIM, from, &altered);
    }
    lab.run(Duration::from_secs(1));
    assert!(lab.reaches(FRIEND, VICTIM) && lab.reaches(VICTIM, FRIEND));
}

#[test]
fn each_member_reaches_its_share_also_who_joins_later() {
    let mut lab = Lab::new(1);
    let later = SigningSecret::from_seed(&[3; 32]).public();
    let exposed = |to: Option<DeviceId>| Exposure {
        protocol: Protocol::Udp,
        port: 7,
        to: to.map(|device| [device].into()),
    };
    let only = |exposures| Command::Reach(Reach { policy: Policy::ExposedOnly, exposures });
    assert!(lab.reaches(FRIEND, VICTIM));
    lab.command(VICTIM, only(vec![exposed(Some(later))]));
    assert!(!lab.reaches(FRIEND, VICTIM));

    lab.join(3);
    assert_eq!(lab.id(ROGUE), later);
    assert!(lab.reaches(ROGUE, VICTIM));
    assert!(lab.nodes[VICTIM].packets.iter().all(|packet| packet[16..20] == [127, 0, 0, 1]));
    assert!(!lab.reaches(FRIEND, VICTIM));

    lab.command(VICTIM, only(vec![exposed(None)]));
    assert!(lab.reaches(FRIEND, VICTIM) && lab.reaches(ROGUE, VICTIM));
    lab.command(VICTIM, only(Vec::new()));
    assert!(!lab.reaches(FRIEND, VICTIM) && !lab.reaches(ROGUE, VICTIM));
    lab.command(VICTIM, Command::Reach(Reach::default()));
    assert!(lab.reaches(FRIEND, VICTIM) && lab.reaches(ROGUE, VICTIM));
    assert!(lab.nodes[VICTIM].packets.iter().all(|packet| packet[16..20] != [127, 0, 0, 1]));
}

#[test]
fn what_a_member_says_breaks_nothing() {
    for seed in 0..4 {
        let mut lab = Lab::new(2);
        let mut rng = Rng::from_seed([seed; 32]);
        assert!(lab.reaches(ROGUE, VICTIM));
        for _ in 0..4_000 {
            let bytes = saying(&lab, &mut rng);
            say(&mut lab, &bytes);
            if one_in(8, &mut rng) {
                lab.run(Duration::from_millis(10));
            }
            if one_in(64, &mut rng) {
                // What it said may have ended its sessions.
                let victim = lab.id(VICTIM);
                lab.command(ROGUE, Command::Connect(victim));
                lab.deliver();
            }
        }
        lab.run(Duration::from_secs(30));
        assert!(lab.reaches(FRIEND, VICTIM) && lab.reaches(VICTIM, FRIEND), "seed {seed}");
    }
}

#[test]
fn a_member_that_floods_messages_is_held_back_before_the_queue_of_all() {
    let mut lab = Lab::new(2);
    assert!(lab.reaches(ROGUE, VICTIM));
    let (from, to) = (lab.nodes[ROGUE].address, lab.nodes[VICTIM].address);
    let sealer = lab.nodes[ROGUE].sealer(to).unwrap();
    let now = lab.time().now;
    let kept = (0..5_000)
        .map(|_| sealer.seal_message(&Message::Echo { id: 7, observed: None }.encode()).unwrap())
        .filter_map(|mut datagram| match lab.nodes[VICTIM].forwarder.inbound(from, &mut datagram, now) {
            Inbound::Message { .. } => Some(()),
            _ => None,
        })
        .count();
    assert!(kept <= 1_024, "{kept} messages at one instant");
    assert!(lab.reaches(FRIEND, VICTIM));
}

#[test]
fn a_member_cannot_fill_the_log_with_objects_of_its_own_making() {
    let mut lab = Lab::new(2);
    assert!(lab.reaches(ROGUE, VICTIM));
    let device = lab.nodes[ROGUE].device.clone();
    let before = lab.nodes[VICTIM].stored.len();
    for counter in 1..=9_000u64 {
        let rekey = Rekey {
            device: device.public(),
            counter,
            static_key: StaticSecret::from_bytes([52; 32]).public(),
            time: 1_800_000_000,
            extensions: Extensions::default(),
        };
        let rekey = Object::sign(&lab.vpi, &Body::Rekey(rekey), &[&device]).unwrap();
        offer(&mut lab, &rekey);
        lab.wire.clear();
        if counter % 8 == 0 {
            lab.run(Duration::from_millis(10));
        }
    }
    let stored = lab.nodes[VICTIM].stored.len() - before;
    assert!((1_000..8_192 + 100).contains(&stored), "{stored} objects went to disk");
}

#[test]
fn a_handshake_that_a_stranger_passes_on_does_not_move_a_live_path() {
    for is_response in [false, true] {
        let mut lab = Lab::new(1);
        assert!(lab.reaches(FRIEND, VICTIM));
        lab.deliver();
        let victim = lab.id(VICTIM);
        lab.command(FRIEND, Command::Connect(victim));
        let initiation = lab.wire.pop_front().unwrap();
        assert_eq!(initiation.bytes[0], VEILED);
        // An address that nobody had before, which is not the stranger's: to it the first copy is answered.
        let elsewhere = SocketAddr::from(([198, 51, 100, 1], 5));
        let from = if is_response { initiation.from } else { elsewhere };
        lab.datagram(VICTIM, from, &initiation.bytes);
        let response = lab.wire.pop_front().unwrap();
        let from = if is_response { elsewhere } else { response.from };
        lab.datagram(FRIEND, from, &response.bytes);
        lab.deliver();
        let moved = |lab: &Lab, node: usize| {
            lab.nodes[node].sealers.last().is_some_and(|(remote, _)| *remote == elsewhere)
        };
        assert!(!moved(&lab, VICTIM) && !moved(&lab, FRIEND), "response passed on: {is_response}");
        assert!(lab.reaches(FRIEND, VICTIM) && lab.reaches(VICTIM, FRIEND));
    }
}

#[test]
fn whoever_claims_the_static_key_of_a_later_member_takes_nothing_from_it() {
    let mut lab = Lab::new(2);
    // The elder of the two joiners is the thief.
    let (thief, robbed) = (1, 2);
    assert!(lab.reaches(robbed, VICTIM) && lab.reaches(thief, VICTIM));
    let device = lab.nodes[thief].device.clone();
    let rekey = Rekey {
        device: device.public(),
        counter: 1_000,
        static_key: config(lab.vpi, 3).static_secret.public(),
        time: 1_800_000_000,
        extensions: Extensions::default(),
    };
    let rekey = Object::sign(&lab.vpi, &Body::Rekey(rekey), &[&device]).unwrap();
    offer_as(&mut lab, thief, &rekey);
    let (victim, own) = (lab.id(VICTIM), lab.id(robbed));
    lab.command(robbed, Command::Connect(victim));
    lab.run(Duration::from_secs(3));
    assert!(lab.reaches(robbed, VICTIM));
    let pins = lab.nodes[VICTIM].engine.pins();
    let alias = pins.into_iter().find(|pin| pin.device == own).unwrap().suffix;
    let packet = lab.nodes[VICTIM].packets.last().unwrap();
    assert_eq!(packet[14..16], alias.to_be_bytes(), "its packets come from its own alias");
    // Until no session of before is left.
    lab.run(Duration::from_secs(400));
    assert!(lab.reaches(VICTIM, robbed), "packets to it arrive");
}

#[test]
fn a_secret_that_no_epoch_names_is_not_the_newest_after_a_restart() {
    let lab = Lab::new(0);
    let real = EpochSecret::new(lab.vpi, 0, Secret([9; 32]));
    let given = EpochSecret::new(lab.vpi, u64::MAX, Secret([66; 32]));
    let time: Time = lab.time();
    let objects = lab.nodes[VICTIM].stored.clone();
    let engine = Engine::member(config(lab.vpi, 1), objects, [given, real], time).unwrap();
    assert_eq!(engine.epoch(), 0);
}

/// Has the rogue say `bytes` in its session with the victim; returns why they were dropped.
fn say(lab: &mut Lab, bytes: &[u8]) -> Option<DropReason> {
    say_as(lab, ROGUE, bytes)
}

/// Has a member say `bytes` in its session with the victim; returns why they were dropped.
fn say_as(lab: &mut Lab, node: usize, bytes: &[u8]) -> Option<DropReason> {
    let (from, to) = (lab.nodes[node].address, lab.nodes[VICTIM].address);
    let datagram = lab.nodes[node].sealer(to)?.seal_message(bytes).unwrap();
    lab.datagram(VICTIM, from, &datagram)
}

/// Has the rogue list an object and send its pieces as soon as they are asked for.
fn offer(lab: &mut Lab, object: &Object) {
    offer_as(lab, ROGUE, object);
}

fn offer_as(lab: &mut Lab, node: usize, object: &Object) {
    let (id, kind) = (object.id(), object.kind() as u8);
    say_as(lab, node, &Message::List { kind, page: 0, ids: vec![id] }.encode());
    let total = object.bytes().len() as u16;
    for (n, bytes) in object.bytes().chunks(1_000).enumerate() {
        say_as(lab, node, &Message::Piece { id, offset: n as u16 * 1_000, total, bytes }.encode());
    }
}

/// One message: of every type, with fields that are genuine, at an edge, or random; or a packet.
fn saying(lab: &Lab, rng: &mut Rng) -> Vec<u8> {
    let stored = &lab.nodes[VICTIM].stored;
    let known = &stored[below(rng, stored.len())];
    let id = if one_in(2, rng) { known.id() } else { ObjectId(random::bytes(rng)) };
    let kind = (rng.next_u32() % 12) as u8;
    let (page, offset) = (edge(rng), edge(rng));
    let message = match rng.next_u32() % 14 {
        0 => Message::Probe { id: rng.next_u64(), length: 9 + below(rng, 1_400) }.encode(),
        1 => Message::Echo { id: rng.next_u64(), observed: None }.encode(),
        2 => Message::Ids { kind, page }.encode(),
        3 => {
            let ids = (0..below(rng, 33)).map(|_| ObjectId(random::bytes(rng))).collect();
            Message::List { kind, page, ids }.encode()
        }
        4 => Message::Get { id, offset }.encode(),
        5 => Message::Piece { id, offset, total: edge(rng), bytes: &known.bytes()[..below(rng, 90) + 1] }
            .encode(),
        6 => Message::Settled { heard: one_in(2, rng) }.encode(),
        7 if one_in(16, rng) => Message::Close { reason: kind }.encode(),
        8 | 9 => return offered(lab, known, rng),
        10 => packet(rng),
        _ => {
            let mut bytes = noise(rng, 64);
            bytes.insert(0, (rng.next_u32() % 0x41) as u8);
            bytes
        }
    };
    if one_in(4, rng) { alter(&message, rng) } else { message }
}

/// A list or a piece of an object that is altered, or that the rogue may sign.
fn offered(lab: &Lab, known: &Object, rng: &mut Rng) -> Vec<u8> {
    let rogue = &lab.nodes[ROGUE].device;
    let made_up = SigningSecret::from_seed(&[below(rng, 250) as u8; 32]);
    let signer = if one_in(2, rng) { rogue } else { &made_up };
    let (time, extensions) = (u64::from(rng.next_u32()), Extensions::default());
    let body = if one_in(2, rng) {
        let static_key = StaticSecret::from_bytes(random::bytes(rng)).public();
        Body::Rekey(Rekey { device: signer.public(), counter: time, static_key, time, extensions })
    } else {
        Body::Admit(Admit {
            witness: signer.public(),
            join_id: known.id(),
            time,
            epoch_seen: time,
            extensions,
        })
    };
    let object = Object::sign(&lab.vpi, &body, &[signer]).unwrap();
    let bytes = if one_in(2, rng) { object.bytes().to_vec() } else { alter(known.bytes(), rng) };
    let bytes = &bytes[..bytes.len().min(1_000)];
    // Under one of a few ids, so that a piece often meets the list that asked for it.
    let id = ObjectId([(rng.next_u32() % 4) as u8; 32]);
    if one_in(2, rng) || bytes.is_empty() {
        Message::List { kind: object.kind() as u8, page: 0, ids: vec![id] }.encode()
    } else {
        Message::Piece { id, offset: 0, total: bytes.len() as u16, bytes }.encode()
    }
}

/// Something that looks like an IPv4 packet.
fn packet(rng: &mut Rng) -> Vec<u8> {
    let mut packet = noise(rng, 100);
    packet.resize(packet.len().max(20), 0);
    packet[0] = if one_in(8, rng) { 0x46 } else { 0x45 };
    let length = (packet.len() as u16).to_be_bytes();
    packet[2..4].copy_from_slice(&length);
    if one_in(2, rng) {
        packet[6..8].fill(0);
    }
    packet[9] = [1, 6, 17, 47][below(rng, 4)];
    if let Some(kind) = packet.get_mut(20).filter(|_| one_in(2, rng)) {
        *kind = [0, 3, 5, 8, 11, 12][below(rng, 6)];
    }
    packet
}

/// The bytes with one bit flipped, cut, grown, or others in their place.
fn alter(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = below(rng, bytes.len().max(1));
    match rng.next_u32() % 5 {
        0 => bytes.truncate(at),
        1 => bytes.extend(noise(rng, 64)),
        2 => bytes = noise(rng, 1_500),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (rng.next_u32() % 8);
            }
        }
    }
    bytes
}

fn noise(rng: &mut Rng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; below(rng, most)];
    rng.fill_bytes(&mut bytes);
    if let Some(first) = bytes.first_mut().filter(|_| one_in(2, rng)) {
        *first = [0x80, 0x81, 0x82, 0x45][below(rng, 4)];
    }
    bytes
}

fn edge(rng: &mut Rng) -> u16 {
    match rng.next_u32() % 4 {
        0 => [0, 1, 511, 512, 1_000, 4_096, u16::MAX][below(rng, 7)],
        1 => (rng.next_u32() % 40) as u16,
        _ => rng.next_u32() as u16,
    }
}

fn below(rng: &mut Rng, limit: usize) -> usize {
    rng.next_u32() as usize % limit
}

fn one_in(n: u32, rng: &mut Rng) -> bool {
    rng.next_u32().is_multiple_of(n)
}
