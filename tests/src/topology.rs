//! A lab and its hosts: namespaces made and removed by `netns-scripts/run.sh`, one lab a scenario.
//!
//! [`scenario`] is the frame of every test: it makes the lab, runs the body, and either removes everything or keeps
//! the evidence (each node's log, and the head of every frame at the port of host `a`) and says where it lies.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::capture::Capture;
use crate::nat::Site;
use crate::process::{Answer, finish};

/// How long a command that only talks to its own node may take.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// Runs `body` in a lan of `hosts` hosts; `name` is short, of `a-z0-9-`, and no other scenario's.
///
/// # Panics
/// The body failed, or the lab could not be made. The message says why and where the evidence lies.
pub fn scenario(name: &str, hosts: usize, body: impl FnOnce(&Lab) -> Result<()>) {
    let lab = Lab::lan(name, hosts).unwrap_or_else(|error| panic!("{name}: no lab: {error:#}"));
    if let Err(error) = body(&lab) {
        panic!("{name}: {error:#}");
    }
}

/// Runs `body` in an internet of `hosts` hosts, each behind a router of its own
/// (`netns-scripts/topologies/internet.sh`); `name` as for [`scenario`]. `impairments` go into every host's link, as
/// `wan-link --help` has them.
///
/// # Panics
/// As [`scenario`].
pub fn internet(name: &str, hosts: usize, impairments: &[&str], body: impl FnOnce(&Lab) -> Result<()>) {
    let lab =
        Lab::internet(name, hosts, impairments).unwrap_or_else(|error| panic!("{name}: no lab: {error:#}"));
    if let Err(error) = body(&lab) {
        panic!("{name}: {error:#}");
    }
}

/// Runs `body` in an internet of `sites` behind NATs, called `a`, `b` … in their order, and `publics` public hosts, called
/// `p1`, `p2` … (`netns-scripts/topologies/nats.sh`); `name` as for [`scenario`].
///
/// # Panics
/// As [`scenario`].
pub fn nats(name: &str, publics: usize, sites: &[Site], body: impl FnOnce(&Lab) -> Result<()>) {
    impaired_nats(name, publics, sites, &[], body);
}

/// As [`nats`], with `impairments` between each site or public host and the middle, as `wan-link --help` has them.
///
/// # Panics
/// As [`scenario`].
pub fn impaired_nats(
    name: &str,
    publics: usize,
    sites: &[Site],
    impairments: &[&str],
    body: impl FnOnce(&Lab) -> Result<()>,
) {
    let lab = Lab::nats(name, publics, sites, impairments)
        .unwrap_or_else(|error| panic!("{name}: no lab: {error:#}"));
    if let Err(error) = body(&lab) {
        panic!("{name}: {error:#}");
    }
}

/// Held by a scenario that loads the machine or measures time, so that two of them do not disturb each other.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A scenario that failed in its turn leaves nothing behind that the next could trip over.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A network of this scenario's own. Dropping it ends everything that runs inside and removes it.
pub struct Lab {
    name: String,
    evidence: PathBuf,
    hosts: Vec<Host>,
    /// The namespace in the middle, without the lab's name.
    centre: &'static str,
    recording: Option<Capture>,
}

impl Lab {
    /// Puts up a lan (`netns-scripts/topologies/lan.sh`).
    ///
    /// # Errors
    /// Not root, a script that fails, or an evidence folder that cannot be made.
    pub fn lan(scenario: &str, hosts: usize) -> Result<Self> {
        Self::put_up(scenario, ("lan", "lan"), hosts, &[])
    }

    /// Puts up an internet (`netns-scripts/topologies/internet.sh`), with `impairments` in every host's link.
    ///
    /// # Errors
    /// As [`Lab::lan`].
    pub fn internet(scenario: &str, hosts: usize, impairments: &[&str]) -> Result<Self> {
        Self::put_up(scenario, ("internet", "net"), hosts, impairments)
    }

