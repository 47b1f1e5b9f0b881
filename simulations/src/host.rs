//! An engine with a place in the network: its forwarder, its disk, and the order in which its doors are driven.
//!
//! The order is that of [`Engine`]: one input; then every output until `None`; then `poll_timeout`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use protocol::drop::DropReason;
use protocol::engine::{Command, Config, Engine, Event, Time, Transmit};
use protocol::forward::{Egress, Forwarder, Inbound, Offload, Outbound};
use protocol::identity::{DeviceId, SigningSecret, StaticSecret, VpiId};
use protocol::membership::join::{Joiner, Question};
use protocol::membership::token::Token;
use protocol::path::Remote;
use protocol::wire::hello::Suites;

use crate::chance::Chance;
use crate::clock::Clock;
use crate::disk::{Disk, Write};

/// The /16 of every host's aliases.
const PREFIX: Ipv4Addr = Ipv4Addr::new(127, 80, 0, 0);
/// A link without applications is not renewed after this long.
const IDLE_AFTER: Duration = Duration::from_secs(300);

/// The ports of sockets beside the own one, from here on.
const SIDE_PORTS: u16 = 50_000;

/// Wall clocks differ by less than this, unless a story sets them: what a freshly started node answers after it ran
/// that long.
const MAX_AHEAD: Duration = Duration::from_millis(1_000);

/// One machine: what outlives a crash, and the node that runs or does not.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) device: SigningSecret,
    /// The static key that was made last, and those before it; on disk from the start.
    pub(crate) static_secret: StaticSecret,
    pub(crate) former_statics: Vec<StaticSecret>,
    pub(crate) address: SocketAddr,
    /// Its address on the near network, if it is on it.
    pub(crate) near: Option<SocketAddr>,
    /// Its sockets beside the own one.
    pub(crate) sides: BTreeSet<u32>,
    pub(crate) rekey_after: Duration,
    pub(crate) suites: Suites,
    pub(crate) clock: Clock,
    /// Since when it sleeps, in true time, and how: no timer, no datagram, no application.
    pub(crate) asleep: Option<Sleep>,
    /// The site at which it stands; without one it is on the internet itself.
    pub(crate) site: Option<usize>,
    /// It is on the network on which announcements are heard.
    pub(crate) is_on_lan: bool,
    /// The founder's root key.
    pub(crate) root: Option<SigningSecret>,
    /// It was removed, or left: it is none of those who agree.
    pub(crate) is_out: bool,
    pub(crate) disk: Disk,
    /// Counts starts, so that what a former process asked of the disk is not told to a later one.
    pub(crate) boot: u64,
    pub(crate) node: Option<Node>,
}

/// How a machine sleeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sleep {
    /// Since when, in true time.
    pub(crate) since: Duration,
    /// Whether its monotonic clock goes on meanwhile.
    pub(crate) clock_goes_on: bool,
}

/// A running node.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    forwarder: Forwarder,
    /// When the engine wants to be woken, and why.
    pub(crate) timeout: Option<(Instant, &'static str)>,
}

/// What may come to a node.
pub(crate) enum Input {
    Datagram {
        from: Remote,
        bytes: Vec<u8>,
    },
    /// What came to the multicast group's port.
    Announcement {
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    Packet(Vec<u8>),
    Command(Command),
    Timeout,
    /// The process began; nothing came yet.
    Start,
}

/// What a node did with an input.
#[derive(Default)]
pub(crate) struct Outputs {
    pub(crate) transmits: Vec<Transmit>,
    pub(crate) packets: Vec<Vec<u8>>,
    pub(crate) events: Vec<Event>,
    /// Why the input, or what waited, was dropped.
    pub(crate) dropped: Vec<DropReason>,
}

impl Host {
    /// A machine with keys of its own, and nothing else.
    pub(crate) fn new(name: String, address: SocketAddr, rekey_after: Duration, chance: &mut Chance) -> Self {
        Self {
            name,
            device: SigningSecret::from_seed(&chance.bytes()),
            static_secret: StaticSecret::from_bytes(chance.bytes()),
            former_statics: Vec::new(),
            address,
            near: None,
            sides: BTreeSet::new(),
            rekey_after,
            suites: *chance.pick(&[Suites::CHACHA, Suites::BOTH]),
            clock: Clock::off_by(chance.between(Duration::ZERO, MAX_AHEAD).as_millis() as i64),
            asleep: None,
            site: None,
            is_on_lan: false,
            root: None,
            is_out: false,
            disk: Disk::default(),
            boot: 0,
            node: None,
        }
    }

    /// Its node runs, and the machine is awake.
    pub(crate) fn is_awake(&self) -> bool {
        self.node.is_some() && self.asleep.is_none()
    }

    /// Where its node says that it is, the best first.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.near.into_iter().chain([self.address]).collect()
    }

