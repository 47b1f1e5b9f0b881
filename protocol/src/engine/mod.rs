//! One VPI's whole slow-path state, and the only doors in and out.
//!
//! ```text
//!           in                              out
//! TUN       handle_packet                   poll_packet
//! UDP       handle_datagram, _message, _stun  poll_transmit
//! LAN       handle_announcement             poll_event
//! machine   handle_command                  poll_event
//! forwarder handle_note                     poll_update
//! clock     handle_timeout                  poll_timeout
//! ```
//!
//! **The order**, for every driver: one input; then every output until `None`; then [`Engine::poll_timeout`]. Packets of
//! a running session do not come here: the [`crate::forward::Forwarder`] moves them, told by [`Engine::poll_update`].
//!
//! Nothing is acknowledged before it is on disk: what must be stored leaves as [`Event::Store`], and whatever waits
//! for it goes on at [`Command::Stored`].

mod admin;
mod arriving;
mod bulletins;
mod bursts;
mod candidates;
mod carrying;
mod circuits;
mod clocks;
mod command;
mod control;
mod duty;
mod epochs;
mod finding;
mod handshake;
mod inbound;
mod joining;
mod keeping;
mod lan;
mod lobbies;
mod loose;
mod news;
mod outbound;
mod outbox;
mod peer;
mod portmap;
mod presence;
mod proof;
mod reach;
mod relaying;
mod roster;
mod spread;
mod statics;
mod status;
mod trail;
mod upkeep;
mod witness;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_core::SeedableRng as _;

use crate::alias::{AliasTable, Pin, PinError};
use crate::bucket::{Bucket, Rate};
use crate::drop::DropReason;
use crate::filter::Reach;
use crate::forward::{Note, Traffic, Update};
use crate::gate::Gate;
use crate::identity::{DeviceId, SigningSecret, StaticSecret, VpiId};
use crate::membership::epoch::EpochSecret;
use crate::membership::join::Question;
use crate::membership::object::Object;
use crate::membership::token::Token;
use crate::path::Remote;
use crate::path::keepalive::Keepalive;
use crate::path::portmap::PortMap;
use crate::random::Rng;
use crate::wire::hello::Suites;

pub use bursts::Leave;
pub use candidates::Surroundings;
pub use carrying::CarryEnd;
pub use command::{Command, InviteRequest, Removal};
pub use outbox::{Event, JoinFailure, Ticket, Transmit};
pub use status::{Counters, InviteStatus, MemberState, MemberStatus, Status};
pub use trail::{LookedUp, Step, WayTo};

use admin::Leaving;
use arriving::Arriving;
use bulletins::Bulletins;
use bursts::Bursts;
use candidates::Candidates;
use clocks::Clocks;
use duty::Duty;
use finding::Finding;
use joining::Joining;
use lan::Lan;
use outbox::Outbox;
use peer::Peer;
use relaying::Relaying;
use roster::Roster;
use spread::Spread;
use upkeep::Upkeep;

/// Strangers whose proofs are looked at: each costs signatures and a run of the reducer.
const TRIALS: Rate = Rate { per_second: 2.0, burst: 8.0 };

/// Both clocks, read once for each input.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// The monotonic clock: judges everything that lasts.
    pub now: Instant,
    /// The wall clock in milliseconds since 1970: judges only a veil's age and an invite's end.
    pub wall_ms: u64,
}

impl Time {
    fn wall_secs(self) -> u64 {
        self.wall_ms / 1_000
    }
}

/// What an engine is made of.
pub struct Config {
    /// The VPI.
    pub vpi: VpiId,
    /// The device's key.
    pub device: SigningSecret,
    /// The key of its handshakes.
    pub static_secret: StaticSecret,
    /// AEAD suites that this machine is willing to use.
    pub suites: Suites,
    /// The age at which a session in use is renewed.
    pub rekey_after: Duration,
    /// A link that no application used for this long is not renewed.
    pub idle_after: Duration,
    /// The /16 of this machine's aliases.
    pub prefix: Ipv4Addr,
    /// The aliases given so far.
    pub pins: Vec<Pin>,
    /// The seed of all randomness.
    pub seed: [u8; 32],
}

