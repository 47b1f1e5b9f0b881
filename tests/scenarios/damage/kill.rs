//! Nodes that are killed at random moments of what they do: what was acknowledged is there afterwards.
//!
//! ```text
//! a, b                an admin each, that invites, revokes, exposes
//! c ── d, e           an admin, a device that joins and leaves or is removed, one that comes late
//! f                   a device that founds
//! g ── h              two members with a transfer and a flow of datagrams between them
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use tests::process::finish;
use tests::topology::{COMMAND_LIMIT, vpi_binary};
use tests::traffic::{EchoServer, Flow, HeldConnection};
use tests::{Host, Member, Node, scenario, wait};

use super::{Rng, remove};

const KILLS: u64 = 200;
/// Until a member is known everywhere that joined just before its node was killed.
const KNOWN_LIMIT: Duration = Duration::from_secs(40);

#[test]
fn what_was_acknowledged_outlives_kills_at_any_moment() {
    scenario("killed", 8, |lab| {
        let hosts = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|name| lab.host(name));
        let [a, b, c, d, e, f, g, h] = hosts;
        let (a, b, c, d, e, f, g, h) = (a?, b?, c?, d?, e?, f?, g?, h?);
        thread::scope(|scope| {
            let lanes = [
                scope.spawn(|| admin_is_killed(a, 1)),
                scope.spawn(|| admin_is_killed(b, 2)),
                scope.spawn(|| joiner_is_killed(c, d, e, 3)),
                scope.spawn(|| founder_is_killed(f, 4)),
                scope.spawn(|| talker_is_killed(g, h, 5)),
            ];
            let ended =
                lanes.into_iter().map(|lane| lane.join().map_err(|_| anyhow!("a thread panicked"))?);
            ended.collect::<Result<Vec<_>>>()
        })?;
        println!("{KILLS} kills");
        Ok(())
    });
}

/// Kills of each of the five lanes.
const KILLS_A_LANE: u64 = KILLS / 5;
/// What a command takes, and some time before and after it.
const MOMENTS_MS: usize = 60;

/// Runs a command while its node is killed at a random moment, then starts the node again. `None`: not
/// acknowledged; a recovery phrase that was printed counts as seen, whatever came after it.
fn cut_short(
    host: &Host,
    node: &mut Option<Node>,
    (input, words): (&str, &[&str]),
    rng: &mut Rng,
) -> Result<Option<Value>> {
    let moment = Duration::from_micros(rng.below(MOMENTS_MS * 1_000) as u64);
    let victim = node.take().context("it runs")?;
    let answer = thread::scope(|scope| {
        let asking = scope.spawn(|| finish(host.command(&vpi_binary()?, words), input, COMMAND_LIMIT));
        thread::sleep(moment);
        victim.kill()?;
        asking.join().map_err(|_| anyhow!("a thread panicked"))?
    })?;
    *node =
        Some(Node::start(host, &[]).with_context(|| format!("after {words:?}, killed after {moment:?}"))?);
    let is_seen = answer.code == 0 || answer.stdout.contains("\"recovery\"");
    if is_seen { Ok(Some(serde_json::from_str(&answer.stdout)?)) } else { Ok(None) }
}

