//! The local socket between a command and the running node.
//!
//! ```text
//! command ── client::Door ──► DIR/control.sock ──► server::Server ── Call ──► driver
//! ```
//!
//! In the node, [`server`] takes a request in, judges who asks, and hands a [`server::Call`] to the driver, which
//! answers at its leisure. In a command, [`client`] asks and reads the replies. [`protocol`] says what the two
//! say to each other, [`status`], [`members`] and [`reach`] the promised JSON, [`exit`] how a command ends.

pub(crate) mod client;
pub(crate) mod exit;
mod id;
pub(crate) mod members;
pub(crate) mod netcheck;
pub(crate) mod protocol;
pub(crate) mod reach;
pub(crate) mod server;
pub(crate) mod status;
pub(crate) mod why;

#[cfg(test)]
mod tests;

use std::io;

use self::protocol::Hello;
use crate::loopback;

pub(crate) use self::exit::{Exit, Failure, sentence};

/// Says who this process is: what the node answers to `Hello`, and what a command compares with it.
///
/// # Errors
/// When `/proc` is not mounted.
pub(crate) fn hello() -> io::Result<Hello> {
    Ok(Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uid: rustix::process::geteuid().as_raw(),
        network: loopback::net_namespace()?,
    })
}
