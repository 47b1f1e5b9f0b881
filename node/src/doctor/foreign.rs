//! Firewall rules of others that would stop a VPI: what they do to its packets, rule by rule.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::judge::{Deed, Packet, Place, Verdict};
use super::ruleset::{Ruleset, Table};
use super::table::some_peer;
use super::{Facts, Finding, RuleAt};
use crate::loopback::{self, DEVICE_PREFIX, Plan};
use crate::store::settings::VpiSettings;

/// *Specified* (nft(8), `dstnat - 1`): the priority of our own translation; only what comes before it can redirect.
const OURS: i64 = -101;
/// Where the kernel names the families whose tables `iptables-legacy` filled.
const LEGACY: &str = "/proc/thread-self/net/ip_tables_names";

/// One way that packets of a VPI take through the machine.
struct Way {
    packets: Vec<Packet>,
    hooks: [&'static str; 2],
    /// What they are, for a sentence.
    what: String,
    /// What lets them pass, for nft.
    accept: String,
}

/// Judges the packets of every VPI.
pub(super) async fn examine(facts: &Facts, findings: &mut Vec<Finding>) {
    if std::fs::read_to_string(LEGACY).is_ok_and(|names| names.lines().any(|name| name == "filter")) {
        let what = "there may be rules made by iptables-legacy, which nft does not show";
        findings.push(Finding::unseen("firewall", what, "look at them with iptables-legacy-save"));
    }
    let Some(ruleset) = &facts.ruleset else { return };
    let mut devices = loopback::devices_up().await.unwrap_or_default();
    devices.retain(|device| device != "lo" && !device.starts_with(DEVICE_PREFIX));
    for vpi in &facts.vpis {
        let Ok(plan) = Plan::of(vpi) else { continue };
        for way in ways(vpi, &plan, &devices) {
            findings.extend(way.judge(ruleset, &plan));
        }
    }
}

fn ways(vpi: &VpiSettings, plan: &Plan, devices: &[String]) -> [Way; 4] {
    let (name, device, port) = (&vpi.name, plan.device(), vpi.port);
    let (own, peer) = (Some(IpAddr::V4(plan.own())), Some(IpAddr::V4(some_peer(plan))));
    let of_members =
        Packet { iif: Some(device.to_owned()), source: peer, destination: own, ..Packet::default() };
    let to_members =
        Packet { oif: Some(device.to_owned()), source: own, destination: peer, ..Packet::default() };
    let both = |packet: Packet| [Packet { is_ipv6: true, ..packet.clone() }, packet];
    let datagram = || Packet { transport: Some("udp"), ..Packet::default() };
    let received =
        |iif: &String| both(Packet { iif: Some(iif.clone()), destination_port: Some(port), ..datagram() });
    let sent = |oif: &String| both(Packet { oif: Some(oif.clone()), source_port: Some(port), ..datagram() });
    [
        Way {
            packets: vec![of_members],
            hooks: ["prerouting", "input"],
            what: format!("packets of members of {name} to this machine"),
            accept: format!("iifname \"{device}\" accept"),
        },
        Way {
            packets: vec![to_members],
            hooks: ["output", "postrouting"],
            what: format!("packets of this machine to members of {name}"),
            accept: format!("oifname \"{device}\" accept"),
        },
        Way {
            packets: devices.iter().flat_map(received).collect(),
            hooks: ["prerouting", "input"],
            what: format!("datagrams from the network to {name}'s udp port {port}"),
            accept: format!("udp dport {port} accept"),
        },
        Way {
            packets: devices.iter().flat_map(sent).collect(),
            hooks: ["output", "postrouting"],
            what: format!("datagrams from {name}'s udp port {port} to the network"),
            accept: format!("udp sport {port} accept"),
        },
    ]
}

impl Way {
    /// One finding for each rule, with the devices at which it holds.
    fn judge(&self, ruleset: &Ruleset, plan: &Plan) -> Vec<Finding> {
        let is_ours = |(family, table): &Table| family == "ip" && table.starts_with(DEVICE_PREFIX);
        let has_own = ruleset.chains().any(|((_, table), _, _)| table == plan.device());
        let is_tunnel = |packet: &Packet| packet.iif.as_deref() == Some(plan.device());
        let mut found: BTreeMap<(Place, Deed), (Verdict, Vec<String>)> = BTreeMap::new();
        for packet in &self.packets {
            // Our own translation claims a member's connection before any that comes later.
            let is_before = |priority| !(has_own && is_tunnel(packet)) || priority < OURS;
            let verdicts = ruleset.judge(packet, &self.hooks, |table, base| {
                !is_ours(table) && (base.kind != "nat" || is_before(base.priority))
            });
            for verdict in verdicts {
                let at = found.entry((verdict.place.clone(), verdict.deed)).or_insert((verdict, Vec::new()));
                let device = packet.iif.as_ref().or(packet.oif.as_ref());
                at.1.extend(device.filter(|device| !at.1.contains(device)).cloned());
            }
        }
        found.into_values().map(|(verdict, devices)| self.finding(&verdict, &devices)).collect()
    }

    fn finding(&self, verdict: &Verdict, devices: &[String]) -> Finding {
        let Place { table: (family, table), chain, handle } = &verdict.place;
        let text = handle.and_then(|handle| loopback::rule_text((family, table), chain, handle));
        let rule = match (handle, &text) {
            (None, _) => "its policy".to_owned(),
            (Some(handle), None) => format!("its rule with handle {handle}"),
            (Some(handle), Some(text)) => format!("its rule with handle {handle}, `{text}`"),
        };
        let deed = match verdict.deed {
            Deed::Dropped => "drops",
            Deed::Redirected => "leads elsewhere",
        };
        let but = if verdict.has_exceptions { ", but for what earlier rules let pass" } else { "" };
        let what = format!(
            "chain {chain} of table {family} {table} {deed} {} ({}), by {rule}{but}",
            self.what,
            devices.join(", ")
        );
        let advice = match verdict.deed {
            Deed::Dropped => format!(
                "nft insert rule {family} {table} {chain} {}; make it last in the settings of what made the table",
                self.accept
            ),
            Deed::Redirected => "take the port out of that rule in the settings of what made it".to_owned(),
        };
        let at = RuleAt {
            family: family.clone(),
            table: table.clone(),
            chain: chain.clone(),
            handle: *handle,
            text,
        };
        Finding { rule: Some(at), ..Finding::problem("firewall", what, advice) }
    }
}
