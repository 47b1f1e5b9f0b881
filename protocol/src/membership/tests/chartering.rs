//! Charters behind the first: which succeeds which, and what they change.

use super::*;
use crate::membership::object::{Cut, Lease, Root};
use crate::membership::{Alarm, MAX_LOOSE_CHARTERS, Refusal};

const NOW: u64 = START + 100;

#[test]
fn charters_count_in_a_line_in_whatever_order_they_come() {
    let mut home = Home::new();
    let mut line = Vec::new();
    for n in 0..MAX_LOOSE_CHARTERS as u8 {
        let next = home.next_charter(&[1], |charter| charter.nonce = [n; 16]);
        home.insert(&next);
        line.push(next);
    }
    assert_eq!(home.membership().charter_version(), MAX_LOOSE_CHARTERS as u64);
    let mut late = Home::new();
    for charter in line.iter().rev() {
        late.insert(charter);
    }
    assert_eq!(late.membership().charter_id(), line.last().map(Object::id));
}

#[test]
fn a_charter_that_the_roots_did_not_sign_as_they_must_is_refused() {
    let mut home = Home::new();
    let roots = |keys: &[u8]| {
        let mut roots: Vec<_> = keys.iter().map(|n| Root { key: device(*n), is_recovery: false }).collect();
        roots.sort_unstable_by_key(|root| root.key);
        roots
    };
    let refused = [
        home.next_charter(&[7], |_| {}),
        home.next_charter(&[1, 7], |_| {}),
        home.next_charter(&[FOUNDER], |_| {}),
        home.next_charter(&[1], |charter| charter.name = "other".into()),
        home.next_charter(&[1], |charter| charter.version += 1),
        // Signed by a former root, and by too few or none of the roots of its own.
        home.next_charter(&[1], |charter| charter.roots = roots(&[20])),
        home.next_charter(&[1, 20], |charter| {
            charter.roots = roots(&[20, 21]);
            charter.threshold = 2;
        }),
        // Signed by its own roots and none of the former.
        home.next_charter(&[20], |charter| charter.roots = roots(&[20])),
    ];
    for charter in refused {
        assert_eq!(home.set.insert(&charter), Insertion::Refused(Refusal::NotByRoots));
    }
    let handed_over = home.next_charter(&[1, 20], |charter| charter.roots = roots(&[20]));
    home.insert(&handed_over);
    let by_former = home.next_charter(&[1], |_| {});
    assert_eq!(home.set.insert(&by_former), Insertion::Refused(Refusal::NotByRoots));
    assert_eq!(home.membership().charter_version(), 1);
}

#[test]
fn recovery_wins_among_rivals_whatever_roots_another_makes_up() {
    let mut home = Home::new();
    let many: Vec<u8> = (1..2).chain(20..27).collect();
    let by_thief = home.next_charter(&many, |charter| {
        charter.roots = (20..27).map(|n| Root { key: device(n), is_recovery: true }).collect();
        charter.roots.sort_unstable_by_key(|root| root.key);
    });
    let further = successor(&home.vpi, (&by_thief, charter_of(&by_thief)), &[20, 21], |_| {});
    let by_recovery = home.next_charter(&[2], |charter| charter.nonce = [7; 16]);
    home.insert(&by_thief);
    home.insert(&further);
    assert_eq!(home.membership().charter_version(), 2);
    home.insert(&by_recovery);
    let membership = home.membership();
    assert_eq!(membership.charter_id(), Some(by_recovery.id()));
    assert!(membership.alarms().any(|alarm| *alarm == Alarm::CharterRivals { version: 1 }));
}

