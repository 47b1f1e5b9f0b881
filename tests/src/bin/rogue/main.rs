//! A member that misuses its keys: it speaks the protocol from the state folder of a real, stopped node, without a
//! node's scruples. The one program of this package that links what it attacks.
//!
//! ```text
//!  orders, a line of JSON each ──► orders ──► link ── handshake, sealed and raw datagrams ──► the victim
//!  answers, a line of JSON each ◄────┘          └──► what the victim says, opened and counted
//!                                  forge: objects that it may sign, and objects that it may not
//!                                  records: what its keys show of the DHT
//! ```
//!
//! | command | does |
//! |---|---|
//! | `rogue member` | takes orders from standard input until its end (orders.rs) |
//! | `rogue records NAME...` | prints where records about these members stand in the DHT, and one of its own (records.rs) |
//! | `rogue sign-charter NAME DEVICE` | signs the next charter with the founder's root key: one more admin; stores it in the object log of the stopped node and prints it |
//!
//! The state folder is `VPI_STATE`. It is only read, but for `sign-charter`.

mod flood;
mod forge;
mod link;
mod orders;
mod records;
mod state;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<()> {
    let folder = PathBuf::from(std::env::var_os("VPI_STATE").context("VPI_STATE names no state folder")?);
    let state = state::State::read(&folder)?;
    match words {
        [command] if command == "member" => orders::take(link::Rogue::new(state)?),
        [command, names @ ..] if command == "records" => {
            println!("{}", records::places(&state, names)?);
            Ok(())
        }
        [command, name, device] if command == "sign-charter" => {
            let charter = forge::next_charter(&state, name, device)?;
            state.append(&charter)?;
            println!("{}", forge::described(&charter));
            Ok(())
        }
        _ => bail!("rogue member | rogue records NAME... | rogue sign-charter NAME DEVICE"),
    }
}
