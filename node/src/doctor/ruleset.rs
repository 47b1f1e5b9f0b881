//! The firewall of this network namespace, as nft lists it (libnftables-json(5)): chains, their rules and sets.
//!
//! Rules made by `iptables-nft` are among them. Only what [`judge`](super::judge) needs is kept; an expression that is
//! not understood stays as it is, and is judged as one that may or may not match.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// A family and a table's name.
pub(super) type Table = (String, String);

/// Every chain and set in force.
#[derive(Debug, Default)]
pub(super) struct Ruleset {
    chains: BTreeMap<(Table, String), Chain>,
    sets: BTreeMap<(Table, String), Vec<Value>>,
}

/// One chain and its rules, in order.
#[derive(Debug, Default)]
pub(super) struct Chain {
    pub(super) base: Option<Base>,
    pub(super) rules: Vec<Rule>,
}

/// What makes a chain one that the kernel begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) kind: String,
    pub(super) hook: String,
    pub(super) priority: i64,
    pub(super) drops_by_default: bool,
}

/// One rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) handle: u64,
    /// Matches, statements and a verdict, in order.
    pub(super) expressions: Vec<Value>,
}

/// One of the objects that nft lists; others are passed over.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Listed {
    Chain(ListedChain),
    Rule(ListedRule),
    Set(ListedSet),
    Map(ListedSet),
}

#[derive(Deserialize)]
struct ListedChain {
    family: String,
    table: String,
    name: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    hook: Option<String>,
    prio: Option<i64>,
    policy: Option<String>,
}

#[derive(Deserialize)]
struct ListedRule {
    family: String,
    table: String,
    chain: String,
    handle: u64,
    expr: Vec<Value>,
}

#[derive(Deserialize)]
struct ListedSet {
    family: String,
    table: String,
    name: String,
    #[serde(default)]
    elem: Vec<Value>,
}

impl Ruleset {
    /// Reads what `nft -j list ruleset` printed.
    ///
    /// # Errors
    /// When it is no such listing.
    pub(super) fn parse(json: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Listing {
            nftables: Vec<Value>,
        }
        let listing: Listing = serde_json::from_str(json)?;
        let mut ruleset = Self::default();
        // Kinds of objects that this version does not know (counters, flow tables, quotas) filter nothing.
        for listed in listing.nftables.into_iter().filter_map(|value| serde_json::from_value(value).ok()) {
            match listed {
                Listed::Chain(chain) => ruleset.add_chain(chain),
                Listed::Rule(rule) => {
                    let chain = ruleset.chains.entry(((rule.family, rule.table), rule.chain)).or_default();
                    chain.rules.push(Rule { handle: rule.handle, expressions: rule.expr });
                }
                Listed::Set(set) | Listed::Map(set) => {
                    ruleset.sets.insert(((set.family, set.table), set.name), set.elem);
                }
            }
        }
        Ok(ruleset)
    }

    fn add_chain(&mut self, chain: ListedChain) {
        let base = chain.hook.map(|hook| Base {
            kind: chain.kind.unwrap_or_default(),
            hook,
            priority: chain.prio.unwrap_or_default(),
            drops_by_default: chain.policy.as_deref() == Some("drop"),
        });
        self.chains.entry(((chain.family, chain.table), chain.name)).or_default().base = base;
    }

    /// Every chain with its table and name.
    pub(super) fn chains(&self) -> impl Iterator<Item = (&Table, &str, &Chain)> {
        self.chains.iter().map(|((table, name), chain)| (table, name.as_str(), chain))
    }

    /// A chain of `table`.
    pub(super) fn chain(&self, table: &Table, name: &str) -> Option<&Chain> {
        self.chains.get(&(table.clone(), name.to_owned()))
    }

    /// The elements of a named set or map of `table`.
    pub(super) fn set(&self, table: &Table, name: &str) -> Option<&[Value]> {
        self.sets.get(&(table.clone(), name.to_owned())).map(Vec::as_slice)
    }
}
