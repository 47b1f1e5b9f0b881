//! The journal: what was put on this machine outside of the state folder, written down before it is done.
//!
//! In: a VPI's device, prefix and own alias before the set-up begins, a hosts file before the block in it is written.
//! Out: the same after a crash, so that `vpi doctor --fix` can undo what nothing here needs. An entry goes only when
//! what it names is off the machine. Written by rename, for one process at a time: commands that run as root and
//! `vpi up` change it, while the running node does not.
//!
//! ```text
//! hosts = ["/etc/hosts"]
//!
//! [[vpi]]
//! device = "vpi-home"
//! prefix = "127.80.0.0"
//! own = "127.80.12.7"
//! ```
//!
//! The folder may belong to a user without rights, and root acts on what stands here: so nothing is believed beyond
//! what [`Plan::new`] takes, and what is not recognised on the machine is left alone.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::loopback::Plan;

use super::StoreError;
use super::replace::{replace_for, set_aside};
use super::state::Owner;

/// Name of the file in the state folder.
const FILE: &str = "journal";

/// *Chosen*: no machine has more than 64 VPIs, of about 100 bytes each; a larger file is none of ours.
const MAX_BYTES: u64 = 65_536;

/// *Chosen*: each change takes milliseconds, and whoever else locks the folder does not keep root waiting.
const LOCK_WITHIN: Duration = Duration::from_secs(5);
/// *Chosen*: below what a user notices.
const LOCK_STEP: Duration = Duration::from_millis(10);

/// What was put on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Journal {
    /// Files that hold a block of ours.
    #[serde(default)]
    pub(crate) hosts: Vec<PathBuf>,
    /// VPIs whose set-up was begun.
    #[serde(default)]
    pub(crate) vpi: Vec<Installed>,
}

/// One VPI's device, guard route, route and firewall table, which these three facts name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Installed {
    /// The TUN device, which is the firewall table's name, too.
    pub(crate) device: String,
    /// First address of the /16.
    pub(crate) prefix: Ipv4Addr,
    /// The own alias.
    pub(crate) own: Ipv4Addr,
}

impl From<&Plan> for Installed {
    fn from(plan: &Plan) -> Self {
        Self { device: plan.device().to_owned(), prefix: plan.prefix(), own: plan.own() }
    }
}

