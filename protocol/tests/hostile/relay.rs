//! Members that misuse one that passes datagrams on, and strangers that try: nothing grows, nothing goes round, nobody gets
//! what is another's.

use std::time::Duration;

use protocol::drop::DropReason;
use protocol::engine::{Command, MemberState, Removal};
use protocol::membership::object::Reason;
use protocol::relay::consent::Consent;
use protocol::wire::header::{RELAY_HEADER_BYTES, RELAYED};
use protocol::wire::message::Message;

use crate::lab::{Flight, Lab, STRANGER};
use crate::{FRIEND, ROGUE, VICTIM, say};

/// The founder passes on, and the others know; they do not hear each other, and talk by way of it.
pub(crate) fn relayed() -> Lab {
    let mut lab = Lab::new(2);
    lab.apart = Some([ROGUE, FRIEND]);
    let address = lab.nodes[VICTIM].address;
    lab.command(VICTIM, Command::Addresses(vec![address]));
    lab.run(Duration::from_secs(3));
    assert!(lab.reaches(ROGUE, FRIEND) && lab.reaches(FRIEND, ROGUE));
    lab
}

/// The last datagram that a node had passed on.
pub(crate) fn passed_on(lab: &Lab, from: usize) -> Flight {
    let (from, to) = (lab.nodes[from].address, lab.nodes[VICTIM].address);
    let is_one = |flight: &&Flight| flight.from == from && flight.to == to && flight.bytes[0] == RELAYED;
    lab.heard.iter().rev().find(is_one).cloned().unwrap()
}

#[test]
fn two_members_talk_by_way_of_a_third_that_cannot_read_it() {
    let lab = relayed();
    for (one, other) in [(ROGUE, FRIEND), (FRIEND, ROGUE)] {
        let status = lab.nodes[one].engine.status(lab.time().now);
        let member = status.members.iter().find(|member| member.device == lab.id(other)).unwrap();
        assert_eq!((member.state, member.via), (MemberState::Relayed, Some(lab.id(VICTIM))));
    }
    assert_eq!(lab.nodes[VICTIM].engine.circuits(), 1);
    let secret = b"are you there";
    assert!(lab.heard.iter().all(|flight| !flight.bytes.windows(secret.len()).any(|part| part == secret)));
    let traffic = lab.nodes[VICTIM].engine.relayed();
    assert!(traffic.sent_bytes() > 0 && traffic.sent_bytes() == traffic.received_bytes());
}

#[test]
fn a_label_is_its_owners_and_what_is_altered_goes_nowhere() {
    let mut lab = relayed();
    let flight = passed_on(&lab, ROGUE);
    for from in [STRANGER, lab.nodes[FRIEND].address] {
        assert_eq!(lab.datagram(VICTIM, from, &flight.bytes), Some(DropReason::RelayLabel));
    }
    for bit in 0..RELAY_HEADER_BYTES * 8 {
        let mut altered = flight.bytes.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(lab.datagram(VICTIM, flight.from, &altered).is_some(), "bit {bit}");
        assert!(lab.wire.is_empty(), "bit {bit} is answered, or passed on");
    }
    for cut in 0..=RELAY_HEADER_BYTES {
        assert!(lab.datagram(VICTIM, flight.from, &flight.bytes[..cut]).is_some());
    }
    // What is inside is not looked at: the end drops it.
    let mut altered = flight.bytes.clone();
    // A counter that was not seen yet.
    altered[RELAY_HEADER_BYTES + 8] ^= 1;
    assert_eq!(lab.datagram(VICTIM, flight.from, &altered), None);
    let onward = lab.wire.pop_front().unwrap();
    assert_eq!(onward.to, lab.nodes[FRIEND].address);
    assert_eq!(lab.datagram(FRIEND, onward.from, &onward.bytes), Some(DropReason::Forged));
    // Nor is it by way of another than the one that gave the label.
    assert_eq!(lab.datagram(FRIEND, STRANGER, &onward.bytes), Some(DropReason::RelayLabel));
    assert!(lab.reaches(ROGUE, FRIEND));
}

#[test]
fn nothing_is_passed_on_twice() {
    let mut lab = relayed();
    let flight = passed_on(&lab, ROGUE);
    let nested = [&flight.bytes[..RELAY_HEADER_BYTES], &flight.bytes].concat();
    assert_eq!(lab.datagram(VICTIM, flight.from, &nested), Some(DropReason::Malformed));

    // A fourth member asks one that is itself reached by way of another, and one that reaches the target so.
    lab.join(4);
    lab.command(FRIEND, Command::Relay(Consent::Yes));
    let (friend, address) = (lab.id(FRIEND), lab.nodes[FRIEND].address);
    lab.command(3, Command::Remember(friend, address));
    assert!(lab.reaches(3, FRIEND));
    let sealer = lab.nodes[3].sealer(address).unwrap();
    for target in [ROGUE, FRIEND, 3] {
        let open = sealer.seal_message(&Message::Open { device: lab.id(target) }.encode()).unwrap();
        let from = lab.nodes[3].address;
        assert_eq!(lab.datagram(FRIEND, from, &open), None);
        lab.run(Duration::from_millis(100));
        assert_eq!(lab.nodes[FRIEND].engine.circuits(), 0);
    }
}

#[test]
fn a_member_that_asks_ten_thousand_times_gets_one_circuit_and_few_words() {
    let mut lab = Lab::new(2);
    assert!(lab.reaches(ROGUE, VICTIM) && lab.reaches(FRIEND, VICTIM));
    lab.command(VICTIM, Command::Relay(Consent::Yes));
    let open = Message::Open { device: lab.id(FRIEND) }.encode();
    let (seconds, mut told, mut refused) = (10, 0, 0);
    for _ in 0..seconds * 10 {
        for _ in 0..100 {
            refused += usize::from(say(&mut lab, &open) == Some(DropReason::RateLimited));
        }
        let friend = lab.nodes[FRIEND].address;
        told += lab.wire.iter().filter(|flight| flight.to == friend).count();
        lab.run(Duration::from_millis(100));
    }
    assert!(told <= 32 + 4 * (seconds + 1), "the target was told {told} times");
    assert!(refused > 9_800, "{refused} refused");
    assert_eq!(lab.nodes[VICTIM].engine.circuits(), 1);
    lab.run(Duration::from_secs(70));
    assert_eq!(lab.nodes[VICTIM].engine.circuits(), 0, "nothing passed");
}

#[test]
fn who_is_removed_or_not_willing_any_more_ends_circuits_in_that_step() {
    let mut lab = relayed();
    let flight = passed_on(&lab, FRIEND);
    lab.command(VICTIM, Command::Relay(Consent::No));
    assert_eq!(lab.nodes[VICTIM].engine.circuits(), 0);
    assert_eq!(lab.datagram(VICTIM, flight.from, &flight.bytes), Some(DropReason::RelayLabel));

    let mut lab = relayed();
    let flight = passed_on(&lab, FRIEND);
    let removal = Removal { target: lab.id(ROGUE), reason: Reason::Lost, offline: true };
    lab.command(VICTIM, Command::Remove(7, removal));
    assert_eq!(lab.nodes[VICTIM].engine.circuits(), 0);
    assert_eq!(lab.datagram(VICTIM, flight.from, &flight.bytes), Some(DropReason::RelayLabel));
}
