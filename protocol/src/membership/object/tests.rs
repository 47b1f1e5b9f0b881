//! Envelopes and bodies: known bytes, every damage, every second form.

use proptest::prelude::*;

use super::body::{body_id, kind_of};
use super::signed::signed_bytes;
use super::*;
use crate::identity::{InviteId, ObjectId, SigningSecret, StaticKey, StaticSecret, VpiId};
use crate::wire::cbor::{CborError, Extensions, MapWriter};

#[test]
fn known_objects_have_their_known_bytes() {
    let known: Vec<&str> = include_str!("vectors.txt").lines().collect();
    let made: Vec<String> = every_object()
        .iter()
        .map(|object| format!("{} {}", object.kind().name(), data_encoding::HEXLOWER.encode(object.bytes())))
        .collect();
    assert_eq!(made, known);
}

#[test]
fn every_object_opens_as_what_was_signed() {
    for (object, (body, _)) in every_object().iter().zip(every_body()) {
        let opened = Object::open(&vpi(), object.bytes()).unwrap();
        assert_eq!(opened.body(), &body);
        assert_eq!(opened.id(), body.id());
        assert_eq!(opened.bytes(), object.bytes());
        assert!(opened.bytes().len() <= MAX_OBJECT_BYTES);
    }
}

#[test]
fn every_truncation_and_every_flipped_bit_is_refused() {
    for object in every_object() {
        let bytes = object.bytes();
        for length in 0..bytes.len() {
            assert!(Object::open(&vpi(), &bytes[..length]).is_err(), "{object:?} cut to {length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Object::open(&vpi(), &flipped).is_err(), "{object:?} with bit {bit} flipped");
        }
    }
}

#[test]
fn an_object_of_another_vpi_is_refused() {
    for object in every_object() {
        assert_eq!(Object::open(&VpiId([7; 32]), object.bytes()), Err(ObjectError::Signature), "{object:?}");
    }
    let other = VpiId([7; 32]);
    let (charter, secrets) = every_body().swap_remove(0);
    let secrets: Vec<_> = secrets.iter().collect();
    assert_eq!(Object::sign(&other, &charter, &secrets), Err(ObjectError::OtherVpi));
}

#[test]
fn only_exactly_the_named_signers_will_do() {
    let (join, secrets) = every_body().swap_remove(2);
    let sign = |secrets: &[&SigningSecret]| Object::sign(&vpi(), &join, secrets);
    let [device, invite] = [&secrets[0], &secrets[1]];
    assert!(sign(&[device, invite]).is_ok());
    assert!(sign(&[invite, device]).is_ok());
    assert_eq!(sign(&[device]), Err(ObjectError::Signers));
    assert_eq!(sign(&[]), Err(ObjectError::Signers));
    assert_eq!(sign(&[device, invite, &key(99)]), Err(ObjectError::Signers));
    assert_eq!(sign(&[device, &key(99)]), Err(ObjectError::Signers));
    assert_eq!(sign(&[device, invite, invite]), Err(ObjectError::Signers));
}

#[test]
fn one_key_cannot_be_both_signers_of_a_join() {
    let Body::Join(mut join) = every_body().swap_remove(2).0 else { unreachable!() };
    join.invite_key = join.device;
    assert_eq!(sign_any(&Body::Join(join).encode(), &[&key(3)]), Err(ObjectError::Signers));
}

#[test]
fn fields_of_later_versions_are_kept() {
    let plain = rekey();
    let bytes = rekey_with(|map| map.uint(64, 7).text(1_000, "later"));
    let object = sign_any(&bytes, &[&key(3)]).unwrap();
    let Body::Rekey(rekey) = object.body() else { unreachable!() };
    assert_eq!(rekey.extensions.count(), 2);
    assert_eq!(object.body().encode(), bytes);
    assert_ne!(object.id(), Body::Rekey(plain).id());
}

#[test]
fn an_unknown_field_below_them_is_refused() {
    for key_number in [5, 63] {
        let bytes = rekey_with(|map| map.uint(key_number, 7));
        let refused = Err(CborError::UnknownField(key_number).into());
        assert_eq!(sign_any(&bytes, &[&key(3)]), refused);
    }
}

#[test]
fn an_unknown_kind_is_an_error_of_its_own() {
    for kind in [0, 5, 8, 9, 10, 11, 1 << 40] {
        let body = MapWriter::new().uint(0, kind).bytes(1, &key(3).public().0).finish(&Extensions::default());
        assert_eq!(sign_any(&body, &[&key(3)]), Err(ObjectError::UnknownKind(kind)));
    }
}

#[test]
fn a_second_form_of_a_body_is_refused() {
    let good = rekey_with(|map| map);
    assert!(sign_any(&good, &[&key(3)]).is_ok());
    // {0: 7, 1: key, 2: counter 5, 3: static, 4: time}: the counter's value stands behind 0x02.
    let counter = 1 + 2 + 1 + 34 + 1;
    assert_eq!(good[counter - 1..=counter], [2, 5]);
    let longer_int = [&good[..counter], &[0x18, 5], &good[counter + 1..]].concat();
    let longer_map = [&[0xb8, 5], &good[1..]].concat();
    let indefinite = [&[0xbf], &good[1..], &[0xff]].concat();
    let trailing = [&good[..], &[0]].concat();
    let reordered = [&good[..1], &good[3..38], &good[1..3], &good[38..]].concat();
    let doubled = [&[0xa6], &good[1..3], &good[1..]].concat();
    for bytes in [longer_int, longer_map, indefinite, trailing, reordered, doubled] {
        let refused = sign_any(&bytes, &[&key(3)]).unwrap_err();
        assert!(matches!(refused, ObjectError::Body(CborError::NotCanonical)), "{refused:?}");
    }
}

#[test]
fn a_second_form_of_an_envelope_is_refused() {
    let good = Object::sign(&vpi(), &Body::Rekey(rekey()), &[&key(3)]).unwrap().bytes().to_vec();
    let mut version_2 = good.clone();
    version_2[1] = 2;
    let longer_version = [&good[..1], &[0x18, 1], &good[2..]].concat();
    let trailing = [&good[..], &[0]].concat();
    let four = [&[0x84], &good[1..], &[0]].concat();
    let indefinite = [&[0x9f], &good[1..], &[0xff]].concat();
    for bytes in [version_2, longer_version, trailing, four, indefinite, vec![], vec![0xf6], vec![0x80]] {
        assert_eq!(Object::open(&vpi(), &bytes), Err(ObjectError::Envelope), "{bytes:02x?}");
    }
}

#[test]
fn too_large_bodies_and_too_many_signatures_are_refused() {
    let at_most = |text: usize| rekey_with(|map| map.text(64, &"x".repeat(text)));
    let room = MAX_BODY_BYTES - at_most(1_000).len() + 1_000;
    assert!(sign_any(&at_most(room), &[&key(3)]).is_ok());
    assert_eq!(sign_any(&at_most(room + 1), &[&key(3)]), Err(ObjectError::TooLarge));
    assert_eq!(Object::open(&vpi(), &[0; MAX_OBJECT_BYTES + 1]), Err(ObjectError::TooLarge));

    let secrets: Vec<_> = (1..=17).map(key).collect();
    let secrets: Vec<_> = secrets.iter().collect();
    assert!(sign_any(&rekey_with(|map| map), &secrets).is_err());
}

#[test]
fn the_largest_object_fits_its_bound() {
    let secrets: Vec<_> = (1..=16).map(key).collect();
    let secrets: Vec<_> = secrets.iter().collect();
    let body = vec![0; MAX_BODY_BYTES];
    assert_eq!(envelope::write(&body, b"", &secrets).len(), MAX_OBJECT_BYTES);
}

#[test]
fn low_order_static_keys_are_refused() {
    // The points of order 1, 2, 4 and 8 and their other encodings (RFC 7748 §6.1).
    for hex in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000080",
    ] {
        let rekey = Rekey { static_key: StaticKey::from_hex(hex).unwrap(), ..rekey() };
        let refused = Object::sign(&vpi(), &Body::Rekey(rekey), &[&key(3)]);
        assert_eq!(refused, Err(CborError::Field(3).into()), "{hex}");
    }
}

