//! NATs: the kinds that a site of a lab may stand behind, what each is said to be, and what it is measured to be.
//!
//! The words are those of RFC 4787. What a kind is said to be stands in the head of its file, `netns-scripts/nat/KIND.nft`;
//! [`measure()`] finds the same by sending, without a look at the rules.

mod measure;

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

pub use measure::{Behaviour, Findings, Ports, measure};

/// A kind of NAT, as the files in `netns-scripts/nat` make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nat {
    /// None: the host has a public address.
    Public,
    /// Endpoint-independent mapping and filtering.
    Independent,
    /// Endpoint-independent mapping, address-dependent filtering.
    AddressDependent,
    /// Endpoint-independent mapping that preserves ports, address-and-port-dependent filtering.
    PortPreserving,
    /// Endpoint-independent mapping that does not, address-and-port-dependent filtering.
    Translating,
    /// Address-and-port-dependent mapping to random ports.
    Random,
    /// Address-and-port-dependent mapping to one port after the other.
    Sequential,
    /// Two layers: [`Nat::PortPreserving`] at home, [`Nat::Translating`] at the carrier.
    Carrier,
    /// No UDP at all.
    UdpBlocked,
}

impl Nat {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Public,
        Self::Independent,
        Self::AddressDependent,
        Self::PortPreserving,
        Self::Translating,
        Self::Random,
        Self::Sequential,
        Self::Carrier,
        Self::UdpBlocked,
    ];

    /// The name of its file, without the ending.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Independent => "independent",
            Self::AddressDependent => "address-dependent",
            Self::PortPreserving => "port-preserving",
            Self::Translating => "translating",
            Self::Random => "random",
            Self::Sequential => "sequential",
            Self::Carrier => "carrier",
            Self::UdpBlocked => "udp-blocked",
        }
    }

    /// What the head of its file says under `term` (`mapping`, `filtering`, `ports`): the first word, without punctuation.
    ///
    /// # Errors
    /// There is no such file, or it does not say.
    pub fn described(self, term: &str) -> Result<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../netns-scripts/nat");
        let text = fs::read_to_string(folder.join(self.word()).with_extension("nft"))?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("#   "));
        let said = lines.find_map(|line| line.strip_prefix(term)?.split_whitespace().next());
        let said = said.with_context(|| format!("the file of {self} does not say its {term}"))?;
        Ok(said.trim_end_matches([':', ',', ';', '.']).to_owned())
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.word())
    }
}

/// A site of a lab (`netns-scripts/topologies/nats.sh`): one or two hosts behind a NAT.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// The kind of its NAT.
    pub nat: Nat,
    /// What the inside sends to the outside of the NAT comes back in.
    pub has_hairpin: bool,
    /// How long UDP flows and mappings live that are not used; without it 120 s, and 30 s before the first answer.
    pub timeout_secs: Option<u32>,
    /// It has a second host, called as the first with a `2` behind; never behind [`Nat::Public`].
    pub has_second: bool,
    /// Its gateway maps ports for who asks, by these protocols; never that of [`Nat::Public`].
    pub maps: Option<Maps>,
}

/// By which protocols a gateway maps ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maps {
    /// PCP and NAT-PMP, for 20 s at most.
    Pcp,
    /// UPnP, for as long as who asks says.
    Upnp,
    /// All of these.
    All,
}

impl Site {
    /// A site of one host, without hairpinning.
    #[must_use]
    pub fn behind(nat: Nat) -> Self {
        Self { nat, has_hairpin: false, timeout_secs: None, has_second: false, maps: None }
    }

    /// A site of one host, whose gateway maps ports.
    #[must_use]
    pub fn mapping(nat: Nat, maps: Maps) -> Self {
        Self { maps: Some(maps), ..Self::behind(nat) }
    }

    /// What `run.sh up nats --site` takes.
    pub(crate) fn word(self) -> String {
        let hairpin = if self.has_hairpin { ",hairpin" } else { "" };
        let timeout = self.timeout_secs.map(|secs| format!(",timeout={secs}")).unwrap_or_default();
        let hosts = if self.has_second { ",hosts=2" } else { "" };
        let maps = match self.maps {
            None => "",
            Some(Maps::Pcp) => ",mapping=pcp",
            Some(Maps::Upnp) => ",mapping=upnp",
            Some(Maps::All) => ",mapping",
        };
        format!("{}{hairpin}{timeout}{hosts}{maps}", self.nat)
    }
}
