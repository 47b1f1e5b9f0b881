//! The reducer: a set of objects in, who belongs out. A pure function, so that every member that holds the same
//! objects finds the same, in whatever order they came (README §11).
//!
//! ```text
//! charters ─► chains ─► invites ─► removals ─► rounds over joins ─► members ─► names, static keys
//!                  │                   │              ▲
//!                  └──► confirms ──────┼──────────────┘
//!                  └──► epochs ◄───────┘ stale or not
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::chain::chains;
use super::charters::Authority;
use super::object::{Body, Capabilities, Charter, Invite, Kind, Object, Target};
use super::removals::Removals;
use super::rounds::{self, Basis, Counted, Rounds};
use super::set::ObjectSet;
use super::standing::{Alarm, EpochState, InviteState, Member, Membership, Waiting};
use crate::identity::{DeviceId, InviteId, ObjectId, StaticKey, sha256};

/// Finds who belongs. Without a charter nobody does.
#[must_use]
pub fn reduce(set: &ObjectSet) -> Membership {
    reduce_supposing(set, &Supposed::default())
}

/// What is taken for signed although it is not here.
#[derive(Clone, Debug, Default)]
pub(super) struct Supposed {
    /// Removed, by an admin whose chain is complete.
    pub(super) removed: BTreeSet<Target>,
    /// By confirmed join: the time.
    pub(super) confirmed: BTreeMap<ObjectId, u64>,
}

/// Finds who would belong if `supposed` were signed too.
pub(super) fn reduce_supposing(set: &ObjectSet, supposed: &Supposed) -> Membership {
    let mut membership = Membership::unknown(*set.vpi());
    let line: Vec<_> = set.charters().collect();
    let bodies: Vec<_> = line.iter().map(|(_, charter)| *charter).collect();
    let Some(((object, charter), authority)) = line.last().zip(Authority::of(&bodies)) else {
        return membership;
    };
    membership.charter = Some((*object).clone());
    membership.alarms = set.rival_charters().map(|version| Alarm::CharterRivals { version }).collect();
    membership.chains = chains(set.vpi(), charter, set.links());
    let forks = membership
        .chains
        .iter()
        .filter_map(|(admin, chain)| chain.forked_at.map(|seq| Alarm::ChainForked { admin: *admin, seq }));
    membership.alarms.extend(forks);
    let valid = valid_links(set, &authority, &membership);
    let invites = invites(&valid, &mut membership.alarms);
    let bodies = invites.iter().map(|(id, (_, invite))| (*id, *invite)).collect();
    membership.removals = Removals::of(set, &authority, &membership.chains, &bodies, &supposed.removed);
    membership.removed_digest = removed_digest(membership.removals.targets.iter().map(Target::as_bytes));
    membership.epochs = epochs(&valid, &membership.removed_digest);
    membership.confirmed = confirmed(&valid, &supposed.confirmed);
    let (removals, confirmed) = (&membership.removals, &membership.confirmed);
    let rounds = rounds::run(set, &Basis { charter, invites: &bodies, removals, confirmed });
    seat_members(&mut membership, charter, &rounds);
    note_invites(&mut membership, &invites, &rounds);
    note_waiting(&mut membership, &rounds);
    give_static_keys(&mut membership, set, charter, &rounds);
    note_leases(&mut membership, set, charter);
    membership
}

/// SHA-256 of `"vpi/v1 removed"` and each target (a device key or an invite id, ascending) behind a byte that
/// says its length.
#[must_use]
pub fn removed_digest<'t>(targets: impl IntoIterator<Item = &'t [u8]>) -> [u8; 32] {
    let targets: BTreeSet<&[u8]> = targets.into_iter().collect();
    let mut bytes = b"vpi/v1 removed".to_vec();
    for target in targets {
        bytes.push(u8::try_from(target.len()).expect("a target is 16 or 32 bytes"));
        bytes.extend_from_slice(target);
    }
    sha256(&[&bytes])
}

