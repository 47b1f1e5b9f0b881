//! Wishes of this machine's.

use std::net::SocketAddr;

use super::bursts::Leave;
use super::carrying::CarryEnd;
use super::outbox::{Event, Ticket};
use super::witness::Acknowledgement;
use super::{Engine, Time};
use crate::discovery::record::KEY_BYTES;
use crate::filter::Reach;
use crate::identity::{DeviceId, InviteId, StaticSecret};
use crate::membership::founding::InviteWish;
use crate::membership::object::{Kind, Object, Reason};
use crate::path::portmap::{Ask, Gateway, Outcome};
use crate::relay::consent::Consent;
use crate::wire::message::{CLOSE_STOPS, Message};

/// What an invite is to be, and the addresses that its token names.
#[derive(Clone, Debug)]
pub struct InviteRequest {
    /// The invite's own terms.
    pub wish: InviteWish,
    /// Addresses of this device, at most 4 of which go into the token.
    pub members: Vec<SocketAddr>,
    /// Multiaddresses of beacons, at most 4 of which go into the token.
    pub beacons: Vec<String>,
    /// Sign even though this node has not settled with another member since it started.
    pub offline: bool,
}

/// Who is to be removed, and why.
#[derive(Clone, Debug)]
pub struct Removal {
    /// The member.
    pub target: DeviceId,
    /// Why, for the others to see.
    pub reason: Reason,
    /// Sign even though this node has not settled with another member since it started.
    pub offline: bool,
}

/// Something that this machine wants or tells.
#[derive(Debug)]
pub enum Command {
    /// What [`Event::Store`] named, and all before it, is on disk.
    Stored(Ticket),
    /// Make an invite; answered by [`Event::Invited`] with this ticket.
    Invite(Ticket, Box<InviteRequest>),
    /// Remove a member; answered by [`Event::Signed`].
    Remove(Ticket, Removal),
    /// Take an invite back, `true`: even though this node has not settled with another member since it started; answered
    /// by [`Event::Signed`].
    Revoke(Ticket, InviteId, bool),
    /// Leave the VPI; answered by [`Event::Left`], after which the engine is silent.
    Leave(Ticket),
    /// The addresses at which this machine may be reached, the best first: at the start, and whenever they change.
    Addresses(Vec<SocketAddr>),
    /// This machine slept until now: others may have forgotten its sessions, and gateways its mappings.
    Woke,
    /// Ask these STUN servers where this machine's datagrams come from, the best first, in place of those before.
    StunServers(Vec<SocketAddr>),
    /// Where this machine's default route of IPv4 leads, and the port of the data socket: at the start, and whenever either
    /// changes. `None`: nowhere, or no port is to be mapped there.
    Gateway(Option<Gateway>, u16),
    /// What came of what [`Event::MapPort`] wanted; not said of a mapping that was given back.
    PortAsked(Ask, Outcome),
    /// Ask servers and gateway once more what this machine's place in the network is.
    LookAround,
    /// What may be tried towards members that no known address leads to; everything until told.
    Bursts(Leave),
    /// There are beacons to ask, `true`, or none; none until told.
    Beacons(bool),
    /// Over which beacon this device can be met, as a multiaddress of 1 to 128 bytes, and under which peer id, of 1 to 64;
    /// `None`: over none.
    Reserved(Option<(String, Vec<u8>)>),
    /// What stands under a key that [`Event::Lookup`] asked for.
    Found {
        /// The key.
        key: [u8; KEY_BYTES],
        /// Whatever was there, by anybody.
        values: Vec<Vec<u8>>,
        /// How many beacons answered; none: nobody was there to ask.
        answered: u32,
    },
    /// How many copies of what [`Event::Publish`] put under a key were read back.
    Published([u8; KEY_BYTES], u32),
    /// A pipe is gone, or did not come to be: the own one of this number, or another's that datagrams came from.
    CircuitClosed(u32),
    /// A beacon holds this end of the stream of this number, and which.
    CarryHeld(u32, String),
    /// The stream of this number stands.
    CarryOpen(u32),
    /// It is gone, or did not come to be.
    CarryClosed(u32, CarryEnd),
    /// Veils and slots count with a clock that is this far ahead of the machine's (negative: behind), in milliseconds.
    ClockOffset(i64),
    /// Whether datagrams are passed on for fellow members.
    Relay(Consent),
    /// A former static key of this device's.
    Static(StaticSecret),
    /// Make this the static key of this device; it is on disk.
    Rekey(StaticSecret),
    /// A Presence that was remembered.
    Presence(Object),
    /// Announce this device on its networks, or do not; not, until told.
    Announce(bool),
    /// Measure the round trip to a member, waking the link if need be; answered by [`Event::Pong`], or not.
    Ping(Ticket, DeviceId),
    /// A member may be reached at this address.
    Remember(DeviceId, SocketAddr),
    /// Initiate to a member now, without a packet that asks for it.
    Connect(DeviceId),
    /// What members may reach from now on, in place of what was before; everything on the own alias until then.
    Reach(Reach),
    /// What this node has of its own history may be less than it once had: nothing is signed on it before another member
    /// has told what it knows, not even where no other member is known.
    WentBack,
    /// Say goodbye on every link; the node stops.
    Close,
}

