//! Replaces a whole file so that a crash leaves the former or the next content, never a mixture.
//!
//! Temporary file beside it, fsync, rename, fsync of the folder. The folder belongs to one process (the state's
//! lock), so the temporary name is fixed and a leftover is overwritten.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::StoreError;
use super::state::Owner;

/// Permission bits of every file in the state folder.
pub(super) const PRIVATE: u32 = 0o600;

/// Writes `bytes` to `path` (mode 0600), durable when it returns.
///
/// # Errors
/// [`StoreError::Io`]; `path` then holds the former content or all of the next one.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    replace_with(path, bytes, None)
}

/// [`replace`] by root in a folder that another user owns: the file is `owner`'s. Anybody else's stay their own.
///
/// # Errors
/// As [`replace`].
pub(super) fn replace_for(path: &Path, bytes: &[u8], owner: Owner) -> Result<(), StoreError> {
    replace_with(path, bytes, Some(owner).filter(|_| geteuid().is_root()))
}

fn replace_with(path: &Path, bytes: &[u8], owner: Option<Owner>) -> Result<(), StoreError> {
    let next = beside(path, "new");
    let written = write_next(&next, bytes, owner).and_then(|()| fs::rename(&next, path));
    if written.is_err() {
        // The former content still stands; a leftover would only be overwritten by the next attempt.
        let _ = fs::remove_file(&next);
    }
    written.map_err(StoreError::io("write", path))?;
    sync_folder_of(path)
}

/// Removes `path`, durable when it returns; a file that is not there is as good as removed.
///
/// # Errors
/// [`StoreError::Io`].
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    for file in [beside(path, "new"), path.to_owned()] {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove", &file)(error));
            }
            _ => {}
        }
    }
    sync_folder_of(path)
}

/// Appends `bytes` to `path` (made with mode 0600 when absent), durable when it returns.
///
/// # Errors
/// [`StoreError::Io`].
pub(super) fn append_durably(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let write = || {
        let mut file = OpenOptions::new().append(true).create(true).mode(PRIVATE).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(StoreError::io("append to", path))?;
    sync_folder_of(path)
}

/// Reads the whole file; `None` when there is none.
///
/// # Errors
/// [`StoreError::Io`].
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

/// Makes the names in the folder of `path` durable.
///
/// # Errors
/// [`StoreError::Io`].
pub(super) fn sync_folder_of(path: &Path) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(StoreError::io("sync", folder))
}

/// The path of the file `NAME.suffix` beside `NAME`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Damaged files of one name that are kept (chosen: a disk that damages more often than a person looks is to be replaced).
const ASIDE_MAX: usize = 9;

/// Renames what stands at `path` to `NAME.damaged`, or to a numbered name where others stand already. When all names are
/// taken the newest makes way, which is told.
///
/// # Errors
/// [`StoreError::Io`]; `path` is then as before.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let numbered = (2..=ASIDE_MAX).map(|number| beside(path, &format!("damaged-{number}")));
    let names: Vec<PathBuf> = std::iter::once(beside(path, "damaged")).chain(numbered).collect();
    let free = names.iter().find(|name| fs::symlink_metadata(name).is_err());
    let Some(aside) = free.or(names.last()).cloned() else { return Ok(path.to_owned()) };
    if free.is_none() {
        tracing::warn!(path = %aside.display(), "too many damaged files: this one makes way for the next");
        let is_folder = fs::symlink_metadata(&aside).is_ok_and(|found| found.is_dir());
        let removed = if is_folder { fs::remove_dir_all(&aside) } else { fs::remove_file(&aside) };
        removed.map_err(StoreError::io("remove", &aside))?;
    }
    fs::rename(path, &aside).map_err(StoreError::io("set aside", path))?;
    sync_folder_of(path)?;
    Ok(aside)
}

/// Sets aside a folder or another thing that is no plain file where one belongs; says whether it was needed.
///
/// # Errors
/// [`StoreError::Io`].
pub(super) fn make_way(path: &Path) -> Result<bool, StoreError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io("look at", path)(error)),
        Ok(found) if found.is_file() => Ok(false),
        Ok(_) => {
            let aside = set_aside(path)?;
            tracing::warn!(path = %path.display(), aside = %aside.display(), "no plain file: it was set aside");
            Ok(true)
        }
    }
}

fn write_next(next: &Path, bytes: &[u8], owner: Option<Owner>) -> io::Result<()> {
    match fs::remove_file(next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(next)?;
    if let Some(Owner { user, group }) = owner {
        // By the descriptor: the name may be another file's by now.
        fchown(&file, Some(user), Some(group))?;
    }
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_aside_is_replaced_only_when_all_names_are_taken() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("floor");
        let mut aside = Vec::new();
        for number in 0..=ASIDE_MAX {
            if number % 2 == 1 {
                fs::create_dir(&path).unwrap();
                fs::write(path.join("number"), number.to_string()).unwrap();
            } else {
                fs::write(&path, number.to_string()).unwrap();
            }
            aside.push(set_aside(&path).unwrap());
            assert!(!path.exists());
        }

        assert_eq!(aside[0], beside(&path, "damaged"));
        assert_eq!(aside[ASIDE_MAX], aside[ASIDE_MAX - 1], "the newest made way");
        for (number, at) in aside.iter().enumerate().take(ASIDE_MAX - 1) {
            let file = if number % 2 == 1 { at.join("number") } else { at.clone() };
            assert_eq!(fs::read_to_string(file).unwrap(), number.to_string());
        }
    }
}
