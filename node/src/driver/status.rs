//! `vpi status`: what the engines know, in the shape that node/README promises.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use protocol::engine::{self, MemberState};
use protocol::identity::VpiId;
use protocol::membership::Alarm;
use protocol::path::Remote;

use super::node::Node;
use super::vpi::Vpi;
use crate::control::Failure;
use crate::control::status::{self, MemberStatus, PathKind, PathStatus, Status, Time, VpiStatus};
use crate::store::aside;
use crate::swarm::BeaconStatus;

impl Node {
    /// The status of one VPI or of all.
    ///
    /// # Errors
    /// If there is no such VPI.
    pub(super) fn status(&self, vpi: Option<&str>, drops: bool) -> Result<Status, Failure> {
        let chosen = vpi.map(|vpi| self.resolve_vpi(vpi)).transpose()?;
        let shown = self.entered().filter(|(id, _)| chosen.is_none_or(|chosen| **id == chosen));
        let of =
            |(id, vpi): (&VpiId, &Vpi)| VpiStatus { notices: self.notices(id, vpi), ..of_vpi(vpi, drops) };
        let mut vpis: Vec<VpiStatus> = shown.map(of).collect();
        vpis.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Status { version: env!("CARGO_PKG_VERSION").to_owned(), vpis })
    }

    /// What a user should be told about a VPI.
    fn notices(&self, id: &VpiId, vpi: &Vpi) -> Vec<String> {
        let mut notices = Vec::new();
        // What cannot be read is told by the command that needs it.
        if self.state.keys().recovery(id).is_ok_and(|key| key.is_some()) {
            let name = &vpi.settings.name;
            notices.push(format!("the recovery phrase was never shown: run `vpi create {name}` again"));
        }
        if vpi.engine.is_removed() {
            let name = &vpi.settings.name;
            notices.push(format!(
                "this device was removed from {name}: `vpi leave {name}` clears what is left of it"
            ));
        }
        if let Some(member) = vpi.engine.told_removed_by() {
            let (name, member) = (&vpi.settings.name, self.label(id, &member));
            notices.push(format!(
                "{member} says that this device was removed from {name}: if others do not answer either, ask an \
                 admin, or clear what is left with `vpi leave {name}`"
            ));
        }
        if vpi.engine.went_back() {
            let name = &vpi.settings.name;
            notices.push(format!(
                "the records of {name} on this disk were damaged, or older than they once were, when the node started: \
                 what members know comes back by itself; until one of them was met, an admin here signs only with \
                 --offline"
            ));
        }
        let dir = self.state.dir();
        notices.extend(vpi.settings.mistake(dir).map(|mistake| {
            format!(
                "{mistake}; it is left as it is, and the settings of the last start are in force: mend it, then start \
                 the node again"
            )
        }));
        let aside = aside::of_vpi(dir, id).into_iter().chain(aside::of_node(dir));
        notices.extend(aside.map(|aside| format!("{}; {}", aside.what(), aside.advice())));
        notices.extend(clock_notice(vpi));
        let alarms = vpi.engine.status(Instant::now()).alarms;
        notices.extend(alarms.iter().map(|alarm| self.describe_alarm(id, alarm)));
        notices
    }

    fn describe_alarm(&self, vpi: &VpiId, alarm: &Alarm) -> String {
        let name = |device| self.member_label(vpi, device).unwrap_or_else(|| device.short());
        match alarm {
            Alarm::CharterRivals { version } => {
                format!(
                    "the roots signed two charters of version {version}; ask the founder which one is meant"
                )
            }
            Alarm::ChainForked { admin, .. } => {
                format!("{} signed two histories; what it allowed since is void", name(admin))
            }
            Alarm::InviteTwice { invite } => {
                format!("two invites have the id {}; one of them is void", invite.short())
            }
            Alarm::Contested { invite, device } => format!(
                "invite {} had more takers than uses; {} was too late: someone else may have the token",
                invite.short(),
                name(device)
            ),
            Alarm::RekeyConflict { device } => format!("{} signed two keys for one moment", name(device)),
            Alarm::SameName { device, name } => {
                format!("the device {} wanted a name that another member has; it is {name}", device.short())
            }
        }
    }
}

