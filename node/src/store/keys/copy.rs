//! The copy beside each secret, `NAME.copy`: what stands in for a file that is damaged, gone or another device's.
//!
//! In: the folder of secrets, and what the objects of a VPI say of this device's public keys. Out: files and copies that
//! are equal and this device's, or an error that names the file. Whatever is replaced is set aside, never lost.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use protocol::identity::{DeviceId, Secret, SigningSecret, StaticKey, StaticSecret, VpiId};
use protocol::membership::object::{Body, Object};
use tracing::warn;

use super::super::StoreError;
use super::super::replace::{beside, replace, set_aside};
use super::{
    DEVICE, Keys, RECOVERY, ROOT, encode, epoch_name, is_epoch, load, load_named, names, static_counter,
    static_file,
};

const SUFFIX: &str = "copy";

/// What the objects of one VPI say of keys: which static keys a device has said are its own, and the roots.
struct Claims {
    statics: Vec<(DeviceId, StaticKey)>,
    roots: Vec<DeviceId>,
}

impl Claims {
    fn of(objects: &[Object]) -> Self {
        let mut claims = Self { statics: Vec::new(), roots: Vec::new() };
        for object in objects {
            match object.body() {
                Body::Join(join) => claims.statics.push((join.device, join.static_key)),
                Body::Rekey(rekey) => claims.statics.push((rekey.device, rekey.static_key)),
                Body::Charter(charter) => claims.roots.extend(charter.roots.iter().map(|root| root.key)),
                _ => {}
            }
        }
        claims
    }

    fn has(&self, device: &DeviceId, keys: &BTreeSet<StaticKey>) -> bool {
        self.statics.iter().any(|(known, key)| known == device && keys.contains(key))
    }
}

impl Keys {
    /// Makes every secret and its copy stand side by side again: one that is damaged or gone comes from the other. Where
    /// both are whole and unlike, [`Keys::settle`] decides.
    ///
    /// # Errors
    /// [`StoreError::Loose`], [`StoreError::Io`].
    pub(crate) fn mend(&self) -> Result<(), StoreError> {
        self.mend_folder(&self.dir, None)?;
        for vpi in self.vpis()? {
            self.mend_folder(&self.folder(&vpi), Some(&vpi))?;
        }
        Ok(())
    }

    fn mend_folder(&self, folder: &Path, vpi: Option<&VpiId>) -> Result<(), StoreError> {
        let ending = format!(".{SUFFIX}");
        let found = names(folder)?;
        let secrets: BTreeSet<&str> = found
            .iter()
            .map(|name| name.strip_suffix(&ending).unwrap_or(name))
            .filter(|name| is_secret(name))
            .collect();
        for name in secrets {
            mend_one(&folder.join(name), |secret| is_own(name, vpi, secret))?;
        }
        Ok(())
    }

    /// Finds out whether the keys of `vpi` are those that its `objects` know this device by; where a file is not and its
    /// copy is, the copy takes its place. What no object speaks of stays as it is.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] when neither file nor copy is this device's; [`StoreError::Io`] and the like.
    pub(crate) fn settle(&self, vpi: &VpiId, objects: &[Object]) -> Result<(), StoreError> {
        let claims = Claims::of(objects);
        let folder = self.folder(vpi);
        let files: Vec<PathBuf> = self.static_files(vpi)?;
        let mut known = BTreeSet::new();
        for path in &files {
            for secret in [load(path)?, load_copy(path)?].into_iter().flatten() {
                known.insert(StaticSecret::from_bytes(secret.0).public());
            }
        }
        let own = folder.join(DEVICE);
        let device = if own.exists() { own } else { self.dir.join(DEVICE) };
        let public = |secret: &Secret| SigningSecret::from_seed(&secret.0).public();
        let is_right = choose(&device, |secret| claims.has(&public(secret), &known))?;
        if !is_right && claims.statics.iter().any(|(_, key)| known.contains(key)) {
            return Err(StoreError::Foreign(device));
        }
        let Some(this) = load(&device)?.map(|secret| public(&secret)) else { return Ok(()) };
        for path in &files {
            let is_claimed = |secret: &Secret| {
                claims.has(&this, &BTreeSet::from([StaticSecret::from_bytes(secret.0).public()]))
            };
            let is_right = choose(path, is_claimed)?;
            // Key 0 is in the Join, or in the founder's first word; a later one's Rekey may be what a disk lost.
            let has_word = claims.statics.iter().any(|(known, _)| *known == this);
            if !is_right && has_word && path.ends_with(static_file(0)) {
                return Err(StoreError::Foreign(path.clone()));
            }
        }
        for name in [ROOT, RECOVERY] {
            choose(&folder.join(name), |secret| claims.roots.contains(&public(secret)))?;
        }
        Ok(())
    }

