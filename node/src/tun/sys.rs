//! The ioctls that make a TUN device persistent and give it to a user (Linux `include/uapi/linux/if_tun.h`),
//! and the one that tells whether a device runs (netdevice(7)).
//!
//! `tun-rs` has them, too, but hands `TUNSETOWNER` a pointer where the kernel takes the number itself.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Ties an open driver file to the device `name`, which is made if it is missing.
///
/// `name` has at most 15 bytes; more would be cut off.
///
/// # Errors
/// `EPERM` without the right to it, `EBUSY` if another process is tied to it, `EINVAL` if it is no TUN.
pub(super) fn set_interface(driver: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let mut request = named(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open, and `request` is the `ifreq` that TUNSETIFF reads and writes.
    check(unsafe { libc::ioctl(driver.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
}

/// Lets the user with this number attach to the device without a capability.
///
/// # Errors
/// What the kernel says; `EINVAL` for a number that this user namespace does not map.
pub(super) fn set_owner(driver: BorrowedFd<'_>, uid: u32) -> io::Result<()> {
    // SAFETY: the descriptor is open; TUNSETOWNER takes a number and no pointer.
    check(unsafe { libc::ioctl(driver.as_raw_fd(), libc::TUNSETOWNER, libc::c_ulong::from(uid)) })
}

/// Keeps the device when the last descriptor is closed.
///
/// # Errors
/// What the kernel says.
pub(super) fn set_persistent(driver: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_ulong = 1;
    // SAFETY: the descriptor is open; TUNSETPERSIST takes a number and no pointer.
    check(unsafe { libc::ioctl(driver.as_raw_fd(), libc::TUNSETPERSIST, on) })
}

/// What the driver can do (`IFF_…` bits), without a device.
///
/// # Errors
/// What the kernel says.
pub(super) fn features(driver: BorrowedFd<'_>) -> io::Result<libc::c_uint> {
    let mut features: libc::c_uint = 0;
    // SAFETY: the descriptor is open, and TUNGETFEATURES writes one unsigned int.
    check(unsafe { libc::ioctl(driver.as_raw_fd(), libc::TUNGETFEATURES, &raw mut features) })?;
    Ok(features)
}

/// Whether the device is up, and whether it also runs: packets that leave one that does not are lost.
///
/// # Errors
/// What the kernel says; `ENODEV` if there is no such device.
pub(super) fn is_up_and_is_running(socket: BorrowedFd<'_>, name: &str) -> io::Result<(bool, bool)> {
    let mut request = named(name);
    // SAFETY: the descriptor is an open socket, and `request` is the `ifreq` that SIOCGIFFLAGS reads and writes.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) })?;
    // SAFETY: SIOCGIFFLAGS leaves the flags in the union, and a number has no invalid value.
    let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    Ok((flags & libc::IFF_UP != 0, flags & libc::IFF_RUNNING != 0))
}

fn named(name: &str) -> libc::ifreq {
    // SAFETY: `ifreq` is plain C data, for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(super::NAME_MAX_BYTES).zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request
}

fn check(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
