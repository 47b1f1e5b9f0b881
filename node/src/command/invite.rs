//! `vpi invite`: prints a token with which another device joins.
//!
//! The token alone goes to standard output, or to a file; what is said about it goes to standard error, so that
//! `vpi invite home | ssh nas sudo vpi join` works.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use protocol::identity::DeviceId;
use qrcode::{QrCode, render::unicode::Dense1x2};
use zeroize::Zeroizing;

use super::{Context, argument, node, output};
use crate::control::{
    Exit, Failure,
    protocol::{Invite, Invited, Reply, Request},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The VPI: its name here, or its id.
    vpi: String,
    /// Name that the joining device must take.
    #[arg(long, value_name = "N", value_parser = argument::member_name)]
    name: Option<String>,
    /// How many devices may join with the token, up to 1000.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    uses: u16,
    /// How long the token holds: a number and s, m, h or d, up to 30d.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = argument::lifetime)]
    expires: u32,
    /// Code of the only device that may join.
    #[arg(long, value_name = "CODE", value_parser = argument::device)]
    device: Option<DeviceId>,
    /// Write the token to this file, which must not exist, instead of standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also draw the token as a QR code on standard error.
    #[arg(long)]
    qr: bool,
    /// Sign although no other member could be asked what happened meanwhile.
    #[arg(long)]
    offline: bool,
}

/// Lets the node sign an invite and hands out its token.
pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<Exit> {
    // Opened before the invite is made: a token that cannot be written would be lost.
    let mut file = arguments.out.as_deref().map(create_private).transpose()?;
    let request = Request::Invite(Invite {
        vpi: arguments.vpi,
        name: arguments.name,
        uses: arguments.uses,
        expires_s: arguments.expires,
        device: arguments.device,
        offline: arguments.offline,
    });
    let invited = node::ask(context, &request).and_then(|reply| match reply {
        Reply::Invited(invited) => Ok(invited),
        _ => Err(node::unexpected()),
    });
    if invited.is_err()
        && let Some(path) = &arguments.out
    {
        // Created above and still empty.
        let _ = fs::remove_file(path);
    }
    let invited = invited?;
    print(context, &invited, file.as_mut()).map_err(|error| {
        let message =
            format!("invite {} was made, but its token could not be written: {error}", invited.invite);
        Failure::new(Exit::Failed, message, "make another one")
    })?;
    explain(&arguments.out, &invited);
    if arguments.qr {
        output::note(&draw(&invited.token.0)?);
    }
    Ok(Exit::Done)
}

/// Creates a file that only its owner reads; an existing one is left alone.
pub(crate) fn create_private(path: &Path) -> anyhow::Result<File> {
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    created.map_err(|error| {
        let message = format!("cannot create the token file {}: {error}", path.display());
        Failure::new(Exit::Failed, message, "name a file that does not exist, in a folder of yours").into()
    })
}

fn print(context: &Context, invited: &Invited, file: Option<&mut File>) -> io::Result<()> {
    let has_file = file.is_some();
    if let Some(file) = file {
        let line = Zeroizing::new(format!("{}\n", invited.token.0));
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
    }
    match (context.json, has_file) {
        (true, _) => output::json(invited),
        (false, true) => Ok(()),
        (false, false) => output::line(&invited.token.0),
    }
}

fn explain(file: &Option<PathBuf>, invited: &Invited) {
    let devices =
        if invited.uses == 1 { "one device".to_owned() } else { format!("{} devices", invited.uses) };
    output::note(&format!("invite {} lets {devices} join until {}", invited.invite, invited.expires));
    match file {
        Some(path) => {
            output::note(&format!("on the other device: sudo vpi join --token-file {}", path.display()));
        }
        None => output::note(
            "on the other device: sudo vpi join, then paste the token; keep it secret until used",
        ),
    }
}

/// Draws `token` for a terminal with a dark background; upper case takes the denser alphanumeric mode.
pub(crate) fn draw(token: &str) -> anyhow::Result<String> {
    let text = Zeroizing::new(token.to_ascii_uppercase());
    let code = QrCode::new(text.as_bytes()).context("the token is too long for a QR code")?;
    Ok(code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}
