//! Two forwarders with a session between them: what an application on one end says, and what comes out at the other.

use std::cell::RefCell;
use std::num::NonZeroU16;

use proptest::prelude::*;
use rand_core::SeedableRng as _;

use super::*;
use crate::filter::{Exposure, Policy, Protocol, Reach};
use crate::identity::{DeviceId, Secret, SigningSecret, StaticSecret};
use crate::random::Rng;
use crate::tunnel::Suite;
use crate::tunnel::handshake::{Context, Initiation, Received};
use crate::wire::ip::samples::{Sample, carried, counted, plain};
use crate::wire::ip::{HEADER_BYTES, ICMP, Ipv4, TCP, UDP};

/// The own alias on each machine, and that of the other there.
const HERE: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(127, 80, 0, 1), Ipv4Addr::new(127, 80, 12, 7));
const THERE: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(127, 99, 3, 9), Ipv4Addr::new(127, 99, 200, 1));
const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const LINK: LinkId = 1;
const INDEX: u32 = 9;
const REMOTE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 41_414);
const REDIS: u16 = 6_379;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn whatever_a_member_seals_comes_from_its_alias_to_what_it_may_reach(
        (bytes, ports, exposed_only) in (anything(), any::<[u16; 2]>(), any::<bool>()),
        is_exposed: bool,
    ) {
        let port_of = |bytes: &[u8]| bytes.get(22..24).map(|port| u16::from_be_bytes([port[0], port[1]]));
        let port = if is_exposed { port_of(&bytes).unwrap_or(ports[0]) } else { ports[0] };
        let mut there = End::new(THERE);
        there.reach(if exposed_only { Policy::ExposedOnly } else { Policy::OwnAlias }, &[port, ports[1]]);
        let mut datagram = THERE_KEYS.with(|keys| keys.borrow().seal_message(&bytes).unwrap());
        if let Inbound::Packet(packet) = there.forwarder.inbound(REMOTE, &mut datagram, there.now) {
            let view = Ipv4::parse(packet).unwrap();
            let reached = match view.quote() {
                Some(quote) => quote.ports().map(|(from, _)| from),
                None => view.ports().map(|(_, to)| to),
            };
            let may = reached.is_some_and(|reached| reached != 0 && [port, ports[1]].contains(&reached));
            prop_assert_eq!(view.source(), THERE.1);
            prop_assert_eq!(view.destination(), if may { LOCALHOST } else { THERE.0 });
            prop_assert!(may || !exposed_only);
            if let Some(quote) = view.quote() {
                prop_assert_eq!((quote.source(), quote.destination()), (view.destination(), view.source()));
            }
        }
    }

    #[test]
    fn what_an_exposed_service_says_comes_from_the_machines_alias(sample in with_ports(), is_partial: bool) {
        let (mut here, mut there) = (End::new(HERE), End::new(THERE));
        let mut packet = sample.build(LOCALHOST, HERE.1);
        here.reach(Policy::ExposedOnly, &[Ipv4::parse(&packet).unwrap().ports().unwrap().0]);
        let is_partial = is_partial && has_checksum(&packet);
        if is_partial {
            leave_to_device(&mut packet);
        }
        let offload = Offload { has_partial_checksum: is_partial, segment_bytes: None };
        prop_assert_eq!(here.send(&mut packet, offload), Outbound::Sent);
        let delivered = there.receive(&here.sent);
        prop_assert_eq!(delivered, vec![sample.build(THERE.1, THERE.0)]);
    }

    #[test]
    fn what_is_sent_to_an_exposed_port_is_localhosts(sample in with_ports()) {
        let (mut here, mut there) = (End::new(HERE), End::new(THERE));
        let mut packet = sample.build(HERE.0, HERE.1);
        there.reach(Policy::ExposedOnly, &[Ipv4::parse(&packet).unwrap().ports().unwrap().1]);
        prop_assert_eq!(here.send(&mut packet, Offload::default()), Outbound::Sent);
        prop_assert_eq!(there.receive(&here.sent), vec![sample.build(THERE.1, LOCALHOST)]);
    }
}

