//! Records at a real beacon: they end in their time, older ones lose, and nobody writes another's, whatever it knows.
//!
//! ```text
//!  a founder, b member, c the one that goes, d sleeper ── "net" ── p1 the beacon; p2 whoever puts and fetches there
//! ```

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use tests::member::find_member;
use tests::rogue::records;
use tests::topology::COMMAND_LIMIT;
use tests::{Clock, Host, Lab, Member, Nat, Site, nats, wait};

const ROGUE: &str = env!("CARGO_BIN_EXE_rogue");
const STRANGER: &str = env!("CARGO_BIN_EXE_stranger");
/// How long a member may take to publish at its start: a place at a beacon, and a put.
const PUBLISHED_LIMIT: Duration = Duration::from_secs(60);
/// How long an admin may take until it leaves word for a sleeper (protocol/README §18: 60–120 s, and 2 s for each).
const LEFT_LIMIT: Duration = Duration::from_secs(180);
/// How long members may take to reach each other, or to know an epoch.
const REACH_LIMIT: Duration = Duration::from_secs(40);
/// How long the ex-member tries: lookups of every key that it knows, again and again.
const TRYING: Duration = Duration::from_secs(20);
/// Between two connections to the beacon, which takes 20 a second of one network once 512 have come.
const BETWEEN_CONNECTIONS: Duration = Duration::from_millis(250);
const ATTEMPTS: usize = 4;
/// Bytes 33 to 41 of a record, in hexadecimal digits: its sequence; the last 64 bytes are the signature.
const SEQUENCE: std::ops::Range<usize> = 66..82;
const SIGNATURE_DIGITS: usize = 128;
/// Longer than a slot's record lives: two hours, and ten minutes if it was written early.
const PAST_ITS_END: &str = "+7860";

#[test]
fn a_record_is_its_writers_alone_the_newest_counts_and_it_ends_in_its_time() {
    nats("records", 2, &[Site::behind(Nat::Public); 2], |lab| {
        away_from_a_change_of_slot();
        let clock = Clock::changing(lab.evidence().join("clock"))?;
        let beacon = clock.start_beacon(lab.host("p1")?)?;
        let at = Store { from: lab.host("p2")?, address: beacon.address(false)?.to_owned() };
        let mut a = Member::found_with(lab.host("a")?, &["--beacon", &at.address], &[])?;
        let mut b = Member::join(lab.host("b")?, &a.invite(&[])?, &[])?;
        b.stop()?;
        let known = records(&b.host, ROGUE, &["a"])?;
        // The newest epoch and the current slot come first.
        let key = keys(&known["a"]["presence"])?.swap_remove(0);
        let first = wait::until("a record of a", PUBLISHED_LIMIT, || at.only(&key))?;
        a.stop()?;
        a.restart()?;
        let second = wait::until("a newer record of a", PUBLISHED_LIMIT, || {
            Ok(at.only(&key)?.filter(|value| *value != first))
        })?;

        // b holds every secret of the VPI but a's own.
        for (what, value) in forged(&first, &second, text(&known["own"]["value"])?)? {
            let refused = beacon.metric("vpi_beacon_refused_puts_total", "")?;
            at.place(&key, &value)?;
            ensure!(beacon.metric("vpi_beacon_refused_puts_total", "")? > refused, "{what} was not refused");
            ensure!(at.only(&key)?.as_deref() == Some(&second), "{what} took the place of a's record");
        }
        // Made now, so that it is newer than what its node put.
        let own = records(&b.host, ROGUE, &[])?["own"].take();
        let own = (text(&own["key"])?, text(&own["value"])?);
        at.place(own.0, own.1)?;
        ensure!(at.only(own.0)?.as_deref() == Some(own.1), "what b may write was not taken");

        // Two hours later, as its clock and its disk have it: it was off in between.
        a.stop()?;
        ensure!(beacon.metric("vpi_beacon_records", "")? > 0.0, "nothing is kept");
        let host = beacon.host.clone();
        ensure!(beacon.stop()? == 0, "a clean end");
        clock.set(PAST_ITS_END)?;
        let beacon = clock.start_beacon(&host)?;
        let left = beacon.metric("vpi_beacon_records", "")?;
        ensure!(left == 0.0, "{left} records beyond their end are kept");
        ensure!(at.all(&key)?.is_empty() && at.all(own.0)?.is_empty(), "a record is served beyond its end");
        Ok(())
    });
}

