//! What this node signs for others to obey: invites, removals, revocations, epochs; and its own leaving.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::news::Origin;
use super::outbox::{Event, Ticket};
use super::peer::Peer;
use super::roster::Roster;
use super::witness::Acknowledgement;
use super::{Config, Engine, InviteRequest, Removal, Time};
use crate::identity::{DeviceId, InviteId, ObjectId};
use crate::membership::admin::{self, Admin, AdminError};
use crate::membership::founding::{self, Addresses};
use crate::membership::object::{Kind, Object};
use crate::membership::token::{MAX_ADDRESSES, Token};
use crate::random::Rng;

/// How long a device that leaves waits for a member to have its word.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// A device that leaves, and waits until somebody knows.
#[derive(Debug)]
pub(super) struct Leaving {
    ticket: Ticket,
    /// Its word; not in the set, where it would end the very links that carry it.
    object: Object,
    told: u32,
    until: Instant,
}

impl Engine {
    /// Makes an invite, and the token around it.
    pub(super) fn make_invite(
        &mut self,
        request: &InviteRequest,
        time: Time,
    ) -> Result<Box<Token>, AdminError> {
        self.check_settled(request.offline)?;
        let members = self.token_addresses(&request.members, time);
        let addresses = Addresses { members: &members, beacons: &request.beacons };
        let epoch = self.roster.newest_epoch().ok_or(AdminError::Chain)?;
        let admin = at_work(&self.config, &self.roster, time);
        let token = founding::invite(&mut self.rng, &admin, epoch, &request.wish, addresses)?;
        let taken = self.roster.insert([token.invite_object().clone()]);
        self.keep_own_lobby(token.invite().invite_id, time);
        self.on_news(taken, Origin::Own, time);
        self.find(time);
        Ok(Box::new(token))
    }

    /// The addresses that a token names: this device's, but not alone where others can let the joiner in as well.
    fn token_addresses(&self, own: &[SocketAddr], time: Time) -> Vec<SocketAddr> {
        let linked = |peer: &&Peer| peer.sessions.current(time.now).is_some();
        let (near, far): (Vec<&Peer>, Vec<&Peer>) = self.peers.values().partition(linked);
        let others = near.into_iter().chain(far).filter_map(|peer| peer.path.candidates().next());
        let others: Vec<SocketAddr> = others.filter(|address| !own.contains(address)).collect();
        let first = own.len().min(MAX_ADDRESSES.saturating_sub(others.len().min(MAX_ADDRESSES / 2)));
        let (first, rest) = own.split_at(first);
        first.iter().copied().chain(others).chain(rest.iter().copied()).take(MAX_ADDRESSES).collect()
    }

    /// Removes a member; its sessions end in this very step.
    pub(super) fn remove(&mut self, removal: &Removal, time: Time) -> Result<(), AdminError> {
        let Removal { target, reason, offline } = removal;
        self.sign(*offline, |rng, admin| admin::remove(rng, admin, target, *reason), time)
    }

    /// Takes an invite back.
    pub(super) fn revoke(
        &mut self,
        (invite, offline): (InviteId, bool),
        time: Time,
    ) -> Result<(), AdminError> {
        self.sign(offline, |rng, admin| admin::revoke(rng, admin, &invite), time)
    }

