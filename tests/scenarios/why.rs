//! `vpi why` names what keeps a member from being reached: ten failures that are made on purpose, each told by what the node
//! that is asked can see itself.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::clock::Clock;
use tests::member::group;
use tests::traffic::{Listener, read_greeting};
use tests::{Beacon, Host, Lab, Member, Nat, Site, nats, one_at_a_time, scenario, wait};

const LIMIT: Duration = Duration::from_secs(20);
/// Until a search has gone through all that it tries, and a busy machine was slow at it.
const SEARCHED: Duration = Duration::from_secs(120);
const PORT: u16 = 8_080;
/// What is refused is refused without a wait.
const AT_ONCE: Duration = Duration::from_millis(900);

#[test]
fn why_tells_policy_closed_ports_firewalls_mtu_holes_and_removal_apart() {
    scenario("why-lan", 3, |lab| {
        let mut members = group(lab, &["a", "b", "c"])?;
        let (a, b) = (members[0].host.clone(), members[1].host.clone());
        let alias = members[0].alias_of("b")?;
        let target = SocketAddr::from((alias, PORT));
        a.run("ping", &["-c", "1", "-W", "10", &alias.to_string()], LIMIT)?.success()?;
        ensure!(why(&a, "b")?["cause"] == "none", "{}", why(&a, "b")?);

        // No service.
        ensure!(read_greeting(&a, target, LIMIT).is_err(), "something listens");
        told(&a, "b", "not_listening", &["nothing listens at tcp/8080"], || Ok(()))?;

        // The packet filter of the VPI.
        let listener = Listener::wildcard(&b, PORT, "b")?;
        b.vpi(&["policy", "home", "exposed-only"])?.success()?;
        let mut took = Duration::ZERO;
        told(&a, "b", "policy", &["its policy", "vpi expose home tcp/8080"], || {
            let since = Instant::now();
            let is_refused = read_greeting(&a, target, LIMIT).is_err();
            took = since.elapsed();
            ensure!(!is_refused || took <= AT_ONCE, "refused only after {took:?}");
            Ok(())
        })?;
        println!("refused by policy after {:.0} ms", took.as_secs_f64() * 1e3);
        b.vpi(&["policy", "home", "own-alias"])?.success()?;
        told(&a, "b", "none", &["is connected"], || read_greeting(&a, target, LIMIT).map(drop).or(Ok(())))?;

        // Somebody's firewall on the member's machine: inner packets.
        let device = b.vpi(&["status", "--json"])?.json()?["vpis"][0]["device"].clone();
        let device = device.as_str().context("a device has a name")?;
        for verdict in ["drop", "reject"] {
            rule(&b, &format!("iifname {device} tcp dport {PORT} {verdict}"))?;
            told(&a, "b", "firewall", &["firewall on its machine", "tcp/8080"], || {
                // A kernel asks again after 1 and 3 seconds.
                let _ = read_greeting(&a, target, Duration::from_secs(5));
                Ok(())
            })?;
            unrule(&b)?;
            told(&a, "b", "none", &["is connected"], || read_greeting(&a, target, LIMIT).map(drop))?;
        }
        drop(listener);

        // Datagrams that leave together would be measured as one.
        let words = ["-K", "eth0", "gso", "off", "tx-udp-segmentation", "off"];
        a.run("ethtool", &words, LIMIT)?.success()?;
        // A hole: what is larger than some size is lost.
        let port = members[1].port()?;
        let big = || {
            let words = ["-c", "2", "-i", "0.2", "-W", "1", "-M", "dont", "-s", "1300", &alias.to_string()];
            a.run("ping", &words, LIMIT).map(drop)
        };
        rule(&b, &format!("iifname eth0 udp dport {port} meta length > 1100 drop"))?;
        told(&a, "b", "mtu_hole", &["large packets are lost"], big)?;
        unrule(&b)?;
        rule(&b, &format!("iifname eth0 udp dport {port} meta length > 1300 drop"))?;
        told(&a, "b", "narrow_path", &["packets above", "cut"], big)?;
        unrule(&b)?;

        // Removed.
        a.vpi(&["remove", "home", "c"])?.success()?;
        told(&a, "c", "removed", &["no member any more"], || Ok(()))?;
        told(&members[2].host, "a", "removed_here", &["was removed from home"], || Ok(()))?;

        let epoch = |host: &Host| {
            Ok::<_, anyhow::Error>(host.vpi(&["status", "--json"])?.json()?["vpis"][0]["epoch"].take())
        };
        wait::until("b to hold the epoch without c", LIMIT, || {
            let known = epoch(&a)?;
            Ok((known == 1 && epoch(&b)? == known).then_some(()))
        })?;

        // Somebody's firewall on the member's machine: the port of the tunnel.
        rule(&b, &format!("udp dport {port} drop"))?;
        members[0].kill()?;
        members[0].restart()?;
        let ping = pinging(&a, &alias.to_string())?;
        told(&a, "b", "firewall", &["announces itself on this network", "vpi doctor"], || Ok(()))?;
        drop(ping);
        Ok(())
    });
}

