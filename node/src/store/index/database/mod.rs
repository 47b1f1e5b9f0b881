//! The index on disk, in sled 0.34. Only a keeper opens it.
//!
//! In: facts worth remembering, such as the path over which a peer last answered. Out: those facts after a restart, or
//! none. Every value carries its own version and checksum, because sled returns some flipped bytes silently. It panics
//! on others, so every call goes through one guard ([`guarded`]); an index that fails is set aside as
//! `index.damaged-1` and begins empty.
//!
//! sled writes nothing by itself (no timer); each batch ends with an explicit flush, or kill -9 would lose it.

mod value;

use std::io;
use std::mem;
use std::path::{Path, PathBuf};

use protocol::identity::{DeviceId, VpiId};
use sled::{IVec, Mode, Tree};

use super::super::guard::{Failure, guarded, set_aside, wait_for_holder};
use super::super::state::make_folder;
use super::message::{Change, Fact};
use super::{DEVICES_MAX, LastPath, LastPresence, REMOTES_MAX};
use value::{Remote, decode_paths, decode_presence, encode_paths, encode_presence};

#[cfg(test)]
mod tests;

/// Small: the whole index fits, and sled's default is a gigabyte.
const CACHE_BYTES: u64 = 1 << 20;
/// Name of sled's tree of last-good paths, and of the one of newest Presences.
const PATHS: &str = "paths";
const PRESENCES: &str = "presences";

/// Why an index gave nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum DatabaseError {
    /// It was damaged. It is empty and can be used again.
    #[error("the index was damaged: it was set aside as {} and begins empty", .0.display())]
    SetAside(PathBuf),
    /// It cannot be used until the next start; a node runs without.
    #[error("the index {} cannot be used: {reason}", path.display())]
    Unusable {
        /// Its folder.
        path: PathBuf,
        /// What the system or sled said.
        reason: String,
    },
}

/// The open index.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    /// `None` when it could not be begun anew.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    db: sled::Db,
    paths: Tree,
    presences: Tree,
}

impl Database {
    /// Opens the index in folder `path`, made when absent.
    ///
    /// Gives beside it where a damaged one was set aside, if that was needed.
    ///
    /// # Errors
    /// [`DatabaseError::Unusable`] when no empty one can be made either.
    pub(super) fn open(path: &Path) -> Result<(Self, Option<PathBuf>), DatabaseError> {
        match open(path) {
            Ok(open) => Ok((Self { path: path.to_owned(), open: Some(open) }, None)),
            Err(failure) if failure.is_refusal() => Err(unusable(path, &failure)),
            Err(_) => {
                let (open, aside) = begin_anew(path)?;
                Ok((Self { path: path.to_owned(), open: Some(open) }, Some(aside)))
            }
        }
    }

    /// Everything remembered about `vpi`: paths first, the most recent first.
    ///
    /// # Errors
    /// [`DatabaseError::SetAside`], after which the index is empty; [`DatabaseError::Unusable`].
    pub(super) fn recall(&mut self, vpi: &VpiId) -> Result<Vec<Fact>, DatabaseError> {
        self.call(|open| {
            let mut paths = Vec::new();
            for entry in entries(&open.paths, vpi) {
                let (device, key, value) = entry?;
                paths.extend(decode_paths(&key, &value).into_iter().flatten().map(|r| LastPath {
                    device,
                    remote: r.remote,
                    last_at: r.last_at,
                }));
            }
            paths.sort_by_key(|path| std::cmp::Reverse(path.last_at));
            let mut facts: Vec<_> = paths.into_iter().map(|path| Fact::Path(*vpi, path)).collect();
            for entry in entries(&open.presences, vpi) {
                let (device, key, value) = entry?;
                facts.extend(decode_presence(device, &key, &value).map(|known| Fact::Presence(*vpi, known)));
            }
            Ok(facts)
        })
    }

    /// Does all of `changes`, in their order; durable when it returns.
    ///
    /// # Errors
    /// [`DatabaseError::SetAside`], after which the index is empty; [`DatabaseError::Unusable`].
    pub(super) fn write(&mut self, changes: &[Change]) -> Result<(), DatabaseError> {
        self.call(|open| {
            for change in changes {
                match change {
                    Change::Remember(Fact::Path(vpi, path)) => remember_path(&open.paths, vpi, path)?,
                    Change::Remember(Fact::Presence(vpi, known)) => {
                        remember_presence(&open.presences, vpi, known)?;
                    }
                    Change::Forget(vpi) => {
                        forget(&open.paths, vpi)?;
                        forget(&open.presences, vpi)?;
                    }
                }
            }
            open.db.flush().map(drop)
        })
    }

