//! Memory that is given back to the kernel while its address stays: madvise(2).
#![allow(unsafe_code)]

/// *Specified*: bytes of the largest page that Linux has on any machine (its base pages).
const PAGE_BYTES_MAX: usize = 64 << 10;

/// Has the kernel take the pages that lie wholly within `memory`, and give them anew, zeroed, when they are touched next.
///
/// `memory` is a large allocation of its own; after this its bytes are as they were or 0. A kernel that will not leaves all as
/// it was.
pub(super) fn give_back(memory: &mut [u8]) {
    let before = memory.as_ptr().align_offset(PAGE_BYTES_MAX);
    let Some(within) = memory.get_mut(before..) else { return };
    let bytes = within.len() / PAGE_BYTES_MAX * PAGE_BYTES_MAX;
    // SAFETY: the pages lie within memory that is borrowed for writing here, and is private to this process and not of a
    // file, as all of the allocator's is; any value is valid in it, and the kernel takes or zeroes nothing else.
    let _ = unsafe { libc::madvise(within.as_mut_ptr().cast(), bytes, libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_back_is_zero_and_can_be_written_again() {
        let mut memory = vec![7u8; 1 << 20];
        give_back(&mut memory);
        assert!(memory.iter().filter(|byte| **byte != 0).count() < 2 * PAGE_BYTES_MAX, "all but the edges");
        memory.fill(9);
        assert!(memory.iter().all(|byte| *byte == 9));
        give_back(&mut memory[..3]);
        assert_eq!(memory[..3], [9; 3], "what is smaller than a page stays");
    }
}
