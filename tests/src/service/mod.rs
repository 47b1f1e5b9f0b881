//! Servers of others, unchanged, on a host: sshd, PostgreSQL, redis. Each with keys, files and users of its own, gone when
//! it is dropped; nothing of the machine's own configuration is read or changed. Their clients take whatever the
//! program itself takes for an address: an alias or a name.

mod postgres;
mod redis;
mod ssh;

pub use postgres::Postgres;
pub use redis::Redis;
pub use ssh::Ssh;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// How long a server may take to start or to end, on a machine that is busy.
const SERVER_LIMIT: Duration = Duration::from_secs(30);
/// How long a program that talks to one may take.
const CLIENT_LIMIT: Duration = Duration::from_secs(60);

/// A server's process. Dropping it asks it to end, and makes it if it does not.
struct Server(Child);

impl Server {
    fn spawn(mut command: Command, name: &str) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().with_context(|| format!("{name} does not start"))?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Asked first: a server that is killed leaves its children behind.
        if let Some(process) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(process, Signal::INT);
        }
        if wait::until("a server to end", SERVER_LIMIT, || Ok(self.0.try_wait()?)).is_err() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
