//! The secrets: one file each, mode 0600, written by rename.
//!
//! ```text
//! device | <vpi>/device | <vpi>/root | <vpi>/recovery | <vpi>/static-<counter> | <vpi>/epoch-<number>-<tag hex>
//! file = 64 hexadecimal digits, '-', 8 digits of CRC32C over file name and secret, '\n'
//! ```
//!
//! A secret is written once and never overwritten by another one, and has a copy beside it ([`copy`]). A damaged or renamed
//! file is an error that names it, never another key: the checksum is strict about every character. What of it was in
//! memory is wiped.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::HEXLOWER;
use protocol::identity::{DeviceId, Secret, SigningSecret, StaticSecret, VpiId};
use protocol::membership::epoch::EpochSecret;
use zeroize::Zeroizing;

use super::StoreError;
use super::replace::{PRIVATE, remove, replace, set_aside};
use super::state::{check_mode, make_folder};

mod copy;
#[cfg(test)]
mod tests;

/// Length of a key file: digits, dash, checksum, newline.
const FILE_BYTES: usize = 64 + 1 + 8 + 1;

/// Name of the folder of keys in the state folder.
pub(super) const FOLDER: &str = "keys";

const DEVICE: &str = "device";
const RECOVERY: &str = "recovery";
const ROOT: &str = "root";

const ADVICE: &str = "restore it from a backup; it is never made anew by itself";

/// All secrets of one state folder.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    dir: PathBuf,
}

/// The name of an epoch secret: its number, and the tag that tells two epochs of one number apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EpochName {
    /// Number of the epoch.
    pub(crate) number: u64,
    /// First two bytes derived from the secret (protocol/README).
    pub(crate) tag: [u8; 2],
}

impl Keys {
    /// The secrets below `dir`, which exists and is private.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// This device's key, drawn and written on first use.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] and [`StoreError::Loose`] for a file that is there; it is never replaced.
    /// [`StoreError::Lost`] for one that is gone while there are secrets of VPIs.
    pub(crate) fn device(&self) -> Result<SigningSecret, StoreError> {
        let path = self.dir.join(DEVICE);
        if load(&path)?.is_none() && !self.vpis()?.is_empty() {
            return Err(StoreError::Lost(path));
        }
        drawn(&path)
    }

    /// The device key of this node in `vpi`: the one drawn for that VPI alone, if there is one, else [`Keys::device`].
    ///
    /// # Errors
    /// As for [`Keys::device`].
    pub(crate) fn device_in(&self, vpi: &VpiId) -> Result<SigningSecret, StoreError> {
        match load(&self.folder(vpi).join(DEVICE))? {
            Some(seed) => Ok(SigningSecret::from_seed(&seed.0)),
            None => self.device(),
        }
    }

    /// Draws a device key for `vpi` alone: a removal names the former one for ever. One that is there stays.
    ///
    /// # Errors
    /// As for [`Keys::device`].
    pub(super) fn draw_device_in(&self, vpi: &VpiId) -> Result<(), StoreError> {
        drawn(&self.make_vpi_folder(vpi)?.join(DEVICE)).map(drop)
    }

    /// The public half of the device key in the state folder `state`, if one was drawn; takes no lock.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Loose`]; [`StoreError::Io`], also for whoever may not read it.
    pub(crate) fn peek_device(state: &Path) -> Result<Option<DeviceId>, StoreError> {
        let seed = load(&state.join(FOLDER).join(DEVICE))?;
        Ok(seed.map(|seed| SigningSecret::from_seed(&seed.0).public()))
    }

    /// Keeps the recovery key of `vpi` until a person has seen its words.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when another one is kept.
    pub(crate) fn put_recovery(&self, vpi: &VpiId, seed: &[u8; 32]) -> Result<(), StoreError> {
        self.put(vpi, RECOVERY, seed)
    }

    /// The recovery key of `vpi`, while nobody has seen its words.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Loose`], [`StoreError::Io`], as for every secret.
    pub(crate) fn recovery(&self, vpi: &VpiId) -> Result<Option<Secret>, StoreError> {
        load(&self.folder(vpi).join(RECOVERY))
    }

