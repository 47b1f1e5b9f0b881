//! `vpi invites`: one line an invite.

use clap::Args;

use super::{Context, node, output};
use crate::control::{
    Exit,
    members::{InviteStatus, Invites},
    protocol::{Reply, Request},
};

/// Digits of an id that a line shows.
const SHOWN_DIGITS: usize = 8;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The VPI: its name here, or its id.
    vpi: String,
}

/// Asks and prints.
pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<Exit> {
    let Reply::Invites(invites) = node::ask(context, &Request::Invites { vpi: arguments.vpi })? else {
        return Err(node::unexpected());
    };
    if context.json {
        output::json(&invites)?;
    } else {
        output::line(&describe(&invites))?;
    }
    Ok(Exit::Done)
}

/// Lays invites out for people.
pub(crate) fn describe(invites: &Invites) -> String {
    if invites.invites.is_empty() {
        return format!("{} has no invites: `vpi invite {}` makes one", invites.vpi, invites.vpi);
    }
    let head = ["INVITE", "NAME", "USES", "LEFT", "EXPIRES", "STATE"].map(str::to_owned);
    let rows = invites.invites.iter().map(row);
    output::table(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}

fn row(invite: &InviteStatus) -> [String; 6] {
    [
        invite.invite.chars().take(SHOWN_DIGITS).collect(),
        invite.name.clone().unwrap_or_else(|| "-".to_owned()),
        invite.uses.to_string(),
        invite.uses_left.to_string(),
        invite.expires.to_string(),
        invite.state.to_string(),
    ]
}
