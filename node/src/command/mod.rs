//! The command line: one file a command.
//!
//! `vpi up` runs the node. Every other command asks the running node through its control socket ([`node`]), and
//! changes the machine itself where that needs root ([`machine`]). What people type is checked in [`argument`]
//! before anything happens; what they read is laid out in [`output`].

mod argument;
mod create;
mod doctor;
mod down;
mod invite;
mod join;
mod machine;
mod node;
mod output;
mod ping;
mod status;
mod up;

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
    /// Tell what is wrong or left over on this machine.
    Doctor(doctor::Arguments),
}

/// What every command knows.
#[derive(Debug)]
struct Context {
    door: Door,
    json: bool,
}

impl Cli {
    /// Says how much is logged when `VPI_LOG` does not: the node tells what a user would notice, a command
    /// prints its result.
    pub(crate) fn default_log_filter(&self) -> &'static str {
        if matches!(self.command, Command::Up(_)) { "info" } else { "warn" }
    }

    /// Runs the command.
    ///
    /// # Errors
    /// A [`Failure`](crate::control::Failure) where the exit code is another than 1; else any error.
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let context = Context { door: door(&self.state, self.control.as_deref()), json: self.json };
        let forgives = !matches!(self.command, Command::Up(_));
        let done = self.command.run(&context);
        if forgives { done.or_else(forgive_closed_pipe) } else { done }
    }
}

impl Command {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Up(arguments) => up::run(context, arguments),
            Self::Down(arguments) => down::run(context, &arguments),
            Self::Create(arguments) => create::run(context, arguments),
            Self::Invite(arguments) => invite::run(context, arguments),
            Self::Join(arguments) => join::run(context, arguments),
            Self::Status(arguments) => status::run(context, arguments),
            Self::Ping(arguments) => ping::run(context, arguments),
            Self::Doctor(arguments) => doctor::run(context, &arguments),
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
