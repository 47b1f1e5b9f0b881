//! `vpi netcheck`: what stands between this machine and the internet, as one VPI's engine learnt it.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use protocol::engine::{Command, Engine, MemberState};
use protocol::path::nat::{Mapping, Nat};
use protocol::path::portmap::{Outcome, Tried, Way};
use protocol::wire::address::is_public;

use super::node::Node;
use super::status::of_beacon;
use super::time;
use super::vpi::Vpi;
use crate::control::netcheck::{
    Ipv6Report, MappingReport, NatReport, Netcheck, StunReport, StunServer, TriedProtocol,
};
use crate::control::{Exit, Failure};
use crate::swarm::{BeaconState, BeaconStatus};

/// Below as many sightings a mapping is not judged (protocol/README §14).
const ENOUGH_SERVERS: usize = 3;

impl Node {
    /// What is known of this machine's place in the network, by the VPI that was typed or the first; `looks`: servers and gateway
    /// are asked once more, unless they just were.
    ///
    /// # Errors
    /// If there is no such VPI, or none.
    pub(super) fn netcheck(&mut self, typed: Option<&str>, looks: bool) -> Result<Netcheck, Failure> {
        let id = match typed {
            Some(typed) => self.resolve_vpi(typed)?,
            None => self.entered().map(|(id, _)| *id).next().ok_or_else(|| {
                let message = "this node is in no VPI yet, and has no socket to look through";
                Failure::new(Exit::NotFound, message, "`vpi create NAME` or `vpi join`, then try again")
            })?,
        };
        let addresses = self.watch.addresses();
        let vpi = self
            .vpis
            .get_mut(&id)
            .ok_or_else(|| Failure::new(Exit::NotFound, "the node has no such VPI", "see `vpi status`"))?;
        if looks {
            vpi.engine.handle_command(Command::LookAround, time());
        }
        Ok(report(vpi, addresses, Instant::now()))
    }
}

fn report(vpi: &Vpi, addresses: Vec<IpAddr>, now: Instant) -> Netcheck {
    let engine = &vpi.engine;
    let stun = stun(engine, now);
    let port_mapping = port_mapping(engine, now);
    let seen_by_v6 = |server: &StunServer| server.observed.is_some_and(|observed| observed.is_ipv6());
    let status = engine.status(now);
    let members = status.members.iter().filter(|member| member.state == MemberState::Direct);
    let reached: Vec<SocketAddr> = members.filter_map(|member| member.remote?.udp()).collect();
    let udp = udp(&stun, engine.surroundings().is_asking, &reached);
    let mut netcheck = Netcheck {
        vpi: vpi.settings.name.clone(),
        port: vpi.settings.port,
        nat: nat(engine.surroundings().nat, udp, port_mapping.outside),
        ipv6: Ipv6Report {
            has_address: addresses.iter().any(is_global_v6),
            is_seen: stun.servers.iter().any(seen_by_v6),
        },
        addresses,
        stun,
        port_mapping,
        beacons: vpi.way.status().iter().map(of_beacon).collect(),
        is_settled: !engine.surroundings().is_asking
            && !engine.portmap().is_asking()
            && !vpi.way.awaits_stun(),
        advice: String::new(),
    };
    let answers =
        |beacon: &BeaconStatus| matches!(beacon.state, BeaconState::Answers | BeaconState::Reserved);
    netcheck.advice = advice(&netcheck, vpi.way.status().iter().any(answers));
    netcheck
}

fn is_global_v6(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        // RFC 4291 §2.4, RFC 4193.
        IpAddr::V6(ip) => ip.segments()[0] & 0xe000 == 0x2000,
    }
}

fn stun(engine: &Engine, now: Instant) -> StunReport {
    let known = engine.surroundings();
    let server = |server: &SocketAddr| {
        let seen = known.seen.iter().find(|sighting| sighting.server == *server);
        StunServer { server: *server, observed: seen.map(|sighting| sighting.observed) }
    };
    StunReport {
        ago_s: known.asked_at.map(|at| seconds(now, at)),
        servers: known.asked.iter().map(server).collect(),
    }
}