    /// Forgets the recovery key of `vpi`; durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn remove_recovery(&self, vpi: &VpiId) -> Result<(), StoreError> {
        let path = self.folder(vpi).join(RECOVERY);
        if path.exists() { forget(&path) } else { Ok(()) }
    }

    /// Keeps the root key of `vpi`.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when another one is kept.
    pub(crate) fn put_root(&self, vpi: &VpiId, key: &SigningSecret) -> Result<(), StoreError> {
        self.put(vpi, ROOT, &Zeroizing::new(key.seed()))
    }

    /// All static keys of this device in `vpi` with their rekey counters, ascending.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Loose`], [`StoreError::Io`], as for every secret.
    pub(crate) fn statics(&self, vpi: &VpiId) -> Result<Vec<(u64, StaticSecret)>, StoreError> {
        self.named(vpi, static_counter, |secret| StaticSecret::from_bytes(secret.0))
    }

    /// How long ago the static key with this counter was put here; none, if a clock was set back since.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn static_age(&self, vpi: &VpiId, counter: u64) -> Result<Duration, StoreError> {
        let path = self.folder(vpi).join(static_file(counter));
        let put_at = fs::metadata(&path).and_then(|found| found.modified());
        let put_at = put_at.map_err(StoreError::io("look at", &path))?;
        Ok(put_at.elapsed().unwrap_or_default())
    }

    /// Forgets a static key that has served; durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn remove_static(&self, vpi: &VpiId, counter: u64) -> Result<(), StoreError> {
        forget(&self.folder(vpi).join(static_file(counter)))
    }

    /// Keeps the static key that Rekey `counter` certifies.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when another one is kept for this counter.
    pub(crate) fn put_static(&self, vpi: &VpiId, counter: u64, key: &StaticSecret) -> Result<(), StoreError> {
        self.put(vpi, &static_file(counter), &Zeroizing::new(key.to_bytes()))
    }

    /// All kept epoch secrets of `vpi`, ascending. Damaged ones are set aside, and members give them again; not the last
    /// one, without which no member could be asked.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when none is whole; [`StoreError::Loose`], [`StoreError::Io`].
    pub(crate) fn epochs(&self, vpi: &VpiId) -> Result<Vec<(EpochName, Secret)>, StoreError> {
        let folder = self.folder(vpi);
        let (mut whole, mut damaged) = (Vec::new(), Vec::new());
        for (name, file) in names(&folder)?.into_iter().filter_map(|file| Some((epoch_name(&file)?, file))) {
            match load(&folder.join(&file)) {
                Ok(Some(secret)) if !is_epoch(vpi, name, &secret) => damaged.push(folder.join(&file)),
                Ok(secret) => whole.extend(secret.map(|secret| (name, secret))),
                Err(StoreError::Damaged { path, .. }) => damaged.push(path),
                Err(error) => return Err(error),
            }
        }
        if let Some(path) = damaged.first().filter(|_| whole.is_empty()) {
            return Err(StoreError::Damaged { path: path.clone(), advice: ADVICE });
        }
        for path in &damaged {
            set_aside(path)?;
            tracing::warn!(path = %path.display(), "an epoch secret was damaged and set aside; members have it");
        }
        whole.sort_by_key(|(name, _)| *name);
        Ok(whole)
    }

    /// Removes an epoch's secret, which is held no more.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn remove_epoch(&self, vpi: &VpiId, name: EpochName) -> Result<(), StoreError> {
        remove(&self.folder(vpi).join(epoch_file(name)))
    }

    /// Keeps an epoch secret; to be called before the Epoch that names it is kept.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when another one is kept under this number and tag.
    pub(crate) fn put_epoch(&self, vpi: &VpiId, name: EpochName, secret: &Secret) -> Result<(), StoreError> {
        self.put(vpi, &epoch_file(name), &secret.0)
    }

    /// The VPIs for which there is a folder of secrets.
    pub(super) fn vpis(&self) -> Result<Vec<VpiId>, StoreError> {
        Ok(names(&self.dir)?.iter().filter_map(|name| VpiId::from_hex(name)).collect())
    }

    /// The folder of one VPI's secrets.
    pub(super) fn folder(&self, vpi: &VpiId) -> PathBuf {
        self.dir.join(vpi.to_string())
    }

    /// The same folder, made when absent.
    pub(super) fn make_vpi_folder(&self, vpi: &VpiId) -> Result<PathBuf, StoreError> {
        let folder = self.folder(vpi);
        make_folder(&folder, 0o700, None)?;
        Ok(folder)
    }

    fn put(&self, vpi: &VpiId, name: &str, secret: &[u8; 32]) -> Result<(), StoreError> {
        store(&self.make_vpi_folder(vpi)?.join(name), secret)
    }

    fn named<N: Ord + Copy, S>(
        &self,
        vpi: &VpiId,
        name_of: impl Fn(&str) -> Option<N>,
        made_of: impl Fn(Secret) -> S,
    ) -> Result<Vec<(N, S)>, StoreError> {
        let folder = self.folder(vpi);
        let mut found = Vec::new();
        for file in names(&folder)? {
            if let Some(name) = name_of(&file)
                && let Some(secret) = load(&folder.join(&file))?
            {
                found.push((name, made_of(secret)));
            }
        }
        found.sort_by_key(|(name, _)| *name);
        Ok(found)
    }
}

