//! The index and its keepers: short-lived processes that may hang, die or find damage, and a node that goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use tests::member::find_member;
use tests::topology::COMMAND_LIMIT;
use tests::{Host, Member, one_at_a_time, scenario, wait};

/// From a link to the keeper that writes it down.
const KEEPER_LIMIT: Duration = Duration::from_secs(20);
/// How long a node waits for a keeper, and some time for a machine that is busy.
const HANG_LIMIT: Duration = Duration::from_secs(15);
/// How long a node may take, after its start, until it has a link to a member that it remembers.
const CALL_LIMIT: Duration = Duration::from_secs(10);
const KILLS: u32 = 8;
/// By how much later each of them is killed.
const STEP: Duration = Duration::from_millis(4);

#[test]
fn a_keeper_that_hangs_is_ended_and_the_node_goes_on_and_remembers_at_its_end() {
    let _turn = one_at_a_time();
    scenario("keeper-hangs", 2, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let mut b = join(&a, lab.host("b")?)?;
        let keeper = held_keeper(&a.host, &b.host, 0, |keeper| signal(keeper, Signal::STOP))?;
        check_inherited(&keeper)?;

        wait::until("the keeper to be ended", HANG_LIMIT, || Ok((!keeper.exists()).then_some(())))?;
        let log = fs::read_to_string(&b.host.log)?;
        ensure!(log.matches("did not answer within").count() == 1, "the hanging keeper is told once");
        b.host.vpi(&["ping", "a", "-c", "1"])?.success()?;

        let starts = |log: &str| log.matches("a keeper of the index starts").count();
        ensure!(b.stop()? == 0, "the node does not end as it should");
        let later = fs::read_to_string(&b.host.log)?;
        ensure!(starts(&later) == starts(&log) + 1, "what the keeper had is not written at the end");
        b.restart()?;
        is_called(&b.host)
    });
}

#[test]
fn keepers_and_nodes_killed_in_the_middle_need_no_repair() {
    let _turn = one_at_a_time();
    scenario("keeper-killed", 2, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let mut b = join(&a, lab.host("b")?)?;
        ensure!(b.stop()? == 0, "the node does not end as it should");
        for round in 0..KILLS {
            b.restart()?;
            let keeper = held_keeper(&a.host, &b.host, round, |_| Ok(()))?;
            // It opens the index, reads or writes.
            thread::sleep(STEP * round);
            // Either of them first; the other at once.
            if round % 2 == 0 {
                signal(&keeper, Signal::KILL)?;
            }
            b.kill()?;
            if round % 2 == 1 {
                signal(&keeper, Signal::KILL)?;
            }
        }
        b.restart()?;
        is_called(&b.host)
    });
}

#[test]
fn a_damaged_index_is_set_aside_and_told_and_the_node_has_no_thread_of_it() {
    scenario("index-damaged", 2, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let mut b = join(&a, lab.host("b")?)?;
        ensure!(b.stop()? == 0, "the node does not end as it should");
        fs::write(b.host.state.join("index/conf"), "no configuration")?;

        b.restart()?;

        ensure!(fs::read_to_string(&b.host.log)?.contains("it was set aside"), "the damage is not told");
        ensure!(b.host.state.join("index.damaged-1").is_dir(), "the damaged index is not kept");
        // It forgot where a is; a knows where it is.
        a.host.vpi(&["ping", "b", "-c", "3"])?.success()?;
        let process = node_process(&b.host)?.context("the node is gone")?;
        let threads: Vec<_> = fs::read_dir(process.join("task"))?
            .map(|thread| Ok(fs::read_to_string(thread?.path().join("comm"))?.trim().to_owned()))
            .collect::<Result<_>>()?;
        ensure!(threads.len() == 2, "the driver and a pump are two threads, and there are {threads:?}");
        Ok(())
    });
}

/// Joins, and waits until the node has an index.
fn join(a: &Member, host: &Host) -> Result<Member> {
    let b = Member::join(host, &a.invite(&[])?, &[])?;
    let database = host.state.join("index/db");
    wait::until("the index to be made", KEEPER_LIMIT, || Ok(database.exists().then_some(())))?;
    Ok(b)
}

