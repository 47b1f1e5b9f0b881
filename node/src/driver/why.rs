//! `vpi why`: what was tried to reach a member, in the order of finding, and one sentence about it.

use std::time::{Duration, Instant};

use protocol::engine::{LookedUp, MemberState, MemberStatus, Status, Step};
use protocol::identity::DeviceId;
use protocol::path::Remote;

use super::node::Node;
use super::status::{carried_by, of_path, of_state};
use super::vpi::Vpi;
use crate::control::status::PathStatus;
use crate::control::why::{Tried, Why};
use crate::control::{Exit, Failure};

/// What is older says nothing of how things stand.
const LATELY: Duration = Duration::from_secs(300);

impl Node {
    /// What was tried to reach the member that was typed.
    ///
    /// # Errors
    /// If there is no such member.
    pub(super) fn why(&self, typed: &str) -> Result<Why, Failure> {
        let (id, device, member) = self.resolve_member(typed)?;
        let missing =
            || Failure::new(Exit::NotFound, format!("there is no member called {typed}"), "see `vpi status`");
        let vpi = self.vpis.get(&id).ok_or_else(missing)?;
        let now = Instant::now();
        let known = vpi.engine.status(now);
        let found = known.members.iter().find(|member| member.device == device).ok_or_else(missing)?;
        let trail = vpi.engine.trail(&device, now);
        Ok(Why {
            advice: advice(vpi, (&member, found), &trail),
            member,
            state: of_state(found.state),
            path: found.remote.map(|remote| PathStatus {
                via: carried_by(vpi, remote),
                ..of_path(remote, found.rtt, vpi.settings.port)
            }),
            steps: trail.into_iter().map(|(ago, step)| tried(ago, step, &known)).collect(),
        })
    }
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
        Step::Up(remote) => ("up", format!("answered {}", by(remote))),
        Step::Moved(remote) => ("moved", format!("a better path was found: {}", by(remote))),
        Step::Down => ("down", "the link ended".to_owned()),
        Step::GaveUp => ("gave_up", "nobody answered".to_owned()),
    };
    Tried { ago_s: (ago.as_secs_f64() * 1e3).round() / 1e3, step: word.to_owned(), text }
}

fn again(attempt: u32) -> String {
    if attempt == 0 { String::new() } else { format!(", attempt {}", attempt + 1) }
}

fn by(remote: Remote) -> String {
    match remote {
        Remote::Udp(address) | Remote::Side { address, .. } => format!("at {address}"),
        Remote::Relayed { via, .. } => format!("by way of the member at {via}"),
        Remote::Circuit(_) => "by way of its beacon".to_owned(),
        Remote::Carried(_) => "by way of a beacon that carries packets".to_owned(),
    }
}

/// What the steps mean, and what would help.
fn advice(vpi: &Vpi, (member, found): (&str, &MemberStatus), trail: &[(Duration, Step)]) -> String {
    let lately = || trail.iter().filter(|(ago, _)| *ago <= LATELY).map(|(_, step)| step);
    let has = |wanted: fn(&Step) -> bool| lately().any(wanted);
    let has_beacons = !vpi.way.status().is_empty();
    match found.state {
        MemberState::Myself => return "this is the device that you are at".to_owned(),
        MemberState::Direct => return format!("{member} is connected"),
        MemberState::Relayed => {
            return format!(
                "{member} is connected by way of another member, and a direct path is looked for: an --endpoint at one end, or a \
                 NAT that keeps its ports, would give one"
            );
        }
        MemberState::Carried => {
            let beacon = found.remote.and_then(|remote| carried_by(vpi, remote)).unwrap_or_default();
            return format!(
                "{member} is carried by the beacon {beacon}, slowly, as UDP passes on no path that was tried: a network that lets \
                 UDP out at both ends would give a direct one"
            );
        }
        MemberState::Removed => return format!("{member} is no member any more"),
        MemberState::Joining | MemberState::Contested => {
            return format!("{member} is not admitted yet: see `vpi status`");
        }
        MemberState::Idle => {
            return format!("nobody wants a link with {member}: `vpi ping {member}` makes one");
        }
        MemberState::Connecting | MemberState::Unreachable => {}
    }
    if vpi.engine.lacks_carrier(&found.device) {
        return format!(
            "{member} answers by way of its beacon, UDP passes on no path to it, and no beacon that is known carries packets: a \
              beacon that runs with --carry, or a network that lets UDP out, helps"
        );
    }
    let has_pipe = has(|step| matches!(step, Step::Up(Remote::Circuit(_))));
    if has_pipe && has(|step| matches!(step, Step::RelayAsked(_))) {
        return format!(
            "{member} answers by way of its beacon, no direct path to it was found yet, and no member that was asked passes on to it: \
             one with a public address that both reach, or an --endpoint at one of them, helps"
        );
    }
    if has_pipe {
        return format!(
            "{member} answers by way of its beacon, and no direct path to it was found yet: both ends' NATs keep changing the \
             port, or a firewall drops UDP; a member that both reach, or an --endpoint at one of them, helps"
        );
    }
    if has(|step| matches!(step, Step::LookedUp { answered: 0, .. })) {
        return "no beacon answers: see that this machine has a network and may reach them over TCP (`vpi status --json`, beacons)"
            .to_owned();
    }
    if has(|step| matches!(step, Step::LookedUp { outcome: LookedUp::Known | LookedUp::News, .. })) {
        return format!(
            "{member} was found, and does not answer: it is off, or was until shortly; see that its node runs"
        );
    }
    if has(|step| matches!(step, Step::LookedUp { .. })) {
        return format!("{member} tells beacons nothing: its node does not run, or reaches none of them");
    }
    if !has_beacons {
        return format!(
            "{member} does not answer where it was last, and no beacon is known that could tell where it is: see that its node runs, \
             and name a beacon (`beacons` in the settings file)"
        );
    }
    format!("{member} does not answer where it was last: see that its node runs")
}
