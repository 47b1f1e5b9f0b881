//! Many members in one VPI, and one machine in many VPIs; aliases that are equal everywhere, and what holds when they
//! cannot be.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use tests::member::group;
use tests::traffic::{Listener, read_greeting};
use tests::{Host, Member, Node, scenario, wait};

const PORT: u16 = 8030;
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// How long members that never met may take: each hears of the other from a third one first.
const MEET_LIMIT: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(3);

/// By member, by the member it looks at: the alias.
type Aliases = BTreeMap<(String, String), Ipv4Addr>;

#[test]
fn five_members_all_reach_each_other_by_equal_aliases_that_outlive_node_and_machine() {
    scenario("five", NAMES.len(), |lab| {
        let mut members = group(lab, &NAMES)?;
        let mut listeners = listen(&members)?;
        let aliases = all_pairs_talk(&members)?;
        equal_for_all(&aliases)?;
        members[3].kill()?;
        members[3].restart()?;
        ensure!(all_pairs_talk(&members)? == aliases, "a restarted node knows other aliases");
        members[4].kill()?;
        listeners.pop();
        lab.renew(&members[4].host)?;
        members[4].restart()?;
        listeners.push(greeter(&members[4].host)?);
        ensure!(all_pairs_talk(&members)? == aliases, "on a new machine with the same state, aliases differ");
        Ok(())
    });
}

#[test]
fn a_member_whose_usual_alias_is_taken_is_reached_by_another_and_marked() {
    scenario("collide", 2, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let mut b = Member::join(lab.host("b")?, &a.invite(&[])?, &[])?;
        let usual = b.alias_of("a")?;
        ensure!(is_usual(&b.host, "a")? == Some(true), "{usual} is not marked as usual");
        b.stop()?;
        pin_to_another(&b.host, usual)?;
        b.restart()?;
        let other = b.alias_of("a")?;
        ensure!(other != usual, "{usual} is pinned to another key, and a has it");
        ensure!(is_usual(&b.host, "a")? == Some(false), "{other} is not marked as unusual");
        ensure!(is_usual(&a.host, "b")? == Some(true), "a collision on b shows on a");
        let (a_to_b, _listeners) = (a.alias_of("b")?, [greeter(&a.host)?, greeter(&b.host)?]);
        reach(&b.host, other, "a")?;
        reach(&a.host, a_to_b, "b")?;
        // What is pinned to a key that nobody has leads nowhere, and never to a.
        let said = read_greeting(&b.host, SocketAddr::from((usual, PORT)), PATIENCE);
        ensure!(said.is_err(), "{usual} reached {said:?}");
        b.kill()?;
        b.restart()?;
        ensure!(b.alias_of("a")? == other, "after a restart a has another alias than {other}");
        reach(&b.host, other, "a")
    });
}

#[test]
fn one_node_in_three_vpis_keeps_them_apart_and_moves_one_whose_prefix_is_taken() {
    scenario("three", 3, |lab| {
        let (a, b, c) = (lab.host("a")?, lab.host("b")?, lab.host("c")?);
        let mut nodes = BTreeMap::new();
        for host in [a, b, c] {
            nodes.insert(&host.name, Node::start(host, &[])?);
        }
        for (host, vpi) in [(a, "red"), (b, "green"), (c, "blue")] {
            host.vpi(&["create", vpi, "--name", &host.name, "--json"])?.success()?;
        }
        let taken = prefix(b, "green")?;
        occupy(a, &taken)?;
        for (inviter, vpi, joiner) in [(b, "green", a), (c, "blue", a), (a, "red", c)] {
            let token = inviter.vpi(&["invite", vpi, "--json"])?.json()?["token"].as_str().map(str::to_owned);
            joiner.vpi_reading(&token.context("no token")?, &["join", "--name", &joiner.name])?.success()?;
        }
        let prefixes =
            ["red", "green", "blue"].into_iter().map(|vpi| prefix(a, vpi)).collect::<Result<Vec<_>>>()?;
        ensure!(prefixes[1] != taken, "a took {taken}, which it uses already");
        ensure!(prefixes[0] != prefixes[1] && prefixes[1] != prefixes[2] && prefixes[0] != prefixes[2]);
        let _listeners = [greeter(a)?, greeter(b)?, greeter(c)?];
        three_talk(a, b, c)?;
        apart(a, b, c)?;
        nodes.remove(&a.name).context("a runs")?.kill()?;
        nodes.insert(&a.name, Node::start(a, &[])?);
        let after =
            ["red", "green", "blue"].into_iter().map(|vpi| prefix(a, vpi)).collect::<Result<Vec<_>>>()?;
        ensure!(after == prefixes, "before the restart {prefixes:?}, after it {after:?}");
        three_talk(a, b, c)
    });
}

/// Each pair, both ways, through the VPI that they share.
fn three_talk(a: &Host, b: &Host, c: &Host) -> Result<()> {
    for (one, other, vpi) in [(a, b, "green"), (a, c, "blue"), (a, c, "red")] {
        for (from, to) in [(one, other), (other, one)] {
            let known =
                wait::until(&format!("{} to know {} in {vpi}", from.name, to.name), MEET_LIMIT, || {
                    alias(from, vpi, &to.name)
                })?;
            reach(from, known, &to.name).with_context(|| format!("in {vpi}"))?;
        }
    }
    Ok(())
}

