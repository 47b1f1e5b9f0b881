//! Two members' keys: from a handshake to packets that only the two of them can read.
//!
//! ```text
//!  initiator                                   responder
//!  initiate ── 1 | sender index | Noise 1 ──►  receive ─► (member? the gate decides)
//!  complete ◄─ 2 | receiver index | Noise 2 ── answer
//!      └── Sealer, Opener ══ data datagrams ══ Opener, Sealer ──┘
//! ```
//!
//! [`handshake`] makes the keys, [`Sealer`] and [`Opener`] use them, [`Sessions`] says which of up to three sessions
//! with one member is used, [`timers`] says when a session is renewed, [`segment`] cuts packets to a path's size, and
//! [`coalesce`] puts them together again.

pub mod coalesce;
pub mod handshake;
mod noise;
mod opener;
mod replay;
mod sealer;
pub mod segment;
mod sessions;
mod suite;
pub mod timers;

pub use opener::{OpenError, Opener};
pub use replay::{ReplayWindow, WINDOW};
pub use sealer::{Exhausted, REJECT_AFTER_DATAGRAMS, Sealer};
pub use sessions::{Role, Session, Sessions};
pub use suite::Suite;
