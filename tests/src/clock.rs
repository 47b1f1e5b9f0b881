//! The wall clock of a program under test: libfaketime's, preloaded. The real binary asks the C library for the wall clock,
//! and gets another; its monotonic clock stays right.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::topology::vpi_binary;
use crate::{Beacon, Host, Node};

/// The wall clock that a node or a beacon is given.
pub enum Clock {
    /// As `FAKETIME` of libfaketime has it.
    Fixed(String),
    /// The same, read again from a file at each look.
    Changing(PathBuf),
}

impl Clock {
    /// One that is off for good, as `FAKETIME` of libfaketime has it.
    #[must_use]
    pub fn fixed(offset: &str) -> Self {
        Self::Fixed(offset.to_owned())
    }

    /// A clock that is right until it is set.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn changing(file: PathBuf) -> Result<Self> {
        fs::write(&file, "+0\n")?;
        Ok(Self::Changing(file))
    }

    /// Sets one that can change.
    ///
    /// # Errors
    /// It is fixed, or the file cannot be written.
    pub fn set(&self, offset: &str) -> Result<()> {
        let Self::Changing(file) = self else { return Err(anyhow!("this clock is fixed")) };
        // By rename, so that no look sees half of it.
        let beside = file.with_extension("tmp");
        fs::write(&beside, format!("{offset}\n"))?;
        fs::rename(beside, file)?;
        Ok(())
    }

    /// Starts `vpi up` under it.
    ///
    /// # Errors
    /// As [`Node::start`]; libfaketime is not there.
    pub fn start_node(&self, host: &Host) -> Result<Node> {
        Node::from_command(self.command(host, &["up"])?, host)
    }

    /// Starts `vpi beacon` under it.
    ///
    /// # Errors
    /// As [`Beacon::start`]; libfaketime is not there.
    pub fn start_beacon(&self, host: &Host) -> Result<Beacon> {
        Beacon::from_command(self.command(host, &["beacon"])?, host)
    }

    fn command(&self, host: &Host, arguments: &[&str]) -> Result<Command> {
        let (library, mut words) = (faketime()?, Vec::new());
        words.push(format!("LD_PRELOAD={library}"));
        words.push("FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned());
        match self {
            Self::Fixed(offset) => words.push(format!("FAKETIME={offset}")),
            Self::Changing(file) => {
                words.push(format!("FAKETIME_TIMESTAMP_FILE={}", file.display()));
                words.push("FAKETIME_NO_CACHE=1".to_owned());
            }
        }
        words.push(vpi_binary()?);
        // The library leaves shared memory behind where its process is killed: in a /dev/shm that goes with it.
        let hide = ["--mount", "sh", "-c", "mount -t tmpfs none /dev/shm && exec env \"$@\"", "sh"];
        let words = hide.into_iter().chain(words.iter().map(String::as_str)).chain(arguments.iter().copied());
        Ok(host.command("unshare", &words.collect::<Vec<_>>()))
    }
}

/// Debian puts the library into a folder that is called as the architecture.
fn faketime() -> Result<String> {
    let folders = fs::read_dir("/usr/lib")?.flatten().map(|entry| entry.path());
    let found = folders.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|path| path.exists());
    Ok(found
        .context("libfaketime is missing (Debian: apt-get install faketime)")?
        .to_string_lossy()
        .into_owned())
}