impl Journal {
    /// Reads the journal of the state folder `dir`; no file is an empty journal. Takes no lock.
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::Kind`] for what is no plain file; [`StoreError::Damaged`].
    pub(crate) fn read(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let mut options = OpenOptions::new();
        // NONBLOCK: a pipe that somebody put there must not be waited for.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match options.read(true).custom_flags(flags.bits().cast_signed()).open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
                return Err(StoreError::Kind { path, wanted: "file" });
            }
            opened => opened.map_err(StoreError::io("open", &path))?,
        };
        if !file.metadata().map_err(StoreError::io("look at", &path))?.is_file() {
            return Err(StoreError::Kind { path, wanted: "file" });
        }
        let mut text = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(StoreError::io("read", &path))?;
        let journal = (text.len() as u64 <= MAX_BYTES).then(|| toml::from_slice(&text).ok()).flatten();
        let advice = "`vpi doctor --fix` sets it aside; what it named is undone by hand or by a restart";
        journal.ok_or(StoreError::Damaged { path, advice })
    }

    /// Writes down that the set-up of a VPI begins.
    ///
    /// # Errors
    /// As [`Journal::change`].
    pub(crate) fn begin(dir: &Path, vpi: &Installed) -> Result<(), StoreError> {
        Self::change(dir, |journal| {
            journal.vpi.retain(|other| other != vpi);
            journal.vpi.push(vpi.clone());
        })
    }

    /// Strikes out a VPI that is off this machine.
    ///
    /// # Errors
    /// As [`Journal::change`].
    pub(crate) fn end(dir: &Path, vpi: &Installed) -> Result<(), StoreError> {
        Self::change(dir, |journal| journal.vpi.retain(|other| other != vpi))
    }

    /// Changes the journal; durable when it returns. A damaged one is set aside as `journal.damaged` first.
    ///
    /// # Errors
    /// [`StoreError::Io`], also when another process holds the folder for five seconds; [`StoreError::Kind`].
    pub(crate) fn change(dir: &Path, change: impl FnOnce(&mut Self)) -> Result<(), StoreError> {
        let folder = lock(dir)?;
        let path = dir.join(FILE);
        let former = match Self::read(dir) {
            Err(StoreError::Damaged { .. }) => set_journal_aside(&path)?,
            // A folder holds no entry of ours; links and pipes are somebody's doing, and stay.
            Err(StoreError::Kind { .. }) if fs::symlink_metadata(&path).is_ok_and(|it| it.is_dir()) => {
                set_journal_aside(&path)?
            }
            read => read?,
        };
        let mut next = former.clone();
        change(&mut next);
        if next == former {
            return Ok(());
        }
        let found = folder.metadata().map_err(StoreError::io("look at", dir))?;
        let owner = Owner { user: found.uid(), group: found.gid() };
        let text = toml::to_string(&next)
            .map_err(|error| StoreError::Settings { path: path.clone(), reason: error.to_string() })?;
        replace_for(&path, text.as_bytes(), owner)
    }
}

fn set_journal_aside(path: &Path) -> Result<Journal, StoreError> {
    set_aside(path)?;
    tracing::warn!(path = %path.display(), "the journal was damaged and was set aside");
    Ok(Journal::default())
}

/// Locks the folder, not a file in it: nothing is left behind, and there is nothing to be swapped.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let folder = File::open(dir).map_err(StoreError::io("open", dir))?;
    let end = Instant::now() + LOCK_WITHIN;
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(folder),
            Err(Errno::WOULDBLOCK) if Instant::now() < end => std::thread::sleep(LOCK_STEP),
            Err(errno) => return Err(StoreError::io("lock", dir)(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::replace::beside;

    fn installed(name: &str) -> Installed {
        let (prefix, own) = (Ipv4Addr::new(127, 80, 0, 0), Ipv4Addr::new(127, 80, 12, 7));
        Installed { device: format!("vpi-{name}"), prefix, own }
    }

    #[test]
    fn what_was_begun_is_there_until_it_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Journal::read(dir.path()).unwrap(), Journal::default());
        Journal::begin(dir.path(), &installed("home")).unwrap();
        Journal::begin(dir.path(), &installed("work")).unwrap();
        Journal::begin(dir.path(), &installed("home")).unwrap();
        let both = [installed("work"), installed("home")];
        assert_eq!(Journal::read(dir.path()).unwrap().vpi, both);
        Journal::change(dir.path(), |journal| journal.hosts.push("/etc/hosts".into())).unwrap();
        Journal::end(dir.path(), &installed("work")).unwrap();
        let left = Journal::read(dir.path()).unwrap();
        assert_eq!((left.vpi, left.hosts), (vec![installed("home")], vec!["/etc/hosts".into()]));
    }

    #[test]
    fn a_damaged_journal_is_told_and_set_aside_by_the_next_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let damages = [
            ("device = 1".to_owned(), "damaged"),
            ("\0".to_owned(), "damaged-2"),
            ("#".repeat(70_000), "damaged-3"),
        ];
        for (damage, aside) in damages {
            fs::write(&path, &damage).unwrap();
            assert!(matches!(Journal::read(dir.path()), Err(StoreError::Damaged { .. })));
            Journal::begin(dir.path(), &installed("home")).unwrap();
            assert_eq!(Journal::read(dir.path()).unwrap().vpi, [installed("home")]);
            assert_eq!(fs::read_to_string(beside(&path, aside)).unwrap(), damage);
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        Journal::begin(dir.path(), &installed("home")).unwrap();
        assert_eq!(Journal::read(dir.path()).unwrap().vpi, [installed("home")]);
        assert!(beside(&path, "damaged-4").is_dir());
    }

    #[test]
    fn links_and_pipes_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert!(matches!(Journal::read(dir.path()), Err(StoreError::Kind { .. })));
        assert!(matches!(Journal::begin(dir.path(), &installed("home")), Err(StoreError::Kind { .. })));
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(matches!(Journal::read(dir.path()), Err(StoreError::Kind { .. })));
    }

    #[test]
    fn two_writers_lose_no_entry() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let dir = dir.path();
                scope.spawn(move || {
                    for number in 0..10 {
                        Journal::begin(dir, &installed(&format!("{writer}-{number}"))).unwrap();
                    }
                });
            }
        });
        assert_eq!(Journal::read(dir.path()).unwrap().vpi.len(), 40);
    }
}
