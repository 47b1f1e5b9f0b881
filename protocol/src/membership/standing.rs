//! Who belongs, as the reducer found it: a value to ask, which nothing changes.

use std::collections::{BTreeMap, BTreeSet};

use super::chain::{Chain, Places, would_count};
use super::object::{Admit, Body, Capabilities, Charter, Invite, Object, Target, WhoMayAdmit};
use super::removals::Removals;
use super::set::ObjectSet;
use crate::identity::{DeviceId, InviteId, ObjectId, StaticKey, VpiId};

/// Seconds by which clocks may differ where an invite's end is judged (specified: README §12).
pub const INVITE_GRACE_SECONDS: u64 = 300;

/// Who belongs to one VPI, a pure function of a set of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub(super) vpi: VpiId,
    pub(super) charter: Option<Object>,
    pub(super) members: BTreeMap<DeviceId, Member>,
    /// Removed devices whose Admits count still, with the round in which they came in.
    pub(super) former: BTreeMap<DeviceId, usize>,
    pub(super) waiting: BTreeMap<DeviceId, Waiting>,
    pub(super) invites: BTreeMap<InviteId, InviteState>,
    pub(super) chains: BTreeMap<DeviceId, Chain>,
    pub(super) epochs: Vec<EpochState>,
    pub(super) removals: Removals,
    pub(super) removed_digest: [u8; 32],
    /// By confirmed join: the earliest time.
    pub(super) confirmed: BTreeMap<ObjectId, u64>,
    /// How long a lease lives, where leases are on.
    pub(super) lease_seconds: Option<u64>,
    /// By member: when its newest lease ends.
    pub(super) leases: BTreeMap<DeviceId, u64>,
    pub(super) alarms: BTreeSet<Alarm>,
}

/// One device that belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The device.
    pub device: DeviceId,
    /// Its name, unlike any other member's.
    pub name: String,
    /// The key of its handshakes, by its own word; `None` for an admin that made no Rekey.
    pub static_key: Option<StaticKey>,
    /// What the charter in force lets it do; nothing for most.
    pub capabilities: Capabilities,
    /// Whether the charter in force names it.
    pub is_admin: bool,
    /// Since when, in unix seconds: the earliest Admit that counts, or the charter.
    pub since: u64,
    /// In which round of the reducer it came in: 0 for admins; each of its witnesses
    /// that counted was in by an earlier one.
    pub round: usize,
    /// By which Join; `None` for an admin that has none.
    pub join: Option<ObjectId>,
}

/// A device that asked to join and does not belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// No member is known to have admitted it.
    Joining,
    /// Its invite had more takers than uses.
    Contested,
}

/// An invite that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InviteState {
    pub(super) object: Object,
    pub(super) invite: Invite,
    pub(super) uses: u64,
    pub(super) is_revoked: bool,
}

impl InviteState {
    /// The Invite as a signed object.
    #[must_use]
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// What it says.
    #[must_use]
    pub fn invite(&self) -> &Invite {
        &self.invite
    }

    /// How many more joins it lets in.
    #[must_use]
    pub fn uses_left(&self) -> u64 {
        self.invite.max_uses.saturating_sub(self.uses)
    }

    /// How many joins it let in that still count.
    #[must_use]
    pub fn uses(&self) -> u64 {
        self.uses
    }

    /// Whether an admin revoked it.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.is_revoked
    }

    /// Whether a witness would still admit by it at `wall_secs` (unix seconds), uses apart.
    #[must_use]
    pub fn is_live(&self, wall_secs: u64) -> bool {
        !self.is_revoked && is_in_time(&self.invite, wall_secs)
    }
}

/// An Epoch that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochState {
    /// Its number.
    pub number: u64,
    /// The Epoch object.
    pub id: ObjectId,
    /// SHA-256 of its secret.
    pub secret_hash: [u8; 32],
    /// Whether its removed set is not the removed set of now: an admin's node must make the next.
    pub is_stale: bool,
}

