//! Who keeps a place while others lose theirs: behind gaps, behind departures, and while a removal is half here.

use proptest::prelude::*;

use super::*;
use crate::drop::DropReason;
use crate::membership::object::{Epoch, Kind, MAX_COUNT};
use crate::membership::witness::{Verdict, consider};
use crate::membership::{Alarm, MAX_ADMITS};

const NOW: u64 = START + 100;

#[test]
fn a_fork_behind_a_gap_voids_what_stands_at_it_and_behind() {
    let (mut home, mut ahead, mut elsewhere) = (Home::new(), Home::new(), Home::new());
    for uses in [1, 2] {
        ahead.invite(uses);
    }
    let third = ahead.invite(3);
    let (one, other) = (ahead.token(&wish(4)), ahead.token(&wish(5)));
    let stands = |home: &Home, token: &Token| home.membership().invite(&token.invite().invite_id).is_some();
    home.insert(third.invite_object());
    home.insert(one.invite_object());
    assert!(stands(&home, &third) && stands(&home, &one));
    home.insert(other.invite_object());
    assert!(stands(&home, &third) && !stands(&home, &one) && !stands(&home, &other));
    let alarm = |seq: u64| Alarm::ChainForked { admin: device(FOUNDER), seq };
    assert!(home.membership().alarms().any(|a| *a == alarm(4)));
    // What comes into the gap may prove an earlier one.
    elsewhere.invite(6);
    let second = elsewhere.invite(7);
    home.insert(second.invite_object());
    assert!(!stands(&home, &second) && !stands(&home, &third));
    assert!(home.membership().alarms().any(|a| *a == alarm(2)));
}

#[test]
fn a_sleeper_that_hears_of_a_removal_before_its_confirms_drops_the_target_alone() {
    let mut home = Home::new();
    let (first, other) = (home.invite(1), home.invite(2));
    home.admit(&first, 7, FOUNDER, NOW);
    home.admit(&other, 8, 7, NOW);
    let mut sleeper = home.set.clone();
    let removal = home.remove(7).objects;
    for object in removal.iter().rev() {
        sleeper.insert(object);
        let membership = sleeper.membership();
        assert!(membership.member(&device(8)).is_some(), "lost at the {:?}", object.kind());
        let is_here = object.kind() != Kind::Epoch;
        assert_eq!(membership.is_removed(&device(7)), is_here);
        assert_eq!(membership.member(&device(7)).is_none(), is_here);
    }
    assert_eq!(sleeper.membership(), &home.membership());
}

#[test]
fn a_removal_without_confirms_takes_along_whom_only_the_target_admitted() {
    let mut home = Home::new();
    let token = home.invite(3);
    home.admit(&token, 7, FOUNDER, NOW);
    home.admit(&token, 8, 7, NOW);
    let link = home.membership().next_link(&device(FOUNDER)).unwrap();
    home.insert(&removal(&home.vpi, FOUNDER, link, Target::Device(device(7))));
    assert_eq!(home.membership().members().len(), 1);
}

#[test]
fn a_revocation_refuses_at_once_and_voids_once_its_chain_is_complete() {
    let mut home = Home::new();
    let token = home.invite(3);
    home.admit(&token, 7, FOUNDER, NOW);
    let mut sleeper = home.set.clone();
    let id = token.invite().invite_id;
    let revocation = home.work(FOUNDER, |rng, admin| admin::revoke(rng, admin, &id)).unwrap().objects;
    let [confirm, remove, _] = revocation.as_slice() else { panic!("{revocation:?}") };
    // A Join that a member admits without knowing.
    let late = question(&token, 8).join_object().clone();
    sleeper.insert(remove);
    let verdict = consider(&sleeper, sleeper.membership(), &question(&token, 9), &device(FOUNDER), NOW);
    assert_eq!(verdict, Verdict::Silent(DropReason::JoinRefused));
    sleeper.insert(&late);
    sleeper.insert(&admit(&home.vpi, &late, FOUNDER, NOW));
    assert_eq!(sleeper.membership().members().len(), 3);
    sleeper.insert(confirm);
    let members: Vec<_> = sleeper.membership().members().map(|member| member.device).collect();
    assert!(members.len() == 2 && members.contains(&device(7)));
}

