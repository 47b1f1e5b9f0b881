//! The lab judges itself: each NAT is what the head of its file says, in the words of RFC 4787; and nodes behind them work.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::member::{find_member, group};
use tests::nat::{Behaviour, Findings, measure};
use tests::{Host, Lab, Nat, Site, nats};

const LIMIT: Duration = Duration::from_secs(10);
/// A timeout that can be waited for, and that a busy machine does not reach between two steps of a measurement.
const TIMEOUT_SECS: u32 = 3;

/// Every kind, with hairpinning and a second host where UDP is translated; and one layer and two without.
#[test]
fn every_nat_is_what_its_file_says() {
    let with = |nat| match nat {
        Nat::Public | Nat::UdpBlocked => plain(nat),
        _ => Site { has_hairpin: true, has_second: true, ..plain(nat) },
    };
    let without = [Nat::Translating, Nat::Carrier].map(plain);
    let sites: Vec<_> = Nat::ALL.map(with).into_iter().chain(without).collect();
    let since = Instant::now();
    nats("nats", 2, &sites, |lab| {
        println!("{} sites are up after {:.1} s", sites.len(), since.elapsed().as_secs_f64());
        let findings = measure_all(lab, &sites)?;
        for (site, findings) in sites.iter().zip(&findings) {
            println!("{}", line(*site, findings));
        }
        for (site, findings) in sites.iter().zip(&findings) {
            check(*site, findings).with_context(|| line(*site, findings))?;
        }
        nobody_outside_knows_a_way_in(lab)
    });
}

/// Nodes in the place of sockets: who is behind any NAT that lets UDP through joins at a public member, and is known there
/// by its NAT's address.
#[test]
fn a_member_behind_any_nat_joins_at_a_public_one() {
    let behind: Vec<_> = Nat::ALL.into_iter().filter(|nat| *nat != Nat::UdpBlocked).collect();
    let sites: Vec<_> = behind.iter().map(|nat| Site::behind(*nat)).collect();
    nats("nats-join", 1, &sites, |lab| {
        let names: Vec<_> = names().take(sites.len()).collect();
        let everyone: Vec<_> = ["p1"].into_iter().chain(names.iter().map(String::as_str)).collect();
        let members = group(lab, &everyone)?;
        let founder = &members[0].host;
        for (member, nat) in members[1..].iter().zip(&behind) {
            let Host { name, outside, .. } = &member.host;
            let alias = member.alias_of("p1")?.to_string();
            member.host.run("ping", &["-c", "1", "-W", "5", &alias], LIMIT)?.success()?;
            let seen = find_member(founder, name)?.with_context(|| format!("p1 knows no {name}"))?;
            let remote = seen["path"]["remote"].as_str().unwrap_or_default();
            ensure!(
                remote.starts_with(&format!("{outside}:")),
                "{nat}: {name} is at {remote}, not at {outside}"
            );
        }
        Ok(())
    });
}

fn plain(nat: Nat) -> Site {
    Site { timeout_secs: Some(TIMEOUT_SECS), ..Site::behind(nat) }
}

/// Site number n is called by letter number n.
fn names() -> impl Iterator<Item = String> {
    ('a'..='z').map(|letter| letter.to_string())
}

fn measure_all(lab: &Lab, sites: &[Site]) -> Result<Vec<Findings>> {
    thread::scope(|scope| {
        let begin = |(name, site): (String, &Site)| {
            let site = *site;
            scope.spawn(move || measure(lab, &name, site).with_context(|| format!("{} ({name})", site.nat)))
        };
        let running: Vec<_> = names().zip(sites).map(begin).collect();
        let results =
            running.into_iter().map(|one| one.join().map_err(|_| anyhow!("a measurement panicked"))?);
        results.collect()
    })
}

fn line(site: Site, findings: &Findings) -> String {
    let Findings { mapping, filtering, ports, has_hairpin, overloads, timeout } = findings;
    let nat = site.nat;
    let timeout = timeout.map(|timeout| (timeout.lasts_in_use, timeout.ends_unused));
    format!(
        "{nat:17} mapping {mapping:26} filtering {filtering:26} ports {ports:10} hairpin {has_hairpin:5} \
         overloads {overloads:?}, lasts in use and ends unused {timeout:?}"
    )
}

fn check(site: Site, findings: &Findings) -> Result<()> {
    let nat = site.nat;
    let found = [
        ("mapping", findings.mapping.to_string()),
        ("filtering", findings.filtering.to_string()),
        ("ports", findings.ports.to_string()),
    ];
    for (term, found) in found {
        let said = nat.described(term)?;
        ensure!(found == said, "{nat}: its file says {term} {said}, found {found}");
    }
    ensure!(findings.has_hairpin == site.has_hairpin, "hairpinning is {}", findings.has_hairpin);
    if let Some(overloads) = findings.overloads {
        ensure!(overloads == (nat == Nat::PortPreserving), "two hosts share a port: {overloads}");
    }
    if let (Some(timeout), false) = (findings.timeout, nat == Nat::Public) {
        ensure!(timeout.ends_unused, "a mapping that nobody used was still there");
        let has_one = findings.mapping == Behaviour::EndpointIndependent;
        ensure!(timeout.lasts_in_use == has_one, "the mapping in use lasted: {}", timeout.lasts_in_use);
    }
    Ok(())
}

/// From one inside to another there is no way but through the NATs.
fn nobody_outside_knows_a_way_in(lab: &Lab) -> Result<()> {
    let (from, to) = (lab.host("b")?, lab.host("d")?);
    ensure!(from.address != from.outside && to.address != to.outside, "a host outside is no proof");
    let ping = |address: &str| from.run("ping", &["-c", "1", "-W", "1", address], LIMIT);
    ping(&lab.host("p1")?.address.to_string())?.success()?;
    ensure!(ping(&to.address.to_string())?.success().is_err(), "{} answers {}", to.address, from.address);
    Ok(())
}
