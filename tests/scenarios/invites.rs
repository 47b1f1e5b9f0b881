//! Invites: any member admits, a bound one serves one device, n uses are n, revoked is over, and the token is seen nowhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use tests::process::finish;
use tests::topology::vpi_binary;
use tests::{Answer, Host, Member, Node, scenario};

const REFUSED: i32 = 5;
/// Longer than a joiner asks, so that its own verdict is seen.
const JOIN_LIMIT: Duration = Duration::from_secs(75);
/// Time for more than one question.
const ASKING: Duration = Duration::from_secs(8);
const LIMIT: Duration = Duration::from_secs(20);
/// Of a token, whatever piece of this length is found somewhere is too much: 120 bits.
const PIECE: usize = 24;

#[test]
fn an_invite_works_while_the_inviter_is_off_and_a_third_member_is_up() {
    scenario("absent", 3, |lab| {
        let mut a = Member::found(lab.host("a")?, &[])?;
        let b = Member::join(lab.host("b")?, &a.invite(&[])?, &[])?;
        b.alias_of("a")?;
        a.alias_of("b")?;
        let token = a.invite(&[])?;
        a.stop()?;
        let c = Member::join(lab.host("c")?, &token, &[])?;
        b.alias_of("c")?;
        a.restart()?;
        a.alias_of("c")?;
        c.alias_of("a")?;
        Ok(())
    });
}

#[test]
fn an_invite_bound_to_a_device_is_useless_on_another() {
    scenario("bound", 3, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let (b, c) = (lab.host("b")?, lab.host("c")?);
        let _nodes = [Node::start(b, &[])?, Node::start(c, &[])?];
        let code = c.vpi(&["request-code"])?.success()?.stdout;
        let token = a.invite(&["--device", code.trim()])?;
        join(b, &token)?.refused(REFUSED, &["device"])?;
        join(c, &token)?.success()?;
        a.alias_of("c")?;
        Ok(())
    });
}

#[test]
fn an_invite_for_three_uses_admits_three_devices_and_no_fourth() {
    scenario("uses", 5, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let token = a.invite(&["--uses", "3"])?;
        let mut members = Vec::new();
        for name in ["b", "c", "d"] {
            members.push(Member::join(lab.host(name)?, &token, &[])?);
        }
        let late = lab.host("e")?;
        let _node = Node::start(late, &[])?;
        join(late, &token)?.refused(REFUSED, &["used"])?;
        // And once more by one that is in: no further use.
        join(&members[0].host, &token)?;
        for name in ["b", "c", "d"] {
            a.alias_of(name)?;
        }
        Ok(())
    });
}

#[test]
fn a_revoked_invite_admits_nobody() {
    scenario("revoked", 4, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let b = Member::join(lab.host("b")?, &a.invite(&[])?, &[])?;
        b.alias_of("a")?;
        let invite = a.host.vpi(&["invite", "home", "--json"])?.json()?;
        let text =
            |key: &str| Ok::<_, anyhow::Error>(invite[key].as_str().context("not in the JSON")?.to_owned());
        a.host.vpi(&["revoke", "home", &text("invite")?])?.success()?;
        let c = lab.host("c")?;
        let _node = Node::start(c, &[])?;
        // Nobody answers a revoked invite: to its holder the members are as silent as to any stranger, and it goes on
        // asking until its time is over. Some questions are enough.
        let asking = finish(c.command(&vpi_binary()?, &["join", "--name", "c"]), &text("token")?, ASKING);
        ensure!(asking.as_ref().map_or(true, |answer| answer.code != 0), "{asking:?}");
        // Another invite of the same moment works: it was not the network.
        let _d = Member::join(lab.host("d")?, &a.invite(&[])?, &[])?;
        for host in [&a.host, &b.host] {
            ensure!(tests::member::find_member(host, "c")?.is_none(), "{} admitted c", host.name);
        }
        Ok(())
    });
}

