//! Two members whose NATs let nobody in talk by way of a fellow member, and of another when that one dies.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::member::{Member, find_member, group};
use tests::traffic::{EchoServer, Flow, WebServer, fetch};
use tests::{Nat, Site, nats, one_at_a_time, wait};

const LIMIT: Duration = Duration::from_secs(30);
/// The promise: how long nothing comes when the member in between dies.
const GAP_LIMIT: Duration = Duration::from_secs(3);

#[test]
fn two_members_behind_random_nats_talk_by_way_of_a_third_and_of_a_fourth_when_it_dies() {
    let _turn = one_at_a_time();
    let sites = [Nat::Random, Nat::Random].map(Site::behind);
    nats("relay", 2, &sites, |lab| {
        let mut members = group(lab, &["p1", "p2", "a", "b"])?;
        for member in &members[2..] {
            for public in ["p1", "p2"] {
                let alias = member.alias_of(public)?.to_string();
                let ping = member.host.run("ping", &["-c", "1", "-W", "10", &alias], LIMIT)?;
                ping.success().with_context(|| format!("{} to {public}", member.host.name))?;
            }
        }
        let (a, b) = (&members[2], &members[3]);
        let alias = a.alias_of("b")?;
        let _server = WebServer::start(&b.host, 8_080, "by way of another")?;
        let since = Instant::now();
        let page = fetch(&a.host, &format!("http://{alias}:8080/"))?;
        println!("the first page came by way of another after {:.2} s", since.elapsed().as_secs_f64());
        ensure!(page == "by way of another", "{page}");
        let used = relay_of(a)?;
        let shown = a.host.vpi(&["status"])?.success()?.stdout;
        ensure!(shown.contains(&format!("relayed via {used}")), "{shown}");

        let echo = EchoServer::start(&b.host, 0)?;
        let flow = Flow::start(&a.host, SocketAddr::from((alias, echo.port)), Duration::from_millis(10))?;
        // The second way is asked for and measured meanwhile.
        let started_at = Instant::now();
        flow.first_echo_after(started_at + Duration::from_secs(5), LIMIT)?;
        let used = relay_of(a)?;
        let relay = members.iter_mut().find(|member| member.host.name == used);
        let killed_at = Instant::now();
        relay.with_context(|| format!("{used} is none of the members"))?.kill()?;
        flow.first_echo_after(killed_at + Duration::from_secs(4), LIMIT)?;
        let gap = flow.longest_gap()?;
        println!("{used} died: nothing came for {:.2} s", gap.as_secs_f64());
        ensure!(gap <= GAP_LIMIT, "nothing came for {gap:?}");
        let other = relay_of(&members[2])?;
        ensure!(other != used, "{used} is dead, and said to pass on");
        Ok(())
    });
}

/// The member by way of which `a` reaches `b`, as it says itself.
fn relay_of(a: &Member) -> Result<String> {
    wait::until("a to reach b by way of another", LIMIT, || {
        let Some(b) = find_member(&a.host, "b")? else { return Ok(None) };
        let is_relayed = b["state"] == "relayed" && b["path"]["kind"] == "relayed";
        Ok(b["path"]["via"].as_str().filter(|_| is_relayed).map(str::to_owned))
    })
}
