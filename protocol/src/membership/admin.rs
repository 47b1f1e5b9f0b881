//! What an admin signs to remove and to change the epoch, and what a member signs about itself.
//!
//! In go keys and what the node holds; out come signed objects, for the caller to store before anybody sees them.
//! Invites are made in founding.rs.
//!
//! ```text
//! remove = Confirm… (joins that hang on the target only) ─► Remove… (its invites) ─► Remove (device) ─► Epoch
//! revoke = Confirm… (joins by the invite)                ─► Remove (invite)                          ─► Epoch
//! ```

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::epoch::{EpochSecret, secret_hash};
use super::object::{
    Body, Capabilities, Confirm, Epoch, Kind, MAX_CANDIDATES, MAX_CONFIRMED, MAX_COUNT, Object, ObjectError,
    Presence, Reason, Rekey, Remove, Target,
};
use super::reducer::{Supposed, reduce_supposing};
use super::set::ObjectSet;
use super::standing::{Member, Membership};
use crate::identity::{DeviceId, InviteId, ObjectId, Secret, SigningSecret, StaticKey, VpiId};
use crate::random::{self, Rng};
use crate::wire::cbor::Extensions;

/// An admin at work: its key, what it knows, and when.
#[derive(Clone, Copy, Debug)]
pub struct Admin<'a> {
    /// The admin's device key.
    pub key: &'a SigningSecret,
    /// All that the node holds.
    pub set: &'a ObjectSet,
    /// Unix seconds.
    pub wall_secs: u64,
}

