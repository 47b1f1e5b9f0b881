//! Wishes of this machine's.

use std::net::SocketAddr;

use super::outbox::{Event, Ticket};
use super::witness::Acknowledgement;
use super::{Engine, Time};
use crate::identity::DeviceId;
use crate::membership::founding::{self, Addresses, InviteError, InviteWish, Inviter};
use crate::membership::token::Token;
use crate::wire::message::Message;

/// What an invite is to be, and the addresses that its token names.
#[derive(Clone, Debug)]
pub struct InviteRequest {
    /// The invite's own terms.
    pub wish: InviteWish,
    /// Addresses of this device, at most 4 of which go into the token.
    pub members: Vec<SocketAddr>,
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
    /// The addresses at which this machine may be reached, the best first: at the start, and whenever they change.
    Addresses(Vec<SocketAddr>),
    /// Announce this device on its networks, or do not; not, until told.
    Announce(bool),
    /// Measure the round trip to a member, waking the link if need be; answered by [`Event::Pong`], or not.
    Ping(Ticket, DeviceId),
    /// A member may be reached at this address.
    Remember(DeviceId, SocketAddr),
    /// Initiate to a member now, without a packet that asks for it.
    Connect(DeviceId),
    /// Say goodbye on every link; the node stops.
    Close,
}

impl Engine {
    pub(super) fn on_command(&mut self, command: Command, time: Time) {
        match command {
            Command::Stored(ticket) => self.on_stored(ticket, time),
            Command::Invite(ticket, request) => {
                let outcome = self.make_invite(&request, time);
                self.acknowledge(Acknowledgement::Token(Event::Invited { ticket, outcome }), time);
            }
            Command::Addresses(addresses) => self.announce_addresses(&addresses, time),
            Command::Announce(is_wanted) => self.want_lan(is_wanted, time),
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
                }
            }
            Command::Connect(device) => self.wake(&device, time),
            Command::Close => self.close_all(time),
        }
    }

    fn make_invite(&mut self, request: &InviteRequest, time: Time) -> Result<Box<Token>, InviteError> {
        // A disk that went back would make this admin sign a second history (README §12).
        if !self.has_settled && !self.peers.is_empty() && !request.offline {
            return Err(InviteError::Unsettled);
        }
        let inviter = Inviter {
            admin: &self.config.device,
            membership: self.roster.membership(),
            epoch: self.roster.newest_epoch().ok_or(InviteError::Chain)?,
            wall_secs: time.wall_secs(),
        };
        let addresses = Addresses { members: &request.members, beacons: &[] };
        let token = founding::invite(&mut self.rng, &inviter, &request.wish, addresses)?;
        let taken = self.roster.insert([token.invite_object().clone()]);
        self.on_news(taken, None, time);
        Ok(Box::new(token))
    }

    fn close_all(&mut self, time: Time) {
        let devices: Vec<DeviceId> = self.peers.keys().copied().collect();
        for device in devices {
            self.send_message(&device, &Message::Close { reason: 0 }, time);
            self.close(&device, time);
        }
    }
}
