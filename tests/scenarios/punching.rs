//! Members behind NATs whose ports nobody knows beforehand: ports foretold, and many sockets met by chance.
//!
//! ```text
//!  a random, b translating, c sequential, d sequential ── "net" ── p1, p2, p3 public hosts with a beacon each
//! ```

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
