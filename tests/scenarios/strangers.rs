//! The dark member over its beacon: strangers who learnt its peer id there get nothing, and keep nobody out.
//!
//! ```text
//!  a member, b joiner, each behind a NAT of its own ── "net" ── p1 the beacon; p2 strangers
//! ```

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::topology::COMMAND_LIMIT;
use tests::{Beacon, Host, Member, Nat, Site, Strangers, nats, wait};

const STRANGER: &str = env!("CARGO_BIN_EXE_stranger");
/// Until the member has its place, and says so.
const RESERVED_LIMIT: Duration = Duration::from_secs(30);
/// *Promised* is the end of a circuit over which nothing authentic came after 5 s; the rest is for a loaded machine.
const STAYED_LIMIT: u64 = 12_000;
/// *Promised* is the end at once of one that brings what is no frame.
const NO_FRAME_LIMIT: u64 = 4_500;
/// How long strangers come before they are asked what they got: each sort was said often by then.
const COMING: Duration = Duration::from_secs(15);
/// What keeps a place for as long as it can be kept, and how long it takes until all are kept and some have ended.
const LASTING: [&str; 2] = ["silence", "half"];
const TAKEN: Duration = Duration::from_secs(7);
/// A joiner whom the strangers keep out gives up after a minute; one whom they do not needs some seconds.
const IN_TIME: Duration = Duration::from_secs(30);
/// Twice as many circuits as a member has places for.
const CROWD: (usize, usize) = (8, 4);

#[test]
fn strangers_over_a_beacons_circuits_get_no_byte_and_keep_no_member_out() {
    nats("strangers", 2, &[Site::behind(Nat::PortPreserving); 2], |lab| {
        let beacon = Beacon::start(lab.host("p1")?, &[])?;
        let address = beacon.address(false)?;
        let a = Member::found_with(lab.host("a")?, &["--beacon", address], &[])?;
        wait::until("a place at the beacon", RESERVED_LIMIT, || {
            let status = a.host.vpi(&["status", "--json"])?.json()?;
            Ok((status["vpis"][0]["beacons"][0]["state"] == "reserved").then_some(()))
        })?;
        let peer = peer_id(&a.host)?;
        let outside = lab.host("p2")?;

        let stock = outside.run(STRANGER, &["stock", address, &peer], COMMAND_LIMIT)?.json()?;
        println!("stock: {stock}");
        ensure!(stock["bytes"] == 0 && stock["ended"] != "connected", "{stock}");

        let strangers = Strangers::start(outside, STRANGER, (address, &peer), CROWD, &[])?;
        thread::sleep(COMING);
        judge(&strangers.finish()?, 9)?;

        // Those that stay as long as they may, in all places at all times.
        let strangers = Strangers::start(outside, STRANGER, (address, &peer), CROWD, &LASTING)?;
        thread::sleep(TAKEN);
        // Nobody outside reaches an address that the token names: the joiner's question has to come over a circuit, too.
        let token = a.invite(&[])?;
        let since = Instant::now();
        let b = Member::join(lab.host("b")?, &token, &[])?;
        let took = since.elapsed();
        println!("b joined within {took:.1?}, with strangers in all places");
        ensure!(took < IN_TIME, "only after {took:?}");
        judge(&strangers.finish()?, LASTING.len())?;

        let alias = b.alias_of("a")?.to_string();
        b.host.run("ping", &["-c", "1", "-W", "10", &alias], COMMAND_LIMIT)?.success()?;
        let status = a.host.vpi(&["status", "--json"])?.json()?;
        let count = status["vpis"][0]["members"].as_array().map(Vec::len);
        ensure!(count == Some(2), "somebody else is there: {status}");
        ensure!(status["vpis"][0]["beacons"][0]["state"] == "reserved", "the place was lost: {status}");
        Ok(())
    });
}

/// Every sort came through, nothing came back, and all ended in time.
fn judge(told: &Value, count: usize) -> Result<()> {
    println!("{told:#}");
    let sorts = told.as_object().context("no object")?;
    ensure!(sorts.len() == count, "not every sort was said: {told}");
    for (sort, got) in sorts {
        ensure!(got["stood"].as_u64() > Some(0), "{sort} never came to the member: {got}");
        ensure!(got["bytes"] == 0, "{sort} was answered: {got}");
        ensure!(got["stayed"] == 0, "{sort} was not ended: {got}");
        let may_be_frame = matches!(sort.as_str(), "silence" | "byte" | "kibibyte" | "half");
        let limit = if may_be_frame { STAYED_LIMIT } else { NO_FRAME_LIMIT };
        ensure!(got["longest_ms"].as_u64() < Some(limit), "{sort} was ended late: {got}");
    }
    Ok(())
}

/// The peer id under which the node on `host` is known to its beacon, as its own log has it; others learn it from the beacon.
fn peer_id(host: &Host) -> Result<String> {
    let log = fs::read_to_string(&host.log)?;
    let (_, rest) = log.rsplit_once("local_peer_id=").context("no peer id in the log")?;
    Ok(rest.chars().take_while(char::is_ascii_alphanumeric).collect())
}
