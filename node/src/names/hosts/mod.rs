//! A marked block in `/etc/hosts`, and nothing outside it.
//!
//! ```text
//! 127.0.0.1 localhost
//! # vpi begin /var/lib/vpi
//! # written by `vpi hosts --install`, taken out by `vpi hosts --uninstall`
//! 127.80.3.9 laptop.home.vpi
//! 127.80.12.7 nas.home.vpi
//! # vpi end /var/lib/vpi
//! ```
//!
//! In: the entries of one state folder; two nodes on a machine have a block each. Out: the file with that block put in,
//! rewritten or taken out, every byte outside it as before. A file whose marks are not one pair is left alone: nobody can
//! say which of its lines are whose.
//!
//! Written by rename in the same folder, mode, owner and SELinux label kept. Where the file is a mount of its own, as in
//! containers, it cannot be renamed over and is written in place.

mod replace;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::Entry;
use replace::{beside, fill, in_place, is_mounted, lock};

/// The file that resolvers read (hosts(5)).
pub(crate) const PATH: &str = "/etc/hosts";

/// The largest file that is taken: long lists of blocked advertisers have 20 MB.
const MAX_BYTES: u64 = 64 << 20;
/// What people are told in the block.
const NOTE: &str = "# written by `vpi hosts --install`, taken out by `vpi hosts --uninstall`";
/// The line that says that the line feed before the block belongs to the block.
const JOINED: &str = "# (the line above had no line feed)";

/// What became of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It was so already.
    None,
    /// It has other content.
    Written,
}

/// Why the file is not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostsError {
    /// The marks do not make one block.
    #[error(
        "{path} has a damaged block of vpi around line {line}: remove its lines from `# vpi begin` to `# vpi end`, \
         both included, then run `vpi hosts --install`"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Of the first mark that is wrong, from 1.
        line: usize,
    },
    /// It is larger than any list of hosts.
    #[error("{0} has more than {max} MiB: it is left alone", max = MAX_BYTES >> 20)]
    TooLarge(PathBuf),
    /// It is a folder or a device.
    #[error("{0} is not a file")]
    NotAFile(PathBuf),
    /// The path of the state folder cannot stand in a line.
    #[error("the state folder {0:?} has a line feed in its path: no block can be marked with it")]
    Unmarkable(PathBuf),
    /// The system refused.
    #[error("cannot write {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The block of one state folder in one file.
#[derive(Clone, Debug)]
pub(crate) struct Hosts {
    path: PathBuf,
    begin: String,
    end: String,
}

impl Hosts {
    /// The block of the state folder `state` in the file at `path`.
    ///
    /// # Errors
    /// [`HostsError::Unmarkable`].
    pub(crate) fn new(path: &Path, state: &Path) -> Result<Self, HostsError> {
        let known = fs::canonicalize(state).unwrap_or_else(|_| state.to_owned());
        let shown = known.display().to_string();
        if shown.contains(['\n', '\r']) {
            return Err(HostsError::Unmarkable(known));
        }
        // Through a link, so that the rename replaces the file and not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { path, begin: format!("# vpi begin {shown}"), end: format!("# vpi end {shown}") })
    }

    /// Puts the block in, or rewrites it.
    ///
    /// # Errors
    /// [`HostsError`]; the file is then as before.
    pub(crate) fn install(&self, entries: &[Entry]) -> Result<Change, HostsError> {
        self.change(|bytes, block| match block {
            Some(range) => Some(self.with_block(bytes, range, entries)),
            None => Some(self.with_block(bytes, bytes.len()..bytes.len(), entries)),
        })
    }

    /// Rewrites the block if it is there.
    ///
    /// # Errors
    /// [`HostsError`]; the file is then as before.
    pub(crate) fn refresh(&self, entries: &[Entry]) -> Result<Change, HostsError> {
        self.change(|bytes, block| block.map(|range| self.with_block(bytes, range, entries)))
    }

    /// Takes the lines of these /16s out of the block, if it is there.
    ///
    /// # Errors
    /// [`HostsError`]; the file is then as before.
    pub(crate) fn drop_prefixes(&self, prefixes: &[Ipv4Addr]) -> Result<Change, HostsError> {
        let first_two = |address: &Ipv4Addr| (address.octets()[0], address.octets()[1]);
        self.change(|bytes, block| {
            let range = block?;
            let mut kept = entries_in(bytes.get(range.clone())?);
            kept.retain(|entry| !prefixes.iter().any(|prefix| first_two(prefix) == first_two(&entry.alias)));
            Some(self.with_block(bytes, range, &kept))
        })
    }

    /// Takes the whole block out; the file is then byte for byte as it was before [`Hosts::install`].
    ///
    /// # Errors
    /// [`HostsError`]; the file is then as before.
    pub(crate) fn uninstall(&self) -> Result<Change, HostsError> {
        self.change(|bytes, block| {
            let range = block?;
            let without = [bytes.get(..range.start)?, bytes.get(range.end..)?].concat();
            Some(without)
        })
    }

    /// Says whether the block is there; needs no right but to read.
    ///
    /// # Errors
    /// [`HostsError`].
    pub(crate) fn is_installed(&self) -> Result<bool, HostsError> {
        let Some((bytes, _)) = self.read()? else { return Ok(false) };
        Ok(self.find(&bytes)?.is_some())
    }

