//! The smaller commands, by the real binary: what they print, what they refuse, what survives a restart.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::member::find_member;
use tests::process::finish;
use tests::topology::{COMMAND_LIMIT, vpi_binary};
use tests::{Host, Member, Node, Pair, scenario, wait};

const FAILED: i32 = 1;
const WRONG_USAGE: i32 = 2;
const NO_NODE: i32 = 3;
const NOT_FOUND: i32 = 4;
const REFUSED: i32 = 5;
/// What timeout(1) ends with when it had to stop the command.
const STOPPED: i32 = 124;
/// How long others may take to show what happened.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn an_invite_for_a_request_code_admits_that_device_only() {
    scenario("code", 3, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let (b, c) = (lab.host("b")?, lab.host("c")?);
        b.vpi(&["request-code"])?.refused(NO_NODE, &["no key yet", "node"])?;
        let (node, _other) = (Node::start(b, &[])?, Node::start(c, &[])?);
        let code = b.vpi(&["request-code"])?.success()?.stdout.trim().to_owned();
        let token = a.invite(&["--device", &code])?;
        c.vpi_reading(&token, &["join", "--name", "c"])?.refused(REFUSED, &["another device"])?;
        let joined = b.vpi_reading(&token, &["join", "--name", "b", "--json"])?.json()?;
        ensure!(joined["vpi"] == "home", "{joined}");
        node.stop()?;
        // The same with no node running, and in JSON.
        let known = b.vpi(&["request-code", "--json"])?.json()?;
        ensure!(known["code"] == code.as_str(), "{known}");
        let members = a.host.vpi(&["status", "--json"])?.json()?["vpis"][0]["members"].take();
        let is_b = |member: &Value| member["name"] == "b" && member["id"] == known["id"];
        ensure!(members.as_array().is_some_and(|members| members.iter().any(is_b)), "{members}");
        let damaged = code.replacen(&code[..1], if code.starts_with('a') { "b" } else { "a" }, 1);
        let answer = a.host.vpi(&["invite", "home", "--device", &damaged])?;
        ensure!(answer.code == WRONG_USAGE && answer.stderr.contains("request-code"), "{answer:#?}");
        Ok(())
    });
}

#[test]
fn whois_names_the_member_behind_an_alias() {
    scenario("whois", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        let host = &pair.a.host;
        for (alias, member) in [(pair.a_to_b, "b.home"), (pair.a.alias, "a.home")] {
            let who = host.vpi(&["whois", &alias.to_string(), "--json"])?.json()?;
            let found = (&who["vpi"], &who["member"], &who["alias"]);
            ensure!(found == (&json!("home"), &json!(member), &json!(alias)), "{who}");
            ensure!(who["id"].as_str().is_some_and(|id| id.len() == 64), "{who}");
        }
        let said = host.vpi(&["whois", &pair.a_to_b.to_string()])?.success()?.stdout;
        ensure!(said.contains("b.home"), "{said}");
        for stranger in ["127.0.0.1", "192.0.2.1"] {
            host.vpi(&["whois", stranger])?.refused(NOT_FOUND, &[stranger])?;
        }
        Ok(())
    });
}

