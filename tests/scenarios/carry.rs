//! Where a network drops all UDP, packets go by way of a beacon that carries; where none does, it is said what would help.
//!
//! ```text
//!  a (no UDP) ──┐
//!  b (no UDP) ──┼── "net" ── p1, p2: beacons      p3: a public member
//!  c (NAT)    ──┘
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::capture::{Capture, Frame};
use tests::member::{Member, find_member};
use tests::traffic::{EchoServer, Flow, WebServer, fetch, transfer};
use tests::{Beacon, Lab, Nat, Site, nats, one_at_a_time, wait};

const LIMIT: Duration = Duration::from_secs(45);
/// From the first packet until the beacon carries.
const CARRIED_WITHIN: Duration = Duration::from_secs(20);
/// Bytes of a transfer, and what a beacon carries of one member in a second by its setting here: 8 Mbit/s.
const BYTES: u64 = 4 << 20;
const RATE: &str = "8";
const RATE_MBIT: f64 = 8.0;
const PAGE: &str = "nobody in the middle reads this page";

#[test]
fn members_without_udp_are_carried_by_a_beacon_and_by_another_when_it_dies_and_by_none_when_udp_is_back() {
    let _turn = one_at_a_time();
    let sites = [Nat::UdpBlocked, Nat::UdpBlocked, Nat::PortPreserving].map(Site::behind);
    nats("carry", 3, &sites, |lab| {
        let (first, second) = beacons(lab, &["--carry", "--carry-rate", RATE])?;
        let mut members = home(lab, [&first, &second])?;
        let [a, b, c, p3] = &members;
        let capture = Capture::at_port(lab, "p1", "tcp", "at-first", &[])?;
        let other = Capture::at_port(lab, "p2", "tcp", "at-second", &[])?;
        let _page = WebServer::start(&b.host, 8_080, PAGE)?;
        for (from, to) in [(a, c), (a, p3), (a, b)] {
            let alias = carried(from, to)?;
            let moved = transfer(&from.host, &to.host, alias, BYTES, 7)?;
            let (names, mbit) = ((&from.host.name, &to.host.name), moved.megabits());
            println!("{names:?}: {BYTES} bytes at {mbit:.1} Mbit/s");
            ensure!(mbit <= RATE_MBIT * 1.1, "{names:?}: {mbit} Mbit/s where {RATE_MBIT} are allowed");
            ensure!(mbit >= RATE_MBIT * 0.25, "{names:?}: {mbit} Mbit/s where {RATE_MBIT} are allowed");
        }
        let alias = a.alias_of("b")?;
        let page = fetch(&a.host, &format!("http://{alias}:8080/"))?;
        ensure!(page == PAGE, "{page}");
        let why = a.host.vpi(&["why", "b"])?.success()?.stdout;
        ensure!(why.contains("carried by the beacon /ip4/"), "{why}");
        let frames: Vec<_> = [capture.finish()?, other.finish()?].concat();
        ensure!(frames.len() > 1_000, "{} frames", frames.len());
        let has_page =
            |frame: &Frame| frame.payload.windows(PAGE.len()).any(|window| window == PAGE.as_bytes());
        ensure!(!frames.iter().any(has_page), "a beacon reads what it carries");

        members[2].stop()?;
        // It says goodbye over the stream; if only that broke, it would be called again.
        wait::until("the goodbye of c", LIMIT, || {
            Ok(find_member(&members[0].host, "c")?.filter(|c| c["state"] == "idle"))
        })?;
        thread::sleep(Duration::from_secs(1));
        let c = find_member(&members[0].host, "c")?.context("a member")?;
        ensure!(c["state"] == "idle", "c said goodbye, and is {}", c["state"]);

        let [a, b, ..] = &members;
        let [used, left] =
            if carrier(a, "b")?.contains(first.id()?) { [first, second] } else { [second, first] };
        let echo = EchoServer::start(&b.host, 0)?;
        let flow = Flow::start(&a.host, SocketAddr::from((alias, echo.port)), Duration::from_millis(20))?;
        flow.first_echo_after(Instant::now(), LIMIT)?;
        let killed_at = Instant::now();
        used.kill()?;
        flow.first_echo_after(killed_at + Duration::from_secs(1), LIMIT)?;
        println!("the beacon died: nothing came for {:.1} s", flow.longest_gap()?.as_secs_f64());
        ensure!(carrier(a, "b")?.contains(left.id()?), "{} is dead", carrier(a, "b")?);

        let began_at = Instant::now();
        for name in ["a", "b"] {
            lab.unblock(lab.host(name)?)?;
        }
        wait::until("a direct path", Duration::from_secs(120), || {
            Ok(find_member(&a.host, "b")?.filter(|b| b["state"] == "direct"))
        })?;
        println!("UDP is back: direct after {:.1} s", began_at.elapsed().as_secs_f64());
        flow.first_echo_after(Instant::now(), LIMIT)?;
        Ok(())
    });
}