/// Why nothing was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// The charter does not let this device do it.
    #[error("this device may not do that; ask an admin of the VPI")]
    NotAllowed,
    /// The admin's own chain is forked or not all here.
    #[error("this admin's history is forked or not complete here; connect to another member first")]
    Chain,
    /// No other member has confirmed since the start that this admin's history is not older than it was.
    #[error(
        "this node has not met another member since it started, so its records may be old; run one, or say --offline"
    )]
    Unsettled,
    /// The target is an admin, which only a charter can change.
    #[error("an admin can neither leave nor be removed; a charter that names it no longer must come first")]
    TargetIsAdmin,
    /// The device is no member and did not ask to be.
    #[error("no such member")]
    NotMember,
    /// No invite that counts has this id.
    #[error("no such invite")]
    UnknownInvite,
    /// The target is removed or revoked already.
    #[error("it is removed already")]
    AlreadyRemoved,
    /// The charter in force says that removals of the target do not count.
    #[error("the charter pardons it; a charter without that pardon must come first")]
    Pardoned,
    /// The number of the epoch in force is the last.
    #[error("an admin used up the epoch numbers; a charter that retires it must come first")]
    Epochs,
    /// A wish is out of range.
    #[error("the invite's name, uses or end is out of range: {0}")]
    Wish(#[source] ObjectError),
    /// The clock or a counter is beyond what an object may hold.
    #[error("the object cannot be made: {0}")]
    Object(#[from] ObjectError),
}

/// What an admin signed at once.
#[derive(Clone, Debug)]
pub struct Signed {
    /// Confirms, Removes and, with `epoch`, the Epoch; in the order of the admin's chain.
    pub objects: Vec<Object>,
    /// The secret of the Epoch, if the admin may make one and there is a number for it.
    pub epoch: Option<EpochSecret>,
}

/// Removes a device that is a member, asked to be one or left, and revokes each invite by which it joined that is not
/// over or would let somebody else in. Every other member stays.
///
/// # Errors
/// An [`AdminError`], which says what to do.
pub fn remove(
    rng: &mut Rng,
    admin: &Admin<'_>,
    target: &DeviceId,
    reason: Reason,
) -> Result<Signed, AdminError> {
    let membership = admin.membership();
    admin.may(Capabilities::REMOVE)?;
    if membership.charter().is_some_and(|charter| charter.admin(target).is_some()) {
        return Err(AdminError::TargetIsAdmin);
    }
    if membership.removals.by_admins.contains(&Target::Device(*target)) {
        return Err(AdminError::AlreadyRemoved);
    }
    let has_left = membership.removals.left.contains_key(target);
    if !has_left && membership.member(target).is_none() && membership.waiting(target).is_none() {
        return Err(AdminError::NotMember);
    }
    let invites = admin.set.joins_of(target).map(|(_, join)| join.invite_id);
    let is_live = |id: &InviteId| membership.invite(id).is_some_and(|state| state.is_live(admin.wall_secs));
    let mut targets = vec![(Target::Device(*target), reason)];
    let live: BTreeSet<InviteId> = invites.filter(is_live).collect();
    targets.extend(live.into_iter().map(|id| (Target::Invite(id), Reason::Revoked)));
    admin.end(rng, targets)
}

/// Revokes an invite. Whoever joined by it stays.
///
/// # Errors
/// An [`AdminError`], which says what to do.
pub fn revoke(rng: &mut Rng, admin: &Admin<'_>, invite: &InviteId) -> Result<Signed, AdminError> {
    admin.may(Capabilities::REMOVE)?;
    if admin.membership().is_revoked(invite) {
        return Err(AdminError::AlreadyRemoved);
    }
    admin.membership().invite(invite).ok_or(AdminError::UnknownInvite)?;
    admin.end(rng, vec![(Target::Invite(*invite), Reason::Revoked)])
}

/// Makes the next epoch, for a removed set that the one in force does not know.
///
/// # Errors
/// An [`AdminError`], which says what to do.
pub fn next_epoch(rng: &mut Rng, admin: &Admin<'_>) -> Result<Signed, AdminError> {
    admin.may(Capabilities::EPOCH)?;
    let mut chain = Links::of(admin)?;
    let number = next_number(admin.membership()).ok_or(AdminError::Epochs)?;
    let epoch = chain.add_epoch(rng, number, admin.membership())?;
    Ok(Signed { objects: chain.objects, epoch: Some(epoch) })
}

/// Says whether `member` would lose its place if others than admins did.
#[must_use]
pub fn is_unconfirmed(member: &Member) -> bool {
    member.round > 1 && member.join.is_some()
}

/// Confirms every join for which no admin vouches, but not those that stand only until the chain is complete of an admin
/// who removed what they hang on.
///
/// # Errors
/// An [`AdminError`], which says what to do.
pub fn confirm(admin: &Admin<'_>) -> Result<Signed, AdminError> {
    admin.may(Capabilities::INVITE).or_else(|_| admin.may(Capabilities::REMOVE))?;
    let standing = admin.standing();
    let joins = standing.members().filter(|member| is_unconfirmed(member)).filter_map(|member| member.join);
    let mut chain = Links::of(admin)?;
    chain.add_confirms(joins.collect())?;
    Ok(Signed { objects: chain.objects, epoch: None })
}

/// Removes the own `device`, a member, dated behind all that it admitted, lest a clock that went back take them along.
///
/// # Errors
/// [`AdminError::TargetIsAdmin`] for an admin, [`AdminError::AlreadyRemoved`] and [`AdminError::NotMember`].
pub fn leave(set: &ObjectSet, device: &SigningSecret, wall_secs: u64) -> Result<Object, AdminError> {
    let (own, membership) = (device.public(), set.membership());
    if membership.is_removed(&own) {
        return Err(AdminError::AlreadyRemoved);
    }
    if membership.member(&own).ok_or(AdminError::NotMember)?.is_admin {
        return Err(AdminError::TargetIsAdmin);
    }
    let admitted_at = set.of_kind(Kind::Admit).filter_map(|object| match object.body() {
        Body::Admit(admit) if admit.witness == own => Some(admit.time),
        _ => None,
    });
    let body = Body::Remove(Remove {
        signer: own,
        link: None,
        time: admitted_at.max().map_or(wall_secs, |last| last.max(wall_secs)),
        target: Target::Device(own),
        reason: Reason::Left,
        extensions: Extensions::default(),
    });
    Ok(Object::sign(set.vpi(), &body, &[device])?)
}

/// Makes the Rekey of `device` to `static_key`; `counter` is one more than that of its last, or 0.
///
/// # Errors
/// An [`ObjectError`] when counter or clock is beyond what an object may hold.
pub fn rekey(
    vpi: &VpiId,
    device: &SigningSecret,
    counter: u64,
    static_key: StaticKey,
    wall_secs: u64,
) -> Result<Object, ObjectError> {
    let (device_id, time) = (device.public(), wall_secs);
    let body = Rekey { device: device_id, counter, static_key, time, extensions: Extensions::default() };
    Object::sign(vpi, &Body::Rekey(body), &[device])
}

/// Where a device is, and behind what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place<'p> {
    /// Its addresses, the best first, of which the first [`MAX_CANDIDATES`] that have a port are told.
    pub candidates: &'p [SocketAddr],
    /// The number of its NAT's class; 0 while unknown.
    pub nat: u8,
}

