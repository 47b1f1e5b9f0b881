//! `vpi why`: why a member is reached, or is not.

use clap::Args;

use super::{Context, node, output};
use crate::control::{
    Exit,
    protocol::{Reply, Request},
    status::MemberState,
    why::Why,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The member: `name.VPI`, a name if only one VPI is joined, or an alias.
    member: String,
}

/// Asks and prints; tells by the exit code whether the member is out of reach.
pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<Exit> {
    let Reply::Why(why) = node::ask(context, &Request::Why { member: arguments.member })? else {
        return Err(node::unexpected());
    };
    if context.json {
        output::json(&why)?;
    } else {
        for line in lines(&why) {
            output::line(&line)?;
        }
    }
    Ok(if why.state == MemberState::Unreachable { Exit::Unreachable } else { Exit::Done })
}

fn lines(why: &Why) -> Vec<String> {
    let path = why.path.as_ref().map(|path| format!(", {} {}", path.kind, path.remote)).unwrap_or_default();
    let mut lines = vec![format!("{}: {}{path}", why.member, why.state)];
    lines.extend(why.steps.iter().map(|tried| format!("  {:>9} ago  {}", ago(tried.ago_s), tried.text)));
    lines.extend(why.refused.iter().map(|refused| {
        let by = match refused.by.as_str() {
            "policy" => "refused by its policy",
            "firewall" => "rejected by a firewall there",
            "not_listening" => "nothing listens",
            _ => "no answer",
        };
        format!("  {:>9} ago  {}: {by}", ago(refused.ago_s), refused.service)
    }));
    lines.push(why.advice.clone());
    lines
}

/// A time that has passed, for a person.
pub(super) fn ago(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 60.0 => format!("{seconds:.1} s"),
        seconds if seconds < 3_600.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.0} h", seconds / 3_600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::why::{Cause, Nats, Tried};

    #[test]
    fn steps_stand_between_state_and_advice() {
        let step = |ago_s, text: &str| Tried { ago_s, step: "called".into(), text: text.into() };
        let why = Why {
            member: "nas.home".into(),
            state: MemberState::Unreachable,
            path: None,
            cause: Cause::PeerSilent,
            packet_bytes: None,
            nats: Nats { own: "random".into(), theirs: "unknown".into() },
            refused: Vec::new(),
            steps: vec![step(7_200.0, "called at 2 addresses"), step(3.25, "nobody answered")],
            advice: "see that its node runs".into(),
        };
        assert_eq!(
            lines(&why),
            [
                "nas.home: unreachable",
                "        2 h ago  called at 2 addresses",
                "      3.2 s ago  nobody answered",
                "see that its node runs"
            ]
        );
    }
}
