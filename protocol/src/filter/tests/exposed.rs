//! Exposures: who reaches what on 127.0.0.1, and what speaks from there.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::model::device;
use super::{MORE, OWN, PEER};
use crate::drop::DropReason;
use crate::filter::{
    Access, EXPOSURES_MAX, Exposure, FRAGMENTED_MAX, Flows, Policy, Protocol, Reach, ReachError, Target,
    inbound, outgoing,
};
use crate::wire::ip::samples::packet;
use crate::wire::ip::{ICMP, TCP, UDP};

const LINK: u32 = 1;
const REDIS: u16 = 6_379;
const SSH: u16 = 22;
const DNS: u16 = 53;

#[test]
fn an_exposed_port_is_that_of_localhost_and_others_are_the_own_aliass() {
    let mut lab = Lab::new(Policy::OwnAlias);
    assert_eq!(lab.receive(&tcp(40_000, REDIS)), Ok(Target::Localhost));
    assert_eq!(lab.receive(&tcp(40_000, SSH)), Ok(Target::Own));
    assert_eq!(lab.receive(&udp(40_000, REDIS)), Ok(Target::Own));
    assert_eq!(lab.receive(&udp(40_000, DNS)), Ok(Target::Localhost));
    assert_eq!(lab.receive(&tcp(REDIS, SSH)), Ok(Target::Own));
}

#[test]
fn where_only_the_exposed_is_reachable_nothing_else_is() {
    let mut lab = Lab::new(Policy::ExposedOnly);
    assert_eq!(lab.receive(&tcp(40_000, REDIS)), Ok(Target::Localhost));
    assert_eq!(lab.receive(&udp(40_000, DNS)), Ok(Target::Localhost));
    for refused in [tcp(40_000, SSH), udp(40_000, REDIS), tcp(40_000, DNS)] {
        assert_eq!(lab.receive(&refused), Err(DropReason::PacketPolicy));
    }
    for kind in [0, 8] {
        let echo = packet(ICMP, PEER, OWN, 0, &[kind, 0, 0, 0, 0, 1, 0, 1]);
        assert_eq!(lab.receive(&echo), Err(DropReason::PacketPolicy));
    }
}

#[test]
fn a_member_that_is_not_named_finds_nothing_exposed() {
    let reach = |policy| Reach {
        policy,
        exposures: vec![Exposure { protocol: Protocol::Tcp, port: REDIS, to: Some([device(2)].into()) }],
    };
    for (policy, expected) in
        [(Policy::OwnAlias, Ok(Target::Own)), (Policy::ExposedOnly, Err(DropReason::PacketPolicy))]
    {
        let (mut named, mut other) = (Lab::new(policy), Lab::new(policy));
        named.set(&reach(policy), 2);
        other.set(&reach(policy), 3);
        assert_eq!(named.receive(&tcp(9, REDIS)), Ok(Target::Localhost));
        assert_eq!(other.receive(&tcp(9, REDIS)), expected);
        assert_eq!(named.send_from_localhost(&tcp(REDIS, 9)), Ok(()));
        assert_eq!(other.send_from_localhost(&tcp(REDIS, 9)), Err(DropReason::PacketUnexposed));
    }
}

#[test]
fn exposures_of_one_port_add_up() {
    let only = |n: u8| Exposure { protocol: Protocol::Tcp, port: REDIS, to: Some([device(n)].into()) };
    let reach = Reach { policy: Policy::OwnAlias, exposures: vec![only(1), only(2)] };
    assert!(reach.share(&device(1)).exposes(Protocol::Tcp, REDIS));
    assert!(reach.share(&device(2)).exposes(Protocol::Tcp, REDIS));
    assert!(!reach.share(&device(3)).exposes(Protocol::Tcp, REDIS));
}

