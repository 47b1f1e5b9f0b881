//! The command line: one file a command.
//!
//! `vpi up` runs the node, `vpi beacon` a beacon. Every other command asks the running node through its control socket ([`node`]), and
//! changes the machine itself where that needs root ([`machine`]). What people type is checked in [`argument`]
//! before anything happens; what they read is laid out in [`output`].

mod argument;
mod beacon;
mod code;
mod create;
mod doctor;
mod down;
mod expose;
mod hosts;
mod index_keeper;
mod invite;
mod invites;
mod join;
mod leave;
mod machine;
mod metrics;
mod netcheck;
mod node;
mod output;
mod ping;
mod remove;
mod request_code;
mod revoke;
mod status;
mod up;
mod whois;
mod why;

#[cfg(test)]
mod tests;

use std::{io, path::PathBuf};

use clap::{Parser, Subcommand};

use crate::control::{
    Exit,
    client::{Door, door},
};

/// A private network of your devices, with no server in the middle.
#[derive(Debug, Parser)]
#[command(name = "vpi", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Folder of keys, objects and index.
    #[arg(long, global = true, env = "VPI_STATE", default_value = "/var/lib/vpi", value_name = "DIR")]
    state: PathBuf,
    /// Control socket of the node [default: DIR/control.sock].
    #[arg(long, global = true, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Print facts as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node in the foreground.
    Up(up::Arguments),
    /// Run a beacon in the foreground: others find each other through it.
    Beacon(beacon::Arguments),
    /// Take devices, routes and guards off this machine.
    Down(down::Arguments),
    /// Found a VPI.
    Create(create::Arguments),
    /// Print a token with which another device joins.
    Invite(invite::Arguments),
    /// Join a VPI with a token, read from standard input.
    Join(join::Arguments),
    /// Show VPIs and members.
    Status(status::Arguments),
    /// Measure the round trip to a member.
    Ping(ping::Arguments),
    /// Leave a VPI.
    Leave(leave::Arguments),
    /// Remove a member from a VPI.
    Remove(remove::Arguments),
    /// Take an invite back.
    Revoke(revoke::Arguments),
    /// Show the invites of a VPI.
    Invites(invites::Arguments),
    /// Print this device's code, for an invite that only it can use.
    RequestCode(request_code::Arguments),
    /// Tell which member an alias is.
    Whois(whois::Arguments),
    /// Tell why a member is reached, or is not.
    Why(why::Arguments),
    /// Tell what stands between this machine and the internet: NAT, port mapping, IPv6, beacons.
    Netcheck(netcheck::Arguments),
    /// Let members reach a service on 127.0.0.1.
    Expose(expose::ExposeArguments),
    /// Close an exposed service again.
    Unexpose(expose::UnexposeArguments),
    /// Show what members reach on this machine.
    Exposures(expose::ExposuresArguments),
    /// Choose what members reach beyond the exposures.
    Policy(expose::PolicyArguments),
    /// Print counters and gauges as Prometheus text.
    Metrics(metrics::Arguments),
    /// Print the members' names as lines for /etc/hosts, or write them there.
    Hosts(hosts::Arguments),
    /// Tell what is wrong or left over on this machine.
    Doctor(doctor::Arguments),
    /// Read or write the index for a node.
    #[command(hide = true)]
    IndexKeeper(index_keeper::Arguments),
}

/// What every command knows.
#[derive(Debug)]
struct Context {
    door: Door,
    /// The control socket that was named.
    control: Option<PathBuf>,
    json: bool,
}

impl Cli {
    /// Says how much is logged when `VPI_LOG` does not: the node tells what a user would notice, a command
    /// prints its result.
    pub(crate) fn default_log_filter(&self) -> &'static str {
        match self.command {
            Command::Up(_) => "info",
            // libp2p warns of what strangers do, each time.
            Command::Beacon(_) => "error,vpi=info",
            _ => "warn",
        }
    }

    /// Runs the command.
    ///
    /// # Errors
    /// A [`Failure`](crate::control::Failure) where the exit code is another than 1; else any error.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let door = door(&self.state, self.control.as_deref());
        let context = Context { door, control: self.control, json: self.json };
        let forgives = !self.command.runs_on();
        let done = self.command.run(&context);
        if forgives { done.or_else(forgive_closed_pipe) } else { done }
    }
}

impl Command {
    /// Says whether it runs until it is told to stop.
    fn runs_on(&self) -> bool {
        matches!(self, Self::Up(_) | Self::Beacon(_))
    }

    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Up(arguments) => up::run(context, arguments),
            Self::Beacon(arguments) => beacon::run(context, arguments),
            Self::Down(arguments) => down::run(context, &arguments),
            Self::Create(arguments) => create::run(context, arguments),
            Self::Invite(arguments) => invite::run(context, arguments),
            Self::Join(arguments) => join::run(context, arguments),
            Self::Status(arguments) => status::run(context, arguments),
            Self::Ping(arguments) => ping::run(context, arguments),
            Self::Leave(arguments) => leave::run(context, arguments),
            Self::Remove(arguments) => remove::run(context, arguments),
            Self::Revoke(arguments) => revoke::run(context, arguments),
            Self::Invites(arguments) => invites::run(context, arguments),
            Self::RequestCode(arguments) => request_code::run(context, &arguments),
            Self::Whois(arguments) => whois::run(context, &arguments),
            Self::Why(arguments) => why::run(context, arguments),
            Self::Netcheck(arguments) => netcheck::run(context, &arguments),
            Self::Expose(arguments) => expose::expose(context, arguments),
            Self::Unexpose(arguments) => expose::unexpose(context, arguments),
            Self::Exposures(arguments) => expose::exposures(context, arguments),
            Self::Policy(arguments) => expose::policy(context, arguments),
            Self::Metrics(arguments) => metrics::run(context, &arguments),
            Self::Hosts(arguments) => hosts::run(context, &arguments),
            Self::Doctor(arguments) => doctor::run(context, &arguments),
            Self::IndexKeeper(arguments) => index_keeper::run(&arguments),
        }
    }
}

/// A reader such as `head` that has seen enough is no failure. Secrets that nobody read are reported by their
/// commands as another error.
fn forgive_closed_pipe(error: anyhow::Error) -> anyhow::Result<Exit> {
    match error.downcast_ref::<io::Error>() {
        Some(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Done),
        _ => Err(error),
    }
}
