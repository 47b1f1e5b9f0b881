//! `vpi status`: one line a VPI, one line a member.

use std::collections::BTreeMap;

use clap::Args;

use super::{Context, node, output};
use crate::control::{
    Exit,
    protocol::{Reply, Request},
    status::{MemberStatus, PathStatus, Status, VpiStatus},
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The VPI; all of them when left out.
    vpi: Option<String>,
    /// Also show what was dropped, by reason.
    #[arg(long)]
    drops: bool,
}

/// Asks for the state and prints it.
pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<Exit> {
    let request = Request::Status { vpi: arguments.vpi, drops: arguments.drops };
    let Reply::Status(status) = node::ask(context, &request)? else { return Err(node::unexpected()) };
    if context.json {
        output::json(&status)?;
    } else {
        output::line(&describe(&status))?;
    }
    Ok(Exit::Done)
}

/// Lays a status out for people.
pub(crate) fn describe(status: &Status) -> String {
    if status.vpis.is_empty() {
        return "no VPI yet: `vpi create NAME` founds one, `vpi join` joins one".to_owned();
    }
    status.vpis.iter().map(describe_vpi).collect::<Vec<_>>().join("\n\n")
}

fn describe_vpi(vpi: &VpiStatus) -> String {
    let count = vpi.members.len();
    let mut text = format!(
        "{}  {}  {}  port {}  epoch {}  {count} {}  id {}\n",
        vpi.name,
        vpi.alias,
        vpi.device,
        vpi.port,
        vpi.epoch,
        if count == 1 { "member" } else { "members" },
        vpi.id
    );
    let head = ["NAME", "ALIAS", "STATE", "PATH", "RTT", "RECEIVED", "SENT", "LAST SEEN"].map(str::to_owned);
    let rows: Vec<_> = [head].into_iter().chain(vpi.members.iter().map(member_row)).collect();
    text.push_str(&output::indent(&output::table(&rows)));
    if vpi.members.iter().any(|member| !member.alias_usual) {
        text.push_str("\n  * most other machines know this member under another alias");
    }
    for notice in &vpi.notices {
        text.push_str(&format!("\n  ! {notice}"));
    }
    if let Some(drops) = &vpi.drops {
        text.push_str(&describe_drops(drops));
    }
    text
}

fn member_row(member: &MemberStatus) -> [String; 8] {
    let absent = || "-".to_owned();
    [
        member.name.clone(),
        format!("{}{}", member.alias, if member.alias_usual { "" } else { " *" }),
        member.state.to_string(),
        member.path.as_ref().map_or_else(absent, describe_path),
        member.path.as_ref().and_then(|path| path.rtt_ms).map_or_else(absent, output::rtt),
        output::bytes(member.rx_bytes),
        output::bytes(member.tx_bytes),
        member.last_seen.map_or_else(absent, |time| time.to_string()),
    ]
}

fn describe_path(path: &PathStatus) -> String {
    match &path.via {
        Some(via) => format!("{} via {via}", path.kind),
        None => format!("{} {}", path.kind, path.remote),
    }
}

fn describe_drops(drops: &BTreeMap<String, u64>) -> String {
    if drops.is_empty() {
        return "\n\n  nothing was dropped".to_owned();
    }
    let head = ["DROPPED".to_owned(), "TIMES".to_owned()];
    let rows = drops.iter().map(|(reason, count)| [reason.clone(), count.to_string()]);
    format!("\n\n{}", output::indent(&output::table(&[head].into_iter().chain(rows).collect::<Vec<_>>())))
}