#[test]
fn a_super_packet_of_an_exposed_service_becomes_right_packets() {
    for protocol in [TCP, UDP] {
        let (mut here, mut there) = (End::new(HERE), End::new(THERE));
        here.reach(Policy::OwnAlias, &[REDIS]);
        let data: Vec<u8> = (0..5_000u32).map(|n| n as u8).collect();
        let mut packet = from_redis(protocol, &data).build(LOCALHOST, HERE.1);
        leave_to_device(&mut packet);
        let offload = Offload { has_partial_checksum: true, segment_bytes: NonZeroU16::new(1_000) };
        assert_eq!(here.send(&mut packet, offload), Outbound::Sent);
        let delivered = there.receive(&here.sent);
        assert_eq!(delivered.len(), 5);
        let headers = if protocol == TCP { 40 } else { 28 };
        for (packet, data) in delivered.iter().zip(data.chunks(1_000)) {
            check(packet, THERE.1, THERE.0);
            assert_eq!(&packet[headers..], data);
        }
    }
}

#[test]
fn fragments_of_an_exposed_service_are_translated_and_reach_one() {
    let (mut here, mut there) = (End::new(HERE), End::new(THERE));
    here.reach(Policy::ExposedOnly, &[REDIS]);
    there.reach(Policy::ExposedOnly, &[40_000]);
    let whole = from_redis(UDP, &[7; 3_000]).build(LOCALHOST, HERE.1);
    // As the kernel cuts it, each longer than the path, so that they are cut again on the way.
    let fragments = fragment::Fragments::new(&whole, 1_420).unwrap();
    let mut first_of_other = vec![0; fragments.bytes(1)];
    fragments.write(1, &mut first_of_other);
    assert_eq!(
        here.send(&mut first_of_other, Offload::default()),
        Outbound::Drop(DropReason::PacketFragmentLost)
    );
    for index in 0..fragments.count() {
        let mut fragment = vec![0; fragments.bytes(index)];
        fragments.write(index, &mut fragment);
        assert_eq!(here.send(&mut fragment, Offload::default()), Outbound::Sent);
    }
    let delivered = there.receive(&here.sent);
    assert_eq!(delivered.len(), 5);
    let together: Vec<u8> = delivered.iter().flat_map(|packet| packet[HEADER_BYTES..].to_vec()).collect();
    let mut expected = from_redis(UDP, &[7; 3_000]).build(THERE.1, LOCALHOST);
    assert_eq!(together, expected.split_off(HEADER_BYTES));
    for packet in &delivered {
        assert_eq!(counted(&packet[..HEADER_BYTES]), 0);
        let view = Ipv4::parse(packet).unwrap();
        assert_eq!((view.source(), view.destination()), (THERE.1, LOCALHOST));
    }
}

#[test]
fn who_may_not_reach_something_is_told_at_once_and_not_without_end() {
    let (mut here, mut there) = (End::new(HERE), End::new(THERE));
    there.reach(Policy::ExposedOnly, &[]);
    let packet = from_redis(UDP, &[7; 100]).build(HERE.0, HERE.1);
    for _ in 0..100 {
        assert_eq!(here.send(&mut packet.clone(), Offload::default()), Outbound::Sent);
    }
    for datagram in &mut here.sent.0 {
        let inbound = there.forwarder.inbound(REMOTE, datagram, there.now);
        assert_eq!(inbound, Inbound::Drop(DropReason::PacketPolicy));
    }
    there.forwarder.send_refusals(&mut there.sent);
    let told = here.receive(&there.sent);
    assert_eq!(told.len(), 16);
    let error = Ipv4::parse(&told[0]).unwrap();
    assert_eq!((error.source(), error.destination()), (HERE.1, HERE.0));
    assert_eq!((error.icmp(), error.ttl()), (Some((3, 13)), 255));
    let quote = error.quote().unwrap();
    assert_eq!((quote.source(), quote.destination()), (HERE.0, HERE.1));
    assert_eq!(quote.ports(), Ipv4::parse(&packet).unwrap().ports());
    let notes: Vec<Note> = std::iter::from_fn(|| here.forwarder.poll_note()).collect();
    let is_told = |note: &Note| matches!(note, Note::Outcome { outcome: Outcome::Forbidden, .. });
    assert!(notes.iter().any(is_told), "{notes:?}");
}

