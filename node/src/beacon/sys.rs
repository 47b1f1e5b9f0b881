//! The one call to the C library.
#![allow(unsafe_code)]

/// Gives free memory of the allocator back to the system, where it is glibc's.
pub(super) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) is safe to call at any time and from any thread; it touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
