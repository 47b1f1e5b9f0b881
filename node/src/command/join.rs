//! `vpi join`: reads a token from where no other user can see it, and joins.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, IsTerminal as _, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use zeroize::Zeroizing;

use super::{Context, argument, create::Facts, machine, node, output};
use crate::control::{
    Exit, Failure,
    protocol::{Hidden, Join, Reply, Request},
};

/// The longest text taken for a token; tokens have about 800 characters.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Name of this device in the VPI [default: the host name].
    #[arg(long = "name", value_name = "N", value_parser = argument::member_name)]
    member_name: Option<String>,
    /// UDP port [default: the node chooses].
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Address under which others reach this device; may be repeated.
    #[arg(long = "endpoint", value_name = "IP:PORT", value_parser = argument::endpoint)]
    endpoints: Vec<SocketAddr>,
    /// File that holds the token [default: standard input].
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    // Taken only to be refused without being shown: `clap` would repeat it in its error.
    #[arg(hide = true)]
    stray: Vec<OsString>,
}

/// Joins, sets the machine up, prints the own alias.
pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<Exit> {
    if !arguments.stray.is_empty() {
        let message = "a token does not go on the command line, where other users of this machine can see it";
        let advice = "give it on standard input or with --token-file, and consider it known to others";
        return Err(Failure::new(Exit::Usage, message, advice).into());
    }
    machine::require_root("join")?;
    let hello = machine::meet_node(context)?;
    let token = match &arguments.token_file {
        Some(path) => token_from_file(path)?,
        None => token_from_stdin()?,
    };
    let request = Request::Join(Join {
        token,
        member_name: arguments.member_name.unwrap_or_else(argument::default_member_name),
        port: arguments.port,
        endpoints: arguments.endpoints,
    });
    let Reply::Entered(entered) = node::ask(context, &request)? else { return Err(node::unexpected()) };
    drop(request);
    let settled = machine::settle(context, &entered, &hello);
    if context.json {
        output::json(&Facts::new(&entered, None))?;
    } else {
        let (name, alias) = (&entered.name, entered.plan.own);
        output::line(&format!(
            "joined {name}, this device is {alias}\nNext: `vpi status {name}` shows who is there; \
             `vpi ping MEMBER.{name}` measures the way."
        ))?;
    }
    settled.map(|()| Exit::Done)
}

fn token_from_file(path: &Path) -> anyhow::Result<Hidden> {
    let file = File::open(path).with_context(|| format!("cannot open the token file {}", path.display()))?;
    read_token(file)
}

fn token_from_stdin() -> anyhow::Result<Hidden> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        output::note("Paste the token, then press Enter:");
        let mut line = Zeroizing::new(String::new());
        stdin.read_line(&mut line).context("cannot read the token")?;
        return read_token(line.as_bytes());
    }
    read_token(stdin.lock())
}

/// Reads all of `source`, without the white space that a mail program may have put into it.
pub(crate) fn read_token(source: impl Read) -> anyhow::Result<Hidden> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_TOKEN_BYTES + 1));
    source.take(MAX_TOKEN_BYTES as u64 + 1).read_to_end(&mut bytes).context("cannot read the token")?;
    let is_text = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || byte.is_ascii_whitespace());
    let short_enough = bytes.len() <= MAX_TOKEN_BYTES;
    let mut token = Hidden(String::with_capacity(bytes.len()));
    token.0.extend(bytes.iter().filter(|byte| !byte.is_ascii_whitespace()).map(|byte| char::from(*byte)));
    if token.0.is_empty() {
        let advice = "pipe it in, or name a file with --token-file";
        return Err(Failure::new(Exit::Usage, "there is no token on the input", advice).into());
    }
    let prefix = token.0.get(..4).unwrap_or_default();
    if !is_text || !short_enough || !prefix.eq_ignore_ascii_case("vpi1") {
        let advice = "copy the whole token that `vpi invite` printed, from vpi1 to its end";
        return Err(Failure::new(Exit::Refused, "this is not a token", advice).into());
    }
    Ok(token)
}