/// Something that a user should be told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// The roots signed two charters of one version; the better-ranked one counts.
    CharterRivals {
        /// The version.
        version: u64,
    },
    /// An admin signed two histories; its allows from this place on are void.
    ChainForked {
        /// The admin.
        admin: DeviceId,
        /// The first void place.
        seq: u64,
    },
    /// Two Invites have one id; one of them is void.
    InviteTwice {
        /// The id.
        invite: InviteId,
    },
    /// An invite had more takers than uses.
    Contested {
        /// The invite.
        invite: InviteId,
        /// The device that was denied.
        device: DeviceId,
    },
    /// A device signed two static keys with one counter.
    RekeyConflict {
        /// The device.
        device: DeviceId,
    },
    /// A device wanted the name of another member.
    SameName {
        /// The device.
        device: DeviceId,
        /// The name it got.
        name: String,
    },
}

impl Membership {
    /// The membership of a VPI of which nothing is known.
    pub(super) fn unknown(vpi: VpiId) -> Self {
        Self {
            vpi,
            charter: None,
            members: BTreeMap::new(),
            former: BTreeMap::new(),
            waiting: BTreeMap::new(),
            invites: BTreeMap::new(),
            chains: BTreeMap::new(),
            epochs: Vec::new(),
            removals: Removals::default(),
            removed_digest: super::reducer::removed_digest([]),
            confirmed: BTreeMap::new(),
            lease_seconds: None,
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
        }
    }

    /// The VPI.
    #[must_use]
    pub fn vpi(&self) -> &VpiId {
        &self.vpi
    }

    /// The id of the charter in force; `None` while there is none.
    #[must_use]
    pub fn charter_id(&self) -> Option<ObjectId> {
        self.charter.as_ref().map(Object::id)
    }

    /// The charter in force; `None` while there is none.
    #[must_use]
    pub fn charter(&self) -> Option<&Charter> {
        match self.charter.as_ref()?.body() {
            Body::Charter(charter) => Some(charter),
            _ => None,
        }
    }

    /// The version of the charter in force; 0 also while there is none.
    #[must_use]
    pub fn charter_version(&self) -> u64 {
        self.charter().map_or(0, |charter| charter.version)
    }

    /// Whether the charter in force lets `device` do all of `capabilities`.
    #[must_use]
    pub fn may(&self, device: &DeviceId, capabilities: Capabilities) -> bool {
        self.charter()
            .and_then(|charter| charter.admin(device))
            .is_some_and(|admin| admin.capabilities.has(capabilities))
    }

