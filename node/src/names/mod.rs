//! Names for aliases: `nas.home.vpi` ↔ `127.80.3.9`.
//!
//! ```text
//! vpi status, or the state folder ─► Entry ─► hosts  a marked block in /etc/hosts        on request
//!                                         └─► dns    a DNS server on a loopback address  with the setting `dns`
//! ```
//!
//! In: which member has which alias, from the running node ([`of_status`]) or from its files ([`on_disk`]). Out: the same
//! under names of the form `MEMBER.VPI.vpi`. Nothing here decides who belongs, and nothing is asked of other machines.

pub(crate) mod dns;
pub(crate) mod hosts;

use std::net::Ipv4Addr;
use std::path::Path;

use protocol::membership::object::{Object, is_name};
use protocol::membership::{ObjectSet, reduce};
use serde::Serialize;

use crate::control::status::{MemberState, Status};
use crate::store::StoreError;
use crate::store::aliases::Aliases;
use crate::store::objects::ObjectLog;
use crate::store::settings::VpiSettings;
use crate::store::state::State;

/// What every name ends in.
pub(crate) const TOP: &str = "vpi";
/// The longest label of a host name (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

/// One name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Entry {
    /// The address on this machine.
    pub alias: Ipv4Addr,
    /// `MEMBER.VPI.vpi`, lower case, without a dot at its end.
    pub name: String,
}

/// Says whether `address` is in the pool of aliases, 127.64.0.0/10 (node/README, On the machine).
pub(crate) fn is_alias(address: Ipv4Addr) -> bool {
    matches!(address.octets(), [127, 64..=127, _, _])
}

/// The names of a VPI's members, sorted by alias. `vpi` is what the VPI is called here.
///
/// Whoever wrote a member's name is not trusted with the lines of a file: what is no label, or no alias, is left out.
pub(crate) fn entries<'m>(
    vpi: &str,
    members: impl IntoIterator<Item = (&'m str, Ipv4Addr)>,
) -> impl Iterator<Item = Entry> {
    let fits = |member: &(&str, Ipv4Addr)| {
        is_name(vpi, MAX_LABEL) && is_name(member.0, MAX_LABEL) && is_alias(member.1)
    };
    let mut entries: Vec<Entry> = members
        .into_iter()
        .filter(fits)
        .map(|(member, alias)| Entry { alias, name: format!("{member}.{vpi}.{TOP}") })
        .collect();
    entries.sort();
    entries.dedup();
    entries.into_iter()
}

/// All names that a running node knows, sorted by alias.
pub(crate) fn of_status(status: &Status) -> Vec<Entry> {
    let is_member = |state: MemberState| match state {
        MemberState::Joining | MemberState::Contested | MemberState::Removed => false,
        MemberState::Own
        | MemberState::Idle
        | MemberState::Connecting
        | MemberState::Direct
        | MemberState::Relayed
        | MemberState::Carried
        | MemberState::Unreachable => true,
    };
    let of_vpi = status.vpis.iter().flat_map(|vpi| {
        let members = vpi.members.iter().filter(|member| is_member(member.state));
        entries(&vpi.name, members.map(|member| (member.name.as_str(), member.alias)))
    });
    let mut all: Vec<Entry> = of_vpi.collect();
    all.sort();
    all
}

/// All names that the state folder `dir` holds, sorted by alias; needs no lock, and changes and repairs nothing.
///
/// # Errors
/// [`StoreError`] when the folder or its settings cannot be read.
pub(crate) fn on_disk(dir: &Path) -> Result<Vec<Entry>, StoreError> {
    let mut all = Vec::new();
    for vpi in VpiSettings::list(dir)? {
        let files = State::vpi_files(dir, &vpi.id);
        let mut set = ObjectSet::new(vpi.id);
        for record in ObjectLog::peek(&files.objects)? {
            // What does not verify is left out here as it is by the node.
            if let Ok(object) = Object::open(&vpi.id, &record) {
                set.insert(&object);
            }
        }
        let membership = reduce(&set);
        let pins = Aliases::peek(&files.aliases, &vpi.id)?;
        let [first, second, ..] = vpi.prefix.octets();
        let members = pins.iter().filter_map(|pin| {
            let [high, low] = pin.suffix.to_be_bytes();
            Some((membership.member(&pin.device)?.name.as_str(), [first, second, high, low].into()))
        });
        all.extend(entries(&vpi.name, members));
    }
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias(third: u8, fourth: u8) -> Ipv4Addr {
        [127, 80, third, fourth].into()
    }

    #[test]
    fn names_are_member_vpi_and_top_sorted_by_alias() {
        let names: Vec<_> =
            entries("home", [("nas", alias(12, 7)), ("laptop", alias(3, 9)), ("nas", alias(12, 7))])
                .collect();
        let expected = [(alias(3, 9), "laptop.home.vpi"), (alias(12, 7), "nas.home.vpi")]
            .map(|(alias, name)| Entry { alias, name: name.into() });
        assert_eq!(names, expected);
    }

    #[test]
    fn what_could_write_another_line_or_address_is_left_out() {
        for name in ["", "a b", "a\n10.0.0.1 bank.example", "a#", "a.b", "Ä", "-", "x\r"] {
            let made: Vec<_> = entries("home", [(name, alias(1, 1))]).collect();
            assert!(name == "-" || made.is_empty(), "{name:?} made {made:?}");
            assert_eq!(entries(name, [("nas", alias(1, 1))]).next().is_some(), name == "-", "{name:?}");
        }
        for outside in [[127, 0, 0, 1], [127, 63, 0, 1], [127, 128, 0, 1], [10, 80, 0, 1]] {
            assert_eq!(entries("home", [("nas", outside.into())]).next(), None);
        }
    }
}
