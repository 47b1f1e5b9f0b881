//! Envelopes and bodies: known bytes, every damage, every second form.

use proptest::prelude::*;

use super::body::{body_id, kind_of};
use super::signed::signed_bytes;
use super::*;
use crate::identity::{InviteId, ObjectId, PublicKey, SigningSecret, StaticKey, StaticSecret, VpiId};
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
    for kind in [0, 11, 12, 1 << 40] {
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
        (10, &|c| c.retired = vec![Cut { admin: key(3).public(), seq: 0, id: ObjectId([1; 32]) }]),
        (11, &|c| c.pardons = vec![Target::Invite(InviteId([1; 16])); 2]),
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

#[test]
fn a_device_without_a_chain_removes_itself_and_nothing_else() {
    let leave = Remove { link: None, target: Target::Device(key(3).public()), ..removal() };
    let object = Object::sign(&vpi(), &Body::Remove(leave.clone()), &[&key(3)]).unwrap();
    assert_eq!(object.body().link(), None);
    for target in [Target::Device(key(4).public()), Target::Invite(InviteId([6; 16]))] {
        let other = Body::Remove(Remove { target, ..leave.clone() });
        assert_eq!(Object::sign(&vpi(), &other, &[&key(3)]), Err(CborError::Field(5).into()));
    }
    let half = |map: MapWriter| map.uint(4, 9).bytes(5, &key(3).public().0).uint(6, 1);
    let head = || MapWriter::new().uint(0, 5).bytes(1, &key(3).public().0);
    for (field, body) in [(3, half(head().uint(2, 7))), (4, half(head().bytes(3, &[4; 32])))] {
        let refused = sign_any(&body.finish(&Extensions::default()), &[&key(3)]);
        assert_eq!(refused, Err(CborError::Field(field).into()));
    }
}

#[test]
fn reasons_of_later_versions_are_kept() {
    for number in 0..=u8::MAX {
        assert_eq!(Reason::from_number(number).number(), number);
    }
    let later = Body::Remove(Remove { reason: Reason::Other(200), ..removal() });
    assert_eq!(Object::sign(&vpi(), &later, &[&key(3)]).unwrap().body(), &later);
    let body = |target: &[u8], reason: u64| {
        let map = MapWriter::new().uint(0, 5).bytes(1, &key(3).public().0).uint(2, 1).bytes(3, &[4; 32]);
        map.uint(4, 9).bytes(5, target).uint(6, reason).finish(&Extensions::default())
    };
    assert!(sign_any(&body(&[1; 16], 255), &[&key(3)]).is_ok());
    assert_eq!(sign_any(&body(&[1; 16], 256), &[&key(3)]), Err(CborError::Field(6).into()));
    for length in [0, 15, 17, 31, 33] {
        assert_eq!(sign_any(&body(&vec![1; length], 0), &[&key(3)]), Err(CborError::Field(5).into()));
    }
}

#[test]
fn presences_have_one_form_of_each_address() {
    let with = |change: &dyn Fn(&mut Presence)| {
        let mut presence = presence();
        change(&mut presence);
        Object::sign(&vpi(), &Body::Presence(presence), &[&key(3)])
    };
    let socket = "192.0.2.1:9".parse().unwrap();
    assert!(with(&|p| p.candidates.clear()).is_ok());
    assert!(with(&|p| p.candidates = vec![socket; MAX_CANDIDATES]).is_ok());
    assert!(with(&|p| p.beacon = Some(("x".repeat(MAX_BEACON_ADDRESS), vec![1; MAX_BEACON_PEER]))).is_ok());
    let wrong: [Wrong<'_, Presence>; 7] = [
        (4, &|p| p.candidates = vec![socket; MAX_CANDIDATES + 1]),
        (4, &|p| p.candidates = vec!["192.0.2.1:0".parse().unwrap()]),
        (4, &|p| p.candidates = vec!["[::ffff:192.0.2.1]:9".parse().unwrap()]),
        (5, &|p| p.beacon = Some((String::new(), vec![1]))),
        (5, &|p| p.beacon = Some(("x".into(), Vec::new()))),
        (5, &|p| p.beacon = Some(("x".repeat(MAX_BEACON_ADDRESS + 1), vec![1]))),
        (5, &|p| p.beacon = Some(("x".into(), vec![1; MAX_BEACON_PEER + 1]))),
    ];
    for (field, change) in wrong {
        assert_eq!(with(change), Err(CborError::Field(field).into()));
    }
}

#[test]
fn confirms_name_each_join_once_and_leases_end_behind_their_beginning() {
    let lists = [
        vec![],
        vec![ObjectId([1; 32]); 2],
        vec![ObjectId([2; 32]), ObjectId([1; 32])],
        (0..=MAX_CONFIRMED as u8).map(|n| ObjectId([n; 32])).collect(),
    ];
    for joins in lists {
        let wrong = Body::Confirm(Confirm { joins, ..confirm() });
        assert_eq!(Object::sign(&vpi(), &wrong, &[&key(3)]), Err(CborError::Field(5).into()));
    }
    let full = (0..MAX_CONFIRMED as u8).map(|n| ObjectId([n; 32])).collect();
    assert!(Object::sign(&vpi(), &Body::Confirm(Confirm { joins: full, ..confirm() }), &[&key(3)]).is_ok());
    let wrong = Body::Lease(Lease { until: lease().from - 1, ..lease() });
    assert_eq!(Object::sign(&vpi(), &wrong, &[&key(3)]), Err(CborError::Field(4).into()));
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
        which in 0usize..11, at in any::<prop::sample::Index>(), value in any::<u8>(),
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
        pardons: vec![Target::Invite(InviteId([1; 16])), Target::Device(PublicKey([2; 32]))],
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

fn removal() -> Remove {
    Remove {
        signer: key(3).public(),
        link: Some((7, ObjectId([4; 32]))),
        time: 1_700_000_600,
        target: Target::Device(key(5).public()),
        reason: Reason::Lost,
        extensions: Extensions::default(),
    }
}

fn presence() -> Presence {
    Presence {
        device: key(3).public(),
        time: 1_700_000_700,
        counter: 12,
        candidates: vec!["192.0.2.1:41414".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap()],
        beacon: Some(("/ip4/192.0.2.9/tcp/443".into(), vec![18, 32, 7])),
        nat: 2,
        flags: 1,
        extensions: Extensions::default(),
    }
}

fn lease() -> Lease {
    Lease {
        admin: key(3).public(),
        device: key(5).public(),
        from: 1_700_000_800,
        until: 1_702_592_800,
        extensions: Extensions::default(),
    }
}

fn confirm() -> Confirm {
    Confirm {
        admin: key(3).public(),
        seq: 8,
        previous: ObjectId([5; 32]),
        time: 1_700_000_900,
        joins: vec![ObjectId([1; 32]), ObjectId([2; 32])],
        extensions: Extensions::default(),
    }
}

/// One body of each kind, a departure and a removal by an admin, with the secrets that sign it.
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
    let departure = Remove { link: None, target: Target::Device(admin), reason: Reason::Left, ..removal() };
    vec![
        (Body::Charter(charter()), vec![key(1), key(2)]),
        (Body::Invite(invite()), vec![key(3)]),
        (Body::Join(join()), vec![key(3), key(4)]),
        (Body::Admit(admit), vec![key(3)]),
        (Body::Epoch(epoch), vec![key(3)]),
        (Body::Rekey(rekey()), vec![key(3)]),
        (Body::Remove(removal()), vec![key(3)]),
        (Body::Remove(departure), vec![key(3)]),
        (Body::Presence(presence()), vec![key(3)]),
        (Body::Lease(lease()), vec![key(3)]),
        (Body::Confirm(confirm()), vec![key(3)]),
    ]
}

fn every_object() -> Vec<Object> {
    every_body()
        .iter()
        .map(|(body, secrets)| Object::sign(&vpi(), body, &secrets.iter().collect::<Vec<_>>()).unwrap())
        .collect()
}
