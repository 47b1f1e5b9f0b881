//! The drop stance: whatever is not from a member gets nothing, as seen on the wire.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::capture::{Capture, Frame};
use tests::probe::{
    KINDS, MULTICAST, Probe, Silence, besiege, knock, listening, lost_in_queue, probes, unasked, was_a_siege,
};
use tests::traffic::{EchoServer, Flow, Listener, read_greeting};
use tests::{Host, Lab, Member, Pair, one_at_a_time, scenario, wait};

const PROBES: usize = 100_000;
/// The longest that the member may go unserved under siege, on a machine that others load as well.
const GAP_LIMIT: Duration = Duration::from_secs(2);
const SEED: u64 = 0x5eed;
/// Handshakes to record besides the first.
const HANDSHAKES: usize = 3;

#[test]
fn a_hundred_thousand_probes_of_a_stranger_get_no_answer_and_do_no_harm() {
    let _turn = one_at_a_time();
    scenario("silence", 3, |lab| {
        let (pair, recorded) = recorded_members(lab)?;
        let (a, b) = (&pair.a, &pair.b);
        let stranger = lab.host("c")?;
        let ports = ports_of(&a.host, a.port()?)?;
        let probes = probes(PROBES, &recorded, SEED);
        let (busy, idle) = probes.split_at(PROBES / 2);
        let server = EchoServer::start(&a.host, 0)?;
        let flow = Flow::start(&b.host, (pair.b_to_a, server.port).into(), Duration::from_millis(10))?;
        flow.first_echo_after(Instant::now(), Duration::from_secs(5))?;
        silent(lab, (stranger, a), &ports, busy, b)?;
        let gap = flow.longest_gap()?;
        ensure!(gap < GAP_LIMIT, "the member was not served for {gap:?}");
        drop((flow, server));
        let silence = silent(lab, (stranger, a), &ports, idle, b)?;
        let refused = knock(lab, stranger, &a.host)?;
        let lost = lost_in_queue(&a.host, a.port()?)?;
        ensure!(lost == 0, "{lost} probes were lost in the kernel before the node read them");
        ensure!(ports_of(&a.host, a.port()?)? == ports, "other sockets than before");
        println!(
            "{PROBES} probes of {KINDS} kinds ({} genuine), {refused} SYNs refused by the kernel: no answer",
            recorded.len()
        );
        let _listener = Listener::wildcard(&a.host, 8024, "still here")?;
        let said = read_greeting(&b.host, SocketAddr::from((pair.b_to_a, 8024)), Duration::from_secs(5))?;
        ensure!(said == "still here", "{said:?}");
        // The longest siege and what a quiet node says by itself in the same time.
        let quiet = unasked(lab, &a.host, &[b.host.address], silence.lasted)?;
        ensure!(
            silence.announced <= quiet + 1,
            "{} packets under siege, {quiet} in quiet",
            silence.announced
        );
        Ok(())
    });
}

#[test]
fn genuine_datagrams_replayed_after_a_restart_get_no_answer() {
    let _turn = one_at_a_time();
    scenario("replay", 3, |lab| {
        let (mut pair, recorded) = recorded_members(lab)?;
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
        let probes = probes(200, &[], SEED);
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

/// One siege of every port of the node, and of the group to which nodes on a lan listen.
fn silent(
    lab: &Lab,
    (stranger, besieged): (&Host, &Member),
    ports: &[u16],
    probes: &[Probe],
    member: &Member,
) -> Result<Silence> {
    let mut to: Vec<_> = ports.iter().map(|port| SocketAddr::from((besieged.host.address, *port))).collect();
    let group = SocketAddr::from(MULTICAST);
    // Most at the data socket: it has more to say.
    to.extend([to[0], to[0], group]);
    let silence = besiege(lab, (stranger, &besieged.host), &to, probes, &[member.host.address])?;
    was_a_siege(&silence, probes.len())?;
    Ok(silence)
}

/// Two members, and every datagram that `a` took from `b`: the join's question, handshakes, data. `b` is ended by
/// kill -9 in between and begins again with a handshake, so that more than one is recorded.
fn recorded_members(lab: &Lab) -> Result<(Pair, Vec<Vec<u8>>)> {
    let wire = Capture::at_port(lab, "a", "udp", "genuine", &[])?;
    let mut pair = Pair::join(lab, &[])?;
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
    let (from, to) =
        (IpAddr::V4(pair.b.host.address), SocketAddr::from((pair.a.host.address, pair.a.port()?)));
    let is_taken = |frame: &Frame| frame.source.ip() == from && frame.destination == to;
    let recorded: Vec<_> = wire.finish()?.into_iter().filter(is_taken).map(|frame| frame.payload).collect();
    for first in [0x80, 0x81] {
        ensure!(
            recorded.iter().any(|bytes| bytes.first() == Some(&first)),
            "no datagram {first:#x} was recorded"
        );
    }
    Ok((pair, recorded))
}