fn port_mapping(engine: &Engine, now: Instant) -> MappingReport {
    let portmap = engine.portmap();
    let tried = |tried: &Tried| {
        let (outcome, text) = match tried.outcome {
            Outcome::Mapped { outside, lease } if is_public(IpAddr::V4(*outside.ip())) => {
                let is_useless = portmap.outside() == Some(outside.into()) && engine.mapped().is_none();
                let but = if is_useless {
                    ", but servers see this machine elsewhere: it is behind another NAT"
                } else {
                    ""
                };
                ("mapped", format!("maps {outside} for {} s{but}", lease.as_secs()))
            }
            Outcome::Mapped { outside, .. } => {
                ("refused", format!("would map {outside}, which is no address of the internet"))
            }
            Outcome::Refused(code) => ("refused", refusal(tried.way, code)),
            Outcome::Silent => ("silent", "no answer".to_owned()),
        };
        let (protocol, outcome) = (name(tried.way).to_owned(), outcome.to_owned());
        TriedProtocol { protocol, outcome, text, ago_s: seconds(now, tried.at) }
    };
    MappingReport {
        gateway: portmap.gateway().map(|gateway| gateway.address),
        outside: engine.mapped(),
        lease_s: portmap.held().map(|(_, ends_at)| -seconds(now, ends_at)).filter(|left| *left > 0.0),
        tried: portmap.tried().iter().map(tried).collect(),
    }
}

fn name(way: Way) -> &'static str {
    match way {
        Way::Pcp => "PCP",
        Way::NatPmp => "NAT-PMP",
        Way::Upnp => "UPnP",
    }
}

/// What a number of a protocol means, of those that a person can do something about (RFC 6887 §7.4, RFC 6886 §3.5,
/// WANIPConnection:2 §2.5.18).
fn refusal(way: Way, code: u16) -> String {
    match (way, code) {
        (Way::Pcp | Way::NatPmp, 1) => "refused: it does not speak that version".to_owned(),
        (Way::Pcp | Way::NatPmp, 2) | (Way::Upnp, 606) => "refused: its settings forbid it".to_owned(),
        (Way::Pcp, 7) | (Way::NatPmp, 3) => "refused: it has no network itself".to_owned(),
        (Way::Pcp, 8) | (Way::NatPmp, 4) | (Way::Upnp, 728) => "refused: it has no port left".to_owned(),
        (Way::Upnp, 725) => {
            "refused: it maps for ever only, and nothing would end what a killed node leaves".to_owned()
        }
        (_, code) => format!("refused, with code {code}"),
    }
}

/// Seconds since `at`, to the millisecond; below zero if it is still to come.
fn seconds(now: Instant, at: Instant) -> f64 {
    let since =
        now.saturating_duration_since(at).as_secs_f64() - at.saturating_duration_since(now).as_secs_f64();
    (since * 1e3).round() / 1e3
}

/// What becomes of datagrams that go out: STUN servers say so, and members that are reached. Who is reached on networks of this
/// machine's own says nothing of others, but that datagrams pass.
fn udp(stun: &StunReport, is_asking: bool, reached: &[SocketAddr]) -> &'static str {
    let is_outside = |at: &SocketAddr| is_public(at.ip()) || is_global_v6(&at.ip().to_canonical());
    let is_answered = stun.servers.iter().any(|server| server.observed.is_some());
    if is_answered || reached.iter().any(is_outside) {
        "passes"
    } else if stun.servers.is_empty() || is_asking || !reached.is_empty() {
        "unknown"
    } else {
        "blocked"
    }
}

fn nat(known: Option<Nat>, udp: &str, mapped: Option<SocketAddr>) -> NatReport {
    // What was learnt elsewhere is forgotten there; what is known of a network that passes nothing any more is old.
    let known = known.filter(|_| udp != "blocked");
    let mapping = match known.map(|nat| nat.mapping) {
        None => "unknown",
        Some(Mapping::None) => "none",
        Some(Mapping::EndpointIndependent) => "endpoint-independent",
        Some(Mapping::AddressDependent) => "address-dependent",
        Some(Mapping::AddressAndPortDependent { .. }) => "address-and-port-dependent",
    };
    let ports = match known {
        None => "unknown",
        Some(Nat { preserves_port: true, .. }) => "preserved",
        Some(nat) if nat.step().is_some() => "sequential",
        Some(_) => "other",
    };
    let filtering = match mapping {
        "none" => "none",
        _ if mapped.is_some() => "endpoint-independent",
        _ => "unknown",
    };
    let [mapping, filtering, ports, udp] = [mapping, filtering, ports, udp].map(str::to_owned);
    NatReport { mapping, filtering, ports, udp }
}

