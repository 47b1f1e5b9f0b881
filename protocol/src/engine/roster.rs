//! What this node holds of who belongs: objects, the membership they make, epoch secrets and the keys from them.

use crate::drop::DropReason;
use crate::identity::{InviteId, Secret, VpiId};
use crate::membership::epoch::{EpochSecret, EpochTag, Epochs};
use crate::membership::object::{Kind, Object, ObjectError};
use crate::membership::{Insertion, Membership, ObjectSet};
use crate::wire::hello::Digests;
use crate::wire::message::{Message, PAGE_IDS};

/// The keys of one epoch that every datagram may need, derived once.
#[derive(Clone)]
pub(super) struct EpochKeys {
    pub(super) tag: EpochTag,
    pub(super) veil: Secret,
    pub(super) psk: Secret,
}

/// Objects, membership and secrets of one VPI.
pub(super) struct Roster {
    objects: ObjectSet,
    epochs: Epochs,
    /// The keys of each held epoch, the newest first.
    keys: Vec<EpochKeys>,
}

impl Roster {
    pub(super) fn new(
        vpi: VpiId,
        objects: impl IntoIterator<Item = Object>,
        epochs: impl IntoIterator<Item = EpochSecret>,
    ) -> Self {
        let mut set = ObjectSet::new(vpi);
        for object in objects {
            set.insert(&object);
        }
        let mut roster = Self { objects: set, epochs: Epochs::new(), keys: Vec::new() };
        // A secret that no Epoch names counts only while none is known: a damaged log comes back from other members.
        let is_named = |epoch: &EpochSecret| {
            let mut known = roster.membership().epochs();
            known.any(|state| (state.number, state.secret_hash) == (epoch.number(), epoch.hash()))
        };
        let (named, unnamed): (Vec<_>, Vec<_>) = epochs.into_iter().partition(is_named);
        for epoch in if named.is_empty() { unnamed } else { named } {
            roster.add_epoch(epoch);
        }
        roster
    }

    /// Who belongs; found when it is asked for behind a change, so that objects in a row cost one run of the reducer.
    pub(super) fn membership(&self) -> &Membership {
        self.objects.membership()
    }

    pub(super) fn objects(&self) -> &ObjectSet {
        &self.objects
    }

    /// Takes an epoch's secret.
    pub(super) fn add_epoch(&mut self, epoch: EpochSecret) {
        self.epochs.insert(epoch);
        self.keys = self
            .epochs
            .iter()
            .map(|epoch| EpochKeys { tag: epoch.tag(), veil: epoch.veil_key(), psk: epoch.psk() })
            .collect();
    }

    /// Takes the one secret that a joiner has, by a witness's word: it takes the place of any other.
    pub(super) fn set_provisional(&mut self, epoch: EpochSecret) {
        self.epochs = Epochs::new();
        self.add_epoch(epoch);
    }

    /// The newest epoch's secret, if any is held.
    pub(super) fn newest_epoch(&self) -> Option<&EpochSecret> {
        self.epochs.newest()
    }

    /// The newest epoch's keys, if any is held.
    pub(super) fn newest_keys(&self) -> Option<&EpochKeys> {
        self.keys.first()
    }

    /// The keys of every held epoch with this tag.
    pub(super) fn keys_by_tag(&self, tag: EpochTag) -> impl Iterator<Item = &EpochKeys> {
        self.keys.iter().filter(move |keys| keys.tag == tag)
    }

    /// The join-veil keys of an invite under every held epoch with this tag.
    pub(super) fn join_keys(&self, tag: EpochTag, invite: InviteId) -> impl Iterator<Item = Secret> {
        self.epochs.by_tag(tag).map(move |epoch| epoch.join_veil_key(&invite))
    }

    /// What this node says of itself in a handshake.
    pub(super) fn digests(&self) -> Digests {
        Digests {
            charter: self.membership().charter_id().unwrap_or([0; 32].into()),
            removes: *self.membership().removed_digest(),
            epoch_tag: self.newest_keys().map_or([0; 2], |keys| keys.tag),
        }
    }

    /// Takes objects that were verified; returns those that are now in the set and were not before.
    pub(super) fn insert(&mut self, objects: impl IntoIterator<Item = Object>) -> Vec<Object> {
        objects
            .into_iter()
            .filter(|object| matches!(self.objects.insert(object), Insertion::Stored { .. }))
            .collect()
    }

    /// Takes an object's bytes from a member; returns it if it is now in the set and was not before.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<Option<Object>, DropReason> {
        let object = Object::open(self.objects.vpi(), bytes).map_err(|error| match error {
            ObjectError::UnknownKind(_) => DropReason::ObjectUnknown,
            _ => DropReason::ObjectInvalid,
        })?;
        match self.objects.insert(&object) {
            Insertion::Known => Ok(None),
            Insertion::Refused(_) => Err(DropReason::ObjectBound),
            Insertion::Stored { .. } => Ok(Some(object)),
        }
    }

    /// One page of ids, to answer a question.
    pub(super) fn list(&self, kind: u8, page: u16) -> Message<'static> {
        let ids = Kind::from_number(u64::from(kind))
            .map(|kind| self.objects.ids(kind, usize::from(page)))
            .unwrap_or_default();
        debug_assert!(ids.len() <= PAGE_IDS, "a page of the set fits a message");
        Message::List { kind, page, ids }
    }
}
