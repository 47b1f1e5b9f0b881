//! A TCP connection that is held open while other things happen, with a number in each direction ten times a second.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::{IO_LIMIT, anywhere};
use crate::{Host, wait};

const INTERVAL: Duration = Duration::from_millis(100);
/// How long nothing may come: TCP doubles its pause, from 0.2 s on, each time that it meets an outage.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection; its two ends are read and written by threads of their own.
pub struct HeldConnection {
    over: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Result<u64>>>,
    readers: Vec<JoinHandle<Result<Seen>>>,
}

struct Seen {
    count: u64,
    longest_gap: Duration,
}

impl HeldConnection {
    /// Connects `from` to `to`, which it knows as `alias`.
    ///
    /// # Errors
    /// No connection.
    pub fn open(from: &Host, to: &Host, alias: Ipv4Addr) -> Result<Self> {
        let listener = to.enter(|| Ok(TcpListener::bind(anywhere(0))?))?;
        let target = SocketAddr::from((alias, listener.local_addr()?.port()));
        let near = from.enter(|| Ok(TcpStream::connect_timeout(&target, IO_LIMIT)?))?;
        listener.set_nonblocking(true)?;
        let far = wait::until("the held connection", IO_LIMIT, || Ok(listener.accept().ok()))?.0;
        far.set_nonblocking(false)?;
        let over = Arc::new(AtomicBool::new(false));
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        for end in [near, far] {
            let (writing, reading, over) = (end.try_clone()?, end, Arc::clone(&over));
            writers.push(thread::spawn(move || write_numbers(writing, &over)));
            readers.push(thread::spawn(move || read_numbers(reading)));
        }
        Ok(Self { over, writers, readers })
    }

    /// Closes the connection; returns how many numbers came in both directions, and the longest time without one.
    ///
    /// # Errors
    /// The connection broke, or a number was missing, doubled or out of order.
    pub fn finish(self) -> Result<(u64, Duration)> {
        self.over.store(true, Ordering::Relaxed);
        let (mut sent, mut count, mut longest_gap) = (0, 0, Duration::ZERO);
        let written: Vec<_> = self.writers.into_iter().map(JoinHandle::join).collect();
        // What a reader met is the cause of what a writer meets.
        for reader in self.readers {
            let seen = reader.join().map_err(|_| anyhow!("a reader panicked"))?.context("reading")?;
            count += seen.count;
            longest_gap = longest_gap.max(seen.longest_gap);
        }
        for writer in written {
            sent += writer.map_err(|_| anyhow!("a writer panicked"))?.context("writing")?;
        }
        ensure!(sent == count, "{count} of {sent} numbers came");
        Ok((count, longest_gap))
    }
}

fn write_numbers(mut stream: TcpStream, over: &AtomicBool) -> Result<u64> {
    stream.set_nodelay(true)?;
    let mut number = 0_u64;
    while !over.load(Ordering::Relaxed) {
        stream.write_all(&number.to_be_bytes())?;
        number += 1;
        thread::sleep(INTERVAL);
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    Ok(number)
}

fn read_numbers(mut stream: TcpStream) -> Result<Seen> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut seen = Seen { count: 0, longest_gap: Duration::ZERO };
    let mut last_at = Instant::now();
    let mut bytes = [0; 8];
    loop {
        match stream.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(seen),
            Err(error) => return Err(error.into()),
        }
        let number = u64::from_be_bytes(bytes);
        ensure!(number == seen.count, "number {number} came in the place of {}", seen.count);
        seen.longest_gap = seen.longest_gap.max(last_at.elapsed());
        seen.count += 1;
        last_at = Instant::now();
    }
}
