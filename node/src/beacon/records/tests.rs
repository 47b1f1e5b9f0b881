//! What is taken, what is not, who gives way, and what a restart brings back.

use libp2p::identity::Keypair;
use protocol::discovery::lobby::{Contact, Lobby};
use protocol::discovery::slot::{slot_of, start_of};
use protocol::identity::VpiId;
use protocol::random::Rng;
use rand_core::SeedableRng as _;

use super::*;

/// 100 s into a slot.
const WALL: u64 = 1_800_000_100;
/// Length of every record here.
const ONE: u64 = SHORTEST_VALUE_BYTES;

/// A valid record of the slot at `wall_secs`; another `number` is another writer.
pub(crate) fn lobby_record(number: u64, sequence: u64, wall_secs: u64) -> Record {
    let mut key = [7; 32];
    key[..8].copy_from_slice(&number.to_be_bytes());
    let lobby = Lobby::new(&VpiId([1; 32]), &Secret(key), slot_of(wall_secs));
    let made = lobby.seal(&Contact::default(), sequence, &mut Rng::from_seed(key)).unwrap();
    Record { key: RecordKey::new(&made.key), value: made.value, publisher: None, expires: None }
}

fn record(number: u64) -> Record {
    lobby_record(number, WALL, WALL)
}

fn at(wall_secs: u64) -> Moment {
    Moment { now: Instant::now(), wall_secs }
}

fn peer() -> PeerId {
    Keypair::generate_ed25519().public().to_peer_id()
}

fn group(text: &str) -> Group {
    Group::of_ip(text.parse().unwrap())
}

fn store(bounds: Bounds) -> Records {
    Records::with_bounds(bounds, &Secret([1; 32]), Vec::new(), at(WALL))
}

fn with_places(total: u64, group: u64, peer: u64) -> Records {
    store(Bounds { total: total * ONE, group: group * ONE, peer: peer * ONE })
}

/// Each record by a writer of its own.
fn put(records: &mut Records, number: u64, from: &str) -> Result<(), Refusal> {
    records.offer(record(number), peer(), group(from), at(WALL))
}

#[test]
fn a_valid_record_is_served_until_its_signed_end_and_names_nobody() {
    let mut records = store(Bounds::default());
    let mut given = record(1);
    // What a sender says of its life is not asked.
    given.expires = Some(Instant::now() + Duration::from_secs(30 * 86_400));
    let when = at(WALL);
    records.offer(given.clone(), peer(), group("192.0.2.1"), when).unwrap();
    let served = records.get(&given.key).unwrap().into_owned();
    assert_eq!((served.value, served.publisher), (given.value, None));
    let end = start_of(slot_of(WALL)) + 7_200;
    assert_eq!(served.expires, Some(when.now + Duration::from_secs(end - WALL)));
    assert_eq!((records.count(), records.bytes(), records.networks()), (1, ONE, 1));
    assert_eq!(records.sweep(at(end - 1)), 0);
    assert_eq!(records.sweep(at(end)), 1);
    assert!(records.get(&given.key).is_none());
    assert_eq!((records.bytes(), records.networks()), (0, 0));
}

#[test]
fn what_no_reader_would_take_is_not_taken() {
    let mut records = store(Bounds::default());
    let mut refused = |record: Record, wall| {
        records.offer(record, peer(), group("192.0.2.1"), at(wall)).unwrap_err().name()
    };
    let changed = |change: &dyn Fn(&mut Record)| {
        let mut record = record(1);
        change(&mut record);
        record
    };
    let flipped = |at: usize| changed(&|record: &mut Record| record.value[at] ^= 1);
    assert_eq!(refused(changed(&|record| record.key = RecordKey::new(&[9; 32])), WALL), "key");
    assert_eq!(refused(changed(&|record| record.key = RecordKey::new(&b"short")), WALL), "key");
    assert_eq!(refused(changed(&|record| record.value.push(0)), WALL), "length");
    assert_eq!(refused(changed(&|record| record.value.clear()), WALL), "length");
    assert_eq!(refused(changed(&|record| record.publisher = Some(peer())), WALL), "publisher");
    assert_eq!(refused(flipped(0), WALL), "version");
    assert_eq!(refused(flipped(1), WALL), "key");
    assert_eq!(refused(flipped(500), WALL), "signature");
    assert_eq!(refused(record(1), WALL - 301), "ahead");
    assert_eq!(refused(record(1), WALL + 2 * 3_600), "expired");
    assert_eq!(records.count(), 0);
}

