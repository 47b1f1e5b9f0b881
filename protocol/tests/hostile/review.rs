//! Findings of a review, each a test that fails until it is mended.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use protocol::engine::Command;
use protocol::identity::{InviteId, ObjectId, Secret, SigningSecret, StaticSecret};
use protocol::membership::admin::{self, Admin};
use protocol::membership::epoch::EpochSecret;
use protocol::membership::object::{Body, Epoch, Kind, Object, Reason, Rekey, Remove, Target};
use protocol::membership::{Membership, ObjectSet};
use protocol::random::Rng;
use protocol::veil::{self, Veiled};
use protocol::wire::cbor::Extensions;
use protocol::wire::header::{Class, VEILED, VeilHeader};
use rand_core::SeedableRng as _;

use crate::lab::Lab;
use crate::{FRIEND, ROGUE, VICTIM, offer};

const SECONDS: u64 = 1_800_000_000;
/// Pages that an exchange asks for, and ids of each.
const ASKED: usize = 512;

fn set_of(lab: &Lab) -> ObjectSet {
    let mut set = ObjectSet::new(lab.vpi);
    for object in &lab.nodes[VICTIM].stored {
        set.insert(object);
    }
    set
}

fn next_of(membership: &Membership, key: &SigningSecret) -> (u64, ObjectId) {
    membership.next_link(&key.public()).unwrap()
}

/// A Remove of an invite by the founder at `place`; its id depends on `time`.
fn removal(lab: &Lab, place: (u64, ObjectId), time: u64) -> Object {
    let admin = &lab.nodes[VICTIM].device;
    let target = Target::Invite(InviteId([7; 16]));
    let body = Remove {
        signer: admin.public(),
        link: Some(place),
        time,
        target,
        reason: Reason::Revoked,
        extensions: Extensions::default(),
    };
    Object::sign(&lab.vpi, &Body::Remove(body), &[admin]).unwrap()
}

fn departure(lab: &Lab, n: u32) -> Object {
    let mut seed = [77; 32];
    seed[..4].copy_from_slice(&n.to_be_bytes());
    let nobody = SigningSecret::from_seed(&seed);
    let body = Remove {
        signer: nobody.public(),
        link: None,
        time: SECONDS,
        target: Target::Device(nobody.public()),
        reason: Reason::Left,
        extensions: Extensions::default(),
    };
    Object::sign(&lab.vpi, &Body::Remove(body), &[&nobody]).unwrap()
}

#[test]
fn departures_of_nobody_hide_no_removal_from_an_exchange() {
    let lab = Lab::new(0);
    let mut set = set_of(&lab);
    for n in 0..20_000 {
        set.insert(&departure(&lab, n));
    }
    let place = next_of(set.membership(), &lab.nodes[VICTIM].device);
    let late = (0..).map(|n| removal(&lab, place, SECONDS + n)).find(|object| object.id().0[0] >= 0xf8);
    let late = late.unwrap();
    set.insert(&late);
    assert!(set.membership().is_revoked(&InviteId([7; 16])));
    let listed: BTreeSet<ObjectId> = (0..ASKED).flat_map(|page| set.ids(Kind::Remove, page)).collect();
    assert!(listed.contains(&late.id()), "{} Removes are here", set.of_kind(Kind::Remove).count());
}

#[test]
fn a_removal_is_taken_from_whoever_tells_of_it_whatever_else_it_told() {
    let mut lab = Lab::new(2);
    assert!(lab.reaches(ROGUE, VICTIM));
    let device = lab.nodes[ROGUE].device.clone();
    for counter in 1..=8_400u64 {
        let rekey = Rekey {
            device: device.public(),
            counter,
            static_key: StaticSecret::from_bytes([53; 32]).public(),
            time: SECONDS,
            extensions: Extensions::default(),
        };
        let rekey = Object::sign(&lab.vpi, &Body::Rekey(rekey), &[&device]).unwrap();
        offer(&mut lab, &rekey);
        lab.wire.clear();
        // No faster than messages of one member are taken in.
        if counter % 16 == 0 {
            lab.run(Duration::from_millis(20));
        }
    }
    let place = next_of(set_of(&lab).membership(), &lab.nodes[VICTIM].device);
    let removal = removal(&lab, place, SECONDS);
    offer(&mut lab, &removal);
    assert!(lab.nodes[VICTIM].stored.iter().any(|object| object.id() == removal.id()), "it is refused");
}

#[test]
fn no_epoch_of_one_admin_keeps_another_from_removing() {
    let lab = Lab::new(1);
    let (mut set, admin) = (set_of(&lab), &lab.nodes[VICTIM].device);
    // By any admin that may make epochs; here there is one.
    let (seq, previous) = next_of(set.membership(), admin);
    let body = Epoch {
        admin: admin.public(),
        seq,
        previous,
        time: SECONDS,
        number: 1 << 40,
        secret_hash: [3; 32],
        removed_digest: *set.membership().removed_digest(),
        extensions: Extensions::default(),
    };
    set.insert(&Object::sign(&lab.vpi, &Body::Epoch(body), &[admin]).unwrap());
    let at_work = Admin { key: admin, set: &set, wall_secs: SECONDS };
    let target = lab.id(FRIEND);
    let removed = admin::remove(&mut Rng::from_seed([1; 32]), &at_work, &target, Reason::Lost);
    assert!(removed.is_ok(), "{removed:?}");
}