    /// Puts up an internet of NATs (`netns-scripts/topologies/nats.sh`): `sites`, and `publics` public hosts, with
    /// `impairments` between each of them and the middle.
    ///
    /// # Errors
    /// As [`Lab::lan`].
    pub fn nats(scenario: &str, publics: usize, sites: &[Site], impairments: &[&str]) -> Result<Self> {
        let sites: Vec<_> = sites.iter().map(|site| site.word()).collect();
        let sites = sites.iter().flat_map(|site| ["--site", site]);
        let options: Vec<_> = sites.chain(impairments.iter().copied()).collect();
        Self::put_up(scenario, ("nats", "net"), publics, &options)
    }

    fn put_up(
        scenario: &str,
        (topology, centre): (&str, &'static str),
        hosts: usize,
        options: &[&str],
    ) -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "the scenarios make network namespaces and need root: run them as root, or without the feature netns"
        );
        let evidence = target_folder()?.join("lab").join(scenario);
        if evidence.exists() {
            fs::remove_dir_all(&evidence)?;
        }
        fs::create_dir_all(&evidence)?;
        let name = format!("lab{}-{scenario}", process::id());
        let hosts = hosts.to_string();
        let words = [&["up", topology, "--name", &name, "--hosts", &hosts], options].concat();
        let made = script(&words)?;
        let hosts =
            made.lines().skip(1).map(|line| Host::read(line, &name, &evidence)).collect::<Result<_>>()?;
        let mut lab = Self { name, evidence, hosts, centre, recording: None };
        // Heads only, in a ring of two files, so that a long scenario does not fill the disk.
        let ring = ["-s", "160", "-C", "20", "-W", "2"];
        lab.recording = Some(Capture::at_port(&lab, "a", "ip or arp", "wire", &ring)?);
        Ok(lab)
    }

    /// A host by its name: `a`, `b`, `c` …
    ///
    /// # Errors
    /// The lab has no such host.
    pub fn host(&self, name: &str) -> Result<&Host> {
        self.hosts.iter().find(|host| host.name == name).ok_or_else(|| anyhow!("the lab has no host {name}"))
    }

    /// The namespace of the switch, or of the router in the middle; its ports are called as the hosts.
    #[must_use]
    pub fn switch(&self) -> String {
        format!("{}-{}", self.name, self.centre)
    }

    /// Runs a program to its end in a namespace of the lab that is no host's, called without the lab's name: the gateway of the
    /// host `a` is `a-nat`.
    ///
    /// # Errors
    /// As [`Host::run`].
    pub fn run_in(&self, place: &str, program: &str, arguments: &[&str]) -> Result<Answer> {
        let namespace = format!("{}-{place}", self.name);
        finish(command_inside(&namespace, program, arguments), "", COMMAND_LIMIT)
    }

    /// Impairs the link of a host of an internet from here on, or makes it clean; returns what the `wan-link` that stood
    /// there until now forwarded: out of the host, and in to it.
    ///
    /// # Errors
    /// The lab has no routers, or `wan-link` does not start.
    pub fn impair(&self, host: &str, impairments: &[&str]) -> Result<Vec<Value>> {
        let words = [&["impair", &self.name, host], impairments].concat();
        let said = script(&words)?;
        said.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Has the gateway of a site without UDP let it out, as one that keeps ports does.
    ///
    /// # Errors
    /// The site is none of that kind.
    pub fn unblock(&self, host: &Host) -> Result<()> {
        let Host { name, outside, .. } = host;
        let rules = format!(
            "delete chain ip nat blocked; add rule ip nat translate iifname lan meta l4proto udp snat to {outside}"
        );
        let gateway = format!("{}-{name}-nat", self.name);
        finish(command_inside(&gateway, "nft", &[&rules]), "", COMMAND_LIMIT)?.success()?;
        Ok(())
    }

    /// Puts a new machine in the place of a host of a lan: same name, address and state folder, nothing else of the old
    /// one. Whatever ran there is ended.
    ///
    /// # Errors
    /// The lab is no lan, or a script fails.
    pub fn renew(&self, host: &Host) -> Result<()> {
        script(&["renew", &self.name, &host.name]).map(drop)
    }

    /// The NAT of `site` forgets all mappings, as one that starts anew does.
    ///
    /// # Errors
    /// It has none, or `conntrack` or `nft` fails.
    pub fn forget_mappings(&self, site: &str) -> Result<()> {
        let forget = "conntrack -F && for learnt in 'map ip nat mappings' 'map ip nat bindings' 'set ip nat peers'; do \
                      nft flush $learnt || exit; done";
        self.run_at(&format!("{site}-nat"), "sh", &["-c", forget])
    }

    /// Gives a host a second uplink that is not used yet, `eth1`: into the inside of the site `to`, whose NAT has one layer.
    ///
    /// # Errors
    /// An `ip` command fails.
    pub fn plug_in(&self, host: &Host, to: &Host) -> Result<()> {
        let (port, namespace) = (format!("{}-2nd", host.name), &host.namespace);
        let words =
            ["link", "add", "name", &port, "type", "veth", "peer", "name", "eth1", "netns", namespace];
        let nat = format!("{}-nat", to.name);
        self.run_at(&nat, "ip", &words)?;
        self.run_at(&nat, "ip", &["link", "set", "dev", &port, "master", "lan", "up"])
    }

    /// As [`Lab::run_in`], and it has to succeed.
    fn run_at(&self, place: &str, program: &str, arguments: &[&str]) -> Result<()> {
        self.run_in(place, program, arguments)?.success().map(drop)
    }

    /// Writes down what stands on each host at the moment of a failure, as far as it can be asked.
    fn keep_facts(&self) {
        for host in &self.hosts {
            let ask = "vpi=$0; for ask in \"$vpi status --drops\" 'ip address' 'ip route show table all' \
                       'ss -anp' 'nft list ruleset'; do echo \"# $ask\"; $ask 2>&1; done";
            let vpi = vpi_binary().unwrap_or_else(|_| "vpi".to_owned());
            if let Ok(answer) = host.run("sh", &["-c", ask, &vpi], COMMAND_LIMIT) {
                // The evidence is best effort: the failure itself is reported either way.
                let _ = fs::write(self.evidence.join(format!("{}.facts", host.name)), answer.stdout);
            }
        }
    }

    /// Where the files of this scenario lie that are kept if it fails.
    #[must_use]
    pub fn evidence(&self) -> &Path {
        &self.evidence
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.recording.take());
        if thread::panicking() {
            self.keep_facts();
        }
        if let Err(error) = script(&["down", &self.name]) {
            eprintln!("the lab {} is still up: {error:#}", self.name);
        }
        if thread::panicking() {
            eprintln!("evidence of the failure: {}", self.evidence.display());
        } else {
            // Nothing hangs on it: the next run of this scenario empties the folder first.
            let _ = fs::remove_dir_all(&self.evidence);
        }
    }
}

