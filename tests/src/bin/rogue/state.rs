//! What a stopped node left in its state folder: keys and objects (node/README, What survives).

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use data_encoding::HEXLOWER;
use protocol::identity::{DeviceId, Secret, SigningSecret, StaticKey, StaticSecret, VpiId};
use protocol::membership::epoch::EpochSecret;
use protocol::membership::object::{Body, Charter, Object};

/// The first bytes of a record in the object log; behind them length u32, CRC32C u32 over length and payload, payload.
const MARK: [u8; 4] = [0xb7, b'v', b'o', 0x1a];
const RECORD_HEADER_BYTES: usize = 12;

/// The keys and objects of one device in its first VPI.
pub(crate) struct State {
    pub(crate) vpi: VpiId,
    pub(crate) device: SigningSecret,
    pub(crate) static_secret: StaticSecret,
    /// On the founder's machine.
    pub(crate) root: Option<SigningSecret>,
    /// By number, ascending; at least one.
    pub(crate) epochs: Vec<EpochSecret>,
    pub(crate) objects: Vec<Object>,
    log: PathBuf,
}

impl State {
    /// Reads everything below `folder`.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let keys = folder.join("keys");
        let device = SigningSecret::from_seed(&secret(&keys.join("device"))?);
        let vpi = names(&keys)?.iter().find_map(|name| VpiId::from_hex(name));
        let vpi = vpi.with_context(|| format!("{} is of no member", folder.display()))?;
        let own = keys.join(vpi.to_string());
        let (mut statics, mut epochs, mut root) = (Vec::new(), Vec::new(), None);
        for name in names(&own)? {
            let path = own.join(&name);
            let mut parts = name.split('-');
            let (kind, number) = (parts.next(), parts.next().and_then(|number| number.parse::<u64>().ok()));
            match (kind, number) {
                (Some("static"), Some(counter)) => statics.push((counter, secret(&path)?)),
                (Some("epoch"), Some(number)) => {
                    epochs.push(EpochSecret::new(vpi, number, Secret(secret(&path)?)));
                }
                (Some("root"), None) => root = Some(SigningSecret::from_seed(&secret(&path)?)),
                _ => {}
            }
        }
        epochs.sort_by_key(EpochSecret::number);
        let (_, newest) = statics.into_iter().max_by_key(|(counter, _)| *counter).context("no static key")?;
        anyhow::ensure!(!epochs.is_empty(), "no epoch secret");
        let log = folder.join("vpi").join(vpi.to_string()).join("objects.log");
        let objects = payloads(&fs::read(&log)?).iter().map(|bytes| Object::open(&vpi, bytes)).collect();
        let objects: Result<Vec<_>, _> = objects;
        let static_secret = StaticSecret::from_bytes(newest);
        Ok(Self { vpi, device, static_secret, root, epochs, objects: objects?, log })
    }

    /// The charter of the highest version, and the object that it is.
    pub(crate) fn charter(&self) -> Result<(&Object, &Charter)> {
        let charters = self.objects.iter().filter_map(|object| match object.body() {
            Body::Charter(charter) => Some((object, charter)),
            _ => None,
        });
        charters.max_by_key(|(_, charter)| charter.version).context("no charter")
    }

    /// The device of the member that joined, or founded, as `name`.
    pub(crate) fn device_of(&self, name: &str) -> Result<DeviceId> {
        let joined = self.objects.iter().find_map(|object| match object.body() {
            Body::Join(join) if join.name == name => Some(join.device),
            _ => None,
        });
        let admins = &self.charter()?.1.admins;
        let admin = admins.iter().find(|admin| admin.name == name).map(|admin| admin.device);
        joined.or(admin).ok_or_else(|| anyhow!("no member is called {name}"))
    }

    /// The static key of `device`: that of its Rekey with the highest counter, else of its Join.
    pub(crate) fn static_key_of(&self, device: &DeviceId) -> Result<StaticKey> {
        let rekeys = self.objects.iter().filter_map(|object| match object.body() {
            Body::Rekey(rekey) if rekey.device == *device => Some((rekey.counter, rekey.static_key)),
            _ => None,
        });
        let joined = self.objects.iter().find_map(|object| match object.body() {
            Body::Join(join) if join.device == *device => Some(join.static_key),
            _ => None,
        });
        let rekeyed = rekeys.max_by_key(|(counter, _)| *counter).map(|(_, key)| key);
        rekeyed.or(joined).ok_or_else(|| anyhow!("no static key of {device}"))
    }

    /// Writes `object` behind the others in the log.
    pub(crate) fn append(&self, object: &Object) -> Result<()> {
        let payload = object.bytes();
        let length = u32::try_from(payload.len())?.to_be_bytes();
        let sum = crc32c::crc32c_append(crc32c::crc32c(&length), payload).to_be_bytes();
        let mut log = OpenOptions::new().append(true).open(&self.log)?;
        log.write_all(&[&MARK[..], &length, &sum, payload].concat())?;
        Ok(log.sync_all()?)
    }
}

/// The 32 bytes of a key file: 64 hexadecimal digits stand first.
fn secret(path: &Path) -> Result<[u8; 32]> {
    let text = fs::read(path).with_context(|| path.display().to_string())?;
    let digits = text.get(..64).with_context(|| format!("{} is too short", path.display()))?;
    HEXLOWER.decode(digits)?.try_into().map_err(|_| anyhow!("{} holds no key", path.display()))
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn payloads(log: &[u8]) -> Vec<&[u8]> {
    let (mut found, mut rest) = (Vec::new(), log);
    while let Some((header, behind)) = rest.split_at_checked(RECORD_HEADER_BYTES) {
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let Some((payload, behind)) = behind.split_at_checked(length) else { break };
        found.push(payload);
        rest = behind;
    }
    found
}
