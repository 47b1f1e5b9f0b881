//! Removal: who is removed is gone for everybody at once and gets nothing from anybody; who slept catches up through
//! any one member; two admins that remove at once agree; what a device may do that left, or was removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use tests::capture::Capture;
use tests::member::{find_member, group};
use tests::process::finish;
use tests::rogue::sign_charter;
use tests::topology::{COMMAND_LIMIT, vpi_binary};
use tests::traffic::{EchoServer, Flow, HeldConnection, transfer};
use tests::{Answer, Host, Member, Node, Rogue, one_at_a_time, scenario, wait};

const NOT_FOUND: i32 = 4;
const REFUSED: i32 = 5;
const ROGUE: &str = env!("CARGO_BIN_EXE_rogue");
/// Every connected member has closed its sessions with the target within this time (promised).
const CLOSED_WITHIN: Duration = Duration::from_secs(2);
/// Others are not disturbed for longer.
const GAP_LIMIT: Duration = Duration::from_secs(2);
/// How long members may take to link.
const LINK_LIMIT: Duration = Duration::from_secs(20);
/// How long members may take to be of one mind after a cut: an admin's node finds an epoch stale for up to 60 s.
const ONE_VIEW_WITHIN: Duration = Duration::from_secs(120);
/// Time for several questions, none of which is answered.
const ASKING: Duration = Duration::from_secs(4);
/// In which a late answer would come.
const PATIENCE: Duration = Duration::from_secs(1);
const BULK_BYTES: u64 = 8 << 20;
/// What is measured is the members, not how much two processors carry.
const BULK_PAUSE: Duration = Duration::from_millis(100);
/// The first byte of a veiled datagram (protocol/README §1).
const VEILED: &str = "udp[8] = 0x81";

#[test]
fn whoever_is_removed_is_cut_off_at_once_and_answered_by_nobody() {
    let _turn = one_at_a_time();
    scenario("gone", 5, |lab| {
        let records = [("a", "udp"), ("c", VEILED), ("e", VEILED)]
            .map(|(port, filter)| Capture::at_port(lab, port, filter, &format!("genuine-{port}"), &[]));
        let mut members = group(lab, &["a", "b", "c", "d"])?;
        // By an invite of its own: that of the others stays good.
        members.push(Member::join(lab.host("e")?, &members[0].invite(&[])?, &[])?);
        let spare = members[0].invite(&[])?;
        // The target has an epoch that is older than the newest that it holds.
        members[0].invite(&["--name", "spare"])?;
        members[0].revoke("spare")?;
        all_linked(&members)?;
        wait::until("the target to hold two epochs", LINK_LIMIT, || {
            Ok((epochs(&members[4].host)?.len() == 2).then_some(()))
        })?;
        let others = Others::start(&members)?;
        let (doomed, _echo) = flow(&members[3], &members[4])?;

        let removed_at = Instant::now();
        members[0].host.vpi(&["remove", "home", "e"])?.success()?;
        closed_by_all(&members[..4], removed_at)?;
        let silence = Capture::at_port(lab, "e", "udp or icmp", "silence", &[])?;
        let echoes = doomed.count();
        let recorded = records.into_iter().map(|record| record?.finish()).collect::<Result<Vec<_>>>()?;
        let recorded: Vec<Vec<u8>> = recorded.into_iter().flatten().map(|frame| frame.payload).collect();

        let target = members[4].host.clone();
        its_node_is_told_and_goes_on(&target, &spare)?;
        members[4].stop()?;
        let at = |member: &Member| Ok(SocketAddr::from((member.host.address, member.port()?)));
        let to = members[..4].iter().map(at).collect::<Result<Vec<_>>>()?;
        let elsewhere = replay(&target, &recorded, &to)?;
        thread::scope(|scope| {
            let shaking: Vec<_> = to
                .iter()
                .zip(&members[..4])
                .map(|(to, member)| {
                    let (name, target) = (&member.host.name, &target);
                    scope.spawn(move || handshakes_are_not_answered(target, name, *to))
                })
                .collect();
            let asked = asks_with_its_key(&target, &spare);
            for shaken in shaking {
                shaken.join().map_err(|_| anyhow!("a rogue panicked"))??;
            }
            asked
        })?;
        thread::sleep(PATIENCE);
        nothing_came(silence, &[target.address, elsewhere], recorded.len() * to.len())?;
        ensure!(doomed.count() == echoes, "{} echoes came after the removal", doomed.count() - echoes);
        others.finish()?;
        for member in &members[..4] {
            ensure!(find_member(&member.host, "e")?.context("it is shown")?["state"] == "removed");
        }
        Ok(())
    });
}

