//! What survives a restart (node/README, What survives).
//!
//! Owns every file below the state folder but the control socket:
//!
//! ```text
//! DIR/lock                        held by the one running node, with its process id        state
//! DIR/journal                     what was put on this machine outside of this folder      journal
//! DIR/keys/device                 this device's Ed25519 seed                               keys
//! DIR/keys/<vpi>/device           the same for one VPI, which it left and joined again     keys
//! DIR/keys/<vpi>/…                static-<counter>, epoch-<number>-<tag>, root, recovery   keys
//! DIR/keys/<vpi>/joining          a join that was asked and is not yet answered            pending
//! DIR/vpi/<vpi>/objects.log       every signed object, append-only                         objects
//! DIR/vpi/<vpi>/floor             the furthest state ever reached                          floor
//! DIR/vpi/<vpi>/aliases           which alias is pinned for which device                   aliases
//! DIR/vpi/<vpi>/vpi.toml          this machine's own choices for the VPI                   settings
//! DIR/vpi/<vpi>/left              this device left the VPI: nothing else is kept of it     departure
//! DIR/index/                      sled, opened by a process of its own: can be rebuilt     index
//! DIR/beacon/                     of a beacon: lock, key, table, records/ (sled)           beacon
//! ```
//!
//! Beside what cannot be made anew stands `NAME.copy`; beside what was damaged, `NAME.damaged` (aside).
//!
//! In: bytes and facts to keep. Out: the same after any crash, or a word about what was lost. Whatever is damaged
//! is set aside and reported, never silently dropped and never trusted. Nothing here decides who belongs.

pub(crate) mod aliases;
pub(crate) mod aside;
pub(crate) mod beacon;
#[cfg(test)]
mod damage;
pub(crate) mod departure;
mod error;
pub(crate) mod floor;
mod guard;
pub(crate) mod index;
pub(crate) mod journal;
pub(crate) mod keys;
pub(crate) mod objects;
pub(crate) mod pending;
pub(crate) mod reach;
pub(crate) mod records;
mod replace;
pub(crate) mod settings;
pub(crate) mod state;

pub(crate) use error::StoreError;
