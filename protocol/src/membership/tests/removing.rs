//! Removals: what they end, what they spare, and that nothing brings the removed back.

use proptest::prelude::*;

use super::admin::Signed;
use super::*;
use crate::identity::InviteId;
use crate::membership::witness::{Verdict, consider};
use crate::membership::{MAX_ADMITS, Refusal, Waiting};

const NOW: u64 = START + 100;

#[test]
fn a_removed_device_is_out_with_its_keys_and_the_next_epoch_knows() {
    let mut home = Home::new();
    let token = home.invite(2);
    home.admit(&token, 7, FOUNDER, NOW);
    home.admit(&token, 8, FOUNDER, NOW);
    let removal = home.remove(7);
    let membership = home.membership();
    assert!(membership.is_removed(&device(7)) && membership.member(&device(7)).is_none());
    assert_eq!(holder(&membership, static_key(7)), None);
    assert_eq!(membership.waiting(&device(7)), None);
    // The other joined by the same invite, which is revoked, and stays by the Confirm.
    assert!(membership.is_revoked(&token.invite().invite_id));
    assert!(membership.member(&device(8)).is_some());
    let (epoch, secret) = (membership.epoch().unwrap(), removal.epoch.unwrap());
    assert_eq!((epoch.number, epoch.secret_hash, epoch.is_stale), (1, secret.hash(), false));
    let kinds: Vec<_> = removal.objects.iter().map(|object| object.kind().name()).collect();
    assert_eq!(kinds, ["confirm", "remove", "remove", "epoch"]);
}

#[test]
fn whom_the_removed_device_let_in_stays_down_to_the_last() {
    let mut home = Home::new();
    let (first, other) = (home.invite(1), home.invite(80));
    home.admit(&first, 7, FOUNDER, NOW);
    home.admit(&other, 10, 7, NOW + 1);
    for n in 11..80 {
        home.admit(&other, n, n - 1, NOW + u64::from(n));
    }
    assert_eq!(home.membership().members().len(), 72);
    let removal = home.remove(7);
    assert_eq!(home.membership().members().len(), 71);
    assert!(home.membership().chains.values().all(|chain| chain.forked_at.is_none()));
    let confirms = removal.objects.iter().filter(|object| object.kind().name() == "confirm").count();
    assert_eq!(confirms, 70usize.div_ceil(32));
}

#[test]
fn a_use_that_a_removal_frees_lets_nobody_in() {
    let mut home = Home::new();
    let token = home.invite(1);
    home.admit(&token, 7, FOUNDER, NOW);
    home.admit(&token, 8, FOUNDER, NOW + 1);
    assert_eq!(home.membership().waiting(&device(8)), Some(Waiting::Contested));
    let key = key(FOUNDER);
    // Long after the invite's end, too.
    let wall_secs = START + 90 * 24 * 3_600;
    let admin = Admin { key: &key, set: &home.set, wall_secs };
    let removal = admin::remove(&mut home.rng, &admin, &device(7), Reason::Lost).unwrap();
    for object in &removal.objects {
        home.insert(object);
    }
    assert_eq!(home.membership().members().len(), 1);
}

#[test]
fn a_remove_counts_before_its_predecessors_are_here_and_beyond_a_fork() {
    let mut home = Home::new();
    let token = home.invite(1);
    home.admit(&token, 7, FOUNDER, NOW);
    let ahead = removal(&home.vpi, FOUNDER, (40, ObjectId([5; 32])), Target::Device(device(7)));
    home.insert(&ahead);
    assert!(home.membership().is_removed(&device(7)));
    assert!(home.membership().epoch().unwrap().is_stale);
    assert_eq!(home.membership().next_link(&device(FOUNDER)), None);

    let mut forked = Home::new();
    let token = forked.invite(1);
    forked.admit(&token, 7, FOUNDER, NOW);
    let (one, other) = (forked.token(&wish(1)), forked.token(&wish(1)));
    forked.insert(one.invite_object());
    forked.insert(other.invite_object());
    let link = (3, one.invite_object().id());
    forked.insert(&removal(&forked.vpi, FOUNDER, link, Target::Device(device(7))));
    assert!(forked.membership().is_removed(&device(7)));
}