    /// Signs what `make` makes, if this admin's history is known to be whole, or need not be: `offline`.
    pub(super) fn sign(
        &mut self,
        offline: bool,
        make: impl FnOnce(&mut Rng, &Admin<'_>) -> Result<admin::Signed, AdminError>,
        time: Time,
    ) -> Result<(), AdminError> {
        self.check_settled(offline)?;
        let admin = at_work(&self.config, &self.roster, time);
        let signed = make(&mut self.rng, &admin)?;
        self.carry_out(signed, time);
        Ok(())
    }

    /// Stores what was signed, the secret before the object that names it, and acts on it.
    fn carry_out(&mut self, signed: admin::Signed, time: Time) {
        let admin::Signed { objects, epoch } = signed;
        if objects.is_empty() {
            return;
        }
        let taken = self.roster.insert(objects);
        if let Some(epoch) = epoch {
            self.roster.add_epoch(epoch.clone());
            self.store(Vec::new(), vec![epoch]);
            self.end_epochs();
        }
        self.on_news(taken, Origin::Own, time);
    }

    /// A disk that went back would make this admin sign a second history (README §9).
    fn check_settled(&self, offline: bool) -> Result<(), AdminError> {
        let is_alone = self.began_alone || self.peers.is_empty();
        let may_sign = offline || self.has_settled || (is_alone && !self.went_back);
        if may_sign { Ok(()) } else { Err(AdminError::Unsettled) }
    }

    /// Says that this device leaves; who hears it tells the others.
    pub(super) fn leave(&mut self, ticket: Ticket, time: Time) -> Result<(), AdminError> {
        let object = admin::leave(self.roster.objects(), &self.config.device, time.wall_secs())?;
        let until = time.now + LEAVE_WITHIN;
        self.store(vec![object.clone()], Vec::new());
        self.leaving = Some(Leaving { ticket, object, told: 0, until });
        self.acknowledge(Acknowledgement::Farewell, time);
        Ok(())
    }

    /// The word of leaving is on disk: members are told, those without a link too.
    pub(super) fn say_farewell(&mut self, time: Time) {
        let Some(news) = self.farewell() else { return };
        let devices: Vec<DeviceId> = self.peers.keys().copied().collect();
        for device in &devices {
            if self.peers.get(device).is_some_and(|peer| peer.sessions.current(time.now).is_none()) {
                self.wake(device, time);
            }
        }
        self.tell(&[news], None, time);
        if devices.is_empty() {
            self.end_farewell(time);
        }
    }

    /// The word of leaving, while it waits for somebody to hear it; it is not in the set.
    pub(super) fn farewell_word(&self) -> Option<&Object> {
        self.leaving.as_ref().map(|leaving| &leaving.object)
    }

    /// Its kind and id.
    fn farewell(&self) -> Option<(Kind, ObjectId)> {
        self.farewell_word().map(|object| (object.kind(), object.id()))
    }

    /// A link came up: whoever leaves says so.
    pub(super) fn say_farewell_to(&mut self, device: &DeviceId, time: Time) {
        let Some((kind, id)) = self.farewell() else { return };
        if let Some(peer) = self.peers.get_mut(device) {
            peer.news.add(kind as u8, id, time.now);
        }
    }

    /// The word of leaving, if it is the object that is asked for.
    pub(super) fn farewell_object(&self, id: &ObjectId) -> Option<&Object> {
        self.farewell_word().filter(|object| object.id() == *id)
    }

    /// A member has what it was told of: of a device that leaves, one is enough.
    pub(super) fn on_told(&mut self, ids: &[ObjectId], time: Time) {
        let Some(leaving) = &mut self.leaving else { return };
        if ids.contains(&leaving.object.id()) {
            leaving.told += 1;
            self.end_farewell(time);
        }
    }

    /// When a farewell ends, whoever has heard it.
    pub(super) fn leaving_at(&self) -> Option<Instant> {
        self.leaving.as_ref().map(|leaving| leaving.until)
    }

    /// Ends a farewell that took too long.
    pub(super) fn leave_in_time(&mut self, time: Time) {
        if self.leaving_at().is_some_and(|until| time.now >= until) {
            self.end_farewell(time);
        }
    }

    pub(super) fn end_farewell(&mut self, time: Time) {
        let Some(leaving) = self.leaving.take() else { return };
        self.close_all(time);
        self.fall_silent(time);
        self.out.events.push_back(Event::Left { ticket: leaving.ticket, outcome: Ok(leaving.told) });
    }
}

/// This node as an admin at work.
fn at_work<'a>(config: &'a Config, roster: &'a Roster, time: Time) -> Admin<'a> {
    Admin { key: &config.device, set: roster.objects(), wall_secs: time.wall_secs() }
}
