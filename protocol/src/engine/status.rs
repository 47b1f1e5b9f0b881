//! What a user is shown of a VPI.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::Engine;
use super::peer::{Peer, Reach};
use crate::alias::assign::preferred_suffix;
use crate::identity::{DeviceId, VpiId};
use crate::membership::{Alarm, Waiting};

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
    /// The last handshake had no answer.
    Unreachable,
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
    /// The address that is used.
    pub remote: Option<SocketAddr>,
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
            .collect();
        members.sort_by(|a, b| (a.device != own, &a.name).cmp(&(b.device != own, &b.name)));
        Status {
            id: self.config.vpi,
            name: membership.charter().map(|charter| charter.name.clone()),
            alias: self.aliases.own(),
            epoch: self.epoch(),
            members,
            alarms: membership.alarms().cloned().collect(),
        }
    }

    /// What was done since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let sessions = self.peers.values().map(|peer| peer.sessions.iter().count() as u64).sum();
        Counters { sessions, ..self.counters }
    }

    /// The newest epoch's number.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.roster.newest_epoch().map_or(0, crate::membership::epoch::EpochSecret::number)
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
            rtt: None,
            received_bytes: 0,
            sent_bytes: 0,
            last_seen_secs: None,
        };
        let Some(peer) = self.peers.get(&device) else { return blank };
        MemberStatus {
            state: peer.state(now),
            remote: peer.path.remote(),
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
        if self.wanted_route(now).is_some() {
            MemberState::Direct
        } else if self.attempt.is_some() || self.sessions.current(now).is_some() {
            MemberState::Connecting
        } else if self.reach == Reach::Unreachable {
            MemberState::Unreachable
        } else {
            MemberState::Idle
        }
    }
}