#[test]
fn what_does_not_count_is_said_and_is_not_exposed() {
    let exposure = |port| Exposure { protocol: Protocol::Udp, port, to: None };
    let many = |count: usize| Reach {
        policy: Policy::OwnAlias,
        exposures: (1..=count as u16).map(exposure).collect(),
    };
    assert_eq!(many(EXPOSURES_MAX).check(), Ok(()));
    assert_eq!(many(EXPOSURES_MAX + 1).check(), Err(ReachError::TooMany));
    let share = many(EXPOSURES_MAX + 1).share(&device(1));
    assert!(share.exposes(Protocol::Udp, EXPOSURES_MAX as u16));
    assert!(!share.exposes(Protocol::Udp, EXPOSURES_MAX as u16 + 1));
    let zero = Reach { policy: Policy::OwnAlias, exposures: vec![exposure(0)] };
    assert_eq!(zero.check(), Err(ReachError::Port));
    assert!(!zero.share(&device(1)).exposes(Protocol::Udp, 0));
}

#[test]
fn from_localhost_only_the_exposed_speaks() {
    for policy in [Policy::OwnAlias, Policy::ExposedOnly] {
        let mut lab = Lab::new(policy);
        assert_eq!(lab.send_from_localhost(&tcp(REDIS, 40_000)), Ok(()));
        assert_eq!(lab.send_from_localhost(&udp(DNS, 40_000)), Ok(()));
        let echo = packet(ICMP, PEER, OWN, 0, &[8, 0, 0, 0, 0, 1, 0, 1]);
        for refused in [tcp(SSH, REDIS), udp(REDIS, DNS), tcp(DNS, 1), echo] {
            assert_eq!(lab.send_from_localhost(&refused), Err(DropReason::PacketUnexposed));
        }
    }
}

#[test]
fn errors_about_exposed_services_find_them_both_ways() {
    for policy in [Policy::OwnAlias, Policy::ExposedOnly] {
        let mut lab = Lab::new(policy);
        let about = |quoted: &[u8]| [&[3, 4, 0, 0, 0, 0, 5, 0], quoted].concat();
        let error = packet(ICMP, PEER, OWN, 0, &about(&packet(UDP, OWN, PEER, 0, &udp(DNS, 40_000)[20..])));
        assert_eq!(lab.receive(&error), Ok(Target::Localhost));
        let received = packet(UDP, PEER, Ipv4Addr::LOCALHOST, 0, &udp(40_000, DNS)[20..]);
        assert_eq!(lab.send_from_localhost(&packet(ICMP, PEER, OWN, 0, &about(&received))), Ok(()));
        // About a packet to another port, to another address, or with no ports to see.
        let elsewhere = packet(UDP, PEER, Ipv4Addr::LOCALHOST, 0, &udp(40_000, SSH)[20..]);
        let to_own = packet(UDP, PEER, OWN, 0, &udp(40_000, DNS)[20..]);
        let later = packet(UDP, PEER, Ipv4Addr::LOCALHOST, 8, &udp(40_000, DNS)[20..]);
        for quoted in [elsewhere, to_own, later] {
            let error = packet(ICMP, PEER, OWN, 0, &about(&quoted));
            assert_eq!(lab.send_from_localhost(&error), Err(DropReason::PacketUnexposed));
        }
    }
}

#[test]
fn later_fragments_go_where_their_first_went() {
    let mut lab = Lab::new(Policy::ExposedOnly);
    assert_eq!(lab.receive(&part(7, 8, DNS)), Err(DropReason::PacketFragmentLost));
    assert_eq!(lab.receive(&part(7, MORE, DNS)), Ok(Target::Localhost));
    assert_eq!(lab.receive(&part(7, 8 | MORE, DNS)), Ok(Target::Localhost));
    assert_eq!(lab.receive(&part(7, 16, DNS)), Ok(Target::Localhost));
    assert_eq!(lab.receive(&part(8, 8, DNS)), Err(DropReason::PacketFragmentLost));
    assert_eq!(lab.receive(&part(7, MORE, SSH)), Err(DropReason::PacketPolicy));
    assert_eq!(lab.receive(&part(7, 8, DNS)), Err(DropReason::PacketFragmentLost));

    assert_eq!(lab.send_from_localhost(&part(7, 8, DNS)), Err(DropReason::PacketFragmentLost));
    assert_eq!(lab.send_from_localhost(&swapped(&part(7, MORE, DNS))), Ok(()));
    assert_eq!(lab.send_from_localhost(&part(7, 8, DNS)), Ok(()));
    lab.now += Duration::from_secs(30);
    assert_eq!(lab.send_from_localhost(&part(7, 8, DNS)), Err(DropReason::PacketFragmentLost));
}

