//! `vpi leave`: tells the other members, forgets the VPI, takes it off this machine.

use clap::Args;

use super::{Context, machine, node, output};
use crate::control::{
    Exit, Failure,
    protocol::{Reply, Request},
    sentence,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The VPI: its name here, or its id.
    vpi: String,
}

/// Lets the node leave, then removes what the machine has of the VPI.
pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<Exit> {
    machine::require_root("leave")?;
    machine::meet_node(context)?;
    let Reply::Left(left) = node::ask(context, &Request::Leave { vpi: arguments.vpi })? else {
        return Err(node::unexpected());
    };
    machine::clear(context, &left.plan).map_err(|error| {
        let message = format!("{} is left, but is still on this machine: {}", left.vpi, sentence(&error));
        Failure::new(Exit::Failed, message, "`vpi doctor --fix` as root takes it off")
    })?;
    if context.json {
        let facts = serde_json::json!({ "vpi": left.vpi, "told": left.told, "removed": [left.plan.device] });
        output::json(&facts)?;
    } else {
        let told = match left.told {
            None => "other members had removed this device".to_owned(),
            Some(0) => "no member could be told; an admin can `vpi remove` this device".to_owned(),
            Some(1) => "one member knows, and tells the others".to_owned(),
            Some(many) => format!("{many} members know"),
        };
        output::line(&format!(
            "left {}: its keys and objects are removed from this machine; {told}",
            left.vpi
        ))?;
    }
    Ok(Exit::Done)
}