#[test]
fn a_service_that_says_too_much_at_once_is_told_so_where_it_is() {
    let mut here = End::new(HERE);
    here.reach(Policy::OwnAlias, &[REDIS]);
    let mut packet = from_redis(UDP, &[7; 1_300]).build(LOCALHOST, HERE.1);
    packet[6] = 0x40; // may not be cut
    let header_checksum = counted(&[&packet[..10], &[0, 0], &packet[12..20]].concat());
    packet[10..12].copy_from_slice(&header_checksum.to_be_bytes());
    let before = packet.clone();
    let Outbound::TooLarge(error) = here.send(&mut packet, Offload::default()) else {
        panic!("it does not fit");
    };
    check(&error, HERE.1, LOCALHOST);
    assert_eq!(error[28..], before[..28]);
}

#[test]
fn what_is_held_and_what_is_told_of_it_know_only_the_own_alias() {
    let mut here = End::new(HERE);
    here.reach(Policy::OwnAlias, &[REDIS]);
    here.forwarder.apply(Update::Send { link: LINK, route: None });
    let sample = from_redis(TCP, &[7; 100]);
    let mut packet = sample.build(LOCALHOST, HERE.1);
    leave_to_device(&mut packet);
    let offload = Offload { has_partial_checksum: true, segment_bytes: None };
    assert_eq!(here.send(&mut packet, offload), Outbound::Hold);
    let mut held = Vec::new();
    whole_packets(&packet, offload, |packet| held.push(packet));
    assert_eq!(held, [sample.build(HERE.0, HERE.1)]);
}

#[test]
fn an_error_about_an_exposed_service_passes_both_ways() {
    let (mut here, mut there) = (End::new(HERE), End::new(THERE));
    here.reach(Policy::ExposedOnly, &[REDIS]);
    // "Port unreachable" by the kernel of one end, about a packet that was sent to its 127.0.0.1.
    let quoted = Sample::Udp { ports: [0x9c, 0x40, 0x18, 0xeb], has_checksum: true, data: vec![1; 20] };
    let error = Sample::Error { kind: 3, quoted: Box::new(quoted), quote_bytes: 48, behind: Vec::new() };
    let mut packet = error.build(LOCALHOST, HERE.1);
    assert_eq!(packet[9], ICMP);
    assert_eq!(here.send(&mut packet, Offload::default()), Outbound::Sent);
    assert_eq!(there.receive(&here.sent), vec![error.build(THERE.1, THERE.0)]);
}

#[test]
fn stun_passes_only_while_a_request_waits_and_only_as_stun() {
    let mut here = End::new(HERE);
    let mut response = stun::response(&stun::TransactionId([7; 12]), REMOTE);
    let is_dropped =
        |inbound: Inbound<'_>, expected| matches!(inbound, Inbound::Drop(reason) if reason == expected);
    assert!(is_dropped(here.forwarder.inbound(REMOTE, &mut response, here.now), DropReason::StunUnasked));
    here.forwarder.apply(Update::Stun { is_open: true });
    let passed = here.forwarder.inbound(REMOTE, &mut response, here.now);
    assert!(matches!(passed, Inbound::Stun { from, .. } if from == REMOTE.into()));
    let mut no_cookie = response.clone();
    no_cookie[4] ^= 1;
    let mut long = [&response[..], &[0; 600]].concat();
    for other in [&mut no_cookie[..], &mut long[..], &mut response[..19]] {
        assert!(is_dropped(here.forwarder.inbound(REMOTE, other, here.now), DropReason::Malformed));
    }
    here.forwarder.apply(Update::Stun { is_open: false });
    assert!(is_dropped(here.forwarder.inbound(REMOTE, &mut response, here.now), DropReason::StunUnasked));
}

