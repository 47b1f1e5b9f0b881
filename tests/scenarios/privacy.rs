//! What beacons learn of members: nothing but from where they are dialled.
//!
//! ```text
//!  a founder, b member, each behind a NAT of its own ── "net" ── p1, p2 public hosts with a beacon each
//! ```

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::capture::Capture;
use tests::privacy::{Haystack, Needle};
use tests::topology::COMMAND_LIMIT;
use tests::{Beacon, Host, Nat, Node, Site, nats, wait};

const STRANGER: &str = env!("CARGO_BIN_EXE_stranger");
/// How long members may take to publish: a jitter of a minute, and a put.
const PUBLISHED_LIMIT: Duration = Duration::from_secs(120);
/// What is written down where it may be read: the search has to find it.
const PLANTED: &str = "gertruds-planted-secret";
const NAMES: [&str; 2] = ["gertruds-rechner", "hildegards-laptop"];
const VPI: &str = "familie-kb";

#[test]
fn a_beacons_store_log_and_traffic_name_no_vpi_device_alias_or_inner_address() {
    nats("privacy", 2, &[Site::behind(Nat::PortPreserving); 2], |lab| {
        let (p1, p2) = (lab.host("p1")?, lab.host("p2")?);
        let first = Beacon::start(p1, &[])?;
        let second = Beacon::start(p2, &["--peer", first.address(false)?])?;
        let capture = Capture::at_port(lab, "p1", "ip", "beacon", &[])?;

        let (a, b) = (lab.host("a")?, lab.host("b")?);
        let nodes = [Node::start(a, &[])?, Node::start(b, &[])?];
        let beacons = ["--beacon", first.address(false)?, "--beacon", second.address(false)?];
        a.vpi(&[&["create", VPI, "--name", NAMES[0]], &beacons[..]].concat())?.success()?;
        let token = a.vpi(&["invite", VPI, "--json"])?.json()?;
        let token = token["token"].as_str().context("no token")?.to_owned();
        b.vpi_reading(&token, &["join", "--name", NAMES[1]])?.success()?;
        wait::until("both members' records at the beacon", PUBLISHED_LIMIT, || {
            let is_written = first.metric("vpi_beacon_unwritten_records", "")? == 0.0;
            Ok((is_written && first.metric("vpi_beacon_records", "")? >= 2.0).then_some(()))
        })?;
        let needles = needles(&[a, b], &token)?;

        // The same search, on what a beacon can read, finds it.
        a.run(STRANGER, &["plant", PLANTED, first.address(false)?], COMMAND_LIMIT)?.json()?;
        let socket = a.enter(|| Ok(UdpSocket::bind(("0.0.0.0", 0))?))?;
        socket.send_to(PLANTED.as_bytes(), (p1.address, 9))?;
        wait::until("the planted record on disk", Duration::from_secs(20), || {
            Ok((first.metric("vpi_beacon_unwritten_records", "")? == 0.0).then_some(()))
        })?;
        // The kernel hands frames over a while after they passed.
        wait::until("the planted datagram in the capture", Duration::from_secs(20), || {
            let frames = capture.frames()?;
            Ok(frames.iter().any(|frame| frame.payload == PLANTED.as_bytes()).then_some(()))
        })?;
        let folder = p1.state.join("beacon");
        ensure!(first.stop()? == 0, "a clean end");
        let mut haystack = Haystack::at_rest(p1, &folder)?;
        let rest = haystack.length();
        haystack.add_traffic("traffic", &capture.finish()?);
        println!("searched {rest} bytes at rest, {} of traffic", haystack.length() - rest);
        let planted = haystack.find(&Needle::text("planted", PLANTED));
        ensure!(planted.iter().any(|place| place.contains("records")), "not found at rest: {planted:?}");
        ensure!(planted.iter().any(|place| place.contains("traffic")), "not found in traffic: {planted:?}");

        let found: Vec<String> = needles.iter().flat_map(|needle| haystack.find(needle)).collect();
        ensure!(found.is_empty(), "{found:#?}");
        drop(nodes);
        Ok(())
    });
}

/// All that a beacon may not know of these members.
fn needles(hosts: &[&Host], token: &str) -> Result<Vec<Needle>> {
    let mut needles = vec![Needle::text("name of the VPI", VPI), Needle::text("token", token)];
    needles.extend(NAMES.map(|name| Needle::text("name of a member", name)));
    for host in hosts {
        needles.push(Needle::address("inner address", host.address));
        let status = host.vpi(&["status", "--json"])?.json()?;
        let vpi = &status["vpis"][0];
        needles.push(id("id of the VPI", &vpi["id"])?);
        for member in vpi["members"].as_array().context("no members")? {
            needles.push(id("key of a device", &member["id"])?);
            let alias = member["alias"].as_str().context("no alias")?;
            needles.push(Needle::address("alias", alias.parse()?));
        }
    }
    Ok(needles)
}

/// An id as commands print it, in hexadecimal; searched as its bytes, so in every form.
fn id(name: &str, value: &Value) -> Result<Needle> {
    let text = value.as_str().with_context(|| format!("no {name}"))?;
    let byte = |at: usize| Ok(u8::from_str_radix(text.get(at..at + 2).context("half a byte")?, 16)?);
    let bytes = (0..text.len()).step_by(2).map(byte).collect::<Result<Vec<u8>>>();
    let bytes = bytes.with_context(|| format!("{name} is no hexadecimal: {text}"))?;
    ensure!(bytes.len() >= 16, "{name} is short: {text}");
    Ok(Needle::bytes(name, &bytes))
}