#[test]
fn a_member_that_slept_through_three_removals_catches_up_through_any_one_member() {
    let _turn = one_at_a_time();
    scenario("slept", 7, |lab| {
        // All by one invite, which is revoked with those who are removed.
        let mut members = group(lab, &["a", "b", "c", "d", "e", "f", "g"])?;
        all_linked(&members[..4])?;
        let doomed = members.split_off(4);
        let mut sleeper = members.pop().context("the sleeper is the fourth")?;
        sleeper.stop()?;
        let slept = sleeper.host.state.with_extension("slept");
        copy(&sleeper.host, &sleeper.host.state.to_string_lossy(), &slept.to_string_lossy())?;
        // By alias, by name, by key.
        let admin = members[0].host.clone();
        let alias = members[0].alias_of("e")?.to_string();
        let key = find_member(&admin, "g")?.context("g is a member")?["id"].clone();
        for typed in [alias.as_str(), "f", key.as_str().context("an id is a text")?] {
            admin.vpi(&["remove", "home", typed])?.success()?;
        }
        drop(doomed);
        let names = BTreeSet::from(["a", "b", "c", "d"].map(str::to_owned));
        let known = one_view(&members, &names, 3, LINK_LIMIT)?;
        for survivor in 0..members.len() {
            for (number, member) in members.iter_mut().enumerate() {
                if number != survivor {
                    member.stop()?;
                }
            }
            copy(&sleeper.host, &slept.to_string_lossy(), &sleeper.host.state.to_string_lossy())?;
            sleeper.restart()?;
            let name = members[survivor].host.name.clone();
            let caught_up = wait::until("the sleeper to catch up", LINK_LIMIT, || {
                Ok((view(&sleeper.host)? == known && is_linked(&sleeper.host, &name)?).then_some(()))
            });
            caught_up.with_context(|| format!("through {name} alone; {:?}", view(&sleeper.host)))?;
            for (number, member) in members.iter_mut().enumerate() {
                if number != survivor {
                    member.restart()?;
                }
            }
            for member in &members {
                ping(&sleeper.host, &member.host.name)?;
            }
            sleeper.stop()?;
        }
        Ok(())
    });
}

