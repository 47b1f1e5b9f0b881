//! Addresses that members and servers name: worth a check, never a flood, and never a path by their word alone.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::drop::DropReason;
use protocol::engine::Command;
use protocol::membership::object::{Body, Presence, RELAYS};
use protocol::path::portmap::{Gateway, Outcome};
use protocol::wire::address::{Candidate, Kind};
use protocol::wire::header::RELAY_HEADER_BYTES;
use protocol::wire::message::{Message, NatCode};
use protocol::wire::stun;

use crate::lab::{Flight, Lab};
use crate::relay::{passed_on, relayed};
use crate::{FRIEND, ROGUE, VICTIM, say};

/// Neither a node's address nor the stranger's.
fn elsewhere(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 41_414))
}

fn server(n: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, n], 3478))
}

/// Lets `length` pass; returns what was sent to others than the nodes.
fn sent_elsewhere(lab: &mut Lab, length: Duration) -> Vec<Flight> {
    let nodes: Vec<SocketAddr> = lab.nodes.iter().map(|node| node.address).collect();
    let mut sent = Vec::new();
    for _ in 0..length.as_millis() / 10 {
        sent.extend(lab.wire.iter().filter(|flight| !nodes.contains(&flight.to)).cloned());
        lab.run(Duration::from_millis(10));
    }
    sent
}

#[test]
fn a_member_that_names_others_addresses_makes_no_flood_and_no_path() {
    let mut lab = Lab::new(2);
    assert!(lab.reaches(ROGUE, VICTIM) && lab.reaches(FRIEND, VICTIM));
    let seconds = 60;
    let (mut said_bytes, mut sent) = (0, Vec::new());
    for turn in 0..seconds * 10_u32 {
        let named = |n| Candidate { address: elsewhere((turn * 8 + n) as u8), kind: Kind::Host };
        let candidates = (0..8).map(named).collect();
        let nat = NatCode { class: 4, step: 1 };
        let said = Message::Candidates { set: turn, is_question: true, may_spray: true, nat, candidates };
        let said = said.encode();
        said_bytes += said.len() + 32;
        say(&mut lab, &said);
        sent.extend(sent_elsewhere(&mut lab, Duration::from_millis(100)));
    }
    let from_victim = sent.iter().filter(|flight| flight.from == lab.nodes[VICTIM].address);
    let (checks, bytes) =
        from_victim.fold((0, 0), |(checks, bytes), flight| (checks + 1, bytes + flight.bytes.len()));
    assert!((8..=64 + 8 * seconds).contains(&checks), "{checks} checks in {seconds} s");
    assert!(bytes < said_bytes, "{bytes} bytes went elsewhere for {said_bytes}");
    assert!(lab.reaches(ROGUE, VICTIM) && lab.reaches(FRIEND, VICTIM));
    assert!(lab.nodes[VICTIM].sealers.iter().all(|(remote, _)| remote.ip() != elsewhere(0).ip()));
}

#[test]
fn what_is_said_to_a_check_is_no_more_than_the_check() {
    let mut lab = Lab::new(1);
    assert!(lab.reaches(FRIEND, VICTIM));
    lab.run(Duration::from_secs(10));
    let to = lab.nodes[VICTIM].address;
    let sealer = lab.nodes[FRIEND].sealer(to).unwrap();
    for length in [9, 27, 28, 72, 1_420] {
        for kind in [Message::Check { id: 1, length }, Message::Probe { id: 1, length }] {
            lab.run(Duration::from_secs(2));
            let datagram = sealer.seal_message(&kind.encode()).unwrap();
            lab.datagram(VICTIM, elsewhere(1), &datagram);
            let answers: usize = lab
                .wire
                .iter()
                .filter(|flight| flight.to == elsewhere(1))
                .map(|flight| flight.bytes.len())
                .sum();
            assert!((41..=datagram.len()).contains(&answers), "{answers} bytes for {kind:?}");
        }
    }
}

