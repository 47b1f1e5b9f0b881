//! `vpi request-code`: this device's code, for an invite that no other device can use.

use clap::Args;

use super::{Context, code, node, output};
use crate::control::{
    Exit, Failure,
    client::AskError,
    protocol::{Reply, Request},
};
use crate::store::keys::Keys;
use protocol::identity::DeviceId;

#[derive(Debug, Args)]
pub(crate) struct Arguments {}

/// Asks the node, which draws the device's key if it has none; without a node, the key on disk does.
pub(crate) fn run(context: &Context, _: &Arguments) -> anyhow::Result<Exit> {
    let device = match context.door.ask(&Request::Device, |_| Ok(())) {
        Ok(Reply::Device { id }) => DeviceId::from_hex(&id).ok_or_else(node::unexpected)?,
        Ok(_) => return Err(node::unexpected()),
        Err(error @ AskError::NoNode(_)) => stored(context, error)?,
        Err(error) => return Err(Failure::from(error).into()),
    };
    let code = code::write(&device);
    if context.json {
        output::json(&serde_json::json!({ "code": code, "id": device.to_string() }))?;
    } else {
        output::line(&code)?;
        output::note("on a member that may invite: vpi invite VPI --device CODE");
    }
    Ok(Exit::Done)
}

/// The key that an earlier node drew: its owner is the node's, so that a command makes none.
fn stored(context: &Context, no_node: AskError) -> anyhow::Result<DeviceId> {
    let known = Keys::peek_device(&context.door.state)?;
    known.ok_or_else(|| {
        let no_node = Failure::from(no_node);
        let message = format!("this device has no key yet, and {}", no_node.message);
        Failure::new(no_node.exit, message, no_node.advice).into()
    })
}
