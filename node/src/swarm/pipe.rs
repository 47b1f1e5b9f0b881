//! Circuits as raw pipes: the relay client's transport with every connection taken out before anything is stacked on it.
//!
//! What libp2p would do with a circuit — agree on protocols, do a handshake, identify itself — answers a stranger. Here the
//! swarm never learns of a circuit; whoever reads [`RawIn`] has the bare bytes. The beacon tells the opener that the circuit
//! was taken when the pipe is first polled, so each must be flushed or dropped at once: a beacon has ten such questions open
//! for one member, and no more until they are answered.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use libp2p::core::connection::Endpoint;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, Transport, TransportError, TransportEvent};
use libp2p::futures::future::{BoxFuture, FutureExt as _, Pending, pending};
use libp2p::multiaddr::Protocol;
use libp2p::relay::client::{self, Connection, transport::Error as RelayError};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;

type Inner = Arc<Mutex<client::Transport>>;

/// A circuit that somebody opened to this device.
pub(super) struct RawIn {
    /// Who it is said to be, by the beacon alone.
    pub(super) claimed: PeerId,
    /// The pipe; its first poll takes the circuit.
    pub(super) pipe: Connection,
}

/// The transport to be given to the swarm.
pub(super) struct RawRelay {
    inner: Inner,
    arrived: mpsc::Sender<RawIn>,
}

/// Opens circuits by hand, past the swarm, which only has to be polled meanwhile.
#[derive(Clone)]
pub(super) struct RawDialer(Inner);

/// The four ends that belong together. `waiting` circuits may wait for the reader; one more is refused.
pub(super) fn raw_relay(
    me: PeerId,
    waiting: usize,
) -> (RawRelay, RawDialer, mpsc::Receiver<RawIn>, client::Behaviour) {
    let (transport, behaviour) = client::new(me);
    let inner = Arc::new(Mutex::new(transport));
    let (arrived, inbound) = mpsc::channel(waiting);
    (RawRelay { inner: Arc::clone(&inner), arrived }, RawDialer(inner), inbound, behaviour)
}

/// A panic while it was held leaves nothing half done here.
fn lock(inner: &Inner) -> MutexGuard<'_, client::Transport> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RawDialer {
    /// Opens a circuit to `<beacon>/p2p/<beacon id>/p2p-circuit/p2p/<member id>`; the beacon is dialled if need be.
    ///
    /// # Errors
    /// Nobody is there under that id, the beacon refuses or is gone; or it is being dialled for another circuit already
    /// ([`is_turned_away`]).
    pub(super) fn open(&self, address: Multiaddr) -> BoxFuture<'static, io::Result<Connection>> {
        let opts = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let dial = lock(&self.0).dial(address, opts);
        async move { dial.map_err(io::Error::other)?.await.map_err(io::Error::other) }.boxed()
    }
}

/// Says whether a circuit was not even asked for: libp2p dials a beacon once at a time, and turns away whoever wants it
/// meanwhile as if it were gone.
pub(super) fn is_turned_away(error: &io::Error) -> bool {
    let relay = error.get_ref().and_then(|inner| inner.downcast_ref::<RelayError>());
    matches!(relay, Some(RelayError::ResponseFromBehaviourCanceled(_)))
}

impl Transport for RawRelay {
    /// Never produced.
    type Output = (PeerId, StreamMuxerBox);
    type Error = RelayError;
    type ListenerUpgrade = Pending<Result<Self::Output, RelayError>>;
    type Dial = Pending<Result<Self::Output, RelayError>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<RelayError>> {
        lock(&self.inner).listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        lock(&self.inner).remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, _: DialOpts) -> Result<Self::Dial, TransportError<RelayError>> {
        if address.iter().any(|part| part == Protocol::P2pCircuit) {
            // No behaviour may dial a circuit, and no other transport may take the address for another.
            return Err(TransportError::Other(RelayError::MalformedMultiaddr));
        }
        Err(TransportError::MultiaddrNotSupported(address))
    }

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, RelayError>> {
        let this = self.get_mut();
        loop {
            let event = ready!(Pin::new(&mut *lock(&this.inner)).poll(cx));
            let TransportEvent::Incoming { upgrade, send_back_addr, .. } = event else {
                return Poll::Ready(event.map_upgrade(|_| pending()));
            };
            let claimed = send_back_addr.iter().find_map(|part| match part {
                Protocol::P2p(peer) => Some(peer),
                _ => None,
            });
            if let (Some(Ok(pipe)), Some(claimed)) = (upgrade.now_or_never(), claimed) {
                // Full: dropped untouched, which refuses it.
                let _ = this.arrived.try_send(RawIn { claimed, pipe });
            }
        }
    }
}