#[test]
fn only_admins_in_force_with_the_capability_remove_and_never_one_another() {
    let mut home = Home::new();
    let token = home.invite(3);
    for n in 7..10 {
        home.admit(&token, n, FOUNDER, NOW);
    }
    let charter = home.next_charter(&[1], |charter| {
        charter.admins.push(admin_entry(8));
        let inviter = super::super::object::Admin { capabilities: Capabilities::INVITE, ..admin_entry(9) };
        charter.admins.push(inviter);
    });
    home.insert(&charter);
    let first = |home: &Home| (0, ObjectId(home.vpi.0));
    let by_member = removal(&home.vpi, 7, first(&home), Target::Device(device(8)));
    assert_eq!(home.set.insert(&by_member), Insertion::Refused(Refusal::Stranger));
    home.insert(&removal(&home.vpi, 9, first(&home), Target::Device(device(7))));
    home.insert(&removal(&home.vpi, 8, first(&home), Target::Device(device(FOUNDER))));
    let membership = home.membership();
    assert_eq!(membership.removed().count(), 0);
    assert_eq!(membership.members().len(), 4);
    let refused = |home: &mut Home, n: u8, target: u8| {
        home.work(n, |rng, admin| admin::remove(rng, admin, &device(target), Reason::Lost)).unwrap_err()
    };
    assert_eq!(refused(&mut home, 8, FOUNDER), AdminError::TargetIsAdmin);
    assert_eq!(refused(&mut home, 9, 7), AdminError::NotAllowed);
    assert_eq!(refused(&mut home, 7, 9), AdminError::NotAllowed);
    assert_eq!(refused(&mut home, 8, 77), AdminError::NotMember);
    home.remove(7);
    assert_eq!(refused(&mut home, FOUNDER, 7), AdminError::AlreadyRemoved);
}

#[test]
fn a_device_leaves_by_its_own_word_and_nobody_else_by_it() {
    let mut home = Home::new();
    let token = home.invite(2);
    home.admit(&token, 7, FOUNDER, NOW);
    let leave = |n: u8| admin::leave(&home.set, &key(n), NOW);
    assert_eq!(leave(FOUNDER), Err(AdminError::TargetIsAdmin));
    assert_eq!(leave(8), Err(AdminError::NotMember));
    let left = leave(7).unwrap();
    home.insert(&left);
    assert!(home.membership().is_removed(&device(7)) && home.membership().member(&device(7)).is_none());
    assert_eq!(admin::leave(&home.set, &key(7), NOW), Err(AdminError::AlreadyRemoved));
    // Of many departures of one device one is kept; devices that never asked change nothing.
    for n in 0..20 {
        home.set.insert(&departure(&home.vpi, 7, NOW + 10 + n));
    }
    assert_eq!(home.set.of_kind(crate::membership::object::Kind::Remove).count(), 1);
    let digest = *home.membership().removed_digest();
    for n in 30..40 {
        home.set.insert(&departure(&home.vpi, n, NOW));
    }
    home.set.insert(&departure(&home.vpi, FOUNDER, NOW));
    assert_eq!(home.membership().removed_digest(), &digest);
    assert!(home.membership().member(&device(FOUNDER)).is_some());
}

#[test]
fn a_revoked_invite_lets_nobody_in_and_puts_nobody_out() {
    let mut home = Home::new();
    let token = home.invite(5);
    let id = token.invite().invite_id;
    home.admit(&token, 7, FOUNDER, NOW);
    home.work(FOUNDER, |rng, admin| admin::revoke(rng, admin, &id)).unwrap();
    home.admit(&token, 8, FOUNDER, NOW);
    home.admit(&token, 9, 7, NOW - 50);
    let membership = home.membership();
    assert_eq!(membership.members().len(), 2);
    assert!(membership.member(&device(7)).is_some());
    assert!(!membership.invite(&id).unwrap().is_live(NOW) && membership.invite(&id).unwrap().is_revoked());
    let verdict = |n: u8| consider(&home.set, &membership, &question(&token, n), &device(FOUNDER), NOW);
    assert!(matches!(verdict(20), Verdict::Silent(_)));
    assert!(matches!(verdict(7), Verdict::Silent(_)));
    let again = home.work(FOUNDER, |rng, admin| admin::revoke(rng, admin, &id)).unwrap_err();
    assert_eq!(again, AdminError::AlreadyRemoved);
    let unknown = home.work(FOUNDER, |rng, admin| admin::revoke(rng, admin, &InviteId([1; 16])));
    assert_eq!(unknown.unwrap_err(), AdminError::UnknownInvite);
}

#[test]
fn a_removed_device_is_not_let_in_again_by_anything_it_could_send() {
    let mut home = Home::new();
    let (first, second) = (home.invite(1), home.invite(3));
    home.admit(&first, 7, FOUNDER, NOW);
    home.remove(7);
    // Another invite, and Admits of itself and of a member that does not know.
    home.admit(&second, 7, 7, NOW);
    home.admit(&second, 7, FOUNDER, NOW);
    home.admit(&second, 8, 7, NOW);
    home.insert(&rekey(&home.vpi, 7, 9, static_key(50)));
    home.set.insert(&admin::presence(&home.vpi, &key(7), 3, admin::Place::default(), NOW).unwrap());
    let membership = home.membership();
    assert_eq!(membership.members().len(), 1);
    assert_eq!(holder(&membership, static_key(50)), None);
    let verdict = consider(&home.set, &membership, &question(&second, 7), &device(FOUNDER), NOW);
    assert!(matches!(verdict, Verdict::Silent(_)));
}