/// Reads a private file of at most `limit` bytes into memory that is wiped; `None` when there is none.
///
/// # Errors
/// [`StoreError::Loose`] when others may read it; [`StoreError::Io`].
pub(super) fn read_private(path: &Path, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(StoreError::io("open", path))?,
    };
    let found = file.metadata().map_err(StoreError::io("look at", path))?;
    if !found.is_file() {
        // What is no file holds no secret: to the caller it is a damaged one.
        return Ok(Some(Zeroizing::new(Vec::new())));
    }
    check_mode(path, found.mode(), PRIVATE)?;
    // Room for all from the start: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit + 64));
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(StoreError::io("read", path))?;
    Ok(Some(bytes))
}

fn static_file(counter: u64) -> String {
    format!("static-{counter}")
}

fn static_counter(file: &str) -> Option<u64> {
    let counter = file.strip_prefix("static-")?.parse().ok()?;
    (static_file(counter) == file).then_some(counter)
}

fn epoch_file(name: EpochName) -> String {
    format!("epoch-{}-{}", name.number, HEXLOWER.encode(&name.tag))
}

fn epoch_name(file: &str) -> Option<EpochName> {
    let (number, tag) = file.strip_prefix("epoch-")?.split_once('-')?;
    let tag = HEXLOWER.decode(tag.as_bytes()).ok()?.try_into().ok()?;
    let name = EpochName { number: number.parse().ok()?, tag };
    (epoch_file(name) == file).then_some(name)
}

fn names(folder: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(StoreError::io("list", folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(StoreError::io("list", folder))?.file_name();
        names.extend(name.into_string());
    }
    Ok(names)
}

/// Whether `secret` is that of the epoch `name` of `vpi`, as far as the tag tells.
fn is_epoch(vpi: &VpiId, name: EpochName, secret: &Secret) -> bool {
    EpochSecret::new(*vpi, name.number, secret.clone()).tag() == name.tag
}

/// Removes a secret and its copy; durable when it returns.
fn forget(path: &Path) -> Result<(), StoreError> {
    copy::remove_copy(path)?;
    remove(path)
}

/// The signing key at `path`, drawn and written if there is none.
fn drawn(path: &Path) -> Result<SigningSecret, StoreError> {
    drawn_seed(path).map(|seed| SigningSecret::from_seed(&seed.0))
}

/// The seed at `path`, drawn and written if there is none.
///
/// # Errors
/// [`StoreError::Damaged`] and [`StoreError::Loose`] for a file that is there; it is never replaced.
pub(super) fn drawn_seed(path: &Path) -> Result<Secret, StoreError> {
    if let Some(seed) = load(path)? {
        return Ok(seed);
    }
    let mut seed = Secret([0; 32]);
    getrandom::fill(&mut seed.0).map_err(StoreError::Randomness)?;
    store(path, &seed.0)?;
    Ok(seed)
}

fn store(path: &Path, secret: &[u8; 32]) -> Result<(), StoreError> {
    match load(path)? {
        None => {
            replace(path, &encode(path, secret))?;
            copy::put_copy(path, secret)
        }
        Some(kept) if kept.0 == *secret => Ok(()),
        Some(_) => Err(StoreError::Exists(path.to_owned())),
    }
}

fn load(path: &Path) -> Result<Option<Secret>, StoreError> {
    load_named(path, path)
}

/// The secret at `path`, which was written as the one at `named`.
fn load_named(path: &Path, named: &Path) -> Result<Option<Secret>, StoreError> {
    let Some(bytes) = read_private(path, FILE_BYTES)? else { return Ok(None) };
    let damaged = || StoreError::Damaged { path: path.to_owned(), advice: ADVICE };
    let mut secret = Secret([0; 32]);
    let digits = bytes.get(..64).ok_or_else(damaged)?;
    HEXLOWER.decode_mut(digits, &mut secret.0).map_err(|_| damaged())?;
    // Comparing the whole file with what would be written leaves no character unchecked.
    if *encode(named, &secret.0) == **bytes { Ok(Some(secret)) } else { Err(damaged()) }
}

fn encode(path: &Path, secret: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let sum = crc32c::crc32c_append(crc32c::crc32c(name), secret);
    let mut text = Zeroizing::new(String::with_capacity(FILE_BYTES));
    HEXLOWER.encode_append(secret, &mut text);
    text.push_str(&format!("-{sum:08x}\n"));
    Zeroizing::new(std::mem::take(&mut *text).into_bytes())
}
