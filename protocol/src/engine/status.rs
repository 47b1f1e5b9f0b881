//! What a user is shown of a VPI.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::Engine;
use super::peer::{Peer, Reach};
use crate::alias::assign::preferred_suffix;
use crate::identity::{DeviceId, InviteId, VpiId};
use crate::membership::object::{Kind, Object, Target};
use crate::membership::{Alarm, InviteState, Waiting};
use crate::path::Remote;

/// One VPI, as this node sees it.
#[derive(Clone, Debug)]
pub struct Status {
    /// The VPI.
    pub id: VpiId,
    /// Its name, as its charter gives it; `None` while the charter is not known.
    pub name: Option<String>,
    /// The own alias.
    pub alias: Ipv4Addr,
    /// The newest epoch's number.
    pub epoch: u64,
    /// Every member, this node first, then by name; then the devices that wait.
    pub members: Vec<MemberStatus>,
    /// What a user should be told.
    pub alarms: Vec<Alarm>,
    /// A member that says that this device was removed, and has not answered it since: its word alone.
    pub told_removed_by: Option<DeviceId>,
}

/// What an engine did since it started, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Handshakes of this node's that were answered.
    pub initiated: u64,
    /// Handshakes of members that this node answered.
    pub answered: u64,
    /// Sessions with live keys.
    pub sessions: u64,
}

/// How a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// This node.
    Myself,
    /// It asked to join, and nobody admitted it yet.
    Joining,
    /// It asked to join, and others were before it.
    Contested,
    /// No link, and none was wanted.
    Idle,
    /// A handshake is under way, or the two ends bring their objects together.
    Connecting,
    /// A link, without a relay.
    Direct,
    /// A link by way of another member.
    Relayed,
    /// A link by way of a beacon that carries.
    Carried,
    /// The last handshake had no answer.
    Unreachable,
    /// It was a member, and was removed or left.
    Removed,
}

/// One invite, as an admin is shown it.
#[derive(Clone, Debug)]
pub struct InviteStatus {
    /// Its id.
    pub id: InviteId,
    /// The name that the joiner is asked to take.
    pub name: Option<String>,
    /// The admin who made it.
    pub admin: DeviceId,
    /// How many joins it lets in.
    pub uses: u64,
    /// How many more it lets in.
    pub uses_left: u64,
    /// Its end, in unix seconds.
    pub not_after: u64,
    /// An admin took it back.
    pub is_revoked: bool,
    /// A witness would still admit by it, uses apart.
    pub is_live: bool,
    /// The only device that may use it.
    pub bound_device: Option<DeviceId>,
}

/// One member.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// Its device key.
    pub device: DeviceId,
    /// Its alias on this machine.
    pub alias: Option<Ipv4Addr>,
    /// The alias is the one that it has on most machines.
    pub alias_usual: bool,
    /// How it stands.
    pub state: MemberState,
    /// The far end that is used.
    pub remote: Option<Remote>,
    /// The member that passes datagrams on, if one does.
    pub via: Option<DeviceId>,
    /// The round trip last measured.
    pub rtt: Option<Duration>,
    /// Bytes of its data datagrams.
    pub received_bytes: u64,
    /// Bytes of data datagrams to it.
    pub sent_bytes: u64,
    /// When it was last heard, in unix seconds.
    pub last_seen_secs: Option<u64>,
}