#[test]
fn two_admins_that_remove_at_once_agree_and_no_removed_device_holds_the_last_secret() {
    scenario("twoadmins", 5, |lab| {
        let mut members = group(lab, &["a", "b", "c", "d", "e"])?;
        all_linked(&members)?;
        let second = find_member(&members[0].host, "b")?.context("b is a member")?["id"].clone();
        members[0].stop()?;
        let second = second.as_str().context("an id is a text")?;
        let signed = sign_charter(&members[0].host, ROGUE, "b", second)?;
        ensure!(signed["id"].as_str().is_some_and(|id| id.len() == 64), "{signed}");
        members[0].restart()?;
        for admin in &members[..2] {
            wait::until(&format!("{} to sign as an admin", admin.host.name), LINK_LIMIT, || {
                Ok((admin.host.vpi(&["invite", "home"])?.code == 0).then_some(()))
            })?;
        }
        all_linked(&members)?;
        // Each admin removes a member of the other's side.
        let sides = [[0, 2].as_slice(), &[1, 3, 4]];
        for (own, other) in [(sides[0], sides[1]), (sides[1], sides[0])] {
            for host in own {
                let unheard = other.iter().map(|other| members[*other].host.address);
                cut(&members[*host].host, unheard)?;
            }
        }
        thread::scope(|scope| {
            let both = [(0, "d"), (1, "c")].map(|(admin, target)| {
                let host = &members[admin].host;
                scope.spawn(move || host.vpi(&["remove", "home", target])?.success())
            });
            for one in both {
                one.join().map_err(|_| anyhow!("a removal panicked"))??;
            }
            anyhow::Ok(())
        })?;
        let apart = [0, 1].map(|admin| view(&members[admin].host));
        ensure!(apart[0].as_ref().ok() != apart[1].as_ref().ok(), "they heard each other: {apart:?}");
        for member in &members {
            member.host.run("nft", &["delete", "table", "ip", "cut"], COMMAND_LIMIT)?.success()?;
        }
        let left = [0, 1, 4].map(|number| members[number].host.clone());
        let names = BTreeSet::from(["a", "b", "e"].map(str::to_owned));
        // Both made epoch 1; the one in force knew one removal only, so that an admin makes another.
        let last = agreed(&left, &names, 2, ONE_VIEW_WITHIN)?.epoch;
        let of_last = |host: &Host| {
            let prefix = format!("epoch-{last}-");
            Ok::<_, anyhow::Error>(epochs(host)?.into_iter().filter(|file| file.starts_with(&prefix)).count())
        };
        for host in &left {
            ensure!(of_last(host)? > 0, "{} has no secret of epoch {last}", host.name);
        }
        for number in [2, 3] {
            let host = &members[number].host;
            ensure!(of_last(host)? == 0, "{} was removed and holds {:?}", host.name, epochs(host)?);
        }
        for (from, to) in [(0, "b"), (1, "e"), (4, "a")] {
            ping(&members[from].host, to)?;
        }
        Ok(())
    });
}

#[test]
fn whoever_leaves_is_gone_at_once_and_those_whom_it_let_in_stay() {
    scenario("lets-in", 4, |lab| {
        let mut a = Member::found(lab.host("a")?, &[])?;
        let mut others = vec![Member::join(lab.host("b")?, &a.invite(&[])?, &[])?];
        let tokens = [a.invite(&[])?, a.invite(&[])?];
        others[0].alias_of("a")?;
        // The admin is away, so that it confirms nobody.
        a.stop()?;
        for (name, token) in ["c", "d"].iter().zip(&tokens) {
            others.push(Member::join(lab.host(name)?, token, &[])?);
        }
        all_linked(&others)?;
        let left_at = Instant::now();
        let left = others[0].host.vpi(&["leave", "home", "--json"])?.json()?;
        ensure!(left["told"].as_u64().is_some_and(|told| told > 0), "{left}");
        for member in &others[1..] {
            state_becomes(&member.host, "b", "removed", CLOSED_WITHIN.saturating_sub(left_at.elapsed()))?;
        }
        let held = HeldConnection::open(&others[1].host, &others[2].host, others[1].alias_of("d")?)?;
        a.restart()?;
        let names = BTreeSet::from(["a", "c", "d"].map(str::to_owned));
        // An admin makes the next epoch minutes later: whoever leaves by itself hurries nobody.
        agreed(
            &[a.host.clone(), others[1].host.clone(), others[2].host.clone()],
            &names,
            0,
            ONE_VIEW_WITHIN,
        )?;
        let (count, _) = held.finish()?;
        ensure!(count > 0, "nothing came over the connection of those who stay");
        ping(&others[1].host, "d")?;
        ping(&a.host, "c")
    });
}

