//! Mending what is ours: the set-up of a VPI that is on disk, what is left of one that is not, and modes.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::OFlags;

use super::Finding;
use crate::loopback::{self, Plan};
use crate::store::journal::{Installed, Journal};

/// What mends a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Repair {
    /// Set the VPI up again, whole.
    Install { plan: Plan, owner_uid: u32 },
    /// Take off what is left of a VPI that is not here.
    Remove(Installed),
    /// The same, where its device's name is another VPI's by now.
    RemoveGuard(Installed),
    /// Strike out what left nothing.
    Forget(Installed),
    /// Begin an empty journal.
    SetJournalAside(PathBuf),
    /// Take permission bits away.
    Narrow { path: PathBuf, mode: u32 },
}

/// Mends what can be mended of `findings`, as root, in the network namespace of the calling thread; `dir` is the state
/// folder. Returns each mended finding's line, or why it was not mended; what mends several at once is done once.
pub(crate) async fn repair(dir: &Path, findings: &[Finding]) -> Vec<Result<String, anyhow::Error>> {
    let mut done: Vec<&Repair> = Vec::new();
    let mut results = Vec::new();
    for finding in findings {
        let Some(wanted) = &finding.repair else { continue };
        if !done.contains(&wanted) {
            done.push(wanted);
            let line = format!("{}: {}", finding.about, finding.what);
            results.push(wanted.run(dir).await.map(|()| line.clone()).with_context(|| line));
        }
    }
    results
}

impl Repair {
    async fn run(&self, dir: &Path) -> anyhow::Result<()> {
        match self {
            Self::Install { plan, owner_uid } => {
                Journal::begin(dir, &Installed::from(plan))?;
                loopback::install(plan, *owner_uid).await?;
            }
            Self::Remove(installed) => {
                loopback::remove(&plan(installed)?).await?;
                Journal::end(dir, installed)?;
            }
            Self::RemoveGuard(installed) => {
                loopback::remove_guard(&plan(installed)?).await?;
                Journal::end(dir, installed)?;
            }
            Self::Forget(installed) => Journal::end(dir, installed)?,
            Self::SetJournalAside(dir) => Journal::change(dir, |_| ())?,
            Self::Narrow { path, mode } => narrow(path, *mode)?,
        }
        Ok(())
    }
}

/// What the journal names, if it can be ours.
pub(super) fn plan(installed: &Installed) -> Result<Plan, loopback::LoopbackError> {
    Plan::new(&installed.device, installed.prefix, installed.own)
}

/// By a descriptor that followed no link: root works in a folder that another user may own.
fn narrow(path: &Path, mode: u32) -> std::io::Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(mode))
}
