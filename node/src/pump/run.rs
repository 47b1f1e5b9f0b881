//! The loop of the pump's thread.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use protocol::drop::DropReason;
use protocol::forward::{Egress, Forwarder, Inbound, Outbound};
use protocol::identity::VpiId;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc::Sender;
use tracing::{error, warn};

use super::{Order, Queues, Seen};
use crate::metrics::Drops;
use crate::tun::Tun;
use crate::udp::{Batch, Socket};

/// Packets read from the TUN device before the socket gets its turn; as many datagrams fill one batch.
const TUN_TURN: usize = 64;
/// Room for one packet: the device's MTU is 1,420.
const PACKET_BYTES: usize = 2048;

/// Everything the thread owns.
pub(super) struct Runner {
    vpi: VpiId,
    forwarder: Forwarder,
    socket: Arc<Socket>,
    queues: Queues,
    drops: Arc<Drops>,
    tun: Option<Arc<Tun>>,
    incoming: Batch,
    outgoing: Batch,
    /// The kernel takes no more datagrams; nothing is read from the device meanwhile.
    is_blocked: bool,
}

impl Runner {
    pub(super) fn new(
        (vpi, forwarder): (VpiId, Forwarder),
        socket: Arc<Socket>,
        queues: Queues,
        drops: Arc<Drops>,
    ) -> Self {
        Self {
            vpi,
            forwarder,
            socket,
            queues,
            drops,
            tun: None,
            incoming: Batch::new(),
            outgoing: Batch::new(),
            is_blocked: false,
        }
    }

    /// Runs until told to stop.
    pub(super) fn run(mut self, orders: &mpsc::Receiver<Order>, wake: &OwnedFd) {
        loop {
            if let Err(cause) = self.sleep(wake) {
                error!(%cause, "the pump cannot wait for packets");
                return;
            }
            let _ = rustix::io::read(wake, &mut [0u8; 8]);
            loop {
                if self.take_orders(orders).is_err() {
                    return;
                }
                self.flush();
                let received = self.receive(orders);
                let sent = self.send();
                self.report();
                match (received, sent) {
                    (Ok(0), 0) => break,
                    (Ok(_), _) => {}
                    (Err(()), _) => return,
                }
            }
        }
    }

