//! `vpi metrics`: what the node counted and measured.

use std::time::Instant;

use protocol::engine::{self, MemberState};

use super::node::Node;
use super::vpi::Vpi;
use crate::metrics::{Family, Kind};

/// *Chosen*: members of one VPI with samples of their own. Those that stand first have them: this keeps the answer under
/// 4 MiB, and whoever collects it from keeping more series than there are devices to look at.
const MEMBERS_MAX: usize = 1_000;

const STATES: [(MemberState, &str); 10] = [
    (MemberState::Myself, "self"),
    (MemberState::Joining, "joining"),
    (MemberState::Contested, "contested"),
    (MemberState::Idle, "idle"),
    (MemberState::Connecting, "connecting"),
    (MemberState::Direct, "direct"),
    (MemberState::Relayed, "relayed"),
    (MemberState::Carried, "carried"),
    (MemberState::Unreachable, "unreachable"),
    (MemberState::Removed, "removed"),
];

impl Node {
    /// Everything that is counted and measured.
    pub(super) fn metrics(&self) -> Vec<Family> {
        let mut info = Family::new("vpi_build_info", Kind::Gauge, "The node's program; always 1.");
        info.add(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        let mut uptime = Family::new("vpi_uptime_seconds", Kind::Gauge, "Time since the node started.");
        uptime.add(&[], self.started_at.elapsed().as_secs_f64());
        let (mut vpis, mut members) = (OfVpis::new(), OfMembers::new());
        for (_, vpi) in self.entered() {
            vpis.add(vpi);
            members.add(vpi);
        }
        let vpis = [
            vpis.epoch,
            vpis.objects,
            vpis.members,
            vpis.sessions,
            vpis.handshakes,
            vpis.exposures,
            vpis.circuits,
            vpis.relayed,
            vpis.dropped,
        ];
        let members = [members.received, members.sent, members.rtt, members.last_seen];
        [info, uptime].into_iter().chain(vpis).chain(members).collect()
    }
}

/// Families with samples for each VPI.
struct OfVpis {
    epoch: Family,
    objects: Family,
    members: Family,
    sessions: Family,
    handshakes: Family,
    exposures: Family,
    circuits: Family,
    relayed: Family,
    dropped: Family,
}

impl OfVpis {
    fn new() -> Self {
        let gauge = |name, help| Family::new(name, Kind::Gauge, help);
        let counter = |name, help| Family::new(name, Kind::Counter, help);
        Self {
            epoch: gauge("vpi_epoch", "Number of the newest epoch."),
            objects: gauge("vpi_objects", "Signed objects on disk."),
            members: gauge("vpi_members", "Members by state, this node among them."),
            sessions: gauge("vpi_sessions", "Sessions with live keys, those of a rekey under way included."),
            handshakes: counter(
                "vpi_handshakes_total",
                "Handshakes that gave a session, by this node's role.",
            ),
            exposures: gauge("vpi_exposures", "Services on 127.0.0.1 that members may reach."),
            circuits: gauge("vpi_circuits", "Pairs of members that this node passes datagrams on between."),
            relayed: counter(
                "vpi_relayed_bytes_total",
                "Bytes of datagrams between other members, come and passed on.",
            ),
            dropped: counter("vpi_dropped_total", "Datagrams, packets and messages dropped, by reason."),
        }
    }

    fn add(&mut self, vpi: &Vpi) {
        let of_vpi = [("vpi", vpi.settings.name.as_str())];
        let (known, counters) = (vpi.engine.status(Instant::now()), vpi.engine.counters());
        self.epoch.add(&of_vpi, count(known.epoch));
        self.objects.add(&of_vpi, count(vpi.objects()));
        for (state, name) in STATES {
            let members = known.members.iter().filter(|member| member.state == state).count();
            self.members.add(&[of_vpi[0], ("state", name)], count(members as u64));
        }
        self.sessions.add(&of_vpi, count(counters.sessions));
        for (role, handshakes) in [("initiator", counters.initiated), ("responder", counters.answered)] {
            self.handshakes.add(&[of_vpi[0], ("role", role)], count(handshakes));
        }
        self.exposures.add(&of_vpi, count(vpi.settings.exposures.len() as u64));
        self.circuits.add(&of_vpi, count(vpi.engine.circuits() as u64));
        let relayed = vpi.engine.relayed();
        for (way, bytes) in [("in", relayed.received_bytes()), ("out", relayed.sent_bytes())] {
            self.relayed.add(&[of_vpi[0], ("direction", way)], count(bytes));
        }
        for (reason, drops) in vpi.drops.all() {
            self.dropped.add(&[of_vpi[0], ("reason", reason)], count(drops));
        }
    }
}

/// Families with samples for each other member.
struct OfMembers {
    received: Family,
    sent: Family,
    rtt: Family,
    last_seen: Family,
}

impl OfMembers {
    fn new() -> Self {
        let gauge = |name, help| Family::new(name, Kind::Gauge, help);
        let counter = |name, help| Family::new(name, Kind::Counter, help);
        Self {
            received: counter("vpi_member_received_bytes_total", "Bytes of data datagrams from the member."),
            sent: counter("vpi_member_sent_bytes_total", "Bytes of data datagrams to the member."),
            rtt: gauge("vpi_member_rtt_seconds", "Round trip to the member, as last measured."),
            last_seen: gauge("vpi_member_last_seen_timestamp_seconds", "When the member was last heard."),
        }
    }

    fn add(&mut self, vpi: &Vpi) {
        let known = vpi.engine.status(Instant::now());
        let others = known.members.iter().filter(|member| member.state != MemberState::Myself);
        others.take(MEMBERS_MAX).for_each(|member| self.add_member(&vpi.settings.name, member));
    }

    fn add_member(&mut self, vpi: &str, member: &engine::MemberStatus) {
        // Names may be equal for a while; a device key is one member's.
        let id = member.device.to_string();
        let labels = [("vpi", vpi), ("member", member.name.as_str()), ("id", id.as_str())];
        self.received.add(&labels, count(member.received_bytes));
        self.sent.add(&labels, count(member.sent_bytes));
        if let Some(rtt) = member.rtt {
            self.rtt.add(&labels, rtt.as_secs_f64());
        }
        if let Some(seconds) = member.last_seen_secs {
            self.last_seen.add(&labels, count(seconds));
        }
    }
}

/// Exact up to 2⁵³, which no counter here reaches.
fn count(number: u64) -> f64 {
    number as f64
}
