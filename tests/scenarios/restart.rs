//! kill -9 under traffic: a restart needs no repair, and packets flow again at once, whoever speaks first.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::traffic::{EchoServer, Flow};
use tests::{Member, Pair, one_at_a_time, scenario};

const KILLS: usize = 20;
const INTERVAL: Duration = Duration::from_millis(10);
/// From the ready line to the first echo.
const BACK_WITHIN: Duration = Duration::from_secs(2);
/// How long the first echo is waited for, so that a failure tells by how much it was late.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn the_founder_killed_twenty_times_is_back_within_two_seconds() {
    scenario("kill-a", 2, |lab| {
        let mut pair = Pair::join(lab, &[])?;
        let (to_b, to_a) = (pair.a_to_b, pair.b_to_a);
        kill_often(&mut pair.a, &pair.b, to_b, to_a)
    });
}

#[test]
fn the_joiner_killed_twenty_times_is_back_within_two_seconds() {
    scenario("kill-b", 2, |lab| {
        let mut pair = Pair::join(lab, &[])?;
        let (to_b, to_a) = (pair.a_to_b, pair.b_to_a);
        kill_often(&mut pair.b, &pair.a, to_a, to_b)
    });
}

/// Kills `victim` under a flow of 100 datagrams a second, half of the times sent by itself, half by its peer.
fn kill_often(victim: &mut Member, peer: &Member, to_peer: Ipv4Addr, to_victim: Ipv4Addr) -> Result<()> {
    let _turn = one_at_a_time();
    let servers = [EchoServer::start(&peer.host, 0)?, EchoServer::start(&victim.host, 0)?];
    for (speaker, from, target) in [
        ("itself", victim.host.clone(), SocketAddr::from((to_peer, servers[0].port))),
        ("its peer", peer.host.clone(), SocketAddr::from((to_victim, servers[1].port))),
    ] {
        let flow = Flow::start(&from, target, INTERVAL)?;
        let mut slowest = Duration::ZERO;
        for round in 1..=KILLS / 2 {
            flow.first_echo_after(std::time::Instant::now(), PATIENCE)?;
            victim.kill()?;
            let ready_at = victim.restart()?.ready_at();
            let back = flow
                .first_echo_after(ready_at, PATIENCE)
                .with_context(|| format!("{speaker} speaks, restart {round}"))?;
            ensure!(back <= BACK_WITHIN, "{speaker} speaks, restart {round}: back after {back:?}");
            slowest = slowest.max(back);
        }
        println!(
            "{} killed {} times, {speaker} speaks: back after at most {slowest:?}",
            victim.host.name,
            KILLS / 2
        );
    }
    Ok(())
}