#[test]
fn two_admins_that_remove_at_once_converge_by_the_stale_rule() {
    let mut home = Home::new();
    let token = home.invite(5);
    for n in 7..11 {
        home.admit(&token, n, FOUNDER, NOW);
    }
    home.add_admin(7);
    let mut other =
        Home { vpi: home.vpi, set: home.set.clone(), epoch: home.epoch.clone(), rng: home.rng.clone() };
    let one = home.remove(8);
    let two = other.work(7, |rng, admin| admin::remove(rng, admin, &device(9), Reason::Lost)).unwrap();
    for object in &two.objects {
        home.insert(object);
    }
    for object in &one.objects {
        other.insert(object);
    }
    assert_eq!(home.membership(), other.membership());
    let membership = home.membership();
    assert!(membership.is_removed(&device(8)) && membership.is_removed(&device(9)));
    assert!(membership.member(&device(10)).is_some());
    let epoch = *membership.epoch().unwrap();
    assert!(epoch.is_stale && epoch.number == 1);
    let (key, set) = (key(7), &home.set);
    let admin = Admin { key: &key, set, wall_secs: NOW };
    let Signed { objects, epoch: secret } = admin::next_epoch(&mut home.rng, &admin).unwrap();
    let secret = secret.unwrap();
    home.insert(&objects[0]);
    let epoch = *home.membership().epoch().unwrap();
    assert_eq!((epoch.number, epoch.is_stale, epoch.secret_hash), (2, false, secret.hash()));
}

#[test]
fn a_confirmed_join_comes_in_before_earlier_ones_and_outlives_its_invite() {
    let mut home = Home::new();
    let token = home.invite(1);
    home.admit(&token, 7, FOUNDER, NOW - 10);
    let late = home.admit(&token, 8, FOUNDER, NOW);
    let (seq, previous) = home.membership().next_link(&device(FOUNDER)).unwrap();
    let confirm = Confirm {
        admin: device(FOUNDER),
        seq,
        previous,
        time: NOW + 5,
        joins: vec![late],
        extensions: Extensions::default(),
    };
    home.insert(&Object::sign(&home.vpi, &Body::Confirm(confirm), &[&key(FOUNDER)]).unwrap());
    let membership = home.membership();
    assert_eq!(membership.waiting(&device(7)), Some(Waiting::Contested));
    let member = membership.member(&device(8)).unwrap();
    assert_eq!((member.round, member.since), (1, NOW));
}

