//! The drop stance: whatever is not from a member gets nothing, as seen on the wire.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::capture::{Capture, Frame};
use tests::probe::{Probe, besiege, lost_in_queue, probes, was_a_siege};
use tests::traffic::{EchoServer, Flow, Listener, read_greeting};
use tests::{Lab, Pair, one_at_a_time, scenario, wait};

const PROBES: usize = 10_000;
const SEED: u64 = 0x5eed;
/// Handshakes to record besides the first.
const HANDSHAKES: usize = 3;

#[test]
fn ten_thousand_probes_of_a_stranger_get_no_answer_and_do_no_harm() {
    let _turn = one_at_a_time();
    scenario("silence", 3, |lab| {
        let (pair, recorded) = recorded_members(lab)?;
        let (a, b) = (&pair.a, &pair.b);
        let port = a.port()?;
        let probes = probes(PROBES, &recorded, SEED);
        let silence = besiege(lab, lab.host("c")?, (&a.host, port), &probes, &[b.host.address])?;
        was_a_siege(&silence, PROBES)?;
        let lost = lost_in_queue(&a.host, port)?;
        ensure!(lost == 0, "{lost} probes were lost in the kernel before the node read them");
        println!("{PROBES} probes of {} kinds ({} genuine): no answer", silence.kinds.len(), recorded.len());
        let _listener = Listener::wildcard(&a.host, 8024, "still here")?;
        let said = read_greeting(&b.host, SocketAddr::from((pair.b_to_a, 8024)), Duration::from_secs(5))?;
        ensure!(said == "still here", "{said:?}");
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
        let silence = besiege(lab, lab.host("c")?, (&pair.a.host, port), &probes, &[pair.b.host.address])?;
        ensure!(silence.arrived == probes.len(), "{} of {} arrived", silence.arrived, probes.len());
        Ok(())
    });
}

#[test]
fn a_responder_in_the_nodes_place_is_detected_by_the_same_check() {
    let _turn = one_at_a_time();
    scenario("answers", 3, |lab| {
        let (target, stranger) = (lab.host("a")?, lab.host("c")?);
        let responder = EchoServer::start(target, 0)?;
        let probes = probes(200, &[], SEED);
        let found = besiege(lab, stranger, (target, responder.port), &probes, &[]);
        ensure!(
            found.as_ref().is_err_and(|error| error.to_string().contains("answered a stranger")),
            "{found:?}"
        );
        drop(responder);
        let found = besiege(lab, stranger, (target, 9), &probes, &[]);
        ensure!(
            found.as_ref().is_err_and(|error| error.to_string().contains("answered a stranger")),
            "{found:?}"
        );
        Ok(())
    });
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
