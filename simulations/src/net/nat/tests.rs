//! The model against RFC 4787 and against the files that describe the real ones (`netns-scripts/nat`), which were measured.

use super::*;

const HOST: &str = "10.1.0.1:41414";
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Two ports of one address, and another address.
const NEAR: [&str; 2] = ["192.0.2.1:3478", "192.0.2.1:3479"];
const FAR: &str = "192.0.2.2:3478";

#[test]
fn every_kind_does_what_its_file_says() {
    for (kind, text) in FILES {
        let mut bench = Bench::new(kind);
        if bench.out(HOST, NEAR[0]).is_none() {
            assert_eq!((said(text, "mapping"), said(text, "filtering")), ("none", "all"), "{kind:?}");
            continue;
        }
        let found = if kind == Kind::Public {
            // Nothing stands between: the world delivers to the host's own address.
            ("none", "none", "preserved")
        } else {
            (bench.mapping(), bench.filtering(), bench.ports())
        };
        let said = (said(text, "mapping"), said(text, "filtering"), said(text, "ports"));
        assert_eq!(found, said, "{kind:?}");
    }
}

#[test]
fn a_mapping_that_is_not_used_ends_after_its_timeout() {
    let mut bench = Bench::new(Kind::Translating);
    let seen = bench.out(HOST, NEAR[0]).unwrap();
    bench.now += TIMEOUT - Duration::from_millis(1);
    assert_eq!(bench.inward(NEAR[0], seen), Some(at(HOST)), "it is used just in time");
    bench.now += TIMEOUT - Duration::from_millis(1);
    assert_eq!(bench.inward(NEAR[0], seen), Some(at(HOST)), "inbound datagrams refresh it");
    bench.now += TIMEOUT;
    assert_eq!(bench.inward(NEAR[0], seen), None);
    assert_ne!(bench.out(HOST, NEAR[0]), Some(seen), "another random port");
}

#[test]
fn a_mapping_is_the_same_for_all_while_one_remote_uses_it() {
    let mut bench = Bench::new(Kind::Independent);
    let seen = bench.out(HOST, NEAR[0]).unwrap();
    for _ in 0..5 {
        bench.now += TIMEOUT / 2;
        assert_eq!(bench.inward(FAR, seen), Some(at(HOST)));
    }
    assert_eq!(bench.out(HOST, NEAR[1]), Some(seen));
}

#[test]
fn two_that_share_a_preserved_port_are_told_apart_by_their_remotes() {
    let mut bench = Bench::new(Kind::PortPreserving);
    let neighbour = "10.1.0.2:41414";
    let seen = bench.out(HOST, NEAR[0]).unwrap();
    assert_eq!(bench.out(neighbour, FAR), Some(seen));
    assert_eq!(bench.inward(NEAR[0], seen), Some(at(HOST)));
    assert_eq!(bench.inward(FAR, seen), Some(at(neighbour)));
    let other = bench.out("10.1.0.3:41414", NEAR[0]).unwrap();
    assert_ne!(other.port(), 41_414, "a remote that talks to the port already");
}

#[test]
fn ports_of_a_translating_nat_are_not_shared() {
    let mut bench = Bench::new(Kind::Translating);
    let hosts: Vec<_> = (1..100).map(|last| format!("10.1.0.{last}:41414")).collect();
    let seen: std::collections::BTreeSet<_> =
        hosts.iter().map(|host| bench.out(host, FAR).unwrap()).collect();
    assert_eq!(seen.len(), hosts.len());
}

#[test]
fn a_sequence_begins_again_and_loses_what_would_clash() {
    let behaviour = Behaviour::new(
        Dependence::AddressAndPortDependent,
        Dependence::AddressAndPortDependent,
        Ports::Sequential { first: 20_000, count: 2 },
    );
    let mut bench = Bench::of(&[behaviour]);
    let ports = [1, 2].map(|port| bench.out(&format!("10.1.0.1:{port}"), FAR).unwrap().port());
    assert_eq!(ports, [20_000, 20_001]);
    assert_eq!(bench.out("10.1.0.1:3", FAR), None, "20000 is somebody else's for this remote");
    assert_eq!(bench.out("10.1.0.1:3", NEAR[0]).unwrap().port(), 20_001, "not for another one");
}

#[test]
fn insides_meet_outside_only_with_hairpinning() {
    let neighbour = "10.1.0.2:5000";
    for has_hairpin in [false, true] {
        let [layer] = Kind::Translating.layers()[..] else { panic!("one layer") };
        let mut bench = Bench::of(&[Behaviour { has_hairpin, ..layer }]);
        let seen = bench.out(HOST, FAR).unwrap();
        let own = bench.out(neighbour, FAR).unwrap();
        let turned = bench.site.outward((at(neighbour), seen), bench.now, &mut bench.chance);
        assert_eq!(turned, has_hairpin.then_some(own), "from its own mapping (RFC 4787 REQ-9)");
        if let Some(from) = turned {
            assert_eq!(bench.site.inward((from, seen), bench.now), Some(at(HOST)));
        }
    }
}

