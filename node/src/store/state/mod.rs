//! The state folder itself: made, checked, locked.
//!
//! Owns the folder's layout and its permissions: `DIR` 0750 (its group may reach the control socket), `DIR/keys`
//! 0700, and refuses anything wider. One node at a time: `DIR/lock` is held by flock(2), which the kernel gives
//! back however the node ends. A command that only talks to the node takes no lock: [`State::control_path`].

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use protocol::identity::VpiId;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::StoreError;
use super::keys::{self, Keys};
use super::replace::{PRIVATE, sync_folder_of};

#[cfg(test)]
mod tests;

/// Widest mode of the state folder: its group reads the control socket.
pub(super) const FOLDER_MODE: u32 = 0o750;
/// Widest mode of the folder of keys.
const KEYS_MODE: u32 = 0o700;

/// A user and a group, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// User id.
    pub(crate) user: u32,
    /// Group id.
    pub(crate) group: u32,
}

/// An open state folder; nobody else has it open until this is dropped.
#[derive(Debug)]
pub(crate) struct State {
    dir: PathBuf,
    owner: Owner,
    /// Held for its flock only.
    _lock: File,
}

/// Where the files of one VPI stand.
#[derive(Clone, Debug)]
pub(crate) struct VpiFiles {
    /// For [`ObjectLog`](super::objects::ObjectLog).
    pub(crate) objects: PathBuf,
    /// For [`Floor`](super::floor::Floor).
    pub(crate) floor: PathBuf,
    /// For [`Aliases`](super::aliases::Aliases).
    pub(crate) aliases: PathBuf,
    /// For [`VpiSettings`](super::settings::VpiSettings).
    pub(crate) settings: PathBuf,
}

impl State {
    /// Opens, checks and locks the state folder `dir`, made when absent; its parent must exist. A folder that is made
    /// belongs to `owner` (needs root) or to the running user; one that is there keeps its owner.
    ///
    /// What this makes belongs to the owner of `dir`. Root may open anybody's folder, because the node that it
    /// starts becomes the folder's owner; files made later belong to whoever makes them, so privileges go first.
    ///
    /// # Errors
    /// [`StoreError::Loose`], [`StoreError::Owner`] and [`StoreError::Kind`] for a folder that is not private;
    /// [`StoreError::Locked`] when a node runs on it; [`StoreError::Io`].
    pub(crate) fn open(dir: &Path, owner: Option<Owner>) -> Result<Self, StoreError> {
        make_folder(dir, FOLDER_MODE, owner)?;
        let owner = check_folder(dir, FOLDER_MODE)?;
        let lock = take_lock(dir, owner)?;
        for (name, mode) in [(keys::FOLDER, KEYS_MODE), ("vpi", FOLDER_MODE)] {
            let folder = dir.join(name);
            make_folder(&folder, mode, Some(owner))?;
            check_folder(&folder, mode)?;
        }
        Ok(Self { dir: dir.to_owned(), owner, _lock: lock })
    }

    /// Where the node on state folder `dir` listens for commands; takes no lock and looks at nothing.
    pub(crate) fn control_path(dir: &Path) -> PathBuf {
        dir.join("control.sock")
    }

    /// The folder itself.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whose folder it is: the user that a node started by root becomes.
    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    /// The secrets.
    pub(crate) fn keys(&self) -> Keys {
        Keys::new(self.dir.join(keys::FOLDER))
    }

    /// The folder for [`Index`](super::index::Index).
    pub(crate) fn index_path(&self) -> PathBuf {
        self.dir.join("index")
    }

    /// The files of `vpi`; its folder is made when absent.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the folder cannot be made.
    pub(crate) fn vpi(&self, vpi: &VpiId) -> Result<VpiFiles, StoreError> {
        make_folder(&vpi_folder(&self.dir, vpi), FOLDER_MODE, Some(self.owner))?;
        Ok(Self::vpi_files(&self.dir, vpi))
    }

