//! Numbered datagrams in one direction, at a fixed rate: how many came, and over which time.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use socket2::SockRef;

use super::anywhere;
use crate::Host;

/// How long nothing may come before the receiver ends.
const QUIET: Duration = Duration::from_millis(500);
/// So that the receiver's own queue loses nothing while it waits for a processor.
const BUFFER_BYTES: usize = 8 << 20;

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Loads {
    /// How many datagrams.
    pub count: u32,
    /// The UDP payload of each, at least 4.
    pub size_bytes: usize,
    /// From one to the next.
    pub interval: Duration,
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Datagrams that left.
    pub sent: usize,
    /// Different ones that came.
    pub came: usize,
    /// From the first that came to the last.
    pub between: Duration,
}

/// Sends `loads` from one host to the other's own address, outside any tunnel.
///
/// # Errors
/// A socket fails.
pub fn offer(from: &Host, to: &Host, loads: Loads) -> Result<Load> {
    let receiver = to.enter(|| Ok(UdpSocket::bind(anywhere(0))?))?;
    SockRef::from(&receiver).set_recv_buffer_size(BUFFER_BYTES)?;
    let target = SocketAddr::from((to.address, receiver.local_addr()?.port()));
    let sender = from.enter(|| Ok(UdpSocket::bind(anywhere(0))?))?;
    SockRef::from(&sender).set_send_buffer_size(BUFFER_BYTES)?;
    thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&receiver));
        send(&sender, target, loads)?;
        let (came, between) = receiving.join().map_err(|_| anyhow!("the receiver panicked"))??;
        Ok(Load { sent: loads.count as usize, came, between })
    })
}

fn send(socket: &UdpSocket, target: SocketAddr, loads: Loads) -> Result<()> {
    let mut datagram = vec![0; loads.size_bytes.max(4)];
    let begin = Instant::now();
    for number in 0..loads.count {
        datagram[..4].copy_from_slice(&number.to_be_bytes());
        socket.send_to(&datagram, target)?;
        thread::sleep((begin + loads.interval * number).saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn receive(socket: &UdpSocket) -> Result<(usize, Duration)> {
    let (mut seen, mut first_at, mut last_at) = (BTreeSet::new(), None, Instant::now());
    let mut buffer = [0; 1 << 11];
    // The first may be long under way; from then on, quiet is the end.
    socket.set_read_timeout(Some(QUIET * 4))?;
    while socket.recv_from(&mut buffer).is_ok() {
        last_at = Instant::now();
        first_at.get_or_insert(last_at);
        seen.insert(buffer[..4].to_vec());
        socket.set_read_timeout(Some(QUIET))?;
    }
    Ok((seen.len(), first_at.map_or(Duration::ZERO, |first_at| last_at - first_at)))
}
