//! The index and its keepers: short-lived processes that may hang, die or find damage, and a node that goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tests::member::find_member;
use tests::{Host, Member, one_at_a_time, scenario, wait};

/// From a link to the keeper that writes it down.
const KEEPER_LIMIT: Duration = Duration::from_secs(20);
/// How long a node waits for a keeper, and some time for a machine that is busy.
const HANG_LIMIT: Duration = Duration::from_secs(15);
/// How long a node may take, after its start, until it has a link to a member that it remembers.
const CALL_LIMIT: Duration = Duration::from_secs(10);
const KILLS: usize = 6;

#[test]
fn a_keeper_that_hangs_is_ended_and_the_node_goes_on_and_remembers_at_its_end() {
    let _turn = one_at_a_time();
    scenario("keeper-hangs", 2, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let (keeper, mut b) = join_and_stop_keeper(&a, lab.host("b")?)?;
        check_inherited(&keeper)?;

        wait::until("the keeper to be ended", HANG_LIMIT, || Ok((!keeper.exists()).then_some(())))?;
        let log = fs::read_to_string(&b.host.log)?;
        ensure!(log.matches("did not answer within").count() == 1, "the hanging keeper is told once");
        b.host.vpi(&["ping", "a", "-c", "1"])?.success()?;

        ensure!(b.stop()? == 0, "the node does not end as it should");
        b.restart()?;
        is_called(&b.host)
    });
}

#[test]
fn keepers_and_nodes_killed_in_the_middle_need_no_repair() {
    let _turn = one_at_a_time();
    scenario("keeper-killed", 2, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let (keeper, mut b) = join_and_stop_keeper(&a, lab.host("b")?)?;
        signal(&keeper, Signal::KILL)?;
        b.host.vpi(&["ping", "a", "-c", "1"])?.success()?;
        ensure!(b.stop()? == 0, "the node does not end as it should");
        for round in 0..KILLS {
            // The one before the ready line only reads, and is gone.
            b.restart()?;
            let keeper = next_keeper(&b.host)?;
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
        let mut b = Member::join(lab.host("b")?, &a.invite(&[])?, &[])?;
        let conf = b.host.state.join("index/conf");
        wait::until("the index to be made", KEEPER_LIMIT, || Ok(conf.exists().then_some(())))?;
        ensure!(b.stop()? == 0, "the node does not end as it should");
        fs::write(&conf, "no configuration")?;

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

/// Joins, and stops the first keeper that the node on `host` starts.
fn join_and_stop_keeper(a: &Member, host: &Host) -> Result<(PathBuf, Member)> {
    let token = a.invite(&[])?;
    thread::scope(|scope| {
        let keeper = scope.spawn(|| -> Result<PathBuf> {
            let keeper = next_keeper(host)?;
            signal(&keeper, Signal::STOP)?;
            anyhow::Ok(keeper)
        });
        let b = Member::join(host, &token, &[])?;
        Ok((keeper.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))??, b))
    })
}

/// Waits for a keeper of the node on `host`. It lives for milliseconds: there is no pause.
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
        let is_own = is_handed_down
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
