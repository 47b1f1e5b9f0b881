//! Static keys that have served: a real node takes another, is reached under the one before, and no longer under the one
//! before that.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use tests::member::group;
use tests::traffic::HeldConnection;
use tests::{Host, Member, Rogue, scenario, wait};

const ROGUE: &str = env!("CARGO_BIN_EXE_rogue");
/// More than the 90 days for which a key serves (node/README).
const SERVED: Duration = Duration::from_secs(91 * 24 * 3_600);
/// How long members may take to link, or to hear of a key.
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_static_key_that_has_served_gives_way_and_the_one_before_is_heard_for_members_that_slept() {
    scenario("statics", 3, |lab| {
        let [mut a, mut b, mut c] =
            <[Member; 3]>::try_from(group(lab, &["a", "b", "c"])?).ok().context("three were asked for")?;
        for (from, to) in [(&b, "a"), (&c, "a"), (&c, "b")] {
            ping(&from.host, to)?;
        }
        c.stop()?;
        let held = HeldConnection::open(&b.host, &a.host, b.alias_of("a")?)?;
        ensure!(statics(&a.host)? == [0]);

        starts_with_a_key_that_has_served(&mut a)?;
        ensure!(statics(&a.host)? == [0, 1], "{:?}", statics(&a.host)?);
        ping(&b.host, "a")?;
        // In the first second of its run nothing is answered.
        wait::until("an answer under the key that c knew when it went to sleep", LIMIT, || {
            Ok(is_answered(&c.host, &a)?.then_some(()))
        })?;

        starts_with_a_key_that_has_served(&mut a)?;
        ping(&b.host, "a")?;
        a.stop()?;
        a.restart()?;
        ensure!(statics(&a.host)? == [1, 2], "{:?}", statics(&a.host)?);
        ping(&b.host, "a")?;
        let (numbers, gap) = held.finish()?;
        println!("{numbers} numbers over three static keys, longest gap {} ms", gap.as_millis());
        ensure!(!is_answered(&c.host, &a)?, "under a key that is gone");
        b.stop()?;
        ensure!(is_answered(&b.host, &a)?, "under the key that b was told of");
        b.restart()?;
        c.restart()?;
        ping(&c.host, "a")
    });
}

/// Ends a node, makes its static key older than it may get, and starts it.
fn starts_with_a_key_that_has_served(member: &mut Member) -> Result<()> {
    member.stop()?;
    let newest = statics(&member.host)?.pop().context("it has a static key")?;
    let file = File::options().write(true).open(keys(&member.host)?.join(format!("static-{newest}")))?;
    file.set_modified(SystemTime::now() - SERVED)?;
    member.restart()?;
    Ok(())
}

/// The numbers of the static keys on a host's disk, ascending.
fn statics(host: &Host) -> Result<Vec<u64>> {
    let files =
        fs::read_dir(keys(host)?)?.flatten().map(|file| file.file_name().to_string_lossy().into_owned());
    let mut numbers: Vec<_> = files.filter_map(|file| file.strip_prefix("static-")?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn keys(host: &Host) -> Result<PathBuf> {
    let mut folders = fs::read_dir(host.state.join("keys"))?.flatten().map(|entry| entry.path());
    folders.find(|path| path.is_dir()).context("no keys of a VPI")
}

/// Whether `a` answers a handshake by the device on `host`, whose node is stopped, under the static key that it knows of `a`.
fn is_answered(host: &Host, a: &Member) -> Result<bool> {
    let shaken = Rogue::start(host, ROGUE)?.handshake("a", SocketAddr::from((a.host.address, a.port()?)));
    match shaken {
        Ok(_) => Ok(true),
        Err(error) if error.to_string().contains("no response") => Ok(false),
        Err(error) => bail!(error),
    }
}

/// Pings until it is answered: a first link may take a moment.
fn ping(host: &Host, name: &str) -> Result<()> {
    wait::until(&format!("{} to ping {name}", host.name), LIMIT, || {
        Ok((host.vpi(&["ping", name, "-c", "1"])?.code == 0).then_some(()))
    })
}
