//! Records through the room's public interface: what is refused, who can write what, and what links nothing.

mod bulletins;
mod finding;
mod keeping;
mod publishing;

use rand_core::SeedableRng as _;

use super::presence::{self, Place};
use super::record::{Class, MAX_AHEAD_SECS, Record, RecordError, check};
use super::slot::{expiry_of, slot_of, start_of};
use crate::identity::{Secret, SigningSecret, VpiId};
use crate::membership::epoch::EpochSecret;
use crate::membership::object::{Body, Object, Presence};
use crate::random::Rng;
use crate::wire::cbor::Extensions;

const VPI: VpiId = VpiId([1; 32]);
/// 100 s into a slot.
const WALL: u64 = 1_800_000_100;

#[test]
fn a_presence_is_found_and_opened_by_whoever_holds_the_epoch() {
    let (epoch, secret) = (epoch(1), device(1));
    let object = sign(&presence(&secret, 7), &secret);
    let record = seal(&epoch, &secret, &object, WALL);
    let place = Place::new(&epoch, &secret.public(), slot_of(WALL)).unwrap();
    assert_eq!(place.key(), &record.key);
    assert_eq!(place.open(&record.value, WALL).unwrap(), object);
    let checked = check(&record.key, &record.value, WALL).unwrap();
    assert_eq!((checked.class, checked.sequence, checked.expiry), (Class::Slot, WALL, record.expiry));
    assert_eq!(record.expiry, start_of(slot_of(WALL)) + 7_200);
}