/// An admin that makes and revokes invites, exposes and closes services.
fn admin_is_killed(host: &Host, seed: u64) -> Result<()> {
    let mut rng = Rng(seed);
    let founded = Member::found(host, &[])?;
    let alias = founded.alias.to_string();
    let mut node = founded.node;
    // By invite and by port; the value is unknown where a command was cut short.
    let (mut revoked, mut exposed) =
        (BTreeMap::<String, Option<bool>>::new(), BTreeMap::<u64, Option<bool>>::new());
    for round in 0..KILLS_A_LANE {
        let port = 1 + rng.below(5) as u64;
        let service = format!("tcp/{port}");
        let open: Vec<String> =
            revoked.iter().filter(|(_, is)| **is == Some(false)).map(|(id, _)| id.clone()).collect();
        match rng.below(4) {
            0 if !open.is_empty() => {
                let invite = rng.pick(&open).clone();
                let words = ["revoke", "home", &invite, "--json"];
                let done = cut_short(host, &mut node, ("", &words), &mut rng)?;
                revoked.insert(invite, done.map(|_| true));
            }
            1 => {
                let words = ["expose", "home", &service, "--json"];
                let done = cut_short(host, &mut node, ("", &words), &mut rng)?;
                exposed.insert(port, done.map(|_| true));
            }
            2 if exposed.get(&port) == Some(&Some(true)) => {
                let words = ["unexpose", "home", &service, "--json"];
                let done = cut_short(host, &mut node, ("", &words), &mut rng)?;
                exposed.insert(port, done.map(|_| false));
            }
            _ => {
                let done = cut_short(host, &mut node, ("", &["invite", "home", "--json"]), &mut rng)?;
                if let Some(invite) = done.as_ref().and_then(|done| done["invite"].as_str()) {
                    revoked.insert(invite.to_owned(), Some(false));
                }
            }
        }
        let judged = as_acknowledged(host, &revoked, &exposed).and_then(|()| set_up(host, &alias));
        judged.with_context(|| format!("host {}, round {round}", host.name))?;
    }
    Ok(())
}

fn as_acknowledged(
    host: &Host,
    revoked: &BTreeMap<String, Option<bool>>,
    exposed: &BTreeMap<u64, Option<bool>>,
) -> Result<()> {
    let found = host.vpi(&["invites", "home", "--json"])?.json()?;
    let found = found["invites"].as_array().context("no invites")?;
    for (id, wanted) in revoked {
        let invite = found.iter().find(|invite| invite["invite"] == id.as_str());
        let state = invite.and_then(|invite| invite["state"].as_str()).context("an invite is lost")?;
        ensure!(wanted.is_none_or(|wanted| wanted == (state == "revoked")), "invite {id} is {state}");
    }
    let found = host.vpi(&["exposures", "home", "--json"])?.json()?;
    let found = found["vpis"][0]["exposures"].as_array().context("no exposures")?;
    for (port, wanted) in exposed {
        let is_open = found.iter().any(|exposure| exposure["port"] == *port);
        ensure!(wanted.is_none_or(|wanted| wanted == is_open), "port {port}: open is {is_open}");
    }
    Ok(())
}

/// The device is there, with the own alias on it, and the guard behind it.
fn set_up(host: &Host, alias: &str) -> Result<()> {
    let shown = host.run("ip", &["address", "show", "dev", "vpi-home"], COMMAND_LIMIT)?.success()?.stdout;
    ensure!(shown.contains(&format!("{alias}/32")), "{alias} is not on the device: {shown}");
    let routes = host.run("ip", &["route", "show", "table", "local"], COMMAND_LIMIT)?.success()?.stdout;
    ensure!(routes.contains("unreachable") && routes.contains("vpi-home"), "routes are missing: {routes}");
    Ok(())
}

/// A machine without a state, as one that was never used.
fn unused(host: &Host) -> Result<Option<Node>> {
    if host.state.join("vpi").exists() {
        host.vpi(&["down"])?.success()?;
        remove(&host.state)?;
    }
    Node::start(host, &[]).map(Some)
}

