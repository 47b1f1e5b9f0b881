//! What a firewall does to one packet of ours: whether it drops it, or leads it elsewhere, and by which rule.
//!
//! Each match is judged yes, no or perhaps: what is not known of the packet, or not understood of the rule, is perhaps.
//! Only what is certain ends a walk. So a rule that is named does what is said of it, while one that is understood in
//! part may be missed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::ruleset::{Base, Rule, Ruleset, Table};

/// *Specified* (Linux `nf_tables.h`, `NFT_JUMP_STACK_SIZE`): the deepest that chains call each other.
const DEPTH_MAX: usize = 16;

/// Whether something holds for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    No,
    Perhaps,
    Yes,
}
use Answer::{No, Perhaps, Yes};

/// A packet, as far as it is known; the first of its connection. It is this machine's own or for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Packet {
    /// Device that it comes in by.
    pub(super) iif: Option<String>,
    /// Device that it leaves by.
    pub(super) oif: Option<String>,
    pub(super) source: Option<IpAddr>,
    pub(super) destination: Option<IpAddr>,
    /// `tcp`, `udp` …
    pub(super) transport: Option<&'static str>,
    pub(super) source_port: Option<u16>,
    pub(super) destination_port: Option<u16>,
    pub(super) is_ipv6: bool,
}

/// What a chain does to a packet beyond letting it pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) deed: Deed,
    pub(super) place: Place,
    /// Whether a rule that stands before may let some packets of this kind pass.
    pub(super) has_exceptions: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deed {
    /// It is dropped or rejected.
    Dropped,
    /// Its destination becomes another (`dnat`, `redirect`, `tproxy`).
    Redirected,
}

/// Where a verdict stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) table: Table,
    pub(super) chain: String,
    /// The rule's handle; `None` for the chain's policy.
    pub(super) handle: Option<u64>,
}

impl Ruleset {
    /// Everything that the chains at `hooks` do to `packet`, in no order; `is_wanted` chooses the chains.
    pub(super) fn judge(
        &self,
        packet: &Packet,
        hooks: &[&str],
        is_wanted: impl Fn(&Table, &Base) -> bool,
    ) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for (table, name, chain) in self.chains() {
            let Some(base) = &chain.base else { continue };
            let sees = match table.0.as_str() {
                "inet" => true,
                "ip" => !packet.is_ipv6,
                "ip6" => packet.is_ipv6,
                _ => false,
            };
            if !sees || !hooks.contains(&base.hook.as_str()) || !is_wanted(table, base) {
                continue;
            }
            let mut walk = Walk { ruleset: self, packet, table, has_exceptions: false };
            let verdict = match walk.chain(name, 0) {
                End::Done(verdict) => verdict,
                End::Return if base.drops_by_default => Some((Deed::Dropped, walk.place(name, None))),
                End::Return => None,
            };
            let has_exceptions = walk.has_exceptions;
            verdicts.extend(verdict.map(|(deed, place)| Verdict { deed, place, has_exceptions }));
        }
        verdicts
    }
}

/// One packet's way through one base chain.
struct Walk<'a> {
    ruleset: &'a Ruleset,
    packet: &'a Packet,
    table: &'a Table,
    has_exceptions: bool,
}

/// How a chain ended.
enum End {
    /// The packet's fate in this base chain is settled: nothing, or a verdict worth telling.
    Done(Option<(Deed, Place)>),
    /// The calling chain goes on, or the policy holds.
    Return,
}

/// What one rule does.
enum Step {
    Next,
    End(End),
}