#[test]
fn an_ex_member_finds_nobody_and_writes_nobodys_record_nor_a_sleepers_bulletin() {
    nats("records-exile", 2, &[Site::behind(Nat::Public); 4], |lab| {
        away_from_a_change_of_slot();
        let clock = Clock::changing(lab.evidence().join("clock"))?;
        let beacon = clock.start_beacon(lab.host("p1")?)?;
        let at = Store { from: lab.host("p2")?, address: beacon.address(false)?.to_owned() };
        let Home { mut a, mut b, c: mut exile, d: mut sleeper } = home(lab, &at.address)?;
        sleeper.stop()?;
        exile.stop()?;
        let known = records(&exile.host, ROGUE, &["a", "b", "d"])?;
        let of_others = [keys(&known["a"]["presence"])?, keys(&known["b"]["presence"])?].concat();
        wait::until("records of a and b", PUBLISHED_LIMIT, || {
            Ok((at.every(&of_others)?.len() >= 2).then_some(()))
        })?;

        a.host.vpi(&["remove", "home", "c"])?.success()?;
        wait::until("b to hear of the removal", REACH_LIMIT, || {
            Ok((find_member(&b.host, "c")?.is_some_and(|c| c["state"] == "removed")).then_some(()))
        })?;
        let bulletins = keys(&known["d"]["bulletin"])?;
        let [bulletin] = &bulletins[..] else { bail!("one admin, one epoch: {bulletins:?}") };
        let left = wait::until("word for the sleeper", LEFT_LIMIT, || at.only(bulletin))?;
        let before = at.every(&of_others)?;
        for member in [&mut a, &mut b] {
            member.stop()?;
            moved(&member.host)?;
            member.restart()?;
        }
        b.alias_of("a")?;
        reaches(&b, "a")?;
        let stored = beacon.metric("vpi_beacon_records", "")?;
        ensure!(at.every(&of_others)? == before, "an ex-member's keys show what was written after it");

        let own = text(&known["own"]["value"])?;
        for (what, value) in forged(&left, &left, own)?.into_iter().skip(1) {
            at.place(bulletin, &value)?;
            ensure!(at.only(bulletin)?.as_deref() == Some(&left), "{what} took the place of a bulletin");
        }
        // As a node, too, which does not know that it is out.
        exile.restart()?;
        let alias = exile.alias_of("a")?.to_string();
        let until = Instant::now() + TRYING;
        while Instant::now() < until {
            let ping = exile.host.run("ping", &["-c", "1", "-W", "1", &alias], COMMAND_LIMIT)?;
            ensure!(ping.code != 0, "an ex-member reached a");
        }
        for name in ["a", "b"] {
            let state = find_member(&exile.host, name)?.context("it knew it")?["state"].take();
            ensure!(state != "direct" && state != "relayed", "the ex-member has a link with {name}: {state}");
        }
        exile.stop()?;
        ensure!(at.only(bulletin)?.as_deref() == Some(&left), "the bulletin is another");
        ensure!(beacon.metric("vpi_beacon_records", "")? >= stored, "records of others are gone");

        // What was put before the removal has ended; a sleeper finds nobody where it looks, and the bulletin leads it on.
        for member in [&mut a, &mut b] {
            member.stop()?;
        }
        clock.set(PAST_ITS_END)?;
        moved(&sleeper.host)?;
        for member in [&mut a, &mut b, &mut sleeper] {
            member.node = Some(clock.start_node(&member.host)?);
        }
        reaches(&sleeper, "a")?;
        let out = find_member(&sleeper.host, "c")?.context("it knew it")?;
        ensure!(out["state"] == "removed", "the sleeper does not know who is out: {out}");
        Ok(())
    });
}

