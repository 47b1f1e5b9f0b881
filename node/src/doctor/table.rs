//! Whether a VPI's own firewall table does what it is there for (node/README, *On the machine*).
//!
//! It is not compared with what was loaded, which every version of nft writes in its own way: packets are judged by it.

use std::net::{IpAddr, Ipv4Addr};

use super::judge::{Deed, Packet};
use super::ruleset::Ruleset;
use crate::loopback::{Plan, Transport};

/// A device that is neither `lo` nor a VPI's.
const ELSEWHERE: &str = "elsewhere0";

/// Says what the table of `plan` does not do, if anything.
pub(super) fn fault(ruleset: &Ruleset, plan: &Plan) -> Option<String> {
    if !ruleset.chains().any(|((family, table), _, _)| family == "ip" && table == plan.device()) {
        return Some("its firewall table is missing".to_owned());
    }
    let altered = promises(plan).into_iter().find(|promise| !promise.is_kept(ruleset, plan));
    altered.map(|promise| format!("its firewall table was altered: {}", promise.broken))
}

/// An alias that a member could have.
pub(super) fn some_peer(plan: &Plan) -> Ipv4Addr {
    let [first, second, ..] = plan.prefix().octets();
    let candidates = [[1, 1], [1, 2]].map(|[third, last]| Ipv4Addr::new(first, second, third, last));
    candidates.into_iter().find(|peer| *peer != plan.own()).unwrap_or(plan.prefix())
}

/// What must happen to one packet at one hook.
struct Promise {
    packet: Packet,
    hook: &'static str,
    deed: Option<Deed>,
    broken: String,
}

impl Promise {
    fn is_kept(&self, ruleset: &Ruleset, plan: &Plan) -> bool {
        let own_table = |(family, table): &(String, String)| family == "ip" && table == plan.device();
        let verdicts = ruleset.judge(&self.packet, &[self.hook], |table, _| own_table(table));
        verdicts.first().map(|verdict| verdict.deed) == self.deed
    }
}

fn promises(plan: &Plan) -> Vec<Promise> {
    let device = || Some(plan.device().to_owned());
    let elsewhere = || Some(ELSEWHERE.to_owned());
    let (own, localhost) = (Some(IpAddr::V4(plan.own())), Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    let promise =
        |packet, hook, deed, broken: &str| Promise { packet, hook, deed, broken: broken.to_owned() };
    let dropped = Some(Deed::Dropped);
    let peer = Some(IpAddr::V4(some_peer(plan)));
    let to_own = |iif| Packet { iif, source: peer, destination: own, ..Packet::default() };
    let from = |source| Packet { oif: device(), source, destination: peer, ..Packet::default() };
    let through = |iif, oif| Packet { iif, oif, ..Packet::default() };
    let closed = (1..=u16::MAX).find(|port| !plan.exposed().contains(&(Transport::Tcp, *port)));
    let service = |transport: Transport, port| Packet {
        iif: device(),
        source: peer,
        destination: localhost,
        transport: Some(match transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        }),
        destination_port: port,
        ..Packet::default()
    };
    let mut promises = vec![
        promise(to_own(elsewhere()), "input", dropped, "the network reaches its prefix"),
        promise(to_own(device()), "input", None, "members do not reach its own alias"),
        promise(service(Transport::Tcp, closed), "input", dropped, "members reach what is not exposed"),
        promise(from(localhost), "postrouting", dropped, "127.0.0.1 sends to members"),
        promise(from(own), "postrouting", None, "its own alias does not reach members"),
        promise(through(device(), elsewhere()), "forward", dropped, "packets of members are forwarded"),
        promise(through(elsewhere(), device()), "forward", dropped, "packets are forwarded to members"),
        promise(
            to_own(device()),
            "prerouting",
            Some(Deed::Redirected),
            "port forwarding of others comes first",
        ),
    ];
    for (transport, port) in plan.exposed() {
        let broken = format!("members do not reach {transport}/{port}, which is exposed");
        promises.push(promise(service(*transport, Some(*port)), "input", None, &broken));
    }
    promises
}
