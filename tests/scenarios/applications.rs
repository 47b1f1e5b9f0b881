//! Unchanged applications between members, by alias and by name: bulk, many connections, ssh, rsync, PostgreSQL, redis;
//! and which services members may reach.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::capture::{Capture, Frame};
use tests::rogue::packet::{TCP, UNREACHABLE};
use tests::service::{Postgres, Redis, Ssh};
use tests::traffic::{Listener, crowd, read_greeting, transfer};
use tests::{Host, Lab, Member, Pair, one_at_a_time, scenario, wait};

const GIB: u64 = 1 << 30;
const PORT: u16 = 8050;
const REDIS: u16 = 6379;
const PATIENCE: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(30);
/// How soon a refusal must come: at once, on a machine that may be busy.
const AT_ONCE: Duration = Duration::from_millis(500);
/// How long a change of exposures or policy may take to be in force.
const CHANGE_LIMIT: Duration = Duration::from_secs(2);
/// A port at which nobody listens.
const CLOSED: u16 = 9;
/// A reset that acknowledges, and where the flags stand in TCP's header.
const RST_ACK: u8 = 0x14;
const FLAGS_AT: usize = 13;

#[test]
fn one_gib_each_way_at_once_arrives_unchanged() {
    let _turn = one_at_a_time();
    scenario("gib", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        let (a, b) = (&pair.a.host, &pair.b.host);
        let (there, back) = thread::scope(|scope| {
            let there = scope.spawn(|| transfer(a, b, pair.a_to_b, GIB, 3));
            let back = transfer(b, a, pair.b_to_a, GIB, 4);
            (there.join().map_err(|_| anyhow!("a transfer panicked")), back)
        });
        let (there, back) = (there??, back?);
        println!("1 GiB each way at once: {:.0} and {:.0} Mbit/s", there.megabits(), back.megabits());
        Ok(())
    });
}

#[test]
fn five_hundred_connections_at_once_each_get_their_own_bytes() {
    scenario("crowd", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        crowd(&pair.b.host, &pair.a.host, pair.b_to_a, 500)
    });
}

#[test]
fn ssh_and_rsync_reach_a_member_by_alias_and_by_name_and_it_sees_the_callers_alias() {
    scenario("ssh", 2, |lab| {
        let (pair, ways) = pair_with_names(lab)?;
        let ssh = Ssh::start(&pair.b.host)?;
        for (from, address) in &ways {
            let said = ssh.run(from, address, "echo \"$SSH_CONNECTION\"")?;
            let words: Vec<_> = said.split_whitespace().collect();
            let (caller, called) = (pair.b_to_a.to_string(), pair.b.alias.to_string());
            ensure!(words.first() == Some(&caller.as_str()), "{address}: the caller is {said}, not {caller}");
            ensure!(words.get(2) == Some(&called.as_str()), "{address}: the called is {said}, not {called}");
            ssh.copy_tree(from, address).with_context(|| address.clone())?;
        }
        Ok(())
    });
}

#[test]
fn psql_queries_a_members_postgresql_by_alias_and_by_name() {
    scenario("psql", 2, |lab| {
        let (pair, ways) = pair_with_names(lab)?;
        let postgres = Postgres::start(&pair.b.host)?;
        for (from, address) in &ways {
            let caller = postgres.query(from, address, "select host(inet_client_addr())")?;
            ensure!(
                caller == pair.b_to_a.to_string(),
                "{address}: the caller is {caller}, not {}",
                pair.b_to_a
            );
            // 20 MB of rows: more than any buffer on the way.
            let rows = postgres.query(
                from,
                address,
                "select i, repeat(md5(i::text), 6) from generate_series(1, 100000) as i",
            )?;
            ensure!(rows.lines().count() == 100_000, "{address}: {} rows came", rows.lines().count());
            let last = rows.lines().last().unwrap_or_default();
            ensure!(last.starts_with("100000|14ee22eaba297944c96afdbe5b16c65b"), "{address}: {last}");
        }
        Ok(())
    });
}

#[test]
fn a_member_that_dials_a_closed_port_gets_a_reset_and_nothing_else() {
    scenario("closed", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        // No echo, with which it is pinged.
        let filter = format!("host {} and (tcp or icmp[0] == {UNREACHABLE})", pair.a_to_b);
        let seen = Capture::on_device(lab, &pair.a.host, "vpi-home", &filter, "seen")?;
        is_refused_at_once(&pair.a.host, SocketAddr::from((pair.a_to_b, CLOSED)))?;
        wait::until("a SYN and its answer", PATIENCE, || Ok((seen.frames()?.len() >= 2).then_some(())))?;
        let frames = seen.finish()?;
        let is_reset = |frame: &Frame| frame.protocol == TCP && frame.payload.get(FLAGS_AT) == Some(&RST_ACK);
        let answers: Vec<_> =
            frames.iter().filter(|frame| frame.source.ip() == IpAddr::V4(pair.a_to_b)).collect();
        ensure!(answers.len() == 1 && is_reset(answers[0]), "{answers:02x?}");
        Ok(())
    });
}