impl Engine {
    pub(super) fn on_command(&mut self, command: Command, time: Time) {
        match command {
            Command::Stored(ticket) => self.on_stored(ticket, time),
            Command::Invite(ticket, request) => {
                let outcome = self.make_invite(&request, time);
                self.acknowledge(Acknowledgement::Reply(Event::Invited { ticket, outcome }), time);
            }
            Command::Remove(ticket, removal) => {
                let outcome = self.remove(&removal, time);
                self.acknowledge(Acknowledgement::Reply(Event::Signed { ticket, outcome }), time);
            }
            Command::Revoke(ticket, invite, offline) => {
                let outcome = self.revoke((invite, offline), time);
                self.acknowledge(Acknowledgement::Reply(Event::Signed { ticket, outcome }), time);
            }
            Command::Leave(ticket) => {
                if let Err(error) = self.leave(ticket, time) {
                    self.out.events.push_back(Event::Left { ticket, outcome: Err(error) });
                }
            }
            Command::Static(secret) => self.add_static(secret),
            Command::Rekey(secret) => self.rekey_static(secret, time),
            Command::Addresses(addresses) => {
                self.announce_addresses(&addresses, time);
                self.on_addresses(addresses, time);
            }
            Command::Woke => self.on_woke(time),
            Command::StunServers(servers) => self.on_stun_servers(servers, time),
            Command::Gateway(gateway, port) => self.on_gateway(gateway, port, time),
            Command::PortAsked(ask, outcome) => self.on_port_asked(&ask, outcome, time),
            Command::LookAround => {
                self.ask_servers_for_search(time);
                self.hasten_portmap(time);
            }
            Command::Bursts(leave) => self.on_leave(leave),
            Command::Beacons(are_known) => self.on_beacons(are_known, time),
            Command::Reserved(reserved) => self.on_reserved(reserved, time),
            Command::Found { key, values, answered } => self.on_found(&key, (&values, answered), time),
            Command::Published(key, copies) => self.on_published((&key, copies), time),
            Command::CircuitClosed(number) => self.on_circuit_closed(number, time),
            Command::CarryHeld(number, beacon) => self.on_carry_held(number, &beacon, time),
            Command::CarryOpen(number) => self.on_carry_open(number, time),
            Command::CarryClosed(number, end) => self.on_carry_closed(number, end, time),
            Command::ClockOffset(offset_ms) => self.clocks.set_offset(offset_ms),
            Command::Relay(consent) => self.on_consent(consent, time),
            Command::Announce(is_wanted) => self.want_lan(is_wanted, time),
            Command::Presence(object) => self.recall(&object),
            Command::Ping(ticket, device) => {
                if let Some(peer) = self.peers.get_mut(&device) {
                    peer.pings.wait(ticket);
                    if peer.sessions.current(time.now).is_some() {
                        self.flush(&device, time);
                    } else {
                        self.wake(&device, time);
                    }
                }
            }
            Command::Remember(device, address) => {
                if let Some(peer) = self.peers.get_mut(&device) {
                    peer.path.add_candidate(address);
                    peer.has_met = true;
                }
            }
            Command::Connect(device) => self.wake(&device, time),
            Command::Reach(reach) => self.on_reach(reach),
            Command::WentBack => self.went_back = true,
            Command::Close => self.close_all(time),
        }
    }

    pub(super) fn close_all(&mut self, time: Time) {
        if let Some(arrived) = self.arriving.take() {
            let mut objects = arrived.objects;
            objects.retain(|object| object.kind() != Kind::Presence);
            self.store(objects, Vec::new());
        }
        self.end_portmap(time);
        let devices: Vec<DeviceId> = self.peers.keys().copied().collect();
        for device in devices {
            self.send_message(&device, &Message::Close { reason: CLOSE_STOPS }, time);
            self.close(&device, time);
        }
    }
}
