//! The loop of the pump's thread.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use protocol::drop::DropReason;
use protocol::forward::{Egress, Forwarder, Inbound, Note, Outbound, whole_packets};
use protocol::identity::VpiId;
use protocol::path::Remote;
use protocol::tunnel::coalesce::Coalesced;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::mpsc::Sender;
use tracing::{error, warn};

use super::lines::Lines;
use super::sides::Sides;
use super::waiting::Waiting;
use super::{Order, Queues, Seen};
use crate::metrics::Drops;
use crate::tun::Tun;
use crate::udp::{Batch, Received, Socket};

/// *Chosen*: packets and super-packets taken from the TUN device in one turn: more than are sent in one, so that none
/// stays behind in it for long, and no application keeps the pump at it.
const TAKEN_MAX: usize = 256;
/// *Chosen*: packets sent before the socket is read again; as many small ones fill one run of datagrams.
const SENT_MAX: usize = 64;
/// *Chosen*: where the kernel took what was sent more slowly than that, for each byte (2.7 Gbit/s), the turn ends …
const SLOW_PER_BYTE: Duration = Duration::from_nanos(3);
/// *Chosen*: … behind this many bytes: 0.1 ms at 1 Gbit/s, or one super-packet. The kernel often does the line's work while
/// it takes datagrams, and all that came meanwhile, echo requests and acknowledgements among it, waits for that.
const SLOW_TURN_BYTES: usize = 16 << 10;

/// Why the thread ends.
enum End {
    /// It was told to.
    Told,
    /// It cannot go on.
    Failed(io::Error),
}

