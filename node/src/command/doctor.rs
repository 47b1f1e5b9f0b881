//! `vpi doctor`: what is wrong or left over on this machine, and its repair.

use clap::Args;
use serde_json::json;

use super::{Context, machine, output};
use crate::control::{Exit, sentence};
use crate::doctor::{self, Finding, Level};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Repair what is ours: parts of the set-up that are missing, what a crash left, modes that are too wide.
    #[arg(long)]
    fix: bool,
}

/// Looks, repairs if told to, and looks again: the exit code is 1 as long as a problem is there.
pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<Exit> {
    let look = || machine::wait_for(doctor::examine(&context.door));
    let mut findings = look()?;
    let mut repaired = Vec::new();
    if arguments.fix && findings.iter().any(Finding::is_repairable) {
        machine::require_root("doctor --fix")?;
        for result in machine::wait_for(doctor::repair(&context.door.state, &findings))? {
            match result {
                Ok(line) => repaired.push(line),
                Err(error) => output::note(&format!("not repaired: {}", sentence(&error))),
            }
        }
        findings = look()?;
    }
    let is_well = findings.iter().all(|finding| finding.level != Level::Problem);
    if context.json {
        output::json(&json!({ "well": is_well, "repaired": repaired, "findings": findings }))?;
    } else {
        for line in &repaired {
            output::line(&format!("repaired  {line}"))?;
        }
        for finding in &findings {
            output::line(&describe(finding))?;
        }
        if is_well {
            output::line("nothing is wrong")?;
        }
    }
    Ok(if is_well { Exit::Done } else { Exit::Failed })
}

/// One line: how much it matters, what it is about, what is so, what to do.
fn describe(finding: &Finding) -> String {
    let level = match finding.level {
        Level::Problem => "problem ",
        Level::Note => "note    ",
        Level::Unseen => "unseen  ",
    };
    let advice = if finding.advice.is_empty() { String::new() } else { format!(" — {}", finding.advice) };
    format!("{level}  {}: {}{advice}", finding.about, finding.what)
}
