//! A state folder that is older than it once was: a backup that was put back, or a disk that forgot.
//!
//! ```text
//! a ── b, c     a is the admin whose disk goes back; c is removed in the time that a forgets
//! ```

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::member::find_member;
use tests::{Lab, Member, scenario, wait};

use super::{copy, remove};

const MEET_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn an_admin_restored_from_a_backup_signs_nothing_before_it_has_caught_up() {
    scenario("backup", 3, |lab| {
        let mut forgotten = Forgotten::prepare(lab)?;
        remove(&forgotten.a.host.state)?;
        copy(&forgotten.backup(), &forgotten.a.host.state)?;
        forgotten.starts_alone("")?;
        forgotten.catches_up("a member had what this device signed")
    });
}

#[test]
fn an_admin_whose_disk_lost_the_newest_objects_says_so_at_its_start() {
    scenario("wentback", 3, |lab| {
        let mut forgotten = Forgotten::prepare(lab)?;
        // Everything but the floor is as it was.
        let state = forgotten.a.host.state.clone();
        let floor = fs::read_dir(state.join("vpi"))?.next().context("a VPI")??.path().join("floor");
        let kept = fs::read(&floor)?;
        remove(&state)?;
        copy(&forgotten.backup(), &state)?;
        // In place, so that owner and mode stay.
        fs::write(&floor, kept)?;
        forgotten.starts_alone("is older than it once was")?;
        forgotten.catches_up("")
    });
}

/// An admin that has made an invite and removed a member since its backup was made; nobody runs.
struct Forgotten {
    a: Member,
    b: Member,
    invite: String,
    folder: tempfile::TempDir,
}

impl Forgotten {
    fn prepare(lab: &Lab) -> Result<Self> {
        let mut a = Member::found(lab.host("a")?, &[])?;
        let mut b = Member::join(lab.host("b")?, &a.invite(&[])?, &[])?;
        let _c = Member::join(lab.host("c")?, &a.invite(&[])?, &[])?;
        b.alias_of("c")?;
        a.alias_of("c")?;
        a.stop()?;
        let folder = tempfile::tempdir()?;
        copy(&a.host.state, &folder.path().join("backup"))?;
        a.restart()?;
        a.host.vpi(&["ping", "b.home", "-c", "1"])?.success()?;
        // It signs once it has all that b has.
        let made = wait::until("a to sign", MEET_LIMIT, || {
            let made = a.host.vpi(&["invite", "home", "--json"])?;
            if made.code == 0 { Ok(Some(made.json()?)) } else { Ok(None) }
        })?;
        let invite = made["invite"].as_str().context("no invite")?.to_owned();
        a.host.vpi(&["remove", "home", "c.home"])?.success()?;
        wait::until("b to hear of the removal", MEET_LIMIT, || Ok(is_removed(&b, "c")?.then_some(())))?;
        wait::until("b to have the invite and the epoch", MEET_LIMIT, || {
            let status = b.host.vpi(&["status", "--json"])?.json()?;
            let invites = b.host.vpi(&["invites", "home", "--json"])?.stdout;
            Ok((status["vpis"][0]["epoch"] == 1 && invites.contains(&invite)).then_some(()))
        })?;
        b.stop()?;
        a.stop()?;
        Ok(Self { a, b, invite, folder })
    }

    fn backup(&self) -> std::path::PathBuf {
        self.folder.path().join("backup")
    }

    /// The admin starts while no member runs, and signs nothing.
    fn starts_alone(&mut self, said: &str) -> Result<()> {
        let before = fs::read(&self.a.host.log)?.len();
        self.a.restart()?;
        ensure!(since(&self.a.host.log, before)?.contains(said), "it does not say {said:?}");
        for words in [&["invite", "home"][..], &["remove", "home", "b.home"]] {
            self.a.host.vpi(words)?.refused(5, &["--offline"])?;
        }
        Ok(())
    }

    /// A member comes: everything is as it was, in one history, and the admin signs again.
    fn catches_up(&mut self, said: &str) -> Result<()> {
        let before = fs::read(&self.a.host.log)?.len();
        self.b.restart()?;
        wait::until("a to have caught up", MEET_LIMIT, || {
            let status = self.a.host.vpi(&["status", "--json"])?.json()?;
            let invites = self.a.host.vpi(&["invites", "home", "--json"])?.stdout;
            let is_back = status["vpis"][0]["epoch"] == 1 && invites.contains(&self.invite);
            Ok((is_back && is_removed(&self.a, "c")?).then_some(()))
        })?;
        ensure!(since(&self.a.host.log, before)?.contains(said), "it does not say {said:?}");
        wait::until("a to sign again", MEET_LIMIT, || {
            Ok((self.a.host.vpi(&["invite", "home"])?.code == 0).then_some(()))
        })?;
        let status = self.a.host.vpi(&["status", "--json"])?.json()?;
        let notices = status["vpis"][0]["notices"].to_string();
        ensure!(notices.contains("older than they once were"), "no notice: {notices}");
        let status = self.b.host.vpi(&["status", "--json"])?.json()?;
        ensure!(status["vpis"][0]["notices"] == serde_json::json!([]), "a second history: {status}");
        Ok(())
    }
}

fn is_removed(at: &Member, name: &str) -> Result<bool> {
    Ok(find_member(&at.host, name)?.is_none_or(|member| member["state"] == "removed"))
}

fn since(log: &Path, before: usize) -> Result<String> {
    let said = fs::read(log)?;
    Ok(String::from_utf8_lossy(said.get(before..).unwrap_or_default()).into_owned())
}