#[test]
fn a_name_is_free_after_a_removal_and_a_device_comes_back_with_another_key() {
    scenario("again", 3, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let mut b = Member::join(lab.host("b")?, &a.invite(&[])?, &[])?;
        b.alias_of("a")?;
        ping(&b.host, "a")?;
        let (former, code) = (b.alias, b.host.vpi(&["request-code"])?.success()?.stdout);
        a.host.vpi(&["remove", "home", "b"])?.success()?;
        let token = a.invite(&[])?;
        wait::until("b to be told", CLOSED_WITHIN, || {
            Ok(notices(&b.host)?.contains("a.home says that this device was removed").then_some(()))
        })?;
        b.host.vpi_reading(&token, &["join"])?.refused(REFUSED, &["removed", "vpi leave home"])?;
        // Another device has the name.
        let c = lab.host("c")?;
        let _node = Node::start(c, &[])?;
        c.vpi_reading(&token, &["join", "--name", "b"])?.success()?;
        wait::until("a to link with the other b", LINK_LIMIT, || {
            Ok(find_member(&a.host, "b")?.is_some_and(|b| b["state"] != "removed").then_some(()))
        })?;
        ping(&a.host, "b")?;

        b.host.vpi(&["leave", "home"])?.success()?;
        let bound = a.invite(&["--device", code.trim()])?;
        b.host.vpi_reading(&bound, &["join"])?.refused(REFUSED, &["left", "without --device"])?;
        for round in ["again", "and-again"] {
            let token = a.invite(&[])?;
            let joined = b.host.vpi_reading(&token, &["join", "--name", round, "--json"])?.json()?;
            let alias: Ipv4Addr = joined["alias"].as_str().context("no alias")?.parse()?;
            ensure!(alias != former, "{alias} is the alias of the removed key");
            ensure!(b.host.vpi(&["request-code"])?.success()?.stdout == code, "the node's own code changed");
            let known_at_a = a.alias_of(round)?;
            // The /16 is each machine's own: the former one may still be in a socket's use.
            let is_equal = known_at_a.octets()[2..] == alias.octets()[2..];
            ensure!(is_equal, "{round} is {alias} at home and {known_at_a} at a");
            carries(&b.host, &a.host, b.alias_of("a")?)?;
            b.kill()?;
            b.restart()?;
            let known = find_member(&b.host, round)?.context("it knows itself")?;
            ensure!(known["alias"] == joined["alias"] && known["state"] == "self", "{known}");
            carries(&a.host, &b.host, known_at_a)?;
            b.host.vpi(&["leave", "home"])?.success()?;
            state_becomes(&a.host, round, "removed", CLOSED_WITHIN)?;
        }
        a.host.vpi(&["remove", "home", "again"])?.refused(NOT_FOUND, &["again"])
    });
}

/// What members do that the removal of another must not disturb.
struct Others {
    over: Arc<AtomicBool>,
    bulk: thread::JoinHandle<Result<usize>>,
    held: HeldConnection,
    flow: Flow,
    _echo: EchoServer,
}

impl Others {
    /// Between the second and the third.
    fn start(members: &[Member]) -> Result<Self> {
        let (from, to) = (members[1].host.clone(), members[2].host.clone());
        let alias = members[1].alias_of(&to.name)?;
        let held = HeldConnection::open(&from, &to, alias)?;
        let (flow, echo) = flow(&members[1], &members[2])?;
        let over = Arc::new(AtomicBool::new(false));
        let bulk = thread::spawn({
            let over = Arc::clone(&over);
            move || {
                let mut count = 0;
                while !over.load(Ordering::Relaxed) {
                    transfer(&from, &to, alias, BULK_BYTES, count as u64)?;
                    count += 1;
                    thread::sleep(BULK_PAUSE);
                }
                Ok(count)
            }
        });
        Ok(Self { over, bulk, held, flow, _echo: echo })
    }

