//! What is kept of a VPI that this device left: that it did.
//!
//! A removal names the device's key for ever, so that a later join of the same VPI needs another. The mark is written
//! first and struck out last: whatever a crash leaves of a departure, or of a return, goes at the next start, before
//! the VPI could be opened.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use protocol::identity::VpiId;

use super::StoreError;
use super::replace::{remove, replace, sync_folder_of};
use super::state::State;

/// The mark in the VPI's folder.
const MARK: &str = "left";

impl State {
    /// Removes the keys, objects and settings of `vpi`, which nothing has open any more; durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::Io`]; what is left goes at the next start.
    pub(crate) fn forget(&self, vpi: &VpiId) -> Result<(), StoreError> {
        // Makes the folder, if need be.
        self.vpi(vpi)?;
        replace(&self.folder_of(vpi).join(MARK), b"this device left the VPI\n")?;
        self.sweep(vpi)
    }

    /// Says whether this device left `vpi`.
    pub(crate) fn has_left(&self, vpi: &VpiId) -> bool {
        self.folder_of(vpi).join(MARK).exists()
    }

    /// Lets this device come back to `vpi`, which it left, with a key of its own there; durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the device still counts as one that left.
    pub(crate) fn come_back(&self, vpi: &VpiId) -> Result<(), StoreError> {
        self.sweep(vpi)?;
        self.keys().draw_device_in(vpi)?;
        remove(&self.folder_of(vpi).join(MARK))
    }

    /// Ends what a crash interrupted.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn finish_departures(&self) -> Result<(), StoreError> {
        let vpis: Vec<VpiId> =
            entries(&self.dir().join("vpi"))?.iter().filter_map(|path| id_of(path)).collect();
        vpis.iter().filter(|vpi| self.has_left(vpi)).try_for_each(|vpi| self.sweep(vpi))
    }

    fn sweep(&self, vpi: &VpiId) -> Result<(), StoreError> {
        let keys = self.keys().folder(vpi);
        entries(&keys)?.iter().try_for_each(|path| remove_whole(path))?;
        match fs::remove_dir(&keys) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => {
                removed.map_err(StoreError::io("remove", &keys))?;
                sync_folder_of(&keys)?;
            }
        }
        let folder = self.folder_of(vpi);
        let mut others = entries(&folder)?.into_iter().filter(|path| !path.ends_with(MARK));
        others.try_for_each(|path| remove_whole(&path))?;
        sync_folder_of(&folder.join(MARK))
    }

    fn folder_of(&self, vpi: &VpiId) -> PathBuf {
        self.dir().join("vpi").join(vpi.to_string())
    }
}

fn id_of(folder: &Path) -> Option<VpiId> {
    VpiId::from_hex(folder.file_name()?.to_str()?)
}

/// Removes a file, or a folder that a damaged disk made of one.
fn remove_whole(path: &Path) -> Result<(), StoreError> {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let removed = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(StoreError::io("remove", path))
}

/// What stands in a folder; nothing when there is none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(StoreError::io("list", folder))?,
    };
    entries.map(|entry| Ok(entry.map_err(StoreError::io("list", folder))?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::settings::VpiSettings;

    const LEFT: VpiId = VpiId([1; 32]);
    const KEPT: VpiId = VpiId([2; 32]);

    fn state() -> (tempfile::TempDir, State) {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(&root.path().join("vpi"), None).unwrap();
        state.keys().device().unwrap();
        for vpi in [LEFT, KEPT] {
            state.keys().put_recovery(&vpi, &[3; 32]).unwrap();
            fs::write(state.vpi(&vpi).unwrap().objects, "objects").unwrap();
        }
        (root, state)
    }

    #[test]
    fn a_vpi_that_was_left_leaves_only_a_mark() {
        let (_root, state) = state();

        state.forget(&LEFT).unwrap();

        assert!(state.has_left(&LEFT) && !state.has_left(&KEPT));
        assert!(!state.keys().folder(&LEFT).exists() && state.keys().recovery(&KEPT).unwrap().is_some());
        assert_eq!(entries(&state.folder_of(&LEFT)).unwrap(), [state.folder_of(&LEFT).join(MARK)]);
        assert!(state.vpi(&KEPT).unwrap().objects.exists() && state.keys().folder(&KEPT).exists());
        assert!(VpiSettings::list(state.dir()).unwrap().is_empty());
        state.forget(&LEFT).unwrap();
    }

    #[test]
    fn whoever_comes_back_has_another_key_there_each_time() {
        let (_root, state) = state();
        let keys = state.keys();
        let usual = keys.device().unwrap().public();
        assert_eq!(keys.device_in(&LEFT).unwrap().public(), usual);
        let mut known = vec![usual];
        for _ in 0..2 {
            state.forget(&LEFT).unwrap();

            state.come_back(&LEFT).unwrap();

            let own = keys.device_in(&LEFT).unwrap().public();
            assert!(!state.has_left(&LEFT) && !known.contains(&own));
            assert_eq!(keys.device_in(&LEFT).unwrap().public(), own);
            known.push(own);
        }
        assert_eq!(keys.device().unwrap().public(), usual);
        assert_eq!(keys.device_in(&KEPT).unwrap().public(), usual);
    }

    #[test]
    fn a_return_that_was_cut_short_is_a_departure_at_the_next_start() {
        let (_root, state) = state();
        state.forget(&LEFT).unwrap();
        // What a crash before the mark is struck out leaves.
        state.keys().draw_device_in(&LEFT).unwrap();

        state.finish_departures().unwrap();

        assert!(state.has_left(&LEFT) && !state.keys().folder(&LEFT).exists());
    }

    #[test]
    fn a_departure_that_was_cut_short_ends_at_the_next_start() {
        let (_root, state) = state();
        // What a crash right after the first write leaves.
        fs::write(state.folder_of(&LEFT).join(MARK), "").unwrap();
        // What a damaged disk may have left before.
        fs::create_dir(state.keys().folder(&LEFT).join("static-0.damaged")).unwrap();
        fs::create_dir(state.folder_of(&LEFT).join("floor.damaged")).unwrap();

        state.finish_departures().unwrap();

        assert!(!state.keys().folder(&LEFT).exists() && !state.vpi(&LEFT).unwrap().objects.exists());
        assert!(state.vpi(&KEPT).unwrap().objects.exists() && state.keys().folder(&KEPT).exists());
    }
}
