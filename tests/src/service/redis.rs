//! redis on 127.0.0.1 alone, and `redis-cli`.

use std::fmt::Display;
use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use super::{CLIENT_LIMIT, SERVER_LIMIT, Server};
use crate::{Host, wait};

/// A redis-server without files.
pub struct Redis {
    port: u16,
    _server: Server,
}

impl Redis {
    /// Starts it on `127.0.0.1:port` of `host`, and returns when it answers there.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let word = port.to_string();
        // Its guard against strangers would itself refuse a caller's alias, and so hide what the node does.
        let words = ["--bind", "127.0.0.1", "--port", &word, "--save", "", "--protected-mode", "no"];
        let server = Server::spawn(host.command("redis-server", &words), "redis-server")?;
        let redis = Self { port, _server: server };
        wait::until("redis to answer", SERVER_LIMIT, || {
            Ok(redis.ask_from(host, Ipv4Addr::LOCALHOST, &["PING"]).ok())
        })?;
        Ok(redis)
    }

    /// What `redis-cli` on `host` is told by the server at `address`.
    ///
    /// # Errors
    /// No connection, or an error of the server.
    pub fn ask_from(&self, host: &Host, address: impl Display, words: &[&str]) -> Result<String> {
        let (address, port) = (address.to_string(), self.port.to_string());
        let words = [&["-e", "-h", &address, "-p", &port], words].concat();
        let said = host.run("redis-cli", &words, CLIENT_LIMIT)?.success()?.stdout;
        ensure!(!said.contains("Could not connect"), "{said}");
        Ok(said.trim().to_owned())
    }
}