/// Everything the thread owns.
pub(super) struct Runner {
    pub(super) vpi: VpiId,
    pub(super) forwarder: Forwarder,
    pub(super) socket: Arc<Socket>,
    /// Sockets beside that one, by their numbers.
    pub(super) sides: Sides,
    /// Streams through beacons, by their numbers.
    pub(super) lines: Lines,
    pub(super) queues: Queues,
    pub(super) drops: Arc<Drops>,
    pub(super) tun: Option<Arc<Tun>>,
    incoming: Received,
    outgoing: Batch,
    /// The socket by which what is in `outgoing` leaves, if not the own one.
    pub(super) leaves_by: Option<u32>,
    /// A note that found no room in the queue.
    unreported: Option<Note>,
    /// What was read from the device.
    waiting: Waiting,
    /// Bytes that are sent in one turn.
    turn_bytes: usize,
    /// The kernel takes no more datagrams; nothing is read from the device meanwhile.
    pub(super) is_blocked: bool,
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
            sides: Sides::new(),
            lines: Lines::new(),
            queues,
            drops,
            tun: None,
            incoming: Received::new(),
            outgoing: Batch::new(),
            leaves_by: None,
            unreported: None,
            waiting: Waiting::new(),
            turn_bytes: usize::MAX,
            is_blocked: false,
        }
    }

    /// Runs until told to stop. A packet alone costs three system calls: to wait, to read and to write.
    pub(super) fn run(mut self, orders: &mpsc::Receiver<Order>, wake: &OwnedFd) {
        loop {
            match self.turn(orders, wake) {
                Ok(()) => {}
                Err(End::Told) => return,
                Err(End::Failed(cause)) => {
                    error!(%cause, "the data socket failed");
                    let _ = self.queues.seen.blocking_send((self.vpi, Seen::Failed));
                    return;
                }
            }
        }
    }

    /// Sleeps until there is something to do, then does it.
    fn turn(&mut self, orders: &mpsc::Receiver<Order>, wake: &OwnedFd) -> Result<(), End> {
        let ready = self.sleep(wake).map_err(End::Failed)?;
        let mut may_be_answered = false;
        if ready.wake {
            let _ = rustix::io::read(wake, &mut [0u8; 8]);
            self.take_orders(orders)?;
            let is_more;
            (may_be_answered, is_more) = self.take_carried();
            if is_more {
                let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
            }
        }
        if self.is_blocked {
            self.flush();
        }
        may_be_answered |= ready.socket && self.receive(None, orders)?;
        for number in ready.sides {
            may_be_answered |= self.receive(Some(number), orders)?;
        }
        if ready.device || may_be_answered || !self.waiting.is_empty() {
            self.send();
        }
        self.report();
        Ok(())
    }

    /// Waits for a datagram, a packet, an order, or room to send.
    fn sleep(&self, wake: &OwnedFd) -> io::Result<Ready> {
        if !self.sides.is_empty() {
            return self.sleep_with_sides(wake);
        }
        let mut udp = PollFlags::IN;
        udp.set(PollFlags::OUT, self.is_blocked);
        let wake = PollFd::new(wake, PollFlags::IN);
        let socket = PollFd::new(&*self.socket, udp);
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let polled = match self.tun.as_ref().filter(|_| !self.is_blocked) {
            Some(tun) => {
                let mut fds = [wake, socket, PollFd::from_borrowed_fd(tun.as_fd(), PollFlags::IN)];
                poll(&mut fds, self.longest_sleep()).map(|_| fds.map(|fd| ready(&fd)))
            }
            None => {
                let mut fds = [wake, socket];
                poll(&mut fds, None).map(|_| [ready(&fds[0]), ready(&fds[1]), false])
            }
        };
        match polled {
            Ok([wake, socket, device]) => Ok(Ready { wake, socket, device, sides: Vec::new() }),
            Err(rustix::io::Errno::INTR) => Ok(Ready::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// None at all while packets wait and can be sent; else for ever.
    pub(super) fn longest_sleep(&self) -> Option<&'static Timespec> {
        const NONE: &Timespec = &Timespec { tv_sec: 0, tv_nsec: 0 };
        (!self.waiting.is_empty() && !self.is_blocked).then_some(NONE)
    }

    /// Does what was ordered; `Err` means stop.
    fn take_orders(&mut self, orders: &mpsc::Receiver<Order>) -> Result<(), End> {
        loop {
            match orders.try_recv() {
                Ok(Order::Update(update)) => self.forwarder.apply(update),
                Ok(Order::PassOn(circuit, mut datagram)) => self.take_passed_on(circuit, &mut datagram),
                Ok(Order::Side(number, socket)) => self.set_side(number, socket),
                Ok(Order::Line(number, line)) => self.set_line(number, line),
                Ok(Order::Attach(tun)) => self.tun = Some(tun),
                Ok(Order::Detach(done)) => {
                    self.tun = None;
                    self.waiting.clear();
                    let _ = done.send(());
                }
                Ok(Order::Stop) | Err(mpsc::TryRecvError::Disconnected) => return Err(End::Told),
                Err(mpsc::TryRecvError::Empty) => return Ok(()),
            }
        }
    }

    /// Takes in what came over a circuit: what members say to each other, never packets.
    fn take_passed_on(&mut self, circuit: u32, datagram: &mut [u8]) {
        match self.forwarder.passed_on(Remote::Circuit(circuit), datagram, Instant::now()) {
            Inbound::Message { index, from, bytes } => {
                let seen = Seen::Message { index, from, bytes: bytes.to_vec() };
                offer(&self.queues.seen, (self.vpi, seen), &self.drops, DropReason::MessageFlood);
            }
            Inbound::Keepalive => {}
            Inbound::Drop(reason) => self.drops.count(reason),
            Inbound::Packet(_) | Inbound::Veiled { .. } | Inbound::Stun { .. } | Inbound::PassOn { .. } => {
                self.drops.count(DropReason::Malformed);
            }
        }
    }

    /// Takes one turn's datagrams from the socket and hands what is in them to the device, consecutive packets of a
    /// flow as one; `Err` means stop. For each datagram: one AEAD, one sum, one copy by the kernel.
    ///
    /// Returns whether anything was handed over: the kernel answers an echo request, or TCP's data, before it returns,
    /// and the answer can be taken from the device without waiting for it.
    fn receive(&mut self, side: Option<u32>, orders: &mpsc::Receiver<Order>) -> Result<bool, End> {
        let socket = match side {
            None => &self.socket,
            Some(number) => match self.sides.get(&number) {
                Some(socket) => socket,
                None => return Ok(false),
            },
        };
        match socket.recv_batch(&mut self.incoming) {
            Ok(_) => {}
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => return Ok(false),
            // One socket of many is lost, and with it one way to one member.
            Err(_) if side.is_some() => return Ok(false),
            Err(cause) => return Err(End::Failed(cause)),
        }
        // A session's first datagram may have arrived behind the order that makes the session known.
        self.take_orders(orders)?;
        (0..self.incoming.left_out()).for_each(|_| self.drops.count(DropReason::Malformed));
        let now = Instant::now();
        let mut device =
            Device { tun: self.tun.as_deref(), drops: &self.drops, has_written: false, failed: None };
        let mut coalescer = self.tun.as_ref().and_then(|tun| tun.coalescer());
        let mut outgoing = Outgoing {
            batch: &mut self.outgoing,
            sockets: (&self.socket, &self.sides),
            lines: &self.lines,
            leaves_by: self.leaves_by,
            drops: &self.drops,
            blocked: false,
        };
        for (from, datagram) in self.incoming.datagrams() {
            let from = side.map_or(Remote::Udp(from), |socket| Remote::Side { address: from, socket });
            match (self.forwarder.inbound(from, datagram, now), &mut coalescer) {
                (Inbound::Packet(packet), Some(coalescer)) => {
                    coalescer.take(packet, &mut |packet| device.write(packet));
                }
                (Inbound::Packet(packet), None) => device.write(&Coalesced::from(&*packet)),
                (Inbound::Message { index, from, bytes }, _) => {
                    let seen = Seen::Message { index, from, bytes: bytes.to_vec() };
                    offer(&self.queues.seen, (self.vpi, seen), &self.drops, DropReason::MessageFlood);
                }
                (Inbound::Veiled { from, bytes }, _) => {
                    let seen = Seen::Veiled { from, bytes: bytes.to_vec() };
                    offer(&self.queues.veiled, (self.vpi, seen), &self.drops, DropReason::RateLimited);
                }
                (Inbound::Stun { from, bytes }, _) => {
                    let seen = Seen::Stun { from, bytes: bytes.to_vec() };
                    offer(&self.queues.veiled, (self.vpi, seen), &self.drops, DropReason::RateLimited);
                }
                (Inbound::PassOn { to, bytes }, _) => {
                    outgoing.leave_by(None);
                    if !outgoing.datagram(to, bytes.len(), |slot| {
                        slot.copy_from_slice(bytes);
                        true
                    }) {
                        // The kernel takes no more: lost, as at any router whose line is full.
                        self.drops.count(DropReason::SendFailed);
                    }
                }
                (Inbound::Keepalive, _) => {}
                (Inbound::Drop(reason), _) => self.drops.count(reason),
            }
        }
        if let Some(coalescer) = &mut coalescer {
            coalescer.finish(&mut |packet| device.write(packet));
        }
        outgoing.flush();
        (self.is_blocked, self.leaves_by) = (outgoing.blocked, outgoing.leaves_by);
        let has_written = device.has_written;
        if let Some(cause) = device.failed {
            self.on_device_error(&cause);
        }
        Ok(has_written)
    }

    /// Takes in what applications sent, then sends as much as one call of the kernel takes, so that no answer waits in the
    /// socket for longer. For each datagram: one copy with one sum, one AEAD, and a share of one system call a run.
    fn send(&mut self) {
        let Some(tun) = self.tun.clone().filter(|_| !self.is_blocked) else { return };
        self.take_in(&tun);
        let now = Instant::now();
        let mut bytes = 0;
        for _ in 0..SENT_MAX {
            if bytes >= self.turn_bytes || !self.outgoing.has_room_for_super_packet() {
                break;
            }
            match self.send_one(&tun, now) {
                Some(sent) => bytes += sent,
                None => break,
            }
        }
        let sealed_at = Instant::now();
        self.flush();
        let allowed = SLOW_PER_BYTE * bytes.max(SLOW_TURN_BYTES) as u32;
        let is_slow = self.is_blocked || sealed_at.elapsed() > allowed;
        self.turn_bytes = if is_slow { SLOW_TURN_BYTES } else { usize::MAX };
    }

    /// Takes packets from the device until there are none, or as many as one turn takes.
    fn take_in(&mut self, tun: &Tun) {
        for _ in 0..TAKEN_MAX {
            match self.waiting.take(|place| tun.recv(place)) {
                Ok(dropped) => (0..dropped).for_each(|_| self.drops.count(DropReason::PacketQueue)),
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => return,
                Err(cause) if cause.kind() == ErrorKind::InvalidData => {
                    self.drops.count(DropReason::PacketMalformed);
                }
                Err(cause) => return self.on_device_error(&cause),
            }
        }
    }

    /// Seals the packet whose turn it is; returns its size in bytes, if there was one.
    fn send_one(&mut self, tun: &Tun, now: Instant) -> Option<usize> {
        let (packet, offload) = self.waiting.next()?;
        let bytes = packet.len();
        let mut egress = Outgoing {
            batch: &mut self.outgoing,
            sockets: (&self.socket, &self.sides),
            lines: &self.lines,
            leaves_by: self.leaves_by,
            drops: &self.drops,
            blocked: false,
        };
        let outcome = self.forwarder.outbound(packet, offload, &mut egress, now);
        (self.is_blocked, self.leaves_by) = (egress.blocked, egress.leaves_by);
        match outcome {
            Outbound::Sent => {}
            Outbound::Hold => whole_packets(packet, offload, |packet| {
                let seen = (self.vpi, Seen::Packet(packet));
                offer(&self.queues.seen, seen, &self.drops, DropReason::PacketQueue);
            }),
            Outbound::TooLarge(error) => {
                self.drops.count(DropReason::PacketTooLarge);
                let _ = tun.send(&error);
            }
            Outbound::Drop(reason) => self.drops.count(reason),
        }
        Some(bytes)
    }

    /// Hands what is sealed to the kernel.
    pub(super) fn flush(&mut self) {
        let mut egress = Outgoing {
            batch: &mut self.outgoing,
            sockets: (&self.socket, &self.sides),
            lines: &self.lines,
            leaves_by: self.leaves_by,
            drops: &self.drops,
            blocked: false,
        };
        egress.flush();
        self.is_blocked = egress.blocked;
    }

    /// Tells the engine what the forwarder saw; what finds no room is told the next time.
    fn report(&mut self) {
        while let Some(note) = self.unreported.take().or_else(|| self.forwarder.poll_note()) {
            if self.queues.seen.try_send((self.vpi, Seen::Note(note))).is_err() {
                self.unreported = Some(note);
                return;
            }
        }
    }

    /// A device that was deleted is let go; any other error concerns one packet.
    pub(super) fn on_device_error(&mut self, cause: &io::Error) {
        const EBADFD: i32 = libc::EBADFD;
        if cause.raw_os_error() == Some(EBADFD) {
            warn!("the TUN device is gone: run `vpi up` as root to make it again");
            self.tun = None;
            self.waiting.clear();
            let _ = self.queues.seen.try_send((self.vpi, Seen::Detached));
        }
    }
}

/// What there is to do.
#[derive(Debug, Default)]
pub(super) struct Ready {
    pub(super) wake: bool,
    pub(super) socket: bool,
    pub(super) device: bool,
    /// The sockets beside the own one.
    pub(super) sides: Vec<u32>,
}

/// The TUN device, if there is one, as the end of what is received.
pub(super) struct Device<'r> {
    pub(super) tun: Option<&'r Tun>,
    pub(super) drops: &'r Drops,
    pub(super) has_written: bool,
    pub(super) failed: Option<io::Error>,
}

