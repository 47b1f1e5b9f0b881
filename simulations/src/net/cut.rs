//! Who cannot hear whom: partitions of the internet, in both directions or in one.

use std::collections::BTreeSet;

/// Some hosts, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group(u16);

impl Group {
    /// The hosts whose bits are set.
    pub(crate) fn of_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// These hosts.
    pub(crate) fn of(hosts: &[usize]) -> Self {
        Self(hosts.iter().fold(0, |bits, host| bits | 1 << host))
    }

    /// Whether `host` is among them.
    pub(crate) fn has(self, host: usize) -> bool {
        self.0 >> host & 1 == 1
    }
}

/// Directions in which nothing passes.
#[derive(Debug, Default)]
pub(crate) struct Cuts(BTreeSet<(usize, usize)>);

impl Cuts {
    /// Whether nothing from `from` arrives at `to`.
    pub(crate) fn has(&self, from: usize, to: usize) -> bool {
        self.0.contains(&(from, to))
    }

    /// From here on nothing that `group` sends is heard by the others of `count` hosts; nor, unless `is_one_way`, the
    /// other way round.
    pub(crate) fn cut_off(&mut self, group: Group, is_one_way: bool, count: usize) {
        for from in (0..count).filter(|host| group.has(*host)) {
            for to in (0..count).filter(|host| !group.has(*host)) {
                self.0.insert((from, to));
                if !is_one_way {
                    self.0.insert((to, from));
                }
            }
        }
    }

    /// From here on these two do not hear each other.
    pub(crate) fn cut_between(&mut self, (a, b): (usize, usize)) {
        self.0.extend([(a, b), (b, a)]);
    }

    /// Everybody hears everybody.
    pub(crate) fn heal(&mut self) {
        self.0.clear();
    }
}
