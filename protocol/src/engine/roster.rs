//! What this node holds of who belongs: objects, the membership they make, epoch secrets and the keys from them.

use std::collections::{BTreeSet, VecDeque};

use super::loose::Loose;
use crate::drop::DropReason;
use crate::identity::{DeviceId, InviteId, ObjectId, Secret, StaticKey, VpiId};
use crate::membership::epoch::{EpochSecret, EpochTag, Epochs, MAX_EPOCHS, secret_hash};
use crate::membership::object::{Kind, Object, ObjectError};
use crate::membership::{EpochState, Insertion, Membership, ObjectSet};
use crate::wire::hello::Digests;
use crate::wire::message::{Message, PAGE_IDS};

/// An object dated further ahead of the clock than this waits (specified: README §9).
const AHEAD_SECONDS: u64 = 24 * 3_600;
/// Objects that wait for their time at most; the oldest gives way, and comes back by an exchange.
const MAX_PARKED: usize = 64;

/// The keys of one epoch that every datagram may need, derived once.
#[derive(Clone)]
pub(super) struct EpochKeys {
    pub(super) tag: EpochTag,
    pub(super) veil: Secret,
    pub(super) psk: Secret,
    /// SHA-256 of the secret: unlike the tag, no other epoch's.
    pub(super) hash: [u8; 32],
}