/// The objects that count in their chains and for which their admin has the capability.
fn valid_links<'s>(
    set: &'s ObjectSet,
    authority: &Authority<'_>,
    membership: &Membership,
) -> Vec<&'s Object> {
    let counting = membership.chains.values().flat_map(|chain| &chain.counting);
    counting
        .filter_map(|id| set.get(id))
        .filter(|object| {
            let needed: &[Capabilities] = match object.kind() {
                Kind::Invite => &[Capabilities::INVITE],
                Kind::Epoch => &[Capabilities::EPOCH],
                // Who may invite could let the device in, who may remove must be able to spare it.
                Kind::Confirm => &[Capabilities::INVITE, Capabilities::REMOVE],
                Kind::Charter
                | Kind::Join
                | Kind::Admit
                | Kind::Remove
                | Kind::Rekey
                | Kind::Presence
                | Kind::Lease => return false,
            };
            object.body().link().is_some_and(|link| authority.has_any(&link.admin, needed))
        })
        .collect()
}

/// By confirmed join: the earliest time.
fn confirmed(valid: &[&Object], supposed: &BTreeMap<ObjectId, u64>) -> BTreeMap<ObjectId, u64> {
    let mut confirmed = supposed.clone();
    for object in valid {
        let Body::Confirm(confirm) = object.body() else { continue };
        for join in &confirm.joins {
            let at = confirmed.entry(*join).or_insert(confirm.time);
            *at = confirm.time.min(*at);
        }
    }
    confirmed
}

/// The epochs, the one in force first: highest number, then lowest id.
fn epochs(valid: &[&Object], removed: &[u8; 32]) -> Vec<EpochState> {
    let mut epochs: Vec<_> = valid
        .iter()
        .filter_map(|object| match object.body() {
            Body::Epoch(epoch) => Some(EpochState {
                number: epoch.number,
                id: object.id(),
                secret_hash: epoch.secret_hash,
                is_stale: epoch.removed_digest != *removed,
            }),
            _ => None,
        })
        .collect();
    epochs.sort_unstable_by_key(|epoch| (u64::MAX - epoch.number, epoch.id));
    epochs
}

type Invites<'s> = BTreeMap<InviteId, (&'s Object, &'s Invite)>;

/// The invites by id; of two with one id the lower object id counts.
fn invites<'s>(valid: &[&'s Object], alarms: &mut BTreeSet<Alarm>) -> Invites<'s> {
    let mut invites: Invites<'s> = BTreeMap::new();
    for object in valid {
        let Body::Invite(invite) = object.body() else { continue };
        let holder = invites.entry(invite.invite_id).or_insert((*object, invite));
        if holder.0.id() != object.id() {
            alarms.insert(Alarm::InviteTwice { invite: invite.invite_id });
            if object.id() < holder.0.id() {
                *holder = (*object, invite);
            }
        }
    }
    invites
}

/// Makes members of the charter's admins and of those whose joins count, in that order: it is that of names. Who is
/// out, and vouches for others still, is noted as a former member.
fn seat_members(membership: &mut Membership, charter: &Charter, rounds: &Rounds<'_>) {
    let mut names = BTreeSet::new();
    for admin in &charter.admins {
        let member = Member {
            device: admin.device,
            name: admin.name.clone(),
            static_key: None,
            capabilities: admin.capabilities,
            is_admin: true,
            since: charter.time,
            round: 0,
            join: None,
        };
        seat(membership, &mut names, member);
    }
    for Counted { at, round, id, join } in &rounds.counted {
        if membership.is_removed(&join.device) {
            let first = membership.former.entry(join.device).or_insert(*round);
            *first = (*first).min(*round);
            continue;
        }
        let member = Member {
            device: join.device,
            name: join.name.clone(),
            static_key: None,
            capabilities: Capabilities::NONE,
            is_admin: false,
            since: *at,
            round: *round,
            join: Some(*id),
        };
        match membership.members.get_mut(&join.device) {
            Some(seated) => seated.join = seated.join.or(member.join),
            None => seat(membership, &mut names, member),
        }
    }
}

fn seat(membership: &mut Membership, names: &mut BTreeSet<String>, mut member: Member) {
    let free = free_name(names, &member.name, &member.device);
    if free != member.name {
        membership.alarms.insert(Alarm::SameName { device: member.device, name: free.clone() });
        member.name.clone_from(&free);
    }
    names.insert(free);
    membership.members.insert(member.device, member);
}