#[test]
fn whom_a_leaver_admitted_stays_and_its_use_stays_spent() {
    let mut home = Home::new();
    let (first, other) = (home.invite(1), home.invite(9));
    home.admit(&first, 7, FOUNDER, NOW);
    home.admit(&other, 8, 7, NOW + 10);
    home.insert(&departure(&home.vpi, 7, NOW + 10));
    // Dated from when it was gone, and from before there was an invite.
    home.admit(&other, 9, 7, NOW + 11);
    home.admit(&other, 10, 7, other.invite().time - 301);
    home.admit(&other, 11, 7, other.invite().time - 300);
    let membership = home.membership();
    let is_member = |n: u8| membership.member(&device(n)).is_some();
    assert_eq!([7, 8, 9, 10, 11].map(is_member), [false, true, false, false, true]);
    assert_eq!(membership.waiting(&device(7)), None);
    assert_eq!(membership.invite(&first.invite().invite_id).unwrap().uses_left(), 0);
    let verdict = consider(&home.set, &membership, &question(&first, 20), &device(FOUNDER), NOW);
    assert_eq!(verdict, Verdict::UsedUp);
    // The leaver's Admit is no answer to who asks again: its witness must be a member.
    let verdict = consider(&home.set, &membership, &question(&other, 8), &device(FOUNDER), NOW);
    assert_eq!(verdict, Verdict::Admit);
}

#[test]
fn a_removed_leavers_admits_are_void_and_whom_they_let_in_is_confirmed() {
    let mut home = Home::new();
    let token = home.invite(9);
    home.admit(&token, 7, FOUNDER, NOW);
    home.admit(&token, 8, 7, NOW);
    home.insert(&departure(&home.vpi, 7, NOW + 10));
    let mut unspared = home.set.clone();
    let link = home.membership().next_link(&device(FOUNDER)).unwrap();
    unspared.insert(&removal(&home.vpi, FOUNDER, link, Target::Device(device(7))));
    assert!(unspared.membership().member(&device(8)).is_none());
    home.remove(7);
    home.admit(&token, 9, 7, NOW);
    assert!(home.membership().member(&device(8)).is_some());
    assert!(home.membership().member(&device(9)).is_none());
    let again = home.work(FOUNDER, |rng, admin| admin::remove(rng, admin, &device(7), Reason::Lost));
    assert_eq!(again.unwrap_err(), AdminError::AlreadyRemoved);
}

#[test]
fn a_departure_is_dated_behind_all_that_its_device_admitted() {
    let mut home = Home::new();
    let token = home.invite(2);
    home.admit(&token, 7, FOUNDER, NOW);
    home.admit(&token, 8, 7, NOW + 3_600);
    let left = admin::leave(&home.set, &key(7), NOW).unwrap();
    assert_eq!(left.body().time(), NOW + 3_600);
    home.insert(&left);
    assert!(home.membership().member(&device(8)).is_some());
}

#[test]
fn an_admins_node_confirms_those_for_whom_no_admin_vouches_and_nobody_twice() {
    let mut home = Home::new();
    let token = home.invite(9);
    home.admit(&token, 7, FOUNDER, NOW);
    home.admit(&token, 8, 7, NOW);
    home.admit(&token, 9, 8, NOW);
    home.add_admin(4);
    let unconfirmed = |home: &Home| {
        let membership = home.membership();
        [FOUNDER, 7, 8, 9].map(|n| admin::is_unconfirmed(membership.member(&device(n)).unwrap()))
    };
    assert_eq!(unconfirmed(&home), [false, false, true, true]);
    assert_eq!(home.work(7, |_, admin| admin::confirm(admin)).unwrap_err(), AdminError::NotAllowed);
    // Another admin ends what they stand on; whom it spares is yet to be heard.
    let mut half =
        Home { vpi: home.vpi, set: home.set.clone(), epoch: home.epoch.clone(), rng: home.rng.clone() };
    half.insert(&removal(&home.vpi, 4, (1, ObjectId([5; 32])), Target::Device(device(7))));
    assert!(half.membership().member(&device(9)).is_some());
    assert_eq!(half.work(FOUNDER, |_, admin| admin::confirm(admin)).unwrap().objects.len(), 0);
    let signed = home.work(FOUNDER, |_, admin| admin::confirm(admin)).unwrap();
    assert_eq!((signed.objects.len(), signed.epoch.is_none()), (1, true));
    assert_eq!(unconfirmed(&home), [false; 4]);
    assert_eq!(home.work(FOUNDER, |_, admin| admin::confirm(admin)).unwrap().objects.len(), 0);
}