#[test]
fn of_two_under_one_key_the_newer_is_kept_whoever_puts_it() {
    let mut records = store(Bounds::default());
    let key = record(1).key;
    let mut put = |sequence, from: &str| {
        records
            .offer(lobby_record(1, sequence, WALL), peer(), group(from), at(WALL))
            .map(|()| records.count())
    };
    assert_eq!(put(WALL, "192.0.2.1"), Ok(1));
    assert_eq!(put(WALL, "192.0.2.1"), Err(Refusal::Old));
    assert_eq!(put(WALL - 1, "192.0.2.1"), Err(Refusal::Old));
    assert_eq!(put(WALL + 1, "198.51.100.1"), Ok(1));
    assert_eq!(put(WALL, "192.0.2.1"), Err(Refusal::Old));
    assert_eq!(records.get(&key).unwrap().value, lobby_record(1, WALL + 1, WALL).value);
}

#[test]
fn a_newer_record_for_a_held_key_is_taken_when_all_shares_are_full() {
    let mut records = with_places(2, 2, 2);
    put(&mut records, 1, "192.0.2.1").unwrap();
    put(&mut records, 2, "192.0.2.1").unwrap();
    assert_eq!(put(&mut records, 3, "192.0.2.1"), Err(Refusal::GroupFull));
    let newer = lobby_record(1, WALL + 5, WALL);
    assert_eq!(records.offer(newer.clone(), peer(), group("192.0.2.1"), at(WALL)), Ok(()));
    assert_eq!(records.get(&newer.key).unwrap().value, newer.value);
    assert_eq!((records.count(), records.bytes()), (2, 2 * ONE));
}

#[test]
fn a_writer_and_a_network_have_bounds_of_their_own() {
    let mut records = with_places(100, 5, 2);
    let one = peer();
    let mut put = |number, peer, from: &str| records.offer(record(number), peer, group(from), at(WALL));
    assert_eq!(put(1, one, "192.0.2.1"), Ok(()));
    assert_eq!(put(2, one, "192.0.2.1"), Ok(()));
    assert_eq!(put(3, one, "192.0.2.1"), Err(Refusal::PeerFull));
    for number in 4..7 {
        assert_eq!(put(number, peer(), "192.0.2.200"), Ok(()));
    }
    assert_eq!(put(8, peer(), "192.0.2.201"), Err(Refusal::GroupFull));
    assert_eq!(put(9, peer(), "192.0.3.1"), Ok(()));
    assert_eq!(put(10, peer(), "2001:db8:1::1"), Ok(()));
}

#[test]
fn a_full_store_gives_a_small_network_the_places_of_the_greatest_and_not_the_other_way() {
    let mut records = with_places(12, 8, 8);
    for number in 0..8 {
        put(&mut records, number, "192.0.2.1").unwrap();
    }
    for number in 10..14 {
        put(&mut records, number, "198.51.100.1").unwrap();
    }
    // The flood of one network finds no place but by taking from one that has more.
    assert_eq!(put(&mut records, 20, "192.0.2.1"), Err(Refusal::GroupFull));
    for number in 30..34 {
        put(&mut records, number, "203.0.113.1").unwrap();
    }
    let of = |numbers: std::ops::Range<u64>, records: &Records| {
        numbers.filter(|number| records.get(&record(*number).key).is_some()).count()
    };
    assert_eq!((of(0..8, &records), of(10..14, &records), of(30..34, &records)), (4, 4, 4));
    // All have an equal share: nobody takes from anybody.
    for (number, from) in [(40, "192.0.2.1"), (41, "198.51.100.1"), (42, "203.0.113.1")] {
        assert_eq!(put(&mut records, number, from), Err(Refusal::Full), "{from}");
    }
    assert_eq!(put(&mut records, 50, "233.252.0.1"), Ok(()));
    assert_eq!((records.count(), records.bytes()), (12, 12 * ONE));
}