    /// The address of one of its sockets.
    pub(crate) fn socket(&self, side: Option<u32>) -> SocketAddr {
        // Numbers are given one after the other, and few are open at once.
        let port = side.map_or(self.address.port(), |side| SIDE_PORTS + (side % 10_000) as u16);
        SocketAddr::new(self.address.ip(), port)
    }

    /// The far end of a datagram from `from` that came to `to`, if that is a socket of this host.
    pub(crate) fn heard_at(&self, to: SocketAddr, from: SocketAddr) -> Option<Remote> {
        if self.addresses().contains(&to) {
            return Some(Remote::Udp(from));
        }
        let socket = self.sides.iter().find(|side| self.socket(Some(**side)) == to)?;
        Some(Remote::Side { address: from, socket: *socket })
    }

    /// The device's key, by which members know it.
    pub(crate) fn id(&self) -> DeviceId {
        self.device.public()
    }

    /// Writes the question of `token`, in its text form, to disk, as `vpi join` does before it starts the engine.
    pub(crate) fn take_token(
        &mut self,
        text: &str,
        wall_secs: u64,
        chance: &mut Chance,
    ) -> Result<(), String> {
        let token = Token::parse(text).map_err(|error| error.to_string())?;
        let joiner = Joiner {
            device: &self.device,
            static_key: self.static_secret.public(),
            name: &self.name,
            nonce: chance.bytes(),
            wall_secs,
        };
        let question = Question::ask(&token, &joiner).map_err(|error| error.to_string())?;
        self.disk.vpi = Some(*token.vpi());
        self.disk.joining = Some((text.to_owned(), question.encode()));
        Ok(())
    }

    /// Starts the node from what is on disk.
    pub(crate) fn start(&mut self, time: Time, chance: &mut Chance) -> Result<(), String> {
        let vpi = self.disk.vpi.ok_or("started without a VPI")?;
        self.boot += 1;
        let config = self.config(vpi, chance);
        let engine = match &self.disk.joining {
            Some((text, question)) if !self.disk.is_member => {
                let token = Token::parse(text).map_err(|error| error.to_string())?;
                let question = Question::decode(&vpi, question).map_err(|reason| reason.to_string())?;
                Engine::joining(config, &token, question, time)
            }
            _ => Engine::member(config, self.disk.objects.clone(), self.disk.epochs.clone(), time),
        };
        let engine = engine.map_err(|error| error.to_string())?;
        let forwarder = Forwarder::new(engine.own_alias());
        self.node = Some(Node { engine, forwarder, timeout: None });
        Ok(())
    }

    fn config(&self, vpi: VpiId, chance: &mut Chance) -> Config {
        Config {
            vpi,
            device: self.device.clone(),
            static_secret: self.static_secret.clone(),
            suites: self.suites,
            rekey_after: self.rekey_after,
            idle_after: IDLE_AFTER,
            prefix: PREFIX,
            pins: self.disk.pins.clone(),
            seed: chance.bytes(),
        }
    }

    /// What a node that has just started tells its engine: its former keys, where members are and this machine is, and
    /// to reach those that were reached before.
    pub(crate) fn start_commands(&self) -> Vec<Command> {
        let remembered = || self.disk.remembered.iter();
        let remember = remembered().map(|(device, address)| Command::Remember(*device, *address));
        let presences = self.disk.presences.values().cloned().map(Command::Presence);
        let addresses = [Command::Announce(self.is_on_lan), Command::Addresses(self.addresses())];
        let statics = self.former_statics.iter().cloned().map(Command::Static);
        let connect = remembered().map(|(device, _)| Command::Connect(*device));
        statics.chain(remember).chain(presences).chain(addresses).chain(connect).collect()
    }

    /// The device whose alias this is, as this host's file of aliases says.
    pub(crate) fn device_at(&self, alias: Ipv4Addr) -> Option<DeviceId> {
        let [_, _, c, d] = alias.octets();
        let suffix = u16::from_be_bytes([c, d]);
        self.disk.pins.iter().find(|pin| pin.suffix == suffix).map(|pin| pin.device)
    }

    /// This host's alias for `device`.
    pub(crate) fn alias_of(&self, device: &DeviceId) -> Option<Ipv4Addr> {
        let pin = self.disk.pins.iter().find(|pin| pin.device == *device)?;
        let [a, b, _, _] = PREFIX.octets();
        let [c, d] = pin.suffix.to_be_bytes();
        Some(Ipv4Addr::new(a, b, c, d))
    }

    /// Who belongs, as this host sees it: the epoch, and every member by name.
    pub(crate) fn view(&self, now: Instant) -> Option<(u64, BTreeMap<String, DeviceId>)> {
        let engine = &self.node.as_ref()?.engine;
        let members = engine.names().map(|(device, name)| (name.to_owned(), device)).collect();
        Some((engine.status(now).epoch, members))
    }
}

impl Node {
    /// Whether `device` is a member in this node's eyes.
    pub(crate) fn is_member(&self, device: &DeviceId) -> bool {
        self.engine.names().any(|(member, _)| member == *device)
    }

