//! Sockets beside the data socket, for members that no known address leads to (protocol/README §14): opened and closed as an
//! engine says, read by the pump.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use protocol::drop::DropReason;
use protocol::engine::{Command, Leave};
use protocol::identity::VpiId;
use tracing::debug;

use super::node::Node;
use super::vpi::Vpi;
use crate::udp::{Batch, Socket};

/// The sockets, by the engine's numbers.
pub(super) type Sides = BTreeMap<u32, Arc<Socket>>;

impl Vpi {
    /// Opens a socket on a port that the kernel chooses, or closes it. One that cannot be opened is missing where it is
    /// sent by.
    pub(super) fn set_side(&mut self, number: u32, is_open: bool) {
        if !is_open {
            self.sides.remove(&number);
            return self.pump.side(number, None);
        }
        match Socket::bind(0) {
            Ok(socket) => {
                let socket = Arc::new(socket);
                self.sides.insert(number, Arc::clone(&socket));
                self.pump.side(number, Some(socket));
            }
            Err(error) => debug!(vpi = self.settings.name, %error, "a socket for a hard NAT was not opened"),
        }
    }

    /// Sends one datagram by a socket beside the data socket.
    pub(super) fn send_by(&self, number: u32, to: SocketAddr, datagram: &[u8]) {
        let mut batch = Batch::small();
        batch.push(to, |slot| match slot.get_mut(..datagram.len()) {
            Some(place) => {
                place.copy_from_slice(datagram);
                datagram.len()
            }
            None => 0,
        });
        let refused = |_, _, _| self.drops.count(DropReason::SendFailed);
        let sent = self.sides.get(&number).map(|socket| socket.send_batch(&mut batch, refused));
        if !matches!(sent, Some(Ok(()))) {
            self.drops.count(DropReason::SendFailed);
        }
    }
}

impl Node {
    /// While one VPI tries guessed ports, the others do not.
    pub(super) fn on_burst(&mut self, id: VpiId, is_running: bool) {
        let time = super::time();
        for (_, vpi) in self.vpis.iter_mut().filter(|(other, _)| **other != id) {
            let may_birthday = self.options.settings.birthday && !is_running;
            let leave = Leave { may_foretell: !is_running, may_birthday };
            vpi.engine.handle_command(Command::Bursts(leave), time);
        }
    }
}
