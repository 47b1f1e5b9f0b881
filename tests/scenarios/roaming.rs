//! Machines that move to another network while they are used, and machines whose clocks are wrong.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::member::find_member;
use tests::traffic::{EchoServer, Flow, Listener, read_greeting, transfer};
use tests::{Clock, Host, Member, Pair, internet, one_at_a_time, scenario, wait};

const MIB: u64 = 1 << 20;
const PORT: u16 = 8040;
/// *Promised* is a second without packets when an address changes, and printed is what it was; the rest is for a machine that is
/// busy with other scenarios.
const GAP: Duration = Duration::from_secs(3);
/// *Promised*: how long members with wrong clocks may take to connect, or to say why not.
const VERDICT: Duration = Duration::from_secs(5);
const STEADY: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_transfers_sender_that_moves_goes_on_within_a_second() {
    moves("moves-sender", |pair| &pair.a, true);
}

#[test]
fn a_transfers_receiver_that_moves_goes_on_within_a_second() {
    moves("moves-receiver", |pair| &pair.b, true);
}

/// Whoever only answers has nothing to send when it moves: nobody hears of its address unless it says so by itself.
#[test]
fn a_member_that_only_answers_and_moves_goes_on_within_a_second() {
    moves("moves-listener", |pair| &pair.b, false);
}

/// `a` sends to `b` a steady flow whose echoes are measured, and bulk if it is wanted; one of them takes another address.
/// The link is slow enough that the transfer is still under way then.
fn moves(name: &str, mover: impl Fn(&Pair) -> &Member, with_bulk: bool) {
    let _turn = one_at_a_time();
    internet(name, 2, &["--delay", "5ms", "--rate", "50mbit", "--queue", "256k"], |lab| {
        let pair = Pair::join(lab, &[])?;
        let (a, b) = (&pair.a.host, &pair.b.host);
        let server = EchoServer::start(b, 0)?;
        let flow = Flow::start(a, SocketAddr::from((pair.a_to_b, server.port)), STEADY)?;
        wait::until("100 echoes", LIMIT, || Ok((flow.count() > 100).then_some(())))?;
        thread::scope(|scope| {
            let bulk = with_bulk.then(|| scope.spawn(|| transfer(a, b, pair.a_to_b, 16 * MIB, 5)));
            thread::sleep(Duration::from_secs(1));
            ensure!(
                !bulk.as_ref().is_some_and(thread::ScopedJoinHandle::is_finished),
                "the transfer was over before the move"
            );
            let host = &mover(&pair).host;
            let (to, moved_at) = (elsewhere(host), Instant::now());
            host.renumber(to, 29, Ipv4Addr::from(u32::from(to) - 1))?;
            let back = flow.first_echo_after(moved_at, LIMIT)?;
            let gap = flow.longest_gap_since(moved_at)?;
            let rate =
                bulk.map(|bulk| bulk.join().map_err(|_| anyhow!("the transfer panicked"))?).transpose()?;
            println!(
                "{name}: first echo {} ms after the move, longest gap {} ms; transfer intact: {:?} Mbit/s",
                back.as_millis(),
                gap.as_millis(),
                rate.map(|transfer| transfer.megabits().round()),
            );
            ensure!(gap <= GAP, "nothing came for {gap:?}");
            let other = if host.name == "a" { b } else { a };
            wait::until(&format!("{} to be seen at {to}", host.name), LIMIT, || {
                let seen = find_member(other, &host.name)?.context("a member")?;
                let remote = seen["path"]["remote"].as_str().unwrap_or_default();
                Ok(remote.starts_with(&format!("{to}:")).then_some(()))
            })
        })
    });
}

/// The address that stands for the same link in another network (`netns-scripts/topologies/internet.sh`).
fn elsewhere(host: &Host) -> Ipv4Addr {
    let [.., number] = host.address.octets();
    Ipv4Addr::new(198, 51, 100, number)
}

