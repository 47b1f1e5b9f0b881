//! `vpi up`: runs the node in the foreground.

use std::path::PathBuf;

use clap::Args;

use super::Context;
use crate::{
    config::{NodeOptions, Settings},
    control::Exit,
    driver,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Settings file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// User to run as after the set-up [default: the owner of the state folder].
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

/// Reads the settings, then runs the node until it is told to stop.
pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<Exit> {
    let settings = match arguments.config {
        Some(path) => Settings::read(&path)?,
        None => Settings::default(),
    };
    driver::run(NodeOptions {
        state: context.door.state.clone(),
        control: context.door.socket.clone(),
        user: arguments.user,
        settings,
    })
}
