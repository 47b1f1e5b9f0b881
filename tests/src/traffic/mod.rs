//! What applications do: unchanged programs and plain sockets, opened inside a host's namespace.

mod bulk;
mod crowd;
mod echo;
mod held;
mod listener;
mod load;
mod web;

pub use bulk::{Transfer, transfer};
pub use crowd::crowd;
pub use echo::{EchoServer, Flow};
pub use held::HeldConnection;
pub use listener::{Listener, read_greeting};
pub use load::{Load, Loads, offer};
pub use web::{WebServer, fetch};

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// How long any single read or connect of an application may take.
const IO_LIMIT: Duration = Duration::from_secs(10);

fn anywhere(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}