/// Holds sled's lock on `host`, so that the next keeper waits, and gives `other` another second address, which is something
/// to remember: one more each time would soon be one of too many to tell. Lets the keeper go on after `act`.
fn held_keeper(
    other: &Host,
    host: &Host,
    number: u32,
    act: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let database = fs::File::open(host.state.join("index/db"))?;
    wait::until("the lock of the index", KEEPER_LIMIT, || {
        Ok(flock(&database, FlockOperation::NonBlockingLockExclusive).ok())
    })?;
    let second = |change: &str, number: u32| {
        let address = format!("10.77.1.{}/24", number + 1);
        other.run("ip", &["address", change, &address, "dev", "eth0"], COMMAND_LIMIT)?.success()
    };
    if number > 0 {
        second("del", number - 1)?;
    }
    second("add", number)?;
    let keeper = next_keeper(host)?;
    act(&keeper)?;
    Ok(keeper)
}

/// Waits for a keeper of the node on `host`. It waits for a lock, but not for long.
fn next_keeper(host: &Host) -> Result<PathBuf> {
    let line = format!("vpi\0index-keeper\0{}\0", host.state.join("index").display());
    let deadline = Instant::now() + KEEPER_LIMIT;
    while Instant::now() < deadline {
        for process in fs::read_dir("/proc")? {
            let process = process?.path();
            // Not before its exec: until then its node waits for it.
            let is_keeper = fs::read(process.join("cmdline")).is_ok_and(|found| found == line.as_bytes());
            if is_keeper {
                return Ok(process);
            }
        }
    }
    bail!("the node on {} started no keeper within {KEEPER_LIMIT:?}", host.name)
}

/// The folder under /proc of the node on `host`, if one runs.
fn node_process(host: &Host) -> Result<Option<PathBuf>> {
    let Ok(pid) = fs::read_to_string(host.state.join("lock")) else { return Ok(None) };
    let process = Path::new("/proc").join(pid.trim());
    Ok((!pid.trim().is_empty() && process.exists()).then_some(process))
}

/// Sees that a keeper has nothing of its node: neither sockets nor devices, nor an environment.
fn check_inherited(keeper: &Path) -> Result<()> {
    for entry in fs::read_dir(keeper.join("fd"))? {
        let entry = entry?;
        let target = fs::read_link(entry.path())?.to_string_lossy().into_owned();
        // What this test was started with, and gave the node.
        let is_handed_down = fs::read_link(Path::new("/proc/self/fd").join(entry.file_name()))
            .is_ok_and(|own| own.to_string_lossy() == target);
        // The loader opens libraries after the program has begun.
        let is_own = is_handed_down
            || target.contains(".so")
            || target.starts_with("/proc/")
            || target.contains("/index")
            || target == "/dev/null";
        ensure!(is_own || target.starts_with("pipe:"), "a keeper has {target} as {:?}", entry.file_name());
    }
    let environment = fs::read(keeper.join("environ"))?;
    ensure!(environment.is_empty(), "a keeper has an environment of {} bytes", environment.len());
    let line = String::from_utf8(fs::read(keeper.join("cmdline"))?)?;
    let words: Vec<_> = line.split_terminator('\0').collect();
    ensure!(words.len() == 3, "a keeper is called with its folder only, not with {words:?}");
    Ok(())
}

fn signal(process: &Path, signal: Signal) -> Result<()> {
    let pid = process.file_name().and_then(|name| name.to_str()).context("a process has a number")?;
    let pid = Pid::from_raw(pid.parse()?).context("a process id is not zero")?;
    // One that has ended already was late, no failure.
    let _ = kill_process(pid, signal);
    Ok(())
}

/// Waits until the node has a link to `a` without being asked for one.
fn is_called(host: &Host) -> Result<()> {
    wait::until("a link to the remembered member", CALL_LIMIT, || {
        let member = find_member(host, "a")?;
        Ok(member.is_some_and(|member| member["state"] == "direct").then_some(()))
    })
}