    /// Where the files of `vpi` stand below the state folder `dir`; takes no lock and looks at nothing.
    pub(crate) fn vpi_files(dir: &Path, vpi: &VpiId) -> VpiFiles {
        let folder = vpi_folder(dir, vpi);
        let file = |name| folder.join(name);
        VpiFiles {
            objects: file("objects.log"),
            floor: file("floor"),
            aliases: file("aliases"),
            settings: file(super::settings::FILE),
        }
    }
}

fn vpi_folder(dir: &Path, vpi: &VpiId) -> PathBuf {
    dir.join("vpi").join(vpi.to_string())
}

/// Refuses a file or folder whose permission bits go beyond `allowed`.
///
/// # Errors
/// [`StoreError::Loose`], which says which chmod to run.
pub(super) fn check_mode(path: &Path, mode: u32, allowed: u32) -> Result<(), StoreError> {
    let mode = mode & 0o777;
    if mode & !allowed == 0 {
        Ok(())
    } else {
        Err(StoreError::Loose { path: path.to_owned(), mode, allowed })
    }
}

/// Makes one folder of exactly this mode, whatever the umask; one that is there is left as it is.
///
/// # Errors
/// [`StoreError::Io`].
pub(super) fn make_folder(path: &Path, mode: u32, owner: Option<Owner>) -> Result<(), StoreError> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made.map_err(StoreError::io("create", path))?,
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(StoreError::io("set the mode of", path))?;
    if let Some(owner) = owner.filter(|_| geteuid().is_root()) {
        give_to(path, owner)?;
    }
    sync_folder_of(path)
}

/// The owner of a folder that is private enough.
///
/// # Errors
/// [`StoreError::Loose`], [`StoreError::Owner`], [`StoreError::Kind`]; [`StoreError::Io`].
pub(super) fn check_folder(path: &Path, allowed: u32) -> Result<Owner, StoreError> {
    let found = fs::symlink_metadata(path).map_err(StoreError::io("look at", path))?;
    if !found.is_dir() {
        return Err(StoreError::Kind { path: path.to_owned(), wanted: "folder" });
    }
    let user = geteuid().as_raw();
    if !may_use(found.uid(), user) {
        return Err(StoreError::Owner { path: path.to_owned(), owner: found.uid(), user });
    }
    check_mode(path, found.mode(), allowed)?;
    Ok(Owner { user: found.uid(), group: found.gid() })
}

/// Root's folders and one's own may be used; root may use everybody's, because it becomes their owner.
fn may_use(owner: u32, user: u32) -> bool {
    owner == user || owner == 0 || user == 0
}

/// Takes the lock of folder `dir`, which belongs to one process.
///
/// # Errors
/// [`StoreError::Locked`]; [`StoreError::Io`].
pub(super) fn take_lock(dir: &Path, owner: Owner) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let mut lock = open_lock(&path, owner)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(StoreError::Locked { dir: dir.to_owned(), pid: holder(&mut lock) });
        }
        Err(errno) => return Err(StoreError::io("lock", &path)(errno.into())),
    }
    let mut sign = || {
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "{}", std::process::id())
    };
    sign().map_err(StoreError::io("write", &path))?;
    Ok(lock)
}

/// Opens the lock file without following a link: root writes into a folder that another user may own.
fn open_lock(path: &Path, owner: Owner) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(PRIVATE).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            if geteuid().is_root() {
                give_to(path, owner)?;
            }
            return Ok(file);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(StoreError::io("create", path)(error)),
    }
    let file = options.open(path).map_err(StoreError::io("open", path))?;
    let found = file.metadata().map_err(StoreError::io("look at", path))?;
    if found.is_file() && found.nlink() == 1 {
        Ok(file)
    } else {
        Err(StoreError::Kind { path: path.to_owned(), wanted: "file" })
    }
}

/// Who wrote itself into the lock file; unknown in the moment between lock and writing.
fn holder(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn give_to(path: &Path, owner: Owner) -> Result<(), StoreError> {
    std::os::unix::fs::lchown(path, Some(owner.user), Some(owner.group))
        .map_err(StoreError::io("change the owner of", path))
}