/// A service on one VPI's own alias is not there for the members of another.
fn apart(a: &Host, b: &Host, c: &Host) -> Result<()> {
    let own = alias(a, "red", "a")?.context("a has no alias in red")?;
    let listener = Listener::forced(a, own, PORT + 1, "red only")?;
    let in_red = alias(c, "red", "a")?.context("c knows a in red")?;
    let said = read_greeting(c, SocketAddr::from((in_red, PORT + 1)), PATIENCE)?;
    ensure!(said == "red only", "{said:?}");
    for (host, vpi) in [(b, "green"), (c, "blue")] {
        let elsewhere = alias(host, vpi, "a")?.context("a is a member")?;
        let said = read_greeting(host, SocketAddr::from((elsewhere, PORT + 1)), PATIENCE);
        ensure!(said.is_err(), "a service of red answers in {vpi}: {said:?}");
    }
    ensure!(listener.accepted() == 1, "{} connections", listener.accepted());
    Ok(())
}

fn greeter(host: &Host) -> Result<Listener> {
    Listener::wildcard(host, PORT, &host.name)
}

fn listen(members: &[Member]) -> Result<Vec<Listener>> {
    members.iter().map(|member| greeter(&member.host)).collect()
}

/// Every member greets every other; returns the aliases by which they did.
fn all_pairs_talk(members: &[Member]) -> Result<Aliases> {
    thread::scope(|scope| {
        let talks: Vec<_> = members.iter().map(|from| scope.spawn(|| talk_to_all(from, members))).collect();
        let mut aliases = Aliases::new();
        for talk in talks {
            aliases.extend(talk.join().map_err(|_| anyhow!("a talk panicked"))??);
        }
        Ok(aliases)
    })
}

fn talk_to_all(from: &Member, members: &[Member]) -> Result<Vec<((String, String), Ipv4Addr)>> {
    let mut aliases = Vec::new();
    for to in members {
        let (own, name) = (&from.host.name, &to.host.name);
        let known =
            wait::until(&format!("{own} to know {name}"), MEET_LIMIT, || alias(&from.host, "home", name))?;
        reach(&from.host, known, name)?;
        aliases.push(((own.clone(), name.clone()), known));
    }
    Ok(aliases)
}

fn equal_for_all(aliases: &Aliases) -> Result<()> {
    for ((from, to), alias) in aliases {
        let own = aliases.get(&(to.clone(), to.clone())).context("everybody knows itself")?;
        ensure!(alias == own, "{to} is {own} at home and {alias} on {from}");
    }
    Ok(())
}

/// Connects until it succeeds: the first link of two members may take a moment.
fn reach(from: &Host, alias: Ipv4Addr, name: &str) -> Result<()> {
    let mut last = None;
    let said = wait::until(&format!("{} to reach {name}", from.name), MEET_LIMIT, || {
        match read_greeting(from, SocketAddr::from((alias, PORT)), PATIENCE) {
            Ok(said) => Ok(Some(said)),
            Err(error) => {
                last = Some(error);
                Ok(None)
            }
        }
    })
    .with_context(|| format!("at {alias}: {last:?}"))?;
    ensure!(said == name, "{} reached {said:?} at {alias}, which is {name}", from.name);
    Ok(())
}

fn status(host: &Host, vpi: &str) -> Result<Value> {
    Ok(host.vpi(&["status", vpi, "--json"])?.json()?["vpis"][0].take())
}

fn member(host: &Host, vpi: &str, name: &str) -> Result<Option<Value>> {
    let status = status(host, vpi)?;
    let members = status["members"].as_array().context("vpi status --json has no members")?;
    Ok(members.iter().find(|member| member["name"] == name).cloned())
}

fn alias(host: &Host, vpi: &str, name: &str) -> Result<Option<Ipv4Addr>> {
    let found = member(host, vpi, name)?;
    Ok(found.and_then(|member| member["alias"].as_str()?.parse().ok()))
}

fn is_usual(host: &Host, name: &str) -> Result<Option<bool>> {
    Ok(member(host, "home", name)?.and_then(|member| member["alias_usual"].as_bool()))
}

fn prefix(host: &Host, vpi: &str) -> Result<String> {
    Ok(status(host, vpi)?["prefix"].as_str().context("vpi status --json has no prefix")?.to_owned())
}

/// Gives the machine an address of its own inside a /16.
fn occupy(host: &Host, prefix: &str) -> Result<()> {
    let address = prefix.replace(".0.0/16", ".200.200/32");
    host.run("ip", &["address", "add", &address, "dev", "lo"], PATIENCE)?.success()?;
    Ok(())
}

/// In the file of pins of `home`, hands `alias` to a key that nobody has, as if that had come first.
fn pin_to_another(host: &Host, alias: Ipv4Addr) -> Result<()> {
    let [_, _, high, low] = alias.octets();
    let folder = fs::read_dir(host.state.join("vpi"))?.next().context("the state holds no VPI")??.path();
    let file = folder.join("aliases");
    let pins = fs::read_to_string(&file)?;
    let suffix = format!("{high}.{low} ");
    let line = pins.lines().find(|line| line.starts_with(&suffix)).context("the alias is not pinned")?;
    fs::write(&file, pins.replace(line, &format!("{suffix}{}", "5a".repeat(32))))?;
    Ok(())
}
