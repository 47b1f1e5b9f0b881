//! `vpi beacon`: runs a beacon in the foreground.

use std::net::{IpAddr, SocketAddr};

use clap::Args;
use libp2p::{Multiaddr, PeerId};

use super::Context;
use crate::beacon::{self, BeaconOptions, peer_address};
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
}

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
        json: context.json,
    })
}

fn peer(text: &str) -> Result<(PeerId, Multiaddr), String> {
    peer_address(text).ok_or_else(|| {
        "write an address such as /ip4/192.0.2.1/tcp/41415/p2p/12D3KooW…, as the other beacon prints it"
            .to_owned()
    })
}
