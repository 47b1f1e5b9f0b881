//! A steady UDP flow with an echo at the far end: says when packets get through, and how long they did not.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::anywhere;
use crate::{Host, wait};

/// How long a socket waits before it looks whether it is still wanted.
const POLL: Duration = Duration::from_millis(20);
const LARGEST_DATAGRAM: usize = 1 << 16;

/// Sends every datagram back. Ends when dropped.
pub struct EchoServer {
    /// The port on which it listens, on every address.
    pub port: u16,
    _worker: Worker,
}

impl EchoServer {
    /// Listens on `0.0.0.0:port` of `host`; port 0 lets the system choose.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let socket = open(host, port)?;
        let port = socket.local_addr()?.port();
        let worker = Worker::start(move |wanted| {
            let mut buffer = vec![0; LARGEST_DATAGRAM];
            while wanted() {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    // An unreachable sender is the flow's finding, not ours.
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Ok(Self { port, _worker: worker })
    }
}

/// A flow of numbered datagrams at a fixed rate to an [`EchoServer`]. Ends when dropped.
pub struct Flow {
    echoes: Arc<Mutex<Vec<Echo>>>,
    _sender: Worker,
    _receiver: Worker,
}

#[derive(Clone, Copy)]
struct Echo {
    sent_at: Instant,
    came_at: Instant,
}

impl Flow {
    /// Starts to send from `host` to `target`, one datagram each `interval`.
    ///
    /// # Errors
    /// No socket.
    pub fn start(host: &Host, target: SocketAddr, interval: Duration) -> Result<Self> {
        let socket = Arc::new(open(host, 0)?);
        let echoes = Arc::new(Mutex::new(Vec::new()));
        let started_at = Instant::now();
        let sender = Worker::start({
            let socket = Arc::clone(&socket);
            move |wanted| {
                let mut next_at = started_at;
                while wanted() {
                    let nanos = u64::try_from(started_at.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    // A lost or refused datagram shows as a missing echo.
                    let _ = socket.send_to(&nanos.to_be_bytes(), target);
                    next_at += interval;
                    thread::sleep(next_at.saturating_duration_since(Instant::now()));
                }
            }
        });
        let receiver = Worker::start({
            let echoes = Arc::clone(&echoes);
            move |wanted| {
                let mut buffer = [0; 8];
                while wanted() {
                    if let Ok((8, _)) = socket.recv_from(&mut buffer) {
                        let sent_at = started_at + Duration::from_nanos(u64::from_be_bytes(buffer));
                        let echo = Echo { sent_at, came_at: Instant::now() };
                        echoes.lock().unwrap_or_else(PoisonError::into_inner).push(echo);
                    }
                }
            }
        });
        Ok(Self { echoes, _sender: sender, _receiver: receiver })
    }

    /// Waits for the first echo of a datagram that was sent after `instant`, and returns how long after it came.
    ///
    /// # Errors
    /// None comes within `limit` from now.
    pub fn first_echo_after(&self, instant: Instant, limit: Duration) -> Result<Duration> {
        wait::until("an echo", limit, || {
            let echoes = self.echoes();
            let echo = echoes.iter().rev().take_while(|echo| echo.sent_at > instant).last();
            Ok(echo.map(|echo| echo.came_at.duration_since(instant)))
        })
    }

    /// How many echoes came so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.echoes().len()
    }

    /// The longest time between two echoes so far.
    ///
    /// # Errors
    /// Fewer than two echoes came.
    pub fn longest_gap(&self) -> Result<Duration> {
        let echoes = self.echoes();
        ensure!(echoes.len() > 1, "{} echoes came", echoes.len());
        let gaps = echoes.windows(2).map(|pair| pair[1].came_at.duration_since(pair[0].came_at));
        Ok(gaps.max().unwrap_or_default())
    }

    /// The longest time between two echoes that ends after `instant`.
    ///
    /// # Errors
    /// Fewer than two echoes came, or none after it.
    pub fn longest_gap_since(&self, instant: Instant) -> Result<Duration> {
        let echoes = self.echoes();
        let pairs = echoes.windows(2).filter(|pair| pair[1].came_at > instant);
        let longest = pairs.map(|pair| pair[1].came_at.duration_since(pair[0].came_at)).max();
        longest.context("nothing came after it")
    }

    fn echoes(&self) -> Vec<Echo> {
        self.echoes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn open(host: &Host, port: u16) -> Result<UdpSocket> {
    let socket = host.enter(|| Ok(UdpSocket::bind(anywhere(port))?))?;
    socket.set_read_timeout(Some(POLL))?;
    Ok(socket)
}

/// A thread that runs until it is dropped.
pub(super) struct Worker {
    wanted: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Runs `work`, which asks its argument now and then whether it is still wanted.
    pub(super) fn start(work: impl FnOnce(&dyn Fn() -> bool) + Send + 'static) -> Self {
        let wanted = Arc::new(AtomicBool::new(true));
        let flag = Arc::clone(&wanted);
        let thread = thread::spawn(move || work(&|| flag.load(Ordering::Relaxed)));
        Self { wanted, thread: Some(thread) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed when it happened, and shows as what is missing.
            let _ = thread.join();
        }
    }
}