/// What is wrong with this machine's clock or another's, as far as it can be seen.
fn clock_notice(vpi: &Vpi) -> Option<String> {
    let super::Time { now, wall_ms } = super::time();
    if let Some(behind) = vpi.engine.clock_behind_secs(wall_ms / 1_000) {
        return Some(format!("this machine's clock is {behind} s behind what an admin signed: set it"));
    }
    let ahead = vpi.engine.clock_ahead_secs(now)?;
    let (secs, way) = (ahead.unsigned_abs(), if ahead < 0 { "behind" } else { "ahead of" });
    Some(format!(
        "a member's clock is {secs} s {way} this machine's: set whichever is wrong; members more than 120 s apart do not connect"
    ))
}

fn of_vpi(vpi: &Vpi, drops: bool) -> VpiStatus {
    let known = vpi.engine.status(Instant::now());
    VpiStatus {
        name: vpi.settings.name.clone(),
        id: known.id.to_string(),
        alias: known.alias,
        prefix: format!("{}/16", vpi.settings.prefix),
        device: vpi.settings.device.clone(),
        port: vpi.settings.port,
        epoch: known.epoch,
        beacons: vpi.way.status().iter().map(of_beacon).collect(),
        members: known.members.iter().filter_map(|member| of_member(member, &known, vpi)).collect(),
        policy: vpi.settings.policy,
        notices: Vec::new(),
        drops: drops.then(|| vpi.drops.snapshot()),
    }
}

/// How a beacon does, for a person.
pub(super) fn of_beacon(beacon: &BeaconStatus) -> status::BeaconStatus {
    status::BeaconStatus {
        address: beacon.beacon.to_string(),
        state: beacon.state.to_string(),
        rtt_ms: beacon.rtt.map(milliseconds),
    }
}

fn of_member(member: &engine::MemberStatus, all: &engine::Status, vpi: &Vpi) -> Option<MemberStatus> {
    let via = all.members.iter().find(|other| Some(other.device) == member.via);
    let path = member.remote.map(|remote| PathStatus {
        via: via.map(|via| via.name.clone()).or_else(|| carried_by(vpi, remote)),
        ..of_path(remote, member.rtt, vpi.settings.port)
    });
    Some(MemberStatus {
        name: member.name.clone(),
        id: member.device.to_string(),
        alias: member.alias?,
        alias_usual: member.alias_usual,
        state: of_state(member.state),
        path,
        rx_bytes: member.received_bytes,
        tx_bytes: member.sent_bytes,
        last_seen: member.last_seen_secs.map(Time::from_unix),
    })
}

/// The beacon that carries, if one does.
pub(super) fn carried_by(vpi: &Vpi, remote: Remote) -> Option<String> {
    let Remote::Carried(number) = remote else { return None };
    vpi.way.beacon_of(number).map(|beacon| beacon.to_string())
}

pub(super) fn of_path(remote: Remote, rtt: Option<Duration>, port: u16) -> PathStatus {
    let (kind, outside) = match remote {
        Remote::Udp(address) | Remote::Side { address, .. } => (PathKind::Host, Some(address)),
        Remote::Relayed { via, .. } => (PathKind::Relayed, Some(via)),
        Remote::Carried(_) => (PathKind::Carried, None),
        Remote::Circuit(_) => (PathKind::Tcp, None),
    };
    PathStatus {
        kind,
        local: outside.map_or_else(String::new, |outside| local_address_towards(outside, port)),
        remote: remote.to_string(),
        via: None,
        rtt_ms: rtt.map(milliseconds),
    }
}

/// A round trip in milliseconds, exact to the microsecond: more digits would be noise.
pub(super) fn milliseconds(rtt: Duration) -> f64 {
    rtt.as_micros() as f64 / 1_000.0
}

pub(super) fn of_state(state: MemberState) -> status::MemberState {
    match state {
        MemberState::Myself => status::MemberState::Own,
        MemberState::Joining => status::MemberState::Joining,
        MemberState::Contested => status::MemberState::Contested,
        MemberState::Idle => status::MemberState::Idle,
        MemberState::Connecting => status::MemberState::Connecting,
        MemberState::Direct => status::MemberState::Direct,
        MemberState::Relayed => status::MemberState::Relayed,
        MemberState::Carried => status::MemberState::Carried,
        MemberState::Unreachable => status::MemberState::Unreachable,
        MemberState::Removed => status::MemberState::Removed,
    }
}

/// The address from which this machine sends to `remote`, as its routes stand; nothing is sent.
fn local_address_towards(remote: SocketAddr, port: u16) -> String {
    let any: SocketAddr = if remote.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let local = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(remote)?;
        socket.local_addr()
    });
    local.map_or_else(|_| format!("*:{port}"), |local| SocketAddr::new(local.ip(), port).to_string())
}
