//! `vpi down`: takes devices, routes and guards off this machine. Membership stays.

use std::io;

use clap::Args;
use protocol::identity::VpiId;

use super::{Context, machine, node, output};
use crate::{
    control::{
        Exit, Failure,
        protocol::{Plan, Reply, Request},
    },
    store::settings::VpiSettings,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The VPI; all of them when left out.
    vpi: Option<String>,
}

/// Lets the node close the devices, if one is running, then removes them.
pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<Exit> {
    machine::require_root("down")?;
    let plans = match detach(context, arguments) {
        Err(error) if node::is_no_node(&error) => stored(context, arguments)?,
        plans => plans?,
    };
    // One that cannot be taken off does not keep the others on.
    let (mut gone, mut failed) = (Vec::new(), None);
    for plan in &plans {
        match machine::clear(context, plan) {
            Ok(()) => gone.push(plan.device.as_str()),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    machine::drop_names(context, &plans);
    tell(context, &gone)?;
    failed.map_or(Ok(Exit::Done), Err)
}

fn tell(context: &Context, gone: &[&str]) -> io::Result<()> {
    if context.json {
        return output::json(&serde_json::json!({ "removed": gone }));
    }
    if gone.is_empty() {
        return output::line("nothing was taken off");
    }
    gone.iter().try_for_each(|device| output::line(&format!("took {device} off this machine")))
}

fn detach(context: &Context, arguments: &Arguments) -> anyhow::Result<Vec<Plan>> {
    machine::meet_node(context)?;
    match node::ask(context, &Request::Detach { vpi: arguments.vpi.clone() })? {
        Reply::Detached(plans) => Ok(plans),
        _ => Err(node::unexpected()),
    }
}

/// What the state folder says, for when no node is there to ask.
fn stored(context: &Context, arguments: &Arguments) -> anyhow::Result<Vec<Plan>> {
    let mut vpis = VpiSettings::list(&context.door.state)?;
    if let Some(name) = &arguments.vpi {
        vpis.retain(|vpi| vpi.name == *name || VpiId::from_hex(name) == Some(vpi.id));
        if vpis.is_empty() {
            let message = format!("no VPI called {name} in {}", context.door.state.display());
            return Err(Failure::new(Exit::NotFound, message, "leave the name out to take all off").into());
        }
    }
    // What is taken off needs no list of what was let through.
    let plans = vpis.into_iter().map(|vpi| Plan {
        device: vpi.device,
        prefix: vpi.prefix,
        own: vpi.alias,
        exposed: Vec::new(),
    });
    Ok(plans.collect())
}
