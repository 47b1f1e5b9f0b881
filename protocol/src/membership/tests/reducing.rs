//! The reducer over soups of objects.

use proptest::prelude::*;

use super::*;
use crate::identity::sha256;
use crate::membership::object::{Epoch, Join, Kind};
use crate::membership::{
    Alarm, MAX_ADMITS, MAX_SET_BYTES, Missing, Refusal, SPARE_JOINS, Waiting, removed_digest,
};

const NOW: u64 = START + 100;

#[test]
fn a_founded_vpi_has_its_founder() {
    let home = Home::new();
    let membership = home.membership();
    let founder = membership.member(&device(FOUNDER)).unwrap();
    assert_eq!((founder.name.as_str(), founder.is_admin, founder.join), ("nas", true, None));
    assert_eq!(holder(&membership, static_key(FOUNDER)), Some(device(FOUNDER)));
    assert_eq!(membership.charter_id(), Some(ObjectId(home.vpi.0)));
    let epoch = membership.epoch().unwrap();
    assert_eq!((epoch.number, epoch.secret_hash, epoch.is_stale), (0, home.epoch.hash(), false));
    assert_eq!(membership.next_link(&device(FOUNDER)), Some((1, epoch.id)));
    assert_eq!(membership.next_link(&device(7)), None);
    assert_eq!(membership.alarms().count(), 0);
}

#[test]
fn nobody_belongs_without_the_charter() {
    let mut home = Home::new();
    let token = home.invite(1);
    home.admit(&token, 7, FOUNDER, NOW);
    let mut set = ObjectSet::new(home.vpi);
    home.set.iter().filter(|object| object.kind() != Kind::Charter).for_each(|object| {
        set.insert(object);
    });
    assert_eq!(reduce(&set).members().len(), 0);
}

#[test]
fn members_admit_members_in_rounds() {
    let mut home = Home::new();
    let token = home.invite(4);
    // Each is admitted by the next, so the last Admit in the chain decides.
    home.admit(&token, 7, 8, NOW);
    home.admit(&token, 8, 9, NOW);
    assert_eq!(home.membership().waiting(&device(7)), Some(Waiting::Joining));
    home.admit(&token, 9, FOUNDER, NOW);
    assert_eq!(home.membership().members().len(), 4);
}

#[test]
fn two_devices_that_admit_each_other_stay_outside() {
    let mut home = Home::new();
    let token = home.invite(4);
    home.admit(&token, 7, 8, NOW);
    home.admit(&token, 8, 7, NOW);
    home.admit(&token, 9, 9, NOW);
    assert_eq!(home.membership().members().len(), 1);
}

#[test]
fn the_earliest_admit_has_the_use_and_the_others_are_contested() {
    let mut home = Home::new();
    let token = home.invite(1);
    home.admit(&token, 7, FOUNDER, NOW + 1);
    home.admit(&token, 8, FOUNDER, NOW);
    let membership = home.membership();
    assert!(membership.member(&device(8)).is_some());
    assert_eq!(membership.waiting(&device(7)), Some(Waiting::Contested));
    let alarm = Alarm::Contested { invite: token.invite().invite_id, device: device(7) };
    assert_eq!(membership.alarms().collect::<Vec<_>>(), [&alarm]);
    assert_eq!(membership.invite(&token.invite().invite_id).unwrap().uses_left(), 0);
}

#[test]
fn who_is_in_by_an_earlier_round_stays_in() {
    let mut home = Home::new();
    let (first, contended) = (home.invite(1), home.invite(1));
    home.admit(&first, 7, FOUNDER, NOW);
    // Device 7 is a member only after round one, so its earlier Admit comes too late.
    home.admit(&contended, 8, FOUNDER, NOW + 50);
    home.admit(&contended, 9, 7, NOW);
    let membership = home.membership();
    assert!(membership.member(&device(8)).is_some());
    assert_eq!(membership.waiting(&device(9)), Some(Waiting::Contested));
}

#[test]
fn an_admit_behind_the_end_and_its_grace_counts_for_nothing() {
    let mut home = Home::new();
    let token = home.invite(2);
    let end = token.invite().not_after;
    home.admit(&token, 7, FOUNDER, end + 300);
    home.admit(&token, 8, FOUNDER, end + 301);
    let membership = home.membership();
    assert!(membership.member(&device(7)).is_some());
    assert_eq!(membership.waiting(&device(8)), Some(Waiting::Joining));
}

