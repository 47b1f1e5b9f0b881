//! The replay window (RFC 6479): which counters were seen.
//!
//! A ring of 64-bit blocks; moving forward clears whole blocks and shifts nothing. Only authentic datagrams may be
//! marked, so a forger cannot move the window.

/// How far behind the highest counter a datagram may arrive, in datagrams (specified: README §2–6).
pub const WINDOW: u64 = 8192;

const BLOCK_BITS: u64 = 64;
/// One block more than the window, so that the block being entered never holds counters of the window's far end.
const BLOCKS: usize = (WINDOW / BLOCK_BITS) as usize + 1;

/// The counters seen so far, from the highest down to [`WINDOW`] below it.
#[derive(Clone)]
pub struct ReplayWindow {
    /// The highest counter marked, plus one; 0 before the first.
    next: u64,
    blocks: [u64; BLOCKS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { next: 0, blocks: [0; BLOCKS] }
    }
}

impl ReplayWindow {
    /// Says whether `counter` is new: not seen, and not left of the window. `u64::MAX` is never new.
    #[must_use]
    pub fn is_new(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter != u64::MAX;
        }
        if self.next - counter > WINDOW {
            return false;
        }
        let (block, bit) = Self::place(counter);
        self.blocks[block] & bit == 0
    }

    /// Marks `counter`, which must be of an authentic datagram; returns whether it was new.
    pub fn mark(&mut self, counter: u64) -> bool {
        if !self.is_new(counter) {
            return false;
        }
        if counter >= self.next {
            self.advance_to(counter);
        }
        let (block, bit) = Self::place(counter);
        self.blocks[block] |= bit;
        true
    }

    /// Clears every block between the highest counter's and `counter`'s, then makes `counter` the highest.
    fn advance_to(&mut self, counter: u64) {
        let entered = counter / BLOCK_BITS;
        // Before the first counter no block holds anything, block 0 included.
        let left = self.next.saturating_sub(1) / BLOCK_BITS;
        let steps = (entered - left).min(BLOCKS as u64);
        for step in 0..steps {
            self.blocks[((entered - step) % BLOCKS as u64) as usize] = 0;
        }
        self.next = counter + 1;
    }

    fn place(counter: u64) -> (usize, u64) {
        (((counter / BLOCK_BITS) % BLOCKS as u64) as usize, 1 << (counter % BLOCK_BITS))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The definition: a set of all counters seen.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn mark(&mut self, counter: u64) -> bool {
            let highest = self.seen.last().copied();
            let in_window =
                highest.is_none_or(|highest| counter > highest || highest + 1 - counter <= WINDOW);
            counter != u64::MAX && in_window && self.seen.insert(counter)
        }
    }

    fn counters() -> impl Strategy<Value = Vec<u64>> {
        let near =
            prop_oneof![0..200u64, 8000..8400u64, 16_300..16_700u64, Just(u64::MAX), Just(u64::MAX - 1)];
        prop_oneof![
            prop::collection::vec(near, 1..300),
            prop::collection::vec(0..40_000u64, 1..300),
            prop::collection::vec(any::<u64>(), 1..50),
        ]
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set_of_all_counters(counters in counters()) {
            let (mut window, mut model) = (ReplayWindow::default(), Model::default());
            for counter in counters {
                let new = window.is_new(counter);
                let expected = model.mark(counter);
                prop_assert_eq!(new, expected, "is_new({})", counter);
                prop_assert_eq!(window.mark(counter), expected, "mark({})", counter);
            }
        }
    }

    #[test]
    fn the_edge_of_the_window_is_exact() {
        let mut window = ReplayWindow::default();
        assert!(window.mark(WINDOW));
        assert!(window.is_new(1));
        assert!(!window.is_new(0));
    }
}
