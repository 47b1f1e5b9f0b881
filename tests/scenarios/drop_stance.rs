//! The drop stance: whatever is not from a member gets nothing, as seen on the wire: a stranger's, and what somebody who was
//! removed can make with the keys of that time.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::capture::{Capture, Frame};
use tests::probe::{
    MULTICAST, Material, Probe, besiege, knock, listening, lost_in_queue, probes, unasked, was_a_siege,
};
use tests::traffic::{EchoServer, Flow, Listener, read_greeting};
use tests::{Host, Lab, Member, Pair, Rogue, one_at_a_time, scenario, wait};

const PROBES: usize = 100_000;
/// The longest that the member may go unserved under siege, on a machine that others load as well.
const GAP_LIMIT: Duration = Duration::from_secs(2);
const SEED: u64 = 0x5eed;
/// Handshakes to record besides the first.
const HANDSHAKES: usize = 3;
const ROGUE: &str = env!("CARGO_BIN_EXE_rogue");
/// Datagrams of each kind that the ex-member makes for one siege: nearly one for each probe of that kind.
const CRAFTED: usize = 1_000;
/// How long members may take to know a new epoch.
const EPOCH_LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_hundred_thousand_probes_get_no_answer_and_do_no_harm() {
    let _turn = one_at_a_time();
    scenario("silence", 4, |lab| {
        let (Removal { pair, mut exile, replayed }, recorded) = with_an_ex_member(lab)?;
        let (a, b, stranger) = (&pair.a, &pair.b, lab.host("c")?);
        let ports = ports_of(&a.host, a.port()?)?;
        let to = besieged(&a.host, &ports);
        let mut siege = |seed| {
            // Made for each anew: what is older than two minutes is dropped for that.
            let crafted = crafted(&mut exile, &replayed)?;
            let material = Material { recorded: recorded.clone(), crafted };
            let probes = probes(PROBES / 2, &material, seed);
            let silence = besiege(lab, (stranger, &a.host), &to, &probes, &[b.host.address])?;
            was_a_siege(&silence, probes.len(), material.kinds())?;
            anyhow::Ok(silence)
        };
        let before = drops(&a.host)?;
        let server = EchoServer::start(&a.host, 0)?;
        let flow = Flow::start(&b.host, (pair.b_to_a, server.port).into(), Duration::from_millis(10))?;
        flow.first_echo_after(Instant::now(), Duration::from_secs(5))?;
        let busy = siege(SEED)?;
        let gap = flow.longest_gap()?;
        ensure!(gap < GAP_LIMIT, "the member was not served for {gap:?}");
        drop((flow, server));
        let idle = siege(SEED + 1)?;
        were_judged(&before, &drops(&a.host)?)?;
        let refused = knock(lab, stranger, &a.host)?;
        let lost = lost_in_queue(&a.host, a.port()?)?;
        ensure!(lost == 0, "{lost} probes were lost in the kernel before the node read them");
        ensure!(ports_of(&a.host, a.port()?)? == ports, "other sockets than before");
        println!(
            "{PROBES} probes of {} kinds ({} genuine, {} of an ex-member), {refused} SYNs refused by the kernel: no answer",
            idle.kinds.len(),
            recorded.len(),
            replayed.len()
        );
        let _listener = Listener::wildcard(&a.host, 8024, "still here")?;
        let said = read_greeting(&b.host, SocketAddr::from((pair.b_to_a, 8024)), Duration::from_secs(5))?;
        ensure!(said == "still here", "{said:?}");
        // The longer siege and what a quiet node says by itself in the same time.
        let quiet = unasked(lab, &a.host, &[b.host.address], idle.lasted.max(busy.lasted))?;
        for announced in [busy.announced, idle.announced] {
            ensure!(announced <= quiet + 1, "{announced} packets under siege, {quiet} in quiet");
        }
        Ok(())
    });
}

