//! The object log: every signed object of one VPI, append-only, and made anew once most of it counts no more.
//!
//! In: the envelopes of objects, each kept as it was received. Out: the same after any crash, and what was lost.
//!
//! ```text
//! record = mark 4 | length u32 | CRC32C u32 over length and payload | payload 1..=4,096 bytes    (big-endian)
//! ```
//!
//! A record is acknowledged only after fdatasync(2). Reading never trusts a length: a bad record is set aside and
//! reading resumes at the next mark that begins a valid one. Who belongs is a function of the *set* of objects, so a
//! lost record costs that object and nothing else, and peers bring it again. The checksum finds accidents only: every
//! payload is verified by its signatures like one from the network.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use protocol::identity::sha256;

use super::StoreError;
use super::replace::{PRIVATE, append_durably, beside, make_way, read, replace, set_aside, sync_folder_of};

#[cfg(test)]
mod tests;

/// Longest payload: a body of 2,048 bytes and 16 signatures (protocol/README, envelope) fit with room to spare.
pub(crate) const PAYLOAD_MAX_BYTES: usize = 4_096;

/// Begins every record; not text, and not the beginning of an envelope.
const MARK: [u8; 4] = [0xb7, b'v', b'o', 0x1a];
const HEADER_BYTES: usize = 12;
/// A log of fewer bytes is left as it is, whatever counts of it (chosen: 300 objects, which nobody misses on a disk).
const OVERGROWN_BYTES: u64 = 64 << 10;
/// `objects.log.copy`: the log as it was at the last opening.
const COPY: &str = "copy";

/// The open log of one VPI.
#[derive(Debug)]
pub(crate) struct ObjectLog {
    path: PathBuf,
    file: File,
    /// Where the last acknowledged record ends.
    end: u64,
    /// Whether bytes of a failed write may stand behind `end`.
    is_tail_clean: bool,
    /// SHA-256 of each payload in it.
    known: BTreeSet<[u8; 32]>,
}

/// What stays of a log when it is made anew.
#[derive(Debug)]
pub(crate) struct Kept {
    bytes: Vec<u8>,
    known: BTreeSet<[u8; 32]>,
}

impl Kept {
    /// How many records.
    pub(crate) fn count(&self) -> u64 {
        self.known.len() as u64
    }
}

/// What was wrong with a log when it was opened; the bytes stand in `objects.log.damaged`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Bad stretches with a valid record behind them: the disk changed what was written.
    pub(crate) bad_stretches: usize,
    /// Length of those stretches together.
    pub(crate) bad_bytes: usize,
    /// Length of the tail that was cut: an append that a crash interrupted, never acknowledged.
    pub(crate) torn_bytes: usize,
    /// Whether something that is no file was moved out of the way.
    pub(crate) is_moved: bool,
    /// Records that came back from the copy.
    pub(crate) recovered: usize,
    /// Whether the copy held what is no record; all of it stands in `objects.log.copy.damaged`.
    pub(crate) is_copy_bad: bool,
}