    /// Runs one batch under the guard; a failure sets the index aside.
    fn call<T>(&mut self, batch: impl FnOnce(&Open) -> sled::Result<T>) -> Result<T, DatabaseError> {
        let Some(open) = &self.open else {
            return Err(DatabaseError::Unusable {
                path: self.path.clone(),
                reason: "it failed before".to_owned(),
            });
        };
        let failure = match guarded(|| batch(open)) {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        // Closing would write and may fail in turn: the files are given up as they are.
        mem::forget(self.open.take());
        if failure.is_refusal() {
            return Err(unusable(&self.path, &failure));
        }
        let (open, aside) = begin_anew(&self.path)?;
        self.open = Some(open);
        Err(DatabaseError::SetAside(aside))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let open = self.open.take();
        // Every batch was flushed: what fails here loses nothing.
        let _ = guarded(|| {
            drop(open);
            Ok(())
        });
    }
}

fn open(path: &Path) -> Result<Open, Failure> {
    guarded(|| {
        make_folder(path, 0o700, None).map_err(|error| io::Error::other(error.to_string()))?;
        wait_for_holder(&path.join("db"))?;
        let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).mode(Mode::LowSpace);
        let db = config.flush_every_ms(None).open()?;
        let paths = db.open_tree(PATHS)?;
        let presences = db.open_tree(PRESENCES)?;
        // A page that cannot be read shall show here, not in the middle of the work.
        for entry in paths.iter().chain(presences.iter()) {
            entry?;
        }
        Ok(Open { db, paths, presences })
    })
}

fn begin_anew(path: &Path) -> Result<(Open, PathBuf), DatabaseError> {
    let aside = set_aside(path).map_err(|error| unusable(path, &Failure::Sled(error.into())))?;
    let open = open(path).map_err(|failure| unusable(path, &failure))?;
    Ok((open, aside))
}

fn unusable(path: &Path, failure: &Failure) -> DatabaseError {
    DatabaseError::Unusable { path: path.to_owned(), reason: failure.to_string() }
}

fn key(vpi: &VpiId, device: &DeviceId) -> [u8; 64] {
    let mut key = [0; 64];
    key[..32].copy_from_slice(vpi.as_bytes());
    key[32..].copy_from_slice(device.as_bytes());
    key
}

/// Every entry of `vpi`, with the device that it is about.
fn entries(tree: &Tree, vpi: &VpiId) -> impl Iterator<Item = sled::Result<(DeviceId, IVec, IVec)>> {
    tree.scan_prefix(vpi.as_bytes()).filter_map(|entry| match entry {
        Ok((key, value)) => {
            let device = key.get(32..).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())?;
            Some(Ok((DeviceId::from(device), key, value)))
        }
        Err(error) => Some(Err(error)),
    })
}

fn remember_path(tree: &Tree, vpi: &VpiId, path: &LastPath) -> sled::Result<()> {
    let key = key(vpi, &path.device);
    let kept = tree.get(key)?;
    if kept.is_none() {
        make_room(tree, vpi, |key, value| {
            decode_paths(key, value).and_then(|remotes| remotes.iter().map(|r| r.last_at).max())
        })?;
    }
    // A value whose checksum fails counts as none.
    let mut remotes = kept.and_then(|value| decode_paths(&key, &value)).unwrap_or_default();
    remotes.retain(|known| known.remote != path.remote);
    remotes.push(Remote { remote: path.remote, last_at: path.last_at });
    remotes.sort_by_key(|remote| std::cmp::Reverse(remote.last_at));
    remotes.truncate(REMOTES_MAX);
    tree.insert(key, encode_paths(&key, &remotes)).map(drop)
}

fn remember_presence(tree: &Tree, vpi: &VpiId, presence: &LastPresence) -> sled::Result<()> {
    let key = key(vpi, &presence.device);
    match tree.get(key)? {
        None => make_room(tree, vpi, |key, value| {
            decode_presence(presence.device, key, value).map(|known| known.last_at)
        })?,
        Some(kept) => {
            let kept = decode_presence(presence.device, &key, &kept);
            if kept.is_some_and(|kept| kept.counter > presence.counter) {
                return Ok(());
            }
        }
    }
    tree.insert(key, encode_presence(&key, presence)).map(drop)
}

fn forget(tree: &Tree, vpi: &VpiId) -> sled::Result<()> {
    for key in tree.scan_prefix(vpi.as_bytes()).keys() {
        tree.remove(key?)?;
    }
    Ok(())
}

/// Takes out what cannot be read and then the longest unseen, until one more device fits.
fn make_room(tree: &Tree, vpi: &VpiId, last_at: impl Fn(&[u8], &[u8]) -> Option<u64>) -> sled::Result<()> {
    let count = tree.scan_prefix(vpi.as_bytes()).keys().count();
    if count < DEVICES_MAX {
        return Ok(());
    }
    let mut by_age = Vec::with_capacity(count);
    for entry in tree.scan_prefix(vpi.as_bytes()) {
        let (key, value) = entry?;
        by_age.push((last_at(&key, &value), key));
    }
    by_age.sort_unstable();
    for (_, key) in by_age.iter().take(count - DEVICES_MAX + 1) {
        tree.remove(key)?;
    }
    Ok(())
}
