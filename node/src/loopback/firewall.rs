//! One nftables table a VPI, named as its device, that repeats in the kernel what node/README, On the machine, promises.
//!
//! It names only its own device and /16, and replaces only itself, in one transaction of `nft -f -`.

use std::fmt;
use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use super::{LoopbackError, Plan, Transport};

/// Where `nft` is looked for: the search path of a user who became root often lacks `sbin`.
const PROGRAMS: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];

/// Whether the table is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Firewall {
    /// It is.
    Loaded,
    /// There is no `nft` on this machine: the node's own filter stands alone, which is worth a warning.
    NoNft,
}

/// Loads the table of `plan`, in place of the one that is there.
///
/// # Errors
/// [`LoopbackError::Firewall`] when nft refuses it, [`LoopbackError::Io`] when nft cannot be run.
pub(super) fn load(plan: &Plan) -> Result<Firewall, LoopbackError> {
    feed(plan, &Table(plan).to_string())
}

/// Removes the table of `plan`, if it is there.
///
/// # Errors
/// As [`load`].
pub(super) fn unload(plan: &Plan) -> Result<Firewall, LoopbackError> {
    feed(plan, &Emptied(plan).to_string())
}

/// Whether the table is there; a caller without the right to ask is told no.
pub(super) fn is_loaded(plan: &Plan) -> bool {
    matches!(list(&["table", "ip", plan.device()]), Ok(Listing::Json(_)))
}

/// What nft says of the rules in force.
#[derive(Debug)]
pub(crate) enum Listing {
    /// Its JSON (libnftables-json(5)).
    Json(String),
    /// There is no `nft` on this machine.
    NoNft,
    /// The first line of its refusal; it refuses everybody but root.
    Refused(String),
}

/// Lists every rule of this network namespace.
///
/// # Errors
/// When nft cannot be run.
pub(crate) fn ruleset() -> io::Result<Listing> {
    list(&["ruleset"])
}

/// The text of one rule, as nft writes it, found by its handle.
pub(crate) fn rule_text((family, table): (&str, &str), chain: &str, handle: u64) -> Option<String> {
    let ask =
        |program| Command::new(program).args(["-a", "list", "chain", family, table, chain]).output().ok();
    let output = PROGRAMS.into_iter().find_map(ask)?;
    let mark = format!(" # handle {handle}");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().find_map(|line| line.strip_suffix(&mark)).map(|rule| rule.trim().to_owned())
}

fn list(what: &[&str]) -> io::Result<Listing> {
    for program in PROGRAMS {
        match Command::new(program).args(["-j", "list"]).args(what).stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => {
                return Ok(Listing::Json(String::from_utf8_lossy(&output.stdout).into_owned()));
            }
            Ok(output) => return Ok(Listing::Refused(first_line(&output))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Listing::NoNft)
}

/// The two statements that remove a table whether or not it is there: the first makes it, if need be.
struct Emptied<'a>(&'a Plan);

impl fmt::Display for Emptied<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.0.device();
        writeln!(to, "table ip {device}\ndelete table ip {device}")
    }
}

/// The whole script.
struct Table<'a>(&'a Plan);

impl fmt::Display for Table<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, prefix, own) = (self.0.device(), self.0.prefix(), self.0.own());
        let (exposed_in, exposed_out) = (Exposed(self.0, "dport"), Exposed(self.0, "sport"));
        write!(to, "{}", Emptied(self.0))?;
        // `input` and `postrouting` see a packet after others' translations, so no rule of theirs
        // leads past these. `prerouting` claims the connection before others' port forwarding does.
        // An `accept` here ends this chain only: others' chains judge the packet, too.
        write!(
            to,
            r#"table ip {device} {{
  chain input {{
    type filter hook input priority filter; policy accept;
    ip daddr {prefix}/16 iifname != {{ "lo", "{device}" }} drop
    iifname "{device}" ip daddr {own} accept
{exposed_in}    iifname "{device}" drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "{device}" drop
    oifname "{device}" drop
  }}
  chain postrouting {{
    type filter hook postrouting priority srcnat + 1; policy accept;
    oifname "{device}" ip saddr {own} accept
{exposed_out}    oifname "{device}" drop
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat - 1; policy accept;
    iifname "{device}" ip daddr {own} dnat to {own}
    iifname "{device}" ip daddr 127.0.0.1 dnat to 127.0.0.1
  }}
}}
"#
        )
    }
}

/// The rules that let exposed services through, one a transport: in by their destination port (`dport`), out by their
/// source port (`sport`).
struct Exposed<'a>(&'a Plan, &'static str);

impl fmt::Display for Exposed<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(plan, field) = self;
        let at = if *field == "dport" { "iifname" } else { "oifname" };
        let address = if *field == "dport" { "daddr" } else { "saddr" };
        for transport in [Transport::Tcp, Transport::Udp] {
            let ports =
                plan.exposed().iter().filter(|(of, _)| *of == transport).map(|(_, port)| port.to_string());
            let ports = ports.collect::<Vec<_>>().join(", ");
            if !ports.is_empty() {
                let device = plan.device();
                writeln!(
                    to,
                    r#"    {at} "{device}" ip {address} 127.0.0.1 {transport} {field} {{ {ports} }} accept"#
                )?;
            }
        }
        Ok(())
    }
}

fn feed(plan: &Plan, script: &str) -> Result<Firewall, LoopbackError> {
    for program in PROGRAMS {
        match run(program, script) {
            Ok(output) if output.status.success() => return Ok(Firewall::Loaded),
            Ok(output) => return Err(refusal(plan, &output)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(LoopbackError::Io { step: format!("running {program}"), source }),
        }
    }
    Ok(Firewall::NoNft)
}

fn run(program: &str, script: &str) -> io::Result<Output> {
    let mut nft = Command::new(program)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    // A script fits the pipe, and nft that ends early says why on its standard error.
    let mut to = nft.stdin.take().expect("standard input is piped above");
    let written = to.write_all(script.as_bytes());
    drop(to);
    let output = nft.wait_with_output()?;
    if output.status.success() {
        written?;
    }
    Ok(output)
}

fn refusal(plan: &Plan, output: &Output) -> LoopbackError {
    LoopbackError::Firewall { device: plan.device().to_owned(), said: first_line(output) }
}

fn first_line(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines().next().unwrap_or("it gave no reason").to_owned()
}
