//! A beacon by its looks, which answers lookups as it is told to.
//!
//! ```text
//! liar --tcp IP:PORT [--peer MULTIADDRESS]... [WAY]... [--clock SECONDS] [--stun WAY] [--named IP:PORT]
//! ```
//!
//! | way | what becomes of a question |
//! |---|---|
//! | none | it is answered as a beacon does |
//! | `--wrong` | a value that looks like a record and is not; peers that do not exist, closer to the key than any (lies.rs) |
//! | `--stale` | the first value that was ever put, for ever; every later put is acknowledged |
//! | `--empty` | no value, no peers |
//! | `--enormous` | a value longer than any record; hundreds of peers; a message of 1 GiB |
//! | `--close` | the connection is closed |
//! | `--stall` | the stream is held open, and nothing comes |
//! | `--mute` | not even that: connections are taken and never answered |
//!
//! Of several ways each question gets the next in turn. Identify, ping, circuits and the time are those of any beacon, so
//! beacons take it into their tables; the time is off by `--clock`, and with `--stun` a responder is named that lies, too (stun.rs). It prints its address, then `liar is ready`, and runs until
//! it is killed.

mod beacon;
mod lies;
mod stun;

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use libp2p::Multiaddr;

use crate::lies::Way;

/// A beacon that lies.
#[derive(Parser)]
#[command(name = "liar")]
struct Arguments {
    /// Where it listens; its address, too.
    #[arg(long)]
    tcp: SocketAddr,
    /// A beacon to be known to; ends in /p2p/ and its id.
    #[arg(long)]
    peer: Vec<Multiaddr>,
    /// Answers what is wrong.
    #[arg(long)]
    wrong: bool,
    /// Answers what was.
    #[arg(long)]
    stale: bool,
    /// Answers that there is nothing.
    #[arg(long)]
    empty: bool,
    /// Answers more than anybody may.
    #[arg(long)]
    enormous: bool,
    /// Closes the connection.
    #[arg(long)]
    close: bool,
    /// Never answers a question.
    #[arg(long)]
    stall: bool,
    /// Never answers a connection.
    #[arg(long)]
    mute: bool,
    /// How far its clock is ahead.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0)]
    clock: i64,
    /// How its STUN responder lies; without it there is none.
    #[arg(long)]
    stun: Option<stun::Stun>,
    /// Where the peers are said to be that do not exist.
    #[arg(long, default_value = "198.18.0.1:41415")]
    named: SocketAddr,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let ways = [
        (arguments.wrong, Way::Wrong),
        (arguments.stale, Way::Stale),
        (arguments.empty, Way::Empty),
        (arguments.enormous, Way::Enormous),
        (arguments.close, Way::Close),
        (arguments.stall, Way::Stall),
    ];
    let ways = ways.into_iter().filter(|(is_asked, _)| *is_asked).map(|(_, way)| way).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if arguments.mute {
            return beacon::mute(arguments.tcp).await;
        }
        let lies = lies::Lies::new(ways, arguments.named)?;
        let stun_port = match arguments.stun {
            Some(way) => stun::start(arguments.tcp.ip(), way).await?,
            None => 0,
        };
        beacon::run(arguments.tcp, &arguments.peer, lies, (arguments.clock, stun_port)).await
    })
}
