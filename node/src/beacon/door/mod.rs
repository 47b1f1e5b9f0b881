//! Who may be connected: bounds for each address, network and peer, and who gives way when all places are taken.
//!
//! In: connections as they come and go, and whether memory is short. Out: refusals, each counted by its reason, and
//! connections to close. A part of the swarm's behaviour that speaks no protocol of its own.
//!
//! When every place is taken, a connection comes in only from a network that has fewer than the one that has most, and the
//! latter's youngest is closed for it: floods push each other out, and whoever came before them stays.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::convert::Infallible;
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::Instant;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, ListenFailure};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};
use protocol::bucket::{Bucket, Rate};

use super::group::{Group, ip_of};

/// *Chosen*: inbound connections: one for each of the 4,096 reservations, 2,048 for lookups, which are short. Each takes
/// about 60 kB (measured).
pub(crate) const CONNECTIONS_MAX: usize = 6_144;
/// *Chosen*: of one network. A sixth: more than a provider's NAT has members behind it, and six networks fill no beacon.
const GROUP_MAX: usize = 1_024;
/// *Chosen*: of one address, for the same reason.
const ADDRESS_MAX: usize = 512;
/// *Chosen*: of one peer: both transports, twice over.
const PEER_MAX: usize = 4;
/// *Chosen*: a network with as many is one that must give way while memory is short; with fewer it may be a household.
const MANY: usize = 16;
/// *Chosen*: connections that have not yet said who they are; the handshake takes two round trips, and is given 10 s. Each
/// takes about 10 kB.
const PENDING_MAX: usize = 2_048;
/// *Chosen*: a network may have as many of them as an eighth of what is free (the dynamic threshold of Choudhury and Hahne,
/// 1998): alone a ninth of all; with forty that hold all they can, each a forty-eighth, and as much is left for the next.
const PENDING_SHARE: usize = 8;
/// *Chosen*: connections that this beacon opens: lookups of its own, dial-backs, its table at a start.
const OUTBOUND_MAX: usize = 256;
/// *Chosen*: how often a network may connect. A handshake costs about 1.5 ms of one core.
const CONNECT_RATE: Rate = Rate { per_second: 20.0, burst: 512.0 };
/// *Chosen*: networks whose rate is remembered; above it, new ones wait until others have been quiet.
const RATES_MAX: usize = 8_192;

/// The bounds that depend on the machine or a test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DoorBounds {
    /// Inbound connections in all.
    pub(crate) connections: usize,
    /// Of one network.
    pub(crate) group: usize,
}

impl DoorBounds {
    /// The bounds with `files` file descriptors to spend.
    pub(crate) fn with_files(files: usize) -> Self {
        // The rest is for sockets, the disk, and what the beacon opens itself.
        let connections = CONNECTIONS_MAX.min(files.saturating_sub(OUTBOUND_MAX + 128));
        Self { connections, group: GROUP_MAX.min(connections.div_ceil(6)) }
    }
}

/// Why a connection was refused or closed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(&'static str);

/// The bounds, and who is within them.
#[derive(Debug)]
pub(crate) struct Door {
    bounds: DoorBounds,
    guests: HashMap<ConnectionId, Guest>,
    inbound: usize,
    groups: BTreeMap<Group, BTreeSet<ConnectionId>>,
    addresses: HashMap<IpAddr, usize>,
    peers: HashMap<PeerId, usize>,
    pending: HashMap<ConnectionId, Group>,
    pending_groups: HashMap<Group, usize>,
    rates: BTreeMap<Group, Bucket>,
    /// Memory is short: whoever comes in takes another's place.
    is_short: bool,
    close: VecDeque<(PeerId, ConnectionId)>,
    refused: BTreeMap<&'static str, u64>,
}

/// One connection.
#[derive(Clone, Debug)]
struct Guest {
    peer: PeerId,
    address: Multiaddr,
    is_inbound: bool,
}

impl Door {
    /// An open door.
    pub(crate) fn new(bounds: DoorBounds) -> Self {
        Self {
            bounds,
            guests: HashMap::new(),
            inbound: 0,
            groups: BTreeMap::new(),
            addresses: HashMap::new(),
            peers: HashMap::new(),
            pending: HashMap::new(),
            pending_groups: HashMap::new(),
            rates: BTreeMap::new(),
            is_short: false,
            close: VecDeque::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Says whether memory is short: then whoever comes in takes a place of a network that has many, while there is one.
    pub(crate) fn set_short(&mut self, is_short: bool) {
        self.is_short = is_short;
    }

    /// Closes `count` connections, always the youngest of the network that has most.
    pub(crate) fn shed(&mut self, count: usize) {
        for _ in 0..count.min(self.inbound) {
            self.close_youngest_of_fullest("shed");
        }
    }

    /// The other end's address, if it opened the connection.
    pub(crate) fn inbound_address(&self, connection: ConnectionId) -> Option<&Multiaddr> {
        self.guests.get(&connection).filter(|guest| guest.is_inbound).map(|guest| &guest.address)
    }

    /// The network that the other end is in.
    pub(crate) fn group(&self, connection: ConnectionId) -> Option<Group> {
        self.guests.get(&connection).map(|guest| Group::of(&guest.address))
    }

    /// How many connections others opened, and how many this beacon.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.inbound, self.guests.len() - self.inbound)
    }

    /// How often a connection was refused or closed, by reason.
    pub(crate) fn refused(&self) -> &BTreeMap<&'static str, u64> {
        &self.refused
    }