#[test]
fn genuine_datagrams_replayed_after_a_restart_get_no_answer() {
    let _turn = one_at_a_time();
    scenario("replay", 3, |lab| {
        let wire = Capture::at_port(lab, "a", "udp", "genuine", &[])?;
        let mut pair = Pair::join(lab, &[])?;
        let recorded = recorded_at(wire, &mut pair)?;
        let port = pair.a.port()?;
        // What a start announces on the network is said to nobody in particular; the siege begins behind it.
        let own = format!("udp dst port 41413 and src host {}", pair.a.host.address);
        let start = Capture::at_port(lab, "a", &own, "start", &[])?;
        pair.a.kill()?;
        pair.a.restart()?;
        wait::until("the announcements of a start", Duration::from_secs(10), || {
            Ok((start.frames()?.len() >= 3).then_some(()))
        })?;
        // As they were, one after the other: no memory of them can have outlived the restart.
        let probes: Vec<_> =
            recorded.into_iter().map(|bytes| Probe { kind: "genuine, after a restart", bytes }).collect();
        let to = [SocketAddr::from((pair.a.host.address, port))];
        let silence = besiege(lab, (lab.host("c")?, &pair.a.host), &to, &probes, &[pair.b.host.address])?;
        ensure!(silence.arrived == probes.len(), "{} of {} arrived", silence.arrived, probes.len());
        Ok(())
    });
}

#[test]
fn a_responder_in_the_nodes_place_is_detected_by_the_same_checks() {
    let _turn = one_at_a_time();
    scenario("answers", 3, |lab| {
        let (target, stranger) = (lab.host("a")?, lab.host("c")?);
        let responder = EchoServer::start(target, 0)?;
        let probes = probes(200, &Material::default(), SEED);
        let found =
            |port: u16| besiege(lab, (stranger, target), &[(target.address, port).into()], &probes, &[]);
        for answered in [found(responder.port), found(9)] {
            let is_seen = |error: &anyhow::Error| error.to_string().contains("answered a stranger");
            ensure!(answered.as_ref().is_err_and(is_seen), "{answered:?}");
        }
        let _listener = Listener::wildcard(target, 8024, "open")?;
        let knocked = knock(lab, stranger, target);
        let is_seen = |error: &anyhow::Error| error.to_string().contains("opened a port");
        ensure!(knocked.as_ref().is_err_and(is_seen), "{knocked:?}");
        Ok(())
    });
}

/// The ports at which the node listens: UDP only, one for its VPI and, where it takes part in lan announcements, theirs.
/// Nothing else may listen on that host.
fn ports_of(host: &Host, port: u16) -> Result<Vec<u16>> {
    let found = listening(host)?;
    let (own, shared) = (format!("udp {port}"), format!("udp {}", MULTICAST.1));
    ensure!(found.contains(&own), "{found:?} without {own}");
    ensure!(found.iter().all(|socket| *socket == own || *socket == shared), "{found:?}");
    ensure!(found.len() == found.iter().collect::<BTreeSet<_>>().len(), "{found:?}");
    Ok(if found.contains(&shared) { vec![port, MULTICAST.1] } else { vec![port] })
}

/// Every port of the node, and the group to which nodes on a lan listen.
fn besieged(host: &Host, ports: &[u16]) -> Vec<SocketAddr> {
    let mut to: Vec<_> = ports.iter().map(|port| SocketAddr::from((host.address, *port))).collect();
    // Most at the data socket: it has more to say.
    to.extend([to[0], to[0], MULTICAST.into()]);
    to
}

/// Two members, and one that was removed, on `d`.
struct Removal {
    pair: Pair,
    /// Has the state folder of the removed one.
    exile: Rogue,
    /// What `a` took from it while it was a member.
    replayed: Vec<Vec<u8>>,
}

/// Also what `a` took from `b`, under the epochs before the removal and behind it.
fn with_an_ex_member(lab: &Lab) -> Result<(Removal, Vec<Vec<u8>>)> {
    let wire = |name| Capture::at_port(lab, "a", "udp", name, &[]);
    let (genuine, exiles) = (wire("genuine")?, wire("exile")?);
    let mut pair = Pair::join(lab, &[])?;
    // It has an epoch that is older than the newest that it holds.
    let mut removed = Member::join(lab.host("d")?, &pair.a.invite(&[])?, &[])?;
    pair.a.invite(&["--name", "spare"])?;
    pair.a.revoke("spare")?;
    in_epoch(&removed.host, 1)?;
    removed
        .host
        .run("ping", &["-c", "20", "-i", "0.05", &removed.alias_of("a")?.to_string()], EPOCH_LIMIT)?
        .success()?;
    pair.a.host.vpi(&["remove", "home", "d"])?.success()?;
    in_epoch(&pair.b.host, 2)?;
    removed.stop()?;
    let replayed = taken(exiles, &removed.host, &pair.a)?;
    let recorded = recorded_at(genuine, &mut pair)?;
    let exile = Rogue::start(&removed.host, ROGUE)?;
    Ok((Removal { pair, exile, replayed }, recorded))
}