/// A joiner killed while it joins and while it leaves, and its admin while it removes it.
fn joiner_is_killed(admin: &Host, joiner: &Host, late: &Host, seed: u64) -> Result<()> {
    let mut rng = Rng(seed);
    let mut founder = Member::found(admin, &[])?;
    for round in 0..KILLS_A_LANE / 2 {
        let mut node = unused(joiner)?;
        let token = founder.invite(&["--offline"])?;
        let name = format!("d{round}");
        let words = ["join", "--name", &name, "--json"];
        let mut once = || -> Result<()> {
            let first = cut_short(joiner, &mut node, (&token, &words), &mut rng)?;
            let told = match &first {
                Some(told) => told.clone(),
                None => joiner.vpi_reading(&token, &words)?.json()?,
            };
            let alias = told["alias"].as_str().context("no alias")?;
            let status = joiner.vpi(&["status", "--json"])?.json()?;
            ensure!(status["vpis"][0]["alias"] == alias, "the membership that was told is lost: {status}");
            set_up(joiner, alias)?;
            wait::until("the joiner to be known", KNOWN_LIMIT, || tests::member::find_member(admin, &name))?;
            if round % 8 == 0 {
                let _late = unused(late)?;
                late.vpi_reading(&token, &["join", "--name", "late", "--json"])?.refused(5, &["used"])?;
            }
            let member = format!("{name}.home");
            if round % 2 == 0 {
                let left = cut_short(joiner, &mut node, ("", &["leave", "home", "--json"]), &mut rng)?;
                let status = joiner.vpi(&["status", "--json"])?.json()?;
                ensure!(left.is_none() || status["vpis"] == serde_json::json!([]), "it is back: {status}");
                return Ok(());
            }
            let words = ["remove", "home", &member, "--offline", "--json"];
            let removed = cut_short(admin, &mut founder.node, ("", &words), &mut rng)?;
            let known = tests::member::find_member(admin, &name)?;
            let is_in = known.as_ref().is_some_and(|known| known["state"] != "removed");
            ensure!(removed.is_none() || !is_in, "{name} is a member again: {known:?}");
            Ok(())
        };
        once().with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// A node killed while it founds a VPI.
fn founder_is_killed(host: &Host, seed: u64) -> Result<()> {
    let mut rng = Rng(seed);
    for round in 0..KILLS_A_LANE {
        let mut node = unused(host)?;
        let words = ["create", "home", "--name", "f", "--json"];
        let first = cut_short(host, &mut node, ("", &words), &mut rng)?;
        let once = || -> Result<()> {
            let status = host.vpi(&["status", "--json"])?.json()?;
            let count = status["vpis"].as_array().map_or(0, Vec::len);
            ensure!(first.is_none() || count == 1, "what was founded is lost: {status}");
            let told = match &first {
                Some(told) => told.clone(),
                None if count == 1 && status["vpis"][0]["notices"] == serde_json::json!([]) => {
                    bail!("nobody saw the recovery phrase, and no notice says so: {status}")
                }
                None => host.vpi(&words)?.json()?,
            };
            let status = host.vpi(&["status", "--json"])?.json()?;
            ensure!(status["vpis"].as_array().map_or(0, Vec::len) == 1, "not one VPI: {status}");
            set_up(host, told["alias"].as_str().context("no alias")?)
        };
        once().with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// Two members, one of which is killed, in turn, while a transfer runs and each uses the other's alias.
fn talker_is_killed(g: &Host, h: &Host, seed: u64) -> Result<()> {
    const INTERVAL: Duration = Duration::from_millis(10);
    /// From the ready line to the first echo.
    const BACK_LIMIT: Duration = Duration::from_secs(5);
    let mut rng = Rng(seed);
    let mut founder = Member::found(g, &[])?;
    let mut joiner = Member::join(h, &founder.invite(&[])?, &[])?;
    let (to_h, to_g) = (founder.alias_of("h")?, joiner.alias_of("g")?);
    let held = HeldConnection::open(g, h, to_h)?;
    let echo = EchoServer::start(h, 0)?;
    let flow = Flow::start(g, SocketAddr::from((to_h, echo.port)), INTERVAL)?;
    for round in 0..KILLS_A_LANE {
        flow.first_echo_after(Instant::now(), BACK_LIMIT)?;
        thread::sleep(Duration::from_micros(rng.below(MOMENTS_MS * 1_000) as u64));
        let victim = if round % 2 == 0 { &mut founder } else { &mut joiner };
        victim.kill()?;
        let ready_at = victim.restart()?.ready_at();
        let back = flow.first_echo_after(ready_at, BACK_LIMIT);
        back.with_context(|| format!("{} was killed, round {round}", victim.host.name))?;
        ensure!(
            (founder.alias_of("h")?, joiner.alias_of("g")?) == (to_h, to_g),
            "an alias is another's after round {round}"
        );
    }
    let (numbers, longest) = held.finish().context("what TCP had taken is lost")?;
    println!("a transfer of {numbers} numbers over {KILLS_A_LANE} kills, at most {longest:?} without one");
    Ok(())
}
