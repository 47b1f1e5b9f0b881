//! `vpi index-keeper`, which no person runs: the process in which a node has its index read or written.

use std::io;
use std::path::PathBuf;

use clap::Args;

use crate::control::Exit;
use crate::store::index;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Folder of the index.
    folder: PathBuf,
}

/// Does what is asked on standard input, answers on standard output, and ends.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    index::keep(&arguments.folder, io::stdin().lock(), io::stdout().lock())?;
    Ok(Exit::Done)
}