impl Engine {
    /// What a user is shown.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let membership = self.roster.membership();
        let own = self.config.device.public();
        let mut members: Vec<MemberStatus> = membership
            .members()
            .map(|member| self.member_status(member.device, &member.name, now))
            .chain(
                membership.all_waiting().map(|(device, waiting)| self.waiting_status(*device, waiting, now)),
            )
            .chain(self.removed(now))
            .collect();
        members.sort_by(|a, b| (a.device != own, &a.name).cmp(&(b.device != own, &b.name)));
        Status {
            id: self.config.vpi,
            name: membership.charter().map(|charter| charter.name.clone()),
            alias: self.aliases.own(),
            epoch: self.epoch(),
            members,
            alarms: membership.alarms().cloned().collect(),
            told_removed_by: self.told_removed_by(),
        }
    }

    /// What was done since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let sessions = self.peers.values().map(|peer| peer.sessions.iter().count() as u64).sum();
        Counters { sessions, ..self.counters }
    }

    /// Says whether this device is still joining.
    #[must_use]
    pub fn is_joining(&self) -> bool {
        self.joining.is_some()
    }

    /// The objects that belong in the log: all but Presences, and the word of leaving. What was stored and is not among
    /// them counts no more.
    pub fn lasting_objects(&self) -> impl Iterator<Item = &Object> {
        let lasting = self.roster.objects().iter().filter(|object| object.kind() != Kind::Presence);
        lasting.chain(self.farewell_word())
    }

    /// Bytes of these together, or a little more.
    #[must_use]
    pub fn lasting_bytes(&self) -> u64 {
        self.roster.objects().bytes() as u64
    }

    /// The newest epoch's number.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.roster.newest_epoch().map_or(0, crate::membership::epoch::EpochSecret::number)
    }

    /// Whether what this node had at its start was, or may have been, older than what it once had.
    #[must_use]
    pub fn went_back(&self) -> bool {
        self.went_back
    }

    /// The version of the charter in force; 0 also while there is none.
    #[must_use]
    pub fn charter_version(&self) -> u64 {
        self.roster.membership().charter_version()
    }

    /// Every invite whose admin is in force, by its end.
    #[must_use]
    pub fn invites(&self, wall_secs: u64) -> Vec<InviteStatus> {
        let membership = self.roster.membership();
        let shown = |state: &InviteState| {
            let invite = state.invite();
            let is_revoked = membership.is_revoked(&invite.invite_id);
            InviteStatus {
                id: invite.invite_id,
                name: invite.name.clone(),
                admin: invite.admin,
                uses: invite.max_uses,
                uses_left: state.uses_left(),
                not_after: invite.not_after,
                is_revoked,
                is_live: !is_revoked && state.is_live(wall_secs),
                bound_device: invite.bound_device,
            }
        };
        let mut invites: Vec<_> = membership.invites().map(shown).collect();
        invites.sort_by_key(|invite| (invite.not_after, invite.id));
        invites
    }

    /// This device.
    #[must_use]
    pub fn own_device(&self) -> DeviceId {
        self.config.device.public()
    }

    /// Says whether this device was a member and is none any more.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.is_removed
    }

    /// A member that says that this device was removed, and has not answered it since.
    #[must_use]
    pub fn told_removed_by(&self) -> Option<DeviceId> {
        self.peers.iter().find(|(_, peer)| peer.reach == Reach::Denied).map(|(device, _)| *device)
    }

    /// Devices that were removed and whose alias is still kept.
    fn removed(&self, now: Instant) -> impl Iterator<Item = MemberStatus> {
        let (own, membership) = (self.config.device.public(), self.roster.membership());
        let devices = membership.removed().filter_map(|target| match target {
            Target::Device(device) => Some(*device),
            Target::Invite(_) => None,
        });
        let is_shown = move |device: &DeviceId| *device == own || self.aliases.alias_of(device).is_some();
        devices.filter(is_shown).map(move |device| {
            let joined = self.roster.objects().joins_of(&device).next().map(|(_, join)| join.name.clone());
            let name = joined.unwrap_or_else(|| device.short());
            MemberStatus { state: MemberState::Removed, ..self.member_status(device, &name, now) }
        })
    }

    /// How a member stands; `None` for who is none.
    #[must_use]
    pub fn member_state(&self, device: &DeviceId, now: Instant) -> Option<MemberState> {
        let member = self.roster.membership().member(device)?;
        Some(self.member_status(*device, &member.name, now).state)
    }

    /// The members' devices and names, this node's included.
    pub fn names(&self) -> impl Iterator<Item = (DeviceId, &str)> {
        self.roster.membership().members().map(|member| (member.device, member.name.as_str()))
    }

    /// The member whose alias this is; this node's included.
    #[must_use]
    pub fn member_at(&self, alias: Ipv4Addr) -> Option<DeviceId> {
        let device = if alias == self.aliases.own() {
            self.config.device.public()
        } else {
            self.aliases.device_at(alias)?
        };
        self.roster.membership().member(&device).map(|member| member.device)
    }

    fn member_status(&self, device: DeviceId, name: &str, now: Instant) -> MemberStatus {
        let is_own = device == self.config.device.public();
        let alias = if is_own { Some(self.aliases.own()) } else { self.aliases.alias_of(&device) };
        let usual = preferred_suffix(&self.config.vpi, &device, 0).to_be_bytes();
        let blank = MemberStatus {
            name: name.to_owned(),
            device,
            alias,
            alias_usual: alias.is_some_and(|alias| alias.octets()[2..] == usual),
            state: if is_own { MemberState::Myself } else { MemberState::Idle },
            remote: None,
            via: None,
            rtt: None,
            received_bytes: 0,
            sent_bytes: 0,
            last_seen_secs: None,
        };
        let Some(peer) = self.peers.get(&device) else { return blank };
        MemberStatus {
            state: peer.state(now),
            remote: peer.path.remote(),
            via: self.via(peer),
            rtt: peer.path.rtt(),
            received_bytes: peer.traffic.received_bytes(),
            sent_bytes: peer.traffic.sent_bytes(),
            last_seen_secs: peer.last_seen_secs,
            ..blank
        }
    }

    fn waiting_status(&self, device: DeviceId, waiting: Waiting, now: Instant) -> MemberStatus {
        let state = match waiting {
            Waiting::Joining => MemberState::Joining,
            Waiting::Contested => MemberState::Contested,
        };
        MemberStatus { state, ..self.member_status(device, &device.short(), now) }
    }
}

impl Peer {
    fn state(&self, now: Instant) -> MemberState {
        if let Some(route) = self.wanted_route(now) {
            match route.remote {
                Remote::Relayed { .. } => MemberState::Relayed,
                Remote::Carried(_) => MemberState::Carried,
                Remote::Udp(_) | Remote::Side { .. } | Remote::Circuit(_) => MemberState::Direct,
            }
        } else if self.attempt.is_some() || self.sessions.current(now).is_some() {
            MemberState::Connecting
        } else {
            match self.reach {
                Reach::Unreachable | Reach::Denied => MemberState::Unreachable,
                Reach::Unknown => MemberState::Idle,
            }
        }
    }
}