/// One namespace with an address, a state folder for its node and a log that is kept if the scenario fails.
#[derive(Clone, Debug)]
pub struct Host {
    /// `a`, `b`, `c` …
    pub name: String,
    /// Its own address.
    pub address: Ipv4Addr,
    /// The address that the internet sees: its NAT's, if it has one.
    pub outside: Ipv4Addr,
    /// The state folder of its node (`VPI_STATE`).
    pub state: PathBuf,
    /// Where its node's standard error is written.
    pub log: PathBuf,
    namespace: String,
    /// What its commands see in the place of a file of the machine.
    seen: Option<(PathBuf, &'static str)>,
}

impl Host {
    fn read(line: &str, lab: &str, evidence: &Path) -> Result<Self> {
        let mut words = line.split_whitespace();
        let mut word =
            || words.next().with_context(|| format!("a host's line is name, namespace, address: {line}"));
        let (name, namespace) = (word()?.to_owned(), word()?.to_owned());
        let address = word()?.parse()?;
        let outside = word().map_or(Ok(address), str::parse)?;
        let state = Path::new("/run/vpi-labs").join(lab).join(&name).join("state");
        let log = evidence.join(format!("{name}.log"));
        Ok(Self { name, address, outside, state, log, namespace, seen: None })
    }

    /// The same host, whose commands see `file` in the place of the machine's own `path`, which is not touched.
    #[must_use]
    pub fn seeing(&self, file: &Path, path: &'static str) -> Self {
        Self { seen: Some((file.to_owned(), path)), ..self.clone() }
    }

