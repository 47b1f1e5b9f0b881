//! A beacon's folder below the state folder: its identity, its table of other beacons, its records.
//!
//! ```text
//! DIR/beacon/lock       held by the one running beacon, with its process id
//! DIR/beacon/key        seed of its Ed25519 identity, drawn at the first start; no device's and no VPI's
//! DIR/beacon/table      other beacons, one multiaddress a line
//! DIR/beacon/records/   sled: what writers put here
//! ```
//!
//! A beacon and a node may run on one state folder side by side: neither opens the other's files.

use std::fs::File;
use std::path::{Path, PathBuf};

use protocol::identity::Secret;

use super::StoreError;
use super::keys::{drawn_seed, read_private};
use super::replace::replace;
use super::state::{FOLDER_MODE, Owner, check_folder, make_folder, take_lock};

const FOLDER: &str = "beacon";
/// Longest table that is read: more than a full one has.
const MAX_TABLE_BYTES: usize = 256 * 1_024;

/// An open folder; no other beacon has it open until this is dropped.
#[derive(Debug)]
pub(crate) struct BeaconFolder {
    dir: PathBuf,
    owner: Owner,
    /// Held for its flock only.
    _lock: File,
}

impl BeaconFolder {
    /// Opens, checks and locks `state/beacon`; both are made when absent.
    ///
    /// # Errors
    /// As [`State::open`](super::state::State::open).
    pub(crate) fn open(state: &Path) -> Result<Self, StoreError> {
        make_folder(state, FOLDER_MODE, None)?;
        let owner = check_folder(state, FOLDER_MODE)?;
        let dir = state.join(FOLDER);
        make_folder(&dir, FOLDER_MODE, Some(owner))?;
        let owner = check_folder(&dir, FOLDER_MODE)?;
        let lock = take_lock(&dir, owner)?;
        Ok(Self { dir, owner, _lock: lock })
    }

    /// Where the beacon on state folder `state` listens for commands; takes no lock and looks at nothing.
    pub(crate) fn control_path(state: &Path) -> PathBuf {
        state.join(FOLDER).join("control.sock")
    }

    /// Whose folder it is: the user that a beacon started by root becomes.
    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    /// The seed of the beacon's identity, drawn and written on first use.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] and [`StoreError::Loose`] for a file that is there; it is never replaced.
    pub(crate) fn seed(&self) -> Result<Secret, StoreError> {
        drawn_seed(&self.dir.join("key"))
    }

    /// The folder of the records.
    pub(crate) fn records_path(&self) -> PathBuf {
        self.dir.join("records")
    }

    /// The lines of the table as they were last written; none of a table that is not text or is longer than one is.
    ///
    /// # Errors
    /// [`StoreError::Loose`], [`StoreError::Io`].
    pub(crate) fn table(&self) -> Result<Vec<String>, StoreError> {
        let bytes = read_private(&self.dir.join("table"), MAX_TABLE_BYTES)?.unwrap_or_default();
        let text = str::from_utf8(&bytes).ok().filter(|text| text.len() <= MAX_TABLE_BYTES);
        Ok(text.unwrap_or_default().lines().map(str::to_owned).collect())
    }

    /// Writes the table, durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn write_table(&self, lines: &[String]) -> Result<(), StoreError> {
        let mut text = lines.join("\n");
        text.push('\n');
        replace(&self.dir.join("table"), text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn identity_and_table_are_those_of_the_last_time_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let folder = BeaconFolder::open(&state).unwrap();
        let seed = folder.seed().unwrap().0;
        assert_eq!(folder.table().unwrap(), Vec::<String>::new());
        folder.write_table(&["/ip4/192.0.2.1/tcp/1".to_owned(), "two".to_owned()]).unwrap();
        assert!(matches!(BeaconFolder::open(&state), Err(StoreError::Locked { .. })));
        drop(folder);
        let folder = BeaconFolder::open(&state).unwrap();
        assert_eq!(folder.seed().unwrap().0, seed);
        assert_eq!(folder.table().unwrap(), ["/ip4/192.0.2.1/tcp/1", "two"]);
        for (file, mode) in [("beacon", 0o750), ("beacon/key", 0o600), ("beacon/table", 0o600)] {
            let found = std::fs::metadata(state.join(file)).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{file}");
        }
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_damaged_is_refused_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let folder = BeaconFolder::open(dir.path().join("state").as_path()).unwrap();
        folder.seed().unwrap();
        let key = dir.path().join("state/beacon/key");
        std::fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(folder.seed(), Err(StoreError::Loose { .. })));
        std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&key, "no key").unwrap();
        assert!(matches!(folder.seed(), Err(StoreError::Damaged { .. })));
        assert_eq!(std::fs::read(&key).unwrap(), b"no key");
    }
}
