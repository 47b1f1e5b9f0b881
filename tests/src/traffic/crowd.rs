//! Many TCP connections at once, all open before the first one closes, each with bytes of its own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::{IO_LIMIT, anywhere};
use crate::{Host, wait};

/// How long all of them together may take to be accepted.
const ACCEPT_LIMIT: Duration = Duration::from_secs(30);
/// What passes on each connection in one round, each way.
const CHUNK: usize = 2048;
/// Rounds over all connections, so that each is used again after every other one was.
const ROUNDS: usize = 4;

/// Opens `count` connections from one host to the other, which it knows as `alias`, and has every one echo its own
/// bytes, in rounds over all.
///
/// # Errors
/// A connection fails, or another's or wrong bytes come back.
pub fn crowd(from: &Host, to: &Host, alias: Ipv4Addr, count: usize) -> Result<()> {
    let listener = to.enter(|| Ok(TcpListener::bind(anywhere(0))?))?;
    let target = SocketAddr::from((alias, listener.local_addr()?.port()));
    thread::scope(|scope| {
        let echoing = scope.spawn(|| echo(&listener, count));
        let called = from.enter(|| call(target, count));
        let echoed = echoing.join().map_err(|_| anyhow!("the far end panicked"));
        called?;
        echoed?
    })
}

fn call(target: SocketAddr, count: usize) -> Result<()> {
    let mut streams = Vec::new();
    for number in 0..count {
        let stream =
            TcpStream::connect_timeout(&target, IO_LIMIT).with_context(|| format!("connection {number}"))?;
        stream.set_read_timeout(Some(IO_LIMIT))?;
        streams.push(stream);
    }
    for round in 0..ROUNDS {
        for (number, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&bytes_of(number, round))?;
        }
        for (number, stream) in streams.iter_mut().enumerate() {
            let mut back = vec![0; CHUNK];
            stream.read_exact(&mut back).with_context(|| format!("connection {number}, round {round}"))?;
            ensure!(
                back == bytes_of(number, round),
                "connection {number} echoed other bytes in round {round}"
            );
        }
    }
    Ok(())
}

fn echo(listener: &TcpListener, count: usize) -> Result<()> {
    listener.set_nonblocking(true)?;
    let mut streams = Vec::new();
    wait::until(&format!("{count} connections"), ACCEPT_LIMIT, || {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(IO_LIMIT))?;
            streams.push(stream);
        }
        Ok((streams.len() == count).then_some(()))
    })?;
    let mut chunk = vec![0; CHUNK];
    for _ in 0..ROUNDS {
        for stream in &mut streams {
            stream.read_exact(&mut chunk)?;
            stream.write_all(&chunk)?;
        }
    }
    Ok(())
}

/// Bytes that no other connection has in this or any other round.
fn bytes_of(number: usize, round: usize) -> Vec<u8> {
    (0..CHUNK / 8).flat_map(|at| (((number * ROUNDS + round) << 16) + at).to_be_bytes()).collect()
}
