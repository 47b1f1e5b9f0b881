//! `vpi create`: founds a VPI and shows the recovery phrase, once.

use std::net::SocketAddr;

use anyhow::Context as _;
use bip39::Mnemonic;
use clap::Args;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{Context, argument, machine, node, output};
use crate::control::{
    Exit, Failure,
    protocol::{Create, Entered, Hidden, Reply, Request},
    sentence,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Name of the VPI: 1 to 11 of a-z, 0-9 and -.
    #[arg(value_parser = argument::vpi_name)]
    name: String,
    /// Name of this device in it [default: the host name].
    #[arg(long = "name", value_name = "N", value_parser = argument::member_name)]
    member_name: Option<String>,
    /// UDP port [default: the node chooses].
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// A beacon to be found through; may be repeated.
    #[arg(long = "beacon", value_name = "MULTIADDR", value_parser = argument::beacon)]
    beacons: Vec<String>,
    /// Address under which others reach this device; may be repeated.
    #[arg(long = "endpoint", value_name = "IP:PORT", value_parser = argument::endpoint)]
    endpoints: Vec<SocketAddr>,
}

/// The promised JSON of `create` and `join`.
#[derive(Serialize)]
pub(crate) struct Facts<'a> {
    vpi: &'a str,
    id: String,
    alias: std::net::Ipv4Addr,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery: Option<&'a str>,
}

impl<'a> Facts<'a> {
    /// What is known once a VPI is entered; `recovery` is the phrase, for `create`.
    pub(crate) fn new(entered: &'a Entered, recovery: Option<&'a str>) -> Self {
        Self { vpi: &entered.name, id: entered.id.to_string(), alias: entered.plan.own, recovery }
    }
}

/// Founds the VPI, sets the machine up, prints what was made.
pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<Exit> {
    machine::require_root("create")?;
    let hello = machine::meet_node(context)?;
    let request = Request::Create(Create {
        name: arguments.name,
        member_name: arguments.member_name.unwrap_or_else(argument::default_member_name),
        port: arguments.port,
        beacons: arguments.beacons,
        endpoints: arguments.endpoints,
    });
    let Reply::Entered(entered) = node::ask(context, &request)? else { return Err(node::unexpected()) };
    let key = entered.recovery.as_ref().context("the node founded the VPI without a recovery key")?;
    let phrase = phrase(key)?;
    let settled = machine::settle(context, &entered, &hello);
    // Shown even if the machine could not be set up; until then the node keeps it.
    print(context, &entered, &phrase).map_err(|error| {
        let message = format!("the recovery phrase could not be shown: {error}");
        let advice = format!("run `vpi create {}` again, which shows it", entered.name);
        Failure::new(Exit::Failed, message, advice)
    })?;
    node::ask(context, &Request::Shown { vpi: entered.id }).map_err(|error| {
        let message = format!("the node did not take note that the phrase was shown: {}", sentence(&error));
        Failure::new(Exit::Failed, message, format!("run `vpi create {}` again", entered.name))
    })?;
    settled.map(|()| Exit::Done)
}

/// The 24 words (BIP 39, English) of a recovery key.
pub(crate) fn phrase(key: &Hidden) -> anyhow::Result<Zeroizing<String>> {
    let decoded = data_encoding::HEXLOWER_PERMISSIVE.decode(key.0.as_bytes());
    let bytes = Zeroizing::new(decoded.ok().filter(|bytes| bytes.len() == 32).ok_or_else(node::unexpected)?);
    Ok(Zeroizing::new(Mnemonic::from_entropy(&bytes)?.to_string()))
}

fn print(context: &Context, entered: &Entered, phrase: &str) -> std::io::Result<()> {
    if context.json {
        return output::json(&Facts::new(entered, Some(phrase)));
    }
    let words: Vec<_> = phrase.split(' ').collect();
    let rows = words.chunks(6).map(|row| format!("    {}", row.join(" ")));
    output::line(&format!(
        "founded {name}, this device is {alias}\nid {id}\n\n\
         Recovery phrase. It is stored nowhere and shown only this once: write it down and keep it safe.\n\
         Whoever has it can take {name} over; without it, a lost admin device cannot be replaced.\n\n{rows}\n\n\
         Next: `vpi invite {name}` prints a token for another device.",
        name = entered.name,
        alias = entered.plan.own,
        id = entered.id,
        rows = rows.collect::<Vec<_>>().join("\n"),
    ))
}
