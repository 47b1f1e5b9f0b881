//! Beacons that lie: members find each other all the same, and nobody else.
//!
//! ```text
//!  a founder, b joiner, each behind a NAT of its own ── "net" ── p1 a beacon; p2 four that lie, each in its way
//! ```

use std::time::{Duration, Instant};

use anyhow::ensure;
use tests::member::find_member;
use tests::topology::COMMAND_LIMIT;
use tests::{Beacon, Liar, Member, Nat, Site, nats, wait};

const LIAR: &str = env!("CARGO_BIN_EXE_liar");
const WAYS: [&[&str]; 4] = [&["--wrong", "--stale"], &["--enormous", "--empty"], &["--close"], &["--stall"]];
const STUN_WAYS: [&[&str]; 3] = [&["--stun", "wrong"], &["--stun", "huge"], &["--stun", "elsewhere"]];
/// How long the liars may take to be known.
const KNOWN_LIMIT: Duration = Duration::from_secs(60);
/// A lookup that finds takes at most 10 s with all but one lying, and is made again.
const FOUND_LIMIT: Duration = Duration::from_secs(60);

/// The token's only address is behind a NAT: the lobby is the way in, and Presences the way to each other.
#[test]
fn members_find_each_other_through_the_one_of_five_beacons_that_does_not_lie() {
    nats("liars", 2, &[Site::behind(Nat::PortPreserving); 2], |lab| {
        let honest = Beacon::start(lab.host("p1")?, &[])?;
        let liars = Liar::several(lab.host("p2")?, LIAR, &[honest.address(false)?], &WAYS)?;
        wait::until("a liar in the table", KNOWN_LIMIT, || {
            Ok((honest.metric("vpi_beacon_table", "")? >= 1.0).then_some(()))
        })?;
        let mut words = vec!["--beacon", honest.address(false)?];
        words.extend(liars.iter().flat_map(|liar| ["--beacon", &liar.address]));
        let a = Member::found_with(lab.host("a")?, &words, &[])?;
        let since = Instant::now();
        let token = a.invite(&[])?;
        let b = wait::until("b to join", FOUND_LIMIT, || Ok(Member::join(lab.host("b")?, &token, &[]).ok()))?;
        println!("joined within {:.1} s", since.elapsed().as_secs_f64());
        let alias = b.alias_of("a")?.to_string();
        let since = Instant::now();
        wait::until("an answer of a", FOUND_LIMIT, || {
            let ping = b.host.run("ping", &["-c", "1", "-W", "5", &alias], COMMAND_LIMIT)?;
            Ok((ping.code == 0).then_some(()))
        })?;
        println!("reached within {:.1} s", since.elapsed().as_secs_f64());
        for member in [&a, &b] {
            let status = member.host.vpi(&["status", "--json"])?.json()?;
            let count = status["vpis"][0]["members"].as_array().map(Vec::len);
            ensure!(count == Some(2), "somebody else is there: {status}");
        }
        Ok(())
    });
}

/// One is told the right address by one of four responders only, and another one by the rest.
#[test]
fn members_connect_through_their_nats_though_three_of_four_stun_responders_lie() {
    nats("liars-stun", 2, &[Site::behind(Nat::PortPreserving); 2], |lab| {
        let honest = Beacon::start(lab.host("p1")?, &[])?;
        let liars = Liar::several(lab.host("p2")?, LIAR, &[honest.address(false)?], &STUN_WAYS)?;
        let mut words = vec!["--beacon", honest.address(false)?];
        words.extend(liars.iter().flat_map(|liar| ["--beacon", &liar.address]));
        let a = Member::found_with(lab.host("a")?, &words, &[])?;
        let b = Member::join(lab.host("b")?, &a.invite(&[])?, &[])?;
        let alias = b.alias_of("a")?.to_string();
        let since = Instant::now();
        wait::until("a direct path to a", FOUND_LIMIT, || {
            b.host.run("ping", &["-c", "1", "-W", "5", &alias], COMMAND_LIMIT)?;
            Ok(find_member(&b.host, "a")?.filter(|a| a["state"] == "direct").map(drop))
        })?;
        println!("direct within {:.1} s", since.elapsed().as_secs_f64());
        let lies: Vec<usize> = liars.iter().map(Liar::stun_lies).collect();
        println!("{lies:?} lies about addresses");
        // The third only answers from elsewhere.
        ensure!(lies[0] + lies[1] > 0, "no liar was asked: {lies:?}");
        Ok(())
    });
}
