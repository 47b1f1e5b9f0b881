//! Who is dialled back, where, and who is kept.

use libp2p::identity::Keypair;

use super::*;

fn address(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
    texts.iter().map(|text| address(text)).collect()
}

fn introduce(to: &mut Admission, remote: &str, claimed: &[&str], now: Instant) -> Option<String> {
    let peer = Keypair::generate_ed25519().public().to_peer_id();
    let who = Introduction {
        peer,
        remote: &address(remote),
        protocols: &[StreamProtocol::new("/ipfs/id/1.0.0"), KAD],
        addresses: &addresses(claimed),
    };
    to.introduce(who, now).map(|back| back.to_string())
}

#[test]
fn a_server_is_dialled_back_by_tcp_at_the_address_seen_and_nowhere_else() {
    let now = Instant::now();
    let back = |remote: &str, claimed: &[&str]| introduce(&mut Admission::default(), remote, claimed, now);
    let seen = "/ip4/192.0.2.1/tcp/50000";
    assert_eq!(back(seen, &["/ip4/192.0.2.1/tcp/41415"]).as_deref(), Some("/ip4/192.0.2.1/tcp/41415"));
    // Over QUIC it came, over TCP it is dialled.
    let both = ["/ip4/192.0.2.1/udp/41415/quic-v1", "/ip4/10.0.0.1/tcp/9", "/ip4/192.0.2.1/tcp/41416"];
    assert_eq!(back("/ip4/192.0.2.1/udp/5/quic-v1", &both).as_deref(), Some("/ip4/192.0.2.1/tcp/41416"));
    for other in [
        "/ip4/198.51.100.1/tcp/41415",
        "/ip4/192.0.2.1/udp/41415/quic-v1",
        "/ip4/192.0.2.1/tcp/0",
        "/dns4/example.org/tcp/41415",
        "/ip4/192.0.2.1/tcp/41415/ws",
        "/ip4/192.0.2.1/tcp/1/p2p/12D3KooWGWkmpTdWrQ3BpMUR24hjSo7kgDgLARzFXcHUsDbFhpYC/p2p-circuit/x",
    ] {
        let claimed: Vec<&str> =
            [other].into_iter().filter(|text| text.parse::<Multiaddr>().is_ok()).collect();
        assert_eq!(back(seen, &claimed), None, "{other}");
    }
}

#[test]
fn clients_are_not_dialled() {
    let mut admission = Admission::default();
    let who = Introduction {
        peer: Keypair::generate_ed25519().public().to_peer_id(),
        remote: &address("/ip4/192.0.2.1/tcp/50000"),
        protocols: &[StreamProtocol::new("/ipfs/kad/1.0.0")],
        addresses: &addresses(&["/ip4/192.0.2.1/tcp/41415"]),
    };
    assert_eq!(admission.introduce(who, Instant::now()), None);
    assert!(admission.pending.is_empty());
}

#[test]
fn dial_backs_are_bounded_by_peer_by_address_and_in_all() {
    let (mut admission, now) = (Admission::default(), Instant::now());
    let dials = |admission: &mut Admission, ip: &str, now| {
        let remote = format!("/ip4/{ip}/tcp/5");
        introduce(admission, &remote, &[&format!("/ip4/{ip}/tcp/1")], now).is_some()
    };
    assert!(dials(&mut admission, "192.0.2.1", now));
    assert!(!dials(&mut admission, "192.0.2.1", now), "another peer at the same address");
    let dialled = (2..=255).filter(|last| dials(&mut admission, &format!("192.0.2.{last}"), now)).count();
    assert_eq!(dialled, PENDING_MAX - 1);
    assert!(dials(&mut admission, "192.0.2.1", now + PENDING_FOR), "what ended unseen is over");
}

#[test]
fn several_at_one_address_are_dialled_back_one_after_the_other() {
    let (mut admission, now) = (Admission::default(), Instant::now());
    let come = |admission: &mut Admission, port: u16| {
        let claimed = format!("/ip4/192.0.2.1/tcp/{port}");
        introduce(admission, "/ip4/192.0.2.1/tcp/5", &[&claimed], now)
    };
    assert!(come(&mut admission, 1).is_some());
    for port in 2..100 {
        assert_eq!(come(&mut admission, port), None);
    }
    assert_eq!(admission.next(now), None, "one is under way");
    for port in 2..2 + WAITING_OF_ADDRESS {
        let under_way = *admission.pending.keys().next().unwrap();
        admission.on_answer(&under_way);
        let (_, back) = admission.next(now).unwrap();
        assert_eq!(back, address(&format!("/ip4/192.0.2.1/tcp/{port}")), "in the order of coming");
        assert_eq!(admission.next(now), None);
    }
    let last = *admission.pending.keys().next().unwrap();
    assert!(!admission.on_miss(&last, false));
    assert_eq!(admission.next(now), None, "the rest was too much");
    assert!(come(&mut admission, 1).is_some());
    assert_eq!(come(&mut admission, 2), None);
    assert!(admission.next(now + PENDING_FOR).is_none(), "who waited as long is gone");
}

#[test]
fn a_beacon_that_misses_three_dials_in_a_row_leaves_the_table() {
    let mut admission = Admission::default();
    let peer = Keypair::generate_ed25519().public().to_peer_id();
    assert!(!admission.on_miss(&peer, true));
    assert!(!admission.on_miss(&peer, true));
    admission.on_answer(&peer);
    assert_eq!([true, true, true].map(|is_in| admission.on_miss(&peer, is_in)), [false, false, true]);
    assert!(!admission.on_miss(&peer, false));
    assert!(admission.failures.is_empty());
}

#[test]
fn one_network_has_less_than_half_a_bucket() {
    let group = |text: &str| Group::of(&address(text));
    let new = address("/ip4/192.0.2.200/tcp/1");
    let same = |count| std::iter::repeat_n(group("/ip4/192.0.2.1/tcp/1"), count);
    assert!(is_diverse(&new, same(GROUP_MAX - 1)));
    assert!(!is_diverse(&new, same(GROUP_MAX)));
    assert!(is_diverse(&address("/ip4/192.0.3.1/tcp/1"), same(GROUP_MAX)));
    assert!(!is_diverse(&address("/ip4/192.0.3.1/tcp/1"), same(TABLE_MAX)));
    assert!(is_diverse(&address("/memory/1"), std::iter::repeat_n(Group::Other, 100)));
}