    /// Takes in one input and drains every output.
    pub(crate) fn handle(&mut self, input: Input, time: Time) -> Outputs {
        let mut outputs = Outputs::default();
        match input {
            Input::Datagram { from, mut bytes } => self.datagram(from, &mut bytes, &mut outputs, time),
            Input::Announcement { from, bytes } => {
                outputs.dropped.extend(self.engine.handle_announcement(from, &bytes, time).err());
            }
            Input::Packet(packet) => self.packet(packet, &mut outputs, time),
            Input::Command(command) => self.engine.handle_command(command, time),
            Input::Timeout => self.engine.handle_timeout(time),
            Input::Start => {}
        }
        self.drain(&mut outputs, time);
        self.timeout = self.engine.poll_timeout();
        outputs
    }

    fn datagram(&mut self, from: Remote, bytes: &mut [u8], outputs: &mut Outputs, time: Time) {
        let inbound = match from {
            Remote::Circuit(_) | Remote::Carried(_) => self.forwarder.passed_on(from, bytes, time.now),
            Remote::Udp(_) | Remote::Side { .. } | Remote::Relayed { .. } => {
                self.forwarder.inbound(from, bytes, time.now)
            }
        };
        let verdict = match inbound {
            Inbound::Packet(packet) => {
                outputs.packets.push(packet.to_vec());
                Ok(())
            }
            Inbound::Message { index, from, bytes } => {
                // The forwarder's notes go first: the message may be the first of its session.
                let message = bytes.to_vec();
                self.drain(outputs, time);
                self.engine.handle_message((index, from), &message, time)
            }
            Inbound::Veiled { from, bytes } => self.engine.handle_datagram(from, bytes, time),
            Inbound::Stun { from, bytes } => self.engine.handle_stun(from, bytes, time),
            Inbound::PassOn { to, bytes } => {
                outputs.transmits.push(Transmit { to: to.into(), datagram: bytes.to_vec() });
                Ok(())
            }
            Inbound::Keepalive => Ok(()),
            Inbound::Drop(reason) => Err(reason),
        };
        outputs.dropped.extend(verdict.err());
    }

    fn packet(&mut self, mut packet: Vec<u8>, outputs: &mut Outputs, time: Time) {
        let mut datagrams = Datagrams { transmits: &mut outputs.transmits, side: None };
        match self.forwarder.outbound(&mut packet, Offload::default(), &mut datagrams, time.now) {
            Outbound::Sent => {}
            Outbound::Hold => self.engine.handle_packet(packet, time),
            Outbound::TooLarge(error) => outputs.packets.push(error.to_vec()),
            Outbound::Drop(reason) => outputs.dropped.push(reason),
        }
    }

    fn drain(&mut self, outputs: &mut Outputs, time: Time) {
        loop {
            let before = (outputs.transmits.len(), outputs.packets.len(), outputs.events.len());
            let mut moved = false;
            let mut datagrams = Datagrams { transmits: &mut outputs.transmits, side: None };
            self.forwarder.send_refusals(&mut datagrams);
            while let Some(note) = self.forwarder.poll_note() {
                self.engine.handle_note(note, time);
                moved = true;
            }
            while let Some(update) = self.engine.poll_update() {
                self.forwarder.apply(update);
                moved = true;
            }
            outputs.packets.extend(std::iter::from_fn(|| self.engine.poll_packet()));
            outputs.transmits.extend(std::iter::from_fn(|| self.engine.poll_transmit()));
            outputs.events.extend(std::iter::from_fn(|| self.engine.poll_event()));
            if !moved && before == (outputs.transmits.len(), outputs.packets.len(), outputs.events.len()) {
                return;
            }
        }
    }
}

/// Sealed datagrams, collected.
struct Datagrams<'t> {
    transmits: &'t mut Vec<Transmit>,
    side: Option<u32>,
}

impl Egress for Datagrams<'_> {
    fn leave_by(&mut self, side: Option<u32>) {
        self.side = side;
    }

    fn datagram(&mut self, to: SocketAddr, bytes: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let mut datagram = vec![0; bytes];
        let filled = fill(&mut datagram);
        if filled {
            let to = self.side.map_or(Remote::Udp(to), |socket| Remote::Side { address: to, socket });
            self.transmits.push(Transmit { to, datagram });
        }
        filled
    }

    fn carried(&mut self, number: u32, bytes: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let mut datagram = vec![0; bytes];
        let filled = fill(&mut datagram);
        if filled {
            self.transmits.push(Transmit { to: Remote::Carried(number), datagram });
        }
        filled
    }
}

impl Host {
    /// The node dies; of what was under way the disk keeps the first `survivors` records.
    pub(crate) fn crash(&mut self, survivors: usize) {
        self.node = None;
        self.sides.clear();
        self.disk.tear(survivors);
    }

    /// Queues what an event asks the disk to keep.
    pub(crate) fn write(&mut self, write: Write) {
        self.disk.under_way.push_back(write);
    }
}