#[test]
fn names_are_checked() {
    for name in ["", "Nas", "na s", "nas.home", "näs", &"a".repeat(MAX_DEVICE_NAME + 1)] {
        assert!(!is_name(name, MAX_DEVICE_NAME), "{name}");
        let Body::Join(join) = every_body().swap_remove(2).0 else { unreachable!() };
        let body = Body::Join(Join { name: name.to_owned(), ..join });
        assert_eq!(Object::sign(&vpi(), &body, &[&key(3), &key(4)]), Err(CborError::Field(4).into()));
        let body = Body::Charter(Charter { name: name.to_owned(), ..charter() });
        assert_eq!(sign_any(&body.encode(), &[&key(1), &key(2)]), Err(CborError::Field(4).into()));
    }
    assert!(is_name("nas-2", MAX_VPI_NAME));
    assert!(!is_name("twelve-chars", MAX_VPI_NAME));
}

#[test]
fn charters_whose_fields_contradict_each_other_are_refused() {
    let wrong: [Wrong<'_, Charter>; 10] = [
        (2, &|c| c.previous = Some(ObjectId([1; 32]))),
        (2, &|c| c.version = 1),
        (6, &|c| c.roots.reverse()),
        (7, &|c| c.threshold = 0),
        (7, &|c| c.threshold = 3),
        (8, &|c| c.admins.clear()),
        (8, &|c| c.admins.push(c.admins[0].clone())),
        (10, &|c| c.retired = vec![Cut { admin: key(1).public(), seq: 0, id: ObjectId([1; 32]) }; 2]),
        (11, &|c| c.pardons = vec![vec![1; 15]]),
        (11, &|c| c.pardons = vec![vec![2; 16], vec![1; 16]]),
    ];
    for (field, change) in wrong {
        let mut charter = charter();
        change(&mut charter);
        let refused = sign_any(&Body::Charter(charter).encode(), &[&key(1), &key(2)]);
        assert_eq!(refused, Err(CborError::Field(field).into()));
    }
    let mut one_signer = charter();
    one_signer.signers.truncate(1);
    let signer = [key(1), key(2)].into_iter().find(|k| k.public() == one_signer.signers[0]).unwrap();
    let refused = sign_any(&Body::Charter(one_signer).encode(), &[&signer]);
    assert_eq!(refused, Err(CborError::Field(5).into()));
}

