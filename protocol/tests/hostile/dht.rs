//! The DHT as the only way in: who is found there, by whom, and what an ex-member gets from it.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::discovery::presence::Place;
use protocol::discovery::slot::read_at;
use protocol::engine::{Command, LookedUp, Removal, Step};
use protocol::identity::Secret;
use protocol::membership::epoch::EpochSecret;
use protocol::membership::object::Reason;

use super::lab::Lab;
use super::{FRIEND, ROGUE, VICTIM};

/// Past the pause in which a first Presence waits for a place at a beacon.
const PUBLISHED: Duration = Duration::from_secs(8);
/// Past the time within which an admin leaves word for sleepers.
const LEFT: Duration = Duration::from_secs(180);

fn lab() -> Lab {
    let mut lab = Lab::new(2);
    for node in 0..3 {
        let address = lab.nodes[node].address;
        lab.command(node, Command::Beacons(true));
        lab.command(node, Command::Addresses(vec![address]));
    }
    lab.run(PUBLISHED);
    lab
}

fn moves(lab: &mut Lab, node: usize, address: &str) {
    let address: SocketAddr = address.parse().unwrap();
    lab.nodes[node].address = address;
    lab.command(node, Command::Addresses(vec![address]));
}

fn removes(lab: &mut Lab, node: usize) {
    let removal = Removal { target: lab.id(node), reason: Reason::default(), offline: true };
    lab.command(VICTIM, Command::Remove(7, removal));
}

#[test]
fn who_moved_while_others_slept_is_found_by_its_record() {
    let mut lab = lab();
    lab.asleep.extend([VICTIM, FRIEND]);
    lab.run(Duration::from_secs(400));
    lab.asleep.remove(&FRIEND);
    moves(&mut lab, FRIEND, "192.0.2.77:5");
    lab.run(PUBLISHED);
    lab.asleep.remove(&VICTIM);
    // The first packet is lost on a session that the sleep outlived.
    let is_reached = lab.reaches(VICTIM, FRIEND) || lab.reaches(VICTIM, FRIEND);
    let trail = lab.nodes[VICTIM].engine.trail(&lab.id(FRIEND), lab.time().now);
    let news = |step: &Step| matches!(step, Step::LookedUp { outcome: LookedUp::News, .. });
    assert!(is_reached && trail.iter().any(|(_, step)| news(step)), "{trail:?}");
}

#[test]
fn a_sleeper_reads_what_an_admin_left_and_meets_only_who_is_still_in() {
    let mut lab = lab();
    lab.asleep.insert(FRIEND);
    removes(&mut lab, ROGUE);
    assert_eq!(lab.nodes[VICTIM].engine.epoch(), 1);
    lab.run(LEFT);

    // Nobody is where the sleeper left them, and no record is under a key that it knows.
    moves(&mut lab, VICTIM, "192.0.2.78:5");
    lab.run(PUBLISHED);
    lab.run(Duration::from_secs(2 * 3_600));
    lab.asleep.remove(&FRIEND);
    lab.reaches(FRIEND, VICTIM);
    lab.run(Duration::from_secs(30));
    assert_eq!(lab.nodes[FRIEND].engine.epoch(), 1, "the secret was in the bulletin");
    assert!(lab.reaches(FRIEND, VICTIM));
    let who = lab.id(ROGUE);
    assert_eq!(lab.nodes[FRIEND].engine.member_state(&who, lab.time().now), None, "the Remove came with it");
}

#[test]
fn an_ex_member_finds_nothing_with_the_old_secret() {
    let mut lab = lab();
    let old = EpochSecret::new(lab.vpi, 0, Secret([9; 32]));
    let (who, before) = (lab.id(VICTIM), lab.dht.clone());
    let finds = |lab: &Lab| {
        let wall = lab.time().wall_ms / 1_000;
        let places = read_at(wall).into_iter().filter_map(|slot| Place::new(&old, &who, slot));
        places.filter_map(|place| place.open(lab.dht.get(place.key())?, wall).ok()).count()
    };
    assert!(finds(&lab) > 0, "while the epoch is in force its secret finds");
    removes(&mut lab, ROGUE);
    lab.run(LEFT);
    moves(&mut lab, VICTIM, "192.0.2.78:5");
    lab.run(Duration::from_secs(700));
    assert!(lab.dht.len() > before.len(), "published under other keys");
    // What was published before stays true of then, and ends with its slot.
    lab.run(Duration::from_secs(2 * 3_600));
    assert_eq!(finds(&lab), 0);
}
