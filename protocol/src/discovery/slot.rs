//! Slots: the hours in which a record lives under one key (README §18). Wall-clock time, in unix seconds, is an argument.

/// Seconds of one slot (specified: README §18).
pub const SLOT_SECS: u64 = 3_600;

/// So long before its start a slot's records are written already, in seconds (specified: README §18).
pub const NEXT_SECS: u64 = 600;

/// So long after its slot's start a record lives, in seconds: its slot, and the one in which it is read as the former
/// (specified: README §18).
pub const LIFE_SECS: u64 = 2 * SLOT_SECS;

/// The slot at `wall_secs`.
#[must_use]
pub fn slot_of(wall_secs: u64) -> u64 {
    wall_secs / SLOT_SECS
}

/// When `slot` starts, in unix seconds.
#[must_use]
pub fn start_of(slot: u64) -> u64 {
    slot.saturating_mul(SLOT_SECS)
}

/// When the records of `slot` end, in unix seconds: the same for every writer, so that it tells nobody apart.
#[must_use]
pub fn expiry_of(slot: u64) -> u64 {
    start_of(slot).saturating_add(LIFE_SECS)
}

/// The slots to read at `wall_secs`, in this order: the current one, then the one before.
#[must_use]
pub fn read_at(wall_secs: u64) -> [u64; 2] {
    let current = slot_of(wall_secs);
    [current, current.saturating_sub(1)]
}

/// The slots to have records in at `wall_secs`: the current one, in its last [`NEXT_SECS`] also the next.
pub fn written_at(wall_secs: u64) -> impl Iterator<Item = u64> {
    slot_of(wall_secs)..=slot_of(wall_secs.saturating_add(NEXT_SECS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_written_from_ten_minutes_before_its_start_and_read_until_the_next_ends() {
        let start = start_of(500_000);
        assert_eq!((start, expiry_of(500_000)), (1_800_000_000, 1_800_007_200));
        let written = |at: u64| written_at(at).any(|slot| slot == 500_000);
        let read = |at: u64| read_at(at).contains(&500_000);
        assert_eq!(
            [start - 601, start - 600, start, start + 3_599, start + 3_600].map(written),
            [false, true, true, true, false]
        );
        assert_eq!([start - 1, start, start + 7_199, start + 7_200].map(read), [false, true, true, false]);
        assert_eq!(read_at(start), [500_000, 499_999]);
    }

    #[test]
    fn no_time_is_too_early_or_too_late() {
        assert_eq!(read_at(0), [0, 0]);
        assert_eq!(written_at(u64::MAX).count(), 1);
        assert_eq!(expiry_of(u64::MAX), u64::MAX);
    }
}