/// One VPI, as one node sees it.
pub struct Engine {
    config: Config,
    rng: Rng,
    gate: Gate,
    roster: Roster,
    aliases: AliasTable,
    joining: Option<Joining>,
    /// What members may reach on this machine.
    reach: Reach,
    peers: BTreeMap<DeviceId, Peer>,
    /// The member behind each receiver index of ours, handshakes under way included.
    indices: BTreeMap<u32, DeviceId>,
    next_link: u32,
    storing: witness::Storing,
    let_in: witness::LetIn,
    /// Since the start, this node has got all objects that it did not have of another member that knows what this device
    /// signed: its own are not older than what that one knows.
    has_settled: bool,
    /// At the start no other member was known who could know more.
    began_alone: bool,
    /// Its own history may be older than it once was: the disk says so, or a member had what this device signed.
    went_back: bool,
    counters: Counters,
    lan: Lan,
    /// Others have removed this device, or it left: it is silent.
    is_removed: bool,
    /// The addresses of this machine, once they are known.
    addresses: Option<Vec<SocketAddr>>,
    candidates: Candidates,
    portmap: PortMap,
    bursts: Bursts,
    keepalive: Keepalive,
    finding: Finding,
    bulletins: Bulletins,
    /// The number of the next own pipe.
    next_circuit: u32,
    relaying: Relaying,
    spread: Option<Spread>,
    upkeep: Upkeep,
    /// When an Epoch was last heard of.
    epoch_at: Option<Instant>,
    duty: Duty,
    clocks: Clocks,
    /// When a device that has just become a member tells where it is.
    publish_at: Option<Instant>,
    former_statics: Vec<StaticSecret>,
    leaving: Option<Leaving>,
    trials: Bucket,
    arriving: Arriving,
    out: Outbox,
}

impl Engine {
    /// An engine of a member, from what it stored: `objects` in any order, `epochs` the secrets it holds.
    ///
    /// # Errors
    /// If the pins contradict each other.
    pub fn member(
        config: Config,
        objects: impl IntoIterator<Item = Object>,
        epochs: impl IntoIterator<Item = EpochSecret>,
        time: Time,
    ) -> Result<Self, PinError> {
        let roster = Roster::new(config.vpi, objects, epochs);
        let mut engine = Self::new(config, roster, None, time)?;
        engine.on_membership(time);
        engine.began_alone = engine.peers.is_empty();
        engine.end_epochs();
        engine.keep_up(time);
        Ok(engine)
    }

    /// An engine of a device that holds an invite's `token` and asks to join with `question`, which must be on disk
    /// already: every retry, by whichever process, asks the same.
    ///
    /// # Errors
    /// If the pins contradict each other.
    pub fn joining(config: Config, token: &Token, question: Question, time: Time) -> Result<Self, PinError> {
        let roster = Roster::new(config.vpi, [], []);
        let joining = Joining::new(token, question, time.now);
        Self::new(config, roster, Some(joining), time)
    }

    fn new(config: Config, roster: Roster, joining: Option<Joining>, time: Time) -> Result<Self, PinError> {
        let pins = config.pins.iter().copied();
        let aliases = AliasTable::new(config.vpi, config.prefix, config.device.public(), pins)?;
        let mut rng = Rng::from_seed(config.seed);
        Ok(Self {
            candidates: Candidates::new(&mut rng),
            portmap: portmap::of(&config),
            rng,
            gate: Gate::new(time.now),
            roster,
            aliases,
            joining,
            reach: Reach::default(),
            peers: BTreeMap::new(),
            indices: BTreeMap::new(),
            next_link: 0,
            storing: witness::Storing::default(),
            let_in: witness::LetIn::default(),
            has_settled: false,
            began_alone: false,
            went_back: false,
            counters: Counters::default(),
            lan: Lan::default(),
            is_removed: false,
            addresses: None,
            bursts: Bursts::default(),
            keepalive: Keepalive::default(),
            finding: Finding::new(config.vpi),
            bulletins: Bulletins::default(),
            next_circuit: 0,
            relaying: Relaying::default(),
            spread: None,
            upkeep: Upkeep::default(),
            epoch_at: None,
            duty: Duty::default(),
            clocks: Clocks::default(),
            publish_at: None,
            former_statics: Vec::new(),
            leaving: None,
            trials: Bucket::new(TRIALS),
            arriving: Arriving::default(),
            out: Outbox::default(),
            config,
        })
    }

    /// The VPI.
    #[must_use]
    pub fn vpi(&self) -> VpiId {
        self.config.vpi
    }

