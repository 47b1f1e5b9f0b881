//! Puts a test's thread in namespaces of its own.
#![allow(unsafe_code)]

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Moves the calling thread, and what it starts from here on, into fresh namespaces.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`.
pub(super) fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    assert!(!flags.contains(UnshareFlags::FILES), "other threads hold descriptors of this one");
    // SAFETY: only splitting the table of descriptors can break what other threads rely on; see above.
    unsafe { unshare_unsafe(flags) }
}
