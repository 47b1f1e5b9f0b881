//! Where a state folder is damaged, and how: places are named by what a file is for, so that a seed means the same in every
//! run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::Rng;

const SECTOR: usize = 512;
/// Begins every record of an object log; its length follows, then its checksum, then itself (`node/src/store/objects`).
const MARK: &[u8] = &[0xb7, b'v', b'o', 0x1a];
const HEADER_BYTES: usize = 12;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Log,
    LogCopy,
    /// One object in the log and in its copy: only members have it then.
    LogTwice,
    DeviceKey,
    StaticKey,
    EpochSecret,
    KeyCopy,
    Floor,
    Aliases,
    AliasesCopy,
    Index,
    Settings,
    Journal,
}

pub(super) const ROLES: [Role; 13] = [
    Role::Log,
    Role::LogCopy,
    Role::LogTwice,
    Role::DeviceKey,
    Role::StaticKey,
    Role::EpochSecret,
    Role::KeyCopy,
    Role::Floor,
    Role::Aliases,
    Role::AliasesCopy,
    Role::Index,
    Role::Settings,
    Role::Journal,
];

/// What happens to it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Truncate,
    Flip,
    ZeroSector,
    DoubleBlock,
    Empty,
    Folder,
    Foreign,
    /// A bit of an object, with the checksum of its record made right again: only its signature tells.
    Forge,
    /// A person's: a quotation mark is missing.
    Typo,
}

/// What a disk and a person do to any file; and what is done only to logs, at the end.
const KINDS: [Kind; 8] = [
    Kind::Truncate,
    Kind::Flip,
    Kind::ZeroSector,
    Kind::DoubleBlock,
    Kind::Empty,
    Kind::Folder,
    Kind::Foreign,
    Kind::Forge,
];

/// What a disk and a person do to text that may be edited; any other change could be that person's, and is taken.
const KINDS_OF_SETTINGS: [Kind; 5] =
    [Kind::Truncate, Kind::ZeroSector, Kind::Empty, Kind::Folder, Kind::Typo];

impl Role {
    pub(super) fn pick_kind(self, rng: &mut Rng) -> Kind {
        match self {
            Self::LogTwice => Kind::Flip,
            Self::Settings => *rng.pick(&KINDS_OF_SETTINGS),
            Self::Log | Self::LogCopy => *rng.pick(&KINDS),
            _ => *rng.pick(&KINDS[..KINDS.len() - 1]),
        }
    }

    /// Whether the node says something of it at its start, if it is another file than it was.
    pub(super) fn is_told(self) -> bool {
        match self {
            Self::Log | Self::LogTwice | Self::Floor | Self::Aliases | Self::Settings => true,
            Self::DeviceKey | Self::StaticKey | Self::EpochSecret => true,
            // A copy is written anew from what it is a copy of, an index is only the way to what members tell, and
            // what the journal lacks is written into it.
            Self::LogCopy | Self::KeyCopy | Self::AliasesCopy | Self::Index | Self::Journal => false,
        }
    }

    /// The files below `state` that have this part, as their paths in it.
    fn files(self, state: &Path) -> Result<Vec<PathBuf>> {
        let vpi = only_folder(&state.join("vpi"))?;
        let keys = only_folder(&state.join("keys"))?;
        let files = match self {
            Self::Log => vec![vpi.join("objects.log")],
            Self::LogCopy => vec![vpi.join("objects.log.copy")],
            Self::LogTwice => vec![vpi.join("objects.log"), vpi.join("objects.log.copy")],
            Self::DeviceKey => vec![state.join("keys/device")],
            Self::StaticKey => vec![keys.join("static-0")],
            Self::EpochSecret => vec![named(&keys, |name| name.starts_with("epoch-0-") && name.len() == 12)?],
            Self::KeyCopy => vec![state.join("keys/device.copy")],
            Self::Floor => vec![vpi.join("floor")],
            Self::Aliases => vec![vpi.join("aliases")],
            Self::AliasesCopy => vec![vpi.join("aliases.copy")],
            Self::Index => vec![state.join("index/db")],
            Self::Settings => vec![vpi.join("vpi.toml")],
            Self::Journal => vec![state.join("journal")],
        };
        files.iter().map(|file| Ok(file.strip_prefix(state)?.to_path_buf())).collect()
    }
}

/// A file as it was, and as it is.
pub(super) struct Damaged {
    path: PathBuf,
    whole: Vec<u8>,
    /// `None`: a folder.
    bytes: Option<Vec<u8>>,
}

impl Damaged {
    pub(super) fn is_changed(&self) -> bool {
        self.bytes.as_ref() != Some(&self.whole)
    }

    /// Whether the file holds the same still.
    pub(super) fn is_left_alone(&self) -> bool {
        fs::read(&self.path).ok() == self.bytes
    }

    /// What stands aside for it; an error if anything of it was replaced and is nowhere.
    pub(super) fn set_aside(&self) -> Result<Vec<PathBuf>> {
        let name = self.path.file_name().context("a name")?.to_string_lossy().into_owned() + ".damaged";
        let mut aside = Vec::new();
        for entry in fs::read_dir(self.path.parent().context("a folder")?)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&name) {
                aside.push(entry.path());
            }
        }
        let is_kept = match &self.bytes {
            None => aside.iter().any(|path| path.is_dir()),
            // A beginning of what is there again has nothing of its own.
            Some(bytes) if self.whole.starts_with(bytes) || self.is_left_alone() => true,
            Some(bytes) => aside.iter().any(|path| {
                let kept = fs::read(path).unwrap_or_default();
                // Of a log and of the aliases only what makes no sense.
                !kept.is_empty() && kept.iter().all(|byte| bytes.contains(byte) || *byte == b'\n')
            }),
        };
        ensure!(is_kept, "{} was replaced, and nothing of it was set aside: {aside:?}", self.path.display());
        Ok(aside)
    }
}

