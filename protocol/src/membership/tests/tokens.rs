//! Tokens as people damage them.

use proptest::prelude::*;

use super::*;
use crate::membership::token::{MAX_ADDRESSES, TokenError, TokenSecrets};

#[test]
fn a_token_is_read_as_it_was_made() {
    let token = Home::new().invite(1);
    let text = token.to_text();
    assert!(text.starts_with("vpi1") && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()));
    let read = Token::parse(&text).unwrap();
    assert_eq!(read, token);
    assert_eq!(read.members().len(), 2);
    assert_eq!(read.beacons(), ["/ip4/192.0.2.9/tcp/443"]);
    assert_eq!(read.invite_secret().public(), read.invite().invite_key);
    assert_eq!(Token::parse(&text.to_ascii_uppercase()).as_ref(), Ok(&token));
}

#[test]
fn the_token_opens_the_veil_that_members_make_for_its_invite() {
    let mut home = Home::new();
    let token = home.invite(1);
    assert_eq!(*token.join_veil_key(), home.epoch.join_veil_key(&token.invite().invite_id));
    assert_eq!(token.epoch_tag(), home.epoch.tag());
}

#[test]
fn any_one_changed_character_is_refused() {
    let token = Home::new().invite(1);
    let text = token.to_text().to_string();
    let replacements = "abcdefghijklmnopqrstuvwxyz234567019-= \n\tz=";
    for at in 0..text.len() {
        for replacement in replacements.chars().filter(|c| !text[at..].starts_with(*c)) {
            let changed = format!("{}{replacement}{}", &text[..at], &text[at + 1..]);
            assert!(Token::parse(&changed).is_err(), "character {at} changed to {replacement:?}");
        }
    }
}

#[test]
fn every_truncation_repetition_and_swap_is_refused() {
    let text = Home::new().invite(1).to_text().to_string();
    for at in 0..text.len() {
        assert!(Token::parse(&text[..at]).is_err(), "cut to {at}");
        let doubled = format!("{}{}", &text[..=at], &text[at..]);
        assert!(Token::parse(&doubled).is_err(), "character {at} doubled");
        let mut swapped = text.clone().into_bytes();
        if at + 1 < swapped.len() && swapped[at] != swapped[at + 1] {
            swapped.swap(at, at + 1);
            assert!(
                Token::parse(std::str::from_utf8(&swapped).unwrap()).is_err(),
                "{at} swapped with the next"
            );
        }
    }
}

#[test]
fn white_space_of_a_terminal_does_not_matter() {
    let token = Home::new().invite(1);
    let text = token.to_text();
    let lines: Vec<String> =
        text.as_bytes().chunks(64).map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
    for pasted in [
        format!("  {}\n", *text),
        format!("\r\n\t{}\r\n\r\n", lines.join("\r\n")),
        format!("{}\n", lines.join("   \n   ")),
    ] {
        assert_eq!(Token::parse(&pasted).as_ref(), Ok(&token));
    }
}

#[test]
fn what_is_no_token_is_told_from_a_damaged_one() {
    let text = Home::new().invite(1).to_text();
    for other in ["", "hello", "vpi2aaaa", &"a".repeat(1 << 20), "vpi\u{131}"] {
        assert_eq!(Token::parse(other), Err(TokenError::NotAToken));
    }
    for damaged in ["vpi1", "vpi1aaaa", &text[..text.len() - 1], &format!("{}a", *text)] {
        assert_eq!(Token::parse(damaged), Err(TokenError::Damaged));
    }
}

#[test]
fn bits_behind_the_last_byte_must_be_zero() {
    // Three bytes are five letters of 25 bits; the last bit is nobody's.
    let mut home = Home::new();
    let text = (1..6)
        .map(|letters| home.token(&InviteWish { name: Some("a".repeat(letters)), ..wish(1) }))
        .map(|token| token.to_text().to_string())
        .find(|text| (text.len() - 4) % 8 != 0)
        .unwrap();
    let last = text.bytes().last().unwrap();
    let letters = b"abcdefghijklmnopqrstuvwxyz234567";
    let value = letters.iter().position(|letter| *letter == last).unwrap();
    let other = char::from(letters[value + 1]);
    assert_eq!(Token::parse(&format!("{}{other}", &text[..text.len() - 1])), Err(TokenError::Damaged));
}

#[test]
fn a_whole_token_that_contradicts_itself_is_invalid() {
    let mut home = Home::new();
    let token = home.invite(1);
    let secrets = |seed: u8| TokenSecrets {
        seed: Secret([seed; 32]),
        join_veil_key: Secret([2; 32]),
        epoch_tag: [1, 2],
    };
    let other_seed = Token::new(home.vpi, token.invite_object().clone(), secrets(1), &[], &[]);
    assert_eq!(other_seed.unwrap_err(), TokenError::Invalid);
    let join = question(&token, 7).join_object().clone();
    assert_eq!(Token::new(home.vpi, join, secrets(1), &[], &[]).unwrap_err(), TokenError::Invalid);
    // A right checksum over wrong bytes.
    let binary = [0; 300];
    let sum = crc32c::crc32c(&binary).to_be_bytes();
    let text = data_encoding::BASE32_NOPAD.encode(&[&binary[..], &sum].concat());
    assert_eq!(Token::parse(&format!("vpi1{text}")), Err(TokenError::Invalid));
}

#[test]
fn a_token_holds_no_more_addresses_than_its_bound() {
    let mut home = Home::new();
    let (key, epoch) = (key(FOUNDER), home.epoch.clone());
    let admin = Admin { key: &key, set: &home.set, wall_secs: START };
    let members = vec!["192.0.2.1:1".parse().unwrap(); 9];
    let beacons =
        ["/ip4/192.0.2.9/tcp/443".to_owned(), String::new(), "x".repeat(256)].map(|b| vec![b; 3]).concat();
    let addresses = Addresses { members: &members, beacons: &beacons };
    let token = invite(&mut home.rng, &admin, &epoch, &wish(1), addresses).unwrap();
    assert_eq!(token.members().len(), MAX_ADDRESSES);
    assert_eq!(token.beacons().len(), 3);
    assert_eq!(Token::parse(&token.to_text()).unwrap(), token);
}

#[test]
fn tokens_do_not_print_their_secrets() {
    let token = Home::new().invite(1);
    let printed = format!("{token:?}");
    assert!(printed.len() < 40, "{printed}");
}

proptest! {
    #[test]
    fn arbitrary_text_is_never_a_token(text in "\\PC{0,200}", body in "[a-z2-7]{0,400}") {
        prop_assert!(Token::parse(&text).is_err());
        let shaped = format!("vpi1{body}");
        prop_assert!(Token::parse(&shaped).is_err());
    }
}
