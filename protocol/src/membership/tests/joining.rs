//! Questions, answers, and what a witness makes of them.

use super::*;
use crate::drop::DropReason;
use crate::membership::INVITE_GRACE_SECONDS;
use crate::membership::join::Answer;
use crate::membership::object::ObjectError;
use crate::membership::witness::{Verdict, admit as make_admit, consider};

const NOW: u64 = START + 100;

#[test]
fn a_good_question_is_admitted_and_the_joiner_belongs() {
    let mut home = Home::new();
    let token = home.invite(1);
    let question = question(&token, 7);
    assert_eq!(ask(&home, &question, NOW), Verdict::Admit);
    let admit = make_admit(&home.vpi, &question, &key(FOUNDER), 0, NOW).unwrap();
    home.insert(question.join_object());
    home.insert(&admit);
    let membership = home.membership();
    let member = membership.member(&device(7)).unwrap();
    assert_eq!((member.name.as_str(), member.since), ("device-7", NOW));
    assert_eq!(holder(&membership, static_key(7)), Some(device(7)));
    assert_eq!(membership.invite(&token.invite().invite_id).unwrap().uses_left(), 0);
}

#[test]
fn a_retry_is_answered_with_the_same_admit_by_every_member_and_is_no_second_use() {
    let mut home = Home::new();
    let token = home.invite(2);
    let question_7 = question(&token, 7);
    home.admit(&token, 7, FOUNDER, NOW);
    home.admit(&token, 8, 7, NOW);
    let membership = home.membership();
    for witness in [FOUNDER, 7, 8] {
        let verdict = consider(&home.set, &membership, &question_7, &device(witness), NOW + 60);
        let Verdict::Known(admit) = verdict else { panic!("{verdict:?}") };
        let Body::Admit(body) = admit.body() else { unreachable!() };
        assert_eq!(body.witness, device(FOUNDER));
    }
    assert_eq!(membership.invite(&token.invite().invite_id).unwrap().uses_left(), 0);
}

#[test]
fn spent_uses_are_told_to_holders_of_a_live_invite_only() {
    let mut home = Home::new();
    let token = home.invite(1);
    home.admit(&token, 7, FOUNDER, NOW);
    let late = question(&token, 8);
    assert_eq!(ask(&home, &late, NOW), Verdict::UsedUp);
    let end = token.invite().not_after + INVITE_GRACE_SECONDS;
    assert_eq!(ask(&home, &late, end), Verdict::UsedUp);
    assert_eq!(ask(&home, &late, end + 1), SILENT);
    assert_eq!(ask(&home, &question(&token, 7), end + 1), SILENT);
}

#[test]
fn a_contested_join_is_told_so() {
    let mut home = Home::new();
    let token = home.invite(1);
    home.admit(&token, 7, FOUNDER, NOW);
    home.admit(&token, 8, FOUNDER, NOW + 1);
    assert_eq!(ask(&home, &question(&token, 8), NOW + 2), Verdict::UsedUp);
    assert!(matches!(ask(&home, &question(&token, 7), NOW + 2), Verdict::Known(_)));
}

#[test]
fn an_invite_that_the_witness_never_saw_is_good_while_nothing_speaks_against_it() {
    let mut home = Home::new();
    let unseen = home.token(&wish(1));
    assert_eq!(ask(&home, &question(&unseen, 7), NOW), Verdict::Admit);
    // Neither did it see the one before.
    let mut elsewhere = Home::new();
    elsewhere.invite(3);
    elsewhere.invite(4);
    let later = elsewhere.invite(5);
    let question_7 = question(&later, 7);
    assert_eq!(ask(&home, &question_7, NOW), Verdict::Admit);
    // What it admits it keeps, although the chain has a gap; its answer lost, it answers the same again.
    home.insert(later.invite_object());
    home.admit(&later, 7, FOUNDER, NOW);
    assert!(home.membership().member(&device(7)).is_some());
    assert!(matches!(ask(&home, &question_7, NOW), Verdict::Known(_)));
}

#[test]
fn an_invite_of_a_fork_is_met_with_silence() {
    let mut home = Home::new();
    let (one, other) = (home.token(&wish(1)), home.token(&wish(1)));
    home.insert(one.invite_object());
    assert_eq!(ask(&home, &question(&other, 7), NOW), SILENT);
    home.insert(other.invite_object());
    assert_eq!(ask(&home, &question(&one, 7), NOW), SILENT);
}

#[test]
fn an_invite_by_somebody_who_is_no_admin_is_met_with_silence() {
    let mut home = Home::new();
    let token = home.token(&wish(1));
    let Body::Invite(mut invite) = token.invite_object().body().clone() else { unreachable!() };
    invite.admin = device(7);
    let forged = Object::sign(&home.vpi, &Body::Invite(invite), &[&key(7)]).unwrap();
    let question = Question::new(question(&token, 8).join_object().clone(), forged).unwrap();
    assert_eq!(ask(&home, &question, NOW), SILENT);
}