/// Damages what has this part below `state`. `foreign` is another device's state.
pub(super) fn damage(
    state: &Path,
    foreign: &Path,
    (role, kind): (Role, Kind),
    rng: &mut Rng,
) -> Result<Damaged> {
    if role == Role::LogTwice {
        return damage_object(state, rng);
    }
    let [file] = role.files(state)?.try_into().map_err(|_| anyhow::anyhow!("one file has the part"))?;
    let path = state.join(file);
    let whole = fs::read(&path).with_context(|| format!("{}", path.display()))?;
    if matches!(kind, Kind::Folder) {
        fs::remove_file(&path)?;
        fs::create_dir(&path)?;
        return Ok(Damaged { path, whole, bytes: None });
    }
    let bytes = match kind {
        Kind::Foreign => {
            let [other] = role.files(foreign)?.try_into().map_err(|_| anyhow::anyhow!("one file"))?;
            fs::read(foreign.join(other))?
        }
        _ => changed(&whole, kind, rng)?,
    };
    // In place, so that owner and mode stay.
    fs::write(&path, &bytes)?;
    Ok(Damaged { path, whole, bytes: Some(bytes) })
}

/// What a file of these bytes becomes.
fn changed(whole: &[u8], kind: Kind, rng: &mut Rng) -> Result<Vec<u8>> {
    let (at, mut bytes) = (rng.below(whole.len().max(1)), whole.to_vec());
    match kind {
        Kind::Truncate => bytes.truncate(at),
        Kind::Flip => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
        Kind::ZeroSector => {
            let start = at / SECTOR * SECTOR;
            let end = whole.len().min(start + SECTOR);
            bytes[start..end].fill(0);
        }
        Kind::DoubleBlock => {
            let end = whole.len().min(at + SECTOR);
            bytes.splice(end..end, whole[at..end].to_vec());
        }
        Kind::Forge => forge(&mut bytes, rng)?,
        Kind::Typo => {
            let quotes: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b'"').collect();
            bytes.remove(*rng.pick(&quotes));
        }
        Kind::Empty | Kind::Folder | Kind::Foreign => bytes.clear(),
    }
    Ok(bytes)
}

/// Flips a bit of one object of a whole log, and makes the checksum of its record right again.
fn forge(log: &mut [u8], rng: &mut Rng) -> Result<()> {
    let objects = records(log);
    let object = rng.pick(&objects);
    let at = log.windows(object.len()).position(|window| window == object).context("it is in the log")?;
    log[at + rng.below(object.len())] ^= 1 << rng.below(8);
    let (header, payload) = (at - HEADER_BYTES, at..at + object.len());
    let sum = crc32c(&[&log[header + MARK.len()..header + MARK.len() + 4], &log[payload]]);
    log[at - 4..at].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// The checksum of RFC 3720, B.4, over all parts as one.
fn crc32c(parts: &[&[u8]]) -> u32 {
    let step = |sum: u32| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
    let bytes = parts.iter().flat_map(|part| part.iter());
    !bytes.fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum)))
}

/// Flips a bit of one object, in the log and in its copy; of the charter there is no third copy that a node could ask for.
fn damage_object(state: &Path, rng: &mut Rng) -> Result<Damaged> {
    let files = Role::LogTwice.files(state)?;
    let path = state.join(&files[0]);
    let whole = fs::read(&path)?;
    let objects: Vec<Vec<u8>> = records(&whole).into_iter().filter(|object| !is_charter(object)).collect();
    let object = rng.pick(&objects).clone();
    let (at, bit) = (rng.below(object.len()), 1 << rng.below(8));
    for file in &files {
        let mut bytes = fs::read(state.join(file))?;
        let start = bytes.windows(object.len()).position(|window| window == object);
        bytes[start.context("log and copy have the same objects")? + at] ^= bit;
        fs::write(state.join(file), bytes)?;
    }
    let bytes = Some(fs::read(&path)?);
    Ok(Damaged { path, whole, bytes })
}

/// Only a charter names the VPI: CBOR text of four letters.
fn is_charter(object: &[u8]) -> bool {
    object.windows(5).any(|window| window == b"\x64home")
}

/// The objects in a log that is whole.
pub(super) fn records(log: &[u8]) -> Vec<Vec<u8>> {
    let (mut found, mut rest) = (Vec::new(), log);
    while let Some(header) = rest.get(..HEADER_BYTES).filter(|header| header.starts_with(MARK)) {
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let Some(object) = rest.get(HEADER_BYTES..HEADER_BYTES + length) else { break };
        found.push(object.to_vec());
        rest = &rest[HEADER_BYTES + length..];
    }
    found
}

/// The objects in the log below `state`.
pub(super) fn objects(state: &Path) -> Result<Vec<Vec<u8>>> {
    let [log] = Role::Log.files(state)?.try_into().map_err(|_| anyhow::anyhow!("one log"))?;
    Ok(records(&fs::read(state.join(log))?))
}

/// The folder of the one VPI in `folder`.
fn only_folder(folder: &Path) -> Result<PathBuf> {
    named(folder, |name| name.len() == 64)
}

fn named(folder: &Path, is_it: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_it(&name) {
            found.push(folder.join(name));
        }
    }
    ensure!(found.len() == 1, "{found:?} in {}", folder.display());
    found.pop().context("one")
}