#[test]
fn a_fork_voids_later_allows_and_keeps_earlier_ones() {
    let mut home = Home::new();
    let good = home.invite(1);
    home.admit(&good, 7, FOUNDER, NOW);
    let (one, other) = (home.token(&wish(1)), home.token(&wish(1)));
    home.insert(one.invite_object());
    home.admit(&one, 8, FOUNDER, NOW);
    assert_eq!(home.membership().members().len(), 3);
    home.insert(other.invite_object());
    home.admit(&other, 9, FOUNDER, NOW);
    let membership = home.membership();
    assert_eq!(membership.members().len(), 2);
    assert!(membership.member(&device(7)).is_some());
    let alarm = Alarm::ChainForked { admin: device(FOUNDER), seq: 2 };
    assert_eq!(membership.alarms().collect::<Vec<_>>(), [&alarm]);
    assert_eq!(membership.next_link(&device(FOUNDER)), None);
    let (key, epoch) = (key(FOUNDER), home.epoch.clone());
    let admin = Admin { key: &key, set: &home.set, wall_secs: NOW };
    let refused = invite(&mut home.rng, &admin, &epoch, &wish(1), Addresses::default());
    assert_eq!(refused.unwrap_err(), AdminError::Chain);
}

#[test]
fn a_link_that_names_another_predecessor_proves_the_fork_before_it() {
    let mut home = Home::new();
    let mut elsewhere = Home::new();
    let here = home.invite(1);
    elsewhere.invite(2);
    home.admit(&here, 7, FOUNDER, NOW);
    home.insert(elsewhere.invite(1).invite_object());
    let membership = home.membership();
    assert_eq!(membership.members().len(), 1);
    let alarm = Alarm::ChainForked { admin: device(FOUNDER), seq: 1 };
    assert!(membership.alarms().any(|a| *a == alarm));
}

#[test]
fn links_behind_a_gap_count_and_their_admin_signs_none_before_it_is_closed() {
    let mut home = Home::new();
    let mut ahead = Home::new();
    let missing = ahead.invite(2);
    let late = ahead.invite(1);
    home.insert(late.invite_object());
    home.admit(&late, 7, FOUNDER, NOW);
    assert!(home.membership().member(&device(7)).is_some());
    assert_eq!(home.membership().next_link(&device(FOUNDER)), None);
    home.insert(missing.invite_object());
    assert!(home.membership().member(&device(7)).is_some());
    assert_eq!(home.membership().next_link(&device(FOUNDER)), Some((3, late.invite_object().id())));
}

#[test]
fn the_later_of_two_equal_names_shows_digits_of_its_key() {
    let mut home = Home::new();
    let token = home.invite(3);
    let join_as = |name: &str, n: u8| {
        let joiner =
            Joiner { device: &key(n), static_key: static_key(n), name, nonce: [n; 16], wall_secs: NOW };
        Question::ask(&token, &joiner).unwrap().join_object().clone()
    };
    let joins = [join_as("nas", 7), join_as("pi", 8), join_as("pi", 9)];
    for (join, at) in joins.iter().zip([NOW, NOW + 2, NOW + 1]) {
        home.insert(join);
        home.insert(&admit(&home.vpi, join, FOUNDER, at));
    }
    let membership = home.membership();
    let name = |n: u8| membership.member(&device(n)).unwrap().name.clone();
    assert_eq!(name(FOUNDER), "nas");
    assert_eq!(name(7), format!("nas-{}", &device(7).to_string()[..4]));
    assert_eq!(name(9), "pi");
    assert_eq!(name(8), format!("pi-{}", &device(8).to_string()[..4]));
    let warned = membership.alarms().filter(|alarm| matches!(alarm, Alarm::SameName { .. })).count();
    assert_eq!(warned, 2);
}

