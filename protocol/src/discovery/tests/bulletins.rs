//! What an admin leaves for a sleeper, and who can read and write it.

use super::{VPI, WALL, device, epoch, rng};
use crate::discovery::bulletin::{MAX_PARTS, News, Part, Place, Sleeper, seal};
use crate::discovery::record::{BULLETIN_LIFE_SECS, Class, Record, RecordError, check};
use crate::identity::{ObjectId, PublicKey, Secret, SigningSecret, StaticSecret};
use crate::membership::epoch::EpochSecret;
use crate::membership::object::{Body, Epoch, Object, Reason, Remove, Target};
use crate::wire::cbor::Extensions;

/// Epoch 1 was held when the device fell asleep; 2 is in force.
const HELD: u8 = 1;
const IN_FORCE: u8 = 2;

#[test]
fn a_sleeper_learns_who_was_removed_and_the_secret_in_force() {
    let removes = removes(3);
    let records = bulletin(&removes).unwrap();
    let [record] = &records[..] else { panic!("one part is enough") };
    assert_eq!(record.value.len(), Class::Bulletin.value_bytes());
    let part = place(0).open(&record.value, WALL).unwrap();
    assert_eq!((part.parts, &part.removes), (1, &removes));
    assert_eq!(part.secret(&VPI, &asleep()), Some(epoch(IN_FORCE)));
    assert_eq!(part.epoch.unwrap().0, epoch_object(&epoch(IN_FORCE)));
}

#[test]
fn who_holds_the_same_old_epoch_reads_no_secret_and_writes_nothing() {
    let records = bulletin(&removes(1)).unwrap();
    // An ex-member finds and opens the record, as it holds the epoch; the box inside is not its.
    let part = place(0).open(&records[0].value, WALL).unwrap();
    assert_eq!(part.secret(&VPI, &StaticSecret::from_bytes([0x55; 32])), None);
    // What it signs itself has another key than the one under which the sleeper looks.
    let [by_ex_member] = &sealed_by(&device(5), &removes(1)).unwrap()[..] else { panic!("one part") };
    assert_ne!(by_ex_member.key, records[0].key);
    assert_eq!(check(place(0).key(), &by_ex_member.value, WALL), Err(RecordError::Key));
}

#[test]
fn a_secret_that_the_epoch_does_not_name_is_neither_left_nor_taken() {
    let news = News { secret: &Secret([9; 32]), epoch: &epoch_object(&epoch(IN_FORCE)), removes: &[] };
    let (held, key, name) = (epoch(HELD), asleep().public(), device(3).public());
    let sleeper = Sleeper { device: &name, static_key: &key, held: &held };
    assert_eq!(seal(sleeper, &device(1), news, WALL, &mut rng()), None);

    let part = place(0).open(&bulletin(&[]).unwrap()[0].value, WALL).unwrap();
    let (_, sealed) = part.epoch.clone().unwrap();
    let other = Part { epoch: Some((epoch_object(&epoch(7)), sealed)), ..part };
    assert_eq!(other.secret(&VPI, &asleep()), None);
}

#[test]
fn many_removes_are_spread_over_parts_and_none_is_left_out() {
    let mut most = 0;
    for count in [16, 18, 40, 100, 140, 300] {
        let removes = removes(count);
        let Some(records) = bulletin(&removes) else {
            assert!(most >= 140, "140 Removes fit");
            continue;
        };
        most = count;
        let parts: Vec<_> =
            (0..).zip(&records).map(|(n, record)| place(n).open(&record.value, WALL).unwrap()).collect();
        assert!(parts.iter().all(|part| usize::from(part.parts) == records.len()));
        assert_eq!(parts.iter().flat_map(|part| part.removes.clone()).collect::<Vec<_>>(), removes);
        assert!(parts.iter().skip(1).all(|part| part.epoch.is_none()));
    }
    assert!(most < 300, "{MAX_PARTS} parts do not hold 300 Removes");
    assert!(Place::new(&epoch(HELD), &device(1).public(), &device(3).public(), MAX_PARTS).is_none());
}

