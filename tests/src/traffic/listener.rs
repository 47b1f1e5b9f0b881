//! TCP listeners that say who they are: on every address, or forced onto an address that is not the host's.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};

use super::echo::Worker;
use crate::Host;

const POLL: Duration = Duration::from_millis(10);
const BACKLOG: i32 = 16;

/// A listener that greets every connection with a word and closes it. Ends when dropped.
pub struct Listener {
    accepted: Arc<AtomicUsize>,
    _worker: Worker,
}

impl Listener {
    /// Listens on `0.0.0.0:port` of `host`.
    ///
    /// # Errors
    /// The port is taken.
    pub fn wildcard(host: &Host, port: u16, greeting: &str) -> Result<Self> {
        Self::start(host, Ipv4Addr::UNSPECIFIED, port, greeting, false)
    }

    /// Listens on `address:port` of `host` though the address is not that host's (`IP_FREEBIND`).
    ///
    /// # Errors
    /// The port is taken.
    pub fn forced(host: &Host, address: Ipv4Addr, port: u16, greeting: &str) -> Result<Self> {
        Self::start(host, address, port, greeting, true)
    }

    /// How many connections came.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    fn start(host: &Host, address: Ipv4Addr, port: u16, greeting: &str, freebind: bool) -> Result<Self> {
        let socket = host.enter(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.set_freebind_v4(freebind)?;
            socket.bind(&SocketAddr::from((address, port)).into())?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })?;
        let accepted = Arc::new(AtomicUsize::new(0));
        let (counter, greeting) = (Arc::clone(&accepted), greeting.to_owned());
        let worker = Worker::start(move |wanted| {
            while wanted() {
                match socket.accept() {
                    Ok((mut connection, _)) => {
                        counter.fetch_add(1, Ordering::Relaxed);
                        // A caller that went away has its answer.
                        let _ = connection.write_all(greeting.as_bytes());
                    }
                    Err(_) => thread::sleep(POLL),
                }
            }
        });
        Ok(Self { accepted, _worker: worker })
    }
}

/// Connects from `host` and reads what the listener says, within `limit` each.
///
/// # Errors
/// The connection is refused or times out, or nothing is said.
pub fn read_greeting(host: &Host, target: SocketAddr, limit: Duration) -> Result<String> {
    host.enter(|| {
        let mut stream = TcpStream::connect_timeout(&target, limit)?;
        stream.set_read_timeout(Some(limit))?;
        let mut greeting = String::new();
        stream.read_to_string(&mut greeting)?;
        Ok(greeting)
    })
}
