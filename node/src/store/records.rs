//! A beacon's records on disk, in sled 0.34.
//!
//! ```text
//! key    = the record's key, 32
//! value  = version 1 | CRC32C u32 over key and body | body                                      (big-endian)
//! body   = sequence u64 | expiry u64, unix seconds | peer u64 | group u64 | the record's value
//! ```
//!
//! In: what changed, in batches. Out: at a start, everything that was kept. Every call goes through the guard; a folder that
//! fails is set aside, and the writers put their records again. `peer` and `group` are whose share a record is charged to, as
//! numbers that mean nothing elsewhere.

use std::io;
use std::mem;
use std::path::{Path, PathBuf};

use sled::Mode;

use super::guard::{Failure, guarded, set_aside, wait_for_holder};
use super::state::make_folder;

const VERSION: u8 = 1;
/// sled's own cache. Records are served from memory, so it is only for writing.
const CACHE_BYTES: u64 = 8 << 20;

/// Length of a record's key.
pub(crate) const KEY_BYTES: usize = 32;

/// One record, and whose share it is charged to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Of two under one key the higher counts.
    pub(crate) sequence: u64,
    /// When it ends, in unix seconds.
    pub(crate) expiry: u64,
    /// Which writer it is charged to.
    pub(crate) peer: u64,
    /// Which network it is charged to.
    pub(crate) group: u64,
    /// The record's value.
    pub(crate) value: Vec<u8>,
}

/// A record with its key.
pub(crate) type Entry = ([u8; KEY_BYTES], Kept);

/// What became of the record under a key; `None`: it is gone.
pub(crate) type Change = ([u8; KEY_BYTES], Option<Kept>);

/// Why records could not be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordsError {
    /// The folder was damaged. It is empty and can be used again.
    #[error("the records were damaged: they were set aside as {}", .0.display())]
    SetAside(PathBuf),
    /// It cannot be used.
    #[error("the records in {} cannot be kept: {reason}", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What the system or sled said.
        reason: String,
    },
}

/// The open folder.
#[derive(Debug)]
pub(crate) struct RecordFile {
    path: PathBuf,
    /// `None` when it could not be begun anew.
    db: Option<sled::Db>,
}

impl RecordFile {
    /// Opens the folder `path`, made when absent, and reads all of it. What does not read as written is left out.
    ///
    /// Gives beside them where a damaged folder was set aside, if that was needed.
    ///
    /// # Errors
    /// [`RecordsError::Unusable`] when no empty one can be made either.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Entry>, Option<PathBuf>), RecordsError> {
        match open(path) {
            Ok((db, kept)) => Ok((Self { path: path.to_owned(), db: Some(db) }, kept, None)),
            Err(failure) if failure.is_refusal() => Err(unusable(path, &failure)),
            Err(_) => {
                let (db, aside) = begin_anew(path)?;
                Ok((Self { path: path.to_owned(), db: Some(db) }, Vec::new(), Some(aside)))
            }
        }
    }

    /// Does all of `changes`; durable when it returns.
    ///
    /// # Errors
    /// [`RecordsError::SetAside`], after which nothing is on disk; [`RecordsError::Unusable`].
    pub(crate) fn write(&mut self, changes: &[Change]) -> Result<(), RecordsError> {
        let Some(db) = &self.db else {
            let reason = "it failed before".to_owned();
            return Err(RecordsError::Unusable { path: self.path.clone(), reason });
        };
        let written = guarded(|| {
            for (key, kept) in changes {
                match kept {
                    Some(kept) => db.insert(key, encode(key, kept))?,
                    None => db.remove(key)?,
                };
            }
            db.flush().map(drop)
        });
        let Err(failure) = written else { return Ok(()) };
        if failure.is_refusal() {
            // A full disk is none for ever: what could not be written is tried again.
            return Err(unusable(&self.path, &failure));
        }
        // Closing would write and may fail in turn: the files are given up as they are.
        mem::forget(self.db.take());
        let (db, aside) = begin_anew(&self.path)?;
        self.db = Some(db);
        Err(RecordsError::SetAside(aside))
    }
}

impl Drop for RecordFile {
    fn drop(&mut self) {
        let db = self.db.take();
        // Every batch was flushed: what fails here loses nothing.
        let _ = guarded(|| {
            drop(db);
            Ok(())
        });
    }
}