#[test]
fn members_whose_clocks_are_a_hundred_seconds_apart_connect_or_say_why() {
    scenario("clock-apart", 2, |lab| {
        for offset in ["+100", "-100"] {
            let mut pair = settled(lab.host("a")?, lab.host("b")?)?;
            pair.restart_b(&Clock::fixed(offset))?;
            pair.connects_or_says_why(&format!("with a clock at {offset} s"))?;
        }
        Ok(())
    });
}

#[test]
fn a_member_that_wakes_in_1970_connects_or_says_why() {
    scenario("clock-1970", 2, |lab| {
        let mut pair = settled(lab.host("a")?, lab.host("b")?)?;
        pair.restart_b(&Clock::fixed("@1970-01-01 00:00:30"))?;
        let log = fs::read_to_string(&pair.b.host.log)?;
        ensure!(log.contains("1970-01-01T00:00"), "the node does not live in 1970");
        pair.connects_or_says_why("in 1970")
    });
}

#[test]
fn a_clock_stepped_by_an_hour_after_the_start_ends_nothing() {
    scenario("clock-step", 2, |lab| {
        for step in ["+3600", "-3600"] {
            let mut pair = settled(lab.host("a")?, lab.host("b")?)?;
            let clock = Clock::changing(lab.evidence().join("clock"))?;
            pair.restart_b(&clock)?;
            pair.connects()?.context("no connection before the step")?;
            clock.set(step)?;
            // What runs goes on, and a peer that starts over needs a handshake across the difference.
            pair.connects()?.with_context(|| format!("a step of {step} s broke what ran"))?;
            pair.a.kill()?;
            pair.a.restart()?;
            pair.connects_or_says_why(&format!("after a step of {step} s"))?;
        }
        Ok(())
    });
}

/// Two members, and a listener on `a` that `b` calls.
struct Settled {
    a: Member,
    b: Member,
    b_to_a: Ipv4Addr,
    _listener: Listener,
}

/// Founds and joins with right clocks; from the first call on, both have each other's address.
fn settled(a: &Host, b: &Host) -> Result<Settled> {
    for host in [a, b] {
        if host.state.join("keys").exists() {
            host.vpi(&["down"])?.success()?;
            fs::remove_dir_all(&host.state)?;
            fs::create_dir(&host.state)?;
            fs::set_permissions(&host.state, std::os::unix::fs::PermissionsExt::from_mode(0o750))?;
        }
    }
    let a = Member::found(a, &[])?;
    let b = Member::join(b, &a.invite(&[])?, &[])?;
    let listener = Listener::wildcard(&a.host, PORT, "a")?;
    let b_to_a = b.alias_of("a")?;
    a.alias_of("b")?;
    let settled = Settled { a, b, b_to_a, _listener: listener };
    settled.connects()?.context("no connection with right clocks")?;
    Ok(settled)
}

impl Settled {
    fn restart_b(&mut self, clock: &Clock) -> Result<()> {
        self.b.stop()?;
        self.b.node = Some(clock.start_node(&self.b.host)?);
        Ok(())
    }

    /// How long `b` needs to reach `a`; nothing if it does not within [`VERDICT`].
    fn connects(&self) -> Result<Option<Duration>> {
        let (host, target, begin) = (&self.b.host, SocketAddr::from((self.b_to_a, PORT)), Instant::now());
        while begin.elapsed() < VERDICT {
            let left = VERDICT.saturating_sub(begin.elapsed()).max(Duration::from_millis(1));
            match read_greeting(host, target, left) {
                Ok(said) => {
                    ensure!(said == "a", "{said:?}");
                    return Ok(Some(begin.elapsed()));
                }
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
        Ok(None)
    }

    fn connects_or_says_why(&self, when: &str) -> Result<()> {
        if let Some(took) = self.connects()? {
            println!("{when}: connected after {} ms", took.as_millis());
            return Ok(());
        }
        let said = [&self.a.host, &self.b.host].map(|host| host.vpi(&["status"]));
        let says_why = said.iter().flatten().any(|answer| answer.stdout.to_lowercase().contains("clock"));
        ensure!(
            says_why,
            "{when}: no connection within {VERDICT:?}, and status does not name the clock: {said:#?}"
        );
        println!("{when}: no connection, and status names the clock");
        Ok(())
    }
}