#[test]
fn what_is_veiled_passes_only_under_a_tag_that_the_engine_may_open() {
    let mut here = End::new(HERE);
    let [mut veiled, mut other] = [[0x81, 0, 1, 2, 9], [0x81, 0, 2, 1, 9]];
    let passes = |forwarder: &mut Forwarder, datagram: &mut [u8]| match forwarder.inbound(
        REMOTE,
        datagram,
        Instant::now(),
    ) {
        Inbound::Veiled { .. } => true,
        Inbound::Drop(reason) => {
            assert_eq!(reason, DropReason::UnknownEpoch);
            false
        }
        outcome => panic!("{outcome:?}"),
    };
    assert!(!passes(&mut here.forwarder, &mut veiled), "before the engine said anything");
    here.forwarder.apply(Update::Veils { tags: vec![[0, 0], [1, 2]] });
    assert!(passes(&mut here.forwarder, &mut veiled) && !passes(&mut here.forwarder, &mut other));
    here.forwarder.apply(Update::Veils { tags: vec![[2, 1]] });
    assert!(!passes(&mut here.forwarder, &mut veiled) && passes(&mut here.forwarder, &mut other));
}

#[test]
fn a_message_from_elsewhere_is_no_note_of_a_source_and_a_keepalive_is() {
    let mut here = End::new(HERE);
    let elsewhere = SocketAddr::from(([192, 0, 2, 2], 5));
    for (bytes, expected) in [(&[0x04, 0, 0, 0, 0, 0, 0, 0, 1][..], 0), (&[], 1)] {
        let mut datagram = THERE_KEYS.with(|keys| keys.borrow().seal_message(bytes).unwrap());
        let inbound = here.forwarder.inbound(elsewhere, &mut datagram, here.now);
        assert!(matches!(inbound, Inbound::Message { .. } | Inbound::Keepalive), "{inbound:?}");
        let notes = std::iter::from_fn(|| here.forwarder.poll_note());
        assert_eq!(notes.filter(|note| matches!(note, Note::Source { .. })).count(), expected);
    }
}

#[test]
fn what_comes_over_a_stream_is_dropped_as_from_anywhere() {
    let mut there = End::new(THERE);
    let genuine = THERE_KEYS.with(|keys| keys.borrow().seal_message(&[]).unwrap());
    let mut altered = genuine.clone();
    *altered.last_mut().unwrap() ^= 1;
    let unknown = [&[header::DATA, 0, 0, 0, 0, 0, 0, 77][..], &[0; 24]].concat();
    let nested = [&[header::RELAYED, 0, 0, 0, 0, 0, 0, 1][..], &genuine].concat();
    for (mut frame, reason) in [
        (vec![0x47; 200], DropReason::Malformed),
        (vec![header::DATA], DropReason::Malformed),
        (nested, DropReason::Malformed),
        (unknown, DropReason::UnknownIndex),
        (altered, DropReason::Forged),
    ] {
        let inbound = there.forwarder.passed_on(Remote::Carried(3), &mut frame, there.now);
        assert_eq!(inbound, Inbound::Drop(reason));
    }
    assert!(there.forwarder.poll_note().is_none(), "the engine hears of none");
    let mut frame = genuine.clone();
    assert_eq!(there.forwarder.passed_on(Remote::Carried(3), &mut frame, there.now), Inbound::Keepalive);
    let mut again = genuine;
    let inbound = there.forwarder.passed_on(Remote::Carried(3), &mut again, there.now);
    assert_eq!(inbound, Inbound::Drop(DropReason::Replayed));
}

