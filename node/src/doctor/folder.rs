//! The state folder as it is judged from outside: who may look into it, whether it can be read, and the clock.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::membership::object::Object;

use super::repair::Repair;
use super::{Facts, Finding};
use crate::store::journal::Journal;
use crate::store::objects;
use crate::store::settings::VpiSettings;
use crate::store::{StoreError, aside};

/// *Specified* (protocol/README): what is sealed for strangers is taken for this long before and after its time.
const TOLERATED: Duration = Duration::from_secs(120);
/// *Chosen*: files of keys that are looked at; a folder with more is one that something else fills.
const FILES_MAX: usize = 10_000;

/// Reads what the other parts need.
pub(super) fn read(dir: &Path, findings: &mut Vec<Finding>) -> (Vec<VpiSettings>, Option<Journal>) {
    let vpis = VpiSettings::list(dir).unwrap_or_else(|error| {
        findings.push(match &error {
            StoreError::Missing(_) => Finding::note("state", error.to_string(), ""),
            _ if is_denied(&error) => Finding::unseen("state", error.to_string(), "use sudo"),
            _ => Finding::problem("state", error.to_string(), "mend the file, or restore it from a backup"),
        });
        Vec::new()
    });
    let journal = match Journal::read(dir) {
        Ok(journal) => Some(journal),
        Err(error) if is_denied(&error) => {
            findings.push(Finding::unseen("state", error.to_string(), "use sudo"));
            None
        }
        Err(error) => {
            let finding = Finding::problem("state", error.to_string(), "run `vpi doctor --fix` as root");
            findings.push(finding.mended_by(Repair::SetJournalAside(dir.to_owned())));
            None
        }
    };
    (vpis, journal)
}

fn is_denied(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
}

/// Judges modes and times.
pub(super) fn examine(dir: &Path, facts: &Facts, findings: &mut Vec<Finding>) {
    modes(dir, findings);
    damaged(dir, &facts.vpis, findings);
    clock(dir, &facts.vpis, findings);
}

/// Files that a person got wrong, and those that were set aside because they were damaged.
fn damaged(dir: &Path, vpis: &[VpiSettings], findings: &mut Vec<Finding>) {
    let mut found: Vec<Finding> = aside::of_node(dir)
        .iter()
        .map(|aside| Finding::note("state", aside.what(), aside.advice()))
        .collect();
    for vpi in vpis {
        found.extend(vpi.mistake(dir).map(|mistake| {
            let advice = "it is left as it is, and the settings of the last start are in force: mend it, then start the node \
                          again";
            Finding::problem(&vpi.name, mistake.to_string(), advice)
        }));
        let aside = aside::of_vpi(dir, &vpi.id);
        found.extend(aside.iter().map(|aside| Finding::note(&vpi.name, aside.what(), aside.advice())));
    }
    // The node says the same of what it may look at.
    findings.retain(|known| !found.iter().any(|other| known.what.starts_with(&other.what)));
    findings.append(&mut found);
}

/// The same widths as the node accepts (node/README, *What survives*).
fn modes(dir: &Path, findings: &mut Vec<Finding>) {
    let keys = dir.join("keys");
    check_mode(dir, 0o750, findings);
    check_mode(&dir.join("vpi"), 0o750, findings);
    check_mode(&keys, 0o700, findings);
    let mut folders = vec![keys];
    let mut looked_at = 0;
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.filter_map(Result::ok) {
            looked_at += 1;
            if looked_at > FILES_MAX {
                return;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => {
                    check_mode(&entry.path(), 0o700, findings);
                    folders.push(entry.path());
                }
                Ok(kind) if kind.is_file() => check_mode(&entry.path(), 0o600, findings),
                _ => {}
            }
        }
    }
}

fn check_mode(path: &Path, allowed: u32, findings: &mut Vec<Finding>) {
    // What is missing is made by the node; what may not be looked at is told elsewhere.
    let Ok(found) = fs::symlink_metadata(path) else { return };
    let mode = found.permissions().mode() & 0o777;
    if mode & !allowed != 0 {
        let what = format!("{} has mode {mode:04o}, which lets others in", path.display());
        let advice = format!("run `vpi doctor --fix`, or chmod {allowed:o} {}", path.display());
        let repair = Repair::Narrow { path: path.to_owned(), mode: mode & allowed };
        findings.push(Finding::problem("state", what, advice).mended_by(repair));
    }
}

/// A clock that is behind what is known to have happened.
fn clock(dir: &Path, vpis: &[VpiSettings], findings: &mut Vec<Finding>) {
    let now = SystemTime::now();
    let newest = vpis.iter().filter_map(|vpi| newest_object(dir, vpi)).max();
    let built = std::env::current_exe().and_then(fs::metadata).and_then(|program| program.modified()).ok();
    let known = [(newest, "the newest object of a VPI here"), (built, "this program")];
    for (time, of) in known {
        let behind = time.and_then(|time| time.duration_since(now).ok());
        if let Some(behind) = behind.filter(|behind| *behind > TOLERATED) {
            let what =
                format!("the clock is {} s behind {of}: members will not be understood", behind.as_secs());
            findings.push(Finding::problem("clock", what, "set the clock (timedatectl set-ntp true)"));
            return;
        }
    }
}

fn newest_object(dir: &Path, vpi: &VpiSettings) -> Option<SystemTime> {
    let path: PathBuf = dir.join("vpi").join(vpi.id.to_string()).join("objects.log");
    let records = objects::look(&path).ok()?;
    let times = records
        .iter()
        .filter_map(|record| Object::open(&vpi.id, record).ok())
        .map(|object| object.body().time());
    UNIX_EPOCH.checked_add(Duration::from_secs(times.max()?))
}
