//! `vpi why`: what was tried to reach a member, in the order of finding, and one sentence about it.

use std::time::{Duration, Instant};

use protocol::engine::{Engine, LookedUp, MemberState, MemberStatus, Status, Step};
use protocol::forward::{Outcome, Service};
use protocol::identity::{DeviceId, VpiId};
use protocol::path::Remote;

use super::cause::{Facts, Udp, by, name, of_nat};
use super::node::Node;
use super::status::{carried_by, of_path, of_state};
use super::vpi::Vpi;
use crate::control::status::PathStatus;
use crate::control::why::{Nats, Refused, Tried, Why};
use crate::control::{Exit, Failure};

impl Node {
    /// What was tried to reach the member that was typed, and what keeps it from being reached.
    ///
    /// # Errors
    /// If there is no such member.
    pub(super) fn why(&self, typed: &str) -> Result<Why, Failure> {
        let resolved = self.resolve_member(typed);
        let (id, device, member) = resolved.or_else(|failure| self.former(typed).ok_or(failure))?;
        let missing =
            || Failure::new(Exit::NotFound, format!("there is no member called {typed}"), "see `vpi status`");
        let vpi = self.vpis.get(&id).ok_or_else(missing)?;
        let now = Instant::now();
        let known = vpi.engine.status(now);
        let found = known.members.iter().find(|member| member.device == device).ok_or_else(missing)?;
        let (trail, outcomes) = (vpi.engine.trail(&device, now), vpi.engine.outcomes(&device, now));
        let way = vpi.engine.way_to(&device);
        let nat = vpi.engine.surroundings().nat;
        let carrier = found.remote.and_then(|remote| carried_by(vpi, remote));
        let name_of = |device: &DeviceId| known.members.iter().find(|member| member.device == *device);
        let relay = found.via.as_ref().and_then(name_of).map(|relay| relay.name.clone());
        let facts = Facts {
            member: &member,
            vpi: &vpi.settings.name,
            state: found.state,
            via: relay.or_else(|| carrier.clone()).unwrap_or_default(),
            removed_here: removed_here(vpi, &known),
            has_network: !self.watch.addresses().is_empty(),
            clock_ahead_secs: vpi.way.clock_ahead_secs(),
            other_ahead_secs: vpi.engine.clock_ahead_secs(now),
            has_beacons: !vpi.way.status().is_empty(),
            has_beacon: vpi.way.is_answered(),
            udp: udp(&vpi.engine),
            nat,
            way,
            lacks_carrier: vpi.engine.lacks_carrier(&device),
            outcomes: &outcomes,
            trail: &trail,
        };
        let (cause, advice) = facts.judge();
        Ok(Why {
            state: of_state(found.state),
            path: found
                .remote
                .map(|remote| PathStatus { via: carrier, ..of_path(remote, found.rtt, vpi.settings.port) }),
            cause,
            packet_bytes: (way.packet_bytes > 0).then_some(way.packet_bytes),
            nats: Nats { own: of_nat(nat).to_owned(), theirs: of_nat(way.nat).to_owned() },
            refused: outcomes.iter().map(|refused| of_refused(*refused)).collect(),
            steps: trail.into_iter().map(|(ago, step)| tried(ago, step, &known)).collect(),
            advice,
            member,
        })
    }

    /// A device that was a member and was removed, by the name that it had.
    fn former(&self, typed: &str) -> Option<(VpiId, DeviceId, String)> {
        let now = Instant::now();
        self.vpis.iter().find_map(|(id, vpi)| {
            let vpi_name = &vpi.settings.name;
            let name = typed.strip_suffix(vpi_name.as_str()).and_then(|name| name.strip_suffix('.'));
            let name = name.unwrap_or(typed);
            let members = vpi.engine.status(now).members;
            let is_it = |member: &&MemberStatus| {
                let is_at = member.alias.is_some_and(|alias| alias.to_string() == typed);
                member.state == MemberState::Removed && (member.name == name || is_at)
            };
            let found = members.iter().find(is_it)?;
            Some((*id, found.device, format!("{}.{vpi_name}", found.name)))
        })
    }
}