#[test]
fn packets_go_over_a_stream_whole_and_over_a_pipe_not_at_all() {
    let mut here = End::new(HERE);
    let mut there = End::new(THERE);
    let mut by = |remote| {
        let route = here.forwarder.links[&LINK].route.clone().unwrap();
        let route = Route { remote, packet_bytes: 1_420, ..route };
        here.forwarder.apply(Update::Send { link: LINK, route: Some(route) });
        let mut packet = udp(b"over a stream").build(HERE.0, HERE.1);
        let outcome = here.send(&mut packet, Offload::default());
        (outcome, std::mem::take(&mut here.sent.0))
    };
    let (outcome, mut sent) = by(Remote::Carried(3));
    assert_eq!((outcome, sent.len()), (Outbound::Sent, 1));
    let mut again = sent[0].clone();
    let came = there.forwarder.passed_on(Remote::Carried(8), &mut again, there.now);
    assert!(matches!(came, Inbound::Packet(_)), "{came:?}");
    let mut there = End::new(THERE);
    let piped = there.forwarder.passed_on(Remote::Circuit(8), &mut sent[0], there.now);
    assert_eq!(piped, Inbound::Drop(DropReason::ControlOnly));
    assert_eq!(by(Remote::Circuit(3)), (Outbound::Drop(DropReason::SendFailed), Vec::new()));
}

fn udp(data: &[u8]) -> Sample {
    Sample::Udp { ports: [0, 9, 0, 9], has_checksum: true, data: data.to_vec() }
}

/// One machine: its forwarder, and the datagrams that it sent.
struct End {
    forwarder: Forwarder,
    sent: Sent,
    now: Instant,
}

#[derive(Default)]
struct Sent(Vec<Vec<u8>>);

impl Egress for Sent {
    fn datagram(&mut self, _: SocketAddr, bytes: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let mut datagram = vec![0; bytes];
        let filled = fill(&mut datagram);
        self.0.push(datagram);
        filled
    }

    fn carried(&mut self, _: u32, bytes: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        self.datagram(REMOTE, bytes, fill)
    }
}

impl End {
    fn new((own, peer): (Ipv4Addr, Ipv4Addr)) -> Self {
        let (sealer, opener) = session();
        let route = Route {
            sealer: Arc::new(sealer),
            remote: REMOTE.into(),
            packet_bytes: 1_168,
            is_size_settled: true,
        };
        let mut forwarder = Forwarder::new(own);
        forwarder.apply(Update::Link { link: LINK, alias: Some(peer), traffic: Arc::default() });
        forwarder.apply(Update::Open { index: INDEX, link: LINK, opener: Box::new(opener), packets: true });
        forwarder.apply(Update::Send { link: LINK, route: Some(route) });
        Self { forwarder, sent: Sent::default(), now: Instant::now() }
    }

    /// Exposes these ports, of TCP and UDP.
    fn reach(&mut self, policy: Policy, ports: &[u16]) {
        let exposure = |port, protocol| Exposure { protocol, port, to: None };
        let both = |port: &u16| [exposure(*port, Protocol::Tcp), exposure(*port, Protocol::Udp)];
        let reach = Reach { policy, exposures: ports.iter().flat_map(both).collect() };
        self.forwarder.apply(Update::Reach { link: LINK, share: reach.share(&device()) });
    }

    fn send(&mut self, packet: &mut [u8], offload: Offload) -> Outbound {
        self.forwarder.outbound(packet, offload, &mut self.sent, self.now)
    }

    /// What comes out of these datagrams; each must give a packet.
    fn receive(&mut self, sent: &Sent) -> Vec<Vec<u8>> {
        let mut take =
            |datagram: &Vec<u8>| match self.forwarder.inbound(REMOTE, &mut datagram.clone(), self.now) {
                Inbound::Packet(packet) => packet.to_vec(),
                other => panic!("{other:?}"),
            };
        sent.0.iter().map(&mut take).collect()
    }
}

