//! `vpi hosts`: names for aliases, as lines for `/etc/hosts`, or as a marked block in it.

use std::io;
use std::path::Path;

use clap::Args;

use super::{Context, machine, node, output};
use crate::{
    control::{
        Exit,
        protocol::{Reply, Request},
    },
    names::{
        self, Entry,
        hosts::{Change, Hosts, PATH},
    },
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Write the lines as a marked block into /etc/hosts.
    #[arg(long, conflicts_with = "uninstall")]
    install: bool,
    /// Take the marked block out of /etc/hosts.
    #[arg(long)]
    uninstall: bool,
}

/// Prints the lines, or changes the block.
pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<Exit> {
    let hosts = Hosts::new(Path::new(PATH), &context.door.state)?;
    if arguments.uninstall {
        machine::require_root_for("hosts --uninstall", PATH)?;
        tell(context, hosts.uninstall()?, &[])?;
        return Ok(Exit::Done);
    }
    if arguments.install {
        machine::require_root_for("hosts --install", PATH)?;
    }
    let entries = known(context)?;
    if arguments.install {
        tell(context, hosts.install(&entries)?, &entries)?;
    } else if context.json {
        output::json(&serde_json::json!({ "hosts": entries }))?;
    } else {
        for entry in &entries {
            output::line(&format!("{} {}", entry.alias, entry.name))?;
        }
    }
    Ok(Exit::Done)
}

/// The names that the node knows; those in the state folder when no node runs.
///
/// # Errors
/// A failure of the node's, or of reading the folder.
pub(crate) fn known(context: &Context) -> anyhow::Result<Vec<Entry>> {
    match node::ask(context, &Request::Status { vpi: None, drops: false }) {
        Ok(Reply::Status(status)) => Ok(names::of_status(&status)),
        Ok(_) => Err(node::unexpected()),
        // Who may not read the folder is told that no node runs, which is what there is to be done about.
        Err(error) if node::is_no_node(&error) => names::on_disk(&context.door.state).map_err(|_| error),
        Err(error) => Err(error),
    }
}

fn tell(context: &Context, change: Change, entries: &[Entry]) -> io::Result<()> {
    let is_changed = change == Change::Written;
    if context.json {
        return output::json(&serde_json::json!({ "changed": is_changed, "hosts": entries }));
    }
    let count = entries.len();
    let names = if count == 1 { "name" } else { "names" };
    output::line(&match (is_changed, count) {
        (true, 0) => format!("{PATH} has no names of ours any more"),
        (true, _) => format!("{PATH} has {count} {names}"),
        (false, 0) => format!("{PATH} had no names of ours"),
        (false, _) => format!("{PATH} had these {count} {names} already"),
    })
}
