//! The loop of the pump's thread.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use protocol::drop::DropReason;
use protocol::forward::{Egress as _, Forwarder, Note, Outbound, whole_packets};
use protocol::identity::VpiId;
use protocol::path::Remote;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};
use tracing::{error, warn};

use super::arrivals::{Arrivals, offer};
use super::outgoing::Outgoing;
use super::waiting::{Due, Waiting};
use super::{Order, Queues, Seen};
use crate::metrics::Drops;
use crate::tun::Tun;
use crate::udp::{Received, Socket};

/// *Chosen*: packets and super-packets taken from the TUN device in one turn: more than are sent in one, so that none
/// stays behind in it for long, and no application keeps the pump at it.
const TAKEN_MAX: usize = 256;
/// *Chosen*: packets sent before the socket is read again; as many small ones fill one run of datagrams.
const SENT_MAX: usize = 64;
/// *Chosen*: where the kernel worked longer than that at each byte that was sent (2.7 Gbit/s), the next turn ends …
const SLOW_PER_BYTE: Duration = Duration::from_nanos(3);
/// *Chosen*: … behind this many bytes: 0.1 ms at 1 Gbit/s, or one super-packet. The kernel often does the line's work while
/// it takes datagrams, and all that came meanwhile, echo requests and acknowledgements among it, waits for that.
const SLOW_TURN_BYTES: usize = 16 << 10;

/// *Chosen*: memory of a load is given back when there was none for so long; one wake-up, once.
const CALM: Duration = Duration::from_secs(5);

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
    pub(super) queues: Queues,
    pub(super) drops: Arc<Drops>,
    pub(super) tun: Option<Arc<Tun>>,
    incoming: Received,
    pub(super) outgoing: Outgoing,
    /// A note that found no room in the queue.
    unreported: Option<Note>,
    /// What was read from the device.
    waiting: Waiting,
    /// When more memory than is kept was last in need.
    needed_at: Instant,
    /// The kernel takes datagrams slowly: little is sent in one turn.
    is_slow: bool,
}

