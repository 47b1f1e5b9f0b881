//! Who holds which alias on this machine.
//!
//! In: the pins of earlier runs, and members as they are first seen. Out: each one's alias, for good: a pin
//! outlives its device's membership, so that no address ever means another member than it did yesterday. When a
//! pin is old enough to be left out (90 days after removal, README §13) is for whoever keeps the file to say.
//! This is the slow path's table; the pump has a snapshot of its own.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::assign::{SUFFIXES, preferred_suffix};
use crate::identity::{DeviceId, VpiId};

/// *Chosen*: preferred suffixes that are tried before the table is searched in order. With half of all suffixes
/// taken, one device in 2^32 gets that far; it only bounds the work.
const ATTEMPTS_MAX: u32 = 32;

/// A device and the suffix of the alias that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Whose it is.
    pub device: DeviceId,
    /// The last two octets, 1 to 65,534.
    pub suffix: u16,
    /// When the device stopped being a member, in unix seconds; `None` while it is one.
    pub removed_at: Option<u64>,
}

/// What a device was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Its alias on this machine.
    pub alias: Ipv4Addr,
    /// Whether it is the one that nearly all machines give it.
    pub usual: bool,
    /// Whether the pins differ from before, and are to be written.
    pub new: bool,
}

/// Why pins do not make a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// A suffix that is never used.
    #[error("alias suffix {0} of a pin is outside 1 to 65534")]
    Suffix(u16),
    /// Two devices with one alias.
    #[error("alias suffix {0} is pinned twice")]
    SuffixTwice(u16),
    /// One device with two aliases.
    #[error("device {0} is pinned twice")]
    DeviceTwice(DeviceId),
    /// No suffix is left for the own device.
    #[error(transparent)]
    Full(#[from] TableFull),
}

/// All 65,534 suffixes are pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all 65534 aliases of this vpi are taken")]
pub struct TableFull;

/// The aliases of one VPI on this machine; at most 65,534.
#[derive(Clone, Debug)]
pub struct AliasTable {
    vpi: VpiId,
    prefix: u16,
    own: Ipv4Addr,
    by_suffix: BTreeMap<u16, Pin>,
    by_device: BTreeMap<DeviceId, u16>,
}

impl AliasTable {
    /// A table with these pins, in which the own device has an alias.
    ///
    /// Of `prefix` the first two octets count. Without a pin of its own, `own` comes before all other devices
    /// that are not yet pinned.
    ///
    /// # Errors
    /// [`PinError`] when the pins contradict each other: a file that someone edited.
    pub fn new(
        vpi: VpiId,
        prefix: Ipv4Addr,
        own: DeviceId,
        pins: impl IntoIterator<Item = Pin>,
    ) -> Result<Self, PinError> {
        let [a, b, _, _] = prefix.octets();
        let (by_suffix, by_device) = (BTreeMap::new(), BTreeMap::new());
        let mut table = Self { vpi, prefix: u16::from_be_bytes([a, b]), own: prefix, by_suffix, by_device };
        for pin in pins {
            table.insert(pin)?;
        }
        table.own = table.assign(own)?.alias;
        Ok(table)
    }

    /// The alias of `device`, a member: the one it has, else the first that it prefers and nobody holds.
    ///
    /// A device that was removed and is a member again has its former alias again.
    ///
    /// # Errors
    /// [`TableFull`] when every suffix is pinned.
    pub fn assign(&mut self, device: DeviceId) -> Result<Assigned, TableFull> {
        let usual = preferred_suffix(&self.vpi, &device, 0);
        let (suffix, new) = match self.by_device.get(&device) {
            Some(&suffix) => (suffix, self.mark(&device, None)),
            None => {
                let suffix = self.free_suffix(&device).ok_or(TableFull)?;
                self.by_suffix.insert(suffix, Pin { device, suffix, removed_at: None });
                self.by_device.insert(device, suffix);
                (suffix, true)
            }
        };
        Ok(Assigned { alias: self.alias(suffix), usual: suffix == usual, new })
    }

    /// Notes that `device` stopped being a member, at `removed_at` unix seconds; nobody else gets its alias.
    /// Returns whether the pins differ from before.
    pub fn retire(&mut self, device: &DeviceId, removed_at: u64) -> bool {
        self.mark(device, Some(removed_at))
    }

    /// The own alias.
    pub fn own(&self) -> Ipv4Addr {
        self.own
    }

    /// The alias of `device`, if it has one; also of one that was removed.
    pub fn alias_of(&self, device: &DeviceId) -> Option<Ipv4Addr> {
        self.by_device.get(device).map(|suffix| self.alias(*suffix))
    }

    /// Whose alias this is; also of one that was removed.
    pub fn device_at(&self, alias: Ipv4Addr) -> Option<DeviceId> {
        let [a, b, c, d] = alias.octets();
        if u16::from_be_bytes([a, b]) != self.prefix {
            return None;
        }
        self.by_suffix.get(&u16::from_be_bytes([c, d])).map(|pin| pin.device)
    }

    /// All pins in the order of their suffixes, for the file that keeps them.
    pub fn pins(&self) -> impl Iterator<Item = Pin> + '_ {
        self.by_suffix.values().copied()
    }

    fn insert(&mut self, pin: Pin) -> Result<(), PinError> {
        if !(1..=SUFFIXES).contains(&pin.suffix) {
            return Err(PinError::Suffix(pin.suffix));
        }
        if self.by_suffix.insert(pin.suffix, pin).is_some() {
            return Err(PinError::SuffixTwice(pin.suffix));
        }
        match self.by_device.insert(pin.device, pin.suffix) {
            Some(_) => Err(PinError::DeviceTwice(pin.device)),
            None => Ok(()),
        }
    }

    /// Sets when `device` was removed; returns whether that differs from before.
    fn mark(&mut self, device: &DeviceId, removed_at: Option<u64>) -> bool {
        let Some(pin) = self.by_device.get(device).and_then(|suffix| self.by_suffix.get_mut(suffix)) else {
            return false;
        };
        let differs = pin.removed_at != removed_at;
        pin.removed_at = removed_at;
        differs
    }

    /// The first suffix that `device` prefers and nobody holds, else the lowest that nobody holds.
    fn free_suffix(&self, device: &DeviceId) -> Option<u16> {
        let is_free = |suffix: &u16| !self.by_suffix.contains_key(suffix);
        (0..ATTEMPTS_MAX)
            .map(|attempt| preferred_suffix(&self.vpi, device, attempt))
            .find(is_free)
            .or_else(|| (1..=SUFFIXES).find(is_free))
    }

    fn alias(&self, suffix: u16) -> Ipv4Addr {
        let [a, b] = self.prefix.to_be_bytes();
        let [c, d] = suffix.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    }
}
