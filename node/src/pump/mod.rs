//! The fast path: TUN ⇄ UDP, in batches, on a thread of its own for each VPI.
//!
//! Owns the [`Forwarder`] and nothing else that decides. What is not a packet of a running session goes to the driver:
//! what members said by one queue, what anybody may have sent by another, so that strangers cannot keep members from
//! being heard. Both are bounded; what does not fit is dropped and counted.
//!
//! ```text
//! orders ──►┌──────────────────────────────┐──► seen      messages, notes, first packets
//! UDP ◄────►│ recvmmsg · Forwarder · sendmmsg │──► veiled    handshakes, joins, junk
//! TUN ◄────►└──────────────────────────────┘◄─► lines     of streams through beacons that carry, drop-oldest
//! ```
//!
//! The thread sleeps in one `poll` until something arrives, takes all there is, and flushes: it never waits to fill a
//! batch. Its only timer rings once after a load, to give memory back. What applications send faster than it leaves waits in
//! `waiting`, by flows, and in turns so short that what arrives meanwhile waits for no more than one call of the kernel.

mod arrivals;
mod lines;
mod outgoing;
mod run;
mod sides;
mod sys;
mod waiting;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use protocol::forward::{Forwarder, Note, Update};
use protocol::identity::VpiId;
use protocol::path::Remote;
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::mpsc as queue;

use crate::carry::Line;
use crate::metrics::Drops;
use crate::tun::Tun;
use crate::udp::Socket;

/// Something from the fast path for the engine of one VPI.
#[derive(Debug)]
pub(crate) enum Seen {
    /// The forwarder's note.
    Note(Note),
    /// An in-session message, decrypted.
    Message {
        /// Receiver index of its session.
        index: u32,
        /// Where it came from.
        from: Remote,
        /// The message.
        bytes: Vec<u8>,
    },
    /// A packet without a session.
    Packet(Vec<u8>),
    /// A veiled datagram, from anybody.
    Veiled {
        /// Where it came from.
        from: Remote,
        /// The whole datagram.
        bytes: Vec<u8>,
    },
    /// What may answer a STUN request, from anybody.
    Stun {
        /// Where it came from.
        from: Remote,
        /// The whole datagram.
        bytes: Vec<u8>,
    },
    /// The TUN device is gone.
    Detached,
    /// The pump has ended: no packet moves any more.
    Failed,
}

/// The queues into the driver; one pair for all VPIs.
#[derive(Clone, Debug)]
pub(crate) struct Queues {
    /// What members and applications sent.
    pub(crate) seen: queue::Sender<(VpiId, Seen)>,
    /// What anybody sent.
    pub(crate) veiled: queue::Sender<(VpiId, Seen)>,
}

/// What the driver wants of a pump.
enum Order {
    Update(Update),
    PassOn(u32, Vec<u8>),
    /// Another socket of this number, or none any more.
    Side(u32, Option<Arc<Socket>>),
    /// What goes over the stream of this number waits here, and what came; or there is none any more.
    Line(u32, Option<Arc<Line>>),
    Attach(Arc<Tun>),
    Detach(mpsc::SyncSender<()>),
    Stop,
}

/// A running pump. Dropping it stops the thread.
pub(crate) struct Pump {
    orders: mpsc::Sender<Order>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    /// Starts the thread that moves the packets of `vpi` over `socket`.
    ///
    /// # Errors
    /// When the system gives no thread or no descriptor.
    pub(crate) fn start(
        (vpi, forwarder): (VpiId, Forwarder),
        socket: Arc<Socket>,
        queues: Queues,
        drops: Arc<Drops>,
    ) -> io::Result<Self> {
        let (orders, received) = mpsc::channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let runner = run::Runner::new((vpi, forwarder), socket, queues, drops);
        let woken = Arc::clone(&wake);
        let name = format!("pump-{}", vpi.short());
        let thread = std::thread::Builder::new().name(name).spawn(move || runner.run(&received, &woken))?;
        Ok(Self { orders, wake, thread: Some(thread) })
    }

    /// Tells the forwarder what changed.
    pub(crate) fn update(&self, update: Update) {
        self.order(Order::Update(update));
    }

    /// Hands the forwarder a datagram of a session that came over the circuit of this number.
    pub(crate) fn pass_on(&self, circuit: u32, datagram: Vec<u8>) {
        self.order(Order::PassOn(circuit, datagram));
    }

    /// Gives the pump another socket, by which datagrams of this number's far ends come and go; or takes it away.
    pub(crate) fn side(&self, number: u32, socket: Option<Arc<Socket>>) {
        self.order(Order::Side(number, socket));
    }

    /// Makes a line for the stream of this number, by which datagrams of [`Remote::Carried`] come and go.
    pub(crate) fn open_line(&self, number: u32, drops: Arc<Drops>) -> Arc<Line> {
        let line = Arc::new(Line::new(Arc::clone(&self.wake), drops));
        self.order(Order::Line(number, Some(Arc::clone(&line))));
        line
    }

    /// Takes it away.
    pub(crate) fn close_line(&self, number: u32) {
        self.order(Order::Line(number, None));
    }

    /// Gives the pump a TUN device to read from and to write to.
    pub(crate) fn attach(&self, tun: Arc<Tun>) {
        self.order(Order::Attach(tun));
    }

    /// Takes the TUN device away; when this returns, the pump has let go of it.
    pub(crate) fn detach(&self) {
        let (done, is_done) = mpsc::sync_channel(1);
        self.order(Order::Detach(done));
        // An error means that the thread has ended, and let go of everything.
        let _ = is_done.recv();
    }

    fn order(&self, order: Order) {
        // A pump that has ended takes no orders; its end was reported by itself.
        let _ = self.orders.send(order);
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.order(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
