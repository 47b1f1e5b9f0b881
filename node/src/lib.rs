//! The `vpi` program: reads arguments, sets up logging, runs one command.
//!
//! A library only so that [`benchmark`] can run beacons and members as they are, over a network inside one process.

mod beacon;
pub mod benchmark;
mod carry;
mod command;
mod config;
mod control;
mod doctor;
mod driver;
mod lan;
mod loopback;
mod mapping;
mod metrics;
mod names;
mod privilege;
mod pump;
mod service;
mod store;
mod swarm;
mod tun;
mod udp;

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::{
    command::Cli,
    control::{Exit, Failure, sentence},
};

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli.default_log_filter()).and_then(|()| cli.run()) {
        Ok(exit) => exit.into(),
        Err(error) => report(&error).into(),
    }
}

/// What every command does first.
fn start(default_filter: &str) -> anyhow::Result<()> {
    privilege::keep_memory_private().context("cannot keep this process out of core dumps")?;
    start_logging(default_filter)
}

/// Logs to standard error as `VPI_LOG` and `VPI_LOG_FORMAT` say.
fn start_logging(default_filter: &str) -> anyhow::Result<()> {
    let filter = env::var("VPI_LOG").unwrap_or_else(|_| default_filter.to_owned());
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        let advice = "write a level such as `debug`, or pairs such as `vpi=debug`";
        Failure::new(Exit::Usage, format!("VPI_LOG is no tracing filter: {error}"), advice)
    })?;
    let format = env::var("VPI_LOG_FORMAT").unwrap_or_default();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(io::stderr().is_terminal());
    let log = log.with_writer(io::stderr);
    match format.as_str() {
        "json" => log.json().init(),
        "" | "text" => log.init(),
        _ => {
            let message = format!("VPI_LOG_FORMAT is `{format}`");
            return Err(Failure::new(Exit::Usage, message, "leave it out, or set it to json").into());
        }
    }
    Ok(())
}

/// Says what went wrong, then what to do; returns the exit code.
fn report(error: &anyhow::Error) -> Exit {
    let mut out = io::stderr().lock();
    let Some(failure) = error.downcast_ref::<Failure>() else {
        let _ = writeln!(out, "vpi: {}", sentence(error));
        return Exit::Failed;
    };
    let _ = writeln!(out, "vpi: {failure}");
    if !failure.advice.is_empty() {
        let _ = writeln!(out, "     {}", failure.advice);
    }
    failure.exit
}