thread_local! {
    /// The other end's sending half; each `End` has a window of its own, so that one counter serves all.
    static THERE_KEYS: RefCell<Sealer> = RefCell::new(session().0);
}

fn device() -> DeviceId {
    SigningSecret::from_seed(&[1; 32]).public()
}

/// The sending half of one end and the receiving half of the other, addressed to [`INDEX`]; always with the same keys.
fn session() -> (Sealer, Opener) {
    let mut rng = Rng::from_seed([1; 32]);
    let (own, peer) = (StaticSecret::from_bytes([1; 32]), StaticSecret::from_bytes([2; 32]));
    let psk = Secret([3; 32]);
    let context = Context { psk: &psk, prologue: &[] };
    let (mut initiation, body) = Initiation::new(&own, &peer.public(), context, (1, &[]), &mut rng).unwrap();
    let received = Received::new(&peer, context, &body, &mut rng).unwrap();
    let (response, peer_keys) = received.answer(INDEX, &[]).unwrap();
    let (_, own_keys) = initiation.complete(&response[4..]).unwrap();
    (own_keys.into_halves(Suite::ChaCha20Poly1305).0, peer_keys.into_halves(Suite::ChaCha20Poly1305).1)
}

/// Packets that are carried, such with any few bytes changed, and any bytes at all.
fn anything() -> impl Strategy<Value = Vec<u8>> {
    let carried = (carried(), any::<[[u8; 4]; 2]>(), any::<bool>()).prop_map(|(sample, [a, b], as_usual)| {
        if as_usual { sample.build(HERE.0, HERE.1) } else { sample.build(a.into(), b.into()) }
    });
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let changed = (carried.clone(), changes).prop_map(|(mut bytes, changes)| {
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes
    });
    prop_oneof![3 => carried, 3 => changed, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

/// TCP and UDP of any kind, but for ports that cannot be exposed.
fn with_ports() -> impl Strategy<Value = Sample> {
    plain().prop_filter("no service's", |sample| {
        let bytes = sample.build(HERE.0, HERE.1);
        Ipv4::parse(&bytes).unwrap().ports().is_some_and(|(from, to)| from != 0 && to != 0)
    })
}

/// From port 6,379 to 40,000.
fn from_redis(protocol: u8, data: &[u8]) -> Sample {
    let ports = [0x18, 0xeb, 0x9c, 0x40];
    if protocol == UDP {
        return Sample::Udp { ports, has_checksum: true, data: data.to_vec() };
    }
    let mut head = [0; 20];
    head[..4].copy_from_slice(&ports);
    head[13] = 0x10;
    Sample::Tcp { head, options: 0, data: data.to_vec() }
}

fn has_checksum(packet: &[u8]) -> bool {
    packet[9] == TCP || packet[26..28] != [0, 0]
}

/// Puts the sum of the pseudo-header into the checksum's place, as the kernel does where the device completes it.
fn leave_to_device(packet: &mut [u8]) {
    let at = if packet[9] == TCP { 36 } else { 26 };
    let length = (packet.len() - HEADER_BYTES) as u16;
    let pseudo = [&packet[12..20], &[0, packet[9]], &length.to_be_bytes()].concat();
    let sum = !counted(&pseudo);
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Requires these addresses, and checksums that are right by a full count.
fn check(packet: &[u8], source: Ipv4Addr, destination: Ipv4Addr) {
    let view = Ipv4::parse(packet).unwrap();
    assert_eq!((view.source(), view.destination()), (source, destination));
    assert_eq!(counted(&packet[..HEADER_BYTES]), 0);
    let length = (packet.len() - HEADER_BYTES) as u16;
    let pseudo = [&packet[12..20], &[0, packet[9]], &length.to_be_bytes()].concat();
    let covered = if packet[9] == ICMP {
        packet[HEADER_BYTES..].to_vec()
    } else {
        [&pseudo, &packet[HEADER_BYTES..]].concat()
    };
    assert_eq!(counted(&covered), 0);
}