#[test]
fn where_no_beacon_carries_why_says_what_would_help() {
    let _turn = one_at_a_time();
    let sites = [Nat::UdpBlocked, Nat::UdpBlocked, Nat::PortPreserving].map(Site::behind);
    nats("carry-none", 3, &sites, |lab| {
        let (first, second) = beacons(lab, &[])?;
        let members = home(lab, [&first, &second])?;
        let [a, _, c, _] = &members;
        let alias = a.alias_of(&c.host.name)?;
        let ping = a.host.run("ping", &["-c", "12", "-i", "1", "-W", "1", &alias.to_string()], LIMIT)?;
        ensure!(ping.success().is_err(), "a packet came where nothing carries it");
        let why = wait::until("a word of what would help", LIMIT, || {
            let why = a.host.vpi(&["why", "c"])?.success()?.stdout;
            Ok(why.contains("a beacon that runs with --carry").then_some(why))
        })?;
        println!("{why}");
        Ok(())
    });
}

/// Two beacons that know each other.
fn beacons(lab: &Lab, words: &[&str]) -> Result<(Beacon, Beacon)> {
    let first = Beacon::start(lab.host("p1")?, words)?;
    let peer = ["--peer", first.address(false)?];
    let second = Beacon::start(lab.host("p2")?, &[words, &peer].concat())?;
    Ok((first, second))
}

/// `a`, `b`, `c` and `p3`, which founds.
fn home(lab: &Lab, beacons: [&Beacon; 2]) -> Result<[Member; 4]> {
    let [first, second] = beacons;
    let words = ["--beacon", first.address(false)?, "--beacon", second.address(false)?];
    let p3 = Member::found_with(lab.host("p3")?, &words, &[])?;
    let mut others = Vec::new();
    for name in ["a", "b", "c"] {
        others.push(Member::join(lab.host(name)?, &p3.invite(&[])?, &[])?);
    }
    let [a, b, c]: [Member; 3] = others.try_into().ok().context("three joined")?;
    Ok([a, b, c, p3])
}

/// `from` reaches `to`, and over what a beacon carries.
fn carried(from: &Member, to: &Member) -> Result<Ipv4Addr> {
    let alias = from.alias_of(&to.host.name)?;
    let since = Instant::now();
    let ping = from.host.run("ping", &["-c", "1", "-w", "30", &alias.to_string()], LIMIT)?;
    ping.success().with_context(|| format!("{} to {}", from.host.name, to.host.name))?;
    let took = since.elapsed();
    let by = carrier(from, &to.host.name)?;
    println!(
        "{} reaches {} after {:.1} s, carried by {by}",
        from.host.name,
        to.host.name,
        took.as_secs_f64()
    );
    ensure!(took <= CARRIED_WITHIN, "only after {took:?}");
    Ok(alias)
}

/// The beacon that carries between `from` and the member `to`, as `from` says.
fn carrier(from: &Member, to: &str) -> Result<String> {
    wait::until(&format!("{to} to be carried"), LIMIT, || {
        let Some(member) = find_member(&from.host, to)? else { return Ok(None) };
        let is_carried = member["state"] == "carried" && member["path"]["kind"] == "carried";
        Ok(member["path"]["via"].as_str().filter(|_| is_carried).map(str::to_owned))
    })
}
