//! Aliases: who gets which, and what rewriting does to packets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::assign::{SUFFIXES, preferred_suffix};
use super::*;
use crate::identity::{DeviceId, VpiId};

mod packets;

const VPI: VpiId = VpiId([7; 32]);
const PREFIX: Ipv4Addr = Ipv4Addr::new(127, 80, 0, 0);

#[test]
fn prefixes_are_all_of_the_pool_from_the_preferred_one_on() {
    for byte in 0..=255 {
        let vpi = VpiId([byte; 32]);
        let all: Vec<_> = prefixes(&vpi).collect();
        assert_eq!(all.first(), Some(&preferred_prefix(&vpi)));
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 64);
        for [a, b, c, d] in all.iter().map(Ipv4Addr::octets) {
            assert_eq!((a, b & 0xc0, c, d), (127, 64, 0, 0));
        }
    }
}

#[test]
fn the_choice_is_the_same_on_every_machine_and_version() {
    assert_eq!(preferred_prefix(&VPI).to_string(), "127.65.0.0");
    assert_eq!(preferred_suffix(&VPI, &device(1), 0), 52_388);
    assert_eq!(preferred_suffix(&VPI, &device(1), 1), 60_748);
}

#[test]
fn of_two_devices_with_one_preferred_suffix_the_second_takes_its_next() {
    let (first, second) = colliding();
    let mut table = AliasTable::new(VPI, PREFIX, device(0), []).unwrap();
    let (a, b) = (table.assign(first).unwrap(), table.assign(second).unwrap());
    assert_eq!((a.usual, a.new, b.usual, b.new), (true, true, false, true));
    assert_eq!(suffix(a.alias), preferred_suffix(&VPI, &first, 0));
    assert_eq!(suffix(b.alias), preferred_suffix(&VPI, &second, 1));
}

#[test]
fn the_own_device_comes_before_those_that_prefer_the_same() {
    let (first, second) = colliding();
    for (own, other) in [(first, second), (second, first)] {
        let mut table = AliasTable::new(VPI, PREFIX, own, []).unwrap();
        assert!(!table.assign(other).unwrap().usual);
        assert_eq!(suffix(table.own()), preferred_suffix(&VPI, &own, 0));
        assert_eq!(table.alias_of(&own), Some(table.own()));
    }
}

#[test]
fn a_pin_comes_before_the_own_device() {
    let (first, second) = colliding();
    let pin = Pin { device: first, suffix: preferred_suffix(&VPI, &first, 0), removed_at: Some(9) };
    let table = AliasTable::new(VPI, PREFIX, second, [pin]).unwrap();
    assert_eq!(suffix(table.own()), preferred_suffix(&VPI, &second, 1));
}

#[test]
fn a_retired_alias_goes_to_nobody_else_and_back_to_its_device() {
    let (first, second) = colliding();
    let mut table = AliasTable::new(VPI, PREFIX, device(0), []).unwrap();
    let alias = table.assign(first).unwrap().alias;
    assert!(table.retire(&first, 1_000) && !table.retire(&first, 1_000) && !table.retire(&second, 1_000));
    assert_ne!(table.assign(second).unwrap().alias, alias);
    assert_eq!(table.device_at(alias), Some(first));
    let again = table.assign(first).unwrap();
    assert_eq!((again.alias, again.new), (alias, true));
    assert!(table.pins().all(|pin| pin.removed_at.is_none()));
}

#[test]
fn pins_that_contradict_each_other_are_refused() {
    let pin = |device, suffix| Pin { device, suffix, removed_at: None };
    let table = |pins: [Pin; 2]| AliasTable::new(VPI, PREFIX, device(0), pins).map(|_| ());
    let (a, b) = (device(1), device(2));
    assert_eq!(table([pin(a, 5), pin(b, 5)]), Err(PinError::SuffixTwice(5)));
    assert_eq!(table([pin(a, 5), pin(a, 6)]), Err(PinError::DeviceTwice(a)));
    assert_eq!(table([pin(a, 5), pin(b, 0)]), Err(PinError::Suffix(0)));
    assert_eq!(table([pin(a, 5), pin(b, 65_535)]), Err(PinError::Suffix(65_535)));
}

