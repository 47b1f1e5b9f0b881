//! Bad use: one clear sentence on standard error, and the exit code of node/README.

use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::topology::vpi_binary;
use tests::{Answer, Host, Member, Node, Pair, scenario};

const FAILED: i32 = 1;
const WRONG_USAGE: i32 = 2;
const NO_NODE: i32 = 3;
const NOT_FOUND: i32 = 4;
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn commands_without_a_node_say_that_none_is_running() {
    scenario("no-node", 1, |lab| {
        let host = lab.host("a")?;
        for words in [
            &["status"][..],
            &["create", "home"],
            &["invite", "home"],
            &["ping", "b.home"],
            &["whois", "127.80.0.1"],
            &["expose", "home", "tcp/22"],
            &["unexpose", "home", "tcp/22"],
            &["exposures"],
            &["policy", "home", "own-alias"],
            &["metrics"],
            &["leave", "home"],
            &["remove", "home", "b"],
            &["revoke", "home", "00ff"],
            &["invites", "home"],
        ] {
            host.vpi(words)?.refused(NO_NODE, &["node"])?;
        }
        Member::found(host, &[])?.kill()?;
        host.vpi(&["status"])?.refused(NO_NODE, &["node"])
    });
}

#[test]
fn wrong_usage_is_told_apart() {
    scenario("usage", 1, |lab| {
        let host = lab.host("a")?;
        for words in [
            &["frobnicate"][..],
            &["create"],
            &["status", "--no-such-option"],
            &["expose", "home", "22"],
            &["policy", "home", "open"],
            &["whois", "nas"],
        ] {
            let answer = host.vpi(words)?;
            anyhow::ensure!(answer.code == WRONG_USAGE && !answer.stderr.is_empty(), "{answer:#?}");
        }
        Ok(())
    });
}

#[test]
fn unknown_vpis_and_members_are_not_found() {
    scenario("unknown", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        let host = &pair.a.host;
        for words in [&["status", "nowhere"][..], &["invite", "nowhere"]] {
            host.vpi(words)?.refused(NOT_FOUND, &["nowhere"])?;
        }
        for member in ["nobody.home", "nobody"] {
            host.vpi(&["ping", member])?.refused(NOT_FOUND, &["nobody"])?;
        }
        Ok(())
    });
}

#[test]
fn changing_the_machine_without_root_is_refused() {
    scenario("no-root", 1, |lab| {
        let host = lab.host("a")?;
        let _node = Node::start(host, &[])?;
        for words in [
            &["create", "home"][..],
            &["expose", "home", "tcp/22"],
            &["unexpose", "home", "tcp/22"],
            &["policy", "home", "own-alias"],
            &["leave", "home"],
        ] {
            as_nobody(host, words)?.refused(FAILED, &["root"])?;
        }
        Ok(())
    });
}

#[test]
fn a_machine_without_dev_net_tun_is_named() {
    scenario("no-tun", 1, |lab| {
        let host = lab.host("a")?;
        let mut founder = Member::found(host, &[])?;
        founder.stop()?;
        without_tun(host, &["up"])?.refused(FAILED, &["/dev/net/tun"])
    });
}

#[test]
fn a_port_that_is_taken_is_named() {
    scenario("port", 1, |lab| {
        let host = lab.host("a")?;
        let taken = host.enter(|| Ok(UdpSocket::bind(("0.0.0.0", 0))?))?;
        let port = taken.local_addr()?.port().to_string();
        {
            let _node = Node::start(host, &[])?;
            host.vpi(&["create", "home", "--port", &port])?.refused(FAILED, &[&port])?;
            drop(taken);
            host.vpi(&["create", "home", "--port", &port])?.success()?;
        }
        let _taken = host.enter(|| Ok(UdpSocket::bind(format!("0.0.0.0:{port}"))?))?;
        up_quietly(host)?.refused(FAILED, &[&port])
    });
}

#[test]
fn a_state_folder_open_to_others_is_refused() {
    scenario("modes", 1, |lab| {
        let host = lab.host("a")?;
        Member::found(host, &[])?.stop()?;
        let keys = host.state.join("keys");
        for (folder, loose, tight) in [(host.state.as_path(), 0o755, 0o750), (&keys, 0o750, 0o700)] {
            chmod(folder, loose)?;
            up_quietly(host)?.refused(FAILED, &[&folder.to_string_lossy()])?;
            chmod(folder, tight)?;
        }
        Node::start(host, &[])?;
        Ok(())
    });
}

#[test]
fn a_second_node_on_one_state_folder_is_refused() {
    scenario("second", 1, |lab| {
        let host = lab.host("a")?;
        let mut first = Node::start(host, &[])?;
        up_quietly(host)?.refused(FAILED, &["node"])?;
        anyhow::ensure!(first.is_running()?, "the first node ended");
        host.vpi(&["status"])?.success()?;
        Ok(())
    });
}

#[test]
fn an_unknown_setting_is_named() {
    scenario("setting", 1, |lab| {
        let host = lab.host("a")?;
        let settings = lab.evidence().join("settings.toml");
        fs::write(&settings, "rekey_aftre = 10\n")?;
        let words = ["up", "--config", &settings.to_string_lossy()];
        with_errors_only(host, &vpi_binary()?, &words)?.refused(FAILED, &["rekey_aftre"])
    });
}

fn up_quietly(host: &Host) -> Result<Answer> {
    with_errors_only(host, &vpi_binary()?, &["up"])
}

/// Runs a `vpi` command as the user `nobody`, with a copy of the binary and a state folder that this user may reach.
fn as_nobody(host: &Host, arguments: &[&str]) -> Result<Answer> {
    let folder = tempfile::tempdir()?;
    chmod(folder.path(), 0o755)?;
    let binary = folder.path().join("vpi");
    // By a process of its own: what this one has open for writing, a command that another scenario starts at that
    // instant has too, and then it cannot be executed.
    let copied = Command::new("cp").arg(vpi_binary()?).arg(&binary).status()?;
    ensure!(copied.success(), "cp of vpi: {copied}");
    let (binary, state) = (binary.to_string_lossy(), folder.path().join("state"));
    let state = state.to_string_lossy();
    let identity = ["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", &binary, "--state", &state];
    let words: Vec<_> = identity.into_iter().chain(arguments.iter().copied()).collect();
    with_errors_only(host, "setpriv", &words)
}

fn without_tun(host: &Host, arguments: &[&str]) -> Result<Answer> {
    let vpi = vpi_binary()?;
    let hide = ["--mount", "sh", "-c", "mount -t tmpfs none /dev/net && exec \"$0\" \"$@\"", &vpi];
    let words: Vec<_> = hide.into_iter().chain(arguments.iter().copied()).collect();
    with_errors_only(host, "unshare", &words)
}

/// Runs a command whose log is quiet but for errors, so that standard error is what a user is told.
fn with_errors_only(host: &Host, program: &str, arguments: &[&str]) -> Result<Answer> {
    let mut command = host.command(program, arguments);
    command.env("VPI_LOG", "off");
    tests::process::finish(command, "", LIMIT)
}

fn chmod(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode)).with_context(|| path.display().to_string())
}