    /// Every byte came, in order, and no pause was long.
    fn finish(self) -> Result<()> {
        let gap = self.flow.longest_gap()?;
        self.over.store(true, Ordering::Relaxed);
        let transfers = self.bulk.join().map_err(|_| anyhow!("a transfer panicked"))??;
        let (numbers, _) = self.held.finish()?;
        println!("others: {transfers} transfers, {numbers} numbers, longest gap {gap:?}");
        ensure!(transfers > 0 && numbers > 0, "{transfers} transfers, {numbers} numbers");
        ensure!(gap < GAP_LIMIT, "no echo for {gap:?}");
        Ok(())
    }
}

/// A flow at 100 Hz from one to the other, and what sends it back.
fn flow(from: &Member, to: &Member) -> Result<(Flow, EchoServer)> {
    let echo = EchoServer::start(&to.host, 0)?;
    let target = SocketAddr::from((from.alias_of(&to.host.name)?, echo.port));
    let flow = Flow::start(&from.host, target, Duration::from_millis(10))?;
    flow.first_echo_after(Instant::now(), LINK_LIMIT)?;
    Ok((flow, echo))
}

/// Waits until each of `members` shows `e` as removed and without a path.
fn closed_by_all(members: &[Member], removed_at: Instant) -> Result<()> {
    thread::scope(|scope| {
        let watching: Vec<_> = members
            .iter()
            .map(|member| {
                scope.spawn(move || {
                    let limit = CLOSED_WITHIN.saturating_sub(removed_at.elapsed());
                    state_becomes(&member.host, "e", "removed", limit)?;
                    let shown = find_member(&member.host, "e")?.context("it is shown")?;
                    ensure!(shown["path"].is_null(), "{} has a path to it: {shown}", member.host.name);
                    println!("{} has closed after {:?}", member.host.name, removed_at.elapsed());
                    Ok(())
                })
            })
            .collect();
        watching.into_iter().try_for_each(|watch| watch.join().map_err(|_| anyhow!("a watch panicked"))?)
    })
}

/// The target's own node, with what it has: a notice, a refusal to join that says why, and pings that nobody answers.
fn its_node_is_told_and_goes_on(target: &Host, token: &str) -> Result<()> {
    wait::until("the target to be told", CLOSED_WITHIN, || {
        Ok(notices(target)?.contains("says that this device was removed from home").then_some(()))
    })?;
    target.vpi_reading(token, &["join"])?.refused(REFUSED, &["removed"])?;
    for name in ["a", "b"] {
        let asking = target.command("timeout", &["3", &vpi_binary()?, "ping", name, "-c", "1"]);
        let answer = finish(asking, "", COMMAND_LIMIT)?;
        ensure!(answer.code != 0, "{name} answered: {answer:#?}");
    }
    Ok(())
}

/// Sends everything that was recorded to every one of `to`, from an address that the target did not have; returns it.
fn replay(target: &Host, recorded: &[Vec<u8>], to: &[SocketAddr]) -> Result<Ipv4Addr> {
    for (kind, is_of_it) in [
        ("handshake", (|bytes: &[u8]| bytes.starts_with(&[0x81, 0])) as fn(&[u8]) -> bool),
        ("join question", |bytes| bytes.starts_with(&[0x81, 1])),
        ("data datagram", |bytes| bytes.starts_with(&[0x80])),
    ] {
        ensure!(recorded.iter().any(|bytes| is_of_it(bytes)), "no {kind} was recorded");
    }
    let [a, b, c, _] = target.address.octets();
    let elsewhere = Ipv4Addr::new(a, b, c, 200);
    target
        .run("ip", &["address", "add", &format!("{elsewhere}/24"), "dev", "eth0"], COMMAND_LIMIT)?
        .success()?;
    let socket = target.enter(|| Ok(UdpSocket::bind((elsewhere, 0))?))?;
    for bytes in recorded {
        for to in to {
            // An ICMP error for an earlier one would show in the capture.
            let _ = socket.send_to(bytes, to);
        }
        // Below every limit for one source: silence must not come from that.
        thread::sleep(Duration::from_millis(2));
    }
    Ok(elsewhere)
}

