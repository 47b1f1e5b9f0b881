//! The guard before sled 0.34, for every folder of it.
//!
//! In: calls to sled. Out: their results, or a [`Failure`]: sled panics on some damaged files, and says `Io` for others. What
//! fails is set aside as `NAME.damaged-1`.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::replace::beside;

/// Damaged folders kept for whoever looks into it; older ones are deleted.
const SET_ASIDE_MAX: usize = 2;
/// How long to wait for a holder that is on its way out: 200 times 5 ms. A killed process gives its files back one by
/// one, the state's lock before this one, and sled's own threads end a moment after it is closed.
const HOLDER_TRIES: u32 = 200;
const HOLDER_PAUSE: Duration = Duration::from_millis(5);

/// What came back through the guard.
#[derive(Debug)]
pub(super) enum Failure {
    /// sled said so.
    Sled(sled::Error),
    /// sled panicked.
    Panicked,
}

impl Failure {
    /// Whether the system refuses, so that another set of files would fare no better.
    pub(super) fn is_refusal(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull, WouldBlock};
        let Self::Sled(sled::Error::Io(error)) = self else { return false };
        matches!(
            error.kind(),
            PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull | WouldBlock
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sled(error) => error.fmt(to),
            Self::Panicked => to.write_str("sled panicked"),
        }
    }
}

/// Calls sled; a panic in it is a failure like any other. Whatever it left behind is not used again.
///
/// # Errors
/// What sled said, or that it panicked.
pub(super) fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(Failure::Sled),
        Err(_) => Err(Failure::Panicked),
    }
}

/// Waits until nobody holds sled's lock on its file: sled itself would fail at once, which is no damage.
///
/// # Errors
/// What the system said; `WouldBlock` when it is held for longer than that.
pub(super) fn wait_for_holder(db: &Path) -> io::Result<()> {
    let file = match File::open(db) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    for _ in 0..HOLDER_TRIES {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => thread::sleep(HOLDER_PAUSE),
            locked => return locked.map_err(io::Error::from),
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Renames the folder `NAME` to `NAME.damaged-1`, an earlier one to `-2`; the earliest is deleted.
///
/// # Errors
/// What the system said.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let name = |age: usize| beside(path, &format!("damaged-{age}"));
    match fs::remove_dir_all(name(SET_ASIDE_MAX)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for age in (1..SET_ASIDE_MAX).rev().filter(|age| name(*age).exists()) {
        fs::rename(name(age), name(age + 1))?;
    }
    fs::rename(path, name(1))?;
    Ok(name(1))
}
