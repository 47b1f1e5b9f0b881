//! What two members get through the tunnel: HTTP, bulk TCP, UDP, ping, and a connection that outlives rekeys.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use tests::capture::{Capture, Frame};
use tests::traffic::{EchoServer, Flow, HeldConnection, WebServer, fetch, transfer};
use tests::{Host, Pair, one_at_a_time, scenario, wait};

const MIB: u64 = 1 << 20;
/// The shortest time that the setting allows, so that five rekeys take less than a minute.
const REKEY_AFTER_SECONDS: u64 = 10;
const REKEYS: usize = 5;

#[test]
fn an_unchanged_curl_reaches_the_other_members_web_server_both_ways() {
    scenario("http", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        let _servers = [
            WebServer::start(&pair.a.host, 8080, "page of a")?,
            WebServer::start(&pair.b.host, 8080, "page of b")?,
        ];
        let from_a = fetch(&pair.a.host, &format!("http://{}:8080/", pair.a_to_b))?;
        let from_b = fetch(&pair.b.host, &format!("http://{}:8080/", pair.b_to_a))?;
        ensure!(from_a == "page of b", "a at {} got {from_a:?}", pair.a_to_b);
        ensure!(from_b == "page of a", "b at {} got {from_b:?}", pair.b_to_a);
        Ok(())
    });
}

#[test]
fn two_transfers_of_256_mib_in_opposite_directions_arrive_unchanged() {
    let _turn = one_at_a_time();
    scenario("bulk", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        let (a, b) = (&pair.a.host, &pair.b.host);
        let (there, back) = thread::scope(|scope| {
            let there = scope.spawn(|| transfer(a, b, pair.a_to_b, 256 * MIB, 1));
            let back = transfer(b, a, pair.b_to_a, 256 * MIB, 2);
            (there.join().map_err(|_| anyhow!("a transfer panicked")), back)
        });
        let (there, back) = (there??, back?);
        println!("256 MiB each way at once: {:.0} and {:.0} Mbit/s", there.megabits(), back.megabits());
        Ok(())
    });
}

#[test]
fn udp_datagrams_of_every_size_up_to_the_tunnels_come_back() {
    scenario("udp", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        for (from, to, alias) in [(&pair.a, &pair.b, pair.a_to_b), (&pair.b, &pair.a, pair.b_to_a)] {
            let server = EchoServer::start(&to.host, 0)?;
            echo_every_size(&from.host, SocketAddr::from((alias, server.port)))?;
            let flow =
                Flow::start(&from.host, SocketAddr::from((alias, server.port)), Duration::from_millis(10))?;
            wait::until("200 echoes", Duration::from_secs(5), || Ok((flow.count() >= 200).then_some(())))?;
            ensure!(flow.longest_gap()? < Duration::from_secs(2), "a gap of {:?}", flow.longest_gap()?);
        }
        Ok(())
    });
}

#[test]
fn ping_of_a_members_alias_is_answered_through_the_tunnel() {
    scenario("ping", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        for (from, alias) in [(&pair.a.host, pair.a_to_b), (&pair.b.host, pair.b_to_a)] {
            let words = ["-c", "10", "-i", "0.1", "-W", "2", &alias.to_string()];
            let said = from.run("ping", &words, Duration::from_secs(20))?.success()?.stdout;
            ensure!(said.contains(" 0% packet loss"), "{said}");
            ensure!(said.matches(&format!("from {alias}")).count() == 10, "{said}");
        }
        let answer = pair.a.host.vpi(&["ping", "b.home", "-c", "3", "--json"])?.json()?;
        ensure!(answer["received"] == 3, "vpi ping: {answer}");
        Ok(())
    });
}

#[test]
fn an_open_tcp_connection_outlives_five_rekeys() {
    scenario("rekey", 2, |lab| {
        let settings = lab.evidence().join("settings.toml");
        fs::write(&settings, format!("rekey_after = {REKEY_AFTER_SECONDS}\n"))?;
        let settings = settings.to_string_lossy();
        let pair = Pair::join(lab, &["--config", &settings])?;
        let port = pair.a.port()?;
        let wire = Capture::at_port(lab, "a", &format!("udp port {port}"), "rekey", &["-s", "80"])?;
        let connection = HeldConnection::open(&pair.a.host, &pair.b.host, pair.a_to_b)?;
        let limit = Duration::from_secs(REKEY_AFTER_SECONDS * (REKEYS as u64 + 1) + 20);
        let indices = wait::until("five rekeys on the wire", limit, || {
            thread::sleep(Duration::from_millis(200));
            let indices = receiver_indices(&wire.frames()?, SocketAddr::from((pair.a.host.address, port)));
            Ok((indices.len() > REKEYS).then_some(indices.len()))
        })?;
        let (numbers, gap) = connection.finish()?;
        println!("{numbers} numbers over {indices} sessions, longest gap {} ms", gap.as_millis());
        ensure!(gap < Duration::from_secs(2), "a gap of {gap:?} at a rekey");
        Ok(())
    });
}

/// The receiver indices of data datagrams from `source` (protocol/README: 0x80, three zeros, index u32): one a session.
fn receiver_indices(frames: &[Frame], source: SocketAddr) -> BTreeSet<Vec<u8>> {
    let from =
        frames.iter().filter(|frame| frame.source == source && frame.payload.starts_with(&[0x80, 0, 0, 0]));
    from.filter_map(|frame| Some(frame.payload.get(4..8)?.to_vec())).collect()
}

/// Sends one datagram of each size and expects it back; 1,140 bytes fit the smallest path there is (protocol/README).
fn echo_every_size(from: &Host, target: SocketAddr) -> Result<()> {
    let socket = from.enter(|| Ok(std::net::UdpSocket::bind(("0.0.0.0", 0))?))?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    for size in [0, 1, 2, 63, 512, 1000, 1139, 1140] {
        let sent: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap_or_default()).collect();
        socket.send(&sent)?;
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).with_context(|| format!("no echo of {size} bytes"))?;
        ensure!(buffer[..length] == sent[..], "{size} bytes came back as {length} others");
    }
    Ok(())
}