#[test]
fn why_tells_clocks_blocked_udp_hard_nats_dead_beacons_and_dead_members_apart() {
    let _turn = one_at_a_time();
    let sites = [Nat::Random, Nat::Random, Nat::UdpBlocked, Nat::PortPreserving].map(Site::behind);
    nats("why-net", 4, &sites, |lab| {
        let beacons = ["p1", "p2", "p3"].map(|name| Beacon::start(lab.host(name)?, &[]));
        let beacons: Vec<Beacon> = beacons.into_iter().collect::<Result<_>>()?;
        let mut words = Vec::new();
        for beacon in &beacons {
            words.extend(["--beacon", beacon.address(false)?]);
        }
        let settings = lab.evidence().join("settings.toml");
        fs::write(&settings, "relay = false\n")?;
        let p4 = Member::found_with(lab.host("p4")?, &words, &["--config", &settings.to_string_lossy()])?;
        let [a, mut b, c, mut d] = ["a", "b", "c", "d"].map(|name| joined(lab, name, &p4));
        let (a, c) = (a?, c?);
        let (b, d) = (b.as_mut().ok().context("b joined")?, d.as_mut().ok().context("d joined")?);

        let mut pings = Vec::new();
        for (from, to) in [(&a, "b"), (&c, "d"), (&*d, "c")] {
            pings.push(pinging(&from.host, &from.alias_of(to)?.to_string())?);
        }
        told(&a.host, "b", "hard_nats", &["another port for each target", "relay = true"], || Ok(()))?;
        let nats = why(&a.host, "b")?["nats"].take();
        ensure!(nats["own"] == "random" && nats["theirs"] == "random", "{nats}");
        told(&c.host, "d", "udp_blocked_here", &["drops UDP", "--carry"], || Ok(()))?;
        told(&d.host, "c", "udp_blocked_there", &["UDP passes here", "--carry"], || Ok(()))?;
        pings.truncate(1);

        // Dead while the clock is wrong elsewhere.
        b.kill()?;
        d.stop()?;
        let wrong = Clock::fixed("+1h").start_node(&d.host)?;
        let to_p4 = pinging(&d.host, &d.alias_of("p4")?.to_string())?;
        told(&d.host, "p4", "clock_here", &["this machine's clock is 3", "set it"], || Ok(()))?;
        let alias = p4.alias_of("d")?.to_string();
        let to_d = pinging(&p4.host, &alias)?;
        told(&p4.host, "d", "clocks", &["a member's clock is 3"], || Ok(()))?;
        drop((to_p4, to_d, wrong));
        told(&a.host, "b", "peer_silent", &["see that"], || Ok(()))?;

        for beacon in beacons {
            beacon.kill()?;
        }
        pings.push(pinging(&a.host, &a.alias_of("c")?.to_string())?);
        told(&a.host, "c", "beacons_silent", &["no beacon answers"], || Ok(()))?;
        Ok(())
    });
}

/// What `vpi why` says, whether or not it calls the member unreachable.
fn why(host: &Host, name: &str) -> Result<Value> {
    let answer = host.vpi(&["why", name, "--json"])?;
    serde_json::from_str(&answer.stdout).with_context(|| format!("{answer:?}"))
}

/// Waits until `vpi why` on `host` says `cause` of the member, and `words` in its sentence; before each look, `provoke`.
fn told(
    host: &Host,
    name: &str,
    cause: &str,
    words: &[&str],
    mut provoke: impl FnMut() -> Result<()>,
) -> Result<()> {
    let (since, mut last) = (Instant::now(), Value::Null);
    let said = wait::until(&format!("{} to say {cause} of {name}", host.name), SEARCHED, || {
        provoke()?;
        last = why(host, name)?;
        Ok((last["cause"] == cause).then(|| last["advice"].as_str().unwrap_or_default().to_owned()))
    });
    let said = said.with_context(|| format!("it says {last:#}"))?;
    println!("{} of {name}: {cause} after {:.1} s: {said}", host.name, since.elapsed().as_secs_f64());
    for word in words {
        ensure!(said.contains(word), "no {word:?} in {said}");
    }
    let shown = host.vpi(&["why", name])?.stdout;
    ensure!(shown.contains(words.first().unwrap_or(&"")), "{shown}");
    Ok(())
}

fn joined(lab: &Lab, name: &str, founder: &Member) -> Result<Member> {
    Member::join(lab.host(name)?, &founder.invite(&[])?, &[])
}

/// Somebody else's rule in the host's firewall.
fn rule(host: &Host, rule: &str) -> Result<()> {
    let table = format!(
        "table inet others {{ chain input {{ type filter hook input priority 0; policy accept; {rule}; }}; }}"
    );
    host.run("nft", &[&table], LIMIT)?.success().map(drop)
}

fn unrule(host: &Host) -> Result<()> {
    host.run("nft", &["delete table inet others"], LIMIT)?.success().map(drop)
}

/// Somebody wants a link, once a second, until this is dropped.
struct Pinging(Child);

impl Drop for Pinging {
    fn drop(&mut self) {
        // It ends only with its namespace otherwise; both fail only if it is gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pinging(host: &Host, alias: &str) -> Result<Pinging> {
    let mut command = host.command("ping", &["-i", "1", alias]);
    Ok(Pinging(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
}