#[test]
fn a_join_with_the_key_of_another_invite_is_refused() {
    let mut home = Home::new();
    let (first, second) = (home.invite(1), home.invite(1));
    let join = question(&first, 7).join_object().clone();
    let mixed = Question::new(join, second.invite_object().clone()).unwrap();
    assert_eq!(ask(&home, &mixed, NOW), SILENT);

    let Body::Join(mut join) = question(&first, 7).join_object().body().clone() else { unreachable!() };
    join.invite_key = second.invite().invite_key;
    let join = Object::sign(&home.vpi, &Body::Join(join), &[&key(7), &second.invite_secret()]).unwrap();
    let mixed = Question::new(join.clone(), first.invite_object().clone()).unwrap();
    assert_eq!(ask(&home, &mixed, NOW), SILENT);
    assert!(matches!(home.set.insert(&join), Insertion::Refused(_)));
    home.insert(&admit(&home.vpi, &join, FOUNDER, NOW));
    assert!(home.membership().member(&device(7)).is_none());
}

#[test]
fn a_join_of_another_vpi_does_not_decode() {
    let mut home = Home::new();
    let bytes = question(&home.invite(1), 7).encode();
    assert!(Question::decode(&home.vpi, &bytes).is_ok());
    assert_eq!(Question::decode(&VpiId([7; 32]), &bytes), Err(DropReason::ObjectInvalid));
}

#[test]
fn a_bound_invite_serves_its_device_only() {
    let mut home = Home::new();
    let token = home.token(&InviteWish { bound_device: Some(device(7)), ..wish(1) });
    home.insert(token.invite_object());
    assert_eq!(ask(&home, &question(&token, 8), NOW), SILENT);
    assert_eq!(ask(&home, &question(&token, 7), NOW), Verdict::Admit);
}

#[test]
fn who_is_no_member_admits_nobody() {
    let mut home = Home::new();
    let token = home.invite(1);
    let verdict = consider(&home.set, &home.membership(), &question(&token, 7), &device(8), NOW);
    assert_eq!(verdict, SILENT);
    let empty = ObjectSet::new(home.vpi);
    let verdict = consider(&empty, &reduce(&empty), &question(&token, 7), &device(FOUNDER), NOW);
    assert_eq!(verdict, SILENT);
}

#[test]
fn admitters_are_the_only_witnesses() {
    let mut home = Home::new();
    let first = home.invite(1);
    home.admit(&first, 7, FOUNDER, NOW);
    let token = home.token(&wish(1));
    let Body::Invite(mut invite) = token.invite_object().body().clone() else { unreachable!() };
    invite.admitters = vec![device(7)];
    let limited = Object::sign(&home.vpi, &Body::Invite(invite), &[&key(FOUNDER)]).unwrap();
    home.insert(&limited);
    let join = question(&token, 8).join_object().clone();
    let question = Question::new(join.clone(), limited).unwrap();
    assert_eq!(ask(&home, &question, NOW), SILENT);
    assert_eq!(consider(&home.set, &home.membership(), &question, &device(7), NOW), Verdict::Admit);
    home.insert(&join);
    home.insert(&admit(&home.vpi, &join, FOUNDER, NOW));
    assert!(home.membership().member(&device(8)).is_none());
    home.insert(&admit(&home.vpi, &join, 7, NOW));
    assert!(home.membership().member(&device(8)).is_some());
}

#[test]
fn an_admit_too_large_to_answer_with_is_replaced_by_an_own_one() {
    let mut home = Home::new();
    let token = home.invite(1);
    let question = question(&token, 7);
    home.insert(question.join_object());
    home.insert(&padded_admit(&home.vpi, question.join_object()));
    assert!(home.membership().member(&device(7)).is_some());
    assert_eq!(ask(&home, &question, NOW), Verdict::Admit);
}

#[test]
fn no_answer_is_longer_than_its_question() {
    let mut home = Home::new();
    let token = home.invite(1);
    let shortest =
        Joiner { device: &key(7), static_key: static_key(7), name: "a", nonce: [0; 16], wall_secs: 0 };
    let question = Question::ask(&token, &shortest).unwrap();
    let admit = make_admit(&home.vpi, &question, &key(FOUNDER), 1 << 40, 1 << 40).unwrap();
    let used_up = Answer::UsedUp { join_id: question.join_object().id() };
    let longest = answer(&mut home, &question, admit).encode().len();
    assert!(longest <= question.encode().len(), "{longest} > {}", question.encode().len());
    assert!(used_up.encode().len() <= longest);
    assert_eq!(
        make_admit(&home.vpi, &question, &key(FOUNDER), 0, u64::MAX)
            .map_err(|e| matches!(e, ObjectError::Body(_))),
        Err(true)
    );
}