/// Who says that this device was removed, if anybody does: how a sentence begins.
fn removed_here(vpi: &Vpi, known: &Status) -> Option<String> {
    if vpi.engine.is_removed() {
        return Some("an admin signed that".to_owned());
    }
    let by = vpi.engine.told_removed_by()?;
    let name = known.members.iter().find(|member| member.device == by);
    Some(format!("{} says that", name.map_or("a member", |member| &member.name)))
}

/// Whether UDP passes at this end, by the servers asked last.
fn udp(engine: &Engine) -> Udp {
    let known = engine.surroundings();
    if !known.seen.is_empty() {
        Udp::Passes
    } else if known.is_asking || known.asked.is_empty() {
        Udp::Unknown
    } else {
        Udp::Blocked
    }
}

fn of_refused((ago, service, outcome): (Duration, Service, Outcome)) -> Refused {
    Refused { service: name(service), by: by(outcome).to_owned(), ago_s: seconds(ago) }
}

fn seconds(ago: Duration) -> f64 {
    (ago.as_secs_f64() * 1e3).round() / 1e3
}

fn tried(ago: Duration, step: Step, known: &Status) -> Tried {
    let name = |device: DeviceId| {
        let mut members = known.members.iter();
        members
            .find(|member| member.device == device)
            .map_or("a former member", |member| member.name.as_str())
    };
    let (word, text) = match step {
        Step::Called { remotes: 0, .. } => ("called", "wanted, with no address to call".to_owned()),
        Step::Called { remotes: 1, attempt } => {
            ("called", format!("called at the one address known{}", again(attempt)))
        }
        Step::Called { remotes, attempt } => {
            ("called", format!("called at {remotes} addresses{}", again(attempt)))
        }
        Step::Neighbour => ("neighbour", "it announced itself on this network".to_owned()),
        Step::SearchedLan => ("searched_lan", "asked for on this network".to_owned()),
        Step::Told => ("told", "another member told where it is".to_owned()),
        Step::LookedUp { answered: 0, .. } => {
            ("looked_up", "looked up in the DHT: no beacon answered".to_owned())
        }
        Step::LookedUp { answered, outcome } => {
            let what = match outcome {
                LookedUp::Nothing => "nothing of it",
                LookedUp::Known => "what was known already",
                LookedUp::News => "where it is now",
            };
            ("looked_up", format!("looked up in the DHT: {answered} beacons answered, with {what}"))
        }
        Step::CircuitAsked => ("circuit_asked", "asked its beacon for a way to it".to_owned()),
        Step::CircuitEnded => ("circuit_ended", "that way ended, or did not come to be".to_owned()),
        Step::RelayAsked(relay) => ("relay_asked", format!("asked {} to pass on to it", name(relay))),
        Step::RelayRefused(relay) => {
            ("relay_refused", format!("{} does not pass on to it, or has no link with it", name(relay)))
        }
        Step::CarryAsked => ("carry_asked", "asked a beacon to carry packets".to_owned()),
        Step::NoneCarries => ("none_carries", "no beacon that answered carries packets".to_owned()),
        Step::CarryEnded => ("carry_ended", "what carried packets ended, or did not come to be".to_owned()),
        Step::Up(remote) => ("up", format!("answered {}", at(remote))),
        Step::Moved(remote) => ("moved", format!("a better path was found: {}", at(remote))),
        Step::Down => ("down", "the link ended".to_owned()),
        Step::GaveUp => ("gave_up", "nobody answered".to_owned()),
    };
    Tried { ago_s: seconds(ago), step: word.to_owned(), text }
}

fn again(attempt: u32) -> String {
    if attempt == 0 { String::new() } else { format!(", attempt {}", attempt + 1) }
}

fn at(remote: Remote) -> String {
    match remote {
        Remote::Udp(address) | Remote::Side { address, .. } => format!("at {address}"),
        Remote::Relayed { via, .. } => format!("by way of the member at {via}"),
        Remote::Circuit(_) => "by way of its beacon".to_owned(),
        Remote::Carried(_) => "by way of a beacon that carries packets".to_owned(),
    }
}