#[test]
fn more_signers_then_the_lower_id_win_among_rivals() {
    let mut home = Home::new();
    let roots = home.next_charter(&[1], |charter| {
        charter.roots = [1, 2, 20].map(|n| Root { key: device(n), is_recovery: false }).to_vec();
        charter.roots.sort_unstable_by_key(|root| root.key);
    });
    home.insert(&roots);
    let one = home.next_charter(&[1], |_| {});
    let other = home.next_charter(&[2], |charter| charter.nonce = [1; 16]);
    let both = home.next_charter(&[2, 20], |charter| charter.nonce = [2; 16]);
    home.set.insert(&one);
    home.set.insert(&other);
    assert_eq!(home.membership().charter_id(), Some(one.id().min(other.id())));
    home.set.insert(&both);
    assert_eq!(home.membership().charter_id(), Some(both.id()));
}

#[test]
fn what_strangers_sign_as_charters_stays_few_and_keeps_no_good_one_out() {
    let mut home = Home::new();
    let stray = |n: u8| {
        let (object, charter) = home.set.charter().unwrap();
        successor(&home.vpi, (object, charter), &[30], |charter| {
            charter.previous = Some(ObjectId([n; 32]));
            charter.roots = vec![Root { key: device(30), is_recovery: true }];
        })
    };
    let strays: Vec<_> = (0..60).map(stray).collect();
    let mut good = Vec::new();
    for n in 0..3 {
        let next = home.next_charter(&[1], |charter| charter.nonce = [n; 16]);
        home.insert(&next);
        good.push(next);
    }
    let mut late = Home::new();
    for object in &strays {
        late.set.insert(object);
    }
    assert_eq!(late.set.len(), 3 + MAX_LOOSE_CHARTERS);
    for charter in &good {
        late.insert(charter);
    }
    assert_eq!(late.membership().charter_version(), 3);
}

#[test]
fn a_retired_admin_counts_up_to_its_cut_and_no_further() {
    let mut home = Home::new();
    home.add_admin(4);
    let founders = home.invite(9);
    for n in 7..10 {
        home.admit(&founders, n, FOUNDER, NOW);
    }
    // Device 4 removes 7; whoever took its key then removes 8, beside and behind that.
    let honest = home.work(4, |rng, admin| admin::remove(rng, admin, &device(7), Reason::Lost)).unwrap();
    let cut = honest.objects.last().unwrap().clone();
    let seq = cut.body().link().unwrap().seq;
    let behind = removal(&home.vpi, 4, (seq + 1, cut.id()), Target::Device(device(8)));
    let beside = removal(&home.vpi, 4, (seq, honest.objects[0].id()), Target::Device(device(9)));
    home.insert(&behind);
    home.insert(&beside);
    let victims = [8, 9].map(device);
    assert!(victims.iter().all(|victim| home.membership().is_removed(victim)));
    let charter = home.next_charter(&[1], |charter| {
        charter.admins.truncate(1);
        charter.retired = vec![Cut { admin: device(4), seq, id: cut.id() }];
    });
    assert!(matches!(home.set.insert(&charter), Insertion::Stored { dropped } if dropped == [behind.id()]));
    let membership = home.membership();
    assert!(membership.is_removed(&device(7)));
    assert!(victims.iter().all(|victim| membership.member(victim).is_some()));
    assert_eq!(home.set.insert(&behind), Insertion::Refused(Refusal::Stranger));
    // Its epoch stands: the removed set is the one that it knew.
    assert_eq!(membership.epoch().map(|epoch| (epoch.id, epoch.is_stale)), Some((cut.id(), false)));
    assert_eq!(membership.next_link(&device(4)), None);
}