#[test]
fn invites_out_of_range_are_refused() {
    let Body::Invite(invite) = every_body().swap_remove(1).0 else { unreachable!() };
    let wrong: [Wrong<'_, Invite>; 7] = [
        (7, &|i| i.max_uses = 0),
        (7, &|i| i.max_uses = MAX_USES + 1),
        (8, &|i| i.not_after = i.time - 1),
        (8, &|i| i.not_after = i.time + MAX_INVITE_SECONDS + 1),
        (4, &|i| i.time = u64::MAX),
        (11, &|i| i.groups = vec!["b".into(), "a".into()]),
        (13, &|i| i.admitters = vec![key(1).public(); 2]),
    ];
    for (field, change) in wrong {
        let mut invite = invite.clone();
        change(&mut invite);
        let refused = Object::sign(&vpi(), &Body::Invite(invite), &[&key(3)]);
        assert_eq!(refused, Err(CborError::Field(field).into()));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_open(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Object::open(&vpi(), &bytes).is_err());
        // Signed by whoever they name, such bytes reach the decoders too.
        prop_assert!(sign_any(&bytes, &[&key(3)]).is_err());
    }

    #[test]
    fn a_damaged_body_that_is_signed_again_opens_as_itself_or_not_at_all(
        which in 0usize..6, at in any::<prop::sample::Index>(), value in any::<u8>(),
    ) {
        let (body, secrets) = every_body().swap_remove(which);
        let mut bytes = body.encode();
        let at = at.index(bytes.len());
        bytes[at] = value;
        let secrets: Vec<_> = secrets.iter().collect();
        if let Ok(object) = sign_any(&bytes, &secrets) {
            prop_assert_eq!(object.body().encode(), bytes);
        }
    }
}

/// A field, and a change that makes it wrong.
type Wrong<'a, T> = (u64, &'a dyn Fn(&mut T));

fn key(n: u8) -> SigningSecret {
    SigningSecret::from_seed(&[n; 32])
}

fn vpi() -> VpiId {
    VpiId(Body::Charter(charter()).id().0)
}

