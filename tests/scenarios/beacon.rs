//! Beacons: what a stock libp2p node gets from them, what a restart keeps, and what floods do to them.
//!
//! ```text
//!  a beacon ── b beacon ── c stranger: a stock node, and floods from 40 networks, 10.78.N.0/24
//! ```

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::topology::COMMAND_LIMIT;
use tests::{Beacon, Flood, Host, Lab, one_at_a_time, scenario, wait};

const STRANGER: &str = env!("CARGO_BIN_EXE_stranger");
/// How long two beacons may take to know each other.
const MEET_LIMIT: Duration = Duration::from_secs(30);
/// The most memory that a beacon ever has (node/README, Beacons): closing begins at 704 MiB, and a second's worth of a full line
/// may come on top.
const MEMORY_BYTES: u64 = 832 << 20;
/// Networks of a flood.
const NETWORKS: &str = "40";

#[test]
fn a_stock_libp2p_node_connects_identifies_queries_and_fetches() {
    // The floods below leave no machine for others.
    let _turn = one_at_a_time();
    scenario("beacon-stock", 3, |lab| {
        let (a, b) = two_beacons(lab)?;
        let c = lab.host("c")?;
        for is_quic in [false, true] {
            let told = stranger(c, &["identify", a.address(is_quic)?])?;
            let speaks = |name: &str| {
                told["protocols"].as_array().is_some_and(|all| all.iter().any(|one| one == name))
            };
            for name in ["/vpi/kad/1", "/vpi/time/1", "/libp2p/circuit/relay/0.2.0/hop", "/ipfs/ping/1.0.0"] {
                ensure!(speaks(name), "no {name}: {told}");
            }
            ensure!(told["agent"] == "vpi", "{told}");
            let closest = stranger(c, &["closest", a.address(is_quic)?])?;
            ensure!(closest["peers"].to_string().contains(b.id()?), "{closest}");
        }
        stranger(c, &["put", "1", a.address(false)?, b.address(true)?])?;
        for address in [a.address(false)?, a.address(true)?, b.address(false)?, b.address(true)?] {
            let got = stranger(c, &["get", "1", address])?;
            // From whichever it was given, it finds the other.
            ensure!(got["copies"] == 2 && got["valid"] == true, "{address}: {got}");
        }
        ensure!(a.metric("vpi_beacon_table", "")? == 1.0, "a client is in the table");
        stun_answers(c, SocketAddr::from((a.host.address, 3_478)))?;
        ensure!(a.metric("vpi_beacon_stun_total", "answered")? == 1.0, "one request was answered");
        ensure!(a.metric("vpi_beacon_stun_total", "ignored")? == 3.0, "three were none");
        ensure!(a.stop()? == 0 && b.stop()? == 0, "a clean end");
        Ok(())
    });
}

#[test]
fn a_restarted_beacon_serves_what_it_had_and_finds_the_others_again() {
    let _turn = one_at_a_time();
    scenario("beacon-restart", 3, |lab| {
        let (a, b) = two_beacons(lab)?;
        let c = lab.host("c")?;
        stranger(c, &["put", "1", a.address(false)?])?;
        let (host, id) = (a.host.clone(), a.id()?.to_owned());
        a.stop()?;
        stranger(c, &["put", "2", b.address(false)?])?;
        let a = Beacon::start(&host, &[])?;
        ensure!(a.id()? == id, "another identity after a restart");
        // Nobody named the other; it is in the table of the last time.
        meets(&a)?;
        let got = stranger(c, &["get", "1", a.address(false)?])?;
        ensure!(got["copies"] == 1 && got["from"].to_string().contains(&id), "{got}");
        // What was put to the other meanwhile is found through this one.
        let got = stranger(c, &["get", "2", a.address(false)?])?;
        ensure!(got["copies"] == 1 && got["from"].to_string().contains(b.id()?), "{got}");

        stranger(c, &["put", "3", a.address(false)?])?;
        wait::until("the record on disk", Duration::from_secs(10), || {
            let is_empty = a.metric("vpi_beacon_unwritten_records", "")? == 0.0;
            Ok((is_empty && a.metric("vpi_beacon_records", "")? == 2.0).then_some(()))
        })?;
        a.kill()?;
        let a = Beacon::start(&host, &[])?;
        ensure!(a.metric("vpi_beacon_records", "")? == 2.0, "a record was lost with kill -9");
        let got = stranger(c, &["get", "3", a.address(true)?])?;
        ensure!(got["copies"] == 1, "{got}");
        Ok(())
    });
}