#[test]
fn where_a_device_is_is_told_to_members() {
    let mut lab = Lab::new(1);
    let at = lab.nodes[VICTIM].address;
    lab.command(VICTIM, Command::Addresses(vec![at]));
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.nodes[FRIEND].presences.len(), 1);
}

#[test]
fn thirty_two_epochs_do_not_make_a_timer_cost_a_member_microseconds() {
    let mut lab = Lab::new(2);
    for ticket in 0..40 {
        let invites = lab.nodes[VICTIM].engine.invites(SECONDS);
        let live = invites.iter().find(|invite| !invite.is_revoked);
        if let Some(id) = live.map(|invite| invite.id) {
            lab.command(VICTIM, Command::Revoke(ticket, id, true));
        }
        let wish = protocol::membership::founding::InviteWish {
            name: None,
            max_uses: 1,
            seconds: None,
            bound_device: None,
        };
        let request =
            protocol::engine::InviteRequest { wish, members: Vec::new(), beacons: Vec::new(), offline: true };
        lab.command(VICTIM, Command::Invite(ticket + 100, Box::new(request)));
        lab.wire.clear();
    }
    let engine = &lab.nodes[VICTIM].engine;
    let (start, calls) = (Instant::now(), 200);
    for _ in 0..calls {
        std::hint::black_box(engine.poll_timeout());
    }
    let each = start.elapsed() / calls / 2;
    assert!(each < Duration::from_micros(5), "{each:?} a member and call, at epoch {}", engine.epoch());
}

#[test]
fn a_link_that_ends_while_a_handshake_is_answered_skips_no_exchange() {
    let mut lab = Lab::new(2);
    let (sleeper, removed) = (FRIEND, ROGUE);
    let id = lab.id(sleeper);
    lab.command(VICTIM, Command::Connect(id));
    lab.run(Duration::from_millis(176_200));
    let removal = protocol::engine::Removal { target: lab.id(removed), reason: Reason::Lost, offline: true };
    lab.command(VICTIM, Command::Remove(1, removal));
    lab.command(VICTIM, Command::Connect(id));
    // Nothing arrives; the third attempt, under an older epoch, does 50 ms before the link's session ends.
    let (mut held, at) = (Vec::new(), lab.nodes[sleeper].address);
    for _ in 0..375 {
        held.extend(lab.wire.drain(..).filter(|flight| flight.to == at && flight.bytes[0] == VEILED));
        lab.run(Duration::from_millis(10));
    }
    lab.wire.clear();
    for flight in held {
        lab.datagram(sleeper, flight.from, &flight.bytes);
    }
    let answers: Vec<_> = lab.wire.drain(..).filter(|flight| flight.bytes[0] == VEILED).collect();
    assert_eq!(answers.len(), 1, "one attempt is answered");
    for _ in 0..15 {
        lab.wire.clear();
        lab.run(Duration::from_millis(10));
    }
    lab.wire.extend(answers);
    lab.run(Duration::from_secs(3));
    let gone = lab.id(removed);
    let knows = lab.nodes[sleeper].engine.member_state(&gone, lab.time().now).is_none();
    let passes = lab.reaches(sleeper, VICTIM);
    assert!(knows || !passes, "packets pass, and the removal did not come");
    assert!(knows, "the removal comes with the exchange");
}

#[test]
fn whoever_holds_an_old_secret_cannot_use_up_a_members_share_of_the_gate() {
    let mut lab = Lab::new(1);
    let invite = lab.nodes[VICTIM].engine.invites(SECONDS)[0].id;
    lab.command(VICTIM, Command::Revoke(1, invite, true));
    lab.run(Duration::from_secs(5));
    assert_eq!(lab.nodes[FRIEND].engine.epoch(), 1);
    let old = EpochSecret::new(lab.vpi, 0, Secret([9; 32]));
    let (victim, member) = (lab.id(VICTIM), lab.nodes[FRIEND].address);
    for n in 0..60 {
        let header = VeilHeader { class: Class::Member, epoch_tag: old.tag(), nonce: [n; 24] };
        let body = vec![0; 200];
        let veiled = Veiled { time_ms: lab.time().wall_ms, kind: veil::INITIATION, body };
        // In the member's name: any source can be written.
        lab.datagram(VICTIM, member, &veiled.seal(&old.veil_key(), &header));
    }
    lab.command(FRIEND, Command::Connect(victim));
    let initiation = lab.wire.pop_front().unwrap();
    assert_eq!(lab.datagram(VICTIM, initiation.from, &initiation.bytes), None, "the member's own");
}
