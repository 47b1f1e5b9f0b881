//! Two members whose NATs let nobody in talk by way of a fellow member, and of another when that one dies.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use tests::capture::{Capture, Frame};
use tests::member::{Member, find_member, group};
use tests::traffic::{EchoServer, Flow, WebServer, fetch, transfer};
use tests::{Host, Nat, Site, nats, one_at_a_time, wait};

const LIMIT: Duration = Duration::from_secs(30);
/// The promise: how long nothing comes when the member in between dies.
const GAP_LIMIT: Duration = Duration::from_secs(3);
const PAGE: &str = "what only the two ends are to read";
/// The first byte of what is passed on (protocol/README §1).
const RELAYED: u8 = 0x82;
/// What one member sends to another in a second of this test: far below what a machine carries.
const PACED: u32 = 500;
const PACED_BYTES: usize = 1_000;
const PACED_FOR: Duration = Duration::from_secs(3);
/// *Promised*: of what others send while a member floods.
const SHARE_LEFT: f64 = 0.8;

#[test]
fn two_members_behind_random_nats_talk_by_way_of_a_third_and_of_a_fourth_when_it_dies() {
    let _turn = one_at_a_time();
    let sites = [Nat::Random, Nat::Random].map(Site::behind);
    nats("relay", 2, &sites, |lab| {
        let mut members = group(lab, &["p1", "p2", "a", "b"])?;
        for member in &members[2..] {
            for public in ["p1", "p2"] {
                let alias = member.alias_of(public)?.to_string();
                let ping = member.host.run("ping", &["-c", "1", "-W", "10", &alias], LIMIT)?;
                ping.success().with_context(|| format!("{} to {public}", member.host.name))?;
            }
        }
        let (a, b) = (&members[2], &members[3]);
        let alias = a.alias_of("b")?;
        let _server = WebServer::start(&b.host, 8_080, "by way of another")?;
        let since = Instant::now();
        let page = fetch(&a.host, &format!("http://{alias}:8080/"))?;
        println!("the first page came by way of another after {:.2} s", since.elapsed().as_secs_f64());
        ensure!(page == "by way of another", "{page}");
        let used = relay_of(a)?;
        let shown = a.host.vpi(&["status"])?.success()?.stdout;
        ensure!(shown.contains(&format!("relayed via {used}")), "{shown}");

        let echo = EchoServer::start(&b.host, 0)?;
        let flow = Flow::start(&a.host, SocketAddr::from((alias, echo.port)), Duration::from_millis(10))?;
        // The second way is asked for and measured meanwhile.
        let started_at = Instant::now();
        flow.first_echo_after(started_at + Duration::from_secs(5), LIMIT)?;
        let used = relay_of(a)?;
        let relay = members.iter_mut().find(|member| member.host.name == used);
        let killed_at = Instant::now();
        relay.with_context(|| format!("{used} is none of the members"))?.kill()?;
        flow.first_echo_after(killed_at + Duration::from_secs(4), LIMIT)?;
        let gap = flow.longest_gap()?;
        println!("{used} died: nothing came for {:.2} s", gap.as_secs_f64());
        ensure!(gap <= GAP_LIMIT, "nothing came for {gap:?}");
        let other = relay_of(&members[2])?;
        ensure!(other != used, "{used} is dead, and said to pass on");
        Ok(())
    });
}