struct Home {
    a: Member,
    b: Member,
    c: Member,
    d: Member,
}

/// Four members that know each other.
fn home(lab: &Lab, beacon: &str) -> Result<Home> {
    let a = Member::found_with(lab.host("a")?, &["--beacon", beacon], &[])?;
    let join = |name| Member::join(lab.host(name)?, &a.invite(&[])?, &[]);
    let (b, c, d) = (join("b")?, join("c")?, join("d")?);
    for member in [&b, &c, &d] {
        for other in ["a", "b", "c", "d"].into_iter().filter(|other| *other != member.host.name) {
            member.alias_of(other)?;
        }
    }
    Ok(Home { a, b, c, d })
}

/// What is at the beacon, as anybody can ask.
struct Store<'l> {
    from: &'l Host,
    address: String,
}

impl Store<'_> {
    /// Every value under a key, in hexadecimal.
    fn all(&self, key: &str) -> Result<BTreeSet<String>> {
        let mut told = Err(anyhow!("not asked"));
        // A connection may fail on a busy machine, or at the beacon's own bound.
        for _ in 0..ATTEMPTS {
            thread::sleep(BETWEEN_CONNECTIONS);
            told = self.from.run(STRANGER, &["fetch", key, &self.address], COMMAND_LIMIT)?.json();
            if told.is_ok() {
                break;
            }
        }
        Ok(keys(&told?["values"])?.into_iter().collect())
    }

    fn every(&self, keys: &[String]) -> Result<BTreeSet<String>> {
        let values = keys.iter().map(|key| self.all(key)).collect::<Result<Vec<_>>>()?;
        Ok(values.into_iter().flatten().collect())
    }

    /// The value under a key, if there is one.
    fn only(&self, key: &str) -> Result<Option<String>> {
        let mut all = self.all(key)?;
        ensure!(all.len() < 2, "{} values under one key of one beacon", all.len());
        Ok(all.pop_first())
    }

    fn place(&self, key: &str, value: &str) -> Result<()> {
        self.from.run(STRANGER, &["place", key, value, &self.address], COMMAND_LIMIT)?.json().map(drop)
    }
}

/// What somebody who is not its writer may put under a key: an older record, the newest dated later, one's own, the newest
/// under one's own signature.
fn forged(older: &str, newest: &str, own: &str) -> Result<[(&'static str, String); 4]> {
    let sequence = u64::from_str_radix(newest.get(SEQUENCE).context("a record is longer")?, 16)?;
    let mut later = newest.to_owned();
    later.replace_range(SEQUENCE, &format!("{:016x}", sequence + 1));
    let (body, _) = later.split_at(later.len() - SIGNATURE_DIGITS);
    let (_, signature) = own.split_at(own.len() - SIGNATURE_DIGITS);
    Ok([
        ("an older record", older.to_owned()),
        ("a record dated later", later.clone()),
        ("another's record", own.to_owned()),
        ("a record that another signed", [body, signature].concat()),
    ])
}

fn reaches(from: &Member, name: &str) -> Result<()> {
    let alias = from.alias_of(name)?.to_string();
    wait::until(&format!("{} to reach {name}", from.host.name), REACH_LIMIT, || {
        let ping = from.host.run("ping", &["-c", "1", "-W", "2", &alias], COMMAND_LIMIT)?;
        Ok((ping.code == 0).then_some(()))
    })
}

/// Takes another address at the same site.
fn moved(host: &Host) -> Result<()> {
    let [a, b, site, _] = host.address.octets();
    host.renumber(Ipv4Addr::new(a, b, site, 77), 24, Ipv4Addr::new(a, b, site, 1))
}

/// A record's key is another one after a change of slot: two minutes around it are waited for.
fn away_from_a_change_of_slot() {
    let into = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() % 3_600;
    if into > 3_300 {
        thread::sleep(Duration::from_secs(3_605 - into));
    }
}

fn keys(list: &Value) -> Result<Vec<String>> {
    list.as_array().context("no list")?.iter().map(|key| Ok(text(key)?.to_owned())).collect()
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().context("no text")
}
