//! The promises of a loopback alias: it always means the peer, and nobody else when the peer cannot be reached.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::traffic::{Listener, read_greeting};
use tests::{Host, Lab, Pair, scenario};

const PORT: u16 = 8022;
const FORCED_PORT: u16 = 8023;
/// Long enough for a connection that would get through, short enough to try many that must not.
const PATIENCE: Duration = Duration::from_secs(2);

#[test]
fn an_own_wildcard_listener_does_not_catch_a_connection_to_a_peers_alias() {
    scenario("trap", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        let on_a = Listener::wildcard(&pair.a.host, PORT, "a")?;
        let on_b = Listener::wildcard(&pair.b.host, PORT, "b")?;
        let from_a = read_greeting(&pair.a.host, SocketAddr::from((pair.a_to_b, PORT)), PATIENCE)?;
        let from_b = read_greeting(&pair.b.host, SocketAddr::from((pair.b_to_a, PORT)), PATIENCE)?;
        ensure!(
            (from_a.as_str(), from_b.as_str()) == ("b", "a"),
            "a reached {from_a:?}, b reached {from_b:?}"
        );
        ensure!((on_a.accepted(), on_b.accepted()) == (1, 1), "{} and {}", on_a.accepted(), on_b.accepted());
        let own = read_greeting(&pair.a.host, SocketAddr::from((pair.a.alias, PORT)), PATIENCE)?;
        ensure!(own == "a", "a's own alias reached {own:?}");
        Ok(())
    });
}

#[test]
fn a_peers_alias_never_reaches_a_local_listener_when_the_node_was_stopped() {
    scenario("stopped", 2, |lab| {
        let mut pair = reachable(lab)?;
        let code = pair.a.stop()?;
        ensure!(code == 0, "vpi up ended with {code} at SIGTERM");
        fails_closed(&pair)
    });
}

#[test]
fn a_peers_alias_never_reaches_a_local_listener_when_the_node_was_killed() {
    scenario("killed", 2, |lab| {
        let mut pair = reachable(lab)?;
        pair.a.kill()?;
        fails_closed(&pair)
    });
}

#[test]
fn a_peers_alias_never_reaches_a_local_listener_when_the_device_is_gone() {
    scenario("gone", 2, |lab| {
        let mut pair = reachable(lab)?;
        let status = pair.a.host.vpi(&["status", "--json"])?.json()?;
        let device = status["vpis"][0]["device"].as_str().unwrap_or("vpi-home").to_owned();
        pair.a.kill()?;
        pair.a.host.run("ip", &["link", "delete", &device], PATIENCE)?.success()?;
        fails_closed(&pair)
    });
}

#[test]
fn down_takes_everything_off_the_machine_and_up_puts_it_back() {
    scenario("down", 2, |lab| {
        let untouched = machine(lab.host("a")?)?;
        let mut pair = reachable(lab)?;
        let set_up = machine(&pair.a.host)?;
        ensure!(set_up != untouched, "create changed nothing");
        pair.a.stop()?;
        pair.a.host.vpi(&["down"])?.success()?;
        let left = machine(&pair.a.host)?;
        ensure!(left == untouched, "vpi down left something: before {untouched}, after {left}");
        pair.a.restart()?;
        let listener = Listener::wildcard(&pair.b.host, PORT, "b")?;
        let said = read_greeting(&pair.a.host, SocketAddr::from((pair.a_to_b, PORT)), PATIENCE)?;
        ensure!(said == "b" && listener.accepted() == 1, "after down and up, a reached {said:?}");
        Ok(())
    });
}

/// What a VPI changes on a machine: addresses, routes of every table, rules, and the firewall.
fn machine(host: &Host) -> Result<String> {
    let mut facts = String::new();
    for (program, words) in [
        ("ip", &["-4", "-o", "address", "show"][..]),
        ("ip", &["-4", "route", "show", "table", "all"]),
        ("ip", &["rule", "show"]),
        ("nft", &["list", "ruleset"]),
    ] {
        facts += &host.run(program, words, PATIENCE)?.success()?.stdout;
    }
    Ok(facts)
}

/// Two members of whom `a` reaches a listener on `b`: what follows is not an accident of a link that never was.
fn reachable(lab: &Lab) -> Result<Pair> {
    let pair = Pair::join(lab, &[])?;
    let listener = Listener::wildcard(&pair.b.host, PORT, "b")?;
    let said = read_greeting(&pair.a.host, SocketAddr::from((pair.a_to_b, PORT)), PATIENCE)?;
    ensure!(said == "b" && listener.accepted() == 1, "a reached {said:?}");
    Ok(pair)
}

/// On `a`, whose node does not run: no connection to `b`'s alias succeeds, and no listener of `a`'s own gets one.
fn fails_closed(pair: &Pair) -> Result<()> {
    let host = &pair.a.host;
    let wildcard = Listener::wildcard(host, PORT, "caught")?;
    let forced = Listener::forced(host, pair.a_to_b, FORCED_PORT, "impostor")?;
    for port in [PORT, FORCED_PORT] {
        let said = read_greeting(host, SocketAddr::from((pair.a_to_b, port)), PATIENCE);
        ensure!(said.is_err(), "{}:{port} reached {said:?}", pair.a_to_b);
    }
    ensure!(wildcard.accepted() == 0, "the wildcard listener got {} connections", wildcard.accepted());
    ensure!(forced.accepted() == 0, "the forced listener got {} connections", forced.accepted());
    Ok(())
}
