//! The floor: the furthest state that this machine ever reached in a VPI.
//!
//! In: charter version, epoch number and object count after each change; a lower count before objects are given up. Out: a warning when the objects at hand fall
//! short of it, which is what a restored backup or a rolled-back disk looks like. An admin that was rolled back could
//! sign a second history; it must settle with another member first (node/README, What survives).
//!
//! ```text
//! charter 2
//! epoch 5
//! objects 117
//! sum <CRC32C of the VPI and the lines before, 8 hexadecimal digits>
//! ```

use std::path::{Path, PathBuf};

use protocol::identity::VpiId;

use super::StoreError;
use super::replace::{make_way, read, replace, set_aside};

/// How far a VPI's objects reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    /// Version of the charter in force.
    pub(crate) charter: u64,
    /// Number of the newest epoch.
    pub(crate) epoch: u64,
    /// Number of objects kept.
    pub(crate) objects: u64,
}

/// What shows that the disk went back; `floor` is what was reached once, `current` what is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RolledBack {
    /// A later charter was in force.
    #[error("charter {floor} was reached, and only {current} is here")]
    Charter {
        /// The highest version ever reached.
        floor: u64,
        /// The version at hand.
        current: u64,
    },
    /// A later epoch was known.
    #[error("epoch {floor} was reached, and only {current} is here")]
    Epoch {
        /// The highest number ever reached.
        floor: u64,
        /// The number at hand.
        current: u64,
    },
    /// More objects were kept.
    #[error("{floor} objects were kept, and only {current} are here")]
    Objects {
        /// The highest count ever reached.
        floor: u64,
        /// The count at hand.
        current: u64,
    },
    /// The floor itself could not be read; it was set aside as `floor.damaged`.
    #[error("the floor was damaged, so what was reached is unknown")]
    Unknown,
}

/// The floor of one VPI.
#[derive(Debug)]
pub(crate) struct Floor {
    path: PathBuf,
    vpi: VpiId,
    /// `None` when the file was damaged.
    reached: Option<Reached>,
}

impl Floor {
    /// Reads the floor of `vpi` at `path`; no file is a floor of zeros, one that is damaged or another VPI's is set aside.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn open(path: &Path, vpi: &VpiId) -> Result<Self, StoreError> {
        if make_way(path)? {
            return Ok(Self { path: path.to_owned(), vpi: *vpi, reached: None });
        }
        let reached = match read(path)? {
            None => Some(Reached::default()),
            Some(bytes) => decode(vpi, &bytes),
        };
        if reached.is_none() {
            set_aside(path)?;
        }
        Ok(Self { path: path.to_owned(), vpi: *vpi, reached })
    }

    /// Says how `current` falls short of what was once reached.
    pub(crate) fn check(&self, current: Reached) -> Option<RolledBack> {
        let Some(floor) = self.reached else { return Some(RolledBack::Unknown) };
        if current.charter < floor.charter {
            Some(RolledBack::Charter { floor: floor.charter, current: current.charter })
        } else if current.epoch < floor.epoch {
            Some(RolledBack::Epoch { floor: floor.epoch, current: current.epoch })
        } else if current.objects < floor.objects {
            Some(RolledBack::Objects { floor: floor.objects, current: current.objects })
        } else {
            None
        }
    }

    /// Lowers the floor to `objects`, before objects that count no more are taken off the disk.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the floor is then as before.
    pub(crate) fn lower_objects(&mut self, objects: u64) -> Result<(), StoreError> {
        let Some(reached) = self.reached.filter(|reached| objects < reached.objects) else { return Ok(()) };
        let lowered = Reached { objects, ..reached };
        replace(&self.path, encode(&self.vpi, lowered).as_bytes())?;
        self.reached = Some(lowered);
        Ok(())
    }

    /// Raises the floor to `current` wherever that is higher; writes only when something rose.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the floor is then as before.
    pub(crate) fn raise(&mut self, current: Reached) -> Result<(), StoreError> {
        let floor = self.reached.unwrap_or_default();
        let raised = Reached {
            charter: floor.charter.max(current.charter),
            epoch: floor.epoch.max(current.epoch),
            objects: floor.objects.max(current.objects),
        };
        if self.reached != Some(raised) {
            replace(&self.path, encode(&self.vpi, raised).as_bytes())?;
            self.reached = Some(raised);
        }
        Ok(())
    }
}

fn encode(vpi: &VpiId, reached: Reached) -> String {
    let Reached { charter, epoch, objects } = reached;
    let text = format!("charter {charter}\nepoch {epoch}\nobjects {objects}\n");
    let sum = crc32c::crc32c_append(crc32c::crc32c(&vpi.0), text.as_bytes());
    format!("{text}sum {sum:08x}\n")
}

