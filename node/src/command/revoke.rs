//! `vpi revoke`: takes an invite back.

use clap::Args;

use super::{Context, node, output};
use crate::control::{
    Exit,
    members::Revoke,
    protocol::{Reply, Request},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The VPI: its name here, or its id.
    vpi: String,
    /// The invite's id, or as many of its first digits as no other has: see `vpi invites`.
    invite: String,
    /// Sign although no other member could be asked what happened meanwhile.
    #[arg(long)]
    offline: bool,
}

/// Lets the node sign the revocation.
pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { vpi, invite, offline } = arguments;
    let request = Request::Revoke(Revoke { vpi, invite, offline });
    let Reply::Revoked(revoked) = node::ask(context, &request)? else { return Err(node::unexpected()) };
    if context.json {
        output::json(&revoked)?;
    } else {
        output::line(&format!("invite {} of {} admits nobody any more", revoked.invite, revoked.vpi))?;
    }
    Ok(Exit::Done)
}