#[test]
fn exposures_and_policy_are_told_and_outlive_a_restart() {
    scenario("exposures", 2, |lab| {
        let mut pair = Pair::join(lab, &[])?;
        let host = pair.a.host.clone();
        ensure!(exposures(&host)? == json!({"vpi": "home", "policy": "own-alias", "exposures": []}));
        let answer = host.vpi(&["expose", "home", "tcp/6379", "--to", "b"])?.success()?;
        ensure!(answer.stderr.contains("127.x"), "no warning: {answer:#?}");
        host.vpi(&["expose", "home", "udp/53"])?.success()?;
        host.vpi(&["expose", "home", "udp/53"])?.success()?;
        host.vpi(&["policy", "home", "exposed-only"])?.success()?;
        let said = exposures(&host)?;
        let id = &said["exposures"][0]["to"][0]["id"];
        let expected = json!({"vpi": "home", "policy": "exposed-only", "exposures": [
            {"proto": "tcp", "port": 6379, "to": [{"member": "b.home", "id": id}]},
            {"proto": "udp", "port": 53, "to": null}]});
        ensure!(said == expected, "{said}");
        ensure!(table(&host)?.contains("6379"), "the firewall table has no 6379");

        pair.a.stop()?;
        pair.a.restart()?;
        ensure!(exposures(&host)? == expected, "after a restart: {}", exposures(&host)?);
        ensure!(table(&host)?.contains("6379"), "the firewall table has no 6379 after a restart");

        // Said again, it replaces what was said; closed, it is gone; closed twice, it is not found.
        host.vpi(&["expose", "home", "tcp/6379"])?.success()?;
        ensure!(exposures(&host)?["exposures"][0]["to"] == Value::Null);
        host.vpi(&["unexpose", "home", "tcp/6379"])?.success()?;
        ensure!(!table(&host)?.contains("6379"), "the firewall table still has 6379");
        host.vpi(&["unexpose", "home", "tcp/6379"])?.refused(NOT_FOUND, &["tcp/6379"])?;
        host.vpi(&["expose", "home", "tcp/22", "--to", "nobody"])?.refused(NOT_FOUND, &["nobody"])?;
        host.vpi(&["expose", "nowhere", "tcp/22"])?.refused(NOT_FOUND, &["nowhere"])?;
        host.vpi(&["exposures", "nowhere"])?.refused(NOT_FOUND, &["nowhere"])?;
        host.vpi(&["policy", "nowhere", "own-alias"])?.refused(NOT_FOUND, &["nowhere"])
    });
}

#[test]
fn metrics_are_prometheus_text_that_counts() {
    scenario("metrics", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        let host = &pair.a.host;
        host.vpi(&["ping", "b", "-c", "1"])?.success()?;
        let text = host.vpi(&["metrics"])?.success()?.stdout;
        let metrics = parse(&text).with_context(|| text.clone())?;
        let value = |name: &str, labels: &[&str]| {
            let of_name = metrics.get(name).with_context(|| format!("no {name} in {text}"))?;
            let has_all = |found: &&(String, f64)| labels.iter().all(|label| found.0.contains(label));
            Ok::<_, anyhow::Error>(of_name.iter().filter(has_all).map(|(_, value)| value).sum::<f64>())
        };
        ensure!(value("vpi_build_info", &["version="])? == 1.0);
        ensure!(value("vpi_uptime_seconds", &[])? > 0.0);
        ensure!(value("vpi_members", &["vpi=\"home\""])? == 2.0);
        ensure!(value("vpi_members", &["state=\"direct\""])? == 1.0);
        ensure!(value("vpi_handshakes_total", &["vpi=\"home\""])? >= 1.0);
        ensure!(value("vpi_sessions", &["vpi=\"home\""])? >= 1.0);
        ensure!(value("vpi_objects", &["vpi=\"home\""])? >= 5.0);
        ensure!(value("vpi_member_rtt_seconds", &["member=\"b\""])? > 0.0);
        ensure!(value("vpi_dropped_total", &["reason=\"forged\""])? == 0.0);
        let same = host.vpi(&["metrics", "--json"])?.json()?;
        ensure!(same.as_array().is_some_and(|families| families.len() == metrics.len()), "{same}");
        Ok(())
    });
}

#[test]
fn a_recovery_phrase_that_could_not_be_shown_is_shown_by_the_next_create() {
    scenario("unseen", 1, |lab| {
        let host = lab.host("a")?;
        let mut node = Node::start(host, &[])?;
        let into_a_full_disk = ["-c", "exec \"$0\" create home > /dev/full", &vpi_binary()?];
        let answer = host.run("sh", &into_a_full_disk, COMMAND_LIMIT)?;
        answer.refused(FAILED, &["recovery phrase", "vpi create home"])?;
        node.kill()?;
        node = Node::start(host, &[])?;
        let status = host.vpi(&["status", "--json"])?.json()?;
        let notices = status["vpis"][0]["notices"].to_string();
        ensure!(notices.contains("recovery phrase"), "{status}");

        let founded = host.vpi(&["create", "home", "--json"])?.json()?;
        let words = founded["recovery"].as_str().context("no phrase")?.split(' ').count();
        ensure!(words == 24 && founded["id"] == status["vpis"][0]["id"], "{founded}");
        let status = host.vpi(&["status", "--json"])?.json()?;
        ensure!(status["vpis"][0]["notices"] == json!([]), "{status}");
        // It was seen: another `create` founds another VPI, which has another name here.
        let other = host.vpi(&["create", "home", "--json"])?.json()?;
        ensure!(other["vpi"] == "home-2" && other["id"] != founded["id"], "{other}");
        ensure!(node.is_running()?, "the node ended");
        Ok(())
    });
}