    /// Takes another address on `eth0`, in the place of all that it has, and another router: what a machine does that
    /// moves to another network. `self.address` stays what it was.
    ///
    /// # Errors
    /// An `ip` command fails.
    pub fn renumber(&self, address: Ipv4Addr, prefix: u8, router: Ipv4Addr) -> Result<()> {
        let script = format!(
            "ip address flush dev eth0 && ip address add {address}/{prefix} dev eth0 && \
             ip route add default via {router}"
        );
        self.run("sh", &["-c", &script], COMMAND_LIMIT)?.success()?;
        Ok(())
    }

    /// Moves from `eth0` to `eth1`, with another address and another router: what a machine does whose cable is pulled while it
    /// has a radio network. `self.address` stays what it was.
    ///
    /// # Errors
    /// An `ip` command fails.
    pub fn switch_uplink(&self, address: Ipv4Addr, prefix: u8, router: Ipv4Addr) -> Result<()> {
        let script = format!(
            "ip link set dev eth0 down && ip link set dev eth1 up && \
             ip address add {address}/{prefix} dev eth1 && ip route replace default via {router}"
        );
        self.run("sh", &["-c", &script], COMMAND_LIMIT)?.success()?;
        Ok(())
    }

    /// A command that will run on this host, with `VPI_STATE` set. It keeps its process id when it starts.
    #[must_use]
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = match &self.seen {
            None => command_inside(&self.namespace, program, arguments),
            Some((file, path)) => {
                // Each `ip netns exec` has mounts of its own.
                let words = [
                    "-c",
                    "mount --bind \"$0\" \"$1\" && shift && exec \"$@\"",
                    &file.to_string_lossy(),
                    path,
                ];
                command_inside(&self.namespace, "sh", &[&words[..], &[program], arguments].concat())
            }
        };
        command.env("VPI_STATE", &self.state);
        command
    }

    /// Runs a program on this host to its end, for at most `limit`.
    ///
    /// # Errors
    /// It does not start, or does not end in time.
    pub fn run(&self, program: &str, arguments: &[&str], limit: Duration) -> Result<Answer> {
        finish(self.command(program, arguments), "", limit)
    }

    /// Runs a `vpi` command on this host.
    ///
    /// # Errors
    /// It does not start, or does not end within [`COMMAND_LIMIT`].
    pub fn vpi(&self, arguments: &[&str]) -> Result<Answer> {
        self.vpi_reading("", arguments)
    }

    /// Runs a `vpi` command on this host, with `input` on its standard input.
    ///
    /// # Errors
    /// As [`Host::vpi`].
    pub fn vpi_reading(&self, input: &str, arguments: &[&str]) -> Result<Answer> {
        finish(self.command(&vpi_binary()?, arguments), input, COMMAND_LIMIT)
    }

    /// Runs `act` on a thread inside this host's namespace; the sockets that it opens belong there for good.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `act` fails.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = fs::File::open(Path::new("/run/netns").join(&self.namespace))?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                use std::os::fd::AsFd;
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                act()
            });
            inside.join().map_err(|_| anyhow!("a thread on host {} panicked", self.name))?
        })
    }
}

/// A command that will run inside a namespace.
pub(crate) fn command_inside(namespace: &str, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]).args(arguments);
    command
}

/// The binary under test: `VPI_BIN`, or `vpi` in the folder where this profile's binaries lie.
///
/// # Errors
/// There is no such file.
pub fn vpi_binary() -> Result<String> {
    let path = match std::env::var_os("VPI_BIN") {
        Some(path) => PathBuf::from(path),
        None => target_folder()?.join("release/vpi"),
    };
    ensure!(path.is_file(), "{} is missing: build it with cargo build --release -p node", path.display());
    Ok(path.to_string_lossy().into_owned())
}

/// The target folder of this build: the test binary lies in `TARGET/PROFILE/deps/`.
fn target_folder() -> Result<PathBuf> {
    let binary = std::env::current_exe()?;
    let folder = binary.ancestors().nth(3).context("the test binary lies in no target folder")?;
    Ok(folder.to_path_buf())
}

fn script(arguments: &[&str]) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../netns-scripts/run.sh");
    let output = Command::new(path).args(arguments).env("LAB_TRACE", "/dev/null").output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "run.sh {} failed: {stderr}", arguments.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}