#[test]
fn the_largest_presence_of_this_version_has_505_bytes_and_fits() {
    let secret = device(1);
    let mut presence = presence(&secret, 1 << 40);
    presence.time = 1 << 40;
    presence.candidates = vec!["[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap(); 8];
    presence.beacon = Some(("x".repeat(128), vec![0xff; 64]));
    presence.nat = 255;
    presence.flags = 1 << 40;
    let object = sign(&presence, &secret);
    assert_eq!(object.bytes().len(), 505);
    let (record, place) = placed(&epoch(1), &secret, &object);
    assert_eq!(place.open(&record.value, WALL).unwrap(), object);
}

#[test]
fn every_record_of_a_class_has_one_size() {
    let secret = device(1);
    let small = seal(&epoch(1), &secret, &sign(&presence(&secret, 1), &secret), WALL);
    assert_eq!(
        (small.value.len(), Class::Slot.value_bytes(), Class::Bulletin.value_bytes()),
        (1_177, 1_177, 4_249)
    );
}

#[test]
fn every_truncation_extension_and_flipped_bit_is_refused() {
    let secret = device(1);
    let (record, place) = placed(&epoch(1), &secret, &sign(&presence(&secret, 7), &secret));
    for cut in 0..record.value.len() {
        assert_eq!(check(&record.key, &record.value[..cut], WALL), Err(RecordError::Length));
    }
    assert_eq!(check(&record.key, &[&record.value[..], &[0]].concat(), WALL), Err(RecordError::Length));
    for bit in 0..record.value.len() * 8 {
        let mut altered = record.value.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(check(&record.key, &altered, WALL).is_err(), "bit {bit}");
        assert!(place.open(&altered, WALL).is_err(), "bit {bit}");
    }
    for bit in 0..256 {
        let mut key = record.key;
        key[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(check(&key, &record.value, WALL), Err(RecordError::Key));
    }
    assert_eq!(check(&record.key[..31], &record.value, WALL), Err(RecordError::Key));
}

#[test]
fn a_record_is_taken_from_five_minutes_before_its_sequence_until_its_expiry() {
    let secret = device(1);
    let (record, _) = placed(&epoch(1), &secret, &sign(&presence(&secret, 7), &secret));
    let at = |wall| check(&record.key, &record.value, wall).err();
    assert_eq!(at(WALL - MAX_AHEAD_SECS), None);
    assert_eq!(at(WALL - MAX_AHEAD_SECS - 1), Some(RecordError::Ahead));
    assert_eq!(at(record.expiry - 1), None);
    assert_eq!(at(record.expiry), Some(RecordError::Expired));
    assert_eq!(at(u64::MAX), Some(RecordError::Expired));
}

#[test]
fn a_slot_record_is_taken_ten_minutes_before_its_slot_and_five_more_for_clocks() {
    let secret = device(1);
    let object = sign(&presence(&secret, 7), &secret);
    let slot = slot_of(WALL);
    let made_at = |wall| presence::seal(&epoch(1), slot, (&secret, &object), wall, &mut rng()).unwrap();
    let early = made_at(start_of(slot) - 900);
    assert_eq!(
        check(&early.key, &early.value, start_of(slot) - 900).map(|checked| checked.expiry),
        Ok(expiry_of(slot))
    );
    assert_eq!(check(&early.key, &early.value, start_of(slot) - 901), Err(RecordError::Life));
}

#[test]
fn an_ex_member_with_the_old_epoch_looks_in_the_wrong_place_and_opens_nothing() {
    let secret = device(1);
    let (record, _) = placed(&epoch(2), &secret, &sign(&presence(&secret, 7), &secret));
    let old = Place::new(&epoch(1), &secret.public(), slot_of(WALL)).unwrap();
    assert_ne!(old.key(), &record.key);
    assert_eq!(old.open(&record.value, WALL), Err(RecordError::Key));
}

#[test]
fn a_member_writes_under_its_own_key_only() {
    let (alice, bob) = (device(1), device(2));
    let of_bob = sign(&presence(&bob, 7), &bob);
    assert_eq!(presence::seal(&epoch(1), slot_of(WALL), (&alice, &of_bob), WALL, &mut rng()), None);

    // What Bob puts under the key at which Alice is looked up is refused by every beacon.
    let by_bob = seal(&epoch(1), &bob, &of_bob, WALL);
    let place = Place::new(&epoch(1), &alice.public(), slot_of(WALL)).unwrap();
    assert_eq!(check(place.key(), &by_bob.value, WALL), Err(RecordError::Key));
    // With Alice's A' in place of his own it is the signature that does not hold.
    let by_alice = seal(&epoch(1), &alice, &sign(&presence(&alice, 7), &alice), WALL);
    let mut forged = by_bob.value.clone();
    forged[1..33].copy_from_slice(&by_alice.value[1..33]);
    assert_eq!(check(place.key(), &forged, WALL), Err(RecordError::Signature));
}

#[test]
fn the_records_of_two_slots_share_no_run_of_eight_bytes() {
    let (epoch, secret) = (epoch(1), device(1));
    let object = sign(&presence(&secret, 7), &secret);
    let runs = |hour: u64| {
        let wall = WALL + hour * 3_600 + hour * hour;
        let record = presence::seal(
            &epoch,
            slot_of(wall),
            (&secret, &object),
            wall,
            &mut Rng::from_seed([hour as u8; 32]),
        );
        record.unwrap().value.windows(8).map(<[u8]>::to_vec).collect::<std::collections::BTreeSet<_>>()
    };
    let slots: Vec<_> = (0..24).map(runs).collect();
    for (i, a) in slots.iter().enumerate() {
        for (j, b) in slots.iter().enumerate().skip(i + 1) {
            assert!(a.is_disjoint(b), "slots {i} and {j}");
        }
    }
}

fn rng() -> Rng {
    Rng::from_seed([9; 32])
}

fn epoch(number: u8) -> EpochSecret {
    EpochSecret::new(VPI, u64::from(number), Secret([number; 32]))
}

fn device(n: u8) -> SigningSecret {
    SigningSecret::from_seed(&[n; 32])
}

fn presence(secret: &SigningSecret, counter: u64) -> Presence {
    Presence {
        device: secret.public(),
        time: WALL,
        counter,
        candidates: vec!["192.0.2.1:41414".parse().unwrap()],
        beacon: None,
        nat: 0,
        flags: 0,
        extensions: Extensions::default(),
    }
}

fn sign(presence: &Presence, secret: &SigningSecret) -> Object {
    Object::sign(&VPI, &Body::Presence(presence.clone()), &[secret]).unwrap()
}

fn seal(epoch: &EpochSecret, secret: &SigningSecret, object: &Object, wall: u64) -> Record {
    presence::seal(epoch, slot_of(wall), (secret, object), wall, &mut rng()).unwrap()
}

fn placed(epoch: &EpochSecret, secret: &SigningSecret, object: &Object) -> (Record, Place) {
    (seal(epoch, secret, object, WALL), Place::new(epoch, &secret.public(), slot_of(WALL)).unwrap())
}
