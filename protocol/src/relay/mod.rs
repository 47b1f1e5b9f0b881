//! Fellow members that pass datagrams on between two that do not reach each other (README §19).
//!
//! [`circuits`]: what this device passes on for others. [`legs`]: the ways that others offer this device to one member.
//! [`consent`]: whether a device offers it. [`share`]: how much of it one member may have. Who asks whom, and which way is
//! used, the engine decides; the datagrams themselves pass through the forwarder alone.
//!
//! ```text
//! asker A              relay R              target B
//!   ── open(B) ─────────►                                  R has a direct link with both
//!                        ── opened(A, lB, want it?) ──►    B takes the leg (R, lB)
//!                        ◄── opened(A, lB) ────────────    R passes on from here
//!   ◄── opened(B, lA) ──                                   A takes the leg (R, lA)
//!   ── 82 lA [datagram] ─►── 82 lB [datagram] ────────►    and the other way round, under the same labels
//! ```

pub mod circuits;
pub mod consent;
pub mod legs;
pub mod share;

use std::time::Duration;

/// A circuit through which nothing passed for this long is closed (specified: README §19).
pub const SILENT_FOR: Duration = Duration::from_secs(60);
