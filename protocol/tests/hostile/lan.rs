//! Announcements on the LAN: a member that moved is found again, and nobody else gains by them.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::drop::DropReason;
use protocol::engine::Command;
use protocol::wire::header::VEILED;

use crate::lab::{Lab, STRANGER};

const A: usize = 0;
const B: usize = 1;
/// Where `B` has gone.
const MOVED: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 77)), 41_414);

/// Two linked members, whose own addresses are known and announced, long ago.
fn linked() -> Lab {
    let mut lab = Lab::new(2);
    for node in [A, B] {
        let own = lab.nodes[node].address;
        lab.command(node, Command::Announce(true));
        lab.command(node, Command::Addresses(vec![own]));
    }
    assert!(lab.reaches(A, B));
    lab.run(Duration::from_secs(10));
    lab
}

/// `B` is elsewhere, and only announces it.
fn moved(lab: &mut Lab) -> Vec<u8> {
    lab.nodes[B].announced.clear();
    lab.nodes[B].address = MOVED;
    lab.command(B, Command::Addresses(vec![MOVED]));
    lab.run(Duration::from_secs(4));
    lab.nodes[B].announced[0].clone()
}

#[test]
fn three_are_sent_at_the_start_and_at_a_change_and_none_otherwise() {
    let mut lab = linked();
    assert_eq!(lab.nodes[A].announced.len(), 3);
    let own = lab.nodes[A].address;
    lab.command(A, Command::Addresses(vec![own]));
    lab.run(Duration::from_secs(60));
    assert_eq!(lab.nodes[A].announced.len(), 3, "nothing changed");
    lab.command(A, Command::Addresses(vec![own, MOVED]));
    lab.run(Duration::from_secs(60));
    assert_eq!(lab.nodes[A].announced.len(), 6);
    let sizes: Vec<usize> = lab.nodes[A].announced.iter().map(Vec::len).collect();
    assert_eq!(sizes, [238; 6], "however many addresses there are");
    lab.command(A, Command::Announce(false));
    lab.command(A, Command::Addresses(vec![MOVED]));
    lab.run(Duration::from_secs(60));
    assert_eq!(lab.nodes[A].announced.len(), 6, "lan is off");
}

#[test]
fn a_search_announces_after_the_second_try_and_seldom() {
    let mut lab = linked();
    // The others are gone without a word.
    let gone = lab.id(B);
    lab.nodes.truncate(1);
    for _ in 0..30 {
        lab.command(A, Command::Connect(gone));
        lab.run(Duration::from_secs(60));
    }
    let searches = lab.nodes[A].announced.len() - 3;
    assert!((4..=95).contains(&searches), "{searches} in half an hour");
}

#[test]
fn a_member_that_moved_is_called_at_the_addresses_inside_and_not_at_the_source() {
    let mut lab = linked();
    let announcement = moved(&mut lab);
    // The lab fails if anything is sent to the stranger.
    assert_eq!(lab.announcement(A, STRANGER, &announcement), None);
    lab.run(Duration::from_secs(1));
    assert!(lab.reaches(A, B) && lab.reaches(B, A));
    assert_eq!(lab.announcement(A, STRANGER, &announcement), Some(DropReason::VeilReplayed));
}

/// `B` announces itself where it was.
fn announced_again(lab: &mut Lab) -> Vec<u8> {
    let own = lab.nodes[B].address;
    lab.nodes[B].announced.clear();
    lab.command(B, Command::Announce(false));
    lab.command(B, Command::Announce(true));
    lab.command(B, Command::Addresses(vec![own]));
    lab.run(Duration::from_millis(200));
    lab.nodes[B].announced[0].clone()
}

#[test]
fn a_member_that_was_killed_and_forgot_where_others_are_is_called_although_its_link_seems_alive() {
    let mut lab = linked();
    lab.restart_forgetful(B);
    let announcement = announced_again(&mut lab);
    assert_eq!(lab.announcement(A, STRANGER, &announcement), None);
    lab.run(Duration::from_secs(1));
    assert!(lab.reaches(B, A) && lab.reaches(A, B));
}

#[test]
fn a_linked_member_that_announces_itself_and_answers_is_asked_once_and_not_called() {
    let mut lab = linked();
    for _ in 0..3 {
        let announcement = announced_again(&mut lab);
        assert_eq!(lab.announcement(A, STRANGER, &announcement), None);
        let once_more = announced_again(&mut lab);
        assert_eq!(lab.announcement(A, STRANGER, &once_more), None);
        let before = lab.heard.len();
        lab.run(Duration::from_secs(2));
        let called = lab.heard[before..].iter().any(|flight| flight.bytes.first() == Some(&VEILED));
        assert!(!called, "the link lives");
    }
}

#[test]
fn both_ends_moved_and_one_announcement_is_enough() {
    let mut lab = linked();
    let announcement = moved(&mut lab);
    lab.nodes[A].address = SocketAddr::from(([192, 0, 2, 88], 41_414));
    assert_eq!(lab.announcement(A, STRANGER, &announcement), None);
    lab.run(Duration::from_secs(1));
    assert!(lab.reaches(A, B));
}

#[test]
fn what_is_no_fresh_announcement_of_a_member_is_dropped() {
    let mut lab = linked();
    let announcement = moved(&mut lab);
    assert_eq!(lab.announcement(B, STRANGER, &announcement), Some(DropReason::NotMember), "its own");
    assert_eq!(lab.datagram(A, MOVED, &announcement), Some(DropReason::VeilType), "on the data socket");
    for bit in 0..announcement.len() * 8 {
        let mut altered = announcement.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(lab.announcement(A, STRANGER, &altered).is_some(), "bit {bit}");
        assert!(lab.announcement(A, STRANGER, &announcement[..bit / 8]).is_some(), "cut at {}", bit / 8);
    }
    let handshakes: Vec<Vec<u8>> = lab.heard.iter().map(|flight| flight.bytes.clone()).collect();
    for bytes in handshakes.iter().filter(|bytes| bytes.first() == Some(&VEILED)) {
        let dropped = lab.announcement(A, STRANGER, bytes);
        assert_eq!(dropped, Some(DropReason::VeilType), "handshakes and joins do not belong here");
    }
    lab.run(Duration::from_secs(121));
    assert_eq!(lab.announcement(A, STRANGER, &announcement), Some(DropReason::VeilTime));
}

#[test]
fn a_member_cannot_make_another_send_without_end() {
    let mut lab = linked();
    let mut sent = 0;
    for round in 0..600u32 {
        let to = SocketAddr::from(([198, 51, 100, (round % 250) as u8 + 1], 9));
        lab.command(B, Command::Addresses(vec![to, MOVED]));
        lab.run(Duration::from_millis(200));
        for announcement in std::mem::take(&mut lab.nodes[B].announced) {
            let before = lab.wire.len();
            let _ = lab.announcement(A, STRANGER, &announcement);
            sent += lab.wire.len() - before;
        }
    }
    // Two minutes at one in five seconds, six at once, to eight known addresses and three announced ones each.
    assert!((10..=330).contains(&sent), "{sent} datagrams");
    assert!(lab.reaches(A, B), "the known address is still tried");
}