/// Handshakes with the keys that the target has, under both epochs that it holds.
fn handshakes_are_not_answered(target: &Host, name: &str, to: SocketAddr) -> Result<()> {
    let mut rogue = Rogue::start(target, ROGUE)?;
    for epoch in [0, 1] {
        let order = json!({"do": "handshake", "with": name, "to": to.to_string(), "epoch": epoch});
        let shaken = rogue.order(&order);
        let is_silent = shaken.as_ref().is_err_and(|error| error.to_string().contains("no response"));
        ensure!(is_silent, "{name} under epoch {epoch}: {shaken:?}");
    }
    Ok(())
}

/// A node that has nothing of the target's but its key asks to join with a good token.
fn asks_with_its_key(target: &Host, token: &str) -> Result<()> {
    let mut host = target.clone();
    host.state = target.state.with_extension("asks");
    let node = Node::start(&host, &[])?;
    node.stop()?;
    let key = |host: &Host| host.state.join("keys/device").to_string_lossy().into_owned();
    // The node drew its own, which is not asked with.
    let _ = fs::remove_file(key(&host));
    copy(&host, &key(target), &key(&host))?;
    let _node = Node::start(&host, &[])?;
    let code = host.vpi(&["request-code"])?.success()?.stdout;
    ensure!(code == target.vpi(&["request-code"])?.success()?.stdout, "it asks with another key");
    let asking = finish(host.command(&vpi_binary()?, &["join", "--name", "e"]), token, ASKING);
    ensure!(asking.as_ref().map_or(true, |answer| answer.code != 0), "it was let in: {asking:?}");
    Ok(())
}

/// Nothing came to any of the target's addresses, from which at least `sent` datagrams left.
fn nothing_came(silence: Capture, own: &[Ipv4Addr], sent: usize) -> Result<()> {
    let frames = silence.finish()?;
    let is_own = |address: IpAddr| own.iter().any(|own| IpAddr::V4(*own) == address);
    let left = frames.iter().filter(|frame| is_own(frame.source.ip())).count();
    ensure!(left > sent, "{left} datagrams left the target, of more than {sent}");
    let came: Vec<_> = frames.iter().filter(|frame| is_own(frame.destination.ip())).collect();
    println!("{left} datagrams left the target, {} came", came.len());
    let head = came.first().map(|frame| (frame.source, frame.payload.len(), frame.payload.get(..2)));
    ensure!(came.is_empty(), "{} datagrams came, the first: {head:?}", came.len());
    Ok(())
}

/// What a node shows of who belongs.
#[derive(Debug, PartialEq, Eq)]
struct View {
    epoch: u64,
    members: BTreeMap<String, String>,
}

fn view(host: &Host) -> Result<View> {
    let status = host.vpi(&["status", "home", "--json"])?.json()?["vpis"][0].take();
    let members = status["members"].as_array().context("vpi status --json has no members")?;
    let text = |member: &Value, key: &str| member[key].as_str().unwrap_or_default().to_owned();
    let members = members.iter().filter(|member| member["state"] != "removed");
    let members = members.map(|member| (text(member, "id"), text(member, "name"))).collect();
    Ok(View { epoch: status["epoch"].as_u64().context("no epoch")?, members })
}

/// Waits until all `hosts` have one view: these members, and an epoch from `epoch` on.
fn agreed(hosts: &[Host], names: &BTreeSet<String>, epoch: u64, limit: Duration) -> Result<View> {
    let mut views = Vec::new();
    let agreed = wait::until("one view of who belongs", limit, || {
        views = hosts.iter().map(view).collect::<Result<Vec<_>>>()?;
        let first = views.first().context("there are hosts")?;
        let is_wanted = first.epoch >= epoch
            && first.members.values().cloned().collect::<BTreeSet<_>>() == *names
            && views.iter().all(|view| view == first);
        Ok(is_wanted.then_some(()))
    });
    agreed.with_context(|| format!("{views:?}"))?;
    views.pop().context("there are hosts")
}

