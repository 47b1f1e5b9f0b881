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
}

const KINDS: [Kind; 7] = [
    Kind::Truncate,
    Kind::Flip,
    Kind::ZeroSector,
    Kind::DoubleBlock,
    Kind::Empty,
    Kind::Folder,
    Kind::Foreign,
];

/// What a disk does to text that a person may edit; any other change could be that person's, and is taken or refused.
const KINDS_OF_SETTINGS: [Kind; 4] = [Kind::Truncate, Kind::ZeroSector, Kind::Empty, Kind::Folder];

impl Role {
    pub(super) fn pick_kind(self, rng: &mut Rng) -> Kind {
        match self {
            Self::LogTwice => Kind::Flip,
            Self::Settings => *rng.pick(&KINDS_OF_SETTINGS),
            _ => *rng.pick(&KINDS),
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

/// Damages what has this part below `state`; says whether it is another afterwards. `foreign` is another device's state.
pub(super) fn damage(
    state: &Path,
    foreign: &Path,
    (role, kind): (Role, Kind),
    rng: &mut Rng,
) -> Result<bool> {
    if role == Role::LogTwice {
        return damage_object(state, rng);
    }
    let [file] = role.files(state)?.try_into().map_err(|_| anyhow::anyhow!("one file has the part"))?;
    let path = state.join(file);
    let whole = fs::read(&path).with_context(|| format!("{}", path.display()))?;
    let at = rng.below(whole.len().max(1));
    let mut bytes = whole.clone();
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
        Kind::Empty => bytes.clear(),
        Kind::Folder => {
            fs::remove_file(&path)?;
            fs::create_dir(&path)?;
            return Ok(true);
        }
        Kind::Foreign => {
            let [other] = role.files(foreign)?.try_into().map_err(|_| anyhow::anyhow!("one file"))?;
            bytes = fs::read(foreign.join(other))?;
        }
    }
    // In place, so that owner and mode stay.
    fs::write(&path, &bytes)?;
    Ok(bytes != whole)
}

/// Flips a bit of one object, in the log and in its copy; of the charter there is no third copy that a node could ask for.
fn damage_object(state: &Path, rng: &mut Rng) -> Result<bool> {
    let files = Role::LogTwice.files(state)?;
    let log = fs::read(state.join(&files[0]))?;
    let objects: Vec<Vec<u8>> = records(&log).into_iter().filter(|object| !is_charter(object)).collect();
    let object = rng.pick(&objects).clone();
    let (at, bit) = (rng.below(object.len()), 1 << rng.below(8));
    for file in &files {
        let mut bytes = fs::read(state.join(file))?;
        let start = bytes.windows(object.len()).position(|window| window == object);
        bytes[start.context("log and copy have the same objects")? + at] ^= bit;
        fs::write(state.join(file), bytes)?;
    }
    Ok(true)
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
