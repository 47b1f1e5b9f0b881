//! What a node says of the NAT before it is what the lab put there.
//!
//! ```text
//!   a port-preserving, b random, c sequential, d udp-blocked, e public, f random with PCP ── "net" ── p1, p2, p3 beacons
//! ```

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::member::Member;
use tests::topology::vpi_binary;
use tests::{Beacon, Host, Maps, Nat, Site, nats};

const LIMIT: Duration = Duration::from_secs(40);

#[test]
fn netcheck_says_which_nat_there_is_and_what_would_help() {
    let plain = [Nat::PortPreserving, Nat::Random, Nat::Sequential, Nat::UdpBlocked, Nat::Public];
    let sites: Vec<_> =
        plain.into_iter().map(Site::behind).chain([Site::mapping(Nat::Random, Maps::Pcp)]).collect();
    // Host, mapping, ports, filtering, UDP, and a word of the advice.
    let expected = [
        ("a", "endpoint-independent", "preserved", "unknown", "passes", "nearly all"),
        ("b", "address-and-port-dependent", "other", "unknown", "passes", "another port for each target"),
        ("c", "address-and-port-dependent", "sequential", "unknown", "passes", "one after the other"),
        ("d", "unknown", "unknown", "unknown", "blocked", "drops UDP"),
        ("e", "none", "preserved", "none", "passes", "there is no NAT"),
        ("f", "address-and-port-dependent", "other", "endpoint-independent", "passes", "lets everybody in"),
    ];
    nats("netcheck", 3, &sites, |lab| {
        let beacons = ["p1", "p2", "p3"].map(|name| Beacon::start(lab.host(name)?, &[]));
        let beacons: Vec<Beacon> = beacons.into_iter().collect::<Result<_>>()?;
        let mut words = Vec::new();
        for beacon in &beacons {
            words.extend(["--beacon", beacon.address(false)?]);
        }
        let no_node = lab.host("a")?.vpi(&["netcheck"])?;
        ensure!(no_node.code == 3, "without a node: {no_node:?}");
        for (name, mapping, ports, filtering, udp, advice) in expected {
            let host = lab.host(name)?;
            let member = Member::found_with(host, &words, &[])?;
            let said = netcheck(host)?;
            println!("{name}: {} — {}", said["nat"], said["advice"]);
            let nat = &said["nat"];
            let found =
                ["mapping", "ports", "filtering", "udp"].map(|term| nat[term].as_str().unwrap_or_default());
            ensure!(found == [mapping, ports, filtering, udp], "{name}: {said}");
            ensure!(said["advice"].as_str().is_some_and(|said| said.contains(advice)), "{name}: {said}");
            let beacons = said["beacons"].as_array().context("beacons are a list")?;
            ensure!(beacons.len() == 3, "{name}: {said}");
            let outside = &said["port_mapping"]["outside"];
            let mapped = format!("{}:{}", host.outside, member.port()?);
            ensure!(outside.as_str() == (name == "f").then_some(mapped.as_str()), "{name}: {said}");
        }
        Ok(())
    });
}

/// What the node says, which takes as long as servers that do not answer have.
fn netcheck(host: &Host) -> Result<Value> {
    host.run(&vpi_binary()?, &["netcheck", "--json"], LIMIT)?.json()
}
