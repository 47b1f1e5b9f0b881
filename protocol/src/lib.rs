//! What a node of a Virtual Private Internet decides: bytes, keys, states, who belongs, which path. No clock, no socket, no
//! thread, no file; time, randomness and datagrams are arguments. The wire specification is this crate's README.
//!
//! ```text
//! a packet out   TUN ─► forward::Forwarder::outbound ─► filter ─► link of the alias ─► tunnel::segment ─► tunnel::Sealer ─► UDP
//!                          │ no session: Hold
//!                          ▼
//!                engine::Engine::handle_packet ─► held ─► veil( tunnel::handshake ) ─► UDP to every address of path::Path
//!
//! a datagram in  UDP ─► forward::Forwarder::inbound
//!                  0x80 ─► tunnel::Opener ─► packet ─► filter ─► alias::rewrite ─► tunnel::coalesce ─► TUN
//!                  │                └► in-session message ─► Engine::handle_message ─► path, membership::exchange
//!                  0x81 ─► Engine::handle_datagram ─► veil ─► gate ─► handshake, or membership::witness ─► an answer, or silence
//!                  else ─► silence
//! ```
//!
//! The engine is the slow path, with one owner; it tells the forwarder what changed by [`forward::Update`]s and hears of
//! traffic by [`forward::Note`]s. Siblings do not know each other: [`engine`] carries facts between them, and [`forward`]
//! does for packets.

#![forbid(unsafe_code)]

/// 127.x.y.z ↔ member: which alias, who has it, and both aliases of a session into its packets.
pub mod alias;
mod bucket;
/// Why something was dropped.
pub mod drop;
/// One VPI's whole slow-path state; the only doors in and out.
pub mod engine;
/// What a member may reach.
pub mod filter;
/// The fast path: packets ⇄ data datagrams of running sessions.
pub mod forward;
/// The drop stance: the one place that chooses between an answer and silence.
pub mod gate;
/// Who is who: identifiers, and the keys behind them.
pub mod identity;
/// Who belongs, decided without a server: objects, reducer, tokens, joining, exchange.
pub mod membership;
/// How a member is reached: addresses, probes, sizes.
pub mod path;
/// Chance, from one seed.
pub mod random;
/// Two members' keys: handshake, sessions, seal, open, replay window, cutting and coalescing.
pub mod tunnel;
/// Seals and opens every datagram that is not data.
pub mod veil;
/// Bytes ↔ messages.
pub mod wire;