/// What that means, and what would help.
fn advice(known: &Netcheck, has_beacon: bool) -> String {
    let Netcheck { port, nat, stun, port_mapping, .. } = known;
    let forward = format!(
        "have the router map ports (PCP, NAT-PMP or UPnP), or forward UDP port {port} to this machine and name that with --endpoint"
    );
    if known.addresses.is_empty() {
        return "this machine is on no network: connect it".to_owned();
    }
    if nat.udp == "blocked" && has_beacon {
        return "this network lets TCP through and drops UDP: packets pass only where a beacon carries them, slowly; have it allow \
                UDP, or use another network"
            .to_owned();
    }
    if nat.udp == "blocked" {
        return "neither STUN servers nor beacons answer: see that this machine reaches the internet"
            .to_owned();
    }
    if let Some(outside) = port_mapping.outside {
        return format!(
            "the gateway lets everybody in at {outside}: members reach this machine first and directly"
        );
    }
    let answers = stun.servers.iter().filter(|server| server.observed.is_some()).count();
    match nat.mapping.as_str() {
        "none" => format!(
            "there is no NAT: members reach this machine directly, as long as no firewall here drops UDP to port {port}"
        ),
        "endpoint-independent" => format!(
            "this NAT shows everybody the same port, so that direct paths are found to nearly all members; for those behind NATs that \
             do not, {forward}"
        ),
        "address-and-port-dependent" if nat.ports == "sequential" => format!(
            "this NAT gives out another port for each target, one after the other: they are foretold, and direct paths found to all but \
             those whose NATs do so at random; to be reached first, {forward}"
        ),
        "address-dependent" | "address-and-port-dependent" => format!(
            "this NAT gives out another port for each target: a direct path is found to members whose NATs do not, by trying many ports, \
             and to others a fellow member passes on; {forward}"
        ),
        _ if stun.servers.is_empty() && !has_beacon => {
            "no STUN server is known, so that nobody says how this machine looks from outside: name beacons (`beacons`) or STUN servers \
             (`stun`) in the settings file"
                .to_owned()
        }
        _ if answers == 0 && nat.udp != "unknown" => {
            "no STUN server answers, though datagrams pass: name others (`beacons` or `stun` in the settings file), which would say how \
             this machine looks from outside"
                .to_owned()
        }
        _ if answers == 0 => {
            "no STUN server answers, and no member outside of this network is reached: see that this machine reaches the internet by \
             UDP, or name other servers (`beacons` or `stun` in the settings file)"
                .to_owned()
        }
        _ => format!(
            "{answers} servers said how this machine looks from outside, and it takes {ENOUGH_SERVERS} at two addresses to know the NAT: \
             name more beacons (`beacons`) or STUN servers (`stun`) in the settings file"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(observed: Option<SocketAddr>) -> StunReport {
        let server = StunServer { server: "192.0.2.7:3478".parse().unwrap(), observed };
        StunReport { ago_s: Some(8.0), servers: vec![server] }
    }

    #[test]
    fn a_network_is_said_to_drop_udp_only_if_nobody_at_all_is_reached_by_it() {
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let silent = asked(None);
        assert_eq!(udp(&silent, false, &[]), "blocked");
        assert_eq!(udp(&silent, true, &[]), "unknown", "it may still answer");
        assert_eq!(udp(&silent, false, &[at("192.168.1.9:41414")]), "unknown", "beside this machine");
        for outside in ["11.0.1.2:41414", "[2001:db8::1]:41414", "[::ffff:11.0.1.2]:1"] {
            assert_eq!(udp(&silent, false, &[at("192.168.1.9:1"), at(outside)]), "passes", "{outside}");
        }
        assert_eq!(udp(&asked(Some(at("198.51.100.7:1"))), false, &[]), "passes");
        let nobody = StunReport { ago_s: None, servers: Vec::new() };
        assert_eq!(udp(&nobody, false, &[]), "unknown");
    }

    #[test]
    fn where_no_server_answers_the_advice_does_not_say_more_than_is_known() {
        let said = |udp: &str, has_beacon: bool| {
            let known = Netcheck {
                vpi: "home".to_owned(),
                port: 41_414,
                addresses: vec!["192.168.1.2".parse().unwrap()],
                nat: nat(None, udp, None),
                stun: asked(None),
                port_mapping: MappingReport {
                    gateway: None,
                    outside: None,
                    lease_s: None,
                    tried: Vec::new(),
                },
                ipv6: Ipv6Report { has_address: false, is_seen: false },
                beacons: Vec::new(),
                is_settled: true,
                advice: String::new(),
            };
            advice(&known, has_beacon)
        };
        assert!(said("blocked", true).contains("drops UDP: packets pass only where a beacon carries them"));
        assert!(said("blocked", false).contains("neither STUN servers nor beacons answer"));
        assert!(said("passes", true).starts_with("no STUN server answers, though datagrams pass"));
        assert!(said("unknown", true).starts_with("no STUN server answers, and no member outside"));
    }
}
