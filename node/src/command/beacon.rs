//! `vpi beacon`: runs a beacon in the foreground.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use libp2p::{Multiaddr, PeerId};

use super::Context;
use crate::beacon::{self, BeaconOptions, CarryBounds, peer_address};
use crate::control::Exit;
use crate::store::beacon::BeaconFolder;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where to listen for TCP; may be said again [default: port 41415 of every address].
    #[arg(long, value_name = "IP:PORT")]
    tcp: Vec<SocketAddr>,
    /// Where to listen for QUIC; may be said again [default: port 41415 of every address].
    #[arg(long, value_name = "IP:PORT")]
    quic: Vec<SocketAddr>,
    /// Where to answer STUN; may be said again [default: port 3478 of every address].
    #[arg(long, value_name = "IP:PORT")]
    stun: Vec<SocketAddr>,
    /// Another beacon; ends in /p2p/ and its id.
    #[arg(long, value_name = "MULTIADDR", num_args = 1.., value_parser = peer)]
    peer: Vec<(PeerId, Multiaddr)>,
    /// An address under which others reach this beacon; may be said again [default: this machine's].
    #[arg(long, value_name = "IP")]
    external: Vec<IpAddr>,
    /// A file in which to say its addresses while it runs, for the node beside it.
    #[arg(long, value_name = "FILE")]
    addresses: Option<PathBuf>,
    /// Carry packets between two members where no UDP passes between them.
    #[arg(long)]
    carry: bool,
    /// Of what one member sends, at most so many Mbit/s.
    #[arg(long, value_name = "MBIT", default_value_t = 2.0, value_parser = above_zero, requires = "carry")]
    carry_rate: f64,
    /// Of all members, at most so many GiB a day.
    #[arg(long, value_name = "GIB", default_value_t = 100.0, value_parser = above_zero, requires = "carry")]
    carry_daily: f64,
}

/// Bytes a second of 1 Mbit/s.
const MBIT_BYTES: f64 = 125_000.0;
const GIB_BYTES: f64 = (1_u64 << 30) as f64;

/// Runs it until it is told to stop.
pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<Exit> {
    let state = context.door.state.clone();
    beacon::run(BeaconOptions {
        control: context.control.clone().unwrap_or_else(|| BeaconFolder::control_path(&state)),
        state,
        tcp: arguments.tcp,
        quic: arguments.quic,
        stun: arguments.stun,
        peers: arguments.peer,
        external: arguments.external,
        addresses: arguments.addresses,
        carry: arguments.carry.then_some(CarryBounds {
            bytes_per_second: arguments.carry_rate * MBIT_BYTES,
            bytes_per_day: arguments.carry_daily * GIB_BYTES,
        }),
        json: context.json,
    })
}

fn peer(text: &str) -> Result<(PeerId, Multiaddr), String> {
    peer_address(text).ok_or_else(|| {
        "write an address such as /ip4/192.0.2.1/tcp/41415/p2p/12D3KooW…, as the other beacon prints it"
            .to_owned()
    })
}

fn above_zero(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "write a number such as 2 or 0.5".to_owned())?;
    if (0.01..=100_000.0).contains(&number) { Ok(number) } else { Err("write 0.01 to 100000".to_owned()) }
}
