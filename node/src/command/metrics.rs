//! `vpi metrics`: counters and gauges as Prometheus text.

use clap::Args;

use super::{Context, node, output};
use crate::control::{
    Exit,
    protocol::{Reply, Request},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {}

/// Asks and prints.
pub(crate) fn run(context: &Context, _: &Arguments) -> anyhow::Result<Exit> {
    let Reply::Metrics(families) = node::ask(context, &Request::Metrics)? else {
        return Err(node::unexpected());
    };
    if context.json {
        output::json(&families)?;
    } else {
        let text: String = families.iter().map(ToString::to_string).collect();
        output::line(text.trim_end())?;
    }
    Ok(Exit::Done)
}