fn decode(vpi: &VpiId, bytes: &[u8]) -> Option<Reached> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.lines();
    let mut number = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    let reached =
        Reached { charter: number("charter")?, epoch: number("epoch")?, objects: number("objects")? };
    (encode(vpi, reached) == text).then_some(reached)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::replace::beside;

    const VPI: VpiId = VpiId([7; 32]);
    const HIGH: Reached = Reached { charter: 2, epoch: 5, objects: 117 };

    #[test]
    fn a_floor_only_rises_and_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("floor");
        let mut floor = Floor::open(&path, &VPI).unwrap();
        assert_eq!(floor.check(Reached::default()), None);

        floor.raise(HIGH).unwrap();
        floor.raise(Reached { charter: 1, epoch: 9, objects: 0 }).unwrap();

        let floor = Floor::open(&path, &VPI).unwrap();
        assert_eq!(floor.check(Reached { epoch: 9, ..HIGH }), None);
        assert_eq!(floor.check(HIGH), Some(RolledBack::Epoch { floor: 9, current: 5 }));
    }

    #[test]
    fn objects_that_are_given_up_are_not_missed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("floor");
        let mut floor = Floor::open(&path, &VPI).unwrap();
        floor.raise(HIGH).unwrap();
        floor.lower_objects(200).unwrap();
        assert!(floor.check(Reached { objects: 116, ..HIGH }).is_some(), "it was lower");
        floor.lower_objects(40).unwrap();
        let floor = Floor::open(&path, &VPI).unwrap();
        assert_eq!(floor.check(Reached { objects: 40, ..HIGH }), None);
        assert!(floor.check(Reached { objects: 39, ..HIGH }).is_some());
        assert!(floor.check(Reached { objects: 40, epoch: 4, ..HIGH }).is_some());
    }

    #[test]
    fn each_fact_that_went_back_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut floor = Floor::open(&dir.path().join("floor"), &VPI).unwrap();
        floor.raise(HIGH).unwrap();

        let check = |current| floor.check(current);

        assert_eq!(check(Reached { charter: 1, ..HIGH }), Some(RolledBack::Charter { floor: 2, current: 1 }));
        assert_eq!(check(Reached { epoch: 0, ..HIGH }), Some(RolledBack::Epoch { floor: 5, current: 0 }));
        assert_eq!(
            check(Reached { objects: 116, ..HIGH }),
            Some(RolledBack::Objects { floor: 117, current: 116 })
        );
        assert_eq!(check(Reached { objects: 118, ..HIGH }), None);
    }

    #[test]
    fn a_damaged_floor_counts_as_rolled_back_until_it_is_raised() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("floor");
        for (damaged, aside) in [
            ("", "damaged"),
            ("charter 2\nepoch 5\n", "damaged-2"),
            ("charter 2\nepoch x\nobjects 1\n", "damaged-3"),
            ("charter +2\nepoch 5\nobjects 1\n", "damaged-4"),
        ] {
            fs::write(&path, damaged).unwrap();

            let mut floor = Floor::open(&path, &VPI).unwrap();

            assert_eq!(floor.check(HIGH), Some(RolledBack::Unknown));
            assert_eq!(fs::read_to_string(beside(&path, aside)).unwrap(), damaged);
            floor.raise(HIGH).unwrap();
            assert_eq!(floor.check(HIGH), None);
        }
    }

    #[test]
    fn the_floor_of_another_vpi_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("floor");
        Floor::open(&path, &VpiId([8; 32])).unwrap().raise(HIGH).unwrap();

        assert_eq!(Floor::open(&path, &VPI).unwrap().check(HIGH), Some(RolledBack::Unknown));
    }

    #[test]
    fn every_flipped_bit_and_truncation_of_a_floor_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("floor");
        Floor::open(&path, &VPI).unwrap().raise(HIGH).unwrap();
        let whole = fs::read(&path).unwrap();
        assert_eq!(decode(&VPI, &whole), Some(HIGH));

        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&VPI, &bytes), None, "bit {bit}");
        }
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(
                Floor::open(&path, &VPI).unwrap().check(HIGH),
                Some(RolledBack::Unknown),
                "cut at {length}"
            );
        }
    }

    #[test]
    fn a_folder_in_place_of_the_floor_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("floor");
        for _ in 0..3 {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("kept"), "").unwrap();
            let mut floor = Floor::open(&path, &VPI).unwrap();
            assert_eq!(floor.check(HIGH), Some(RolledBack::Unknown));
            floor.raise(HIGH).unwrap();
            fs::remove_file(&path).unwrap();
        }
        for aside in ["damaged", "damaged-2", "damaged-3"] {
            assert!(beside(&path, aside).join("kept").exists());
        }
    }
}