impl Device<'_> {
    pub(super) fn write(&mut self, packet: &Coalesced<'_, '_>) {
        match self.tun.map(|tun| tun.write(packet)) {
            Some(Err(cause)) => {
                self.drops.count(DropReason::SendFailed);
                self.failed = Some(cause);
            }
            Some(Ok(())) => self.has_written = true,
            None => {}
        }
    }
}

/// The batch of outgoing datagrams, flushed whenever it is full.
struct Outgoing<'r> {
    batch: &'r mut Batch,
    /// The own one, and those beside it.
    sockets: (&'r Socket, &'r Sides),
    lines: &'r Lines,
    /// By which the batch leaves; one that is closed takes it along.
    leaves_by: Option<u32>,
    drops: &'r Drops,
    blocked: bool,
}

impl Outgoing<'_> {
    fn flush(&mut self) {
        if self.batch.is_empty() {
            self.blocked = false;
            return;
        }
        let (own, sides) = self.sockets;
        let socket = self.leaves_by.map_or(Some(own), |number| sides.get(&number).map(|side| &**side));
        let Some(socket) = socket else {
            self.drops.count(DropReason::SendFailed);
            self.batch.clear();
            self.blocked = false;
            return;
        };
        let refused = |_, _, _| self.drops.count(DropReason::SendFailed);
        self.blocked = socket.send_batch(self.batch, refused).is_err();
    }
}