#[test]
fn a_full_table_says_so_and_the_last_free_suffix_is_found() {
    let free = 40_000;
    let pins = (1..=SUFFIXES).filter(|suffix| *suffix != free).map(|suffix| Pin {
        device: device(u32::from(suffix)),
        suffix,
        removed_at: None,
    });
    let mut table = AliasTable::new(VPI, PREFIX, device(1), pins).unwrap();
    assert_eq!(suffix(table.assign(device(100_000)).unwrap().alias), free);
    assert_eq!(table.assign(device(100_001)), Err(TableFull));
    assert!(table.assign(device(100_000)).is_ok());
}

#[test]
fn an_address_outside_the_prefix_is_nobodys() {
    let table = AliasTable::new(VPI, PREFIX, device(1), []).unwrap();
    let [_, _, c, d] = table.own().octets();
    assert_eq!(table.device_at([127, 80, c, d].into()), Some(device(1)));
    assert_eq!(table.device_at([127, 81, c, d].into()), None);
    assert_eq!(table.device_at([10, 80, c, d].into()), None);
    assert_eq!(table.device_at([127, 80, 255, 255].into()), None);
}

proptest! {
    #[test]
    fn two_machines_agree_unless_devices_collide(
        members in btree_set(0u32..2_000, 2..300), rotation in 0usize..300,
    ) {
        let members: Vec<_> = members.into_iter().map(device).collect();
        let mut other_order = members.clone();
        other_order.rotate_left(rotation % members.len());
        other_order.reverse();
        let (a, b) = (filled(&members), filled(&other_order));
        let preferred = members.iter().map(|member| preferred_suffix(&VPI, member, 0));
        let collides = preferred.collect::<BTreeSet<_>>().len() < members.len();
        let differ = members.iter().filter(|member| a.alias_of(member) != b.alias_of(member)).count();
        prop_assert!(differ == 0 || collides);
        prop_assert_eq!((a.pins().count(), b.pins().count()), (members.len(), members.len()));
    }

    #[test]
    fn no_alias_ever_means_another_device(steps in vec((0u32..40, any::<bool>(), any::<bool>()), 1..200)) {
        let mut table = AliasTable::new(VPI, PREFIX, device(0), []).unwrap();
        let mut seen = vec![(table.own(), device(0))];
        for (number, leaves, restarts) in steps {
            let who = device(number);
            if leaves {
                table.retire(&who, 5);
            } else {
                seen.push((table.assign(who).unwrap().alias, who));
                prop_assert!(!table.assign(who).unwrap().new);
            }
            if restarts {
                table = AliasTable::new(VPI, PREFIX, device(0), table.pins().collect::<Vec<_>>()).unwrap();
            }
            for (alias, owner) in &seen {
                prop_assert_eq!(table.device_at(*alias), Some(*owner));
                prop_assert_eq!(table.alias_of(owner), Some(*alias));
            }
        }
    }
}

fn device(number: u32) -> DeviceId {
    let mut bytes = [9; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    DeviceId::from(bytes)
}

fn suffix(alias: Ipv4Addr) -> u16 {
    let [_, _, c, d] = alias.octets();
    u16::from_be_bytes([c, d])
}

/// A machine whose own device is the first of these, and which met the others in this order.
fn filled(members: &[DeviceId]) -> AliasTable {
    let mut table = AliasTable::new(VPI, PREFIX, members[0], []).unwrap();
    for member in members {
        table.assign(*member).unwrap();
    }
    table
}

/// Two devices that prefer one suffix, found by trying.
fn colliding() -> (DeviceId, DeviceId) {
    let mut holders = BTreeMap::new();
    let (first, second) = (1..)
        .find_map(|number| {
            let earlier = holders.insert(preferred_suffix(&VPI, &device(number), 0), number);
            earlier.map(|earlier| (earlier, number))
        })
        .expect("65,535 devices have 65,534 suffixes");
    (device(first), device(second))
}