#[test]
fn the_highest_rekey_is_the_static_key() {
    let mut home = Home::new();
    let token = home.invite(1);
    home.admit(&token, 7, FOUNDER, NOW);
    for (counter, n) in [(1, 21), (3, 23), (2, 22), (0, 20)] {
        home.set.insert(&rekey(&home.vpi, 7, counter, static_key(n)));
    }
    let membership = home.membership();
    assert_eq!(holder(&membership, static_key(23)), Some(device(7)));
    for old in [7, 20, 21, 22] {
        assert_eq!(holder(&membership, static_key(old)), None);
    }
    home.insert(&rekey(&home.vpi, 7, 3, static_key(24)));
    let alarm = Alarm::RekeyConflict { device: device(7) };
    assert!(home.membership().alarms().any(|a| *a == alarm));
}

#[test]
fn who_claims_the_static_key_of_another_takes_nothing_from_it() {
    let mut home = Home::new();
    let token = home.invite(1);
    home.admit(&token, 7, FOUNDER, NOW);
    home.insert(&rekey(&home.vpi, 7, 0, static_key(FOUNDER)));
    let membership = home.membership();
    for member in [FOUNDER, 7] {
        assert_eq!(membership.member(&device(member)).unwrap().static_key, Some(static_key(FOUNDER)));
    }
}

#[test]
fn the_highest_epoch_is_in_force_and_stale_ones_say_so() {
    let mut home = Home::new();
    let (seq, previous) = home.membership().next_link(&device(FOUNDER)).unwrap();
    let body = Epoch {
        admin: device(FOUNDER),
        seq,
        previous,
        time: NOW,
        number: 1,
        secret_hash: [1; 32],
        removed_digest: removed_digest([&[1; 32][..]]),
        extensions: Extensions::default(),
    };
    home.insert(&Object::sign(&home.vpi, &Body::Epoch(body), &[&key(FOUNDER)]).unwrap());
    let membership = home.membership();
    assert_eq!(membership.epoch().map(|epoch| (epoch.number, epoch.is_stale)), Some((1, true)));
    assert_eq!(membership.epochs().count(), 2);
}

#[test]
fn the_digest_of_a_removed_set_does_not_depend_on_order() {
    let (a, b) = (&[1; 32][..], &[2; 16][..]);
    assert_eq!(removed_digest([a, b]), removed_digest([b, a, b]));
    assert_ne!(removed_digest([a, b]), removed_digest([a]));
    assert_ne!(removed_digest([]), removed_digest([b]));
}

#[test]
fn links_of_strangers_are_refused_and_go_when_the_charter_comes() {
    let mut home = Home::new();
    let token = home.token(&wish(1));
    let Body::Invite(mut body) = token.invite_object().body().clone() else { unreachable!() };
    body.admin = device(7);
    let strange = Object::sign(&home.vpi, &Body::Invite(body), &[&key(7)]).unwrap();
    assert_eq!(home.set.insert(&strange), Insertion::Refused(Refusal::Stranger));
    let mut set = ObjectSet::new(home.vpi);
    assert_eq!(set.insert(&strange), Insertion::Stored { dropped: vec![] });
    let charter = home.set.get(&ObjectId(home.vpi.0)).unwrap().clone();
    assert_eq!(set.insert(&charter), Insertion::Stored { dropped: vec![strange.id()] });
}

#[test]
fn spare_joins_are_bounded_and_admitted_ones_stay() {
    let mut home = Home::new();
    let token = home.invite(1);
    let admitted = home.admit(&token, 7, FOUNDER, NOW);
    for n in 20..60 {
        home.set.insert(question(&token, n).join_object());
    }
    assert_eq!(home.set.of_kind(Kind::Join).count(), 1 + SPARE_JOINS);
    assert!(home.set.get(&admitted).is_some());
    assert!(home.membership().member(&device(7)).is_some());
}

#[test]
fn joins_that_their_invite_does_not_permit_are_not_kept_whatever_comes_first() {
    let (mut home, mut late) = (Home::new(), Home::new());
    let token = home.invite(1);
    let join = question(&token, 7).join_object().clone();
    let Body::Join(body) = join.body() else { panic!("a question holds a join") };
    let thief = key(66);
    for n in 20..60u8 {
        // Whoever knows the invite's id can make these.
        let body = Join { device: device(n), invite_key: thief.public(), ..body.clone() };
        let forged = Object::sign(&home.vpi, &Body::Join(body), &[&key(n), &thief]).unwrap();
        assert_eq!(home.set.insert(&forged), Insertion::Refused(Refusal::Unfit));
        assert!(matches!(late.set.insert(&forged), Insertion::Stored { .. }), "the invite may say so yet");
    }
    late.set.insert(token.invite_object());
    assert_eq!(late.set.of_kind(Kind::Join).count(), 0);
    home.insert(&join);
    late.insert(&join);
}