#[test]
fn a_member_that_passes_on_reads_nothing_takes_no_forged_label_and_serves_others_beside_a_flood() {
    let _turn = one_at_a_time();
    let sites = [Nat::Random; 4].map(Site::behind);
    nats("relay-fair", 2, &sites, |lab| {
        let members = group(lab, &["p1", "a", "b", "c", "d"])?;
        let [p1, a, b, c, d] = members.as_slice() else { return Err(anyhow!("five are members")) };
        let way = |from: &Member, to: &Member| -> Result<Ipv4Addr> {
            let alias = from.alias_of(&to.host.name)?;
            from.host.run("ping", &["-c", "1", "-W", "15", &alias.to_string()], LIMIT)?.success()?;
            Ok(alias)
        };
        for member in [a, b, c, d] {
            way(member, p1)?;
        }
        let (a_to_b, c_to_d) = (way(a, b)?, way(c, d)?);
        ensure!(relay_of(a)? == "p1", "{} passes on", relay_of(a)?);

        // Throughput, and what it costs who passes on.
        let node = p1.node.as_ref().context("p1 runs")?;
        let before = node.cpu_time()?;
        let moved = transfer(&a.host, &b.host, a_to_b, 32 << 20, 1)?;
        let cost = (node.cpu_time()? - before).as_secs_f64();
        println!(
            "by way of another: {:.0} Mbit/s, {:.2} CPU seconds of its for 32 MiB",
            moved.megabits(),
            cost
        );

        // What passes there is sealed for others.
        let capture = Capture::at_port(lab, "p1", "udp", "passes", &[])?;
        let _server = WebServer::start(&b.host, 8_080, PAGE)?;
        ensure!(fetch(&a.host, &format!("http://{a_to_b}:8080/"))? == PAGE, "another page");
        let frames = capture.finish()?;
        let passed: Vec<&Frame> =
            frames.iter().filter(|frame| frame.payload.first() == Some(&RELAYED)).collect();
        ensure!(passed.len() >= 8, "{} datagrams were passed on", passed.len());
        let reads = |frame: &&Frame| frame.payload.windows(PAGE.len()).any(|part| part == PAGE.as_bytes());
        ensure!(!frames.iter().any(|frame| reads(&frame)), "what is passed on can be read");

        // A label that was overheard, one that is nobody's, and one by itself.
        let refused = || Ok::<_, anyhow::Error>(drops(&p1.host)?["relay_label"].as_u64().unwrap_or_default());
        let (known, stranger) = (passed[0].payload.clone(), lab.host("p2")?);
        let mut forged = known.clone();
        forged[7] ^= 1;
        let outside = lab.host("p1")?.address;
        let (before, target) = (refused()?, SocketAddr::from((outside, p1.port()?)));
        let socket = stranger.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
        for datagram in [&known[..], &forged, &known[..8]] {
            for _ in 0..10 {
                socket.send_to(datagram, target)?;
            }
        }
        wait::until("the labels to be refused", LIMIT, || Ok((refused()? >= before + 20).then_some(())))?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        ensure!(socket.recv(&mut [0; 2_048]).is_err(), "a stranger was answered");

        // Others have theirs beside a member that sends as much as it can.
        let alone = paced(&a.host, &b.host, a_to_b)?;
        let is_over = AtomicBool::new(false);
        let (beside, flooded) = thread::scope(|scope| {
            let flood = scope.spawn(|| flood(&c.host, c_to_d, &is_over));
            thread::sleep(Duration::from_millis(500));
            let beside = paced(&a.host, &b.host, a_to_b);
            is_over.store(true, Ordering::Relaxed);
            (beside, flood.join())
        });
        let (beside, flooded) = (beside?, flooded.map_err(|_| anyhow!("the flood panicked"))??);
        println!("of {PACED} a second: {alone} came alone, {beside} beside a flood of {flooded} datagrams");
        ensure!(f64::from(beside) >= SHARE_LEFT * f64::from(alone), "{beside} beside a flood, {alone} alone");
        Ok(())
    });
}

/// How many numbered datagrams come, of [`PACED`] a second.
fn paced(from: &Host, to: &Host, alias: Ipv4Addr) -> Result<u32> {
    let receiver = to.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    receiver.set_read_timeout(Some(Duration::from_secs(1)))?;
    let target = SocketAddr::from((alias, receiver.local_addr()?.port()));
    let sender = from.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    thread::scope(|scope| {
        let coming = scope.spawn(|| {
            let (mut came, mut buffer) = (0, [0; 2_048]);
            while receiver.recv(&mut buffer).is_ok() {
                came += 1;
            }
            came
        });
        let begin = Instant::now();
        for number in 0..PACED * PACED_FOR.as_secs() as u32 {
            sender.send_to(&[7; PACED_BYTES], target)?;
            let next = begin + Duration::from_secs(1) / PACED * number;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        coming.join().map_err(|_| anyhow!("the receiver panicked"))
    })
}

/// Sends as much as the socket takes; how many datagrams that were.
fn flood(from: &Host, alias: Ipv4Addr, is_over: &AtomicBool) -> Result<u64> {
    let sender = from.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    let mut sent = 0;
    while !is_over.load(Ordering::Relaxed) {
        // A port that nobody listens on answers by errors, which the next call tells.
        sent += u64::from(sender.send_to(&[9; 1_300], (alias, 9)).is_ok());
    }
    Ok(sent)
}

fn drops(host: &Host) -> Result<Value> {
    Ok(host.vpi(&["status", "--drops", "--json"])?.json()?["vpis"][0]["drops"].take())
}

/// The member by way of which `a` reaches `b`, as it says itself.
fn relay_of(a: &Member) -> Result<String> {
    wait::until("a to reach b by way of another", LIMIT, || {
        let Some(b) = find_member(&a.host, "b")? else { return Ok(None) };
        let is_relayed = b["state"] == "relayed" && b["path"]["kind"] == "relayed";
        Ok(b["path"]["via"].as_str().filter(|_| is_relayed).map(str::to_owned))
    })
}
