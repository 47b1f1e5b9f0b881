//! Finding each other through beacons, when nothing that is remembered or written in a token is right.
//!
//! ```text
//!  a, b, c … members, each behind a NAT of its own ── "net" ── p1, p2 … public hosts with a beacon each
//! ```

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::member::{Member, find_member};
use tests::{Beacon, Host, Lab, Nat, Site, nats};

const LIMIT: Duration = Duration::from_secs(20);
/// *Promised*: from the start of nodes that all moved while they were down to a link between each two.
const ALL_MOVED: Duration = Duration::from_secs(10);
/// *Promised* are three seconds, and printed is what it was, where one member stayed where it was, and lives; and where nobody moved
/// and no beacon lives. The rest is for a machine that is busy with other scenarios.
const ONE_STAYED: Duration = Duration::from_secs(6);
/// How long the slowest pair is waited for, so that a failure tells by how much it was late.
const PATIENCE: Duration = Duration::from_secs(40);

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

/// Everybody is down, and comes up elsewhere: what is remembered is right of nobody.
#[test]
fn members_that_all_moved_while_they_were_down_find_each_other() {
    nats("finding-moved", 3, &[Site::behind(Nat::Public); 3], |lab| {
        let beacons = beacons(lab, 3)?;
        let mut members = home(lab, &beacons)?;
        everybody_reaches_everybody(&members)?;

        let took = restarted(&mut members, |host| moved(host, 77))?;
        println!("all moved: all pairs after {took:.1?}");
        ensure!(took <= ALL_MOVED, "all pairs only after {took:?}");

        // From here on one stays, and lives.
        let (first, others) = members.split_first_mut().context("there are members")?;
        for other in &mut *others {
            other.stop()?;
            moved(&other.host, 78)?;
        }
        let started = Instant::now();
        for other in &mut *others {
            other.restart()?;
        }
        let took = all_pairs_since(started, [&*first].into_iter().chain(&*others))?;
        println!("one stayed: all pairs after {took:.1?}");
        ensure!(took <= ONE_STAYED, "all pairs only after {took:?}");

        for beacon in beacons {
            beacon.kill()?;
        }
        let took = restarted(&mut members, |_| Ok(()))?;
        println!("no beacon, nobody moved: all pairs after {took:.1?}");
        ensure!(took <= ONE_STAYED, "all pairs only after {took:?}");
        Ok(())
    });
}

/// A token of before everybody moved leads in all the same.
#[test]
fn a_token_whose_every_address_is_stale_joins_through_the_lobby() {
    nats("finding-stale", 3, &[Site::behind(Nat::Public); 4], |lab| {
        let beacons = beacons(lab, 3)?;
        let mut members = home(lab, &beacons)?;
        let token = members[0].invite(&[])?;
        restarted(&mut members, |host| moved(host, 77))?;
        let since = Instant::now();
        members.push(Member::join(lab.host("d")?, &token, &[])?);
        println!("joined after {:.1?}", since.elapsed());
        everybody_reaches_everybody(&members)
    });
}

/// Two of five beacons die, and come back with what they had when the other three die.
#[test]
fn beacons_that_die_and_come_back_are_not_missed() {
    nats("finding-beacons", 5, &[Site::behind(Nat::Public); 3], |lab| {
        let mut beacons = beacons(lab, 5)?;
        let mut members = home(lab, &beacons)?;
        for beacon in beacons.drain(..2) {
            beacon.kill()?;
        }
        let took = restarted(&mut members, |host| moved(host, 77))?;
        println!("without two of five: all pairs after {took:.1?}");
        ensure!(took <= ALL_MOVED, "without two of five all pairs only after {took:?}");

        let back =
            ["p1", "p2"].map(|name| Beacon::start(lab.host(name)?, &["--peer", beacons[0].address(false)?]));
        let _back = back.into_iter().collect::<Result<Vec<_>>>()?;
        drop(beacons);
        let took = restarted(&mut members, |host| moved(host, 78))?;
        println!("with those two only: all pairs after {took:.1?}");
        ensure!(took <= ALL_MOVED, "with those two only all pairs only after {took:?}");
        Ok(())
    });
}

/// `a`, `b` and `c`, which know the beacons from the founder and its tokens.
fn home(lab: &Lab, beacons: &[Beacon]) -> Result<Vec<Member>> {
    let mut members = vec![found(lab.host("a")?, beacons)?];
    for name in ["b", "c"] {
        let token = members[0].invite(&[])?;
        members.push(Member::join(lab.host(name)?, &token, &[])?);
    }
    for member in &members {
        for other in members.iter().filter(|other| other.host.name != member.host.name) {
            member.alias_of(&other.host.name)?;
        }
    }
    Ok(members)
}

/// Takes another address at the same site.
fn moved(host: &Host, last: u8) -> Result<()> {
    let [a, b, site, _] = host.address.octets();
    host.renumber(Ipv4Addr::new(a, b, site, last), 24, Ipv4Addr::new(a, b, site, 1))
}

/// Ends all nodes, does something to each host, starts all again: the time from then until each member reached each other.
fn restarted(members: &mut [Member], mut between: impl FnMut(&Host) -> Result<()>) -> Result<Duration> {
    for member in &mut *members {
        member.stop()?;
        between(&member.host)?;
    }
    let started = Instant::now();
    for member in &mut *members {
        member.restart()?;
    }
    all_pairs_since(started, members.iter())
}

/// The time since `started` after which the slowest pair had an answer.
fn all_pairs_since<'m>(started: Instant, members: impl Iterator<Item = &'m Member>) -> Result<Duration> {
    let members: Vec<&Member> = members.collect();
    thread::scope(|scope| {
        let mut waiting = Vec::new();
        for from in &members {
            for to in members.iter().filter(|to| to.host.name != from.host.name) {
                let alias = from.alias_of(&to.host.name)?.to_string();
                let pair = format!("{} to {}", from.host.name, to.host.name);
                waiting.push((pair, scope.spawn(move || answered_since(started, from, &alias))));
            }
        }
        let mut slowest = Duration::ZERO;
        for (pair, waits) in waiting {
            let took = waits.join().map_err(|_| anyhow!("panicked"))?.with_context(|| pair.clone())?;
            println!("{pair}: {took:.1?}");
            slowest = slowest.max(took);
        }
        Ok(slowest)
    })
}

fn answered_since(started: Instant, from: &Member, alias: &str) -> Result<Duration> {
    while started.elapsed() < PATIENCE {
        if from.host.run("ping", &["-c", "1", "-W", "1", alias], LIMIT)?.code == 0 {
            return Ok(started.elapsed());
        }
    }
    let why = from.host.vpi(&["why", alias])?;
    Err(anyhow!("no answer within {PATIENCE:?}: {}", why.stdout))
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
