//! `vpi status`: what the engines know, in the shape that node/README promises.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use protocol::engine::{self, MemberState};
use protocol::identity::VpiId;

use super::node::Node;
use super::vpi::Vpi;
use crate::control::Failure;
use crate::control::status::{self, MemberStatus, PathKind, PathStatus, Status, Time, VpiStatus};

impl Node {
    /// The status of one VPI or of all.
    ///
    /// # Errors
    /// If there is no such VPI.
    pub(super) fn status(&self, vpi: Option<&str>, drops: bool) -> Result<Status, Failure> {
        let chosen = vpi.map(|vpi| self.resolve_vpi(vpi)).transpose()?;
        let is_shown = |id: &VpiId| !self.joins.contains_key(id) && chosen.is_none_or(|chosen| *id == chosen);
        let mut vpis: Vec<VpiStatus> =
            self.vpis.iter().filter(|(id, _)| is_shown(id)).map(|(_, vpi)| of_vpi(vpi, drops)).collect();
        vpis.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Status { version: env!("CARGO_PKG_VERSION").to_owned(), vpis })
    }
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
        beacons: Vec::new(),
        members: known.members.iter().filter_map(|member| of_member(member, vpi.settings.port)).collect(),
        drops: drops.then(|| vpi.drops.snapshot()),
    }
}

fn of_member(member: &engine::MemberStatus, port: u16) -> Option<MemberStatus> {
    let path = member.remote.map(|remote| PathStatus {
        kind: PathKind::Host,
        local: local_address_towards(remote, port),
        remote: remote.to_string(),
        via: None,
        rtt_ms: member.rtt.map(milliseconds),
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

/// A round trip in milliseconds, exact to the microsecond: more digits would be noise.
pub(super) fn milliseconds(rtt: Duration) -> f64 {
    rtt.as_micros() as f64 / 1_000.0
}

fn of_state(state: MemberState) -> status::MemberState {
    match state {
        MemberState::Myself => status::MemberState::Own,
        MemberState::Joining => status::MemberState::Joining,
        MemberState::Contested => status::MemberState::Contested,
        MemberState::Idle => status::MemberState::Idle,
        MemberState::Connecting => status::MemberState::Connecting,
        MemberState::Direct => status::MemberState::Direct,
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
