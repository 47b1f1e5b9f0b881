//! Each VPI's set-up against its plan, and the journal against the VPIs that are here.

use super::repair::{self, Repair};
use super::{Facts, Finding, table};
use crate::loopback::{self, DEVICE_PREFIX, LoopbackError, Plan};
use crate::store::journal::Installed;
use crate::store::settings::VpiSettings;

const MEND: &str = "run `vpi doctor --fix` as root, or restart `vpi up` as root";

/// Judges every VPI, then what is left of others.
pub(super) async fn examine(facts: &Facts, findings: &mut Vec<Finding>) {
    for vpi in &facts.vpis {
        match Plan::of(vpi) {
            Ok(plan) => judge(facts, vpi, &plan, findings).await,
            Err(error) => {
                findings.push(Finding::problem(&vpi.device, error.to_string(), "mend its vpi.toml"));
            }
        }
    }
    for installed in facts.journal.iter().flat_map(|journal| &journal.vpi) {
        if !facts.vpis.iter().any(|vpi| is_of(installed, vpi)) {
            findings.push(left_over(facts, installed).await);
        }
    }
    strangers(facts, findings).await;
}

fn is_of(installed: &Installed, vpi: &VpiSettings) -> bool {
    (&installed.device, installed.prefix, installed.own) == (&vpi.device, vpi.prefix, vpi.alias)
}

async fn judge(facts: &Facts, vpi: &VpiSettings, plan: &Plan, findings: &mut Vec<Finding>) {
    let is_wanted =
        facts.journal.as_ref().is_some_and(|journal| journal.vpi.iter().any(|other| is_of(other, vpi)));
    let mend = |finding: Finding| match facts.owner_uid {
        Some(owner_uid) => finding.mended_by(Repair::Install { plan: plan.clone(), owner_uid }),
        None => finding,
    };
    let missing = match loopback::missing(plan).await {
        Ok(missing) => missing,
        Err(error) => return findings.push(Finding::unseen(plan.device(), error.to_string(), "")),
    };
    if !is_wanted && facts.is_running != Some(true) && !missing.is_empty() {
        let what = format!("{} is not set up on this machine", vpi.name);
        return findings.push(Finding::note(plan.device(), what, "`vpi up` as root sets it up"));
    }
    if !missing.is_empty() {
        let parts: Vec<_> = missing.iter().map(ToString::to_string).collect();
        let what = format!("of its set-up, this is missing: {}", parts.join(", "));
        findings.push(mend(Finding::problem(plan.device(), what, MEND)));
    }
    if let Some(fault) = facts.ruleset.as_ref().and_then(|ruleset| table::fault(ruleset, plan)) {
        findings.push(mend(Finding::problem(plan.device(), fault, MEND)));
    }
}

/// What the journal names and no VPI here needs.
async fn left_over(facts: &Facts, installed: &Installed) -> Finding {
    let device = &installed.device;
    let present = match repair::plan(installed) {
        Ok(plan) => loopback::present(&plan).await,
        Err(error) => Err(error),
    };
    match present {
        Ok(present) if present.is_empty() => {
            let what = "the journal names it, and nothing of it is left";
            Finding::note(device, what, "`vpi doctor --fix` strikes it out")
                .mended_by(Repair::Forget(installed.clone()))
        }
        Ok(present) => {
            let what = format!("left over of a VPI that is not here: {}", present.join(", "));
            let repair = if facts.vpis.iter().any(|vpi| vpi.device == *device) {
                Repair::RemoveGuard(installed.clone())
            } else {
                Repair::Remove(installed.clone())
            };
            Finding::problem(device, what, "run `vpi doctor --fix` as root").mended_by(repair)
        }
        // What cannot be ours is left alone.
        Err(error @ (LoopbackError::Device(_) | LoopbackError::Prefix(_) | LoopbackError::Own(_))) => {
            Finding::problem(
                "state",
                format!("the journal cannot be right: {error}"),
                "`vpi doctor --fix` strikes it out",
            )
            .mended_by(Repair::Forget(installed.clone()))
        }
        Err(error) => Finding::unseen(device, error.to_string(), ""),
    }
}

/// Devices that look like ours and are not in this state folder: another node's, or somebody's leftover.
async fn strangers(facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(journal) = &facts.journal else { return };
    for device in loopback::devices_up().await.unwrap_or_default() {
        let is_known = facts.vpis.iter().any(|vpi| vpi.device == device)
            || journal.vpi.iter().any(|installed| installed.device == device);
        if device.starts_with(DEVICE_PREFIX) && !is_known {
            let what = "this device is not in this state folder: it is another node's, or left over of one";
            findings.push(Finding::note(
                &device,
                what,
                format!("if no node uses it: ip link delete {device}"),
            ));
        }
    }
}
