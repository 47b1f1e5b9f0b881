//! Flows: answers pass where only the exposed is reachable, for as long as an application asks, and no member takes
//! another's place.

use std::time::Duration;

use super::exposed::{Lab, tcp, tcp_with, udp};
use super::model::device;
use super::{OWN, PEER};
use crate::drop::DropReason;
use crate::filter::{Access, FLOWS_MAX, Flows, Policy, Reach, Target, inbound, outgoing};
use crate::wire::ip::samples::packet;
use crate::wire::ip::{ICMP, TCP};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const SYN_ACK: u8 = 0x12;
const FIN_ACK: u8 = 0x11;
const RST: u8 = 0x04;
const CLOSED: Result<Target, DropReason> = Err(DropReason::PacketPolicy);
const OPEN: Result<Target, DropReason> = Ok(Target::Own);

#[test]
fn a_connection_that_an_application_began_is_answered() {
    let mut lab = Lab::new(Policy::ExposedOnly);
    lab.send(&tcp_with(40_000, 443, SYN)).unwrap();
    assert_eq!(lab.receive(&tcp_with(443, 40_000, SYN_ACK)), OPEN);
    for (from, to) in [(444, 40_000), (443, 40_001), (40_000, 443)] {
        assert_eq!(lab.receive(&tcp_with(from, to, ACK)), CLOSED);
    }
    assert_eq!(lab.receive(&udp(443, 40_000)), CLOSED);
}

#[test]
fn answering_and_refusing_begins_nothing() {
    let mut lab = Lab::new(Policy::ExposedOnly);
    for flags in [SYN_ACK, RST, RST | ACK, ACK, FIN_ACK] {
        lab.send(&tcp_with(22, 40_000, flags)).unwrap();
        assert_eq!(lab.receive(&tcp_with(40_000, 22, ACK)), CLOSED);
    }
    let reply = packet(ICMP, PEER, OWN, 0, &[0, 0, 0, 0, 0, 7, 0, 1]);
    lab.send(&reply).unwrap();
    assert_eq!(lab.receive(&reply), CLOSED);
}

#[test]
fn after_a_restart_connections_are_picked_up() {
    let mut lab = Lab::new(Policy::OwnAlias);
    let share = Reach { policy: Policy::ExposedOnly, exposures: Vec::new() }.share(&device(1));
    lab.access.set(share, (1, &mut lab.flows), false);
    lab.send(&tcp_with(40_000, 443, ACK)).unwrap();
    assert_eq!(lab.receive(&tcp_with(443, 40_000, ACK)), OPEN);
    lab.send(&tcp_with(22, 40_000, SYN_ACK)).unwrap();
    assert_eq!(lab.receive(&tcp_with(40_000, 22, ACK)), CLOSED);
}

#[test]
fn terms_run_from_the_last_own_packet() {
    let echo = |kind| packet(ICMP, PEER, OWN, 0, &[kind, 0, 0, 0, 0, 7, 0, 1]);
    let cases = [
        (vec![udp(40_000, 53)], udp(53, 40_000), 180),
        (vec![echo(8)], echo(0), 60),
        (vec![tcp(40_000, 443)], tcp_with(443, 40_000, SYN_ACK), 240),
        (vec![tcp(40_000, 443), tcp_with(40_000, 443, ACK)], tcp_with(443, 40_000, ACK), 7_440),
        (
            vec![tcp(40_000, 443), tcp_with(40_000, 443, FIN_ACK), tcp_with(40_000, 443, ACK)],
            tcp_with(443, 40_000, ACK),
            240,
        ),
    ];
    for (sent, answer, term) in cases {
        let mut lab = Lab::new(Policy::ExposedOnly);
        assert_eq!(lab.receive(&answer), CLOSED);
        sent.iter().for_each(|packet| lab.send(packet).unwrap());
        for _ in 0..2 {
            lab.now += Duration::from_secs(term) - Duration::from_millis(1);
            assert_eq!(lab.receive(&answer), OPEN, "{term}");
            lab.send(sent.last().unwrap()).unwrap();
        }
        lab.now += Duration::from_secs(term);
        assert_eq!(lab.receive(&answer), CLOSED, "{term}");
    }
}

#[test]
fn a_change_of_policy_forgets_and_one_of_exposures_does_not() {
    let mut lab = Lab::new(Policy::ExposedOnly);
    lab.send(&udp(40_000, 53)).unwrap();
    lab.set(&Reach { policy: Policy::ExposedOnly, exposures: Vec::new() }, 1);
    assert_eq!(lab.receive(&udp(53, 40_000)), OPEN);
    lab.set(&Reach::default(), 1);
    lab.set(&Reach { policy: Policy::ExposedOnly, exposures: Vec::new() }, 1);
    assert_eq!(lab.receive(&udp(53, 40_000)), CLOSED);
}