/// What servers were just asked.
fn requests(lab: &Lab) -> Vec<Flight> {
    lab.wire.iter().filter(|flight| flight.to.port() == 3478).cloned().collect()
}

/// The newest word of the victim's that the friend has.
fn told(lab: &Lab) -> Presence {
    let told = lab.nodes[FRIEND].presences.last().unwrap();
    let Body::Presence(presence) = told.body() else { panic!("a Presence") };
    presence.clone()
}

/// Another gateway than before, by its number, maps this port outside.
fn map(lab: &mut Lab, n: u8, outside: SocketAddr, lease: Duration) {
    let gateway = Gateway { address: [192, 168, n, 1].into(), own: [192, 168, n, 2].into() };
    lab.command(VICTIM, Command::Gateway(Some(gateway), 41_414));
    let ask = *lab.nodes[VICTIM].asked.last().expect("the gateway is asked");
    let SocketAddr::V4(outside) = outside else { panic!("of IPv4") };
    lab.command(VICTIM, Command::PortAsked(ask, Outcome::Mapped { outside, lease }));
}

#[test]
fn whoever_writes_others_source_addresses_has_less_sent_there_than_it_sent() {
    let mut lab = Lab::new(1);
    assert!(lab.reaches(FRIEND, VICTIM));
    lab.run(Duration::from_secs(10));
    let to = lab.nodes[VICTIM].address;
    let sealer = lab.nodes[FRIEND].sealer(to).unwrap();
    let sorts = [
        Vec::new(),
        Message::Probe { id: 1, length: 9 }.encode(),
        Message::Probe { id: 1, length: 72 }.encode(),
        Message::Check { id: 1, length: 9 }.encode(),
        Message::Check { id: 1, length: 72 }.encode(),
        Message::Settled { heard: false }.encode(),
    ];
    for (number, said) in sorts.iter().enumerate() {
        let (mut came, mut challenges) = ([0; 32], 0);
        let mut went = [0; 32];
        let seconds = 5;
        for turn in 0..seconds * 100 {
            // Each address is another's, and some say something again and again.
            let at = if number % 2 == 0 { turn % 32 } else { turn / 100 };
            let datagram = sealer.seal_message(said).unwrap();
            came[at] += datagram.len();
            lab.datagram(VICTIM, elsewhere(at as u8), &datagram);
            // The last challenge has its time.
            let is_last = turn + 1 == seconds * 100;
            let length = Duration::from_millis(if is_last { 2_000 } else { 10 });
            for flight in sent_elsewhere(&mut lab, length) {
                let at = (0..32).find(|at| elsewhere(*at) == flight.to).unwrap();
                went[usize::from(at)] += flight.bytes.len();
                challenges += usize::from(flight.bytes.len() == 41);
            }
        }
        println!("{said:?}: {} bytes came, {} went", came.iter().sum::<usize>(), went.iter().sum::<usize>());
        assert!(came.iter().zip(went).all(|(came, went)| went <= *came), "{said:?}: {went:?} for {came:?}");
        let is_echoed = matches!(number, 1..=4);
        assert!(is_echoed || challenges <= 3 * (seconds + 1), "{said:?}: {challenges} challenges");
    }
    assert!(lab.reaches(FRIEND, VICTIM));
}

