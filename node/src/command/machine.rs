//! Changing this machine for a VPI: as root, in the node's network namespace, then telling the node.

use std::io;
use std::path::Path;

use anyhow::Context as _;
use protocol::identity::VpiId;
use tracing::warn;

use super::{Context, node};
use crate::{
    control::{
        self, Exit, Failure,
        protocol::{Entered, Hello, Plan, Reply, Request},
        sentence,
    },
    loopback::{self, Firewall},
    names::hosts::{Change, Hosts, PATH},
    store::journal::{Installed, Journal},
};

/// Checks that this process may change the machine.
///
/// # Errors
/// A [`Failure`] when it does not run as root.
pub(crate) fn require_root(command: &str) -> Result<(), Failure> {
    require_root_for(command, "devices and routes")
}

/// Checks that this process may change `what` of the machine.
///
/// # Errors
/// A [`Failure`] when it does not run as root.
pub(crate) fn require_root_for(command: &str, what: &str) -> Result<(), Failure> {
    judge_root((command, what), rustix::process::geteuid().is_root())
}

fn judge_root((command, what): (&str, &str), is_root: bool) -> Result<(), Failure> {
    if is_root {
        return Ok(());
    }
    let message = format!("`vpi {command}` changes {what}, which only root may do");
    Err(Failure::new(Exit::Failed, message, format!("run it as root: sudo vpi {command} …")))
}

/// Asks the node who it is, and checks that both stand in one network namespace.
///
/// # Errors
/// A [`Failure`] when no node answers, or when what this process set up would not be where the node is.
pub(crate) fn meet_node(context: &Context) -> anyhow::Result<Hello> {
    let Reply::Hello(hello) = node::ask(context, &Request::Hello)? else { return Err(node::unexpected()) };
    let own = control::hello().context("cannot tell the own network namespace")?;
    judge_network(&own, &hello)?;
    Ok(hello)
}

fn judge_network(own: &Hello, node: &Hello) -> Result<(), Failure> {
    if own.network == node.network {
        return Ok(());
    }
    let message = "the node runs in another network namespace than this command";
    Err(Failure::new(
        Exit::Failed,
        message,
        "run the command where the node runs, for example with `ip netns exec`",
    ))
}

/// Sets this machine up for a VPI that was entered, then lets the node attach to its device.
///
/// # Errors
/// When the system refuses a part of it, or the node does not attach; membership itself stands.
pub(crate) fn settle(context: &Context, entered: &Entered, node: &Hello) -> anyhow::Result<()> {
    let settled = install(context, &entered.plan, node.uid).and_then(|()| attach(context, entered.id));
    refresh_names(context);
    settled.map_err(|error| {
        let message = format!(
            "{} is entered, but this machine is not set up for it: {}",
            entered.name,
            sentence(&error)
        );
        Failure::new(Exit::Failed, message, "restart `vpi up` as root, which sets up all VPIs").into()
    })
}

/// Rewrites the block of names in `/etc/hosts`, if it is installed. What cannot be done is told and harms nothing else.
pub(crate) fn refresh_names(context: &Context) {
    rewrite_names(context, |hosts| Ok(hosts.refresh(&super::hosts::known(context)?)?));
}

/// Takes the names of VPIs that were taken off this machine out of the block, if it is installed.
pub(crate) fn drop_names(context: &Context, plans: &[Plan]) {
    let prefixes: Vec<_> = plans.iter().map(|plan| plan.prefix).collect();
    rewrite_names(context, |hosts| Ok(hosts.drop_prefixes(&prefixes)?));
}

fn rewrite_names(context: &Context, rewrite: impl Fn(&Hosts) -> anyhow::Result<Change>) {
    let rewritten = Hosts::new(Path::new(PATH), &context.door.state)
        .map_err(Into::into)
        .and_then(|hosts| if hosts.is_installed()? { rewrite(&hosts) } else { Ok(Change::None) });
    if let Err(error) = rewritten {
        warn!(cause = %sentence(&error), "the names in /etc/hosts are not those of the members");
    }
}

fn install(context: &Context, plan: &Plan, owner_uid: u32) -> anyhow::Result<()> {
    let checked = checked(plan)?;
    Journal::begin(&context.door.state, &Installed::from(&checked))?;
    let firewall = wait_for(loopback::install(&checked, owner_uid))??;
    if firewall == Firewall::NoNft {
        warn!(device = plan.device, "nft is not installed: set up without the firewall table");
    }
    Ok(())
}

fn attach(context: &Context, vpi: VpiId) -> anyhow::Result<()> {
    match node::ask(context, &Request::Attach { vpi })? {
        Reply::Done => Ok(()),
        _ => Err(node::unexpected()),
    }
}

/// Puts the firewall table in force as `plan` has it, after what is exposed changed. `false` when this VPI is not on the
/// machine, where the next set-up does it.
///
/// # Errors
/// When the system refuses; the former table is then in force.
pub(crate) fn expose(plan: &Plan) -> anyhow::Result<bool> {
    let firewall = wait_for(loopback::expose(&checked(plan)?))??;
    if firewall == Some(Firewall::NoNft) {
        warn!(device = plan.device, "nft is not installed: the node's filter stands alone");
    }
    Ok(firewall.is_some())
}

/// Takes one VPI's device, routes and guard off this machine; what is not there is no error.
///
/// # Errors
/// When the system refuses.
pub(crate) fn clear(context: &Context, plan: &Plan) -> anyhow::Result<()> {
    let checked = checked(plan)?;
    let removed = wait_for(loopback::remove(&checked))?;
    removed.with_context(|| format!("cannot take {} off this machine", plan.device))?;
    Ok(Journal::end(&context.door.state, &Installed::from(&checked))?)
}

fn checked(plan: &Plan) -> anyhow::Result<loopback::Plan> {
    let exposed = plan.exposed.iter().map(|service| (service.proto, service.port));
    Ok(loopback::Plan::new(&plan.device, plan.prefix, plan.own)?.exposing(exposed))
}

/// Runs `work` on a runtime of its own.
///
/// # Errors
/// When the system gives no runtime.
pub(super) fn wait_for<T>(work: impl Future<Output = T>) -> io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_root_the_command_is_named_with_what_to_do() {
        let failure = judge_root(("join", "devices"), false).unwrap_err();
        assert_eq!(failure.exit, Exit::Failed);
        assert!(failure.message.contains("vpi join") && failure.advice.contains("sudo"));
        assert_eq!(judge_root(("join", "devices"), true), Ok(()));
    }

    #[test]
    fn a_node_in_another_network_namespace_is_refused() {
        let own = control::hello().unwrap();
        assert_eq!(judge_network(&own, &own.clone()), Ok(()));
        let failure = judge_network(&own, &Hello { network: own.network + 1, ..own.clone() }).unwrap_err();
        assert_eq!(failure.exit, Exit::Failed);
    }
}