/// `name`, or `name-` and as many digits of the key as make it unlike any other: four, but for a name that was
/// chosen to be in the way.
fn free_name(names: &BTreeSet<String>, name: &str, device: &DeviceId) -> String {
    let digits = device.to_string();
    let longer = (4..=digits.len()).filter_map(|length| Some(format!("{name}-{}", digits.get(..length)?)));
    let mut choices = std::iter::once(name.to_owned()).chain(longer);
    choices.find(|choice| !names.contains(choice)).unwrap_or(digits)
}

fn note_invites(membership: &mut Membership, invites: &Invites<'_>, rounds: &Rounds<'_>) {
    let mut uses: BTreeMap<InviteId, u64> = BTreeMap::new();
    for counted in &rounds.counted {
        *uses.entry(counted.join.invite_id).or_default() += 1;
    }
    for (id, (object, invite)) in invites {
        let uses = uses.get(id).copied().unwrap_or_default();
        let is_revoked = membership.is_revoked(id);
        let state = InviteState { object: (*object).clone(), invite: (*invite).clone(), uses, is_revoked };
        membership.invites.insert(*id, state);
    }
}

fn note_waiting(membership: &mut Membership, rounds: &Rounds<'_>) {
    for (join, waiting) in &rounds.waiting {
        if membership.members.contains_key(&join.device) || membership.is_removed(&join.device) {
            continue;
        }
        if *waiting == Waiting::Contested {
            let alarm = Alarm::Contested { invite: join.invite_id, device: join.device };
            membership.alarms.insert(alarm);
        }
        // Of a device that waits by two invites, the hopeful one is shown.
        let shown = membership.waiting.entry(join.device).or_insert(*waiting);
        if *waiting == Waiting::Joining {
            *shown = Waiting::Joining;
        }
    }
}

/// Rule 7: the newest Rekey, else the newest Join that counts. Who claims another's key can make no handshake with it, and
/// takes nothing from the other: a handshake names the device beside the key.
fn give_static_keys(membership: &mut Membership, set: &ObjectSet, charter: &Charter, rounds: &Rounds<'_>) {
    // The later of two joins of one device replaces the earlier here.
    let joined: BTreeMap<DeviceId, StaticKey> =
        rounds.counted.iter().map(|counted| (counted.join.device, counted.join.static_key)).collect();
    let admins = charter.admins.iter().map(|admin| admin.device);
    for device in admins.chain(rounds.counted.iter().map(|counted| counted.join.device)) {
        let Some(member) = membership.members.get_mut(&device) else { continue };
        if member.static_key.is_some() {
            continue;
        }
        let rekeyed = newest_rekey(set, &device, &mut membership.alarms);
        member.static_key = rekeyed.or_else(|| joined.get(&device).copied());
    }
}

fn newest_rekey(set: &ObjectSet, device: &DeviceId, alarms: &mut BTreeSet<Alarm>) -> Option<StaticKey> {
    let rekeys = set.rekeys_of(device);
    let (_, newest) = rekeys.first()?;
    let in_conflict = |rekey: &super::object::Rekey| {
        rekey.counter == newest.counter && rekey.static_key != newest.static_key
    };
    if rekeys.iter().any(|(_, rekey)| in_conflict(rekey)) {
        alarms.insert(Alarm::RekeyConflict { device: *device });
    }
    Some(newest.static_key)
}

/// The newest Lease of each member, where leases are on: the policy has a life for them, and more than one admin is
/// there to make them.
fn note_leases(membership: &mut Membership, set: &ObjectSet, charter: &Charter) {
    let seconds = charter.policy.lease_seconds;
    if seconds == 0 || charter.admins.len() < 2 {
        return;
    }
    membership.lease_seconds = Some(seconds);
    let ends = membership.members.keys().filter_map(|device| {
        let lease = set.lease_of(device)?;
        Some((*device, lease.until.min(lease.from.saturating_add(seconds))))
    });
    membership.leases = ends.collect();
}