#[test]
fn a_service_on_127_0_0_1_is_refused_until_exposed_and_sees_the_callers_alias() {
    scenario("redis", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        let redis = Redis::start(&pair.b.host, REDIS)?;
        is_refused_at_once(&pair.a.host, SocketAddr::from((pair.a_to_b, REDIS)))?;
        pair.b.host.vpi(&["expose", "home", "tcp/6379"])?.success()?;
        let clients = wait::until("the exposed redis to answer", CHANGE_LIMIT, || {
            Ok(redis.ask_from(&pair.a.host, pair.a_to_b, &["CLIENT", "LIST"]).ok())
        })?;
        ensure!(clients.contains(&format!(" addr={}:", pair.b_to_a)), "{clients}");
        ensure!(redis.ask_from(&pair.a.host, pair.a_to_b, &["SET", "key", "of a"])? == "OK");
        let listed = pair.b.host.vpi(&["exposures", "home"])?.success()?.stdout;
        ensure!(listed.contains("6379"), "{listed}");
        pair.b.host.vpi(&["unexpose", "home", "tcp/6379"])?.success()?;
        wait::until("redis to be refused again", CHANGE_LIMIT, || {
            Ok(is_refused_at_once(&pair.a.host, SocketAddr::from((pair.a_to_b, REDIS))).ok())
        })
    });
}

#[test]
fn a_service_exposed_to_one_member_is_refused_to_the_other() {
    scenario("exposed-to", 3, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let token = a.invite(&["--uses", "2"])?;
        let (b, c) = (Member::join(lab.host("b")?, &token, &[])?, Member::join(lab.host("c")?, &token, &[])?);
        let redis = Redis::start(&a.host, REDIS)?;
        a.alias_of("b")?;
        a.host.vpi(&["expose", "home", "tcp/6379", "--to", "b"])?.success()?;
        let (b_to_a, c_to_a) = (b.alias_of("a")?, c.alias_of("a")?);
        wait::until("redis to answer b", CHANGE_LIMIT, || {
            Ok(redis.ask_from(&b.host, b_to_a, &["PING"]).ok())
        })?;
        is_refused_at_once(&c.host, SocketAddr::from((c_to_a, REDIS)))?;
        let clients = redis.ask_from(&b.host, b_to_a, &["CLIENT", "LIST"])?;
        ensure!(clients.contains(&format!(" addr={}:", a.alias_of("b")?)), "{clients}");
        Ok(())
    });
}

#[test]
fn a_server_on_every_address_is_reached_by_own_alias_and_not_by_exposed_only() {
    scenario("policy", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        let _listener = Listener::wildcard(&pair.b.host, PORT, "b")?;
        let target = SocketAddr::from((pair.a_to_b, PORT));
        let said = read_greeting(&pair.a.host, target, PATIENCE)?;
        ensure!(said == "b", "{said:?}");
        pair.b.host.vpi(&["policy", "home", "exposed-only"])?.success()?;
        wait::until("the policy to be in force", CHANGE_LIMIT, || {
            Ok(read_greeting(&pair.a.host, target, PATIENCE).is_err().then_some(()))
        })?;
        pair.b.host.vpi(&["policy", "home", "own-alias"])?.success()?;
        wait::until("the policy to be in force", CHANGE_LIMIT, || {
            Ok(read_greeting(&pair.a.host, target, PATIENCE).ok())
        })?;
        Ok(())
    });
}

/// Two members, and the ways in which programs on `a` can name `b`: by alias, by a name that `vpi hosts --install` wrote, by
/// one that the node's DNS server knows. Each is the host, as its programs see it, and the word.
fn pair_with_names(lab: &Lab) -> Result<(Pair, [(Host, String); 3])> {
    let at = |name: &str| lab.evidence().join(name);
    fs::write(at("settings.toml"), "dns = \"127.0.0.1:53\"\n")?;
    fs::write(at("hosts"), "127.0.0.1 localhost\n")?;
    fs::write(at("resolv.conf"), "nameserver 127.0.0.1\n")?;
    let pair = Pair::join(lab, &["--config", &at("settings.toml").to_string_lossy()])?;
    let by_file = pair.a.host.seeing(&at("hosts"), "/etc/hosts");
    by_file.vpi(&["hosts", "--install"])?.success()?;
    let by_dns = pair.a.host.seeing(&at("resolv.conf"), "/etc/resolv.conf");
    let name = || "b.home.vpi".to_owned();
    let ways = [(pair.a.host.clone(), pair.a_to_b.to_string()), (by_file, name()), (by_dns, name())];
    Ok((pair, ways))
}

/// Refused by a reset, not by a deadline.
fn is_refused_at_once(from: &Host, target: SocketAddr) -> Result<()> {
    // The first packet to a member may have to wait for a link; it must not be taken for the service's answer.
    from.run("ping", &["-c", "1", "-W", "5", &target.ip().to_string()], LIMIT)?.success()?;
    let begin = Instant::now();
    let error = read_greeting(from, target, PATIENCE).err().with_context(|| format!("{target} answers"))?;
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    ensure!(kind == Some(std::io::ErrorKind::ConnectionRefused), "{target}: {error:#}");
    ensure!(begin.elapsed() <= AT_ONCE, "refused only after {:?}", begin.elapsed());
    Ok(())
}