#[test]
fn the_secret_in_an_answer_is_the_joiners_alone() {
    let mut home = Home::new();
    let token = home.invite(1);
    let question = question(&token, 7);
    let admit = make_admit(&home.vpi, &question, &key(FOUNDER), 0, NOW).unwrap();
    let bytes = answer(&mut home, &question, admit).encode();
    let Answer::Admitted(admitted) = Answer::decode(&home.vpi, &bytes).unwrap() else { unreachable!() };
    assert_eq!(admitted.epoch(&home.vpi, &question, &static_secret(7)), Some(home.epoch.clone()));
    assert_eq!(admitted.epoch(&home.vpi, &question, &static_secret(8)), None);
}

#[test]
fn an_answer_with_the_admit_of_another_join_gives_no_secret() {
    let mut home = Home::new();
    let token = home.invite(2);
    let (asked, other) = (question(&token, 7), question(&token, 8));
    let admit = make_admit(&home.vpi, &other, &key(FOUNDER), 0, NOW).unwrap();
    assert_eq!(Answer::admitted(&mut home.rng, &asked, admit, &home.epoch, (device(3), static_key(3))), None);
    let admit = make_admit(&home.vpi, &asked, &key(FOUNDER), 0, NOW).unwrap();
    let Answer::Admitted(admitted) = answer(&mut home, &asked, admit) else { unreachable!() };
    assert_eq!(admitted.epoch(&home.vpi, &other, &static_secret(7)), None);
}

#[test]
fn every_truncation_and_flipped_bit_of_a_question_is_refused() {
    let mut home = Home::new();
    let question = question(&home.invite(1), 7);
    let bytes = question.encode();
    assert_eq!(Question::decode(&home.vpi, &bytes), Ok(question));
    for damaged in damage(&bytes) {
        assert!(Question::decode(&home.vpi, &damaged).is_err());
    }
}

#[test]
fn a_damaged_answer_is_refused_or_differs_in_what_the_veil_alone_protects() {
    let mut home = Home::new();
    let question = question(&home.invite(1), 7);
    let admit = make_admit(&home.vpi, &question, &key(FOUNDER), 0, NOW).unwrap();
    let used_up = Answer::UsedUp { join_id: question.join_object().id() };
    for answer in [answer(&mut home, &question, admit), used_up] {
        let bytes = answer.encode();
        assert_eq!(Answer::decode(&home.vpi, &bytes).as_ref(), Ok(&answer));
        for damaged in damage(&bytes) {
            if let Ok(read) = Answer::decode(&home.vpi, &damaged) {
                assert_eq!(damaged.len(), bytes.len());
                assert_ne!(read, answer);
                assert_eq!(read.encode(), damaged);
            }
        }
    }
    assert_eq!(Answer::decode(&home.vpi, &[3]), Err(DropReason::Malformed));
}

#[test]
fn objects_of_other_kinds_make_no_question() {
    let mut home = Home::new();
    let token = home.invite(1);
    let (join, invite) = (question(&token, 7).join_object().clone(), token.invite_object().clone());
    assert_eq!(Question::new(invite.clone(), join.clone()), None);
    let swapped: Vec<u8> = [&invite, &join]
        .iter()
        .flat_map(|object| [&(object.bytes().len() as u16).to_be_bytes()[..], object.bytes()].concat())
        .collect();
    assert_eq!(Question::decode(&home.vpi, &swapped), Err(DropReason::Malformed));
}

const SILENT: Verdict = Verdict::Silent(DropReason::JoinRefused);

fn ask(home: &Home, question: &Question, at: u64) -> Verdict {
    consider(&home.set, &home.membership(), question, &device(FOUNDER), at)
}

fn answer(home: &mut Home, question: &Question, admit: Object) -> Answer {
    let witness = (device(FOUNDER), static_key(FOUNDER));
    Answer::admitted(&mut home.rng, question, admit, &home.epoch, witness).unwrap()
}

/// An Admit by the founder with nearly as much of a later version in it as an object may hold.
fn padded_admit(vpi: &VpiId, join: &Object) -> Object {
    let Body::Admit(body) = admit(vpi, join, FOUNDER, NOW).body().clone() else { unreachable!() };
    let body = Admit { extensions: padding(1_800), ..body };
    Object::sign(vpi, &Body::Admit(body), &[&key(FOUNDER)]).unwrap()
}

/// `bytes` cut to every length, and with every bit flipped.
fn damage(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let cut = (0..bytes.len()).map(|length| bytes[..length].to_vec());
    let flipped = (0..bytes.len() * 8).map(|bit| {
        let mut bytes = bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    });
    cut.chain(flipped)
}