#[test]
fn a_member_needs_no_vpi_beside_its_name_where_one_vpi_alone_knows_it() {
    scenario("names", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        let host = &pair.a.host;
        host.vpi(&["create", "work", "--name", "a"])?.success()?;
        host.vpi(&["ping", "b", "-c", "1"])?.success()?;
        host.vpi(&["ping", "a"])?.refused(NOT_FOUND, &["a.home", "a.work"])?;
        host.vpi(&["ping", "b.work"])?.refused(NOT_FOUND, &["b.work"])
    });
}

#[test]
fn a_removed_member_is_shown_as_removed_and_can_still_clear_up() {
    scenario("removed", 3, |lab| {
        let pair = Pair::join(lab, &[])?;
        let c = Member::join(lab.host("c")?, &pair.a.invite(&[])?, &[])?;
        let (a, b) = (pair.a.host.clone(), pair.b.host.clone());
        c.alias_of("b")?;
        b.vpi(&["remove", "home", "c"])?.refused(REFUSED, &["admin"])?;
        a.vpi(&["remove", "home", "a"])?.refused(REFUSED, &["admin"])?;
        a.vpi(&["remove", "home", "nobody"])?.refused(NOT_FOUND, &["nobody"])?;
        let removed = a.vpi(&["remove", "home", "b", "--reason", "lost", "--json"])?.json()?;
        ensure!(removed["member"] == "b.home", "{removed}");
        state_becomes(&a, "b", "removed")?;
        state_becomes(&c.host, "b", "removed")?;
        a.vpi(&["remove", "home", "b"])?.refused(NOT_FOUND, &["b"])?;
        let id = removed["id"].as_str().context("no id")?;
        a.vpi(&["remove", "home", id])?.refused(REFUSED, &["removed already"])?;

        // Nobody talks to it any more, so that nobody can be told; it takes itself off its machine all the same.
        let left = b.vpi(&["leave", "home", "--json"])?.json()?;
        ensure!(left["told"] == 0, "{left}");
        nothing_is_left_of_home(&b)?;
        Ok(())
    });
}

#[test]
fn leaving_tells_the_others_and_leaves_nothing_behind() {
    scenario("leave", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        let (a, b) = (&pair.a.host, &pair.b.host);
        b.vpi(&["ping", "a", "-c", "1"])?.success()?;
        a.vpi(&["leave", "home"])?.refused(REFUSED, &["admin"])?;
        b.vpi(&["leave", "nowhere"])?.refused(NOT_FOUND, &["nowhere"])?;
        let left = b.vpi(&["leave", "home", "--json"])?.json()?;
        ensure!(left == json!({"vpi": "home", "told": 1, "removed": ["vpi-home"]}), "{left}");
        nothing_is_left_of_home(b)?;
        state_becomes(a, "b", "removed")?;
        // The device keeps its key, and may found or join others.
        b.vpi(&["request-code"])?.success()?;
        b.vpi(&["create", "other"])?.success()?;
        Ok(())
    });
}