/// What a kind of probe is called, and its datagrams.
type Kind = (&'static str, Vec<Vec<u8>>);

/// What somebody who was removed can send, with the keys of that time and a clock that is right.
fn crafted(exile: &mut Rogue, replayed: &[Vec<u8>]) -> Result<Vec<Kind>> {
    let mut made = vec![("an ex-member's own, replayed", replayed.to_vec())];
    for (kind, order) in [
        ("an ex-member's initiation, its newest epoch", json!({"sort": "initiation"})),
        ("an ex-member's initiation, an older epoch", json!({"sort": "initiation", "epoch": 0})),
        ("an old epoch's initiation, a key of nobody", json!({"sort": "initiation", "made_up_static": true})),
        ("an old epoch's question, an invite of nobody", json!({"sort": "question"})),
        ("an old epoch's announcement", json!({"sort": "announcement"})),
    ] {
        let mut order = order;
        for (field, value) in [("do", json!("make")), ("with", json!("a")), ("times", json!(CRAFTED))] {
            order[field] = value;
        }
        made.push((kind, exile.make(&order)?));
    }
    Ok(made)
}

/// The node opened veils, and looked at who made what was inside: only a holder of keys gets that far.
fn were_judged(before: &Value, after: &Value) -> Result<()> {
    for reason in ["not_member", "rate_limited", "veil_replayed", "veil_type"] {
        let count = |drops: &Value| drops[reason].as_u64().unwrap_or(0);
        ensure!(count(after) > count(before), "nothing was dropped as {reason}: {after}");
    }
    Ok(())
}

/// What the node on `host` dropped, by reason.
fn drops(host: &Host) -> Result<Value> {
    Ok(host.vpi(&["status", "home", "--drops", "--json"])?.json()?["vpis"][0]["drops"].take())
}

/// Waits until the node on `host` is in this epoch, or a later one.
fn in_epoch(host: &Host, epoch: u64) -> Result<()> {
    wait::until(&format!("{} to be in epoch {epoch}", host.name), EPOCH_LIMIT, || {
        let status = host.vpi(&["status", "home", "--json"])?.json()?;
        Ok((status["vpis"][0]["epoch"].as_u64() >= Some(epoch)).then_some(()))
    })
}

/// What `a` takes from `b`, of all that `wire` sees: the join's question, handshakes, data. `b` is ended by kill -9 in
/// between and begins again with a handshake, so that more than one is recorded.
fn recorded_at(wire: Capture, pair: &mut Pair) -> Result<Vec<Vec<u8>>> {
    let server = EchoServer::start(&pair.a.host, 0)?;
    let target = SocketAddr::from((pair.b_to_a, server.port));
    let flow = Flow::start(&pair.b.host, target, Duration::from_millis(10))?;
    for _ in 0..HANDSHAKES {
        let before = flow.count();
        wait::until("50 echoes", Duration::from_secs(5), || Ok((flow.count() >= before + 50).then_some(())))?;
        pair.b.kill()?;
        pair.b.restart()?;
    }
    flow.first_echo_after(Instant::now(), Duration::from_secs(5))?;
    drop(flow);
    taken(wire, &pair.b.host, &pair.a)
}

/// The datagrams that `member` took from `from`, of all that `wire` saw; veiled ones and data among them.
fn taken(wire: Capture, from: &Host, member: &Member) -> Result<Vec<Vec<u8>>> {
    let (from, to) = (IpAddr::V4(from.address), SocketAddr::from((member.host.address, member.port()?)));
    let is_taken = |frame: &Frame| frame.source.ip() == from && frame.destination == to;
    let recorded: Vec<_> = wire.finish()?.into_iter().filter(is_taken).map(|frame| frame.payload).collect();
    for first in [0x80, 0x81] {
        ensure!(
            recorded.iter().any(|bytes| bytes.first() == Some(&first)),
            "no datagram {first:#x} was recorded"
        );
    }
    Ok(recorded)
}
