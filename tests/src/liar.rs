//! Beacons that lie (bin/liar), one or several on a host.

use std::process::{Child, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::beacon::lines_of;
use crate::process::exit_code;
use crate::{Host, wait};

/// How long one may take until it says that it is ready.
const LIMIT: Duration = Duration::from_secs(10);
/// The port of the first of several.
const FIRST_PORT: u16 = 41_500;

/// A running liar. Dropping it kills it.
pub struct Liar {
    child: Child,
    lines: Receiver<String>,
    /// Its address, with its peer id.
    pub address: String,
}

impl Liar {
    /// Starts `binary` (`env!("CARGO_BIN_EXE_liar")`) on `host` at `port`, known to `peers`, with the `ways` of `liar --help`.
    ///
    /// # Errors
    /// It ends, or is not ready within 10 s.
    pub fn start(host: &Host, binary: &str, port: u16, peers: &[&str], ways: &[&str]) -> Result<Self> {
        let at = format!("{}:{port}", host.address);
        let peers = peers.iter().flat_map(|peer| ["--peer", peer]);
        let words: Vec<&str> = ["--tcp", &at].into_iter().chain(peers).chain(ways.iter().copied()).collect();
        let mut child = host.command(binary, &words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let lines = lines_of(child.stdout.take().context("standard output is piped")?);
        // From here on, every way out kills the child.
        let mut liar = Self { child, lines, address: String::new() };
        wait::until("the ready line of a liar", LIMIT, || {
            while let Ok(line) = liar.lines.try_recv() {
                if line.contains("ready") {
                    return Ok(Some(()));
                }
                liar.address = line;
            }
            if let Some(status) = liar.child.try_wait()? {
                bail!("the liar ended with {}", exit_code(status));
            }
            Ok(None)
        })?;
        Ok(liar)
    }

    /// How often its STUN responder lied since it was asked for that last.
    #[must_use]
    pub fn stun_lies(&self) -> usize {
        self.lines.try_iter().filter(|line| line.contains("lied")).count()
    }

    /// Starts one for each of `ways` on `host`, all known to `peers`.
    ///
    /// # Errors
    /// As [`Liar::start`].
    pub fn several(host: &Host, binary: &str, peers: &[&str], ways: &[&[&str]]) -> Result<Vec<Self>> {
        let ports = (FIRST_PORT..).zip(ways);
        ports.map(|(port, ways)| Self::start(host, binary, port, peers, ways)).collect()
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        // Both fail only if the process is gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