#[test]
fn a_carrier_turns_round_what_its_customers_send_each_other() {
    let mut layers = Kind::Carrier.layers();
    layers[1].has_hairpin = true;
    let mut bench = Bench::of(&layers);
    let neighbour = "10.1.0.2:5000";
    let (seen, own) = (bench.out(HOST, FAR).unwrap(), bench.out(neighbour, FAR).unwrap());
    let turn = |bench: &mut Bench, from: &str, to| {
        let from = bench.site.outward((at(from), to), bench.now, &mut bench.chance)?;
        bench.site.inward((from, to), bench.now)
    };
    assert_eq!(turn(&mut bench, neighbour, seen), None, "the home filters what comes from the carrier");
    assert_eq!(turn(&mut bench, HOST, own), Some(at(neighbour)), "whom it has sent to");
    assert_eq!(turn(&mut bench, neighbour, seen), Some(at(HOST)));
}

const FILES: [(Kind, &str); 9] = [
    (Kind::Public, include_str!("../../../../netns-scripts/nat/public.nft")),
    (Kind::Independent, include_str!("../../../../netns-scripts/nat/independent.nft")),
    (Kind::AddressDependent, include_str!("../../../../netns-scripts/nat/address-dependent.nft")),
    (Kind::PortPreserving, include_str!("../../../../netns-scripts/nat/port-preserving.nft")),
    (Kind::Translating, include_str!("../../../../netns-scripts/nat/translating.nft")),
    (Kind::Random, include_str!("../../../../netns-scripts/nat/random.nft")),
    (Kind::Sequential, include_str!("../../../../netns-scripts/nat/sequential.nft")),
    (Kind::Carrier, include_str!("../../../../netns-scripts/nat/carrier.nft")),
    (Kind::UdpBlocked, include_str!("../../../../netns-scripts/nat/udp-blocked.nft")),
];

/// The first word that the head of a file says under a term.
fn said<'t>(text: &'t str, term: &str) -> &'t str {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("#   ")?.strip_prefix(term));
    let word = lines.next().and_then(|line| line.split_whitespace().next());
    word.unwrap().trim_end_matches([':', ',', ';', '.'])
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A site, and whoever sends there.
struct Bench {
    site: Site,
    now: Duration,
    chance: Chance,
}

impl Bench {
    fn new(kind: Kind) -> Self {
        Self { site: Site::new(kind, OUTSIDE), now: Duration::ZERO, chance: Chance::new(7) }
    }

    fn of(behaviours: &[Behaviour]) -> Self {
        let site = Site::of(behaviours, OUTSIDE);
        Self { site, now: Duration::ZERO, chance: Chance::new(7) }
    }

    fn out(&mut self, from: &str, to: &str) -> Option<SocketAddr> {
        self.site.outward((at(from), at(to)), self.now, &mut self.chance)
    }

    fn inward(&mut self, from: &str, to: SocketAddr) -> Option<SocketAddr> {
        self.site.inward((at(from), to), self.now)
    }

    fn mapping(&mut self) -> &'static str {
        let [first, other_port, other_address] =
            [NEAR[0], NEAR[1], FAR].map(|to| self.out(HOST, to).unwrap());
        match (first == other_port, first == other_address) {
            (true, true) => "endpoint-independent",
            (true, false) => "address-dependent",
            _ => "address-and-port-dependent",
        }
    }

    fn filtering(&mut self) -> &'static str {
        let seen = self.out("10.1.0.1:1000", NEAR[0]).unwrap();
        assert_eq!(self.inward(NEAR[0], seen), Some(at("10.1.0.1:1000")));
        match [NEAR[1], FAR].map(|from| self.inward(from, seen).is_some()) {
            [true, true] => "endpoint-independent",
            [true, false] => "address-dependent",
            _ => "address-and-port-dependent",
        }
    }

    fn ports(&mut self) -> &'static str {
        let own: Vec<u16> = (50_000..50_008).collect();
        let seen: Vec<_> =
            own.iter().map(|port| self.out(&format!("10.1.0.9:{port}"), NEAR[0]).unwrap().port()).collect();
        if seen == own {
            "preserved"
        } else if seen.windows(2).all(|pair| pair[1] == pair[0] + 1) {
            "sequential"
        } else {
            "random"
        }
    }
}