#[test]
fn fragments_that_overtook_their_first_are_the_own_aliass_where_all_is() {
    let mut lab = Lab::new(Policy::OwnAlias);
    assert_eq!(lab.receive(&part(7, 8, SSH)), Ok(Target::Own));
    assert_eq!(lab.receive(&part(7, MORE, SSH)), Ok(Target::Own));
}

#[test]
fn fragmented_packets_are_bounded_and_the_oldest_gives_way() {
    let mut lab = Lab::new(Policy::ExposedOnly);
    for id in 0..=FRAGMENTED_MAX as u16 {
        assert_eq!(lab.receive(&part(id, MORE, DNS)), Ok(Target::Localhost));
    }
    assert_eq!(lab.receive(&part(0, 8, DNS)), Err(DropReason::PacketFragmentLost));
    assert_eq!(lab.receive(&part(1, 8, DNS)), Ok(Target::Localhost));
}

/// One link.
pub(super) struct Lab {
    pub(super) access: Access,
    pub(super) flows: Flows,
    pub(super) now: Instant,
}

impl Lab {
    /// With redis over TCP and DNS over UDP exposed to every member.
    pub(super) fn new(policy: Policy) -> Self {
        let exposure = |protocol, port| Exposure { protocol, port, to: None };
        let exposures = vec![exposure(Protocol::Tcp, REDIS), exposure(Protocol::Udp, DNS)];
        let mut lab = Self { access: Access::default(), flows: Flows::default(), now: Instant::now() };
        lab.set(&Reach { policy, exposures }, 1);
        lab
    }

    /// The member is device `n`, and has been heard before.
    pub(super) fn set(&mut self, reach: &Reach, n: u8) {
        self.access.set(reach.share(&device(n)), (LINK, &mut self.flows), true);
    }

    pub(super) fn receive(&mut self, packet: &[u8]) -> Result<Target, DropReason> {
        self.access.inbound(&inbound(packet)?, (LINK, &self.flows), self.now)
    }

    pub(super) fn send(&mut self, packet: &[u8]) -> Result<(), DropReason> {
        self.send_from(OWN, packet)
    }

    fn send_from_localhost(&mut self, packet: &[u8]) -> Result<(), DropReason> {
        self.send_from(Ipv4Addr::LOCALHOST, packet)
    }

    fn send_from(&mut self, source: Ipv4Addr, packet: &[u8]) -> Result<(), DropReason> {
        let mut packet = packet.to_vec();
        packet[12..16].copy_from_slice(&source.octets());
        packet[16..20].copy_from_slice(&PEER.octets());
        let (view, from) = outgoing(&packet, OWN)?;
        self.access.outbound(&view, from, (LINK, &mut self.flows), self.now)
    }
}

pub(super) fn tcp(from: u16, to: u16) -> Vec<u8> {
    tcp_with(from, to, 0x02)
}

pub(super) fn tcp_with(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut header = [0; 24];
    header[..2].copy_from_slice(&from.to_be_bytes());
    header[2..4].copy_from_slice(&to.to_be_bytes());
    header[12..14].copy_from_slice(&[0x50, flags]);
    packet(TCP, PEER, OWN, 0, &header)
}

pub(super) fn udp(from: u16, to: u16) -> Vec<u8> {
    packet(UDP, PEER, OWN, 0, &[&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 16, 0, 0], &[7; 8]].concat())
}

/// A fragment with this identification, of UDP from 40,000 to `port` if it is a first.
fn part(identification: u16, flags_and_offset: u16, port: u16) -> Vec<u8> {
    let mut bytes = packet(UDP, PEER, OWN, flags_and_offset, &udp(40_000, port)[20..]);
    bytes[4..6].copy_from_slice(&identification.to_be_bytes());
    bytes
}

/// With source and destination port in each other's place.
fn swapped(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[20..24].rotate_left(2);
    packet
}
