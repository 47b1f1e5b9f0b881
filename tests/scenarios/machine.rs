//! A VPI on machines that are not empty: firewalls of others, and what a crash or a careless hand left.
//!
//! Either the tunnel works, or `vpi doctor` names the rule in its way, and what it advises helps.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::traffic::{Listener, read_greeting};
use tests::{Answer, Host, Member, Pair, scenario};

const PORT: u16 = 8022;
/// Long enough for a connection that would get through, short enough to try some that must not.
const PATIENCE: Duration = Duration::from_secs(2);

#[test]
fn doctor_finds_nothing_wrong_on_a_machine_before_during_and_after_a_vpi() {
    scenario("well", 1, |lab| {
        let host = lab.host("a")?;
        well(host)?;
        let mut member = Member::found(host, &[])?;
        well(host)?;
        // Without root, some things are not seen, and that is said.
        let bounded = ["--reuid", "65534", "--clear-groups", "--", &vpi(), "doctor"];
        let answer = host.run("setpriv", &bounded, PATIENCE)?.success()?;
        ensure!(answer.stdout.contains("unseen") && answer.stdout.contains("sudo"), "{answer:#?}");
        member.stop()?;
        well(host)?;
        host.vpi(&["down"])?.success()?;
        well(host)?;
        ensure!(
            !fs::read_to_string(host.state.join("journal"))?.contains("vpi-home"),
            "down left the journal"
        );
        Ok(())
    });
}

#[test]
fn port_forwarding_like_dockers_swallows_nothing_or_is_named() {
    scenario("docker", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        let host = &pair.b.host;
        rules(host, "table ip nat {
            chain DOCKER { tcp dport 8022 dnat to 172.17.0.2:80; }
            chain PREROUTING { type nat hook prerouting priority dstnat; fib daddr type local counter jump DOCKER; }
        }")?;
        let _listener = Listener::wildcard(host, PORT, "b")?;
        reaches(&pair)?;
        well(host)?;
        // A container that publishes the very UDP port of the node is another matter.
        let publish = format!("add rule ip nat DOCKER udp dport {} dnat to 172.17.0.2", pair.b.port()?);
        rules(host, &publish)?;
        let found = problems(host)?;
        ensure!(
            found.iter().any(|one| is_at(one, "nat", "DOCKER") && said(one).contains("udp dport")),
            "{found:#?}"
        );
        Ok(())
    });
}

#[test]
fn a_default_deny_is_named_and_what_doctor_advises_helps() {
    scenario("deny", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        let host = &pair.b.host;
        rules(
            host,
            "table inet ufw {
            chain allowed { tcp dport 22 accept; icmp type echo-request accept; }
            chain input {
                type filter hook input priority filter; policy drop;
                iif lo accept
                ct state vmap { established : accept, related : accept, invalid : drop }
                jump allowed
            }
        }",
        )?;
        let _listener = Listener::wildcard(host, PORT, "b")?;
        ensure!(reaches(&pair).is_err(), "the deny lets members through: this scenario shows nothing");
        let found = problems(host)?;
        for what in ["packets of members of home", &format!("udp port {}", pair.b.port()?)] {
            let named = found.iter().find(|one| is_at(one, "ufw", "input") && said(one).contains(what));
            let policy = named.with_context(|| format!("nothing about {what}: {found:#?}"))?;
            ensure!(policy["rule"]["handle"].is_null() && said(policy).contains("policy"), "{policy}");
        }
        follow(host, &found)?;
        reaches(&pair)?;
        well(host)
    });
}

#[test]
fn a_drop_of_loopback_addresses_from_elsewhere_is_named_and_what_doctor_advises_helps() {
    scenario("cis", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        let host = &pair.b.host;
        // As iptables-nft writes it.
        rules(
            host,
            "table ip filter {
            chain INPUT {
            type filter hook input priority filter; policy accept;
            iifname \"lo\" counter accept
            iifname != \"lo\" ip saddr 127.0.0.0/8 counter drop
        }
        }",
        )?;
        let _listener = Listener::wildcard(host, PORT, "b")?;
        ensure!(reaches(&pair).is_err(), "the rule lets members through: this scenario shows nothing");
        let found = problems(host)?;
        ensure!(found.len() == 1, "{found:#?}");
        ensure!(is_at(&found[0], "filter", "INPUT") && found[0]["rule"]["handle"].is_u64(), "{found:#?}");
        ensure!(said(&found[0]).contains("ip saddr 127.0.0.0/8"), "{found:#?}");
        follow(host, &found)?;
        reaches(&pair)?;
        well(host)
    });
}