    /// Waits for a datagram, a packet, an order, or room to send.
    fn sleep(&self, wake: &OwnedFd) -> io::Result<()> {
        let mut udp = PollFlags::IN;
        udp.set(PollFlags::OUT, self.is_blocked);
        let mut fds = vec![PollFd::new(wake, PollFlags::IN), PollFd::new(&*self.socket, udp)];
        let tun = self.tun.as_ref().filter(|_| !self.is_blocked);
        fds.extend(tun.map(|tun| PollFd::from_borrowed_fd(tun.as_fd(), PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Does what was ordered; `Err` means stop.
    fn take_orders(&mut self, orders: &mpsc::Receiver<Order>) -> Result<(), ()> {
        loop {
            match orders.try_recv() {
                Ok(Order::Update(update)) => self.forwarder.apply(update),
                Ok(Order::Attach(tun)) => self.tun = Some(tun),
                Ok(Order::Detach(done)) => {
                    self.tun = None;
                    let _ = done.send(());
                }
                Ok(Order::Stop) | Err(mpsc::TryRecvError::Disconnected) => return Err(()),
                Err(mpsc::TryRecvError::Empty) => return Ok(()),
            }
        }
    }

    /// Takes one batch from the socket; returns how many there were, or `Err` for stop.
    fn receive(&mut self, orders: &mpsc::Receiver<Order>) -> Result<usize, ()> {
        let count = match self.socket.recv_batch(&mut self.incoming) {
            Ok(count) => count,
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(cause) => {
                error!(%cause, "the data socket failed");
                return Err(());
            }
        };
        // A session's first datagram may have arrived behind the order that makes the session known.
        self.take_orders(orders)?;
        let now = Instant::now();
        let mut device_failed = None;
        for (from, datagram) in self.incoming.datagrams() {
            match self.forwarder.inbound(from, datagram, now) {
                Inbound::Packet(packet) => {
                    if let Some(Err(cause)) = self.tun.as_ref().map(|tun| tun.send(packet)) {
                        self.drops.count(DropReason::SendFailed);
                        device_failed = Some(cause);
                    }
                }
                Inbound::Message { index, bytes } => {
                    let seen = Seen::Message { index, from, bytes: bytes.to_vec() };
                    offer(&self.queues.seen, (self.vpi, seen), &self.drops, DropReason::MessageFlood);
                }
                Inbound::Veiled(bytes) => {
                    let seen = Seen::Veiled { from, bytes: bytes.to_vec() };
                    offer(&self.queues.veiled, (self.vpi, seen), &self.drops, DropReason::RateLimited);
                }
                Inbound::Keepalive => {}
                Inbound::Drop(reason) => self.drops.count(reason),
            }
        }
        if let Some(cause) = device_failed {
            self.on_device_error(&cause);
        }
        Ok(count)
    }

    /// Takes packets from the device until there are none or it is the socket's turn; returns how many.
    fn send(&mut self) -> usize {
        let Some(tun) = self.tun.clone().filter(|_| !self.is_blocked) else { return 0 };
        let now = Instant::now();
        let mut packet = [0; PACKET_BYTES];
        let mut count = 0;
        while count < TUN_TURN && !self.is_blocked {
            let packet = match tun.recv(&mut packet) {
                Ok(bytes) => &packet[..bytes],
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => break,
                Err(cause) => {
                    self.on_device_error(&cause);
                    break;
                }
            };
            count += 1;
            let mut egress = Outgoing {
                batch: &mut self.outgoing,
                socket: &self.socket,
                drops: &self.drops,
                blocked: false,
            };
            match self.forwarder.outbound(packet, &mut egress, now) {
                Outbound::Sent => self.is_blocked = egress.blocked,
                Outbound::Hold => {
                    let seen = Seen::Packet(packet.to_vec());
                    offer(&self.queues.seen, (self.vpi, seen), &self.drops, DropReason::PacketQueue);
                }
                Outbound::TooLarge(error) => {
                    self.drops.count(DropReason::PacketTooLarge);
                    let _ = tun.send(&error);
                }
                Outbound::Drop(reason) => self.drops.count(reason),
            }
        }
        self.flush();
        count
    }

    /// Hands what is sealed to the kernel.
    fn flush(&mut self) {
        let mut egress =
            Outgoing { batch: &mut self.outgoing, socket: &self.socket, drops: &self.drops, blocked: false };
        egress.flush();
        self.is_blocked = egress.blocked;
    }

    /// Tells the engine what the forwarder saw; what finds no room is told the next time.
    fn report(&mut self) {
        while let Ok(place) = self.queues.seen.try_reserve() {
            let Some(note) = self.forwarder.poll_note() else { return };
            place.send((self.vpi, Seen::Note(note)));
        }
    }

    /// A device that was deleted is let go; any other error concerns one packet.
    fn on_device_error(&mut self, cause: &io::Error) {
        const EBADFD: i32 = libc::EBADFD;
        if cause.raw_os_error() == Some(EBADFD) {
            warn!("the TUN device is gone: run `vpi up` as root to make it again");
            self.tun = None;
            let _ = self.queues.seen.try_send((self.vpi, Seen::Detached));
        }
    }
}

/// The batch of outgoing datagrams, flushed whenever it is full.
struct Outgoing<'r> {
    batch: &'r mut Batch,
    socket: &'r Socket,
    drops: &'r Drops,
    blocked: bool,
}

impl Outgoing<'_> {
    fn flush(&mut self) {
        if self.batch.is_empty() {
            self.blocked = false;
            return;
        }
        let refused = |_, _, _| self.drops.count(DropReason::SendFailed);
        self.blocked = self.socket.send_batch(self.batch, refused).is_err();
    }
}

impl Egress for Outgoing<'_> {
    fn datagram(&mut self, to: SocketAddr, bytes: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        if self.batch.is_full() {
            self.flush();
        }
        let mut filled = false;
        self.batch.push(to, |slot| {
            filled = slot.get_mut(..bytes).is_some_and(fill);
            if filled { bytes } else { 0 }
        });
        filled
    }
}

/// Puts something into a bounded queue, or drops and counts it.
fn offer(queue: &Sender<(VpiId, Seen)>, seen: (VpiId, Seen), drops: &Drops, otherwise: DropReason) {
    if queue.try_send(seen).is_err() {
        drops.count(otherwise);
    }
}