#[test]
fn a_revoked_invite_admits_nobody_and_invites_tells_it() {
    scenario("revoke", 2, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let none = a.host.vpi(&["invites", "home", "--json"])?.json()?;
        ensure!(none == json!({"vpi": "home", "invites": []}), "{none}");
        let token = a.invite(&["--name", "b", "--uses", "3"])?;
        let listed = a.host.vpi(&["invites", "home", "--json"])?.json()?["invites"][0].take();
        let facts = (&listed["name"], &listed["uses"], &listed["uses_left"], &listed["state"]);
        ensure!(facts == (&json!("b"), &json!(3), &json!(3), &json!("open")), "{listed}");
        let id = listed["invite"].as_str().context("no id")?;
        a.host.vpi(&["revoke", "home", "zzzz"])?.refused(NOT_FOUND, &["zzzz"])?;
        a.host.vpi(&["revoke", "home", &id[..8]])?.success()?;
        let listed = a.host.vpi(&["invites", "home", "--json"])?.json()?["invites"][0].take();
        ensure!(listed["state"] == "revoked", "{listed}");
        let b = lab.host("b")?;
        let _node = Node::start(b, &[])?;
        // A witness is silent about it: the joiner asks until it is stopped, and is not let in.
        let asking = b.command("timeout", &["10", &vpi_binary()?, "join", "--name", "b"]);
        let answer = finish(asking, &token, COMMAND_LIMIT)?;
        ensure!(answer.code == STOPPED, "{answer:#?}");
        ensure!(find_member(&a.host, "b")?.is_none(), "b was let in");
        Ok(())
    });
}

/// Waits until `host` shows the member `name` in this state.
fn state_becomes(host: &Host, name: &str, state: &str) -> Result<()> {
    wait::until(&format!("{} to show {name} as {state}", host.name), CHANGE_LIMIT, || {
        let member = find_member(host, name)?;
        Ok(member.is_some_and(|member| member["state"] == state).then_some(()))
    })
}

/// No device, no route, no table, and of the state folder nothing but the mark.
fn nothing_is_left_of_home(host: &Host) -> Result<()> {
    let asked = ["-c", "ip link; ip route show table all; nft list tables"];
    let said = host.run("sh", &asked, COMMAND_LIMIT)?.success()?.stdout;
    ensure!(!said.contains("vpi-home") && !said.contains("unreachable 127."), "{said}");
    let files = ["-c", "cd \"$0\" && find keys vpi -type f", &host.state.to_string_lossy()];
    let mut kept: Vec<_> =
        host.run("sh", &files, COMMAND_LIMIT)?.success()?.stdout.lines().map(str::to_owned).collect();
    kept.retain(|file| file != "keys/device" && file != "keys/device.copy" && !file.ends_with("/left"));
    ensure!(kept.is_empty(), "left behind: {kept:?}");
    ensure!(host.vpi(&["status", "--json"])?.json()?["vpis"] == json!([]));
    Ok(())
}

fn exposures(host: &Host) -> Result<Value> {
    Ok(host.vpi(&["exposures", "home", "--json"])?.json()?["vpis"][0].take())
}

fn table(host: &Host) -> Result<String> {
    let listed = host.run("nft", &["list", "table", "ip", "vpi-home"], COMMAND_LIMIT)?;
    Ok(listed.success()?.stdout)
}

/// Reads the text format of Prometheus, strictly: each family is HELP, TYPE and its samples, each name comes once,
/// counters end in `_total`, no two samples have the same labels. Returns labels and value by name.
fn parse(text: &str) -> Result<BTreeMap<String, Vec<(String, f64)>>> {
    let mut families: BTreeMap<String, Vec<(String, f64)>> = BTreeMap::new();
    let (mut helped, mut open) = (None, None);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').context("HELP without a text")?;
            ensure!(!help.is_empty() && !families.contains_key(name), "{line}");
            helped = Some(name);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').context("TYPE without a kind")?;
            ensure!(helped.take() == Some(name), "TYPE without HELP: {line}");
            ensure!(kind == "gauge" || kind == "counter", "{line}");
            ensure!((kind == "counter") == name.ends_with("_total"), "{line}");
            families.insert(name.to_owned(), Vec::new());
            open = Some(name);
        } else {
            let (sample, value) = line.rsplit_once(' ').with_context(|| format!("no value: {line}"))?;
            let (name, labels) = sample.split_once('{').map_or((sample, ""), |(name, rest)| (name, rest));
            ensure!(open == Some(name), "a sample outside its family: {line}");
            ensure!(labels.is_empty() || labels.ends_with("\"}"), "{line}");
            let of_name = families.get_mut(name).context("a family that was opened is there")?;
            ensure!(of_name.iter().all(|(known, _)| known != labels), "the same labels twice: {line}");
            of_name.push((labels.to_owned(), value.parse()?));
        }
    }
    Ok(families)
}