    /// The own alias.
    #[must_use]
    pub fn own_alias(&self) -> Ipv4Addr {
        self.aliases.own()
    }

    /// All aliases given so far, for the file that keeps them.
    pub fn pins(&self) -> impl Iterator<Item = Pin> + '_ {
        self.aliases.pins()
    }

    /// Takes in a packet for which the forwarder has no session: holds it and wakes the link.
    pub fn handle_packet(&mut self, packet: Vec<u8>, time: Time) {
        self.hold(packet, time);
    }

    /// Takes in a veiled datagram.
    ///
    /// # Errors
    /// The reason for silence.
    pub fn handle_datagram(&mut self, from: Remote, datagram: &[u8], time: Time) -> Result<(), DropReason> {
        self.on_veiled(from, datagram, time)
    }

    /// Takes in a datagram from the LAN socket: an announcement, or nothing.
    ///
    /// # Errors
    /// The reason for silence.
    pub fn handle_announcement(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        time: Time,
    ) -> Result<(), DropReason> {
        self.on_announcement(from, datagram, time)
    }

    /// Takes in an in-session message that opened with the session at receiver index `index`.
    ///
    /// # Errors
    /// The reason for silence.
    pub fn handle_message(
        &mut self,
        (index, from): (u32, Remote),
        message: &[u8],
        time: Time,
    ) -> Result<(), DropReason> {
        self.on_message((index, from), message, time)
    }

    /// Takes in what the forwarder saw.
    pub fn handle_note(&mut self, note: Note, time: Time) {
        self.on_note(note, time);
    }

    /// Takes in a wish of this machine's.
    pub fn handle_command(&mut self, command: Command, time: Time) {
        self.on_command(command, time);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, time: Time) {
        if self.joining.is_some() {
            self.ask_to_join(time);
        }
        self.announce_due(time);
        let devices: Vec<DeviceId> = self.peers.keys().copied().collect();
        for device in devices {
            self.on_peer_timeout(&device, time);
        }
        self.on_arrived(time);
        if self.is_member() {
            self.spread_on(time);
            self.keep_up(time);
            self.stun_due(time);
            self.portmap_due(time);
            self.burst_due(time);
            self.find(time);
            self.do_bulletins(time);
            self.circuits_due(time);
            self.do_duty(time);
            if self.publish_at.take_if(|at| time.now >= *at).is_some() {
                self.publish(time);
            }
            self.leave_in_time(time);
        }
    }

    /// When [`Engine::handle_timeout`] is to be called, and why; `None`: not until something arrives.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let joining = self.joining.as_ref().map(|joining| (joining.ask_at(), "join"));
        let is_member = self.is_member();
        let own = [
            (self.spread_at(), "spread"),
            (self.upkeep_at(), "upkeep"),
            (self.duty_at(), "duty"),
            (self.publish_at, "presence"),
            (self.candidates.poll_timeout(), "stun"),
            (self.portmap.poll_timeout(), "port mapping"),
            (self.bursts.poll_timeout(), "burst"),
            (self.finding.poll_timeout(), "dht"),
            (self.bulletins.poll_timeout(), "bulletins"),
            (self.relaying.circuits.poll_timeout(), "relay"),
            (self.leaving_at(), "leaving"),
        ];
        let arriving = self.arriving.poll_timeout().map(|at| (at, "objects"));
        let own = own.into_iter().filter_map(|(at, why)| Some((at.filter(|_| is_member)?, why)));
        self.peers
            .iter()
            .filter_map(|(device, peer)| peer.poll_timeout(is_member && self.has_secrets_of(device)))
            .chain(own)
            .chain(arriving)
            .chain(joining)
            .chain(self.lan.poll_timeout())
            .min()
    }

    /// Says whether this device is a member in its own eyes: not while it joins, nor once it was removed or left.
    #[must_use]
    pub fn belongs(&self) -> bool {
        self.is_member()
    }

    /// The beacons over which other members say that they are met, as multiaddresses: anything that a member may write.
    pub fn beacons(&self) -> impl Iterator<Item = &str> {
        let presences = self.peers.keys().filter_map(|device| self.roster.objects().presence_of(device));
        presences.filter_map(|(_, presence)| Some(presence.beacon.as_ref()?.0.as_str()))
    }

    /// Says whether this device is a member in its own eyes.
    fn is_member(&self) -> bool {
        self.joining.is_none() && !self.is_removed
    }

    /// The next packet for an application.
    pub fn poll_packet(&mut self) -> Option<Vec<u8>> {
        self.out.packets.pop_front()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.transmits.pop_front()
    }

    /// The next change for the forwarder.
    pub fn poll_update(&mut self) -> Option<Update> {
        self.out.updates.pop_front().or_else(|| self.poll_veils())
    }

    /// The next thing for this machine to do or to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.events.pop_front()
    }

    /// Brings peers and aliases in line with who belongs.
    fn on_membership(&mut self, time: Time) {
        let own = self.config.device.public();
        if self.joining.is_some() || self.is_removed {
            return;
        }
        if self.roster.membership().is_removed(&own) {
            return self.on_removed(time);
        }
        let members: Vec<_> = self
            .roster
            .membership()
            .members()
            .filter(|member| member.device != own)
            .map(|member| (member.device, member.static_key))
            .collect();
        let mut pinned = false;
        for (device, static_key) in members {
            match self.aliases.assign(device) {
                Ok(assigned) => {
                    pinned |= assigned.new;
                    self.add_peer(device, static_key, Some(assigned.alias));
                    self.recall_presence(&device);
                }
                Err(_) => self.out.events.push_back(Event::Dropped(DropReason::ObjectBound)),
            }
        }
        pinned |= self.aliases.assign(own).is_ok_and(|assigned| assigned.new);
        if pinned {
            self.out.events.push_back(Event::Pinned);
        }
        let gone: Vec<_> = self
            .peers
            .keys()
            .filter(|device| self.roster.membership().member(device).is_none())
            .copied()
            .collect();
        for device in gone {
            self.tell_removed(&device, time);
            self.remove_peer(&device, time);
        }
        self.choose_static();
        self.watch_duty(time);
        self.finding.on_membership();
    }

    /// Others have removed this device, or its own word of leaving came back.
    fn on_removed(&mut self, time: Time) {
        self.fall_silent(time);
        self.out.events.push_back(Event::Removed);
        // Whoever waits for the farewell is answered: there is nobody left to tell.
        self.end_farewell(time);
    }

    /// From here on this device has no peers and says nothing: it was removed, or left.
    fn fall_silent(&mut self, time: Time) {
        self.end_portmap(time);
        self.is_removed = true;
        let devices: Vec<DeviceId> = self.peers.keys().copied().collect();
        for device in devices {
            self.remove_peer(&device, time);
        }
    }

    /// Makes sure that there is a peer for `device`, with this static key and alias.
    fn add_peer(
        &mut self,
        device: DeviceId,
        static_key: Option<crate::identity::StaticKey>,
        alias: Option<Ipv4Addr>,
    ) {
        let is_lower = self.config.device.public() < device;
        let peer = self.peers.entry(device).or_insert_with(|| {
            self.next_link += 1;
            Peer::new(self.next_link, is_lower)
        });
        if peer.set_identity(static_key, alias) {
            let traffic = Arc::clone(&peer.traffic);
            self.out.updates.push_back(Update::Link { link: peer.link, alias, traffic });
            self.share_reach(&device);
        }
    }

    /// Forgets a device that is no member any more, with its sessions, keys and packets, in this very step.
    fn remove_peer(&mut self, device: &DeviceId, time: Time) {
        self.close_circuits(device, time);
        if let Some(peer) = self.peers.remove(device) {
            self.forget_legs(&peer.relays);
            self.out.events.extend(peer.carrying.number().map(Event::CloseCarry));
            if peer.path.remote().is_some() {
                self.out.events.push_back(Event::Link { device: *device, is_up: false });
            }
            self.indices.retain(|_, holder| holder != device);
            self.out.updates.push_back(Update::Unlink { link: peer.link });
            self.aliases.retire(device, time.wall_secs());
            self.sweep_sockets();
            self.out.events.push_back(Event::Pinned);
        }
        self.lose_legs_by(device, time);
    }

    /// The link's peer.
    fn peer_at_link(&self, link: u32) -> Option<DeviceId> {
        self.peers.iter().find(|(_, peer)| peer.link == link).map(|(device, _)| *device)
    }

    /// What one link carried.
    #[must_use]
    pub fn traffic(&self, device: &DeviceId) -> Option<&Traffic> {
        self.peers.get(device).map(|peer| &*peer.traffic)
    }
}