#[test]
fn what_an_object_hangs_on_is_named_until_it_is_here() {
    let mut home = Home::new();
    let token = home.invite(1);
    let invite = token.invite_object().clone();
    let join = question(&token, 7).join_object().clone();
    let vouched = admit(&home.vpi, &join, FOUNDER, NOW);
    let (known, unknown) =
        (rekey(&home.vpi, FOUNDER, 9, static_key(9)), rekey(&home.vpi, 7, 0, static_key(7)));
    let mut set = ObjectSet::new(home.vpi);
    let Body::Invite(body) = invite.body() else { panic!("a token holds an invite") };
    assert_eq!(set.missing_for(&join), Some(Missing::Invite(body.invite_id)));
    assert_eq!(
        set.missing_for(&known),
        Some(Missing::Device(device(FOUNDER))),
        "no charter says who is an admin"
    );
    for object in home.set.iter() {
        set.insert(object);
    }
    assert_eq!(set.missing_for(&join), None);
    assert_eq!(set.missing_for(&known), None);
    assert_eq!(set.missing_for(&vouched), Some(Missing::Join(join.id())));
    assert_eq!(set.missing_for(&unknown), Some(Missing::Device(device(7))));
    set.insert(&join);
    assert_eq!((set.missing_for(&vouched), set.missing_for(&unknown)), (None, None));
}

#[test]
fn admits_by_strangers_never_push_out_those_by_members() {
    let mut home = Home::new();
    let token = home.invite(1);
    let join = question(&token, 7).join_object().clone();
    home.insert(&join);
    for witness in 20..30 {
        home.set.insert(&admit(&home.vpi, &join, witness, 0));
    }
    home.insert(&admit(&home.vpi, &join, FOUNDER, NOW));
    for witness in 30..40 {
        home.set.insert(&admit(&home.vpi, &join, witness, 0));
    }
    assert_eq!(home.set.of_kind(Kind::Admit).count(), MAX_ADMITS);
    assert!(home.membership().member(&device(7)).is_some());
}

#[test]
fn those_whom_a_device_admitted_cannot_push_out_the_admit_it_stands_on() {
    let mut home = Home::new();
    let token = home.invite(10);
    let join = home.admit(&token, 7, FOUNDER, NOW);
    for n in 20..24 {
        home.admit(&token, n, 7, NOW + 1);
    }
    let join = home.set.get(&join).unwrap().clone();
    for witness in 20..24 {
        home.set.insert(&admit(&home.vpi, &join, witness, 0));
    }
    assert_eq!(home.membership().members().len(), 6);
    assert_eq!(home.membership().member(&device(20)).unwrap().round, 2);
}

#[test]
fn joins_with_another_key_never_push_out_good_ones() {
    let mut home = Home::new();
    let (token, other) = (home.invite(1), home.invite(1));
    for n in 20..40 {
        let Body::Join(mut body) = question(&token, n).join_object().body().clone() else { unreachable!() };
        body.invite_key = other.invite().invite_key;
        let join = Object::sign(&home.vpi, &Body::Join(body), &[&key(n), &other.invite_secret()]).unwrap();
        home.insert(&admit(&home.vpi, &join, FOUNDER, 0));
        home.set.insert(&join);
    }
    let good = question(&token, 7).join_object().clone();
    home.insert(&admit(&home.vpi, &good, FOUNDER, NOW));
    home.insert(&good);
    assert!(home.membership().member(&device(7)).is_some());
}

