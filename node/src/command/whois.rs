//! `vpi whois`: which member an alias is.

use std::net::Ipv4Addr;

use clap::Args;

use super::{Context, node, output};
use crate::control::{
    Exit,
    protocol::{Reply, Request},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// An alias, such as 127.80.3.9.
    address: Ipv4Addr,
}

/// Asks and prints.
pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<Exit> {
    let request = Request::Whois { alias: arguments.address };
    let Reply::Who(who) = node::ask(context, &request)? else { return Err(node::unexpected()) };
    if context.json {
        output::json(&who)?;
    } else {
        output::line(&format!("{}  {}  id {}", who.alias, who.member, who.id))?;
    }
    Ok(Exit::Done)
}