/// Makes the Presence of `device` at `place`; `counter` is one more than that of its last, or 0.
///
/// # Errors
/// An [`ObjectError`] when counter or clock is beyond what an object may hold.
pub fn presence(
    vpi: &VpiId,
    device: &SigningSecret,
    counter: u64,
    place: Place<'_>,
    wall_secs: u64,
) -> Result<Object, ObjectError> {
    let in_one_form = |socket: &SocketAddr| match socket.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::from((ip, socket.port())),
        IpAddr::V6(ip) => SocketAddr::from((ip, socket.port())),
    };
    let told =
        place.candidates.iter().filter(|socket| socket.port() != 0).take(MAX_CANDIDATES).map(in_one_form);
    let body = Body::Presence(Presence {
        device: device.public(),
        time: wall_secs,
        counter,
        candidates: told.collect(),
        beacon: None,
        nat: place.nat,
        flags: 0,
        extensions: Extensions::default(),
    });
    Object::sign(vpi, &body, &[device])
}

impl<'a> Admin<'a> {
    /// Who belongs, over what the node holds.
    pub(super) fn membership(&self) -> &'a Membership {
        self.set.membership()
    }

    pub(super) fn may(&self, capability: Capabilities) -> Result<(), AdminError> {
        let may = self.membership().may(&self.key.public(), capability);
        if may { Ok(()) } else { Err(AdminError::NotAllowed) }
    }

    /// Signs the end of `targets`, before it what spares everybody else, behind it the next epoch.
    fn end(&self, rng: &mut Rng, targets: Vec<(Target, Reason)>) -> Result<Signed, AdminError> {
        let is_pardoned = |target: &Target| {
            self.membership().charter().is_some_and(|charter| charter.pardons.contains(target))
        };
        if targets.first().is_some_and(|(target, _)| is_pardoned(target)) {
            return Err(AdminError::Pardoned);
        }
        let (targets, supposed, after) = self.foresee(targets);
        let mut chain = Links::of(self)?;
        chain.add_confirms(supposed.confirmed.into_keys().collect())?;
        // The target last: a use that it frees must find the invite revoked.
        for (target, reason) in targets.into_iter().rev() {
            chain.add_remove(target, reason)?;
        }
        // Where no number is left, a removal is worth more than the epoch that it cannot have.
        let number = next_number(&after).filter(|_| self.may(Capabilities::EPOCH).is_ok());
        let epoch = number.map(|number| chain.add_epoch(rng, number, &after)).transpose()?;
        Ok(Signed { objects: chain.objects, epoch })
    }

    /// Who belongs once the chains of all who removed something are complete.
    fn standing(&self) -> Cow<'_, Membership> {
        let removed = self.membership().removals.pending();
        if removed.is_empty() {
            return Cow::Borrowed(self.membership());
        }
        Cow::Owned(reduce_supposing(self.set, &Supposed { removed, ..Supposed::default() }))
    }

    /// What the end of `targets` leads to, and what else it takes. A use that it frees must let nobody in who found the
    /// invite used up: such an invite is one more target. Who would lose its place is confirmed; that may take another's.
    fn foresee(&self, mut targets: Vec<(Target, Reason)>) -> (Vec<(Target, Reason)>, Supposed, Membership) {
        let before = self.standing();
        let mut supposed = Supposed { removed: self.membership().removals.pending(), ..Supposed::default() };
        supposed.removed.extend(targets.iter().map(|(target, _)| *target));
        loop {
            let after = reduce_supposing(self.set, &supposed);
            let was_in =
                |membership: &Membership, member: &Member| membership.member(&member.device).is_some();
            let came_in = after
                .members()
                .filter(|member| !was_in(self.membership(), member) && !was_in(&before, member))
                .filter_map(|member| self.set.get(&member.join?));
            let freed: BTreeSet<Target> = came_in
                .filter_map(|object| match object.body() {
                    Body::Join(join) => Some(Target::Invite(join.invite_id)),
                    _ => None,
                })
                .filter(|invite| !supposed.removed.contains(invite))
                .collect();
            let is_lost = |member: &&Member| {
                !was_in(&after, member) && !supposed.removed.contains(&Target::Device(member.device))
            };
            let lost: BTreeSet<ObjectId> = before
                .members()
                .filter(is_lost)
                .filter_map(|member| member.join)
                .filter(|join| !supposed.confirmed.contains_key(join))
                .collect();
            if freed.is_empty() && lost.is_empty() {
                return (targets, supposed, after);
            }
            targets.extend(freed.iter().map(|invite| (*invite, Reason::Revoked)));
            supposed.removed.extend(freed);
            supposed.confirmed.extend(lost.into_iter().map(|join| (join, self.wall_secs)));
        }
    }
}