#[test]
fn a_full_set_lets_go_of_what_hangs_on_nothing() {
    let mut home = Home::new();
    let token = home.invite(1);
    let (vpi, padding) = (home.vpi, padding(1_900));
    let stray = |n: u64| {
        let body = Admit {
            witness: device(20),
            join_id: ObjectId(sha256(&[&n.to_be_bytes()])),
            time: n,
            epoch_seen: 0,
            extensions: padding.clone(),
        };
        Object::sign(&vpi, &Body::Admit(body), &[&key(20)]).unwrap()
    };
    let mut bytes = home.set.iter().map(|object| object.bytes().len()).sum::<usize>();
    for object in (0..).map(stray) {
        bytes += object.bytes().len();
        let Insertion::Stored { dropped } = home.set.insert(&object) else {
            panic!("{object:?} was refused")
        };
        assert_eq!(dropped.is_empty(), bytes <= MAX_SET_BYTES);
        if bytes > MAX_SET_BYTES {
            break;
        }
    }
    assert_eq!(home.set.len(), 4 + 1);
    assert!(home.set.get(&token.invite_object().id()).is_some());
}

#[test]
fn listings_are_in_pages_of_a_stable_order() {
    let mut home = Home::new();
    let token = home.invite(100);
    for n in 10..80 {
        home.insert(question(&token, n).join_object());
    }
    let pages: Vec<_> = (0..4).map(|page| home.set.ids(Kind::Join, page)).collect();
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [32, 32, 6, 0]);
    assert!(pages.concat().is_sorted());
    assert_eq!(home.set.ids(Kind::Join, usize::MAX), []);
    assert_eq!(home.set.len(), 4 + 70);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_order_and_any_duplication_find_the_same_members(
        admits in proptest::collection::vec((0usize..4, 5u8..12, 3u8..12, 0u64..40), 1..24),
        rekeys in proptest::collection::vec((3u8..9, 0u64..3, 5u8..12), 0..6),
        is_forked in any::<bool>(),
        order in Just(()).prop_perturb(|(), mut rng| {
            (0..160).map(|_| rng.random::<u32>()).collect::<Vec<_>>()
        }),
    ) {
        let (home, soup) = soup(&admits, &rekeys, is_forked);
        let expected = reduce(&gather(&home.vpi, &soup));
        let mut shuffled: Vec<_> = soup.iter().cycle().zip(&order).map(|(o, at)| (*at, o.clone())).collect();
        shuffled.sort_by_key(|(at, _)| *at);
        let mut shuffled: Vec<_> = shuffled.into_iter().map(|(_, object)| object).collect();
        // Everything is in it at least once, however the draw fell.
        shuffled.extend(soup.iter().rev().cloned());
        prop_assert_eq!(reduce(&gather(&home.vpi, &shuffled)), expected);
    }
}

/// Joins of several devices by four invites, two of them scarce, admitted by members and others; maybe a fork.
fn soup(admits: &[(usize, u8, u8, u64)], rekeys: &[(u8, u64, u8)], is_forked: bool) -> (Home, Vec<Object>) {
    let mut home = Home::new();
    let mut tokens: Vec<Token> = [1, 2, 5].into_iter().map(|uses| home.invite(uses)).collect();
    let fork = home.token(&wish(3));
    tokens.push(home.invite(3));
    let mut soup: Vec<Object> = home.set.iter().cloned().collect();
    if is_forked {
        soup.push(fork.invite_object().clone());
    }
    let mut by_join: std::collections::BTreeMap<ObjectId, Vec<Object>> = std::collections::BTreeMap::new();
    for (token, n, witness, at) in admits {
        let join = question(&tokens[*token], *n).join_object().clone();
        let admit = admit(&home.vpi, &join, *witness, NOW + at);
        soup.push(join.clone());
        // Within the bounds: what is beyond them comes back by the exchange, not by one insertion.
        let of_join = by_join.entry(join.id()).or_default();
        if of_join.len() < MAX_ADMITS {
            of_join.push(admit);
        }
    }
    soup.extend(by_join.into_values().flatten());
    soup.extend(rekeys.iter().map(|(n, counter, k)| rekey(&home.vpi, *n, *counter, static_key(*k))));
    (home, soup)
}

fn gather(vpi: &VpiId, objects: &[Object]) -> ObjectSet {
    let mut set = ObjectSet::new(*vpi);
    for object in objects {
        set.insert(object);
    }
    set
}