    /// Every member, ascending by device.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.members.values()
    }

    /// The member whose device this is.
    #[must_use]
    pub fn member(&self, device: &DeviceId) -> Option<&Member> {
        self.members.get(device)
    }

    /// Whether what this device admitted may count: it is a member, or is out and others stand on its word still.
    #[must_use]
    pub fn has_vouching(&self, device: &DeviceId) -> bool {
        self.round(device).is_some()
    }

    /// How a device stands that asked to join; `None` for members and for devices never heard of.
    #[must_use]
    pub fn waiting(&self, device: &DeviceId) -> Option<Waiting> {
        self.waiting.get(device).copied()
    }

    /// Every device that asked to join and does not belong, ascending.
    pub fn all_waiting(&self) -> impl Iterator<Item = (&DeviceId, Waiting)> {
        self.waiting.iter().map(|(device, waiting)| (device, *waiting))
    }

    /// The invite with this id, if it counts.
    #[must_use]
    pub fn invite(&self, id: &InviteId) -> Option<&InviteState> {
        self.invites.get(id)
    }

    /// Every invite that counts, ascending by id.
    pub fn invites(&self) -> impl Iterator<Item = &InviteState> {
        self.invites.values()
    }

    /// The epoch in force; `None` while there is none.
    #[must_use]
    pub fn epoch(&self) -> Option<&EpochState> {
        self.epochs.first()
    }

    /// Every epoch, the one in force first; by their hashes a handed secret is checked.
    pub fn epochs(&self) -> impl Iterator<Item = &EpochState> {
        self.epochs.iter()
    }

    /// Everything that is removed, ascending.
    pub fn removed(&self) -> impl ExactSizeIterator<Item = &Target> {
        self.removals.targets.iter()
    }

    /// Whether this device was removed, or left.
    #[must_use]
    pub fn is_removed(&self, device: &DeviceId) -> bool {
        self.removals.targets.contains(&Target::Device(*device))
    }

    /// Whether this went by its own word alone: no admin removed it.
    #[must_use]
    pub fn has_only_left(&self, target: &Target) -> bool {
        let has_left = matches!(target, Target::Device(device) if self.removals.left.contains_key(device));
        has_left && !self.removals.by_admins.contains(target)
    }

    /// Whether the invite with this id was revoked, whether or not it is here.
    #[must_use]
    pub fn is_revoked(&self, invite: &InviteId) -> bool {
        self.removals.targets.contains(&Target::Invite(*invite))
    }

    /// When `device`, a member, must have a newer lease, in unix seconds; `None` where leases are off, for admins and
    /// for devices that are no members. Without any lease it has as long from its beginning as one would give.
    #[must_use]
    pub fn lease_ends(&self, device: &DeviceId) -> Option<u64> {
        let seconds = self.lease_seconds?;
        let member = self.member(device).filter(|member| !member.is_admin)?;
        let first = member.since.saturating_add(seconds);
        Some(self.leases.get(device).map_or(first, |end| first.max(*end)))
    }

    /// The digest of the removed set, as handshakes and Epoch objects carry it.
    #[must_use]
    pub fn removed_digest(&self) -> &[u8; 32] {
        &self.removed_digest
    }

    /// What users should be told, in a stable order.
    pub fn alarms(&self) -> impl Iterator<Item = &Alarm> {
        self.alarms.iter()
    }

    /// Sequence and predecessor for the next object of `admin`; `None` for a device that is no admin, and where
    /// making one would fork the chain: it is forked already, or its objects are not all here.
    #[must_use]
    pub fn next_link(&self, admin: &DeviceId) -> Option<(u64, ObjectId)> {
        self.charter()?.admin(admin)?;
        self.chains.get(admin).map_or(Some((0, ObjectId(self.vpi.0))), |chain| chain.next)
    }

    /// Whether `object`, an Invite, counts or would if it were in `set`, of which this is the membership: its admin is in
    /// force and may invite, and its chain does not say otherwise.
    pub(super) fn may_hold(&self, set: &ObjectSet, object: &Object) -> bool {
        let (Body::Invite(invite), Some(link)) = (object.body(), object.body().link()) else { return false };
        let state = self.invite(&invite.invite_id);
        if !self.may(&invite.admin, Capabilities::INVITE) {
            // Of a retired admin, what stands before its cut.
            return state.is_some_and(|state| state.object == *object);
        }
        let places = set.links_by(&invite.admin).map(|links| &links.places);
        let is_linked = would_count(&self.vpi, places.unwrap_or(&Places::default()), &link, &object.id());
        is_linked && state.is_none_or(|state| state.object == *object)
    }

    /// In which round a device came in that is a member, or was one and vouches still for whom it admitted.
    pub(super) fn round(&self, device: &DeviceId) -> Option<usize> {
        self.member(device).map(|member| member.round).or_else(|| self.former.get(device).copied())
    }

    /// Whether `admit` lets in a join by `invite`.
    pub(super) fn vouches(&self, invite: &Invite, admit: &Admit) -> bool {
        self.has_vouching(&admit.witness)
            && self.charter().is_some_and(|charter| is_eligible(charter, &self.removals, invite, admit))
    }
}

/// Whether an Admit at `time` is within the life of `invite` and the grace behind it.
pub(super) fn is_in_time(invite: &Invite, time: u64) -> bool {
    time <= invite.not_after.saturating_add(INVITE_GRACE_SECONDS)
}

/// Whether `witness`, a member, may admit by `invite`.
pub(super) fn may_witness(charter: &Charter, invite: &Invite, witness: &DeviceId) -> bool {
    let is_named = invite.admitters.is_empty() || invite.admitters.contains(witness);
    is_named
        && match charter.policy.who_may_admit {
            WhoMayAdmit::Members => true,
            WhoMayAdmit::Admins => charter.admin(witness).is_some(),
        }
}

/// Whether `admit`, by a device that came in, counts for a join by `invite`.
pub(super) fn is_eligible(charter: &Charter, removals: &Removals, invite: &Invite, admit: &Admit) -> bool {
    is_in_time(invite, admit.time)
        && may_witness(charter, invite, &admit.witness)
        && removals.is_before_leaving(invite, admit)
}