fn static_key(n: u8) -> StaticKey {
    StaticSecret::from_bytes([n; 32]).public()
}

/// Signs any bytes as a body, as a hostile member would.
fn sign_any(body: &[u8], secrets: &[&SigningSecret]) -> Result<Object, ObjectError> {
    let kind = kind_of(body).unwrap_or(Kind::Rekey);
    let vpi = if kind == Kind::Charter { VpiId(body_id(body).0) } else { vpi() };
    Object::open(&vpi, &envelope::write(body, &signed_bytes(kind, &vpi, body), secrets))
}

fn charter() -> Charter {
    let mut roots =
        [(key(1), false), (key(2), true)].map(|(k, is_recovery)| Root { key: k.public(), is_recovery });
    roots.sort_unstable_by_key(|root| root.key);
    Charter {
        version: 0,
        previous: None,
        time: 1_700_000_000,
        name: "home".into(),
        signers: roots.iter().map(|root| root.key).collect(),
        roots: roots.to_vec(),
        threshold: 1,
        admins: vec![Admin { device: key(3).public(), name: "nas".into(), capabilities: Capabilities::ALL }],
        policy: Policy::default(),
        retired: vec![Cut { admin: key(9).public(), seq: 4, id: ObjectId([8; 32]) }],
        pardons: vec![vec![1; 16], vec![2; 32]],
        nonce: [5; 16],
        extensions: Extensions::default(),
    }
}

fn rekey() -> Rekey {
    Rekey {
        device: key(3).public(),
        counter: 5,
        static_key: static_key(6),
        time: 1_700_000_500,
        extensions: Extensions::default(),
    }
}

/// The body of [`rekey`] with more fields behind its own.
fn rekey_with(more: impl FnOnce(MapWriter) -> MapWriter) -> Vec<u8> {
    let rekey = rekey();
    let map = MapWriter::new()
        .uint(0, Kind::Rekey as u64)
        .bytes(1, &rekey.device.0)
        .uint(2, rekey.counter)
        .bytes(3, &rekey.static_key.0)
        .uint(4, rekey.time);
    more(map).finish(&Extensions::default())
}

fn invite() -> Invite {
    Invite {
        admin: key(3).public(),
        seq: 1,
        previous: ObjectId([4; 32]),
        time: 1_700_000_100,
        invite_id: InviteId([6; 16]),
        invite_key: key(4).public(),
        max_uses: 2,
        not_after: 1_700_086_500,
        name: Some("laptop".into()),
        capabilities: Capabilities::NONE,
        groups: vec!["family".into()],
        bound_device: Some(key(5).public()),
        admitters: vec![key(3).public()],
        extensions: Extensions::default(),
    }
}

fn join() -> Join {
    Join {
        invite_id: InviteId([6; 16]),
        device: key(3).public(),
        static_key: static_key(7),
        name: "laptop".into(),
        time: 1_700_000_200,
        nonce: [7; 16],
        invite_key: key(4).public(),
        extensions: Extensions::default(),
    }
}

/// One body of each kind, with the secrets that sign it.
fn every_body() -> Vec<(Body, Vec<SigningSecret>)> {
    let (extensions, admin) = (Extensions::default(), key(3).public());
    let admit = Admit {
        witness: admin,
        join_id: ObjectId([9; 32]),
        time: 1_700_000_300,
        epoch_seen: 2,
        extensions: extensions.clone(),
    };
    let epoch = Epoch {
        admin,
        seq: 0,
        previous: ObjectId(vpi().0),
        time: 1_700_000_400,
        number: 2,
        secret_hash: [1; 32],
        removed_digest: [2; 32],
        extensions,
    };
    vec![
        (Body::Charter(charter()), vec![key(1), key(2)]),
        (Body::Invite(invite()), vec![key(3)]),
        (Body::Join(join()), vec![key(3), key(4)]),
        (Body::Admit(admit), vec![key(3)]),
        (Body::Epoch(epoch), vec![key(3)]),
        (Body::Rekey(rekey()), vec![key(3)]),
    ]
}

fn every_object() -> Vec<Object> {
    every_body()
        .iter()
        .map(|(body, secrets)| Object::sign(&vpi(), body, &secrets.iter().collect::<Vec<_>>()).unwrap())
        .collect()
}
