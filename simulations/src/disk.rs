//! What outlives a crash. Writes are kept in the order in which they were asked for, and may take their time.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use protocol::alias::Pin;
use protocol::engine::Ticket;
use protocol::identity::{DeviceId, VpiId};
use protocol::membership::epoch::EpochSecret;
use protocol::membership::object::{Body, Object};

/// One host's disk.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) vpi: Option<VpiId>,
    pub(crate) objects: Vec<Object>,
    pub(crate) epochs: Vec<EpochSecret>,
    pub(crate) pins: Vec<Pin>,
    /// Where each member was last reached.
    pub(crate) remembered: BTreeMap<DeviceId, SocketAddr>,
    /// The newest word of where each device is.
    pub(crate) presences: BTreeMap<DeviceId, Object>,
    /// The token's text and the question, while this host is no member.
    pub(crate) joining: Option<(String, Vec<u8>)>,
    pub(crate) is_member: bool,
    pub(crate) under_way: VecDeque<Write>,
}

/// Something to be kept.
pub(crate) enum Write {
    /// Objects and secrets; the engine waits to hear of it.
    Store { ticket: Ticket, objects: Vec<Object>, epochs: Vec<EpochSecret> },
    /// The device is a member.
    Joined,
}

impl Disk {
    /// Keeps the newest word of where a device is.
    pub(crate) fn remember_presence(&mut self, object: Object) {
        if let Body::Presence(presence) = object.body() {
            self.presences.insert(presence.device, object);
        }
    }

    /// Finishes the write that was asked for first; returns its ticket, if the engine waits for it.
    pub(crate) fn commit_first(&mut self) -> Option<Ticket> {
        match self.under_way.pop_front()? {
            Write::Store { ticket, objects, epochs } => {
                self.epochs.extend(epochs);
                self.objects.extend(objects);
                Some(ticket)
            }
            Write::Joined => {
                self.is_member = true;
                None
            }
        }
    }
}
