//! One running node: `vpi up` on a host, from its ready line to SIGTERM or kill -9.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::exit_code;
use crate::topology::vpi_binary;
use crate::{Host, wait};

/// How long a node may take from its start to its ready line.
const READY_LIMIT: Duration = Duration::from_secs(10);
/// How long a node may take from SIGTERM to its end.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// What a kept log tells: every branch worth knowing, but not every packet.
const LOG_LEVEL: &str = "debug";

/// A node that has said that it is ready. Dropping it kills it.
pub struct Node {
    child: Child,
    ready_at: Instant,
}

impl Node {
    /// Starts `vpi up` with further `arguments` on `host` and waits for its ready line.
    ///
    /// # Errors
    /// It ends, or says nothing of being ready within 10 s; its last words are in the error.
    pub fn start(host: &Host, arguments: &[&str]) -> Result<Self> {
        let mut words = vec!["up"];
        words.extend_from_slice(arguments);
        Self::from_command(host.command(&vpi_binary()?, &words), host)
    }

    /// Starts a prepared command that ends in `vpi up`, and waits for the ready line.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn from_command(mut command: Command, host: &Host) -> Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(&host.log)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).env("VPI_LOG", LOG_LEVEL);
        let mut child = command.spawn().context("vpi up does not start")?;
        let ready = ready_line(child.stdout.take().context("standard output is piped")?);
        // From here on, every way out kills the child.
        let mut node = Self { child, ready_at: Instant::now() };
        node.ready_at = wait::until("the ready line of vpi up", READY_LIMIT, || {
            if let Ok(at) = ready.try_recv() {
                return Ok(Some(at));
            }
            if let Some(status) = node.child.try_wait()? {
                bail!("vpi up ended with {}", exit_code(status));
            }
            Ok(None)
        })
        .with_context(|| format!("host {}: {}", host.name, last_lines(host)))?;
        Ok(node)
    }

    /// When the ready line came.
    #[must_use]
    pub fn ready_at(&self) -> Instant {
        self.ready_at
    }

    /// The memory that the process has in RAM (VmRSS of proc(5)), in bytes.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no VmRSS in its status")?;
        Ok(kib.trim().parse::<u64>()? * 1_024)
    }

    /// What the process has worked since its start, for itself and in the system (proc(5), `stat`), to 10 ms.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name in parentheses may hold anything; utime and stime are the 12th and 13th words behind it.
        let (_, words) = stat.rsplit_once(')').context("no name in its stat")?;
        let ticks = words.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        Ok(Duration::from_millis(10 * ticks.sum::<Result<u64, _>>()?))
    }

    /// Whether the process still runs.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Ends the node with SIGTERM, and returns its exit code.
    ///
    /// # Errors
    /// It does not end within 10 s.
    pub fn stop(mut self) -> Result<i32> {
        let process = Pid::from_raw(i32::try_from(self.child.id())?).context("a process id is not zero")?;
        kill_process(process, Signal::TERM)?;
        let status = wait::until("vpi up to stop at SIGTERM", STOP_LIMIT, || Ok(self.child.try_wait()?))?;
        Ok(exit_code(status))
    }

    /// Ends the node with kill -9: no handler of its own runs.
    ///
    /// # Errors
    /// It ended before.
    pub fn kill(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the node had ended with {} before it was killed", exit_code(status));
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Both fail only if the process is gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads standard output to its end, so that the node never waits for a reader; reports when the ready line came.
fn ready_line(stdout: ChildStdout) -> Receiver<Instant> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if line.to_lowercase().contains("ready") {
                // Nobody listens after the first.
                let _ = sender.send(Instant::now());
            }
        }
    });
    receiver
}

fn last_lines(host: &Host) -> String {
    let log = fs::read_to_string(&host.log).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
