//! Rulesets as nft itself lists them, each in a network namespace of its own.

use std::net::{IpAddr, Ipv4Addr};

use super::judge::{Deed, Packet};
use super::ruleset::Ruleset;
use super::{system, table};
use crate::loopback::lab::{in_own_namespace, in_own_namespace_async, run};
use crate::loopback::{self, Listing, Plan, Transport};

const OWN: Ipv4Addr = Ipv4Addr::new(127, 80, 12, 7);
const PEER: Ipv4Addr = Ipv4Addr::new(127, 80, 3, 9);
const INPUT: [&str; 2] = ["prerouting", "input"];

fn in_force() -> Ruleset {
    let Listing::Json(json) = loopback::ruleset().unwrap() else { panic!("nft lists its rules") };
    Ruleset::parse(&json).unwrap()
}

/// Loads rules into the chain `input` of `table ip t`, which `head` begins, and judges `packet` by them.
fn judged(policy: &str, rules: &str, packet: &Packet) -> Vec<(Deed, Option<u64>, bool)> {
    run("nft flush ruleset");
    run(&format!(
        "nft -f - <<'END'\ntable inet t {{\n set listed {{ type ipv4_addr; flags interval; elements = {{ 127.80.0.0/16 }}; }}\n \
         chain other {{\n ip daddr 127.80.12.7 udp dport 41414 accept\n }}\n \
         chain inner {{\n ip saddr 127.0.0.0/8 drop\n }}\n \
         chain input {{ type filter hook input priority 0; policy {policy};\n {rules}\n }}\n}}\nEND"
    ));
    let found = in_force().judge(packet, &INPUT, |_, _| true);
    found.into_iter().map(|verdict| (verdict.deed, verdict.place.handle, verdict.has_exceptions)).collect()
}

fn from_member() -> Packet {
    Packet {
        iif: Some("vpi-home".to_owned()),
        source: Some(IpAddr::V4(PEER)),
        destination: Some(IpAddr::V4(OWN)),
        ..Packet::default()
    }
}

fn datagram() -> Packet {
    Packet {
        iif: Some("eth0".to_owned()),
        transport: Some("udp"),
        destination_port: Some(41_414),
        ..Packet::default()
    }
}

#[test]
fn rules_that_drop_what_members_send_are_found() {
    in_own_namespace(|| {
        for rules in [
            "iifname != \"lo\" ip saddr 127.0.0.0/8 counter drop",
            "ip daddr 127.0.0.0/8 iif != lo log prefix \"x\" drop",
            "ip saddr @listed reject",
            "ip saddr { 10.0.0.0/8, 127.80.3.1-127.80.3.20 } drop",
            "iifname \"vpi-*\" drop",
            "iifname vmap { \"lo\" : accept, \"vpi-home\" : drop }",
            "ct state vmap { established : accept, invalid : drop, new : drop }",
            "tcp dport 22 accept\n ip saddr 127.0.0.0/8 jump inner",
            "meta nfproto ipv4 fib daddr type local goto inner",
            "iifname != { \"lo\", \"eth0\" } ct state new drop",
            "drop",
        ] {
            let found = judged("accept", rules, &from_member());
            assert!(matches!(found[..], [(Deed::Dropped, Some(_), _)]), "{rules}: {found:?}");
        }
    });
}

#[test]
fn rules_that_let_members_through_are_not_found() {
    in_own_namespace(|| {
        for rules in [
            "",
            "iifname != \"lo\" ip saddr 10.0.0.0/8 drop",
            "iifname \"eth0\" drop",
            "ct state invalid drop",
            "tcp dport { 22, 80-90 } drop",
            "ip saddr 127.0.0.1 drop",
            "ip saddr 127.80.3.9 accept\n drop",
            "meta mark 7 drop",
            "limit rate over 5/second drop",
            "ip6 saddr ::1 drop",
            "ip saddr 127.0.0.0/8 return\n drop",
            "tcp dport 22 jump inner",
            "iifname \"vpi-home\" accept\n drop",
            "iifname vmap { \"lo\" : drop, \"vpi-home\" : accept }\n drop",
        ] {
            assert_eq!(judged("accept", rules, &from_member()), [], "{rules}");
        }
    });
}