#[test]
fn a_cut_below_a_fork_makes_the_chain_whole_again() {
    let mut home = Home::new();
    home.add_admin(4);
    let vpi = home.vpi;
    let invite_by = |n: u8, link: (u64, ObjectId), id: u8| {
        let mut template = home_invite();
        (template.admin, template.seq, template.previous) = (device(n), link.0, link.1);
        template.invite_id = crate::identity::InviteId([id; 16]);
        Object::sign(&vpi, &Body::Invite(template), &[&key(n)]).unwrap()
    };
    let first = invite_by(4, (0, ObjectId(vpi.0)), 1);
    let forged: Vec<_> = (2..8).map(|id| invite_by(4, (0, ObjectId(vpi.0)), id)).collect();
    home.insert(&first);
    home.insert(&forged[0]);
    for third in &forged[1..] {
        assert_eq!(home.set.insert(third), Insertion::Refused(Refusal::Bound));
    }
    assert_eq!(home.membership().invites().count(), 0);
    let charter = home.next_charter(&[1], |charter| {
        charter.admins.truncate(1);
        charter.retired = vec![Cut { admin: device(4), seq: 0, id: first.id() }];
    });
    home.insert(&charter);
    let standing: Vec<_> = home.membership().invites().map(|state| state.object().id()).collect();
    assert_eq!(standing, [first.id()]);
    // Where only forgeries came first, the one that the cut names takes the place of one.
    let mut late = Home::new();
    late.add_admin(4);
    late.insert(&forged[0]);
    late.insert(&forged[1]);
    late.insert(&charter);
    late.insert(&first);
    assert_eq!(late.membership().invites().map(|state| state.object().id()).collect::<Vec<_>>(), standing);
}

#[test]
fn a_pardon_undoes_a_removal_and_only_roots_sign_one() {
    let mut home = Home::new();
    let token = home.invite(1);
    home.admit(&token, 7, FOUNDER, NOW);
    home.remove(7);
    let invite = Target::Invite(token.invite().invite_id);
    let charter = home.next_charter(&[2], |charter| {
        charter.pardons = vec![Target::Device(device(7)), invite];
        charter.pardons.sort_unstable();
    });
    home.insert(&charter);
    let membership = home.membership();
    assert!(membership.member(&device(7)).is_some() && membership.removed().count() == 0);
    assert!(membership.epoch().unwrap().is_stale);
    let again = home.work(FOUNDER, |rng, admin| admin::remove(rng, admin, &device(7), Reason::Lost));
    assert_eq!(again.unwrap_err(), AdminError::Pardoned);
}

#[test]
fn leases_bind_members_where_the_policy_and_a_second_admin_say_so() {
    let mut home = Home::new();
    let token = home.invite(2);
    home.admit(&token, 7, FOUNDER, NOW);
    let policy = home.next_charter(&[1], |charter| charter.policy.lease_seconds = 1_000);
    home.insert(&policy);
    assert_eq!(home.membership().lease_ends(&device(7)), None);
    home.add_admin(4);
    assert_eq!(home.membership().lease_ends(&device(7)), Some(NOW + 1_000));
    assert_eq!(home.membership().lease_ends(&device(FOUNDER)), None);
    let vpi = home.vpi;
    let lease = |n: u8, from: u64, until: u64| {
        let extensions = Extensions::default();
        let body = Lease { admin: device(n), device: device(7), from, until, extensions };
        Object::sign(&vpi, &Body::Lease(body), &[&key(n)]).unwrap()
    };
    assert_eq!(home.set.insert(&lease(7, NOW, NOW + 9)), Insertion::Refused(Refusal::Stranger));
    home.insert(&lease(4, NOW + 500, NOW + 90_000));
    // No longer than the policy lets it be; and the newest alone is kept.
    assert_eq!(home.membership().lease_ends(&device(7)), Some(NOW + 1_500));
    assert_eq!(home.set.insert(&lease(4, NOW + 400, NOW + 1_400)), Insertion::Refused(Refusal::Bound));
    home.insert(&lease(FOUNDER, NOW + 800, NOW + 1_700));
    assert_eq!(home.membership().lease_ends(&device(7)), Some(NOW + 1_700));
}

fn charter_of(object: &Object) -> &Charter {
    match object.body() {
        Body::Charter(charter) => charter,
        other => panic!("{other:?} is no charter"),
    }
}

fn home_invite() -> crate::membership::object::Invite {
    let mut home = Home::new();
    home.token(&wish(1)).invite().clone()
}
