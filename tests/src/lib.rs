//! The lab: drives the real `vpi` binary inside the networks of `netns-scripts`, and measures what users would see.
//!
//! ```text
//!  scenario ──► Lab ── run.sh up lan ──► namespaces a, b, c … on one switch; or `internet`: each behind a router;
//!                │                                            or `nats`: behind NATs of chosen kinds
//!                │
//!                ├── Host     runs commands and opens sockets inside one namespace
//!                ├── Node     one `vpi up`: ready line, SIGTERM, kill -9
//!                ├── Beacon   one `vpi beacon`, and Flood, what strangers do to it
//!                ├── Strangers  circuits that strangers open to a member (bin/stranger)
//!                ├── Clock    a wall clock that is wrong, or is set
//!                ├── Liar     one beacon that answers as it is told to (bin/liar)
//!                ├── traffic  HTTP, bulk transfer, held connection, echo, listeners
//!                ├── service  sshd, PostgreSQL, redis
//!                ├── Capture  tcpdump at a switch port, read back as frames
//!                ├── privacy  what can be read at a beacon
//!                ├── nat      kinds of NAT, and what each one is measured to do
//!                ├── probe    what a stranger sends, and the check that nothing answers
//!                └── Rogue    what a member sends that misuses its keys (bin/rogue; it, bin/stranger and bin/liar alone link the protocol)
//! ```
//!
//! It links none of the code that it judges: it starts the binary (`VPI_BIN`, or the one beside the tests) and reads
//! output, exit codes and the wire. Each scenario has a lab of its own, so that they run side by side. What a failed
//! scenario leaves lies in `target/lab/<scenario>/`.

pub mod beacon;
pub mod capture;
pub mod clock;
pub mod kademlia;
pub mod liar;
pub mod member;
pub mod nat;
pub mod node;
pub mod privacy;
pub mod probe;
pub mod process;
pub mod rogue;
pub mod service;
pub mod strangers;
pub mod topology;
pub mod traffic;
pub mod wait;

pub use beacon::{Beacon, Flood};
pub use clock::Clock;
pub use liar::Liar;
pub use member::{Member, Pair};
pub use nat::{Maps, Nat, Site};
pub use node::Node;
pub use process::Answer;
pub use rogue::Rogue;
pub use strangers::Strangers;
pub use topology::{Host, Lab, impaired_nats, internet, nats, one_at_a_time, scenario};
