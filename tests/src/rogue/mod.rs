//! A running `rogue member` on a host: orders in, answers out (bin/rogue/orders.rs has the list).

pub mod packet;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::Host;

/// How long one order may take.
const ORDER_LIMIT: Duration = Duration::from_secs(30);

/// A member whose node is stopped and whose keys a program misuses. Dropping it ends the program.
pub struct Rogue {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
}

impl Rogue {
    /// Starts `binary` with the state folder of `host`, whose node must be stopped.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(host: &Host, binary: &str) -> Result<Self> {
        let mut command = host.command(binary, &["member"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("rogue does not start")?;
        let orders = child.stdin.take().context("standard input is piped")?;
        let lines = BufReader::new(child.stdout.take().context("standard output is piped")?).lines();
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // Nobody listens once the rogue is dropped.
                let _ = sender.send(line);
            }
        });
        Ok(Self { child, orders, answers })
    }

    /// Gives an order and returns the answer.
    ///
    /// # Errors
    /// The rogue's own sentence, or no answer within 30 s.
    pub fn order(&mut self, order: &Value) -> Result<Value> {
        writeln!(self.orders, "{order}")?;
        let line = self.answers.recv_timeout(ORDER_LIMIT).with_context(|| format!("no answer to {order}"))?;
        let answer: Value = serde_json::from_str(&line)?;
        match answer["error"].as_str() {
            Some(error) => bail!("{order}: {error}"),
            None => Ok(answer),
        }
    }

    /// Shakes hands with the member `name`.
    ///
    /// # Errors
    /// As [`Rogue::order`]; `no response` if it is not answered.
    pub fn handshake(&mut self, name: &str, to: SocketAddr) -> Result<Value> {
        self.order(&json!({"do": "handshake", "with": name, "to": to.to_string()}))
    }

    /// Seals datagrams as `order` says, an order `make`, and sends none.
    ///
    /// # Errors
    /// As [`Rogue::order`].
    pub fn make(&mut self, order: &Value) -> Result<Vec<Vec<u8>>> {
        let answer = self.order(order)?;
        let datagrams = answer["datagrams"].as_array().context("an answer has datagrams")?;
        datagrams.iter().map(|datagram| unhex(datagram.as_str().unwrap_or_default())).collect()
    }

    /// Seals each of `plaintexts` and sends it.
    ///
    /// # Errors
    /// As [`Rogue::order`].
    pub fn say(&mut self, plaintexts: &[Vec<u8>]) -> Result<Value> {
        let plaintexts: Vec<String> = plaintexts.iter().map(|bytes| hex(bytes)).collect();
        self.order(&json!({"do": "say", "plaintexts": plaintexts}))
    }
}

/// Signs, with the root key in the state folder of the founder `host`, whose node must be stopped, the next charter:
/// `device` (64 hexadecimal digits) becomes one more admin called `name`. It lies in the folder's object log then, and
/// the founder's node has it when it starts. Returns `{"id", "object"}`.
///
/// # Errors
/// The program's own sentence.
pub fn sign_charter(host: &Host, binary: &str, name: &str, device: &str) -> Result<Value> {
    host.run(binary, &["sign-charter", name, device], ORDER_LIMIT)?.json()
}

/// What the keys in the state folder of `host`, whose node must be stopped, show of the DHT: `{NAME: {"presence": [KEY],
/// "bulletin": [KEY]}, "own": {"key", "value"}}`, in hexadecimal (bin/rogue/records.rs).
///
/// # Errors
/// The program's own sentence.
pub fn records(host: &Host, binary: &str, names: &[&str]) -> Result<Value> {
    host.run(binary, &[&["records"], names].concat(), ORDER_LIMIT)?.json()
}

impl Drop for Rogue {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let pair = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..text.len()).step_by(2).map(|at| pair(at).context("an odd digit in hexadecimal")).collect()
}
