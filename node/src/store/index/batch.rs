//! What waits to be written: the newest about each device, bounded.

use std::collections::{BTreeMap, BTreeSet};

use protocol::identity::{DeviceId, VpiId};

use super::DEVICES_MAX;
use super::message::{Change, Fact, LastPath, LastPresence, Request};

/// Facts gathered since the last keeper, at most [`DEVICES_MAX`] paths and as many Presences; what comes beyond that
/// is not remembered.
#[derive(Debug, Default)]
pub(super) struct Batch {
    forgotten: BTreeSet<VpiId>,
    paths: BTreeMap<(VpiId, DeviceId), LastPath>,
    presences: BTreeMap<(VpiId, DeviceId), LastPresence>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.forgotten.is_empty() && self.paths.is_empty() && self.presences.is_empty()
    }

    pub(super) fn path(&mut self, vpi: VpiId, path: LastPath) {
        let key = (vpi, path.device);
        if self.paths.len() < DEVICES_MAX || self.paths.contains_key(&key) {
            self.paths.insert(key, path);
        }
    }

    /// Takes in a Presence, unless a newer one of its device waits.
    pub(super) fn presence(&mut self, vpi: VpiId, presence: LastPresence) {
        let key = (vpi, presence.device);
        let waiting = self.presences.get(&key);
        let is_newer = waiting.is_none_or(|waiting| waiting.counter <= presence.counter);
        if is_newer && (self.presences.len() < DEVICES_MAX || waiting.is_some()) {
            self.presences.insert(key, presence);
        }
    }

    /// Forgets a VPI; what comes after is remembered again.
    pub(super) fn forget(&mut self, vpi: VpiId) {
        self.paths.retain(|(of, _), _| *of != vpi);
        self.presences.retain(|(of, _), _| *of != vpi);
        if self.forgotten.len() < DEVICES_MAX {
            self.forgotten.insert(vpi);
        }
    }

    /// Takes in what was gathered later.
    pub(super) fn extend(&mut self, later: Self) {
        for vpi in later.forgotten {
            self.forget(vpi);
        }
        for ((vpi, _), path) in later.paths {
            self.path(vpi, path);
        }
        for ((vpi, _), presence) in later.presences {
            self.presence(vpi, presence);
        }
    }

    /// Takes out what is written first, at most `most` changes.
    pub(super) fn take(&mut self, most: usize) -> Self {
        let mut taken = Self::default();
        while taken.forgotten.len() < most {
            let Some(vpi) = self.forgotten.pop_first() else { break };
            taken.forgotten.insert(vpi);
        }
        while taken.len() < most {
            let Some((key, path)) = self.paths.pop_first() else { break };
            taken.paths.insert(key, path);
        }
        while taken.len() < most {
            let Some((key, presence)) = self.presences.pop_first() else { break };
            taken.presences.insert(key, presence);
        }
        taken
    }

    fn len(&self) -> usize {
        self.forgotten.len() + self.paths.len() + self.presences.len()
    }

    /// The same for a keeper: what is to be forgotten stands first.
    pub(super) fn requests(&self) -> Vec<Request> {
        let forgotten = self.forgotten.iter().copied().map(Change::Forget);
        let paths = self.paths.iter().map(|((vpi, _), path)| Fact::Path(*vpi, *path));
        let presences = self.presences.iter().map(|((vpi, _), known)| Fact::Presence(*vpi, known.clone()));
        let changes = forgotten.chain(paths.chain(presences).map(Change::Remember));
        changes.map(Request::Change).collect()
    }
}