/// Objects, membership and secrets of one VPI.
pub(super) struct Roster {
    objects: ObjectSet,
    epochs: Epochs,
    /// Secrets that gave way to others, by number and tag: what is kept of them elsewhere can go.
    ended: Vec<(u64, EpochTag)>,
    /// Links came since the keys were put in order.
    has_links: bool,
    /// The keys of each held epoch, the newest first: in the order of the reducer, then those that no Epoch names.
    keys: Vec<EpochKeys>,
    /// The epochs whose secrets are worth asking for, the newest first.
    missing: Vec<ObjectId>,
    /// Objects dated far ahead of this node's clock, as bytes: they count once the clock has come near.
    parked: VecDeque<(ObjectId, Vec<u8>)>,
    /// Objects that hang on nothing which is here.
    loose: Loose,
    /// Objects of this device's making that are not on disk yet: whoever asks is not told of them.
    unsaved: BTreeSet<ObjectId>,
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
        let (keys, missing) = (Vec::new(), Vec::new());
        let (parked, loose, unsaved) = (VecDeque::new(), Loose::default(), BTreeSet::new());
        let (held, ended, has_links) = (Epochs::new(), Vec::new(), false);
        let mut roster =
            Self { objects: set, epochs: held, ended, has_links, keys, missing, parked, loose, unsaved };
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
        let ended = self.epochs.insert(epoch);
        self.ended.extend(ended.map(|epoch| (epoch.number(), epoch.tag())));
        self.derive_keys();
    }

    /// The secrets that gave way to others since the last call, by number and tag.
    pub(super) fn take_ended(&mut self) -> Vec<(u64, EpochTag)> {
        std::mem::take(&mut self.ended)
    }

    /// Takes these secrets in place of all others: a joiner's one, by a witness's word, or those that proved true.
    pub(super) fn set_epochs(&mut self, epochs: impl IntoIterator<Item = EpochSecret>) {
        self.epochs = Epochs::new();
        for epoch in epochs {
            self.epochs.insert(epoch);
        }
        self.derive_keys();
    }

    /// The held secrets that Epochs name, with the numbers of those.
    pub(super) fn named_epochs(&self) -> Vec<EpochSecret> {
        let states = self.membership().epochs();
        let held = states.filter_map(|state| Some((state, self.epochs.by_hash(&state.secret_hash)?)));
        let vpi = *self.objects.vpi();
        held.map(|(state, epoch)| EpochSecret::new(vpi, state.number, epoch.secret().clone())).collect()
    }

    /// Takes a secret by a member's word, if it is that of the Epoch object `id` and not held yet; returns it for the disk.
    pub(super) fn take_secret(&mut self, id: &ObjectId, secret: &Secret) -> Option<EpochSecret> {
        let hash = secret_hash(secret);
        let state = self.membership().epochs().find(|state| state.id == *id && state.secret_hash == hash)?;
        if self.epochs.by_hash(&hash).is_some() {
            return None;
        }
        let epoch = EpochSecret::new(*self.objects.vpi(), state.number, secret.clone());
        self.add_epoch(epoch.clone());
        Some(epoch)
    }

    /// Whether the removed set is the one that the Epoch object `id` names, if `secret` is that epoch's.
    pub(super) fn is_secret_of(&self, id: &ObjectId, secret: &Secret) -> Option<bool> {
        let hash = secret_hash(secret);
        let state = self.membership().epochs().find(|state| state.id == *id && state.secret_hash == hash)?;
        Some(!state.is_stale)
    }

    /// The epochs whose secrets are worth asking for, the newest first.
    pub(super) fn missing_secrets(&self) -> impl Iterator<Item = ObjectId> {
        self.missing.iter().copied()
    }

    /// The secret of the Epoch object `id`, if it is held.
    pub(super) fn secret_of(&self, id: &ObjectId) -> Option<&Secret> {
        let state = self.membership().epochs().find(|state| state.id == *id)?;
        self.epochs.by_hash(&state.secret_hash).map(EpochSecret::secret)
    }

    /// The newest epoch's secret, if any is held.
    pub(super) fn newest_epoch(&self) -> Option<&EpochSecret> {
        self.epochs.by_hash(&self.keys.first()?.hash)
    }

    /// The held epochs' secrets, the newest first.
    pub(super) fn epochs_newest_first(&self) -> impl Iterator<Item = &EpochSecret> {
        self.keys.iter().filter_map(|keys| self.epochs.by_hash(&keys.hash))
    }

    /// The secret of the newest Epoch that was signed by `secs`, in unix seconds, if it is held.
    pub(super) fn epoch_at(&self, secs: u64) -> Option<&EpochSecret> {
        let signed_by = |state: &&EpochState| {
            self.objects.get(&state.id).is_some_and(|object| object.body().time() <= secs)
        };
        let state = self.membership().epochs().find(signed_by)?;
        self.epochs.by_hash(&state.secret_hash)
    }

    /// The newest epoch's keys, if any is held.
    pub(super) fn newest_keys(&self) -> Option<&EpochKeys> {
        self.keys.first()
    }

    /// Whether this is the newest held epoch's secret, by its hash.
    pub(super) fn is_newest(&self, hash: &[u8; 32]) -> bool {
        self.newest_keys().is_some_and(|keys| keys.hash == *hash)
    }

    /// The keys of attempt number `attempt` of a handshake: the newest epoch's, but every third time those of an older
    /// one, which a member that slept may still have: the one it was `known` to hold, else each in turn.
    pub(super) fn keys_for(&self, attempt: u32, known: Option<EpochTag>) -> Option<&EpochKeys> {
        let older = self.keys.get(1..).filter(|older| attempt % 3 == 2 && !older.is_empty());
        let Some(older) = older else { return self.keys.first() };
        match known.and_then(|tag| self.keys.iter().find(|keys| keys.tag == tag)) {
            Some(keys) => Some(keys),
            None => older.get((attempt / 3) as usize % older.len()),
        }
    }

    /// Derives the keys of each held epoch, in their order.
    fn derive_keys(&mut self) {
        let states = self.membership().epochs();
        let named = states.filter_map(|state| self.epochs.by_hash(&state.secret_hash));
        let mut order: Vec<&EpochSecret> = Vec::new();
        for epoch in named.chain(self.epochs.iter()) {
            if !order.contains(&epoch) {
                order.push(epoch);
            }
        }
        let known = |epoch: &EpochSecret| self.keys.iter().find(|keys| keys.hash == epoch.hash()).cloned();
        let derived = |epoch: &&EpochSecret| {
            known(epoch).unwrap_or_else(|| EpochKeys {
                tag: epoch.tag(),
                veil: epoch.veil_key(),
                psk: epoch.psk(),
                hash: epoch.hash(),
            })
        };
        self.keys = order.iter().map(derived).collect();
        let is_held = |hash: &[u8; 32]| self.keys.iter().any(|keys| keys.hash == *hash);
        let known = self.objects.membership().epochs().take(MAX_EPOCHS);
        self.missing = known.filter(|state| !is_held(&state.secret_hash)).map(|state| state.id).collect();
    }

    /// The tag of every held epoch, newest first; two may have the same.
    pub(super) fn tags(&self) -> impl Iterator<Item = EpochTag> + '_ {
        self.keys.iter().map(|keys| keys.tag)
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

    /// Takes objects that were verified; returns those that are now in the set and were not before, with those that waited
    /// for them.
    pub(super) fn insert(&mut self, objects: impl IntoIterator<Item = Object>) -> Vec<Object> {
        let taken: Vec<Object> = objects
            .into_iter()
            .filter(|object| matches!(self.objects.insert(object), Insertion::Stored { .. }))
            .collect();
        self.on_taken(taken)
    }

    /// Takes an object's bytes from the member `giver`; returns it if it is now in the set and was not before, with those
    /// that waited for it. One that is dated far ahead of `wall_secs` is parked, and one that hangs on nothing waits.
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        giver: &DeviceId,
        wall_secs: u64,
    ) -> Result<Vec<Object>, DropReason> {
        let object = self.open(bytes)?;
        if object.body().time() > wall_secs.saturating_add(AHEAD_SECONDS) {
            self.park(&object);
            return Err(DropReason::ObjectAhead);
        }
        if let Some(missing) = self.objects.missing_for(&object) {
            self.loose.add(object, *giver, missing);
            return Ok(Vec::new());
        }
        match self.objects.insert(&object) {
            Insertion::Known => Ok(Vec::new()),
            Insertion::Refused(_) => Err(DropReason::ObjectBound),
            Insertion::Stored { .. } => Ok(self.on_taken(vec![object])),
        }
    }

    /// Whether the object is here, or is kept until its time, or until what it hangs on is here.
    pub(super) fn is_known(&self, id: &ObjectId) -> bool {
        let is_parked = || self.parked.iter().any(|(parked, _)| parked == id);
        self.objects.get(id).is_some() || is_parked() || self.loose.has(id)
    }

    /// Takes the parked objects out whose time has come near: to be received again.
    pub(super) fn unpark(&mut self) -> Vec<Vec<u8>> {
        self.parked.drain(..).map(|(_, bytes)| bytes).collect()
    }

    /// Whether the object shows that who has it knows the history of `device`: it is a link of its chain, or, of a device
    /// that has signed none, a charter.
    pub(super) fn is_history_of(&self, device: &DeviceId, id: &ObjectId) -> bool {
        let Some(object) = self.objects.get(id) else { return false };
        match object.body().link() {
            Some(link) => link.admin == *device,
            None => object.kind() == Kind::Charter && !self.objects.has_links_by(device),
        }
    }

    /// Whether `device` is a member, and this its static key by its own word.
    pub(super) fn has_static(&self, device: &DeviceId, key: &StaticKey) -> bool {
        self.membership().member(device).is_some_and(|member| member.static_key == Some(*key))
    }

    /// Takes the envelopes with which `device` shows that it is a member with this static key: all of them, or, if the
    /// reducer does not find it to be one, none. Returns those that were not here.
    pub(super) fn prove(
        &mut self,
        proofs: &[&[u8]],
        (device, key): (&DeviceId, &StaticKey),
        wall_secs: u64,
    ) -> Vec<Object> {
        let opened = proofs.iter().filter_map(|bytes| self.open(bytes).ok());
        let is_dated = |object: &Object| object.body().time() <= wall_secs.saturating_add(AHEAD_SECONDS);
        let opened: Vec<Object> = opened.filter(is_dated).collect();
        let mut trial = self.objects.clone();
        let mut taken = opened;
        taken.retain(|object| matches!(trial.insert(object), Insertion::Stored { .. }));
        let is_loose = |object: &Object| trial.missing_for(object).is_some();
        if taken.is_empty()
            || taken.iter().any(is_loose)
            || trial.membership().member(device).is_none_or(|member| member.static_key != Some(*key))
        {
            return Vec::new();
        }
        self.objects = trial;
        self.on_taken(taken)
    }

    fn open(&self, bytes: &[u8]) -> Result<Object, DropReason> {
        Object::open(self.objects.vpi(), bytes).map_err(|error| match error {
            ObjectError::UnknownKind(_) => DropReason::ObjectUnknown,
            _ => DropReason::ObjectInvalid,
        })
    }

    fn park(&mut self, object: &Object) {
        if self.parked.len() >= MAX_PARKED {
            self.parked.pop_front();
        }
        self.parked.push_back((object.id(), object.bytes().to_vec()));
    }

    /// Takes what waited for `taken`, which are in the set; returns all that was taken. Which epoch is the newest
    /// [`Roster::refresh_keys`] finds.
    fn on_taken(&mut self, mut taken: Vec<Object>) -> Vec<Object> {
        let mut at = 0;
        while let Some(object) = taken.get(at) {
            at += 1;
            for (freed, giver) in self.loose.take_for(object) {
                match self.objects.missing_for(&freed) {
                    Some(missing) => self.loose.add(freed, giver, missing),
                    None if matches!(self.objects.insert(&freed), Insertion::Stored { .. }) => {
                        taken.push(freed);
                    }
                    None => {}
                }
            }
        }
        self.has_links |=
            taken.iter().any(|object| object.kind() == Kind::Charter || object.body().link().is_some());
        taken
    }

    /// Puts the keys in order by what was taken since: once for all that came together, for it takes a run of the reducer.
    pub(super) fn refresh_keys(&mut self) {
        if std::mem::take(&mut self.has_links) {
            self.derive_keys();
        }
    }

    /// Keeps these objects, which this device made, to itself until they are on disk.
    pub(super) fn keep_back(&mut self, ids: impl IntoIterator<Item = ObjectId>) {
        self.unsaved.extend(ids);
    }

    /// These objects are on disk, and may be told.
    pub(super) fn let_go(&mut self, ids: impl IntoIterator<Item = ObjectId>) {
        for id in ids {
            self.unsaved.remove(&id);
        }
    }

    /// An object that others may have.
    pub(super) fn to_tell(&self, id: &ObjectId) -> Option<&Object> {
        self.objects.get(id).filter(|_| !self.unsaved.contains(id))
    }

    /// One page of ids, to answer a question.
    pub(super) fn list(&self, kind: u8, page: u16) -> Message<'static> {
        let ids = Kind::from_number(u64::from(kind))
            .map(|kind| self.page_of(kind, usize::from(page)))
            .unwrap_or_default();
        debug_assert!(ids.len() <= PAGE_IDS, "a page of the set fits a message");
        Message::List { kind, page, ids }
    }

    fn page_of(&self, kind: Kind, page: usize) -> Vec<ObjectId> {
        if self.unsaved.is_empty() {
            return self.objects.ids(kind, page);
        }
        let told = self.objects.of_kind(kind).map(Object::id).filter(|id| !self.unsaved.contains(id));
        told.skip(page.saturating_mul(PAGE_IDS)).take(PAGE_IDS).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;
    use crate::identity::{SigningSecret, StaticSecret};
    use crate::membership::admin::{Admin, rekey};
    use crate::membership::founding::{Addresses, Founding, InviteWish, found, invite};
    use crate::membership::join::{Joiner, Question};
    use crate::membership::witness::admit;
    use crate::random::Rng;

    const NOW: u64 = 1_800_000_000;

    fn key(n: u8) -> SigningSecret {
        SigningSecret::from_seed(&[n; 32])
    }

    /// The roster of a VPI that device 1 founded.
    fn founded() -> (Roster, EpochSecret) {
        let founded = found(&Founding {
            name: "home",
            device_name: "founder",
            root: &key(101),
            recovery: &key(102),
            device: &key(1),
            static_key: StaticSecret::from_bytes([51; 32]).public(),
            secret: &Secret([9; 32]),
            nonce: [7; 16],
            wall_secs: NOW,
        })
        .unwrap();
        let epoch = EpochSecret::new(founded.vpi, 0, Secret([9; 32]));
        (Roster::new(founded.vpi, founded.objects, [epoch.clone()]), epoch)
    }

    #[test]
    fn what_came_before_that_on_which_it_hangs_is_taken_with_it() {
        let (mut roster, epoch) = founded();
        let (founder, vpi) = (key(1), *roster.objects().vpi());
        let at_work = Admin { key: &founder, set: roster.objects(), wall_secs: NOW };
        let wish = InviteWish { name: None, max_uses: 1, seconds: None, bound_device: None };
        let addresses = Addresses { members: &[], beacons: &[] };
        let token = invite(&mut Rng::from_seed([1; 32]), &at_work, &epoch, &wish, addresses).unwrap();
        let (device, static_key) = (key(2), StaticSecret::from_bytes([52; 32]).public());
        let joiner = Joiner { device: &device, static_key, name: "friend", nonce: [2; 16], wall_secs: NOW };
        let question = Question::ask(&token, &joiner).unwrap();
        let admitted = admit(&vpi, &question, &founder, 0, NOW).unwrap();
        let rekeyed = rekey(&vpi, &device, 0, static_key, NOW).unwrap();
        let (join, invite) = (question.join_object(), token.invite_object());

        let giver = key(3).public();
        for early in [&rekeyed, &admitted, join] {
            assert_eq!(roster.receive(early.bytes(), &giver, NOW), Ok(Vec::new()));
            assert!(roster.is_known(&early.id()), "it is asked for once");
            assert_eq!(roster.objects().get(&early.id()), None);
        }
        let mut taken = roster.receive(invite.bytes(), &giver, NOW).unwrap();
        assert_eq!(taken.first(), Some(invite));
        let mut expected = vec![rekeyed, admitted, join.clone(), invite.clone()];
        taken.sort_by_key(Object::id);
        expected.sort_by_key(Object::id);
        assert_eq!(taken, expected);
        assert!(roster.has_static(&device.public(), &static_key));
    }

    #[test]
    fn a_secret_that_gives_way_is_named_once() {
        let (mut roster, _) = founded();
        let vpi = *roster.objects().vpi();
        let oldest = roster.newest_epoch().map(|epoch| (epoch.number(), epoch.tag())).unwrap();
        for number in 1..=MAX_EPOCHS as u64 {
            roster.add_epoch(EpochSecret::new(vpi, number, Secret([number as u8; 32])));
        }
        assert_eq!(roster.take_ended(), [oldest]);
        assert_eq!(roster.take_ended(), []);
    }
}