impl Walk<'_> {
    fn chain(&mut self, name: &str, depth: usize) -> End {
        let Some(chain) = self.ruleset.chain(self.table, name).filter(|_| depth <= DEPTH_MAX) else {
            return End::Return;
        };
        for rule in &chain.rules {
            match self.rule(name, rule, depth) {
                Step::Next => {}
                Step::End(end) => return end,
            }
        }
        End::Return
    }

    fn rule(&mut self, chain: &str, rule: &Rule, depth: usize) -> Step {
        let mut holds = Yes;
        let mut names_our_port = false;
        for expression in &rule.expressions {
            let Some((kind, value)) = expression.as_object().and_then(|object| object.iter().next()) else {
                return Step::Next;
            };
            match kind.as_str() {
                "match" => {
                    let answer = self.matches(value);
                    names_our_port |= answer == Yes && is_port(&value["left"]);
                    holds = holds.min(answer);
                }
                "vmap" => {
                    if let step @ Step::End(_) = self.verdict_map((chain, rule.handle), value, holds, depth) {
                        return step;
                    }
                }
                // These change nothing of a packet's fate.
                "counter" | "log" | "comment" | "notrack" | "mangle" | "masquerade" | "snat"
                | "ct helper" => {}
                "accept" | "drop" | "reject" | "return" | "jump" | "goto" | "dnat" | "redirect"
                | "tproxy" | "queue" => {
                    // Whoever lets our very port in, from whomever, has thought of it.
                    let holds = if names_our_port && kind == "accept" { Yes } else { holds };
                    return self.verdict((chain, rule.handle), (kind, value), holds, depth);
                }
                // Limits, quotas, and whatever iptables-nft has no nft words for.
                _ => holds = holds.min(Perhaps),
            }
            if holds == No {
                return Step::Next;
            }
        }
        Step::Next
    }

    fn verdict(
        &mut self,
        (chain, handle): (&str, u64),
        (kind, value): (&str, &Value),
        holds: Answer,
        depth: usize,
    ) -> Step {
        if holds == No {
            return Step::Next;
        }
        let certain = holds == Yes;
        match kind {
            "accept" | "queue" | "return" if !certain => {
                self.has_exceptions = true;
                Step::Next
            }
            "accept" | "queue" => Step::End(End::Done(None)),
            "return" => Step::End(End::Return),
            "jump" | "goto" => {
                let target = value["target"].as_str().unwrap_or_default();
                match self.chain(target, depth + 1) {
                    // What the chain does, it does to some packets only.
                    end if !certain => {
                        self.has_exceptions |= matches!(end, End::Done(None));
                        Step::Next
                    }
                    End::Done(verdict) => Step::End(End::Done(verdict)),
                    End::Return if kind == "goto" => Step::End(End::Return),
                    End::Return => Step::Next,
                }
            }
            _ if !certain => Step::Next,
            "drop" | "reject" => Step::End(End::Done(Some((Deed::Dropped, self.place(chain, Some(handle)))))),
            _ => Step::End(End::Done(Some((Deed::Redirected, self.place(chain, Some(handle)))))),
        }
    }

    /// `ct state vmap { established : accept, … }`: each pair is a rule of its own.
    fn verdict_map(&mut self, at: (&str, u64), map: &Value, holds: Answer, depth: usize) -> Step {
        for pair in self.elements(&map["data"]).unwrap_or_default() {
            let Some([key, verdict]) = pair.as_array().map(Vec::as_slice) else { continue };
            let Some((kind, value)) = verdict.as_object().and_then(|verdict| verdict.iter().next()) else {
                continue;
            };
            let answer = holds.min(self.compare(&map["key"], key));
            if let step @ Step::End(_) = self.verdict(at, (kind, value), answer, depth) {
                return step;
            }
        }
        Step::Next
    }

    fn matches(&self, value: &Value) -> Answer {
        let answer = self.compare(&value["left"], &value["right"]);
        match (value["op"].as_str(), answer) {
            (Some("==" | "in"), answer) => answer,
            (Some("!="), Yes) => No,
            (Some("!="), No) => Yes,
            _ => Perhaps,
        }
    }

    /// Whether the packet's field `left` is `right`, or one of it.
    fn compare(&self, left: &Value, right: &Value) -> Answer {
        if let Some(elements) = self.elements(right) {
            let one = |element: &Value| self.compare(left, element);
            return elements.iter().map(one).max().unwrap_or(No);
        }
        let right = right.get("elem").map_or(right, |element| &element["val"]);
        match self.field(left) {
            Field::Unknown => Perhaps,
            Field::None => No,
            Field::Word(word) => right.as_str().map_or(Perhaps, |wanted| is_word(&word, wanted)),
            Field::Port(port) => is_number(port, right),
            Field::Address(address) => is_address(address, right),
        }
    }

    /// The elements of a set that is written out, a list of flags, or a named set.
    fn elements(&self, value: &Value) -> Option<Vec<Value>> {
        if let Some(name) = value.as_str().and_then(|text| text.strip_prefix('@')) {
            return self.ruleset.set(self.table, name).map(<[Value]>::to_vec);
        }
        value.get("set").unwrap_or(value).as_array().cloned()
    }

    fn field(&self, left: &Value) -> Field {
        let packet = self.packet;
        let word = |word: Option<&str>| word.map_or(Field::Unknown, |word| Field::Word(word.to_owned()));
        let device = |device: &Option<String>| device.clone().map_or(Field::None, Field::Word);
        if let Some(key) = left["meta"]["key"].as_str() {
            return match key {
                "iifname" | "iif" => device(&packet.iif),
                "oifname" | "oif" => device(&packet.oif),
                "l4proto" => word(packet.transport),
                "nfproto" => word(Some(if packet.is_ipv6 { "ipv6" } else { "ipv4" })),
                "protocol" => word(Some(if packet.is_ipv6 { "ip6" } else { "ip" })),
                "pkttype" => word(Some("host")),
                _ => Field::Unknown,
            };
        }
        if left["ct"]["key"] == "state" {
            return Field::Word("new".to_owned());
        }
        if left["fib"]["result"] == "type" {
            let is_only =
                |flag| left["fib"]["flags"] == serde_json::json!([flag]) || left["fib"]["flags"] == flag;
            let is_in = packet.iif.is_some();
            return if is_only("daddr") && is_in || is_only("saddr") && !is_in {
                Field::Word("local".to_owned())
            } else {
                Field::Unknown
            };
        }
        match (left["payload"]["protocol"].as_str(), left["payload"]["field"].as_str()) {
            (Some(protocol @ ("ip" | "ip6")), Some(field)) => self.network_field(protocol, field),
            (Some(protocol), Some(field)) => self.transport_field(protocol, field),
            _ => Field::Unknown,
        }
    }

    fn network_field(&self, protocol: &str, field: &str) -> Field {
        let packet = self.packet;
        if (protocol == "ip6") != packet.is_ipv6 {
            return Field::None;
        }
        let address = |address: Option<IpAddr>| address.map_or(Field::Unknown, Field::Address);
        match field {
            "saddr" => address(packet.source),
            "daddr" => address(packet.destination),
            "protocol" | "nexthdr" => {
                packet.transport.map_or(Field::Unknown, |word| Field::Word(word.to_owned()))
            }
            _ => Field::Unknown,
        }
    }

    fn transport_field(&self, protocol: &str, field: &str) -> Field {
        let packet = self.packet;
        if protocol != "th" && packet.transport.is_some_and(|known| known != protocol) {
            return Field::None;
        }
        // Without knowing the transport, not even a known port is this transport's.
        let known = |port: Option<u16>| match packet.transport {
            Some(_) => port.map_or(Field::Unknown, Field::Port),
            None => Field::Unknown,
        };
        match field {
            "sport" => known(packet.source_port),
            "dport" => known(packet.destination_port),
            _ => Field::Unknown,
        }
    }

    fn place(&self, chain: &str, handle: Option<u64>) -> Place {
        Place { table: self.table.clone(), chain: chain.to_owned(), handle }
    }
}