#[test]
fn only_the_newest_presence_of_a_device_is_kept() {
    let mut home = Home::new();
    let at = |port: u16| std::net::SocketAddr::from(([192, 0, 2, 1], port));
    let candidates = [at(9), at(0)];
    let place = admin::Place { candidates: &candidates, nat: 0x12 };
    let made = |n: u64| admin::presence(&home.vpi, &key(FOUNDER), n, place, START + n).unwrap();
    let [old, new, newer] = [made(3), made(4), made(5)];
    let before = home.membership();
    home.insert(&new);
    assert_eq!(home.set.insert(&old), Insertion::Refused(Refusal::Bound));
    assert_eq!(home.set.insert(&newer), Insertion::Stored { dropped: vec![new.id()] });
    let (_, presence) = home.set.presence_of(&device(FOUNDER)).unwrap();
    assert_eq!((presence.counter, presence.candidates.as_slice()), (5, &[at(9)][..]));
    assert_eq!(home.membership(), before);
    assert_eq!(home.set.membership(), &before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_order_of_removals_confirms_and_charters_finds_the_same_members(
        admits in proptest::collection::vec((0usize..3, 5u8..12, 3u8..12, 0u64..40), 1..16),
        removals in proptest::collection::vec((5u8..12, any::<bool>()), 0..5),
        departures in proptest::collection::vec(5u8..12, 0..3),
        (is_retired, pardoned, is_rival) in (any::<bool>(), 4u8..12, any::<bool>()),
        order in Just(()).prop_perturb(|(), mut rng| {
            (0..200).map(|_| rng.random::<u32>()).collect::<Vec<_>>()
        }),
    ) {
        let (vpi, mut soup) = soup(&admits, &removals, &departures);
        soup.extend(last_charters(&vpi, &soup, (is_retired, pardoned, is_rival)));
        let gather = |objects: &[Object]| {
            let mut set = ObjectSet::new(vpi);
            objects.iter().for_each(|object| drop(set.insert(object)));
            set
        };
        // What a charter cuts off may have come before it: the exchange offers everything again.
        let expected = reduce(&gather(&[soup.clone(), soup.clone()].concat()));
        let mut shuffled: Vec<_> = order.iter().zip(soup.iter().cycle()).collect();
        shuffled.sort_by_key(|(at, _)| **at);
        let mut shuffled: Vec<_> = shuffled.into_iter().map(|(_, object)| object.clone()).collect();
        shuffled.extend(soup.iter().rev().cloned());
        shuffled.extend(soup.iter().cloned());
        let found = gather(&shuffled);
        prop_assert_eq!(found.membership(), &reduce(&found));
        prop_assert_eq!(reduce(&found), expected);
    }

    #[test]
    fn a_removal_never_un_happens(
        admits in proptest::collection::vec((0usize..3, 5u8..12, 3u8..12, 0u64..40), 1..16),
        removals in proptest::collection::vec((5u8..12, any::<bool>()), 1..5),
        order in Just(()).prop_perturb(|(), mut rng| {
            (0..80).map(|_| rng.random::<u32>()).collect::<Vec<_>>()
        }),
    ) {
        let (vpi, soup) = soup(&admits, &removals, &[]);
        let mut shuffled: Vec<_> = order.iter().zip(&soup).collect();
        shuffled.sort_by_key(|(at, _)| **at);
        let mut set = ObjectSet::new(vpi);
        let is_charter = |object: &&Object| object.kind().name() == "charter";
        soup.iter().filter(is_charter).for_each(|object| drop(set.insert(object)));
        let mut removed = std::collections::BTreeSet::new();
        for (_, object) in shuffled {
            set.insert(object);
            let targets: std::collections::BTreeSet<_> = set.membership().removed().copied().collect();
            prop_assert!(targets.is_superset(&removed));
            removed = targets;
        }
    }
}

/// A VPI of two admins, the founder and device 4, in which joins are admitted, devices removed by either and left.
fn soup(admits: &[(usize, u8, u8, u64)], removals: &[(u8, bool)], departures: &[u8]) -> (VpiId, Vec<Object>) {
    let mut home = Home::new();
    let tokens: Vec<Token> = [1, 2, 5].into_iter().map(|uses| home.invite(uses)).collect();
    home.add_admin(4);
    let mut of_join = std::collections::BTreeMap::<ObjectId, usize>::new();
    for (token, n, witness, at) in admits {
        let join = question(&tokens[*token], *n).join_object().clone();
        home.set.insert(&join);
        let count = of_join.entry(join.id()).or_default();
        // Within the bounds: what is beyond them comes back by the exchange, not by one insertion.
        if *count < MAX_ADMITS {
            *count += 1;
            home.set.insert(&admit(&home.vpi, &join, *witness, NOW + at));
        }
    }
    for (n, is_other) in removals {
        let signer = if *is_other { 4 } else { FOUNDER };
        // Some of them are refused: the device never asked, or is removed already.
        let _ = home.work(signer, |rng, admin| admin::remove(rng, admin, &device(*n), Reason::Lost));
    }
    for n in departures {
        home.set.insert(&departure(&home.vpi, *n, NOW));
    }
    (home.vpi, home.set.iter().cloned().collect())
}

/// A charter that retires device 4 at the second place of its chain or not, and pardons a device; and maybe a rival.
fn last_charters(
    vpi: &VpiId,
    soup: &[Object],
    (is_retired, pardoned, is_rival): (bool, u8, bool),
) -> Vec<Object> {
    let mut set = ObjectSet::new(*vpi);
    soup.iter().for_each(|object| drop(set.insert(object)));
    let (object, charter) = set.charter().unwrap();
    let place =
        |object: &&Object| object.body().link().is_some_and(|link| link.admin == device(4) && link.seq == 1);
    let cut = soup.iter().find(place).map(|object| super::super::object::Cut {
        admin: device(4),
        seq: 1,
        id: object.id(),
    });
    let mut charters = vec![successor(vpi, (object, charter), &[1], |charter| {
        if is_retired {
            charter.admins.truncate(1);
            charter.retired = cut.into_iter().collect();
        }
        charter.pardons = vec![Target::Device(device(pardoned))];
    })];
    if is_rival {
        charters.push(successor(vpi, (object, charter), &[1, 2], |charter| charter.nonce = [9; 16]));
    }
    charters
}