/// The rogue is relayed to the friend, who looks for a direct path: it says that it is behind NATs of all sorts, at an address
/// that is a stranger's, and asks for all that can be asked for.
#[test]
fn a_liar_about_its_nat_gets_the_ports_of_another_tried_a_thousand_times_a_minute_and_no_more() {
    let mut lab = relayed();
    let place = SocketAddr::from(([198, 51, 100, 1], 41_414));
    let (flight, sealer) = (passed_on(&lab, ROGUE), lab.nodes[ROGUE].relayed_sealer().unwrap());
    let (mut sent, mut turn) = (Vec::new(), 0);
    let minutes = 3;
    while sent.len() < minutes * 60 {
        let mut of_this = 0;
        for _ in 0..10 {
            turn += 1;
            let class = if turn % 40 < 20 { 5 } else { 4 };
            let nat = NatCode { class, step: i16::from(class == 4) };
            let named = |n: u16| Candidate {
                address: SocketAddr::new(place.ip(), place.port() + n),
                kind: Kind::Reflexive,
            };
            let candidates = (0..8).map(|n| named(n + turn as u16)).collect();
            let told =
                Message::Candidates { set: turn, is_question: false, may_spray: true, nat, candidates };
            for said in [told, Message::Spray] {
                let Ok(inner) = sealer.seal_message(&said.encode()) else { continue };
                let whole = [&flight.bytes[..RELAY_HEADER_BYTES], &inner].concat();
                lab.datagram(VICTIM, flight.from, &whole);
            }
            let elsewhere = sent_elsewhere(&mut lab, Duration::from_millis(100));
            of_this += elsewhere.iter().filter(|flight| flight.to.ip() == place.ip()).count();
        }
        sent.push(of_this);
    }
    let (total, most) = (sent.iter().sum::<usize>(), sent.iter().copied().max().unwrap());
    println!("{total} datagrams in {minutes} minutes, {most} in a second at most");
    // Checks: 8 a second and 64 at once. Sprayed: 1,024 a minute. Foretold: 1,024 at once and as many a minute.
    let (checks, sprayed, foretold) = (64 + 8 * 60 * minutes, 1_024 * (minutes + 1), 1_024 * (minutes + 1));
    assert!(total > 1_024, "nothing was tried: {total}");
    assert!(total <= checks + sprayed + foretold, "{total} in {minutes} minutes");
    assert!(most <= 200 + 64 + 8 + 10, "{most} in a second");
}

#[test]
fn what_servers_see_is_told_to_members_and_only_what_was_asked_is_heard() {
    let mut lab = Lab::new(1);
    let own = lab.nodes[VICTIM].address;
    lab.command(VICTIM, Command::Addresses(vec![own]));
    assert!(lab.reaches(FRIEND, VICTIM));
    let observed = elsewhere(9);
    let forged = stun::response(&stun::TransactionId([1; 12]), observed);
    assert_eq!(lab.datagram(VICTIM, server(1), &forged), Some(DropReason::StunUnasked), "nothing was asked");

    lab.command(VICTIM, Command::StunServers(vec![server(1), server(2), server(3)]));
    let requests = requests(&lab);
    assert_eq!(requests.len(), 3);
    assert_eq!(
        lab.datagram(VICTIM, server(1), &forged),
        Some(DropReason::StunUnasked),
        "another transaction"
    );
    lab.nodes[FRIEND].presences.clear();
    for request in &requests {
        let response = stun::response(&stun::read_request(&request.bytes).unwrap(), observed);
        assert_eq!(
            lab.datagram(VICTIM, elsewhere(3), &response),
            Some(DropReason::StunUnasked),
            "another server"
        );
        assert_eq!(lab.datagram(VICTIM, request.to, &response), None);
        assert_eq!(lab.datagram(VICTIM, request.to, &response), Some(DropReason::StunUnasked), "again");
    }
    lab.run(Duration::from_secs(5));
    let told = lab.nodes[FRIEND].presences.last().unwrap();
    let Body::Presence(presence) = told.body() else { panic!("a Presence") };
    assert_eq!(presence.candidates, [own, observed]);
    // Endpoint-independent, and the port is preserved.
    assert_eq!(presence.nat, 0x12);
    assert!(sent_elsewhere(&mut lab, Duration::from_secs(30)).is_empty(), "an idle node asks nobody");
}

