//! Members on one network whose every known address is wrong: found again by announcements, which answer nobody.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::capture::{Capture, Frame};
use tests::probe::{Material, besiege, probes, was_a_siege};
use tests::{Host, Pair, scenario, wait};

/// protocol/README §4.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 86, 73);
const PORT: u16 = 41_413;
const ANNOUNCEMENT_BYTES: usize = 238;
/// From the change of addresses to the first echo.
const FOUND_WITHIN: Duration = Duration::from_secs(5);
/// Longer than that by far.
const NEVER: Duration = Duration::from_secs(12);
const PATIENCE: Duration = Duration::from_secs(20);
const PROBES: usize = 2_000;
const SEED: u64 = 0x1a9;

#[test]
fn members_whose_every_address_changed_find_each_other_within_five_seconds() {
    scenario("lan-found", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        reached(&pair, PATIENCE)?;
        let wire = Capture::at_port(lab, "a", "udp port 41413", "announcements", &[])?;
        let moved_at = Instant::now();
        let own = move_away(&pair)?;
        let took = reached(&pair, PATIENCE)?.duration_since(moved_at);
        ensure!(took <= FOUND_WITHIN, "found after {took:?}");
        println!("every address changed on both sides: reached after {took:?}");
        let frames = wire.finish()?;
        let from_a: Vec<_> = frames.iter().filter(|frame| frame.source.ip() == IpAddr::V4(own[0])).collect();
        ensure!(!from_a.is_empty(), "a announced nothing");
        for frame in from_a {
            let seen = (frame.source.port(), frame.destination, frame.payload.len());
            ensure!(seen == (PORT, SocketAddr::from((GROUP, PORT)), ANNOUNCEMENT_BYTES), "{seen:?}");
        }
        Ok(())
    });
}

#[test]
fn without_the_lan_they_do_not_and_nothing_is_announced() {
    scenario("lan-off", 2, |lab| {
        let settings = lab.evidence().join("settings.toml");
        fs::write(&settings, "lan = false\n")?;
        let wire = Capture::at_port(lab, "a", "udp port 41413 or igmp", "announcements", &[])?;
        let pair = Pair::join(lab, &["--config", &settings.to_string_lossy()])?;
        reached(&pair, PATIENCE)?;
        let ports = udp_ports(&pair.a.host)?;
        ensure!(ports == [pair.a.port()?], "a listens on {ports:?}");
        move_away(&pair)?;
        ensure!(reached(&pair, NEVER).is_err(), "without announcements nothing tells where b is");
        // Bridges report groups of their own.
        let is_ours = |frame: &Frame| {
            frame.destination.port() == PORT || frame.payload.windows(4).any(|four| four == GROUP.octets())
        };
        let said = wire.finish()?.into_iter().find(is_ours);
        ensure!(said.is_none(), "{said:?}");
        Ok(())
    });
}

#[test]
fn nothing_at_the_port_of_announcements_is_answered() {
    scenario("lan-silence", 3, |lab| {
        let wire = Capture::at_port(lab, "a", "udp dst port 41413", "genuine", &[])?;
        let pair = Pair::join(lab, &[])?;
        reached(&pair, PATIENCE)?;
        let (a, port) = (&pair.a.host, pair.a.port()?);
        let mut expected = [PORT, port];
        expected.sort_unstable();
        wait::until("the data port and 41413, and no other", PATIENCE, || {
            Ok((udp_ports(a)? == expected).then_some(()))
        })?;
        wait::until("six announcements", PATIENCE, || Ok((wire.frames()?.len() >= 6).then_some(())))?;
        let recorded: Vec<_> = wire.finish()?.into_iter().map(|frame| frame.payload).collect();
        let material = Material { recorded, ..Material::default() };
        let probes = probes(PROBES, &material, SEED);
        let stranger = lab.host("c")?;
        let to = SocketAddr::from((a.address, PORT));
        let silence = besiege(lab, (stranger, a), &[to], &probes, &[pair.b.host.address])?;
        was_a_siege(&silence, PROBES, material.kinds())?;
        reached(&pair, PATIENCE)?;
        Ok(())
    });
}

/// Takes every address from both hosts and gives them others; returns those.
fn move_away(pair: &Pair) -> Result<[Ipv4Addr; 2]> {
    let hosts = [&pair.a.host, &pair.b.host];
    for (number, host) in (1..).zip(hosts) {
        let line = format!("ip address flush dev eth0 && ip address add 10.99.0.{number}/24 dev eth0");
        host.run("sh", &["-c", &line], PATIENCE)?.success()?;
    }
    Ok([[10, 99, 0, 1].into(), [10, 99, 0, 2].into()])
}

/// Pings `b` from `a` until it answers; returns when it did.
fn reached(pair: &Pair, limit: Duration) -> Result<Instant> {
    let alias = pair.a_to_b.to_string();
    wait::until(&format!("an answer of {alias}"), limit, || {
        let answer = pair.a.host.run("ping", &["-c", "1", "-W", "1", &alias], PATIENCE)?;
        Ok((answer.code == 0).then(Instant::now))
    })
}

/// Local ports of every UDP socket that anybody can send to, sorted, each once.
fn udp_ports(host: &Host) -> Result<Vec<u16>> {
    let said = host.run("ss", &["-lnuH"], PATIENCE)?.success()?.stdout;
    let port = |line: &str| -> Result<u16> {
        let local = line.split_whitespace().nth(3).context("a line of ss without an address")?;
        Ok(local.rsplit(':').next().context("an address without a port")?.parse()?)
    };
    let mut ports = said.lines().map(port).collect::<Result<Vec<_>>>()?;
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}