#[test]
fn one_network_with_a_thousand_writers_leaves_others_what_they_have() {
    let mut records = with_places(100, 100, 100);
    for number in 0..40 {
        put(&mut records, number, &format!("198.51.{number}.1")).unwrap();
    }
    let taken = (1_000..1_300).filter(|number| put(&mut records, *number, "192.0.2.1").is_ok()).count();
    assert_eq!(taken, 60);
    assert!((0..40).all(|number| records.get(&record(number).key).is_some()));
}

#[test]
fn of_the_greatest_network_what_ends_first_goes() {
    let mut records = with_places(2, 2, 2);
    let next = WALL + 3_600;
    let longer = lobby_record(1, next - 200, next);
    records.offer(longer.clone(), peer(), group("192.0.2.1"), at(next - 200)).unwrap();
    records.offer(record(2), peer(), group("192.0.2.1"), at(next - 200)).unwrap();
    records.offer(record(3), peer(), group("198.51.100.1"), at(next - 200)).unwrap();
    assert!(records.get(&longer.key).is_some());
    assert!(records.get(&record(2).key).is_none());
}

#[test]
fn puts_of_one_network_are_looked_at_within_a_rate() {
    let mut records = store(Bounds::default());
    let when = at(WALL);
    let mut looked_at = |from: &str| {
        let mut bad = record(1);
        bad.value.clear();
        (0..1_000)
            .filter(|_| records.offer(bad.clone(), peer(), group(from), when) != Err(Refusal::Rate))
            .count()
    };
    assert_eq!(looked_at("192.0.2.1"), 400);
    assert_eq!(looked_at("192.0.2.2"), 0);
    assert_eq!(looked_at("192.0.3.1"), 400);
}

#[test]
fn everything_is_back_after_a_restart_with_its_charge_and_what_ended_meanwhile_is_wiped() {
    let mut records = with_places(10, 3, 3);
    for number in 0..3 {
        put(&mut records, number, "192.0.2.1").unwrap();
    }
    let changes = records.changes(100);
    assert_eq!((changes.len(), records.changes(100).len()), (3, 0));
    let kept: Vec<_> = changes.into_iter().map(|(key, kept)| (key, kept.unwrap())).collect();
    let bounds = Bounds { total: 10 * ONE, group: 3 * ONE, peer: 3 * ONE };
    let mut again = Records::with_bounds(bounds, &Secret([1; 32]), kept.clone(), at(WALL + 60));
    assert_eq!((again.count(), again.changes(100).len()), (3, 0));
    assert_eq!(again.get(&record(2).key).unwrap().value, record(2).value);
    // The beacon's seed gives the network the same number again.
    assert_eq!(put(&mut again, 9, "192.0.2.1"), Err(Refusal::GroupFull));
    let mut late = Records::with_bounds(bounds, &Secret([1; 32]), kept, at(WALL + 7_200));
    assert_eq!(late.count(), 0);
    assert!(late.changes(100).iter().all(|(_, kept)| kept.is_none()));
}

#[test]
fn what_leaves_memory_leaves_the_disk_and_what_was_not_written_is_tried_again() {
    let mut records = with_places(10, 10, 10);
    put(&mut records, 1, "192.0.2.1").unwrap();
    let changes = records.changes(100);
    records.unwritten(&changes);
    assert_eq!(records.changes(100), changes);
    records.remove(&record(1).key);
    let gone = records.changes(100);
    assert!(matches!(&gone[..], [(_, None)]), "{gone:?}");
    put(&mut records, 2, "192.0.2.1").unwrap();
    records.changes(100);
    records.all_unwritten();
    assert_eq!(records.changes(100).len(), 1);
}

#[test]
fn libp2p_itself_puts_nothing_in() {
    let mut records = store(Bounds::default());
    assert!(RecordStore::put(&mut records, record(1)).is_err());
    let provider = ProviderRecord::new(record(1).key, peer(), Vec::new());
    assert!(records.add_provider(provider).is_err());
    assert_eq!((records.count(), records.providers(&record(1).key).len()), (0, 0));
    assert_eq!((RecordStore::records(&records).count(), records.provided().count()), (0, 0));
}