#[test]
fn a_port_that_a_gateway_maps_is_told_to_members_and_makes_a_relay_while_it_lasts() {
    let mut lab = Lab::new(1);
    let own: SocketAddr = "192.168.1.2:41414".parse().unwrap();
    assert!(lab.reaches(FRIEND, VICTIM));
    lab.command(VICTIM, Command::Addresses(vec![own]));
    let outside = "11.0.1.2:50001".parse().unwrap();
    map(&mut lab, 1, SocketAddr::V4(outside), Duration::from_secs(60));
    lab.run(Duration::from_secs(5));
    assert_eq!((told(&lab).candidates, told(&lab).flags), (vec![own, outside.into()], RELAYS));

    // Nobody renews it.
    lab.run(Duration::from_secs(120));
    assert!(lab.nodes[VICTIM].asked.len() > 3);
    assert_eq!((told(&lab).candidates, told(&lab).flags), (vec![own], 0));

    let ask = *lab.nodes[VICTIM].asked.last().unwrap();
    lab.command(VICTIM, Command::PortAsked(ask, Outcome::Mapped { outside, lease: Duration::from_secs(60) }));
    lab.command(VICTIM, Command::Close);
    let release = lab.nodes[VICTIM].asked.last().unwrap();
    assert!(release.is_release() && release.outside == outside && release.nonce == ask.nonce);
}

#[test]
fn a_mapped_port_is_told_to_nobody_while_all_servers_see_this_device_elsewhere() {
    let mut lab = Lab::new(1);
    let own: SocketAddr = "192.168.1.2:41414".parse().unwrap();
    let mapped: SocketAddr = "11.0.1.2:50001".parse().unwrap();
    assert!(lab.reaches(FRIEND, VICTIM));
    lab.command(VICTIM, Command::Addresses(vec![own]));
    map(&mut lab, 1, mapped, Duration::from_secs(3_600));
    lab.run(Duration::from_secs(5));
    assert_eq!((told(&lab).candidates, told(&lab).flags), (vec![own, mapped], RELAYS));

    let answer = |lab: &mut Lab, seen: [SocketAddr; 3]| {
        for (request, seen) in requests(lab).iter().zip(seen) {
            let response = stun::response(&stun::read_request(&request.bytes).unwrap(), seen);
            assert_eq!(lab.datagram(VICTIM, request.to, &response), None);
        }
        lab.run(Duration::from_secs(5));
    };
    lab.command(VICTIM, Command::StunServers(vec![server(1), server(2), server(3)]));
    answer(&mut lab, [elsewhere(9); 3]);
    assert_eq!((told(&lab).candidates, told(&lab).flags), (vec![own, elsewhere(9)], 0));
    assert_eq!(lab.nodes[VICTIM].engine.mapped(), None);

    // That two of them lie does not take it away.
    lab.run(Duration::from_secs(30));
    lab.command(VICTIM, Command::LookAround);
    let seen = SocketAddr::new(mapped.ip(), 41_414);
    answer(&mut lab, [elsewhere(9), seen, elsewhere(9)]);
    assert_eq!((told(&lab).candidates[..2].to_vec(), told(&lab).flags), (vec![own, mapped], RELAYS));
}

#[test]
fn who_moves_to_another_gateway_tells_it_in_one_word() {
    let mut lab = Lab::new(1);
    let [own, other]: [SocketAddr; 2] =
        ["192.168.1.2:41414", "192.168.2.2:41414"].map(|text| text.parse().unwrap());
    let [mapped, mapped_there]: [SocketAddr; 2] =
        ["11.0.1.2:50001", "11.0.2.2:50002"].map(|text| text.parse().unwrap());
    assert!(lab.reaches(FRIEND, VICTIM));
    lab.command(VICTIM, Command::Addresses(vec![own]));
    map(&mut lab, 1, mapped, Duration::from_secs(3_600));
    lab.run(Duration::from_secs(5));
    lab.nodes[FRIEND].presences.clear();
    map(&mut lab, 2, mapped_there, Duration::from_secs(3_600));
    lab.command(VICTIM, Command::Addresses(vec![other]));
    lab.run(Duration::from_secs(5));
    assert_eq!(lab.nodes[FRIEND].presences.len(), 1);
    assert_eq!((told(&lab).candidates, told(&lab).flags), (vec![other, mapped_there], RELAYS));
}