fn open(path: &Path) -> Result<(sled::Db, Vec<Entry>), Failure> {
    guarded(|| {
        make_folder(path, 0o700, None).map_err(|error| io::Error::other(error.to_string()))?;
        wait_for_holder(&path.join("db"))?;
        let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).mode(Mode::LowSpace);
        let db = config.flush_every_ms(None).open()?;
        let mut kept = Vec::new();
        for entry in db.iter() {
            let (key, value) = entry?;
            kept.extend(decode(&key, &value));
        }
        Ok((db, kept))
    })
}

fn begin_anew(path: &Path) -> Result<(sled::Db, PathBuf), RecordsError> {
    let aside = set_aside(path).map_err(|error| unusable(path, &Failure::Sled(error.into())))?;
    let (db, _) = open(path).map_err(|failure| unusable(path, &failure))?;
    Ok((db, aside))
}

fn unusable(path: &Path, failure: &Failure) -> RecordsError {
    RecordsError::Unusable { path: path.to_owned(), reason: failure.to_string() }
}

fn encode(key: &[u8; KEY_BYTES], kept: &Kept) -> Vec<u8> {
    let numbers = [kept.sequence, kept.expiry, kept.peer, kept.group].map(u64::to_be_bytes).concat();
    let body = [&numbers[..], &kept.value].concat();
    [&[VERSION][..], &checksum(key, &body).to_be_bytes(), &body].concat()
}

/// What [`encode`] wrote under `key`; `None` for anything else.
fn decode(key: &[u8], value: &[u8]) -> Option<([u8; KEY_BYTES], Kept)> {
    let key: [u8; KEY_BYTES] = key.try_into().ok()?;
    let (version, rest) = value.split_first()?;
    let (sum, mut body) = rest.split_first_chunk::<4>()?;
    if *version != VERSION || checksum(&key, body) != u32::from_be_bytes(*sum) {
        return None;
    }
    let mut number = || {
        let (first, rest) = body.split_first_chunk::<8>()?;
        body = rest;
        Some(u64::from_be_bytes(*first))
    };
    let (sequence, expiry, peer, group) = (number()?, number()?, number()?, number()?);
    Some((key, Kept { sequence, expiry, peer, group, value: body.to_vec() }))
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::damage::damaged;

    fn kept(number: u8) -> Kept {
        Kept { sequence: 5, expiry: 1_800_000_000, peer: 1, group: 2, value: vec![number; 1_213] }
    }

    #[test]
    fn what_was_written_is_there_after_a_restart_and_what_was_removed_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records");
        let (mut file, found, aside) = RecordFile::open(&path).unwrap();
        assert!(found.is_empty() && aside.is_none());
        let changes: Vec<Change> = (0..100).map(|number| ([number; 32], Some(kept(number)))).collect();
        file.write(&changes).unwrap();
        file.write(&[([7; 32], None), ([8; 32], Some(Kept { sequence: 6, ..kept(8) }))]).unwrap();
        drop(file);
        let (_file, found, _) = RecordFile::open(&path).unwrap();
        assert_eq!(found.len(), 99);
        assert!(!found.iter().any(|(key, _)| *key == [7; 32]));
        assert!(found.contains(&([8; 32], Kept { sequence: 6, ..kept(8) })));
    }

    #[test]
    fn a_damaged_folder_is_set_aside_and_begins_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records");
        let (mut file, ..) = RecordFile::open(&path).unwrap();
        file.write(&[([1; 32], Some(kept(1)))]).unwrap();
        drop(file);
        std::fs::write(path.join("conf"), "no configuration of sled").unwrap();
        let (mut file, found, aside) = RecordFile::open(&path).unwrap();
        assert!(found.is_empty());
        assert!(aside.unwrap().ends_with("records.damaged-1"));
        file.write(&[([2; 32], Some(kept(2)))]).unwrap();
        drop(file);
        assert_eq!(RecordFile::open(&path).unwrap().1.len(), 1);
    }

    #[test]
    fn every_flipped_bit_truncation_and_foreign_key_is_noticed() {
        let key = [3; KEY_BYTES];
        let value = encode(&key, &Kept { value: b"value".to_vec(), ..kept(0) });
        assert!(decode(&key, &value).is_some());
        assert!(decode(&[4; KEY_BYTES], &value).is_none());
        assert!(decode(&key[1..], &value).is_none());
        for bytes in damaged(&value) {
            assert!(decode(&key, &bytes).is_none(), "{bytes:?}");
        }
    }
}
