//! What a beacon counts, and how it is told (`vpi metrics` at its control socket).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::carry::Carried;
use crate::metrics::{Family, Kind};

/// One counter of a task beside the swarm.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub(super) fn count(&self) {
        // No order is implied: a counter says nothing about other memory.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the tasks beside the swarm count.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Binding requests that were answered.
    pub(super) stun_answered: Counter,
    /// Requests beyond a rate.
    pub(super) stun_limited: Counter,
    /// Datagrams that are no binding request.
    pub(super) stun_ignored: Counter,
    /// Streams of `/vpi/time/1` that were answered.
    pub(super) time_answered: Counter,
    /// What was carried between members.
    pub(super) carried: Arc<Carried>,
}

/// What the swarm's loop counts.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Records taken.
    pub(super) puts: u64,
    /// Records not taken, by reason.
    pub(super) refused_puts: BTreeMap<&'static str, u64>,
    /// Kademlia requests, by kind.
    pub(super) requests: BTreeMap<&'static str, u64>,
    /// Reservations given, renewals not among them.
    pub(super) reservations: u64,
    /// Reservations denied.
    pub(super) denied_reservations: u64,
    /// Circuits opened.
    pub(super) circuits: u64,
    /// Circuits that ended.
    pub(super) ended_circuits: u64,
    /// Circuits denied.
    pub(super) denied_circuits: u64,
    /// Dial-backs made.
    pub(super) dial_backs: u64,
    /// Peers that answered one and were kept out by their network's bound or a full bucket.
    pub(super) kept_out: u64,
}

/// What stands at the moment of asking.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// Connections that others opened.
    pub(super) inbound: usize,
    /// Connections that this beacon opened.
    pub(super) outbound: usize,
    /// Peers with a reservation.
    pub(super) reservations: usize,
    /// Beacons in the table.
    pub(super) table: usize,
    /// Records held.
    pub(super) records: usize,
    /// Bytes of their values.
    pub(super) record_bytes: u64,
    /// Records whose last change is not on disk yet.
    pub(super) unwritten: usize,
    /// Networks that they are charged to.
    pub(super) record_networks: usize,
    /// Memory of this process, in bytes.
    pub(super) resident_bytes: u64,
    /// Time since the start, in seconds.
    pub(super) uptime_s: f64,
}

/// Everything as Prometheus families.
pub(super) fn families(
    standing: Standing,
    counts: &Counts,
    refused_connections: &BTreeMap<&'static str, u64>,
    shared: &Shared,
) -> Vec<Family> {
    let mut all = gauges(standing);
    let by_reason = |name: &str, help: &str, label: &str, counts: &BTreeMap<&'static str, u64>| {
        let mut family = Family::new(name, Kind::Counter, help);
        counts.iter().for_each(|(reason, count)| family.add(&[(label, reason)], number(*count)));
        family
    };
    let counter = |name: &str, help: &str, count: u64| {
        let mut family = Family::new(name, Kind::Counter, help);
        family.add(&[], number(count));
        family
    };
    let mut circuits = Family::new("vpi_beacon_circuits", Kind::Gauge, "Circuits that are open.");
    circuits.add(&[], number(counts.circuits.saturating_sub(counts.ended_circuits)));
    let mut stun =
        Family::new("vpi_beacon_stun_total", Kind::Counter, "Datagrams at the STUN port, by outcome.");
    for (outcome, count) in [
        ("answered", &shared.stun_answered),
        ("limited", &shared.stun_limited),
        ("ignored", &shared.stun_ignored),
    ] {
        stun.add(&[("outcome", outcome)], number(count.get()));
    }
    all.extend(of_carried(&shared.carried));
    all.extend([
        circuits,
        counter("vpi_beacon_puts_total", "Records taken.", counts.puts),
        by_reason(
            "vpi_beacon_refused_puts_total",
            "Records not taken, by reason.",
            "reason",
            &counts.refused_puts,
        ),
        by_reason("vpi_beacon_requests_total", "Kademlia requests, by kind.", "kind", &counts.requests),
        by_reason(
            "vpi_beacon_refused_connections_total",
            "Connections refused or closed for others, by reason.",
            "reason",
            refused_connections,
        ),
        counter("vpi_beacon_reservations_total", "Reservations given.", counts.reservations),
        counter("vpi_beacon_denied_reservations_total", "Reservations denied.", counts.denied_reservations),
        counter("vpi_beacon_circuits_total", "Circuits opened.", counts.circuits),
        counter("vpi_beacon_denied_circuits_total", "Circuits denied.", counts.denied_circuits),
        counter(
            "vpi_beacon_dial_backs_total",
            "Peers dialled back before they came into the table.",
            counts.dial_backs,
        ),
        counter(
            "vpi_beacon_kept_out_total",
            "Peers that answered and found no place in the table.",
            counts.kept_out,
        ),
        stun,
        counter("vpi_beacon_time_total", "Times told.", shared.time_answered.get()),
    ]);
    all
}

/// What was carried between members.
fn of_carried(carried: &Carried) -> [Family; 5] {
    let family = |name: &str, kind: Kind, help: &str, count: &AtomicU64| {
        let mut family = Family::new(name, kind, help);
        family.add(&[], number(count.load(Ordering::Relaxed)));
        family
    };
    [
        family("vpi_beacon_carried_pairs", Kind::Gauge, "Pairs of streams that are joined.", &carried.pairs),
        family(
            "vpi_beacon_carry_waiting",
            Kind::Gauge,
            "Streams that wait for the other end.",
            &carried.waiting,
        ),
        family("vpi_beacon_carried_bytes_total", Kind::Counter, "Bytes of frames carried.", &carried.bytes),
        family(
            "vpi_beacon_carry_lost_total",
            Kind::Counter,
            "Frames lost, as they came faster than the rate.",
            &carried.lost,
        ),
        family(
            "vpi_beacon_carry_refused_total",
            Kind::Counter,
            "Streams refused, as there are enough or the day's bytes are used up.",
            &carried.refused,
        ),
    ]
}

fn gauges(standing: Standing) -> Vec<Family> {
    let gauge = |name: &str, help: &str, value: f64| {
        let mut family = Family::new(name, Kind::Gauge, help);
        family.add(&[], value);
        family
    };
    let size = |count: usize| number(count as u64);
    let mut info = Family::new("vpi_build_info", Kind::Gauge, "The beacon's program; always 1.");
    info.add(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let mut connections =
        Family::new("vpi_beacon_connections", Kind::Gauge, "Connections, by who opened them.");
    connections.add(&[("opened", "by_others")], size(standing.inbound));
    connections.add(&[("opened", "here")], size(standing.outbound));
    vec![
        info,
        gauge("vpi_uptime_seconds", "Time since the beacon started.", standing.uptime_s),
        connections,
        gauge("vpi_beacon_reservations", "Peers with a reservation.", size(standing.reservations)),
        gauge("vpi_beacon_table", "Other beacons in the table.", size(standing.table)),
        gauge("vpi_beacon_records", "Records held.", size(standing.records)),
        gauge("vpi_beacon_record_bytes", "Bytes of the records' values.", number(standing.record_bytes)),
        gauge(
            "vpi_beacon_unwritten_records",
            "Changes of records that are not on disk.",
            size(standing.unwritten),
        ),
        gauge(
            "vpi_beacon_record_networks",
            "Networks that records are charged to.",
            size(standing.record_networks),
        ),
        gauge("vpi_beacon_resident_bytes", "Memory of the process.", number(standing.resident_bytes)),
    ]
}

/// Exact up to 2⁵³, which no counter here reaches.
fn number(count: u64) -> f64 {
    count as f64
}