#[test]
fn an_error_passes_if_it_quotes_a_flow() {
    let mut lab = Lab::new(Policy::ExposedOnly);
    let error = |quoted: &[u8]| packet(ICMP, PEER, OWN, 0, &[&[3, 1, 0, 0, 0, 0, 0, 0], quoted].concat());
    let sent = |from, to| packet(TCP, OWN, PEER, 0, &tcp(from, to)[20..]);
    lab.send(&tcp(40_000, 443)).unwrap();
    assert_eq!(lab.receive(&error(&sent(40_000, 443))), OPEN);
    assert_eq!(lab.receive(&error(&sent(443, 40_000))), CLOSED);
    assert_eq!(lab.receive(&error(&sent(40_000, 444))), CLOSED);
    assert_eq!(lab.receive(&error(&packet(TCP, OWN, PEER, 8, &[0; 24]))), CLOSED);
}

#[test]
fn flows_are_bounded_and_no_member_takes_anothers_place() {
    let mut lab = Links::new();
    let (quiet, busy, other) = (1, 2, 3);
    (0..100).for_each(|port| lab.send(quiet, port, 1));
    for port in 0..=u16::MAX {
        lab.send(busy, port, 1);
    }
    assert!((0..100).all(|port| lab.is_open(quiet, port, 1)));
    let open = |lab: &mut Links| (0..=u16::MAX).filter(|port| lab.is_open(busy, *port, 1)).count();
    assert_eq!(open(&mut lab), FLOWS_MAX - 100);

    // Another takes its part from the one that has most, up to the half of both.
    (0..100).for_each(|port| lab.send(other, port, 1));
    assert_eq!(open(&mut lab), FLOWS_MAX - 200);
    assert!((0..100).all(|port| lab.is_open(other, port, 1) && lab.is_open(quiet, port, 1)));
}

#[test]
fn what_is_over_makes_room() {
    let mut lab = Links::new();
    for port in 0..=u16::MAX {
        lab.send(1, port, 1);
    }
    lab.now += Duration::from_secs(180);
    (0..5_000).for_each(|port| lab.send(1, port, 2));
    assert!((0..5_000).all(|port| lab.is_open(1, port, 2)));
    // Sixteen looks for each that began: all that was over is gone, so as many again find room without any giving way.
    (0..60_000).for_each(|port| lab.send(2, port, 2));
    assert!((0..5_000).all(|port| lab.is_open(1, port, 2)));
    assert!((0..60_000).all(|port| lab.is_open(2, port, 2)));
}

#[test]
fn a_link_that_is_gone_leaves_no_flow() {
    let mut lab = Links::new();
    (0..100).for_each(|port| lab.send(1, port, 1));
    (0..100).for_each(|port| lab.send(2, port, 1));
    lab.flows.forget(1);
    assert!((0..100).all(|port| !lab.is_open(1, port, 1) && lab.is_open(2, port, 1)));
}

/// Some links with one table of flows.
struct Links {
    accesses: Vec<Access>,
    flows: Flows,
    now: std::time::Instant,
}

impl Links {
    fn new() -> Self {
        let Lab { mut flows, now, .. } = Lab::new(Policy::ExposedOnly);
        let share = Reach { policy: Policy::ExposedOnly, exposures: Vec::new() }.share(&device(1));
        let accesses = (0..4).map(|link| {
            let mut access = Access::default();
            access.set(share.clone(), (link, &mut flows), true);
            access
        });
        Self { accesses: accesses.collect(), flows, now }
    }

    fn send(&mut self, link: u32, from: u16, to: u16) {
        let mut bytes = udp(from, to);
        bytes[12..16].copy_from_slice(&OWN.octets());
        bytes[16..20].copy_from_slice(&PEER.octets());
        let (view, source) = outgoing(&bytes, OWN).unwrap();
        let access = &mut self.accesses[link as usize];
        access.outbound(&view, source, (link, &mut self.flows), self.now).unwrap();
    }

    fn is_open(&mut self, link: u32, own: u16, theirs: u16) -> bool {
        let bytes = udp(theirs, own);
        let view = inbound(&bytes).unwrap();
        self.accesses[link as usize].inbound(&view, (link, &self.flows), self.now) == OPEN
    }
}