#[test]
fn a_part_is_not_another() {
    let records = bulletin(&removes(40)).unwrap();
    assert!(records.len() > 1);
    assert_eq!(place(0).open(&records[1].value, WALL), Err(RecordError::Key));
    assert_eq!(place(1).open(&records[0].value, WALL), Err(RecordError::Key));
}

#[test]
fn other_objects_than_an_epoch_and_removes_are_not_made_into_a_bulletin() {
    let epoch_object = epoch_object(&epoch(IN_FORCE));
    assert_eq!(bulletin(std::slice::from_ref(&epoch_object)), None);
    let (held, key, name) = (epoch(HELD), asleep().public(), device(3).public());
    let sleeper = Sleeper { device: &name, static_key: &key, held: &held };
    let remove = removes(1).remove(0);
    let in_force = epoch(IN_FORCE);
    let news = News { epoch: &remove, secret: in_force.secret(), removes: &[] };
    assert_eq!(seal(sleeper, &device(1), news, WALL, &mut rng()), None);
}

#[test]
fn a_bulletin_ends_at_the_last_full_hour_within_thirty_days() {
    let record = bulletin(&[]).unwrap().remove(0);
    assert!(record.expiry <= WALL + BULLETIN_LIFE_SECS && record.expiry > WALL + BULLETIN_LIFE_SECS - 3_600);
    assert!(check(&record.key, &record.value, record.expiry - 1).is_ok());
    assert_eq!(check(&record.key, &record.value, record.expiry), Err(RecordError::Expired));
}

#[test]
fn every_flipped_bit_of_a_bulletin_is_refused() {
    let record = bulletin(&removes(1)).unwrap().remove(0);
    // One bit of each byte: a signature is verified each time.
    for at in 0..record.value.len() {
        let mut altered = record.value.clone();
        altered[at] ^= 1 << (at % 8);
        assert!(place(0).open(&altered, WALL).is_err(), "byte {at}");
    }
}

fn bulletin(removes: &[Object]) -> Option<Vec<Record>> {
    sealed_by(&device(1), removes)
}

fn sealed_by(admin: &SigningSecret, removes: &[Object]) -> Option<Vec<Record>> {
    let (held, key, name) = (epoch(HELD), asleep().public(), device(3).public());
    let sleeper = Sleeper { device: &name, static_key: &key, held: &held };
    let in_force = epoch(IN_FORCE);
    let news = News { epoch: &epoch_object(&in_force), secret: in_force.secret(), removes };
    seal(sleeper, admin, news, WALL, &mut rng())
}

fn place(part: u8) -> Place {
    Place::new(&epoch(HELD), &device(1).public(), &device(3).public(), part).unwrap()
}

fn asleep() -> StaticSecret {
    StaticSecret::from_bytes([0x33; 32])
}

fn epoch_object(epoch: &EpochSecret) -> Object {
    let body = Epoch {
        admin: device(1).public(),
        seq: 9,
        previous: ObjectId([8; 32]),
        time: WALL,
        number: epoch.number(),
        secret_hash: epoch.hash(),
        removed_digest: [7; 32],
        extensions: Extensions::default(),
    };
    Object::sign(&VPI, &Body::Epoch(body), &[&device(1)]).unwrap()
}

fn removes(count: u64) -> Vec<Object> {
    let remove = |n: u64| {
        let mut target = [6; 32];
        target[..8].copy_from_slice(&n.to_be_bytes());
        let body = Remove {
            signer: device(1).public(),
            link: Some((n, ObjectId([8; 32]))),
            time: WALL,
            target: Target::Device(PublicKey(target)),
            reason: Reason::Lost,
            extensions: Extensions::default(),
        };
        Object::sign(&VPI, &Body::Remove(body), &[&device(1)]).unwrap()
    };
    (0..count).map(remove).collect()
}