fn one_view(members: &[Member], names: &BTreeSet<String>, epoch: u64, limit: Duration) -> Result<View> {
    let hosts: Vec<_> = members.iter().map(|member| member.host.clone()).collect();
    agreed(&hosts, names, epoch, limit)
}

/// Waits until each has a link with every other.
fn all_linked(members: &[Member]) -> Result<()> {
    thread::scope(|scope| {
        let linking: Vec<_> = members
            .iter()
            .map(|from| {
                scope.spawn(move || {
                    for to in members.iter().filter(|to| to.host.name != from.host.name) {
                        from.alias_of(&to.host.name)?;
                        ping(&from.host, &to.host.name)?;
                        wait::until("a link", LINK_LIMIT, || {
                            Ok(is_linked(&from.host, &to.host.name)?.then_some(()))
                        })?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        linking.into_iter().try_for_each(|link| link.join().map_err(|_| anyhow!("a link panicked"))?)
    })
}

fn is_linked(host: &Host, name: &str) -> Result<bool> {
    Ok(find_member(host, name)?.is_some_and(|member| member["state"] == "direct"))
}

/// Pings until it is answered: a first link may take a moment.
fn ping(host: &Host, name: &str) -> Result<()> {
    wait::until(&format!("{} to ping {name}", host.name), LINK_LIMIT, || {
        Ok((host.vpi(&["ping", name, "-c", "1"])?.code == 0).then_some(()))
    })
}

/// Bytes go from one to the other, which it knows as `alias`.
fn carries(from: &Host, to: &Host, alias: Ipv4Addr) -> Result<()> {
    ping(from, &alias.to_string())?;
    transfer(from, to, alias, 1 << 20, 1).map(drop)
}

fn state_becomes(host: &Host, name: &str, state: &str, limit: Duration) -> Result<()> {
    wait::until(&format!("{} to show {name} as {state}", host.name), limit, || {
        let member = find_member(host, name)?;
        Ok(member.is_some_and(|member| member["state"] == state).then_some(()))
    })
}

fn notices(host: &Host) -> Result<String> {
    Ok(host.vpi(&["status", "home", "--json"])?.json()?["vpis"][0]["notices"].to_string())
}

/// The names of the epoch secrets in a state folder.
fn epochs(host: &Host) -> Result<Vec<String>> {
    let keys = host.state.join("keys");
    let vpi =
        fs::read_dir(&keys)?.flatten().find(|entry| entry.path().is_dir()).context("no keys of a VPI")?;
    let files =
        fs::read_dir(vpi.path())?.flatten().map(|file| file.file_name().to_string_lossy().into_owned());
    Ok(files.filter(|file| file.starts_with("epoch-") && !file.ends_with(".copy")).collect())
}

/// Puts a copy, mode and owner too, in the place of what stands there.
fn copy(host: &Host, from: &str, to: &str) -> Result<Answer> {
    host.run("sh", &["-c", "rm -rf \"$1\" && cp -a \"$0\" \"$1\"", from, to], COMMAND_LIMIT)?.success()
}

/// From here on `host` takes nothing in from `others`.
fn cut(host: &Host, others: impl Iterator<Item = Ipv4Addr>) -> Result<()> {
    let others = others.map(|address| address.to_string()).collect::<Vec<_>>().join(", ");
    let rules = format!(
        "add table ip cut; add chain ip cut input {{ type filter hook input priority -300; }}; \
         add rule ip cut input ip saddr {{ {others} }} drop"
    );
    host.run("nft", &[&rules], COMMAND_LIMIT)?.success().map(drop)
}
