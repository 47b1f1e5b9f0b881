//! `vpi remove`: takes a member out of a VPI, for ever.

use clap::Args;

use super::{Context, node, output};
use crate::control::{
    Exit,
    members::{Reason, Remove},
    protocol::{Reply, Request},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The VPI: its name here, or its id.
    vpi: String,
    /// The member: its name, an alias, or its device key.
    member: String,
    /// Why, for the other members to see.
    #[arg(long, value_enum, default_value_t)]
    reason: Reason,
    /// Sign although no other member could be asked what happened meanwhile.
    #[arg(long)]
    offline: bool,
}

/// Lets the node sign the removal.
pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { vpi, member, reason, offline } = arguments;
    let request = Request::Remove(Remove { vpi, member, reason, offline });
    let Reply::Removed(removed) = node::ask(context, &request)? else { return Err(node::unexpected()) };
    if context.json {
        output::json(&removed)?;
    } else {
        output::line(&format!(
            "removed {} from {}: members that are connected know at once, the others when they meet one that does",
            removed.member, removed.vpi
        ))?;
    }
    Ok(Exit::Done)
}
