//! The one error of this room: what could not be kept or found again, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// Why the state folder, or one file in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// The file or folder it was tried on.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The state folder was never made.
    #[error("there is no state folder {}: run `vpi up` first, or name another one with --state", .0.display())]
    Missing(PathBuf),
    /// Others may read or write what must stay private.
    #[error("{} has mode {mode:04o}, which lets others in: run `chmod {allowed:o} {}`", path.display(), path.display())]
    Loose {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The widest permission bits that are accepted.
        allowed: u32,
    },
    /// The folder belongs to somebody else.
    #[error(
        "{} belongs to user {owner}, and this runs as user {user}: run as user {owner}, or change the owner \
         with `chown -R`", path.display()
    )]
    Owner {
        /// The folder.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// User id of this process.
        user: u32,
    },
    /// Something of another kind stands where a plain file or folder belongs.
    #[error("{} is not a plain {wanted}: move it away", path.display())]
    Kind {
        /// Where it stands.
        path: PathBuf,
        /// `"file"` or `"folder"`.
        wanted: &'static str,
    },
    /// Another node runs on this state.
    #[error("a node{} already runs on {}: stop it, or use another --state", process(*.pid), dir.display())]
    Locked {
        /// The state folder.
        dir: PathBuf,
        /// Process id of the other node, as it wrote it down.
        pid: Option<u32>,
    },
    /// The bytes of a file that cannot be rebuilt are not those that were written.
    #[error("{} is damaged: {advice}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What to do.
        advice: &'static str,
    },
    /// A secret that others belong to is gone.
    #[error("{} is gone, and the VPIs here know this device by it: restore it from a backup", .0.display())]
    Lost(PathBuf),
    /// A secret is not the one by which the VPI knows this device.
    #[error(
        "{} is another device's key than the one the VPI knows here: restore this device's own from a backup", .0.display()
    )]
    Foreign(PathBuf),
    /// A secret stands already under this name and is another one.
    #[error("{} already holds another key: it is never overwritten", .0.display())]
    Exists(PathBuf),
    /// The settings of a VPI cannot be understood.
    #[error("{}: {reason}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// Which key or value, and why.
        reason: String,
    },
    /// A record is empty or longer than a log keeps.
    #[error("a record of {0} bytes does not fit the object log")]
    RecordLength(usize),
    /// The system gave no randomness for a key.
    #[error("the system gives no random bytes: {0}")]
    Randomness(getrandom::Error),
}

impl StoreError {
    /// Makes the error of one refused operation; `doing` is a verb such as `"read"`.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}
