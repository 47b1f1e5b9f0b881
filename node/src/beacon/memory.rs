//! How much memory the process has, and what is done when it is too much.

use std::fs;

use super::sys;

/// *Chosen*: memory above which a connection comes in only in the place of another. All places taken by idle members and a full
/// store take about 520 MB (measured per connection and per record); what floods put on top they hold in streams.
pub(super) const SHORT_ABOVE_BYTES: u64 = 544 << 20;
/// *Chosen*, a quarter of the stated bound below it, because a flood adds to what is found until it is looked for again:
/// memory above which connections are closed each second, until there is less: closing them frees what their streams
/// hold.
const SHED_ABOVE_BYTES: u64 = 576 << 20;
/// *Chosen*: memory above which the allocator is asked now and then for what it keeps: after a flood that is most of it.
pub(super) const GIVE_BACK_ABOVE_BYTES: u64 = 192 << 20;

/// The memory of this process in RAM, in bytes; 0 where `/proc` is not mounted.
pub(super) fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1_024)
}

/// How many of `connections` are to be closed with `resident` bytes in RAM: a sixteenth at least, and twice the part by which there
/// is too much, so that no line fills it faster than it is emptied.
pub(super) fn shed_of(connections: usize, resident: u64) -> usize {
    let Some(excess) = resident.checked_sub(SHED_ABOVE_BYTES).filter(|excess| *excess > 0) else { return 0 };
    let part = usize::try_from(2 * excess / (resident / 64)).unwrap_or(64);
    connections.saturating_mul(part.clamp(4, 64)).div_ceil(64)
}

/// Gives what the allocator keeps for later back to the system, so that memory in RAM is memory in use.
pub(super) fn give_back() {
    sys::trim();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_memory_and_gives_it_back() {
        let before = resident_bytes();
        let many: Vec<Vec<u8>> = (0..20_000).map(|_| vec![1; 4_096]).collect();
        let full = resident_bytes();
        assert!(full > before + (60 << 20), "{before} {full}");
        drop(many);
        give_back();
        assert!(resident_bytes() < full - (60 << 20));
    }

    #[test]
    fn connections_are_closed_only_when_memory_is_short() {
        assert_eq!(shed_of(1_000, SHED_ABOVE_BYTES), 0);
        assert_eq!(shed_of(1_000, SHED_ABOVE_BYTES + 1), 63);
        assert_eq!(shed_of(1_000, 704 << 20), 360);
        assert_eq!(shed_of(1_000, 8 << 30), 1_000);
        assert_eq!(shed_of(0, 8 << 30), 0);
    }
}
