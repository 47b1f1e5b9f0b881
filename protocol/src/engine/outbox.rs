//! What an engine wants done, in the order in which it wants it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::discovery::record::KEY_BYTES;
use crate::drop::DropReason;
use crate::forward::Update;
use crate::identity::{DeviceId, Secret};
use crate::membership::admin::AdminError;
use crate::membership::epoch::{EpochSecret, EpochTag};
use crate::membership::object::Object;
use crate::membership::token::Token;
use crate::path::Remote;
use crate::path::portmap::Ask;
use crate::wire::header::{RELAY_HEADER_BYTES, write_relay_header};

/// Names a request of this machine's or a store, so that its answer is found.
pub type Ticket = u64;

/// One datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to; never [`Remote::Relayed`], whose datagrams carry its label.
    pub to: Remote,
    /// The UDP payload.
    pub datagram: Vec<u8>,
}

/// Something for this machine to do or to know.
#[derive(Debug)]
pub enum Event {
    /// Put these on disk, then say [`super::Command::Stored`].
    Store {
        /// To be repeated.
        ticket: Ticket,
        /// To be appended to the log.
        objects: Vec<Object>,
        /// Secrets, to be written before the objects.
        epochs: Vec<EpochSecret>,
    },
    /// An epoch's secret is held no more: what is on disk of it can go.
    EpochEnded {
        /// The epoch's number.
        number: u64,
        /// Its tag.
        tag: EpochTag,
    },
    /// Aliases were given; write them down.
    Pinned,
    /// This device is a member now.
    Joined,
    /// This device cannot become a member with its invite.
    JoinFailed(JoinFailure),
    /// An invite was made and is on disk.
    Invited {
        /// The request's.
        ticket: Ticket,
        /// The token, or why there is none.
        outcome: Result<Box<Token>, AdminError>,
    },
    /// What was to be signed is signed and on disk, or why not.
    Signed {
        /// The request's.
        ticket: Ticket,
        /// Whether it was done.
        outcome: Result<(), AdminError>,
    },
    /// This device has left, or why it may not.
    Left {
        /// The request's.
        ticket: Ticket,
        /// How many members are known to know.
        outcome: Result<u32, AdminError>,
    },
    /// This device is no member any more, by others' word.
    Removed,
    /// The newest word of where a device is, this one's own included: remember it.
    Presence(Object),
    /// A member answered at this address: remember it.
    Reached {
        /// The member.
        device: DeviceId,
        /// The address.
        remote: SocketAddr,
    },
    /// A link came up or went down.
    Link {
        /// The member.
        device: DeviceId,
        /// Up, or down.
        is_up: bool,
    },
    /// A ping came back.
    Pong {
        /// The request's.
        ticket: Ticket,
        /// The round trip.
        rtt: Duration,
    },
    /// Send this to the multicast group of announcements, on every network of this machine.
    Announce(Vec<u8>),
    /// Open another UDP socket, by which datagrams to [`Remote::Side`] of this number leave, and whose datagrams come from
    /// there; or close it. A node that cannot open it drops what was to leave by it.
    Socket {
        /// Its number, given once.
        number: u32,
        /// Open, or close.
        is_open: bool,
    },
    /// Many datagrams to guessed ports are being sent, or no more: other VPIs of this node wait meanwhile.
    Burst {
        /// Whether they are.
        is_running: bool,
    },
    /// Ask the gateway for a mapping, then say [`super::Command::PortAsked`]; or give one back, which nobody waits for, and
    /// after which no former asking may have a mapping made.
    MapPort(Ask),
    /// Look up every value under a key of the DHT, then say [`super::Command::Found`].
    Lookup {
        /// The key.
        key: [u8; KEY_BYTES],
    },
    /// Put a value into the DHT and read it back, then say [`super::Command::Published`].
    Publish {
        /// Its key.
        key: [u8; KEY_BYTES],
        /// The record, as it is put.
        value: Vec<u8>,
        /// How long it lives.
        expires_in: Duration,
    },
    /// Open a pipe under this number, and carry datagrams to [`Remote::Circuit`] of it, also those that come before it
    /// stands; say [`super::Command::CircuitClosed`] at its end.
    OpenCircuit {
        /// Its number; the highest bit is not set.
        circuit: u32,
        /// The beacon's multiaddress, by a member's or a lobby's word.
        beacon: String,
        /// The peer id to be met there, by the same word.
        peer: Vec<u8>,
    },
    /// Have a beacon that carries join a stream's two ends, and carry everything to [`Remote::Carried`] of this number over
    /// it once it stands; say what becomes of it ([`super::Command::CarryHeld`] and those behind it).
    Carry {
        /// Its number; the highest bit is not set.
        number: u32,
        /// By which the beacon knows the ends.
        token: Secret,
        /// The beacon's multiaddress, by a member's word.
        beacon: Option<String>,
        /// This end is the first: any beacon that carries will do, that one before all others. Else it is that one alone.
        is_offer: bool,
    },
    /// Close the stream of this number; nothing more is to be said of it.
    CloseCarry(u32),
    /// Something was dropped after its input had been taken.
    Dropped(DropReason),
}

/// Why an invite does not make this device a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinFailure {
    /// Others used it up.
    #[error("the invite is used up")]
    UsedUp,
    /// Its end has passed.
    #[error("the invite has expired")]
    Expired,
    /// More took it than it has uses, and this device came later.
    #[error("another device joined with the same invite first")]
    Contested,
}

/// The engine's outputs.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) transmits: VecDeque<Transmit>,
    pub(super) packets: VecDeque<Vec<u8>>,
    pub(super) updates: VecDeque<Update>,
    /// Tags of veiled datagrams that the forwarder was told.
    pub(super) told_tags: Vec<EpochTag>,
    pub(super) events: VecDeque<Event>,
    /// The socket by which held packets leave, if not the own one.
    pub(super) side: Option<u32>,
}

impl Outbox {
    /// Sends a datagram; one that a member passes on goes there under its label.
    pub(super) fn transmit(&mut self, to: Remote, mut datagram: Vec<u8>) {
        let to = match to {
            Remote::Relayed { via, label } => {
                let mut header = [0; RELAY_HEADER_BYTES];
                write_relay_header(&mut header, label);
                datagram.splice(..0, header);
                Remote::Udp(via)
            }
            Remote::Udp(_) | Remote::Side { .. } | Remote::Circuit(_) | Remote::Carried(_) => to,
        };
        self.transmits.push_back(Transmit { to, datagram });
    }
}