impl Damage {
    /// Whether the log was whole.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl ObjectLog {
    /// Opens the log at `path`, made when absent, and gives what `read` makes of the payloads of all whole records in
    /// order, each once. What `read` does not take counts as damage.
    ///
    /// A damaged log is repaired before this returns: bad bytes are moved to `objects.log.damaged`, and what the copy of
    /// the last opening has more is appended. Then the copy is made anew, if it differs.
    ///
    /// # Errors
    /// [`StoreError::Io`] only; no content of the file is an error.
    pub(crate) fn open<T>(
        path: &Path,
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<(Self, Vec<T>, Damage), StoreError> {
        let is_moved = make_way(path)?;
        let mut file = open_file(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(StoreError::io("read", path))?;
        let mut found = Vec::new();
        let mut known = BTreeSet::new();
        let mut take = |payload: &[u8]| match known.contains(payload) {
            true => true,
            false => read(payload).is_some_and(|made| {
                found.push(made);
                known.insert(payload.to_vec())
            }),
        };
        let mut scan = Scan::of(&bytes);
        scan.judge(&bytes, &mut take);
        let mut damage = scan.damage(bytes.len());
        if !damage.is_none() {
            file = repair(path, file, &bytes, &scan, damage)?;
        }
        damage.is_moved = is_moved;
        let end = scan.good.iter().map(ExactSizeIterator::len).sum::<usize>() as u64;
        let mut log = Self { path: path.to_owned(), file, end, is_tail_clean: true, known: BTreeSet::new() };
        log.known = known.iter().map(|payload| sha256(&[payload])).collect();
        // A log that was cut between two records looks whole.
        (damage.recovered, damage.is_copy_bad) = log.recover(&known, &mut read, &mut found)?;
        log.copy()?;
        Ok((log, found, damage))
    }

    /// Appends what only the copy has, and says of how many records; who belongs is a function of the set: more of it is
    /// never worse. A copy that holds anything else is set aside, and that is said, too.
    fn recover<T>(
        &mut self,
        known: &BTreeSet<Vec<u8>>,
        mut read: impl FnMut(&[u8]) -> Option<T>,
        found: &mut Vec<T>,
    ) -> Result<(usize, bool), StoreError> {
        let copy = beside(&self.path, COPY);
        let was_moved = make_way(&copy)?;
        let bytes = super::replace::read(&copy)?.unwrap_or_default();
        let mut scan = Scan::of(&bytes);
        let mut lost = BTreeSet::new();
        scan.judge(&bytes, |payload| {
            let is_new = !known.contains(payload) && !lost.contains(payload);
            let Some(made) = is_new.then(|| read(payload)) else { return true };
            let is_read = made.is_some();
            if let Some(made) = made {
                found.push(made);
                lost.insert(payload.to_vec());
            }
            is_read
        });
        self.append(&lost.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        if !scan.bad.is_empty() {
            set_aside(&copy)?;
        }
        Ok((lost.len(), was_moved || !scan.bad.is_empty()))
    }

    /// Keeps a second copy of the log as it is, so that a disk that spoils one file does not leave this device without
    /// the charter and without anybody whom it could ask.
    fn copy(&self) -> Result<(), StoreError> {
        let copy = beside(&self.path, COPY);
        let log = read(&self.path)?.unwrap_or_default();
        if read(&copy)?.as_ref() == Some(&log) { Ok(()) } else { replace(&copy, &log) }
    }

    /// The payloads of all whole records at `path`, in order, for whoever only looks: nothing is made, locked or repaired.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn peek(path: &Path) -> Result<Vec<Vec<u8>>, StoreError> {
        let bytes = read(path)?.unwrap_or_default();
        let payload =
            |record: Range<usize>| Some(bytes.get(record.start + HEADER_BYTES..record.end)?.to_vec());
        Ok(Scan::of(&bytes).good.into_iter().filter_map(payload).collect())
    }

    /// Appends those of `payloads` that it does not have, each as one record of 1 to 4,096 bytes; all are on disk when this
    /// returns.
    ///
    /// # Errors
    /// [`StoreError::RecordLength`] before anything is written; [`StoreError::Io`] when the disk refuses, and then
    /// the log ends where it ended before.
    pub(crate) fn append(&mut self, payloads: &[&[u8]]) -> Result<(), StoreError> {
        let (mut bytes, mut fresh) = (Vec::new(), BTreeSet::new());
        for payload in payloads {
            let hash = sha256(&[payload]);
            if !self.known.contains(&hash) && fresh.insert(hash) {
                encode(payload, &mut bytes)?;
            }
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.cut_tail().map_err(StoreError::io("truncate", &self.path))?;
        // Until the sync has succeeded nobody knows what stands behind `end`.
        self.is_tail_clean = false;
        let written = self.file.write_all_at(&bytes, self.end).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // A refusal here is made good by the next append, or by the next opening.
            let _ = self.cut_tail();
            return Err(StoreError::io("append to", &self.path)(error));
        }
        self.end += bytes.len() as u64;
        self.is_tail_clean = true;
        self.known.append(&mut fresh);
        Ok(())
    }

    /// How many records it has.
    pub(crate) fn count(&self) -> u64 {
        self.known.len() as u64
    }

    /// Whether most of it counts no more, where the payloads that do are of `alive_bytes` together: it is made anew then.
    pub(crate) fn is_overgrown(&self, alive_bytes: u64) -> bool {
        self.end > OVERGROWN_BYTES.max(alive_bytes.saturating_mul(2))
    }

    /// What is to stay of it: the payloads that `is_alive` names, in their order.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn kept(&self, is_alive: impl Fn(&[u8]) -> bool) -> Result<Kept, StoreError> {
        let mut kept = Kept { bytes: Vec::new(), known: BTreeSet::new() };
        for payload in Self::peek(&self.path)? {
            if is_alive(&payload) && kept.known.insert(sha256(&[&payload])) {
                encode(&payload, &mut kept.bytes)?;
            }
        }
        Ok(kept)
    }

    /// Makes the log anew with `kept` alone. The copy goes first: of one that has more, the next opening would bring that
    /// back. A crash leaves the former log or the next one, whole.
    ///
    /// # Errors
    /// [`StoreError::Io`], when neither can be used. What only the making refuses is told, and the log is as before.
    pub(crate) fn make_anew(&mut self, kept: Kept) -> Result<(), StoreError> {
        let copy = beside(&self.path, COPY);
        let made = make_way(&copy)
            .and_then(|_| replace(&copy, &kept.bytes))
            .and_then(|()| replace(&self.path, &kept.bytes));
        // Which of the two it is, whatever was refused, its length says.
        self.file = open_file(&self.path)?;
        let length = self.file.metadata().map_err(StoreError::io("look at", &self.path))?.len();
        if length == kept.bytes.len() as u64 {
            (self.end, self.known, self.is_tail_clean) = (length, kept.known, true);
        }
        if let Err(error) = made {
            tracing::warn!(%error, "the object log could not be made smaller");
        }
        Ok(())
    }

    fn cut_tail(&mut self) -> std::io::Result<()> {
        if !self.is_tail_clean {
            self.file.set_len(self.end)?;
            self.is_tail_clean = true;
        }
        Ok(())
    }
}

/// The payloads of all whole records of the log at `path`, in order, with nothing repaired and nothing locked: for
/// those who only look. No file is no record.
///
/// # Errors
/// [`StoreError::Io`].
pub(crate) fn look(path: &Path) -> Result<Vec<Vec<u8>>, StoreError> {
    let bytes = read(path)?.unwrap_or_default();
    let payload =
        |record: Range<usize>| bytes.get(record.start + HEADER_BYTES..record.end).map(<[u8]>::to_vec);
    Ok(Scan::of(&bytes).good.into_iter().filter_map(payload).collect())
}

fn open_file(path: &Path) -> Result<File, StoreError> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(PRIVATE).open(path);
    let file = file.map_err(StoreError::io("open", path))?;
    sync_folder_of(path)?;
    Ok(file)
}