    /// Reads, changes and writes, while no other process of ours does. `edit` gets the content and where the block is;
    /// `None` leaves the file as it is.
    fn change(
        &self,
        edit: impl Fn(&[u8], Option<Range<usize>>) -> Option<Vec<u8>>,
    ) -> Result<Change, HostsError> {
        let wanted = |bytes: &[u8]| Ok(edit(bytes, self.find(bytes)?));
        // Most changes are none, and those need no lock.
        let before = self.read()?;
        match wanted(before.as_ref().map_or(&[][..], |(bytes, _)| bytes))? {
            Some(after) if before.as_ref().is_none_or(|(bytes, _)| *bytes != after) => {}
            _ => return Ok(Change::None),
        }
        let io = |source| HostsError::Io { path: self.path.clone(), source };
        let next = beside(&self.path);
        let file = match lock(&next) {
            // The folder is read-only, as in hardened containers; the file in it need not be.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem && before.is_some() => {
                let bytes = before.as_ref().map_or(&[][..], |(bytes, _)| bytes);
                let after = wanted(bytes)?.unwrap_or_else(|| bytes.to_vec());
                return in_place(&self.path, &after).map(|()| Change::Written).map_err(io);
            }
            file => file.map_err(io)?,
        };
        let outcome = self.change_locked(wanted, (&next, &file));
        if outcome.is_err() {
            // The file itself is as before; a leftover would only be overwritten by the next change.
            let _ = fs::remove_file(&next);
        }
        outcome
    }

    fn change_locked(
        &self,
        wanted: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, HostsError>,
        (next, file): (&Path, &File),
    ) -> Result<Change, HostsError> {
        let io = |source| HostsError::Io { path: self.path.clone(), source };
        let before = self.read()?;
        let bytes = before.as_ref().map_or(&[][..], |(bytes, _)| bytes);
        let Some(after) = wanted(bytes)?.filter(|after| before.is_none() || after != bytes) else {
            fs::remove_file(next).map_err(io)?;
            return Ok(Change::None);
        };
        fill(file, &after, before.as_ref().map(|(_, former)| former)).map_err(io)?;
        match fs::rename(next, &self.path) {
            Err(error) if is_mounted(&error) => {
                in_place(&self.path, &after).map_err(io)?;
                fs::remove_file(next).map_err(io)?;
            }
            renamed => renamed.map_err(io)?,
        }
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
        Ok(Change::Written)
    }

    /// The content, and the file it came from; `None` when there is none.
    fn read(&self) -> Result<Option<(Vec<u8>, File)>, HostsError> {
        let io = |source| HostsError::Io { path: self.path.clone(), source };
        // Without waiting: a pipe in its place has no writer.
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(&self.path);
        let mut file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(io)?,
        };
        if !file.metadata().map_err(io)?.is_file() {
            return Err(HostsError::NotAFile(self.path.clone()));
        }
        let mut bytes = Vec::new();
        (&mut file).take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(HostsError::TooLarge(self.path.clone()));
        }
        Ok(Some((bytes, file)))
    }

    /// Where the block is, with the line feed before it if that is its own.
    fn find(&self, bytes: &[u8]) -> Result<Option<Range<usize>>, HostsError> {
        let mut marks = lines(bytes).filter_map(|line| {
            // An editor may have put a carriage return behind it.
            let text = line.text.trim_ascii_end();
            let is_begin = text == self.begin.trim_ascii_end().as_bytes();
            (is_begin || text == self.end.trim_ascii_end().as_bytes()).then_some((is_begin, line))
        });
        let damaged = |line: usize| HostsError::Damaged { path: self.path.clone(), line };
        match (marks.next(), marks.next(), marks.next()) {
            (None, ..) => Ok(None),
            (Some((true, begin)), Some((false, end)), None) => {
                let is_joined = lines(bytes.get(begin.range.end..).unwrap_or_default())
                    .next()
                    .is_some_and(|line| line.text.trim_ascii() == JOINED.as_bytes());
                Ok(Some(begin.range.start - usize::from(is_joined && begin.range.start > 0)..end.range.end))
            }
            (Some((true, _)), Some((false, _)), Some((_, third))) => Err(damaged(third.number)),
            (Some((_, first)), ..) => Err(damaged(first.number)),
        }
    }

    /// The content with the block in place of `range`.
    fn with_block(&self, bytes: &[u8], range: Range<usize>, entries: &[Entry]) -> Vec<u8> {
        let (before, after) =
            (bytes.get(..range.start).unwrap_or_default(), bytes.get(range.end..).unwrap_or_default());
        let is_joined = !before.is_empty() && !before.ends_with(b"\n");
        let mut block = String::new();
        if is_joined {
            block.push('\n');
        }
        block += &self.begin;
        block.push('\n');
        if is_joined {
            block += JOINED;
            block.push('\n');
        }
        block += NOTE;
        block.push('\n');
        for entry in entries {
            block += &format!("{} {}\n", entry.alias, entry.name);
        }
        block += &self.end;
        block.push('\n');
        [before, block.as_bytes(), after].concat()
    }
}

/// One line, with its line feed in `range` and without it in `text`.
struct Line<'b> {
    number: usize,
    range: Range<usize>,
    text: &'b [u8],
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut at = 0;
    (1..).zip(bytes.split_inclusive(|byte| *byte == b'\n')).map(move |(number, text)| {
        let start = at;
        at += text.len();
        Line { number, range: start..at, text }
    })
}

/// What a block of ours says; lines of others in it are none of ours.
fn entries_in(block: &[u8]) -> Vec<Entry> {
    let parse = |line: Line<'_>| {
        let text = std::str::from_utf8(line.text).ok()?;
        let (alias, name) = text.trim().split_once(' ')?;
        Some(Entry { alias: alias.parse().ok()?, name: name.to_owned() })
    };
    lines(block).filter_map(parse).collect()
}

#[cfg(test)]
mod tests;
