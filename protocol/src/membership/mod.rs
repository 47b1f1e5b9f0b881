//! Who belongs, decided without a server.
//!
//! In go signed objects from anybody, in any order; out comes a [`Membership`], the same at every member that
//! holds the same objects. Nothing here waits, sends or stores: `engine` carries objects between the network,
//! the disk and this room.
//!
//! ```text
//! bytes ─► object::Object ─► ObjectSet ─► reduce ─► Membership ─► admin::remove, … ─► object::Object
//!                                                       │
//! token ─► join::Question ────────► witness::consider ◄─┘ ─► join::Answer
//! ```
//!
//! | file | owns |
//! |---|---|
//! | object/ | the envelope, and each kind's fields |
//! | set.rs, bounds.rs | the objects held, and what keeps them few |
//! | charters.rs, chain.rs, removals.rs, rounds.rs, reducer.rs | the rules that turn the set into members |
//! | standing.rs | the result, and the questions it answers |
//! | epoch.rs | epoch secrets, the keys from them, the sealed box |
//! | token.rs | the text that invites |
//! | join.rs, witness.rs | question and answer, and what a witness checks between them |
//! | founding.rs | the objects that founders and inviters make |
//! | admin.rs | what admins sign to remove and to change the epoch, and members about themselves |

pub mod admin;
mod bounds;
mod chain;
mod charters;
pub mod epoch;
pub mod exchange;
pub mod founding;
pub mod join;
pub mod object;
mod reducer;
mod removals;
mod rounds;
mod set;
mod standing;
#[cfg(test)]
mod tests;
pub mod token;
pub mod witness;

pub use bounds::{
    MAX_ADMITS, MAX_CHAIN_BYTES, MAX_LOOSE_CHARTERS, MAX_REKEYS, MAX_SET_BYTES, Missing, SPARE_JOINS,
};
pub use reducer::{reduce, removed_digest};
pub use set::{Insertion, ObjectSet, PAGE, Refusal};
pub use standing::{Alarm, EpochState, INVITE_GRACE_SECONDS, InviteState, Member, Membership, Waiting};
