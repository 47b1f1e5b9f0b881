//! The `vpi` binary: reads arguments, sets up logging, runs one command.

mod command;
mod control;
mod loopback;
mod store;
mod tun;
mod udp;

fn main() {}
