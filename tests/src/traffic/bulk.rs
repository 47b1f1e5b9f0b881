//! A bulk transfer over TCP, hashed at both ends.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use sha2::{Digest, Sha256};

use super::{IO_LIMIT, anywhere};
use crate::{Host, wait};

/// What one transfer took.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// From the connect to the last byte's arrival.
    pub took: Duration,
    /// SHA-256 of what was sent, which equals that of what came.
    pub sha256: [u8; 32],
    /// How many bytes.
    pub bytes: u64,
}

impl Transfer {
    /// The rate in bits a second.
    #[must_use]
    pub fn megabits(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a figure to read, below 2^53 bytes")]
        let bits = self.bytes as f64 * 8.0;
        bits / self.took.as_secs_f64() / 1e6
    }
}

/// Sends `bytes` made of `seed` from one host to the other, which it knows as `alias`.
///
/// # Errors
/// A socket fails, nothing moves for 10 s, or the two ends differ.
pub fn transfer(from: &Host, to: &Host, alias: Ipv4Addr, bytes: u64, seed: u64) -> Result<Transfer> {
    let listener = to.enter(|| Ok(TcpListener::bind(anywhere(0))?))?;
    let target = SocketAddr::from((alias, listener.local_addr()?.port()));
    let started_at = Instant::now();
    let (sent, received) = thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&listener));
        let sent = from.enter(|| send(target, bytes, seed));
        (sent, receiver.join().map_err(|_| anyhow!("the receiver panicked")))
    });
    let (sent, (received, count)) = (sent?, received??);
    ensure!(count == bytes, "{count} of {bytes} bytes came");
    ensure!(sent == received, "SHA-256 differs: {sent:x?} sent, {received:x?} received");
    Ok(Transfer { took: started_at.elapsed(), sha256: sent, bytes })
}

fn send(target: SocketAddr, bytes: u64, seed: u64) -> Result<[u8; 32]> {
    let mut stream = TcpStream::connect_timeout(&target, IO_LIMIT)?;
    stream.set_write_timeout(Some(IO_LIMIT))?;
    let mut hash = Sha256::new();
    let mut state = seed | 1;
    let mut chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        fill(&mut chunk, &mut state);
        let part = &chunk[..CHUNK.min(usize::try_from(left)?)];
        hash.update(part);
        stream.write_all(part)?;
        left -= part.len() as u64;
    }
    Ok(hash.finalize().into())
}

fn receive(listener: &TcpListener) -> Result<([u8; 32], u64)> {
    listener.set_nonblocking(true)?;
    let mut stream = wait::until("the transfer's connection", IO_LIMIT, || Ok(listener.accept().ok()))?.0;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(IO_LIMIT))?;
    let (mut hash, mut count) = (Sha256::new(), 0);
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = stream.read(&mut chunk)?;
        if length == 0 {
            return Ok((hash.finalize().into(), count));
        }
        hash.update(&chunk[..length]);
        count += length as u64;
    }
}

const CHUNK: usize = 1 << 16;

/// Fills `chunk` with xorshift64 (Marsaglia 2003): cheap, without period in any buffer, the same for the same seed.
fn fill(chunk: &mut [u8], state: &mut u64) {
    for word in chunk.chunks_exact_mut(8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}