#[test]
fn an_admin_that_uses_up_the_epoch_numbers_stops_no_removal() {
    let mut home = Home::new();
    let token = home.invite(2);
    home.admit(&token, 7, FOUNDER, NOW);
    home.add_admin(4);
    let last = Epoch {
        admin: device(4),
        seq: 0,
        previous: ObjectId(home.vpi.0),
        time: NOW,
        number: MAX_COUNT,
        secret_hash: [1; 32],
        removed_digest: *home.membership().removed_digest(),
        extensions: Extensions::default(),
    };
    home.insert(&Object::sign(&home.vpi, &Body::Epoch(last), &[&key(4)]).unwrap());
    let signed = home.remove(7);
    assert!(signed.epoch.is_none() && home.membership().member(&device(7)).is_none());
    assert!(home.membership().epoch().unwrap().is_stale);
    assert_eq!(home.work(FOUNDER, admin::next_epoch).unwrap_err(), AdminError::Epochs);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The promise without removals: who is in stays in, whatever is missing and in whatever order it comes, as long as
    /// the charter is here and no invite has more takers than uses.
    #[test]
    fn whoever_came_in_stays_in_while_nothing_but_allows_arrives(
        admits in proptest::collection::vec((0usize..3, 5u8..12, 3u8..12, 0u64..40), 1..20),
        order in proptest::collection::vec(any::<u32>(), 80),
    ) {
        let mut home = roomy(&admits);
        home.work(FOUNDER, |_, admin| admin::confirm(admin)).unwrap();
        let mut set = ObjectSet::new(home.vpi);
        home.set.of_kind(Kind::Charter).for_each(|charter| drop(set.insert(charter)));
        let mut before = members(&set);
        for object in shuffled(home.set.iter(), &order) {
            set.insert(&object);
            let after = members(&set);
            prop_assert!(after.is_superset(&before), "lost at {:?}", object);
            before = after;
        }
        prop_assert_eq!(set.membership(), home.set.membership());
    }

    /// The promise with removals: of what an admin signs and what devices say that leave, over a set that the receiver
    /// holds, any part in any order puts out nobody but those who are out in the end; and its targets at once. No
    /// invite has more takers than uses: else a Confirm that is here early may take a contested use for a while.
    #[test]
    fn whoever_stays_in_the_end_is_never_out_while_removals_arrive(
        admits in proptest::collection::vec((0usize..3, 5u8..12, 3u8..12, 0u64..40), 4..20),
        works in proptest::collection::vec((0u8..4, 5u8..12), 1..6),
        order in proptest::collection::vec(any::<u32>(), 80),
    ) {
        let mut home = roomy(&admits);
        let mut set = home.set.clone();
        let known: Vec<ObjectId> = set.iter().map(Object::id).collect();
        let start = members(&set);
        for (work, n) in works {
            // Some of them are refused: the device never asked, or is removed already.
            let _ = match work {
                0 => home.work(FOUNDER, |rng, admin| admin::remove(rng, admin, &device(n), Reason::Lost)),
                1 => home.work(FOUNDER, |_, admin| admin::confirm(admin)),
                2 => {
                    let invites: Vec<_> = home.set.invites().map(|(_, invite)| invite.invite_id).collect();
                    let id = invites[usize::from(n) % invites.len()];
                    home.work(FOUNDER, |rng, admin| admin::revoke(rng, admin, &id))
                }
                _ => {
                    home.set.insert(&departure(&home.vpi, n, NOW + 100));
                    continue;
                }
            };
        }
        let end = members(&home.set);
        let stays: Vec<_> = start.intersection(&end).collect();
        let news = home.set.iter().filter(|object| !known.contains(&object.id()));
        for object in shuffled(news, &order) {
            set.insert(&object);
            let here = members(&set);
            prop_assert!(stays.iter().all(|device| here.contains(device)), "lost at {:?}", object);
            if let Body::Remove(Remove { target: Target::Device(target), .. }) = object.body() {
                prop_assert!(!here.contains(target));
            }
        }
        prop_assert_eq!(set.membership(), home.set.membership());
    }
}

/// A VPI whose invites have uses for all, in which devices admit each other.
fn roomy(admits: &[(usize, u8, u8, u64)]) -> Home {
    let mut home = Home::new();
    let tokens: Vec<Token> = [20, 21, 22].into_iter().map(|uses| home.invite(uses)).collect();
    for (token, n, witness, at) in admits {
        let join = question(&tokens[*token], *n).join_object().clone();
        home.set.insert(&join);
        // Within the bounds: what is beyond them comes back by the exchange, not by one insertion.
        if home.set.admits_of(&join.id()).count() < MAX_ADMITS {
            home.set.insert(&admit(&home.vpi, &join, *witness, NOW + at));
        }
    }
    home
}

fn members(set: &ObjectSet) -> std::collections::BTreeSet<DeviceId> {
    set.membership().members().map(|member| member.device).collect()
}

/// `objects`, all of them, in an order that `order` draws.
fn shuffled<'s>(objects: impl Iterator<Item = &'s Object>, order: &[u32]) -> Vec<Object> {
    let mut drawn: Vec<_> = objects.cloned().zip(order.iter().cycle()).collect();
    drawn.sort_by_key(|(_, at)| **at);
    drawn.into_iter().map(|(object, _)| object).collect()
}
