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
//!                  0x82 ─► another member's: its label there, and UDP again; or this node's, and as above
//!                  STUN ─► Engine::handle_stun, while a request waits
//!                  else ─► silence
//!
//! the way back in  Engine::poll_event: Lookup, Publish, OpenCircuit ─► libp2p ─► handle_command: Found ─► path; frames of a
//!                  circuit are datagrams in, and never packets
//! ```
//!
//! The engine is the slow path, with one owner; it tells the forwarder what changed by [`forward::Update`]s and hears of
//! traffic by [`forward::Note`]s. Siblings do not know each other: [`engine`] carries facts between them, and [`forward`]
//! does for packets.
//!
//! | module | owns |
//! |---|---|
//! | [`alias`] | 127.x.y.z ↔ member: which alias, who has it, and both aliases of a session into its packets |
//! | [`bucket`] | How often something may happen |
//! | [`discovery`] | What members put into a public DHT and read from it: blinded, sealed records |
//! | [`mod@drop`] | Why something was dropped |
//! | [`engine`] | One VPI's whole slow-path state; the only doors in and out |
//! | [`filter`] | What a member may reach |
//! | [`forward`] | The fast path: packets ⇄ data datagrams of running sessions |
//! | [`gate`] | The drop stance: the one place that chooses between an answer and silence |
//! | [`identity`] | Who is who: identifiers, and the keys behind them |
//! | [`membership`] | Who belongs, decided without a server: objects, reducer, tokens, joining, exchange |
//! | [`path`] | How a member is reached: addresses, probes, checks, sizes; what the NAT does |
//! | [`random`] | Chance, from one seed |
//! | [`relay`] | Datagrams passed on between members that do not reach each other: circuits, and who may have them |
//! | [`tunnel`] | Two members' keys: handshake, sessions, seal, open, replay window, cutting and coalescing |
//! | [`veil`] | Seals and opens every datagram that is not data |
//! | [`wire`] | Bytes ↔ messages |

#![forbid(unsafe_code)]

pub mod alias;
pub mod bucket;
pub mod discovery;
pub mod drop;
pub mod engine;
pub mod filter;
pub mod forward;
pub mod gate;
pub mod identity;
pub mod membership;
pub mod path;
pub mod random;
pub mod relay;
pub mod tunnel;
pub mod veil;
pub mod wire;