    fn static_files(&self, vpi: &VpiId) -> Result<Vec<PathBuf>, StoreError> {
        let folder = self.folder(vpi);
        let files = names(&folder)?.into_iter().filter(|name| static_counter(name).is_some());
        Ok(files.map(|name| folder.join(name)).collect())
    }
}

/// Writes the copy of a secret.
pub(super) fn put_copy(path: &Path, secret: &[u8; 32]) -> Result<(), StoreError> {
    replace(&beside(path, SUFFIX), &encode(path, secret))
}

/// Removes the copy of a secret that is about to be removed: a copy alone would bring it back.
pub(super) fn remove_copy(path: &Path) -> Result<(), StoreError> {
    super::super::replace::remove(&beside(path, SUFFIX))
}

fn is_secret(name: &str) -> bool {
    [DEVICE, RECOVERY, ROOT].contains(&name) || static_counter(name).is_some() || epoch_name(name).is_some()
}

/// What a name alone says of a secret: an epoch's tag is made of it.
fn is_own(name: &str, vpi: Option<&VpiId>, secret: &Secret) -> bool {
    vpi.zip(epoch_name(name)).is_none_or(|(vpi, epoch)| is_epoch(vpi, epoch, secret))
}

fn load_copy(path: &Path) -> Result<Option<Secret>, StoreError> {
    match load_named(&beside(path, SUFFIX), path) {
        Err(StoreError::Damaged { .. }) => Ok(None),
        loaded => loaded,
    }
}

fn mend_one(path: &Path, is_own: impl Fn(&Secret) -> bool) -> Result<(), StoreError> {
    let file = match load(path) {
        Err(StoreError::Damaged { .. }) => None,
        loaded => loaded?,
    };
    let (file, copy) =
        (file.filter(|secret| is_own(secret)), load_copy(path)?.filter(|secret| is_own(secret)));
    match (file, copy) {
        (Some(secret), None) => renew_copy(path, &secret),
        (None, Some(secret)) => restore(path, &secret),
        // Neither is whole: told by whoever needs it.
        (Some(_), Some(_)) | (None, None) => Ok(()),
    }
}

/// Makes the copy of a file that holds `secret` anew; one that is another is set aside.
fn renew_copy(path: &Path, secret: &Secret) -> Result<(), StoreError> {
    let copy = beside(path, SUFFIX);
    if copy.exists() {
        let aside = set_aside(&copy)?;
        warn!(path = %copy.display(), aside = %aside.display(), "the copy of a key was damaged or another's: set aside");
    }
    put_copy(path, &secret.0)?;
    date_as(&copy, path)
}

/// Puts the copy, which holds `secret`, in the place of the file.
fn restore(path: &Path, secret: &Secret) -> Result<(), StoreError> {
    if path.exists() {
        let aside = set_aside(path)?;
        warn!(path = %path.display(), aside = %aside.display(), "a key was damaged or another's: set aside, and its copy took its place");
    } else {
        warn!(path = %path.display(), "a key was gone: its copy took its place");
    }
    replace(path, &encode(path, &secret.0))?;
    date_as(path, &beside(path, SUFFIX))
}

/// The age of a static key is that of its file.
fn date_as(path: &Path, other: &Path) -> Result<(), StoreError> {
    let date = || {
        let modified = fs::metadata(other)?.modified()?;
        File::options().write(true).open(path)?.set_modified(modified)
    };
    date().map_err(StoreError::io("date", path))
}

/// Where file and copy are unlike, makes both the one that `is_right`; says whether the file is right then.
fn choose(path: &Path, is_right: impl Fn(&Secret) -> bool) -> Result<bool, StoreError> {
    let Some(file) = load(path)? else { return Ok(false) };
    let copy = load_copy(path)?;
    if is_right(&file) {
        if copy.is_none_or(|copy| copy != file) {
            renew_copy(path, &file)?;
        }
        return Ok(true);
    }
    match copy.filter(|copy| is_right(copy)) {
        Some(copy) => restore(path, &copy).map(|()| true),
        None => Ok(false),
    }
}