/// What a packet has in the place that a match looks at.
enum Field {
    /// Something; not known what.
    Unknown,
    /// Nothing, so no match holds.
    None,
    Word(String),
    Port(u16),
    Address(IpAddr),
}

fn is_port(left: &Value) -> bool {
    left["payload"]["field"] == "dport"
}

fn is_word(word: &str, wanted: &str) -> Answer {
    let is_it = match wanted.strip_suffix('*') {
        Some(start) => word.starts_with(start),
        None => word == wanted || (word == "host" && wanted == "unicast"),
    };
    if is_it { Yes } else { No }
}

fn is_number(port: u16, wanted: &Value) -> Answer {
    let number = |value: &Value| value.as_u64();
    let is_it = match (number(wanted), wanted["range"].as_array().map(Vec::as_slice)) {
        (Some(one), _) => one == u64::from(port),
        (None, Some([first, last])) => match (number(first), number(last)) {
            (Some(first), Some(last)) => (first..=last).contains(&port.into()),
            _ => return Perhaps,
        },
        _ => return Perhaps,
    };
    if is_it { Yes } else { No }
}

fn is_address(address: IpAddr, wanted: &Value) -> Answer {
    let parse = |value: &Value| value.as_str()?.parse::<IpAddr>().ok();
    let is_it = if let Some(one) = parse(wanted) {
        one == address
    } else if let (Some(start), Some(bits)) =
        (parse(&wanted["prefix"]["addr"]), wanted["prefix"]["len"].as_u64())
    {
        starts_alike(address, start, bits)
    } else if let Some([first, last]) = wanted["range"].as_array().map(Vec::as_slice) {
        match (parse(first), parse(last)) {
            (Some(first), Some(last)) => (first..=last).contains(&address),
            _ => return Perhaps,
        }
    } else {
        return Perhaps;
    };
    if is_it { Yes } else { No }
}

fn starts_alike(a: IpAddr, b: IpAddr, bits: u64) -> bool {
    let same =
        |a: u128, b: u128, width: u64| bits == 0 || (a ^ b) >> width.saturating_sub(bits).min(127) == 0;
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(Ipv4Addr::to_bits(a).into(), Ipv4Addr::to_bits(b).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(Ipv6Addr::to_bits(a), Ipv6Addr::to_bits(b), 128),
        _ => false,
    }
}
