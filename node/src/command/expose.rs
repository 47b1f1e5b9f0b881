//! `vpi expose`, `unexpose`, `exposures` and `policy`: what members reach on this machine.
//!
//! The node writes the change down and its filter follows; then this command, as root, puts the firewall table in force.

use clap::Args;

use super::{Context, machine, node, output};
use crate::control::{
    Exit, Failure,
    protocol::{Reply, Request},
    reach::{Expose, Exposed, Named, Opened, Reachable},
    sentence,
};
use crate::store::reach::{Policy, Service};

#[derive(Debug, Args)]
pub(crate) struct ExposeArguments {
    /// The VPI: its name here, or its id.
    vpi: String,
    /// The service on 127.0.0.1: tcp/PORT or udp/PORT.
    #[arg(value_name = "PROTO/PORT")]
    service: Service,
    /// A member that may reach it; may be repeated [default: every member].
    #[arg(long, value_name = "MEMBER")]
    to: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UnexposeArguments {
    /// The VPI: its name here, or its id.
    vpi: String,
    /// The service: tcp/PORT or udp/PORT.
    #[arg(value_name = "PROTO/PORT")]
    service: Service,
}

#[derive(Debug, Args)]
pub(crate) struct ExposuresArguments {
    /// The VPI; all of them when left out.
    vpi: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PolicyArguments {
    /// The VPI: its name here, or its id.
    vpi: String,
    /// What members reach beyond the exposures; told, not changed, when left out.
    policy: Option<Policy>,
}

/// Lets members reach a service on 127.0.0.1.
pub(crate) fn expose(context: &Context, arguments: ExposeArguments) -> anyhow::Result<Exit> {
    let service = arguments.service;
    let request = Request::Expose(Expose { vpi: arguments.vpi, service, to: arguments.to });
    let reach = change(context, "expose", &request)?;
    output::note(
        "members come from their 127.x aliases: a service that trusts every local connection trusts them too",
    );
    if context.json {
        output::json(&reach)?;
    } else {
        let exposed = reach.exposures.iter().find(|exposed| exposed.service() == service);
        let to = exposed.map_or_else(String::new, |exposed| format!(" for {}", describe_to(exposed)));
        output::line(&format!("{service} on 127.0.0.1 is open in {}{to}", reach.vpi))?;
    }
    Ok(Exit::Done)
}

/// Closes a service again.
pub(crate) fn unexpose(context: &Context, arguments: UnexposeArguments) -> anyhow::Result<Exit> {
    let service = arguments.service;
    let request = Request::Unexpose { vpi: arguments.vpi, service };
    let reach = change(context, "unexpose", &request)?;
    if context.json {
        output::json(&reach)?;
    } else {
        output::line(&format!("{service} on 127.0.0.1 is closed in {}", reach.vpi))?;
    }
    Ok(Exit::Done)
}

/// Chooses what members reach beyond the exposures, or tells it.
pub(crate) fn policy(context: &Context, arguments: PolicyArguments) -> anyhow::Result<Exit> {
    let reach = match arguments.policy {
        Some(policy) => change(context, "policy", &Request::Policy { vpi: arguments.vpi, policy })?,
        None => ask(context, Some(arguments.vpi))?.pop().ok_or_else(node::unexpected)?,
    };
    if context.json {
        output::json(&reach)?;
    } else {
        output::line(&describe_policy(&reach))?;
    }
    Ok(Exit::Done)
}

/// Prints what members reach.
pub(crate) fn exposures(context: &Context, arguments: ExposuresArguments) -> anyhow::Result<Exit> {
    let all = ask(context, arguments.vpi)?;
    if context.json {
        output::json(&serde_json::json!({ "vpis": all }))?;
    } else {
        output::line(&describe(&all))?;
    }
    Ok(Exit::Done)
}

fn ask(context: &Context, vpi: Option<String>) -> anyhow::Result<Vec<Reachable>> {
    match node::ask(context, &Request::Exposures { vpi })? {
        Reply::Reachable(all) => Ok(all),
        _ => Err(node::unexpected()),
    }
}

/// Makes a change in the node, then on the machine.
fn change(context: &Context, command: &str, request: &Request) -> anyhow::Result<Reachable> {
    machine::require_root(command)?;
    machine::meet_node(context)?;
    let Reply::Opened(Opened { plan, reach }) = node::ask(context, request)? else {
        return Err(node::unexpected());
    };
    match machine::expose(&plan) {
        Ok(true) => {}
        Ok(false) => output::note(&format!(
            "{} is not on this machine at the moment: the change is in force from the next `vpi up`",
            reach.vpi
        )),
        Err(error) => {
            let message = format!(
                "the node has the change, but the firewall table of {} could not be changed: {}",
                plan.device,
                sentence(&error)
            );
            let advice = "restart `vpi up` as root, which sets up all VPIs";
            return Err(Failure::new(Exit::Failed, message, advice).into());
        }
    }
    Ok(reach)
}

/// Lays out for people what members reach.
pub(crate) fn describe(all: &[Reachable]) -> String {
    if all.is_empty() {
        return "no VPI yet: `vpi create NAME` founds one, `vpi join` joins one".to_owned();
    }
    all.iter().map(describe_one).collect::<Vec<_>>().join("\n\n")
}

fn describe_one(reach: &Reachable) -> String {
    let head = describe_policy(reach);
    if reach.exposures.is_empty() {
        return format!("{head}\n  no service on 127.0.0.1 is exposed");
    }
    let names = ["SERVICE".to_owned(), "FOR".to_owned()];
    let rows = reach.exposures.iter().map(|exposed| [exposed.service().to_string(), describe_to(exposed)]);
    let rows: Vec<_> = [names].into_iter().chain(rows).collect();
    format!("{head}\n{}", output::indent(&output::table(&rows)))
}

fn describe_policy(reach: &Reachable) -> String {
    let meaning = match reach.policy {
        Policy::OwnAlias => "members reach what listens on the own alias or on 0.0.0.0, and the exposures",
        Policy::ExposedOnly => "members reach the exposures, and nothing else",
    };
    format!("{}  {}: {meaning}", reach.vpi, reach.policy)
}

fn describe_to(exposed: &Exposed) -> String {
    let name = |named: &Named| named.member.clone().unwrap_or_else(|| format!("{} (no member)", named.id));
    match &exposed.to {
        None => "every member".to_owned(),
        Some(to) => to.iter().map(name).collect::<Vec<_>>().join(", "),
    }
}
