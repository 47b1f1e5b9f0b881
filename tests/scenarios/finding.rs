//! Finding each other through beacons, when nothing that is remembered or written in a token is right.
//!
//! ```text
//!  a, b, c … members, each behind a NAT of its own ── "net" ── p1, p2 … public hosts with a beacon each
//! ```

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::member::{Member, find_member};
use tests::{Beacon, Host, Lab, Nat, Site, nats};

const LIMIT: Duration = Duration::from_secs(20);

/// Four members whose only acquaintance is a token with an address that nobody outside reaches.
#[test]
fn members_behind_nats_find_each_other_from_a_token_alone() {
    nats("finding-token", 5, &[Site::behind(Nat::PortPreserving); 4], |lab| {
        let beacons = beacons(lab, 5)?;
        let hosts = ["a", "b", "c", "d"].map(|name| lab.host(name));
        for host in &hosts[1..] {
            let inside = hosts[0].as_ref().map(|host| host.address.to_string()).unwrap_or_default();
            let reply =
                host.as_ref().ok().context("a host")?.run("ping", &["-c", "1", "-W", "1", &inside], LIMIT)?;
            ensure!(reply.code != 0, "{inside} is reached past the NATs");
        }
        let founder = found(lab.host("a")?, &beacons)?;
        let mut members = vec![founder];
        for name in ["b", "c", "d"] {
            let token = members[0].invite(&[])?;
            let since = Instant::now();
            members.push(Member::join(lab.host(name)?, &token, &[])?);
            println!("{name} joined within {:.1} s", since.elapsed().as_secs_f64());
        }
        everybody_reaches_everybody(&members)
    });
}

/// The beacons on `p1`, `p2` …, each of which knows the first.
fn beacons(lab: &Lab, count: usize) -> Result<Vec<Beacon>> {
    let mut beacons: Vec<Beacon> = Vec::new();
    for number in 1..=count {
        let first = beacons.first().map(|first| first.address(false).map(str::to_owned)).transpose()?;
        let arguments: Vec<&str> = first.iter().flat_map(|first| ["--peer", first]).collect();
        beacons.push(Beacon::start(lab.host(&format!("p{number}"))?, &arguments)?);
    }
    Ok(beacons)
}

/// Founds `home` on `host`, to be found through `beacons`.
fn found(host: &Host, beacons: &[Beacon]) -> Result<Member> {
    let mut words = Vec::new();
    for beacon in beacons {
        words.extend(["--beacon", beacon.address(false)?]);
    }
    Member::found_with(host, &words, &[])
}

/// Each member pings each other one, and says how.
fn everybody_reaches_everybody(members: &[Member]) -> Result<()> {
    for from in members {
        for to in members.iter().filter(|to| to.host.name != from.host.name) {
            let (here, there) = (&from.host.name, &to.host.name);
            let alias = from.alias_of(there)?.to_string();
            let since = Instant::now();
            let reply = from.host.run("ping", &["-c", "1", "-W", "10", &alias], LIMIT)?;
            let status =
                find_member(&from.host, there)?.with_context(|| format!("{here} knows no {there}"))?;
            println!(
                "{here} to {there}: {:.0} ms, {}",
                since.elapsed().as_secs_f64() * 1e3,
                status["path"]["remote"]
            );
            reply.success().with_context(|| format!("{here} does not reach {there}: {status}"))?;
            ensure!(status["state"] == "direct", "{here} to {there}: {status}");
        }
    }
    Ok(())
}