#[test]
fn a_token_is_seen_in_no_argument_list_environment_log_or_core() {
    scenario("secret", 2, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let token = a.invite(&[])?;
        let pieces = Pieces::of(&token);
        let host = lab.host("b")?;
        let mut command = host.command(&vpi_binary()?, &["up"]);
        command.env("VPI_LOG", "trace");
        let _node = Node::from_command(command, host)?;
        let over = AtomicBool::new(false);
        let found = thread::scope(|scope| {
            let watching = scope.spawn(|| watch_processes(&pieces, &over));
            let joined = join(host, &token).and_then(Answer::success);
            over.store(true, Ordering::Relaxed);
            let watched = watching.join().map_err(|_| anyhow!("the watcher panicked"));
            joined?;
            watched?
        })?;
        ensure!(found.looks > 1 && found.saw_the_join, "the join was not watched: {found:?}");
        for log in [&a.host.log, &host.log] {
            let text = fs::read_to_string(log)?;
            ensure!(text.len() > 300, "{} says next to nothing", log.display());
            ensure!(!pieces.occur_in(&text), "a piece of the token stands in {}", log.display());
        }
        no_core(host)
    });
}

/// Every piece of a token, in lower case.
struct Pieces(BTreeSet<Vec<u8>>);

impl Pieces {
    fn of(token: &str) -> Self {
        let token = token.trim().to_lowercase();
        Self(token.as_bytes().windows(PIECE).map(<[u8]>::to_vec).collect())
    }

    fn occur_in(&self, text: &str) -> bool {
        text.to_lowercase().as_bytes().windows(PIECE).any(|piece| self.0.contains(piece))
    }
}

#[derive(Debug)]
struct Watch {
    looks: usize,
    saw_the_join: bool,
}

/// Reads the arguments and the environment of every process, again and again, as root may.
fn watch_processes(pieces: &Pieces, over: &AtomicBool) -> Result<Watch> {
    let mut watch = Watch { looks: 0, saw_the_join: false };
    while !over.load(Ordering::Relaxed) {
        watch.looks += 1;
        for process in fs::read_dir("/proc")?.flatten().map(|entry| entry.path()) {
            // What is no process, or ended in between, is not there to be read.
            let read = |name: &str| fs::read(process.join(name)).unwrap_or_default();
            let (arguments, environment) = (read("cmdline"), read("environ"));
            watch.saw_the_join |= arguments.split(|byte| *byte == 0).any(|word| word == b"join");
            for bytes in [arguments, environment] {
                let text = String::from_utf8_lossy(&bytes);
                ensure!(!pieces.occur_in(&text), "a piece of the token is seen at {}", process.display());
            }
        }
    }
    Ok(watch)
}

/// Neither a debugger of the same user nor a fatal signal gets the node's memory. (Root with every capability may read
/// any process; nothing can be done about that.)
fn no_core(host: &Host) -> Result<()> {
    let process = fs::read_to_string(host.state.join("lock"))?.trim().to_owned();
    let folder = tempfile::tempdir()?;
    let core = folder.path().join("core");
    let core = core.to_string_lossy();
    let same_user = ["--bounding-set=-all", "--inh-caps=-all", "gcore", "-o", &core, &process];
    let answer = host.run("setpriv", &same_user, LIMIT)?;
    ensure!(answer.code != 0, "gcore had its way: {answer:#?}");
    let read = |process: &str| {
        let environment = format!("/proc/{process}/environ");
        host.run("setpriv", &["--bounding-set=-all", "--inh-caps=-all", "cat", &environment], LIMIT)
    };
    let mut ordinary = host
        .command("setpriv", &["--bounding-set=-all", "--inh-caps=-all", "sleep", "60"])
        .env("VISIBLE", "yes")
        .spawn()?;
    let seen = tests::wait::until("a process without secrets to be readable", LIMIT, || {
        Ok(read(&ordinary.id().to_string())?.stdout.contains("VISIBLE=yes").then_some(()))
    });
    ordinary.kill()?;
    ordinary.wait()?;
    seen?;
    ensure!(read(&process)?.code != 0, "a process of the same user reads the node's environment");
    host.run("kill", &["-ABRT", &process], LIMIT)?.success()?;
    tests::wait::until("the node to end", LIMIT, || {
        Ok((!Path::new("/proc").join(&process).join("exe").exists()).then_some(()))
    })?;
    for place in [folder.path(), Path::new("."), &host.state] {
        for entry in fs::read_dir(place)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            ensure!(!name.starts_with("core"), "{name} was left in {}", place.display());
        }
    }
    Ok(())
}

fn join(host: &Host, token: &str) -> Result<Answer> {
    finish(host.command(&vpi_binary()?, &["join", "--name", &host.name, "--json"]), token, JOIN_LIMIT)
}