impl Egress for Outgoing<'_> {
    fn leave_by(&mut self, side: Option<u32>) {
        if self.leaves_by != side {
            self.flush();
            if self.blocked {
                // The kernel takes no more by the other socket: what it was given is lost, as on a full line.
                self.drops.count(DropReason::SendFailed);
                self.batch.clear();
                self.blocked = false;
            }
            self.leaves_by = side;
        }
    }

    fn datagram(&mut self, to: SocketAddr, bytes: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        if self.batch.is_full() && !self.blocked {
            self.flush();
        }
        let mut filled = false;
        self.batch.push(to, |slot| {
            filled = slot.get_mut(..bytes).is_some_and(fill);
            if filled { bytes } else { 0 }
        });
        filled
    }

    fn carried(&mut self, number: u32, bytes: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let Some(line) = self.lines.get(&number) else { return false };
        let mut frame = vec![0; bytes];
        let filled = fill(&mut frame);
        if filled {
            line.send(frame);
        }
        filled
    }
}

/// Puts something into a bounded queue, or drops and counts it.
pub(super) fn offer(
    queue: &Sender<(VpiId, Seen)>,
    seen: (VpiId, Seen),
    drops: &Drops,
    otherwise: DropReason,
) {
    if queue.try_send(seen).is_err() {
        drops.count(otherwise);
    }
}
