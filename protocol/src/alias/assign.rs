//! Which prefix a VPI, and which suffix a device would like.
//!
//! In: identifiers. Out: the same choice on every machine that nothing stands in the way of; see README §13.
//!
//! ```text
//! 127 . 64 + (hash of VPI) mod 64 . suffix high . suffix low        suffix = 1 + hash of (VPI, device, attempt)
//! └──────── prefix, /16 ────────┘ └───── 1 to 65,534 ──────┘                 mod 65,534
//! ```

use std::net::Ipv4Addr;

use crate::identity::{DeviceId, VpiId, sha256};

/// *Specified* (README §13): the pool is 127.64.0.0/10, clear of other users of 127.0.0.0/8.
const POOL_SECOND_OCTET: u8 = 64;
/// How many /16 the pool holds.
const PREFIXES: u8 = 64;
/// How many suffixes a prefix has: all but .0.0 and .255.255, which many programs take for a network's own.
pub const SUFFIXES: u16 = u16::MAX - 1;

/// The prefix that this VPI prefers: `127.x.0.0`, of a /16.
#[must_use]
pub fn preferred_prefix(vpi: &VpiId) -> Ipv4Addr {
    prefix(preferred_index(vpi))
}

/// All 64 prefixes, the preferred one first, then each one's next: the order in which a machine looks for one
/// that nothing else uses.
pub fn prefixes(vpi: &VpiId) -> impl Iterator<Item = Ipv4Addr> + use<> {
    let preferred = preferred_index(vpi);
    (0..PREFIXES).map(move |step| prefix((preferred + step) % PREFIXES))
}

/// The suffix that `device` prefers in the `attempt`-th place, from 0: 1 to 65,534.
#[must_use]
pub fn preferred_suffix(vpi: &VpiId, device: &DeviceId, attempt: u32) -> u16 {
    let hash = sha256(&[b"vpi/v1 alias suffix\0", &vpi.0, &device.0, &attempt.to_be_bytes()]);
    let [a, b, c, d, ..] = hash;
    let index = u32::from_be_bytes([a, b, c, d]) % u32::from(SUFFIXES);
    1 + u16::try_from(index).expect("a remainder by a 16-bit number has 16 bits")
}

fn preferred_index(vpi: &VpiId) -> u8 {
    let [first, ..] = sha256(&[b"vpi/v1 alias prefix\0", &vpi.0]);
    first % PREFIXES
}

fn prefix(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, POOL_SECOND_OCTET + index, 0, 0)
}
