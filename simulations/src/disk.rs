//! What outlives a crash. Writes are kept in the order in which they were asked for, and may take their time; of one
//! that was under way a prefix of its records survives, secrets before the objects that name them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use protocol::alias::Pin;
use protocol::engine::Ticket;
use protocol::identity::{DeviceId, ObjectId, VpiId};
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
    /// Every object that ever was on it, also one that it forgot when it went back.
    ever: BTreeSet<ObjectId>,
}

/// Something to be kept.
pub(crate) enum Write {
    /// Objects and secrets; the engine waits to hear of it.
    Store { ticket: Ticket, objects: Vec<Object>, epochs: Vec<EpochSecret> },
    /// The device is a member.
    Joined,
}

impl Write {
    /// How many records it appends.
    fn records(&self) -> usize {
        match self {
            Self::Store { objects, epochs, .. } => objects.len() + epochs.len(),
            Self::Joined => 1,
        }
    }
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
        let write = self.under_way.pop_front()?;
        let records = write.records();
        self.append(write, records)
    }

    /// The machine stops: of everything under way the first `survivors` records are on disk, the rest is lost.
    pub(crate) fn tear(&mut self, survivors: usize) {
        let mut left = survivors;
        for write in std::mem::take(&mut self.under_way) {
            let records = write.records();
            self.append(write, left);
            left = left.saturating_sub(records);
        }
    }

    /// Records under way.
    pub(crate) fn records_under_way(&self) -> usize {
        self.under_way.iter().map(Write::records).sum()
    }

    /// Whether this object is on disk, or was.
    pub(crate) fn had(&self, id: &ObjectId) -> bool {
        self.ever.contains(id) || self.objects.iter().any(|object| object.id() == *id)
    }

    /// What a backup has of it.
    pub(crate) fn backup(&self) -> Self {
        Self {
            vpi: self.vpi,
            objects: self.objects.clone(),
            epochs: self.epochs.clone(),
            pins: self.pins.clone(),
            remembered: self.remembered.clone(),
            presences: self.presences.clone(),
            joining: self.joining.clone(),
            is_member: self.is_member,
            ..Self::default()
        }
    }

    /// It is what it was when `backup` was made.
    pub(crate) fn go_back(&mut self, backup: Self) {
        let ever = self.objects.iter().map(Object::id).chain(std::mem::take(&mut self.ever)).collect();
        *self = Self { ever, ..backup };
    }

    /// Appends the first `records` records of a write.
    fn append(&mut self, write: Write, records: usize) -> Option<Ticket> {
        match write {
            Write::Store { ticket, objects, epochs } => {
                let left = records.saturating_sub(epochs.len());
                self.epochs.extend(epochs.into_iter().take(records));
                self.objects.extend(objects.into_iter().take(left));
                Some(ticket)
            }
            Write::Joined => {
                self.is_member |= records > 0;
                None
            }
        }
    }
}
