//! Signed objects: the envelope, and what stands in each kind of body.
//!
//! In go bytes from anybody; out comes an [`Object`] whose signatures, encoding and fields hold, or an
//! [`ObjectError`]. Whether it *counts* is the reducer's business.
//!
//! ```text
//! envelope = [1, body: bstr, [[key id: 8 bytes, signature: 64 bytes], ...]]   key ids ascending
//! body     = {0: kind, 1: ..., 2: ...}          deterministic CBOR, see wire/cbor.rs
//! key id   = the first 8 bytes of the signer's public key
//! id       = SHA-256("vpi/v1 id" ‖ body)
//! signed   = "vpi/v1 " ‖ kind name ‖ 0 ‖ VPI ID ‖ body
//! ```
//!
//! | kind | name | fields of the body | signed by fields |
//! |---|---|---|---|
//! | 1 | charter | see charter.rs | 5 |
//! | 2 | invite | see invite.rs | 1 |
//! | 3 | join | see join.rs | 2 and 7 |
//! | 4 | admit | see join.rs | 1 |
//! | 5 | remove | see remove.rs | 1 |
//! | 6 | epoch | see epoch.rs | 1 |
//! | 7 | rekey | see epoch.rs | 1 |
//! | 8 | presence | see presence.rs | 1 |
//! | 9 | lease | see confirm.rs | 1 |
//! | 10 | confirm | see confirm.rs | 1 |

mod body;
mod charter;
mod confirm;
mod envelope;
mod epoch;
mod field;
mod invite;
mod join;
mod presence;
mod remove;
mod signed;
#[cfg(test)]
mod tests;

pub use body::{Body, Kind, Link};
pub use charter::{Admin, Capabilities, Charter, Cut, MAX_ADMINS, MAX_ROOTS, Policy, Root, WhoMayAdmit};
pub use confirm::{Confirm, Lease, MAX_CONFIRMED};
pub use envelope::{MAX_BODY_BYTES, MAX_OBJECT_BYTES, MAX_SIGNATURES};
pub use epoch::{Epoch, Rekey};
pub use field::MAX_COUNT;
pub use invite::{Invite, MAX_INVITE_SECONDS, MAX_USES};
pub use join::{Admit, Join};
pub use presence::{MAX_BEACON_ADDRESS, MAX_BEACON_PEER, MAX_CANDIDATES, Presence, RELAYS};
pub use remove::{Reason, Remove, Target};
pub use signed::{Object, ObjectError};

/// Letters of a device's name, at most (specified: README §10); it becomes a DNS label.
pub const MAX_DEVICE_NAME: usize = 32;

/// Letters of a VPI's name, at most (specified: README §10): `vpi-` and the name fit a device name
/// of Linux (15).
pub const MAX_VPI_NAME: usize = 11;

/// Says whether `name` is 1 to `most` of `[a-z0-9-]`.
#[must_use]
pub fn is_name(name: &str, most: usize) -> bool {
    (1..=most).contains(&name.len())
        && name.bytes().all(|letter| matches!(letter, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}
