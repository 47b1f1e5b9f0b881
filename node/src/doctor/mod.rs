//! What is wrong or left over on this machine, and the repair of what is ours.
//!
//! ```text
//! state folder, journal ──┐
//! kernel: devices, routes ├──► examine ──► Finding… ──► repair
//! nft -j list ruleset ────┘        (each with what to do)
//! ```
//!
//! Looking changes nothing, and needs neither a node nor root: what could not be looked at is a finding, too. Repairing
//! touches only what the journal or the settings name *and* is recognised on the machine as ours.

mod folder;
mod foreign;
mod judge;
mod repair;
mod ruleset;
mod setup;
mod system;
mod table;
#[cfg(test)]
mod tests;

use std::os::unix::fs::MetadataExt as _;

use serde::Serialize;

use crate::control::client::{AskError, Door};
use crate::control::protocol::{Hello, Reply, Request};
use crate::control::status::VpiStatus;
use crate::loopback::{self, Listing, net_namespace};
use crate::store::journal::Journal;
use crate::store::settings::VpiSettings;

use repair::Repair;
pub(crate) use repair::repair;
use ruleset::Ruleset;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Something is wrong or left over.
    Problem,
    /// Nothing is wrong; worth knowing.
    Note,
    /// It could not be looked at.
    Unseen,
}

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// How much it matters.
    pub(crate) level: Level,
    /// A VPI's device, or the part of the machine.
    pub(crate) about: String,
    /// What is so, as one line.
    pub(crate) what: String,
    /// What to do, as one line; empty when there is nothing to do.
    pub(crate) advice: String,
    /// The firewall rule, or policy, that is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rule: Option<RuleAt>,
    /// How [`repair`](fn@repair) mends it.
    #[serde(skip)]
    repair: Option<Repair>,
}

/// Where a firewall rule stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RuleAt {
    family: String,
    table: String,
    chain: String,
    /// `null` for the chain's policy.
    handle: Option<u64>,
    text: Option<String>,
}

impl Finding {
    fn new(level: Level, about: &str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        let (about, what, advice) = (about.to_owned(), what.into(), advice.into());
        Self { level, about, what, advice, rule: None, repair: None }
    }

    fn problem(about: &str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Level::Problem, about, what, advice)
    }

    fn note(about: &str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Level::Note, about, what, advice)
    }

    fn unseen(about: &str, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Level::Unseen, about, what, advice)
    }

    fn mended_by(self, repair: Repair) -> Self {
        Self { repair: Some(repair), ..self }
    }

    /// Whether [`repair`](fn@repair) can mend it.
    pub(crate) fn is_repairable(&self) -> bool {
        self.repair.is_some()
    }
}

/// What the parts of the examination share.
struct Facts {
    vpis: Vec<VpiSettings>,
    /// `None` when it cannot be read.
    journal: Option<Journal>,
    /// `None` without a running node that answers this user.
    node: Option<Hello>,
    /// Whether a node runs; `None` when this user may not know.
    is_running: Option<bool>,
    /// The owner of the state folder, whom the node becomes; `None` when it cannot be looked at.
    owner_uid: Option<u32>,
    /// `None` when nft is missing or refuses.
    ruleset: Option<Ruleset>,
}

/// Looks at everything; problems first.
pub(crate) async fn examine(door: &Door) -> Vec<Finding> {
    let mut findings = Vec::new();
    let facts = gather(door, &mut findings);
    folder::examine(&door.state, &facts, &mut findings);
    let here = net_namespace().ok();
    if facts.node.as_ref().is_some_and(|node| here.is_some_and(|here| here != node.network)) {
        findings.push(Finding::problem(
            "network",
            "the node runs in another network namespace, so nothing of this one was judged",
            "run `vpi doctor` where the node runs, for example with `ip netns exec`",
        ));
    } else {
        system::examine(&door.state, &facts, &mut findings);
        setup::examine(&facts, &mut findings).await;
        foreign::examine(&facts, &mut findings).await;
    }
    findings.sort_by_key(|finding| match finding.level {
        Level::Problem => 0,
        Level::Unseen => 1,
        Level::Note => 2,
    });
    findings
}

fn gather(door: &Door, findings: &mut Vec<Finding>) -> Facts {
    let (vpis, journal) = folder::read(&door.state, findings);
    let (node, is_running) = match door.ask(&Request::Hello, |_| Ok(())) {
        Ok(Reply::Hello(hello)) => {
            findings.extend(notices(door));
            (Some(hello), Some(true))
        }
        Err(AskError::NoNode(_)) => (None, Some(false)),
        Err(AskError::Denied(_)) => {
            findings.push(Finding::unseen("node", "this user may not talk to the node", "use sudo"));
            (None, None)
        }
        Ok(_) | Err(_) => {
            let advice = "look at its log, then restart it";
            findings.push(Finding::problem("node", "the node does not answer as it should", advice));
            (None, Some(true))
        }
    };
    let owner_uid = std::fs::metadata(&door.state).map(|folder| folder.uid()).ok();
    Facts { vpis, journal, node, is_running, owner_uid, ruleset: firewall(findings) }
}

/// What the running node itself has to say, such as clocks that disagree.
fn notices(door: &Door) -> Vec<Finding> {
    let Ok(Reply::Status(status)) = door.ask(&Request::Status { vpi: None, drops: false }, |_| Ok(())) else {
        return Vec::new();
    };
    let of_vpi = |vpi: VpiStatus| {
        let name = vpi.name;
        vpi.notices.into_iter().map(move |notice| Finding::note(&name, notice, ""))
    };
    status.vpis.into_iter().flat_map(of_vpi).collect()
}

fn firewall(findings: &mut Vec<Finding>) -> Option<Ruleset> {
    let finding = match loopback::ruleset() {
        Ok(Listing::Json(json)) => match Ruleset::parse(&json) {
            Ok(ruleset) => return Some(ruleset),
            Err(error) => {
                Finding::unseen("firewall", format!("nft's listing is not understood: {error}"), "")
            }
        },
        Ok(Listing::NoNft) => Finding::problem(
            "firewall",
            "nft is not installed: the node's own filter stands alone, and rules of others were not judged",
            "install nftables, then restart `vpi up` as root",
        ),
        Ok(Listing::Refused(_)) if !rustix::process::geteuid().is_root() => {
            Finding::unseen("firewall", "only root may see firewall rules", "use sudo")
        }
        Ok(Listing::Refused(said)) => Finding::unseen(
            "firewall",
            format!("nft does not list the rules: {said}"),
            "see whether this kernel has nf_tables and this container CAP_NET_ADMIN",
        ),
        Err(error) => Finding::unseen("firewall", format!("nft cannot be run: {error}"), ""),
    };
    findings.push(finding);
    None
}