#[test]
fn floods_of_connections_streams_messages_and_records_leave_a_beacon_within_its_memory_and_serving() {
    let _turn = one_at_a_time();
    scenario("beacon-flood", 3, |lab| {
        let (a, b) = two_beacons(lab)?;
        let c = lab.host("c")?;
        give_networks(c, &a.host)?;
        stranger(&b.host, &["put", "1", a.address(false)?])?;
        let target = SocketAddr::from((a.host.address, 41_415)).to_string();
        for (sort, count) in [
            ("silent", "1500"),
            ("messages", "400"),
            ("records", "400"),
            ("streams", "1500"),
            ("connections", "7000"),
        ] {
            let flood = Flood::start(c, STRANGER, &[sort, &target, count, NETWORKS])?;
            // While it comes up, too.
            let first = serves(&a, &b)?;
            let stood = flood.standing()?;
            let then = serves(&a, &b)?;
            let (resident, most) = a.resident_bytes()?;
            println!(
                "{sort}: {stood}, fetched in {} and {} ms, {} MiB, at most {} MiB, {} records, {} connections, {} refused",
                first.as_millis(),
                then.as_millis(),
                resident >> 20,
                most >> 20,
                a.metric("vpi_beacon_records", "")?,
                a.metric("vpi_beacon_connections", "by_others")?,
                a.metric("vpi_beacon_refused_connections_total", "")?
            );
            ensure!(most <= MEMORY_BYTES, "{sort}: {} MiB", most >> 20);
        }
        ensure!(
            a.metric("vpi_beacon_refused_puts_total", "")? > 0.0,
            "malformed records were taken or not looked at"
        );
        // The record that was there before all floods.
        let got = stranger(&b.host, &["get", "1", a.address(false)?])?;
        ensure!(got["copies"] == 1 && got["valid"] == true, "{got}");
        ensure!(a.stop()? == 0, "a clean end");
        Ok(())
    });
}

#[test]
fn a_second_beacon_on_one_folder_and_a_foreign_command_are_told_why_not() {
    scenario("beacon-bad-use", 1, |lab| {
        let a = Beacon::start(lab.host("a")?, &[])?;
        let again = a.host.vpi(&["beacon", "--tcp", "127.0.0.1:5"])?;
        again.refused(1, &["already runs"])?;
        let other = a.host.state.join("other");
        a.host
            .vpi(&["--state", &other.to_string_lossy(), "beacon"])?
            .refused(1, &["cannot listen", "41415"])?;
        a.host.vpi(&["beacon", "--peer", "/ip4/192.0.2.1/tcp/41415"])?.refused(2, &[])?;
        let socket = a.host.state.join("beacon/control.sock");
        a.host.vpi(&["--control", &socket.to_string_lossy(), "status"])?.refused(5, &["beacon"])?;
        Ok(())
    });
}

/// Two that know each other: the second was told of the first.
fn two_beacons(lab: &Lab) -> Result<(Beacon, Beacon)> {
    let a = Beacon::start(lab.host("a")?, &[])?;
    let b = Beacon::start(lab.host("b")?, &["--peer", a.address(false)?])?;
    meets(&a)?;
    meets(&b)?;
    Ok((a, b))
}

fn meets(beacon: &Beacon) -> Result<()> {
    wait::until("another beacon in the table", MEET_LIMIT, || {
        Ok((beacon.metric("vpi_beacon_table", "")? == 1.0).then_some(()))
    })
}

fn stranger(host: &Host, words: &[&str]) -> Result<Value> {
    host.run(STRANGER, words, COMMAND_LIMIT)?.json()
}

/// Fetches the record from `beacon` on the host of `other`; says how long that took, with the start of a process.
fn serves(beacon: &Beacon, other: &Beacon) -> Result<Duration> {
    let began = Instant::now();
    let got = stranger(&other.host, &["get", "1", beacon.address(false)?])?;
    ensure!(got["from"].to_string().contains(beacon.id()?), "not served: {got}");
    Ok(began.elapsed())
}

/// Gives `host` an address in each of 40 networks, and `to` the way back.
fn give_networks(host: &Host, to: &Host) -> Result<()> {
    let give = "for n in $(seq 0 39); do ip address add 10.78.$n.1/32 dev eth0; done";
    host.run("sh", &["-c", give], COMMAND_LIMIT)?.success()?;
    to.run("ip", &["route", "add", "10.78.0.0/16", "dev", "eth0"], COMMAND_LIMIT)?.success()?;
    Ok(())
}

/// Asks once well and three times badly.
fn stun_answers(host: &Host, target: SocketAddr) -> Result<()> {
    let socket = host.enter(|| Ok(UdpSocket::bind(("0.0.0.0", 0))?))?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = vec![0x00, 0x01, 0x00, 0x00, 0x21, 0x12, 0xa4, 0x42];
    request.extend([7; 12]);
    socket.send(&request[..19])?;
    socket.send(b"what is this?")?;
    socket.send(&[&[0x01][..], &request[1..]].concat())?;
    socket.send(&request)?;
    let mut buffer = [0; 600];
    let length = socket.recv(&mut buffer).context("no answer")?;
    let port = socket.local_addr()?.port() ^ 0x2112;
    let address: Vec<u8> =
        host.address.octets().iter().zip([0x21, 0x12, 0xa4, 0x42]).map(|(a, b)| a ^ b).collect();
    let expected = [
        &[0x01, 0x01, 0x00, 0x0c][..],
        &request[4..],
        &[0x00, 0x20, 0x00, 0x08, 0x00, 0x01],
        &port.to_be_bytes(),
        &address,
    ]
    .concat();
    ensure!(buffer.get(..length) == Some(&expected[..]), "another answer: {:02x?}", buffer.get(..length));
    Ok(())
}