#[test]
fn a_default_deny_is_found_unless_a_rule_lets_the_packet_in() {
    in_own_namespace(|| {
        let usual = "ct state established,related accept\n iif lo accept\n tcp dport 22 accept";
        assert_eq!(judged("drop", usual, &from_member()), [(Deed::Dropped, None, true)]);
        assert_eq!(judged("drop", usual, &datagram()), [(Deed::Dropped, None, false)]);
        assert_eq!(
            judged("drop", "ct state established accept", &from_member()),
            [(Deed::Dropped, None, false)]
        );
        for rules in
            ["iifname \"vpi-home\" accept", "ip daddr 127.80.0.0/16 accept", "iifname != lo counter accept"]
        {
            assert_eq!(judged("drop", rules, &from_member()), [], "{rules}");
        }
        for rules in [
            "udp dport 41414 accept",
            "udp dport { 53, 41000-42000 } accept",
            "meta l4proto { tcp, udp } th dport 41414 accept",
            "ip saddr 10.0.0.0/8 udp dport 41414 limit rate 100/second accept",
            "iifname \"eth*\" accept",
            // To which address is for the rule to know: it names the port.
            "jump other",
        ] {
            assert_eq!(judged("drop", rules, &datagram()), [], "{rules}");
        }
        for rules in
            ["udp dport 41415 accept", "tcp dport 41414 accept", "iifname \"wlan0\" accept", "jump inner"]
        {
            let found = judged("drop", rules, &datagram());
            assert!(matches!(found[..], [(Deed::Dropped, None, _)]), "{rules}: {found:?}");
        }
    });
}

#[test]
fn port_forwarding_that_swallows_the_port_is_found() {
    in_own_namespace(|| {
        run("nft add table ip nat");
        run("nft 'add chain ip nat pre { type nat hook prerouting priority dstnat; }'");
        run("nft 'add chain ip nat DOCKER'");
        run("nft add rule ip nat pre fib daddr type local counter jump DOCKER");
        run("nft add rule ip nat DOCKER iifname != docker0 udp dport 41414 dnat to 172.17.0.2:41414");
        let deeds = |packet| {
            let found = in_force().judge(&packet, &INPUT, |_, _| true);
            found.iter().map(|verdict| (verdict.deed, verdict.place.chain.clone())).collect::<Vec<_>>()
        };
        assert_eq!(deeds(datagram()), [(Deed::Redirected, "DOCKER".to_owned())]);
        assert_eq!(deeds(Packet { destination_port: Some(41_415), ..datagram() }), []);
        assert_eq!(deeds(Packet { is_ipv6: true, ..datagram() }), []);
    });
}

#[test]
fn own_table_is_judged_by_what_it_does() {
    in_own_namespace_async(|| async {
        let plan = Plan::new("vpi-home", Ipv4Addr::new(127, 80, 0, 0), OWN).unwrap();
        let exposing =
            plan.clone().exposing([(Transport::Tcp, 6379), (Transport::Udp, 53), (Transport::Tcp, 1)]);
        assert_eq!(table::fault(&in_force(), &plan).unwrap(), "its firewall table is missing");
        for plan in [&plan, &exposing] {
            loopback::install(plan, 0).await.unwrap();
            assert_eq!(table::fault(&in_force(), plan), None);
        }
        assert!(table::fault(&in_force(), &plan).unwrap().contains("not exposed"));
        for damage in [
            "nft flush chain ip vpi-home input",
            "nft flush chain ip vpi-home forward",
            "nft flush chain ip vpi-home postrouting",
            "nft flush chain ip vpi-home prerouting",
            "nft insert rule ip vpi-home input accept",
            "nft insert rule ip vpi-home input ip saddr 127.0.0.0/8 iifname vpi-home drop",
            "nft insert rule ip vpi-home postrouting oifname vpi-home accept",
            "nft insert rule ip vpi-home forward oifname vpi-home accept",
        ] {
            loopback::install(&exposing, 0).await.unwrap();
            run(damage);
            let found = table::fault(&in_force(), &exposing);
            assert!(found.is_some_and(|fault| fault.contains("altered")), "{damage}");
        }
    });
}

#[test]
fn what_is_no_listing_is_refused_and_unknown_objects_are_passed_over() {
    assert!(Ruleset::parse("").is_err());
    assert!(Ruleset::parse("{}").is_err());
    let strange =
        r#"{"nftables": [{"metainfo": {}}, {"flowtable": {"name": "f"}}, {"rule": {"family": 7}}, 3, null]}"#;
    assert_eq!(Ruleset::parse(strange).unwrap().chains().count(), 0);
}

#[test]
fn kernel_versions_are_read_from_releases() {
    assert_eq!(system::kernel_version("6.18.5-generic"), Some((6, 18)));
    assert_eq!(system::kernel_version("5.4-rc1"), Some((5, 4)));
    assert_eq!(system::kernel_version("x"), None);
}
