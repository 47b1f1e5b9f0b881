//! `vpi ping`: the round trip to a member through the tunnel's own probe.

use clap::Args;
use serde::Serialize;

use super::{Context, node, output};
use crate::control::{
    Exit, Failure,
    protocol::{Pong, Reply, Request},
    status::PathKind,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The member: `name.VPI`, a name if only one VPI is joined, or an alias.
    member: String,
    /// How many probes, one a second.
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
}

/// The promised JSON of `ping`; the times are absent when nothing came back.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    member: String,
    sent: u32,
    received: u32,
    rtt_ms: Option<Times>,
    path: Option<PathKind>,
    #[serde(skip)]
    sum_ms: f64,
}

/// Round trips in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Times {
    min: f64,
    mean: f64,
    max: f64,
}

/// Probes the member and prints a line for each probe, then the summary.
pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<Exit> {
    let mut summary = Summary::new(arguments.member.clone());
    let request = Request::Ping { member: arguments.member, count: arguments.count };
    let last = node::ask_while(context, &request, |reply| match reply {
        Reply::Pong(pong) => {
            summary.add(&pong);
            if context.json { Ok(()) } else { output::line(&describe(&pong)) }
        }
        Reply::Progress(text) => {
            output::note(&text);
            Ok(())
        }
        _ => Ok(()),
    })?;
    if last != Reply::Done {
        return Err(node::unexpected());
    }
    if context.json {
        output::json(&summary)?;
    } else {
        output::line(&summary.describe())?;
    }
    if summary.received == 0 {
        let message = format!("{} does not answer", summary.member);
        return Err(Failure::new(Exit::Unreachable, message, "see its state in `vpi status`").into());
    }
    Ok(Exit::Done)
}

fn describe(pong: &Pong) -> String {
    match (pong.rtt_ms, pong.path) {
        (None, _) => format!("{}: no answer", pong.member),
        (Some(rtt_ms), None) => format!("{}: {rtt_ms:.2} ms", pong.member),
        (Some(rtt_ms), Some(path)) => format!("{}: {rtt_ms:.2} ms  {path}", pong.member),
    }
}

impl Summary {
    /// Nothing sent yet.
    pub(crate) fn new(member: String) -> Self {
        Self { member, sent: 0, received: 0, rtt_ms: None, path: None, sum_ms: 0.0 }
    }

    /// Counts one probe.
    pub(crate) fn add(&mut self, pong: &Pong) {
        self.member.clone_from(&pong.member);
        self.sent += 1;
        let Some(rtt_ms) = pong.rtt_ms else { return };
        self.received += 1;
        self.path = pong.path.or(self.path);
        self.sum_ms += rtt_ms;
        let mean = self.sum_ms / f64::from(self.received);
        let former = self.rtt_ms.unwrap_or(Times { min: rtt_ms, mean, max: rtt_ms });
        self.rtt_ms = Some(Times { min: former.min.min(rtt_ms), mean, max: former.max.max(rtt_ms) });
    }

    fn describe(&self) -> String {
        let counts = format!("{} sent, {} answered", self.sent, self.received);
        match self.rtt_ms {
            None => counts,
            Some(Times { min, mean, max }) => {
                format!("{counts}, min/mean/max {min:.2}/{mean:.2}/{max:.2} ms")
            }
        }
    }
}