    /// Forgets rates that nobody has used for a while; to be called every few minutes.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.rates.retain(|_, bucket| !bucket.is_full(now));
    }

    fn refuse(&mut self, reason: &'static str) -> ConnectionDenied {
        *self.refused.entry(reason).or_default() += 1;
        ConnectionDenied::new(Refused(reason))
    }

    fn may_knock(&mut self, group: Group, now: Instant) -> Result<(), &'static str> {
        if self.is_short && self.most() >= MANY && !self.may_take_a_place(group) {
            return Err("memory");
        }
        let free = PENDING_MAX.saturating_sub(self.pending.len());
        let has = self.pending_groups.get(&group).copied().unwrap_or(0);
        if has >= free.div_ceil(PENDING_SHARE) {
            return Err("pending");
        }
        if self.rates.len() >= RATES_MAX && !self.rates.contains_key(&group) {
            self.sweep(now);
            if self.rates.len() >= RATES_MAX {
                return Err("rate");
            }
        }
        let bucket = self.rates.entry(group).or_insert_with(|| Bucket::new(CONNECT_RATE));
        if bucket.take(now) { Ok(()) } else { Err("rate") }
    }

    fn knock(&mut self, connection: ConnectionId, group: Group) {
        self.pending.insert(connection, group);
        *self.pending_groups.entry(group).or_default() += 1;
    }

    fn on_known(&mut self, connection: ConnectionId) {
        if let Some(group) = self.pending.remove(&connection) {
            less(&mut self.pending_groups, &group);
        }
    }

    fn may_enter(&mut self, peer: PeerId, address: &Multiaddr) -> Result<(), &'static str> {
        if self.peers.get(&peer).is_some_and(|count| *count >= PEER_MAX) {
            return Err("peer");
        }
        let group = Group::of(address);
        let of_group = self.groups.get(&group).map_or(0, BTreeSet::len);
        if let Some(ip) = ip_of(address) {
            if self.addresses.get(&ip).is_some_and(|count| *count >= ADDRESS_MAX) {
                return Err("address");
            }
            if of_group >= self.bounds.group {
                return Err("network");
            }
        }
        if self.inbound < self.bounds.connections && (!self.is_short || self.most() < MANY) {
            return Ok(());
        }
        if !self.may_take_a_place(group) {
            return Err("full");
        }
        self.close_youngest_of_fullest("gave_way");
        Ok(())
    }

    /// Says whether another network has so many that one more of `group` may take the place of one of it.
    fn may_take_a_place(&self, group: Group) -> bool {
        self.most() > self.groups.get(&group).map_or(0, BTreeSet::len) + 1
    }

    /// How many the network has that has most.
    fn most(&self) -> usize {
        self.groups.values().map(BTreeSet::len).max().unwrap_or(0)
    }

    fn close_youngest_of_fullest(&mut self, reason: &'static str) {
        let fullest = self.groups.values().max_by_key(|connections| connections.len());
        // Numbers of connections only grow: the highest came last.
        let Some(youngest) = fullest.and_then(BTreeSet::last).copied() else { return };
        if let Some(guest) = self.leave(youngest) {
            self.close.push_back((guest.peer, youngest));
            *self.refused.entry(reason).or_default() += 1;
        }
    }

    fn enter(&mut self, connection: ConnectionId, guest: Guest) {
        if guest.is_inbound {
            self.inbound += 1;
            self.groups.entry(Group::of(&guest.address)).or_default().insert(connection);
            *self.peers.entry(guest.peer).or_default() += 1;
            if let Some(ip) = ip_of(&guest.address) {
                *self.addresses.entry(ip).or_default() += 1;
            }
        }
        self.guests.insert(connection, guest);
    }

    fn leave(&mut self, connection: ConnectionId) -> Option<Guest> {
        let guest = self.guests.remove(&connection)?;
        if guest.is_inbound {
            self.inbound -= 1;
            let group = Group::of(&guest.address);
            if let Some(connections) = self.groups.get_mut(&group) {
                connections.remove(&connection);
                if connections.is_empty() {
                    self.groups.remove(&group);
                }
            }
            less(&mut self.peers, &guest.peer);
            if let Some(ip) = ip_of(&guest.address) {
                less(&mut self.addresses, &ip);
            }
        }
        Some(guest)
    }
}

/// Counts one less; a count of zero is none.
fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl NetworkBehaviour for Door {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let group = Group::of(remote);
        self.may_knock(group, Instant::now()).map_err(|reason| self.refuse(reason))?;
        self.knock(connection, group);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.on_known(connection);
        self.may_enter(peer, remote).map_err(|reason| self.refuse(reason))?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if self.guests.len() - self.inbound >= OUTBOUND_MAX {
            return Err(self.refuse("outbound"));
        }
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            }) => {
                let address = endpoint.get_remote_address().clone();
                let guest = Guest { peer: peer_id, address, is_inbound: endpoint.is_listener() };
                self.enter(connection_id, guest);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                self.leave(connection_id);
            }
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.on_known(connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.close.pop_front() {
            Some((peer_id, connection)) => Poll::Ready(ToSwarm::CloseConnection {
                peer_id,
                connection: CloseConnection::One(connection),
            }),
            // Whatever fills the queue is an event of the swarm, which polls after it; `shed` is followed by a poll too.
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests;