fn encode(payload: &[u8], out: &mut Vec<u8>) -> Result<(), StoreError> {
    if payload.is_empty() || payload.len() > PAYLOAD_MAX_BYTES {
        return Err(StoreError::RecordLength(payload.len()));
    }
    let length = u32::try_from(payload.len()).expect("at most 4,096").to_be_bytes();
    out.extend_from_slice(&MARK);
    out.extend_from_slice(&length);
    out.extend_from_slice(&checksum(length, payload).to_be_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length), payload)
}

/// Which stretches of a log are whole records, and which are not.
struct Scan {
    good: Vec<Range<usize>>,
    bad: Vec<Range<usize>>,
}

impl Scan {
    fn of(bytes: &[u8]) -> Self {
        let mut scan = Self { good: Vec::new(), bad: Vec::new() };
        let mut at = 0;
        while at < bytes.len() {
            if let Some(length) = record_at(bytes, at) {
                scan.good.push(at..at + length);
                at += length;
            } else {
                let next = next_record(bytes, at + 1);
                scan.bad.push(at..next);
                at = next;
            }
        }
        scan
    }

    /// Counts records that `take` refuses as bad.
    fn judge(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8]) -> bool) {
        let bad = self.good.extract_if(.., |record| {
            !bytes.get(record.start + HEADER_BYTES..record.end).is_some_and(&mut take)
        });
        self.bad.extend(bad);
        self.bad.sort_by_key(|stretch| stretch.start);
    }

    fn damage(&self, length: usize) -> Damage {
        let mut damage = Damage::default();
        for stretch in &self.bad {
            if stretch.end == length {
                damage.torn_bytes = stretch.len();
            } else {
                damage.bad_stretches += 1;
                damage.bad_bytes += stretch.len();
            }
        }
        damage
    }
}

/// The length of the whole record that begins at `at`, if one does.
fn record_at(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?.strip_prefix(&MARK)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let payload_bytes = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    if payload_bytes == 0 || payload_bytes > PAYLOAD_MAX_BYTES {
        return None;
    }
    let payload = rest.get(..payload_bytes)?;
    (checksum(*length, payload) == u32::from_be_bytes(*sum)).then_some(HEADER_BYTES + payload_bytes)
}

/// Where the next whole record begins at or after `from`; the end of the log if there is none.
fn next_record(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    let marks = rest.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    marks.map(|(offset, _)| from + offset).find(|at| record_at(bytes, *at).is_some()).unwrap_or(bytes.len())
}

/// Copies the bad bytes aside, then takes them out of the log; a crash between the two only copies them twice.
fn repair(path: &Path, file: File, bytes: &[u8], scan: &Scan, damage: Damage) -> Result<File, StoreError> {
    append_durably(&beside(path, "damaged"), &joined(bytes, &scan.bad))?;
    if damage.bad_stretches == 0 {
        let cut = file.set_len((bytes.len() - damage.torn_bytes) as u64).and_then(|()| file.sync_all());
        cut.map_err(StoreError::io("truncate", path))?;
        return Ok(file);
    }
    replace(path, &joined(bytes, &scan.good))?;
    open_file(path)
}

fn joined(bytes: &[u8], stretches: &[Range<usize>]) -> Vec<u8> {
    stretches.iter().filter_map(|stretch| bytes.get(stretch.clone())).flatten().copied().collect()
}
