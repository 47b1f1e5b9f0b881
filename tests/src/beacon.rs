//! One running beacon: `vpi beacon` on a host, and floods of it (bin/stranger).

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::process::exit_code;
use crate::topology::vpi_binary;
use crate::{Host, Lab, wait};

/// How long a beacon may take from its start to its ready line, and from SIGTERM to its end.
const LIMIT: Duration = Duration::from_secs(10);
/// How long a flood may take until all its connections stand or have failed.
const FLOOD_LIMIT: Duration = Duration::from_secs(180);

/// A beacon that has said that it is ready. Dropping it kills it.
pub struct Beacon {
    child: Child,
    /// Where it runs.
    pub host: Host,
    /// The addresses that it printed, TCP first.
    pub addresses: Vec<String>,
}

impl Beacon {
    /// Starts `vpi beacon` with further `arguments` on `host` and waits for its ready line.
    ///
    /// # Errors
    /// It ends, or says nothing of being ready within 10 s.
    pub fn start(host: &Host, arguments: &[&str]) -> Result<Self> {
        Self::from_command(host.command(&vpi_binary()?, &[&["beacon"], arguments].concat()), host)
    }

    /// Starts a prepared command that ends in `vpi beacon`, and waits for the ready line.
    ///
    /// # Errors
    /// As [`Beacon::start`].
    pub fn from_command(mut command: Command, host: &Host) -> Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(&host.log)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().context("vpi beacon does not start")?;
        let lines = lines_of(child.stdout.take().context("standard output is piped")?);
        // From here on, every way out kills the child.
        let mut beacon = Self { child, host: host.clone(), addresses: Vec::new() };
        wait::until("the ready line of vpi beacon", LIMIT, || {
            while let Ok(line) = lines.try_recv() {
                if line.contains("ready") {
                    return Ok(Some(()));
                }
                beacon.addresses.push(line);
            }
            if let Some(status) = beacon.child.try_wait()? {
                bail!("vpi beacon ended with {}", exit_code(status));
            }
            Ok(None)
        })
        .with_context(|| fs::read_to_string(&host.log).unwrap_or_default())?;
        Ok(beacon)
    }

    /// Starts one on each host of `names`; each knows the first.
    ///
    /// # Errors
    /// As [`Beacon::start`], or the lab has no such host.
    pub fn start_all(lab: &Lab, names: &[&str], options: &[&str]) -> Result<Vec<Self>> {
        let mut beacons: Vec<Self> = Vec::new();
        for name in names {
            let first = beacons.first().map(|first| first.address(false).map(str::to_owned)).transpose()?;
            let peer: Vec<&str> = first.iter().flat_map(|first| ["--peer", first]).collect();
            beacons.push(Self::start(lab.host(name)?, &[options, &peer].concat())?);
        }
        Ok(beacons)
    }

    /// What makes a command know these beacons.
    ///
    /// # Errors
    /// One printed no address.
    pub fn words(beacons: &[Self]) -> Result<Vec<&str>> {
        let mut words = Vec::new();
        for beacon in beacons {
            words.extend(["--beacon", beacon.address(false)?]);
        }
        Ok(words)
    }

    /// Its address over TCP, or over QUIC.
    ///
    /// # Errors
    /// It printed none.
    pub fn address(&self, is_quic: bool) -> Result<&str> {
        let found = self.addresses.iter().find(|address| address.contains("quic") == is_quic);
        found.map(String::as_str).with_context(|| format!("not among {:?}", self.addresses))
    }

    /// Its peer id.
    ///
    /// # Errors
    /// It printed no address.
    pub fn id(&self) -> Result<&str> {
        Ok(self.address(false)?.rsplit('/').next().unwrap_or_default())
    }

    /// The value of a metric, all its samples with `label` in them added up.
    ///
    /// # Errors
    /// The beacon does not answer, or has no such metric.
    pub fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let socket = self.host.state.join("beacon/control.sock");
        let families =
            self.host.vpi(&["--control", &socket.to_string_lossy(), "metrics", "--json"])?.json()?;
        let family = families.as_array().and_then(|all| all.iter().find(|family| family["name"] == name));
        let samples = family.with_context(|| format!("no {name}"))?["samples"].as_array();
        let samples = samples.into_iter().flatten();
        let of_label =
            samples.filter(|sample| label.is_empty() || sample["labels"].to_string().contains(label));
        Ok(of_label.filter_map(|sample| sample["value"].as_f64()).fold(0.0, |sum, value| sum + value))
    }

    /// The memory that the process has in RAM (VmRSS of proc(5)), and the most that it ever had (VmHWM), in bytes.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident_bytes(&self) -> Result<(u64, u64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib =
                line.and_then(|line| line.trim().strip_suffix(" kB")).context("no memory in its status")?;
            anyhow::Ok(kib.trim().parse::<u64>()? * 1_024)
        };
        Ok((bytes("VmRSS:")?, bytes("VmHWM:")?))
    }

    /// Ends the beacon with SIGTERM, and returns its exit code.
    ///
    /// # Errors
    /// It does not end within 10 s.
    pub fn stop(mut self) -> Result<i32> {
        let process = Pid::from_raw(i32::try_from(self.child.id())?).context("a process id is not zero")?;
        kill_process(process, Signal::TERM)?;
        let status = wait::until("vpi beacon to stop at SIGTERM", LIMIT, || Ok(self.child.try_wait()?))?;
        Ok(exit_code(status))
    }

    /// Ends the beacon with kill -9.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Beacon {
    fn drop(&mut self) {
        // Both fail only if the process is gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A flood whose connections are held until it is dropped.
pub struct Flood {
    child: Child,
    /// Closed, it ends.
    _stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Flood {
    /// Starts `binary flood WORDS` on `host`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(host: &Host, binary: &str, words: &[&str]) -> Result<Self> {
        let mut command = host.command(binary, &[&["flood"], words].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take().context("standard input is piped")?;
        let lines = lines_of(child.stdout.take().context("standard output is piped")?);
        Ok(Self { child, _stdin: stdin, lines })
    }

    /// Waits until all its connections stand or have failed: `{"stood", "failed"}`.
    ///
    /// # Errors
    /// It ends before, or takes longer than three minutes.
    pub fn standing(&self) -> Result<Value> {
        let line = self.lines.recv_timeout(FLOOD_LIMIT).context("the flood does not stand")?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a program's output, read to its end so that it never waits for a reader.
pub(crate) fn lines_of(stdout: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // Nobody listens when the program is dropped.
            let _ = sender.send(line);
        }
    });
    receiver
}
