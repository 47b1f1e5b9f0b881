//! Members behind NATs whose ports nobody knows beforehand: ports foretold, and many sockets met by chance.
//!
//! ```text
//!  a random, b translating, c sequential, d sequential ── "net" ── p1, p2, p3 public hosts with a beacon each
//! ```

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::member::{Member, find_member};
use tests::{Beacon, Host, Nat, Site, nats};

const LIMIT: Duration = Duration::from_secs(20);
/// A direct path may take as long where there can be one (protocol/README §14).
const DIRECT_WITHIN: Duration = Duration::from_secs(60);
/// Sockets opened for a member are closed after as long, and once more for a busy machine.
const CLOSED_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn hard_nats_are_passed_by_foresight_and_by_chance_and_sockets_are_closed_after() {
    let kinds = [Nat::Random, Nat::Translating, Nat::Sequential, Nat::Sequential];
    nats("punching", 3, &kinds.map(Site::behind), |lab| {
        let beacons = Beacon::start_all(lab, &["p1", "p2", "p3"], &[])?;
        let words = Beacon::words(&beacons)?;
        let mut members = vec![Member::found_with(lab.host("b")?, &words, &[])?];
        for name in ["a", "c", "d"] {
            let token = members[0].invite(&[])?;
            members.push(Member::join(lab.host(name)?, &token, &[])?);
        }
        for (from, to, won) in [("a", "b", 1), ("c", "b", 0), ("c", "d", 0)] {
            let member = |name: &str| members.iter().find(|member| member.host.name == name);
            let (here, there) = member(from).zip(member(to)).context("two members")?;
            let before = (udp_sockets(&here.host)?, udp_sockets(&there.host)?);
            let took = direct(here, &there.host.name)?;
            println!("{from} to {to}: direct after {:.2} s", took.as_secs_f64());
            wait_for_sockets(&here.host, before.0 + won)?;
            wait_for_sockets(&there.host, before.1)?;
        }
        Ok(())
    });
}

/// In one home by its inside. In two homes behind one carrier's NAT by what that sends back in (hairpinning, RFC 4787 §6), where it
/// does; else another member passes on.
#[test]
fn members_behind_one_nat_are_direct_by_its_inside_or_by_hairpinning() {
    let two = |nat, has_hairpin| Site { has_second: true, has_hairpin, ..Site::behind(nat) };
    let sites = [two(Nat::Translating, false), two(Nat::Carrier, true), two(Nat::Carrier, false)];
    nats("one-nat", 3, &sites, |lab| {
        let beacons = Beacon::start_all(lab, &["p1", "p2"], &[])?;
        let relay = Member::found_with(lab.host("p3")?, &Beacon::words(&beacons)?, &[])?;
        // Without announcements, which would find those in one home before all else.
        let settings = lab.evidence().join("settings.toml");
        fs::write(&settings, "lan = false\n")?;
        let arguments = ["--config", &settings.to_string_lossy()];
        let mut members = Vec::new();
        for name in ["a", "a2", "b", "b2", "c", "c2"] {
            members.push(Member::join(lab.host(name)?, &relay.invite(&[])?, &arguments)?);
        }
        for (pair, seen) in members[..4].chunks(2).zip(["192.168.1.", "11.0.2.2:"]) {
            let took = direct(&pair[0], &pair[1].host.name)?;
            let status = find_member(&pair[0].host, &pair[1].host.name)?.context("a member")?;
            println!(
                "{} to {}: direct after {:.2} s, {}",
                pair[0].host.name,
                pair[1].host.name,
                took.as_secs_f64(),
                status["path"]["remote"]
            );
            ensure!(
                status["path"]["remote"].as_str().is_some_and(|remote| remote.starts_with(seen)),
                "{status}"
            );
        }
        let alias = members[4].alias_of("c2")?.to_string();
        members[4].host.run("ping", &["-c", "1", "-w", "10", &alias], LIMIT)?.success()?;
        let status = find_member(&members[4].host, "c2")?.context("a member")?;
        ensure!(status["state"] == "relayed", "no way leads there but by a member: {status}");
        Ok(())
    });
}

/// `from` pings `to` until it is answered over a direct path; returns after what time that was.
fn direct(from: &Member, to: &str) -> Result<Duration> {
    let alias = from.alias_of(to)?.to_string();
    let since = Instant::now();
    while since.elapsed() < DIRECT_WITHIN {
        let reply = from.host.run("ping", &["-c", "1", "-W", "1", &alias], LIMIT)?;
        let status = find_member(&from.host, to)?.context("a member")?;
        if reply.code == 0 && status["state"] == "direct" {
            return Ok(since.elapsed());
        }
    }
    let status = find_member(&from.host, to)?;
    anyhow::bail!("{} has no direct path to {to}: {status:?}", from.host.name)
}

fn udp_sockets(host: &Host) -> Result<usize> {
    let listed = host.run("ss", &["-Huan"], LIMIT)?.success()?;
    Ok(listed.stdout.lines().count())
}

fn wait_for_sockets(host: &Host, wanted: usize) -> Result<()> {
    let since = Instant::now();
    loop {
        let open = udp_sockets(host)?;
        if open <= wanted {
            return Ok(());
        }
        ensure!(since.elapsed() < CLOSED_WITHIN, "{} has {open} UDP sockets, not {wanted}", host.name);
        sleep(Duration::from_millis(200));
    }
}