impl Runner {
    pub(super) fn new(
        (vpi, forwarder): (VpiId, Forwarder),
        socket: Arc<Socket>,
        queues: Queues,
        drops: Arc<Drops>,
    ) -> Self {
        let outgoing = Outgoing::new(socket, Arc::clone(&drops));
        Self {
            vpi,
            forwarder,
            queues,
            drops,
            tun: None,
            incoming: Received::new(),
            outgoing,
            unreported: None,
            waiting: Waiting::new(),
            needed_at: Instant::now(),
            is_slow: false,
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
        if self.outgoing.is_blocked {
            self.outgoing.flush();
        }
        may_be_answered |= ready.socket && self.receive(None, orders)?;
        for number in ready.sides {
            may_be_answered |= self.receive(Some(number), orders)?;
        }
        if ready.device || may_be_answered || !self.waiting.is_empty() {
            self.send();
        }
        if self.forwarder.has_refusals() {
            self.forwarder.send_refusals(&mut self.outgoing);
            self.outgoing.flush();
        }
        if self.waiting.is_large() && self.needed_at.elapsed() >= CALM {
            self.waiting.give_back();
        }
        self.report();
        Ok(())
    }

    /// Waits for a datagram, a packet, an order, or room to send.
    fn sleep(&self, wake: &OwnedFd) -> io::Result<Ready> {
        if !self.outgoing.sides.is_empty() {
            return self.sleep_with_sides(wake);
        }
        let mut udp = PollFlags::IN;
        udp.set(PollFlags::OUT, self.outgoing.is_blocked);
        let wake = PollFd::new(wake, PollFlags::IN);
        let socket = PollFd::new(&*self.outgoing.socket, udp);
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let polled = match self.tun.as_ref().filter(|_| !self.outgoing.is_blocked) {
            Some(tun) => {
                let mut fds = [wake, socket, PollFd::from_borrowed_fd(tun.as_fd(), PollFlags::IN)];
                poll(&mut fds, self.longest_sleep()).map(|_| fds.map(|fd| ready(&fd)))
            }
            None => {
                let mut fds = [wake, socket];
                poll(&mut fds, self.longest_sleep()).map(|_| [ready(&fds[0]), ready(&fds[1]), false])
            }
        };
        match polled {
            Ok([wake, socket, device]) => Ok(Ready { wake, socket, device, sides: Vec::new() }),
            Err(rustix::io::Errno::INTR) => Ok(Ready::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// None at all while packets wait and can be sent; until memory is given back, if there is some; else for ever.
    pub(super) fn longest_sleep(&self) -> Option<&'static Timespec> {
        const NONE: &Timespec = &Timespec { tv_sec: 0, tv_nsec: 0 };
        const UNTIL_CALM: &Timespec = &Timespec { tv_sec: CALM.as_secs().cast_signed(), tv_nsec: 0 };
        match (self.waiting.is_empty(), self.outgoing.is_blocked) {
            (false, false) => Some(NONE),
            (true, false) if self.waiting.is_large() => Some(UNTIL_CALM),
            _ => None,
        }
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
        let mut arrivals = Arrivals::new(self.vpi, self.tun.as_deref(), &self.queues, &self.drops);
        arrivals.take(self.forwarder.passed_on(Remote::Circuit(circuit), datagram, Instant::now()));
        let ended = arrivals.finish();
        self.after(ended);
    }

    /// Takes one turn's datagrams from the socket and hands over what is in them; `Err` means stop. For each datagram: one
    /// AEAD, one sum, one copy by the kernel.
    ///
    /// Returns whether the device was given anything: the kernel answers an echo request, or TCP's data, before it returns,
    /// and the answer can be taken from the device without waiting for it.
    fn receive(&mut self, side: Option<u32>, orders: &mpsc::Receiver<Order>) -> Result<bool, End> {
        let socket = match side {
            None => &self.outgoing.socket,
            Some(number) => match self.outgoing.sides.get(&number) {
                Some(socket) => socket,
                None => return Ok(false),
            },
        };
        match socket.recv_batch(&mut self.incoming) {
            Ok(_) => {}
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(cause) => return Err(End::Failed(cause)),
        }
        // A session's first datagram may have arrived behind the order that makes the session known.
        self.take_orders(orders)?;
        (0..self.incoming.left_out()).for_each(|_| self.drops.count(DropReason::Malformed));
        let now = Instant::now();
        let mut arrivals = Arrivals::new(self.vpi, self.tun.as_deref(), &self.queues, &self.drops);
        for (from, datagram) in self.incoming.datagrams() {
            let from = side.map_or(Remote::Udp(from), |socket| Remote::Side { address: from, socket });
            if let Some((to, bytes)) = arrivals.take(self.forwarder.inbound(from, datagram, now)) {
                self.outgoing.leave_by(None);
                if !self.outgoing.datagram(to, bytes.len(), |slot| {
                    slot.copy_from_slice(bytes);
                    true
                }) {
                    // The kernel takes no more: lost, as at any router whose line is full.
                    self.drops.count(DropReason::SendFailed);
                }
            }
        }
        let ended = arrivals.finish();
        self.outgoing.flush();
        Ok(self.after(ended))
    }

    /// Sees to a device that failed. Returns whether it was given anything.
    pub(super) fn after(&mut self, (has_written, failed): (bool, Option<io::Error>)) -> bool {
        if let Some(cause) = failed {
            self.on_device_error(&cause);
        }
        has_written
    }

    /// Takes in what applications sent, then sends as much as one call of the kernel takes, so that no answer waits in the
    /// socket for longer. For each datagram: one copy with one sum, one AEAD, and a share of one system call a run.
    fn send(&mut self) {
        let Some(tun) = self.tun.clone().filter(|_| !self.outgoing.is_blocked) else { return };
        self.take_in(&tun);
        let now = Instant::now();
        if self.waiting.is_in_need() {
            self.needed_at = now;
        }
        let turn_bytes = if self.is_slow { SLOW_TURN_BYTES } else { usize::MAX };
        let mut bytes = 0;
        for _ in 0..SENT_MAX {
            if bytes >= turn_bytes || !self.outgoing.batch.has_room_for_super_packet() {
                break;
            }
            match self.send_one(&tun, now) {
                Some(sent) => bytes += sent,
                None => break,
            }
        }
        let before = worked();
        self.outgoing.flush();
        let took = worked().saturating_sub(before);
        let allowed = SLOW_PER_BYTE * bytes.max(SLOW_TURN_BYTES) as u32;
        self.is_slow = self.outgoing.is_blocked || took > allowed;
        self.waiting.set_slow(self.is_slow);
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
        let Due { packet, offload, loses_one } = self.waiting.next()?;
        let bytes = packet.len();
        self.outgoing.loses_next = loses_one;
        match self.forwarder.outbound(packet, offload, &mut self.outgoing, now) {
            Outbound::Sent => {}
            Outbound::Hold => whole_packets(packet, offload, |packet| {
                let seen = (self.vpi, Seen::Packet(packet));
                offer(&self.queues.seen, seen, &self.drops, DropReason::PacketQueue);
            }),
            Outbound::TooLarge(error) => {
                self.drops.count(DropReason::PacketTooLarge);
                let _ = tun.send(&error);
            }
            Outbound::Drop(_) if loses_one => self.drops.count(DropReason::PacketQueue),
            Outbound::Drop(reason) => self.drops.count(reason),
        }
        self.outgoing.loses_next = false;
        Some(bytes)
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
    fn on_device_error(&mut self, cause: &io::Error) {
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

/// What this thread has worked, the kernel's work for it included. Time in which others had the processor is not: what the
/// thread is interrupted by, such as those who receive what it sent, says nothing of the way out.
fn worked() -> Duration {
    let worked = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(worked.tv_sec.unsigned_abs(), worked.tv_nsec.unsigned_abs() as u32)
}