#[test]
fn doctor_puts_back_what_was_taken_while_the_node_was_dead() {
    scenario("putback", 2, |lab| {
        let mut pair = Pair::join(lab, &[])?;
        let host = pair.b.host.clone();
        pair.b.kill()?;
        well(&host)?;
        let before = machine(&host)?;
        for damage in [
            "ip link delete vpi-home",
            "nft delete table ip vpi-home",
            "ip route del unreachable $(ip route show table local type unreachable | cut -d' ' -f2) table local metric 65535",
            "nft flush chain ip vpi-home input",
            "ip link delete vpi-home; nft delete table ip vpi-home",
        ] {
            shell(&host, damage)?;
            let found = problems(&host)?;
            ensure!(found.iter().all(|one| one["about"] == "vpi-home"), "{damage}: {found:#?}");
            let fixed = host.vpi(&["doctor", "--fix", "--json"])?.json()?;
            ensure!(fixed["repaired"].as_array().is_some_and(|lines| !lines.is_empty()), "{damage}: {fixed}");
            let after = machine(&host)?;
            ensure!(after == before, "{damage}: before {before}, after {after}");
        }
        pair.b.restart()?;
        let _listener = Listener::wildcard(&host, PORT, "b")?;
        reaches(&pair)
    });
}

#[test]
fn doctor_takes_off_what_a_lost_vpi_left_and_nothing_of_others() {
    scenario("leftover", 1, |lab| {
        let host = lab.host("a")?;
        // Others' things that look like ours, and that no journal of this state folder names.
        shell(
            host,
            "ip tuntap add mode tun vpi-other && nft add table ip vpi-other && \
                     ip route add unreachable 127.126.0.0/16 table local metric 65535",
        )?;
        let untouched = machine(host)?;
        let mut member = Member::found(host, &[])?;
        member.kill()?;
        shell(host, &format!("rm -r {}/vpi/*", host.state.display()))?;
        let found = problems(host)?;
        ensure!(found.len() == 1 && said(&found[0]).contains("left over"), "{found:#?}");
        host.vpi(&["doctor", "--fix"])?.success()?;
        let after = machine(host)?;
        ensure!(after == untouched, "before {untouched}, after {after}");
        well(host)
    });
}

#[test]
fn doctor_tells_and_mends_loose_modes_and_a_damaged_journal() {
    scenario("modes", 1, |lab| {
        let host = lab.host("a")?;
        let _member = Member::found(host, &[])?;
        let state = host.state.display();
        for damage in [
            format!("chmod 0755 {state}"),
            format!("chmod 0750 {state}/keys"),
            format!("chmod 0644 {state}/keys/device"),
            format!("echo nonsense > {state}/journal"),
        ] {
            shell(host, &damage)?;
            ensure!(!problems(host)?.is_empty(), "{damage}");
            host.vpi(&["doctor", "--fix"])?.success()?;
            well(host)?;
        }
        Ok(())
    });
}

/// That `doctor` finds no problem.
fn well(host: &Host) -> Result<()> {
    let answer = host.vpi(&["doctor", "--json"])?;
    let facts = parsed(&answer)?;
    ensure!(answer.code == 0 && facts["well"] == true, "{answer:#?}");
    Ok(())
}

/// The problems that `doctor` finds: at least one, and its exit code says so.
fn problems(host: &Host) -> Result<Vec<Value>> {
    let answer = host.vpi(&["doctor", "--json"])?;
    ensure!(answer.code == 1, "{answer:#?}");
    let facts = parsed(&answer)?;
    let findings = facts["findings"].as_array().context("no findings")?;
    Ok(findings.iter().filter(|finding| finding["level"] == "problem").cloned().collect())
}

fn parsed(answer: &Answer) -> Result<Value> {
    serde_json::from_str(&answer.stdout).with_context(|| format!("{answer:#?}"))
}

fn is_at(finding: &Value, table: &str, chain: &str) -> bool {
    finding["rule"]["table"] == table && finding["rule"]["chain"] == chain
}

fn said(finding: &Value) -> &str {
    finding["what"].as_str().unwrap_or_default()
}

/// Does what the findings advise, as far as it is a command.
fn follow(host: &Host, findings: &[Value]) -> Result<()> {
    for finding in findings {
        let advice = finding["advice"].as_str().unwrap_or_default();
        let command = advice.split(';').next().filter(|command| command.starts_with("nft "));
        let (nft, words) = command.with_context(|| format!("no command: {advice}"))?.split_at(4);
        host.run(nft.trim(), &[words], PATIENCE)?.success()?;
    }
    Ok(())
}

/// That an application on `a` reaches one on `b`.
fn reaches(pair: &Pair) -> Result<()> {
    let heard = read_greeting(&pair.a.host, SocketAddr::from((pair.a_to_b, PORT)), PATIENCE)?;
    ensure!(heard == "b", "a reached {heard:?}");
    Ok(())
}

fn rules(host: &Host, text: &str) -> Result<()> {
    host.run("nft", &[text], PATIENCE)?.success().map(drop)
}

fn shell(host: &Host, line: &str) -> Result<()> {
    host.run("sh", &["-c", line], PATIENCE)?.success().map(drop)
}

/// What a VPI changes on a machine, less handles, which count every change.
fn machine(host: &Host) -> Result<String> {
    let ask = "{ ip -4 -o address show; ip -4 route show table all; ip rule; nft list ruleset; ip -o link show; } | \
               sed -E 's/^[0-9]+: //; s/ linkdown//; s/NO-CARRIER,//; s/,LOWER_UP//; s/state [A-Z]+//; s/ +$//'";
    Ok(host.run("sh", &["-c", ask], PATIENCE)?.success()?.stdout)
}

fn vpi() -> String {
    tests::topology::vpi_binary().unwrap_or_else(|_| "vpi".to_owned())
}
