//! What members do to the set of objects, and to each other by way of it.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::engine::{Command, Removal};
use protocol::identity::{SigningSecret, StaticKey, StaticSecret};
use protocol::membership::admin::{self, AdminError, Place};
use protocol::membership::object::{Body, Object, Reason};
use protocol::wire::header::VEILED;
use protocol::wire::message::Message;

use crate::lab::{Flight, Lab};
use crate::{FRIEND, ROGUE, VICTIM, offer};

/// Unix seconds at which labs begin.
const SECONDS: u64 = 1_800_000_000;

#[test]
fn what_hangs_on_nothing_is_not_stored_and_in_no_list() {
    let mut lab = Lab::new(2);
    let before = lab.nodes[VICTIM].stored.len();
    let nobody = SigningSecret::from_seed(&[200; 32]);
    for counter in 0..300 {
        let key = StaticSecret::from_bytes([201; 32]).public();
        let rekey = admin::rekey(&lab.vpi, &nobody, counter, key, SECONDS).unwrap();
        offer(&mut lab, &rekey);
    }
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.nodes[VICTIM].stored.len(), before);
    let of_a_member = rogues_presence(&lab, 7);
    offer(&mut lab, &of_a_member);
    lab.run(Duration::from_secs(1));
    assert!(lab.nodes[VICTIM].presences.contains(&of_a_member), "what has its place is taken");
}

#[test]
fn a_member_that_moves_all_the_time_is_told_of_a_few_times() {
    let mut lab = Lab::new(2);
    assert!(lab.reaches(FRIEND, VICTIM) && lab.reaches(VICTIM, ROGUE));
    for counter in 0..100 {
        let presence = rogues_presence(&lab, counter);
        offer(&mut lab, &presence);
        lab.run(Duration::from_millis(100));
    }
    let of_rogue = |object: &&Object| matches!(object.body(), Body::Presence(presence) if presence.device == lab.id(ROGUE));
    let told = lab.nodes[FRIEND].presences.iter().filter(of_rogue).count();
    assert!((1..=12).contains(&told), "{told} of 100 in ten seconds");
}

/// A word of the rogue's of where it is.
fn rogues_presence(lab: &Lab, counter: u64) -> Object {
    let address = SocketAddr::from(([198, 51, 100, 7], 1_000 + counter as u16));
    let place = Place { candidates: &[address], nat: 0, flags: 0, beacon: None };
    admin::presence(&lab.vpi, &lab.nodes[ROGUE].device, SECONDS + counter, place, SECONDS).unwrap()
}

#[test]
fn an_admin_that_started_anew_has_not_settled_with_who_lists_nothing() {
    let mut lab = Lab::new(2);
    lab.restart_founder();
    let (target, rogue, there) = (lab.id(FRIEND), lab.id(ROGUE), lab.nodes[ROGUE].address);
    lab.command(VICTIM, Command::Remember(rogue, there));
    lab.command(VICTIM, Command::Connect(rogue));
    // It makes the handshake, and answers no question.
    while let Some(Flight { from, to, bytes }) = lab.wire.pop_front() {
        let node = lab.nodes.iter().position(|node| node.address == to).unwrap();
        if node != ROGUE || bytes.first() == Some(&VEILED) {
            lab.datagram(node, from, &bytes);
        }
    }
    lab.nodes[ROGUE].address = SocketAddr::from(([198, 51, 100, 9], 9));
    for _ in 0..4 {
        for kind in 1..=10 {
            let nothing = Message::List { kind, page: 0, ids: Vec::new() }.encode();
            let datagram = lab.nodes[ROGUE].sealer(lab.nodes[VICTIM].address).unwrap().seal_message(&nothing);
            lab.datagram(VICTIM, there, &datagram.unwrap());
        }
        lab.run(Duration::from_millis(600));
    }
    let removal = Removal { target, reason: Reason::Lost, offline: false };
    lab.command(VICTIM, Command::Remove(5, removal));
    assert!(matches!(lab.nodes[VICTIM].signed, Some(Err(AdminError::Unsettled))));
}

#[test]
fn an_admin_that_started_anew_settles_with_who_knows_what_it_signed() {
    let mut lab = Lab::new(2);
    lab.restart_founder();
    let (target, friend) = (lab.id(ROGUE), lab.id(FRIEND));
    lab.command(VICTIM, Command::Remember(friend, lab.nodes[FRIEND].address));
    lab.command(VICTIM, Command::Connect(friend));
    lab.run(Duration::from_secs(3));
    let removal = Removal { target, reason: Reason::Lost, offline: false };
    lab.command(VICTIM, Command::Remove(5, removal));
    assert!(matches!(lab.nodes[VICTIM].signed, Some(Ok(()))));
}

#[test]
fn a_static_key_counts_above_all_that_a_disk_may_have_forgotten() {
    let mut lab = Lab::new(1);
    let secret = StaticSecret::from_bytes([88; 32]);
    let key: StaticKey = secret.public();
    lab.command(FRIEND, Command::Rekey(secret));
    let counter = lab.nodes[FRIEND].stored.iter().find_map(|object| match object.body() {
        Body::Rekey(rekey) if rekey.static_key == key => Some(rekey.counter),
        _ => None,
    });
    assert!(counter.is_some_and(|counter| counter >= SECONDS));
}