/// The number of the epoch behind the one in force; `None` behind the last.
fn next_number(membership: &Membership) -> Option<u64> {
    let number = membership.epoch().map_or(0, |epoch| epoch.number + 1);
    (number <= MAX_COUNT).then_some(number)
}

/// The next objects of an admin's chain.
struct Links<'a> {
    key: &'a SigningSecret,
    vpi: VpiId,
    time: u64,
    next: (u64, ObjectId),
    objects: Vec<Object>,
}

impl<'a> Links<'a> {
    fn of(admin: &Admin<'a>) -> Result<Self, AdminError> {
        let next = admin.membership().next_link(&admin.key.public()).ok_or(AdminError::Chain)?;
        let vpi = *admin.membership().vpi();
        Ok(Self { key: admin.key, vpi, time: admin.wall_secs, next, objects: Vec::new() })
    }

    fn add(&mut self, body: &Body) -> Result<(), AdminError> {
        let object = Object::sign(&self.vpi, body, &[self.key])?;
        self.next = (self.next.0 + 1, object.id());
        self.objects.push(object);
        Ok(())
    }

    /// Adds as few Confirms as hold `joins`.
    fn add_confirms(&mut self, joins: BTreeSet<ObjectId>) -> Result<(), AdminError> {
        let joins: Vec<ObjectId> = joins.into_iter().collect();
        joins.chunks(MAX_CONFIRMED).try_for_each(|joins| {
            self.add(&Body::Confirm(Confirm {
                admin: self.key.public(),
                seq: self.next.0,
                previous: self.next.1,
                time: self.time,
                joins: joins.to_vec(),
                extensions: Extensions::default(),
            }))
        })
    }

    fn add_remove(&mut self, target: Target, reason: Reason) -> Result<(), AdminError> {
        self.add(&Body::Remove(Remove {
            signer: self.key.public(),
            link: Some(self.next),
            time: self.time,
            target,
            reason,
            extensions: Extensions::default(),
        }))
    }

    /// Adds the epoch with this number and the removed set of `after`.
    fn add_epoch(
        &mut self,
        rng: &mut Rng,
        number: u64,
        after: &Membership,
    ) -> Result<EpochSecret, AdminError> {
        let secret = Secret(random::bytes(rng));
        self.add(&Body::Epoch(Epoch {
            admin: self.key.public(),
            seq: self.next.0,
            previous: self.next.1,
            time: self.time,
            number,
            secret_hash: secret_hash(&secret),
            removed_digest: *after.removed_digest(),
            extensions: Extensions::default(),
        }))?;
        Ok(EpochSecret::new(self.vpi, number, secret))
    }
}
