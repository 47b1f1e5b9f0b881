//! What laptops and gateways do while a link is used: a NAT forgets its mappings, a cable is pulled.
//!
//! ```text
//!  a, b, c …  members behind NATs, each ┐ 5 ms ── "net" ── p1 member that relays
//!                                       ┘ 5 ms         ── p2, p3, p4 beacons        20 ms from one end to the other and back
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::member::{Member, find_member};
use tests::traffic::{EchoServer, Flow, transfer};
use tests::{Beacon, Host, Lab, Nat, Site, impaired_nats, one_at_a_time, wait};

const MIB: u64 = 1 << 20;
/// *Promised* is a second without packets when one end's mapping, address or uplink changes, and printed is what it was; the rest
/// is for a machine that is busy with other scenarios.
const GAP: Duration = Duration::from_secs(3);
/// *Promised* are three seconds when both ends' do at once.
const GAP_OF_BOTH: Duration = Duration::from_secs(6);
const STEADY: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_secs(30);
/// Slow enough that the transfer is still under way when something happens.
const LINK: [&str; 6] = ["--delay", "5ms", "--rate", "50mbit", "--queue", "256k"];

/// Whoever is heard from elsewhere is followed there at once, where the other NAT lets that in.
#[test]
fn a_nat_that_forgets_its_mappings_is_passed_again_within_a_second() {
    for (name, nat) in [("forgets", Nat::Translating), ("forgets-preserving", Nat::PortPreserving)] {
        let sites = [nat, Nat::Public, Nat::AddressDependent];
        unbroken(name, &sites, &["b", "c"], GAP, |lab, _| lab.forget_mappings("a"));
    }
}

#[test]
fn a_machine_whose_uplink_changes_goes_on_within_a_second() {
    let sites = [Nat::Translating, Nat::PortPreserving, Nat::Translating];
    unbroken("uplink", &sites, &["b"], GAP, |lab, members| switch(lab, &members[0].host, "c"));
}

#[test]
fn machines_whose_uplinks_change_at_once_go_on_within_three_seconds() {
    let sites = [Nat::Translating, Nat::PortPreserving, Nat::Translating, Nat::PortPreserving];
    unbroken("uplinks", &sites, &["b"], GAP_OF_BOTH, |lab, members| {
        thread::scope(|scope| {
            let other = scope.spawn(|| switch(lab, &members[1].host, "d"));
            switch(lab, &members[0].host, "c")?;
            other.join().map_err(|_| anyhow!("a switch panicked"))?
        })
    });
}

/// Neither lets the other's new port in: a third member passes on until they have told each other.
#[test]
fn two_nats_of_which_one_forgets_its_mappings_are_passed_again_within_a_second() {
    let sites = [Nat::Translating, Nat::PortPreserving, Nat::Translating];
    unbroken("forgets-both", &sites, &["b", "c"], GAP, |lab, _| lab.forget_mappings("a"));
}

/// `a` sends a steady flow to each of `to`, whose echoes are measured, and bulk to the last; then something happens.
fn unbroken(
    name: &str,
    nats: &[Nat],
    to: &[&str],
    gap: Duration,
    happens: impl Fn(&Lab, &[Member]) -> Result<()>,
) {
    let _turn = one_at_a_time();
    let sites: Vec<_> = nats.iter().copied().map(Site::behind).collect();
    impaired_nats(name, 4, &sites, &LINK, |lab| {
        let beacons = Beacon::start_all(lab, &["p2", "p3", "p4"], &[])?;
        let relay = Member::found_with(lab.host("p1")?, &Beacon::words(&beacons)?, &[])?;
        let mut members = Vec::new();
        for name in ["a"].iter().chain(to) {
            members.push(Member::join(lab.host(name)?, &relay.invite(&[])?, &[])?);
        }
        let mut flows = Vec::new();
        for other in &members[1..] {
            flows.push(Steady::start(&members[0], other)?);
        }
        let last = members.last().context("somebody")?;
        let alias = members[0].alias_of(&last.host.name)?;
        thread::scope(|scope| {
            let bulk = scope.spawn(|| transfer(&members[0].host, &last.host, alias, 32 * MIB, 5));
            thread::sleep(Duration::from_secs(1));
            ensure!(!bulk.is_finished(), "the transfer was over before anything happened");
            let since = Instant::now();
            happens(lab, &members)?;
            let after = flows.iter().map(|flow| flow.after(since)).collect::<Result<Vec<_>>>()?;
            let rate = bulk.join().map_err(|_| anyhow!("the transfer panicked"))?;
            for (flow, (back, longest)) in flows.iter().zip(&after) {
                println!(
                    "{name}: to {} ({}) again after {} ms, longest gap {} ms",
                    flow.name,
                    nats[usize::from(flow.name.as_bytes()[0] - b'a')],
                    back.as_millis(),
                    longest.as_millis()
                );
            }
            println!("{name}: {:.0} Mbit/s, intact", rate.context("the transfer")?.megabits());
            for (flow, (_, longest)) in flows.iter().zip(&after) {
                ensure!(*longest <= gap, "nothing came from {} for {longest:?}", flow.name);
            }
            Ok(())
        })
    });
}

/// A flow over a path that is direct at both ends.
struct Steady {
    name: String,
    flow: Flow,
    _echo: EchoServer,
}

impl Steady {
    fn start(from: &Member, to: &Member) -> Result<Self> {
        let alias = from.alias_of(&to.host.name)?;
        let echo = EchoServer::start(&to.host, 0)?;
        let flow = Flow::start(&from.host, SocketAddr::from((alias, echo.port)), STEADY)?;
        let (one, other) = (&from.host, &to.host);
        wait::until(&format!("a direct path from {} to {}", one.name, other.name), LIMIT, || {
            let is_direct = |host: &Host, name: &str| {
                Ok::<bool, anyhow::Error>(find_member(host, name)?.context("a member")?["state"] == "direct")
            };
            Ok((is_direct(one, &other.name)? && is_direct(other, &one.name)?).then_some(()))
        })?;
        flow.first_echo_after(Instant::now(), LIMIT)?;
        Ok(Self { name: to.host.name.clone(), flow, _echo: echo })
    }

    /// When the first echo came after `since`, and the longest gap until a while after that.
    fn after(&self, since: Instant) -> Result<(Duration, Duration)> {
        let back = self.flow.first_echo_after(since, LIMIT)?;
        // What was under way came first, perhaps.
        thread::sleep((since + Duration::from_secs(4)).saturating_duration_since(Instant::now()));
        self.flow.first_echo_after(Instant::now(), LIMIT)?;
        Ok((back, self.flow.longest_gap_since(since)?))
    }
}

/// `host` leaves its network for the one inside of the site `to`.
fn switch(lab: &Lab, host: &Host, to: &str) -> Result<()> {
    let to = lab.host(to)?;
    lab.plug_in(host, to)?;
    let [a, b, c, _] = to.address.octets();
    host.switch_uplink(Ipv4Addr::new(a, b, c, 9), 24, Ipv4Addr::new(a, b, c, 1))
}
