//! Strangers who come to a member over circuits at its beacon (bin/stranger), and what they got.

use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Host;
use crate::beacon::lines_of;

/// How long they may take to connect to the beacon, and to tell what they got.
const LIMIT: Duration = Duration::from_secs(30);

/// Some that come again and again until they are told to stop. Dropping it kills them.
pub struct Strangers {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Strangers {
    /// Starts `binary` (`env!("CARGO_BIN_EXE_stranger")`) on `host`: `peers` strangers with `each` circuits at once, at `beacon` to
    /// the member with the peer id `member`, who say what `sorts` are, or all there are.
    ///
    /// # Errors
    /// They do not connect to the beacon.
    pub fn start(
        host: &Host,
        binary: &str,
        (beacon, member): (&str, &str),
        (peers, each): (usize, usize),
        sorts: &[&str],
    ) -> Result<Self> {
        let (peers, each) = (peers.to_string(), each.to_string());
        let words = [&["circuits", beacon, member, &peers, &each], sorts].concat();
        let mut command = host.command(binary, &words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let lines = lines_of(child.stdout.take().context("standard output is piped")?);
        // From here on, every way out kills the child.
        let strangers = Self { child, stdin, lines };
        let ready = strangers.lines.recv_timeout(LIMIT).context("the strangers do not connect")?;
        ensure!(ready.contains("ready"), "{ready}");
        Ok(strangers)
    }

    /// Tells them to stop: `{SORT: {"stood", "refused", "bytes", "stayed", "longest_ms"}}`, of circuits that have ended.
    ///
    /// # Errors
    /// They ended before.
    pub fn finish(mut self) -> Result<Value> {
        drop(self.stdin.take());
        let line = self.lines.recv_timeout(LIMIT).context("the strangers tell nothing")?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
