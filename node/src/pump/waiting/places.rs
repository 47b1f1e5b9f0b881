//! Places for packets of any size in one slab of memory, so that small ones take little of it.
//!
//! Nobody knows a packet's size before it is read: it is given room for the largest, and keeps the units that it fills. The
//! lowest room is given, so that what is touched stays little, and in the cache.
//!
//! ```text
//! slab   | 4160 | 4160 | 4160 | …      unit: a page, and a line of the cache, so that not all packets begin in one set of it
//! free   1 bit each                    a room: 16 of them that are free
//! ```

use super::super::sys;
use crate::tun::PACKET_BYTES_MAX;

/// *Chosen*: see above.
const UNIT_BYTES: usize = 4_160;
/// Units of a room: what the largest packet fills.
const ROOM_UNITS: usize = PACKET_BYTES_MAX.div_ceil(UNIT_BYTES);
/// *Chosen*: 48 MiB; what a hundred streams keep on the way, half a MiB each. All of it may become memory, under such a load.
const WORDS: usize = (48 << 20) / (UNIT_BYTES * u64::BITS as usize);
const UNITS: usize = WORDS * u64::BITS as usize;
/// *Chosen*: 1 MiB; memory of so many units is kept.
pub(super) const KEPT_UNITS: usize = (1 << 20) / UNIT_BYTES;

/// The memory, and which of it is free.
pub(super) struct Places {
    slab: Box<[u8]>,
    /// A set bit is a free unit; the last word is none, so that each has one behind it.
    free: Box<[u64]>,
    /// No word before this has a free unit.
    lowest: usize,
    /// Units in use.
    used: usize,
    /// Units at the slab's beginning of which some were used since memory was given back.
    touched: usize,
}

impl Places {
    /// Takes 48 MiB of address space, of which the kernel gives what is used.
    pub(super) fn new() -> Self {
        let mut free = vec![u64::MAX; WORDS + 1].into_boxed_slice();
        free[WORDS] = 0;
        Self { slab: vec![0; UNITS * UNIT_BYTES].into_boxed_slice(), free, lowest: 0, used: 0, touched: 0 }
    }

    /// The first unit of a room for a packet of any size, if there is one.
    pub(super) fn room(&self) -> Option<usize> {
        const { assert!(ROOM_UNITS == 16, "the doubling below finds runs of 16 free units") };
        (self.lowest..WORDS).find_map(|word| {
            let both = u128::from(self.free[word]) | u128::from(self.free[word + 1]) << u64::BITS;
            let starts = [1, 2, 4, 8].into_iter().fold(both, |runs, by| runs & runs >> by) as u64;
            (starts != 0).then(|| word * u64::BITS as usize + starts.trailing_zeros() as usize)
        })
    }

    /// The memory behind a unit's beginning, for so many bytes.
    pub(super) fn bytes(&mut self, first: usize, bytes: usize) -> &mut [u8] {
        &mut self.slab[first * UNIT_BYTES..][..bytes]
    }

    /// Takes the units that a packet of so many bytes fills.
    pub(super) fn keep(&mut self, first: usize, bytes: usize) {
        let units = self.flip(first, bytes);
        self.used += units;
        self.touched = self.touched.max(first + units);
        while self.lowest < WORDS && self.free[self.lowest] == 0 {
            self.lowest += 1;
        }
    }

    /// Gives them back.
    pub(super) fn release(&mut self, first: usize, bytes: usize) {
        self.used -= self.flip(first, bytes);
        self.lowest = self.lowest.min(first / u64::BITS as usize);
    }

    /// Whether more memory was used since [`Self::give_back`] than is kept.
    pub(super) fn is_large(&self) -> bool {
        self.touched > KEPT_UNITS
    }

    /// Whether more is in use at this moment.
    pub(super) fn is_in_need(&self) -> bool {
        self.used > KEPT_UNITS
    }

    /// Gives the memory to the kernel, if none is in use.
    pub(super) fn give_back(&mut self) {
        if self.used == 0 {
            sys::give_back(&mut self.slab);
            self.touched = 0;
        }
    }

    fn flip(&mut self, first: usize, bytes: usize) -> usize {
        let units = bytes.div_ceil(UNIT_BYTES).max(1);
        let (word, bit) = (first / u64::BITS as usize, first % u64::BITS as usize);
        let mask = ((1u128 << units) - 1) << bit;
        self.free[word] ^= mask as u64;
        self.free[word + 1] ^= (mask >> u64::BITS) as u64;
        units
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_never_overlap_and_all_memory_is_found_again() {
        let mut places = Places::new();
        let mut held: Vec<(usize, usize)> = Vec::new();
        // Numbers without a pattern (Knuth's multiplier), the same at each run.
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let end = |(first, bytes): (usize, usize)| first + bytes.div_ceil(UNIT_BYTES);
        for _ in 0..20_000 {
            match places.room() {
                Some(first) if random(3) > 0 => {
                    assert!(first + ROOM_UNITS <= UNITS);
                    assert!(held.iter().all(|one| end(*one) <= first || first + ROOM_UNITS <= one.0));
                    let at_most = [84, 30_000, PACKET_BYTES_MAX][random(3)];
                    let bytes = 1 + random(at_most);
                    places.bytes(first, bytes).fill(7);
                    places.keep(first, bytes);
                    held.push((first, bytes));
                }
                _ if held.is_empty() => {}
                _ => {
                    let (first, bytes) = held.swap_remove(random(held.len()));
                    places.release(first, bytes);
                }
            }
        }
        held.drain(..).for_each(|(first, bytes)| places.release(first, bytes));
        assert_eq!((places.used, places.room()), (0, Some(0)));
        assert!(places.is_large() && !places.is_in_need());
        let full = std::iter::from_fn(|| {
            let first = places.room()?;
            places.keep(first, PACKET_BYTES_MAX);
            Some(())
        });
        assert_eq!(full.count(), UNITS / ROOM_UNITS, "no unit was lost");
    }
}
