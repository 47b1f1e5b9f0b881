//! A few engines with their forwarders, joined by a wire that loses nothing, in time that only the test moves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::discovery::record;
use protocol::drop::DropReason;
use protocol::engine::{Command, Config, Engine, Event, InviteRequest, Time, Transmit};
use protocol::forward::{Egress, Forwarder, Inbound, Offload, Outbound, Update};
use protocol::identity::{DeviceId, Secret, SigningSecret, StaticSecret, VpiId};
use protocol::membership::admin::AdminError;
use protocol::membership::epoch::EpochSecret;
use protocol::membership::founding::{Founding, InviteWish, found};
use protocol::membership::join::{Joiner, Question};
use protocol::membership::object::Object;
use protocol::membership::token::Token;
use protocol::path::Remote;
use protocol::path::portmap::Ask;
use protocol::tunnel::Sealer;
use protocol::wire::hello::Suites;

/// Where the stranger is.
pub(crate) const STRANGER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(203, 0, 113, 66)), 666);

/// One node.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) device: SigningSecret,
    pub(crate) engine: Engine,
    pub(crate) forwarder: Forwarder,
    /// Packets that came out for applications.
    pub(crate) packets: Vec<Vec<u8>>,
    /// Everything that was to be stored.
    pub(crate) stored: Vec<Object>,
    pub(crate) dropped: Vec<DropReason>,
    pub(crate) is_joined: bool,
    /// Words of where a device is that it was to remember.
    pub(crate) presences: Vec<Object>,
    /// What it sent to the group of announcements.
    pub(crate) announced: Vec<Vec<u8>>,
    /// The latest sending halves, with where they send to.
    pub(crate) sealers: Vec<(SocketAddr, Arc<Sealer>)>,
    relayed_sealer: Option<Arc<Sealer>>,
    /// What its gateway was to be asked.
    pub(crate) asked: Vec<Ask>,
    /// What came of the last thing that it was to sign.
    pub(crate) signed: Option<Result<(), AdminError>>,
    token: Option<Box<Token>>,
}

/// A datagram on its way.
#[derive(Clone)]
pub(crate) struct Flight {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

/// All nodes, and the wire between them.
pub(crate) struct Lab {
    pub(crate) vpi: VpiId,
    pub(crate) nodes: Vec<Node>,
    pub(crate) wire: VecDeque<Flight>,
    /// Every datagram that was ever delivered.
    pub(crate) heard: Vec<Flight>,
    /// What beacons hold: the newest value of each key.
    pub(crate) dht: BTreeMap<[u8; 32], Vec<u8>>,
    /// Two nodes that do not hear each other.
    pub(crate) apart: Option<[usize; 2]>,
    /// Nodes whose machines sleep: they hear, say and do nothing.
    pub(crate) asleep: BTreeSet<usize>,
    start: Instant,
    passed: Duration,
}

impl Lab {
    /// A founder and `joiners` members who joined through it, all linked with it.
    pub(crate) fn new(joiners: u8) -> Self {
        let address = SocketAddr::from(([192, 0, 2, 1], 41_414));
        let (device, static_secret) = keys(1);
        let secret = Secret([9; 32]);
        let founded = found(&Founding {
            name: "home",
            device_name: "founder",
            root: &SigningSecret::from_seed(&[101; 32]),
            recovery: &SigningSecret::from_seed(&[102; 32]),
            device: &device,
            static_key: static_secret.public(),
            secret: &secret,
            nonce: [7; 16],
            wall_secs: WALL_MS / 1_000,
        })
        .unwrap();
        let mut lab = Self {
            vpi: founded.vpi,
            nodes: Vec::new(),
            wire: VecDeque::new(),
            heard: Vec::new(),
            dht: BTreeMap::new(),
            apart: None,
            asleep: BTreeSet::new(),
            start: Instant::now(),
            passed: Duration::ZERO,
        };
        let epoch = EpochSecret::new(founded.vpi, 0, secret);
        let config = config(founded.vpi, 1);
        let engine = Engine::member(config, founded.objects.clone(), [epoch], lab.time()).unwrap();
        lab.nodes.push(Node::new(address, device, engine));
        lab.nodes[0].stored.extend(founded.objects);
        // What is made in the first second of a process is not answered.
        lab.run(Duration::from_secs(1));
        for n in 0..joiners {
            lab.join(n + 2);
        }
        lab
    }

    /// The founder's process starts anew, from what it stored.
    pub(crate) fn restart_founder(&mut self) {
        let (address, stored) = (self.nodes[0].address, std::mem::take(&mut self.nodes[0].stored));
        let epoch = EpochSecret::new(self.vpi, 0, Secret([9; 32]));
        let engine = Engine::member(config(self.vpi, 1), stored.clone(), [epoch], self.time()).unwrap();
        self.nodes[0] = Node::new(address, keys(1).0, engine);
        self.nodes[0].stored = stored;
        self.run(Duration::from_secs(1));
    }

    /// Makes member `n`, from 2 on, the next node.
    pub(crate) fn join(&mut self, n: u8) {
        let wish = InviteWish { name: None, max_uses: 1, seconds: None, bound_device: None };
        let members = vec![self.nodes[0].address];
        let request = Box::new(InviteRequest { wish, members, beacons: Vec::new(), offline: true });
        self.command(0, Command::Invite(1, request));
        let token = self.nodes[0].token.take().unwrap();
        let (device, static_secret) = keys(n);
        let joiner = Joiner {
            device: &device,
            static_key: static_secret.public(),
            name: &format!("member-{n}"),
            nonce: [n; 16],
            wall_secs: self.time().wall_ms / 1_000,
        };
        let question = Question::ask(&token, &joiner).unwrap();
        let engine = Engine::joining(config(self.vpi, n), &token, question, self.time()).unwrap();
        self.nodes.push(Node::new(SocketAddr::from(([192, 0, 2, n], 41_414)), device, engine));
        self.run(Duration::from_secs(3));
        assert!(self.nodes[usize::from(n) - 1].is_joined, "member {n} joined");
    }

    /// Kills member `node` and starts it again on the objects that it stored, without a path to anybody.
    pub(crate) fn restart_forgetful(&mut self, node: usize) {
        let n = u8::try_from(node + 1).unwrap();
        let former = &self.nodes[node];
        let epoch = EpochSecret::new(self.vpi, 0, Secret([9; 32]));
        let engine =
            Engine::member(config(self.vpi, n), former.stored.clone(), [epoch], self.time()).unwrap();
        let stored = former.stored.clone();
        self.nodes[node] = Node { stored, ..Node::new(former.address, keys(n).0, engine) };
    }

    pub(crate) fn time(&self) -> Time {
        Time { now: self.start + self.passed, wall_ms: WALL_MS + self.passed.as_millis() as u64 }
    }

    pub(crate) fn id(&self, node: usize) -> DeviceId {
        self.nodes[node].device.public()
    }

    /// Gives a node a command, and drains it.
    pub(crate) fn command(&mut self, node: usize, command: Command) {
        let time = self.time();
        self.nodes[node].engine.handle_command(command, time);
        self.drain(node);
    }

    /// Gives a node a datagram, and drains it; returns what it said about it.
    pub(crate) fn datagram(&mut self, node: usize, from: SocketAddr, bytes: &[u8]) -> Option<DropReason> {
        let (time, mut bytes) = (self.time(), bytes.to_vec());
        let there = &mut self.nodes[node];
        let verdict = match there.forwarder.inbound(from, &mut bytes, time.now) {
            Inbound::Packet(packet) => {
                there.packets.push(packet.to_vec());
                Ok(())
            }
            Inbound::Message { index, from, bytes } => {
                // The forwarder's notes go first: the message may be the first of its session.
                let message = bytes.to_vec();
                self.drain(node);
                self.nodes[node].engine.handle_message((index, from), &message, time)
            }
            Inbound::Veiled { from, bytes } => there.engine.handle_datagram(from, bytes, time),
            Inbound::Stun { from, bytes } => there.engine.handle_stun(from, bytes, time),
            Inbound::PassOn { to, bytes } => {
                let from = there.address;
                self.wire.push_back(Flight { from, to, bytes: bytes.to_vec() });
                Ok(())
            }
            Inbound::Keepalive => Ok(()),
            Inbound::Drop(reason) => Err(reason),
        };
        self.drain(node);
        verdict.err()
    }

    /// Gives a node a datagram of the LAN socket, and drains it; returns what it said about it.
    pub(crate) fn announcement(&mut self, node: usize, from: SocketAddr, bytes: &[u8]) -> Option<DropReason> {
        let time = self.time();
        let verdict = self.nodes[node].engine.handle_announcement(from, bytes, time);
        self.drain(node);
        verdict.err()
    }

    /// Gives a node a packet of an application.
    pub(crate) fn packet(&mut self, node: usize, mut packet: Vec<u8>) {
        let (time, mut sent) = (self.time(), Vec::new());
        let there = &mut self.nodes[node];
        if there.forwarder.outbound(&mut packet, Offload::default(), &mut Datagrams(&mut sent), time.now)
            == Outbound::Hold
        {
            there.engine.handle_packet(packet, time);
        }
        let from = there.address;
        let sent = sent.into_iter().filter_map(|sent| Some((sent.to.udp()?, sent.datagram)));
        self.wire.extend(sent.map(|(to, bytes)| Flight { from, to, bytes }));
        self.drain(node);
    }

    /// Delivers what is on the wire, and what comes of it.
    pub(crate) fn deliver(&mut self) {
        while let Some(flight) = self.wire.pop_front() {
            let at = |address| self.nodes.iter().position(|node| node.address == address);
            let is_asleep = |node: Option<usize>| node.is_some_and(|node| self.asleep.contains(&node));
            let ends = [at(flight.from), at(flight.to)];
            let is_cut = self.apart.is_some_and(|apart| apart.iter().all(|node| ends.contains(&Some(*node))));
            if is_cut || ends.into_iter().any(is_asleep) {
                continue;
            }
            if let Some(node) = at(flight.to) {
                self.heard.push(flight.clone());
                self.datagram(node, flight.from, &flight.bytes);
            }
        }
    }

    /// Lets `length` pass, in steps of 10 ms.
    pub(crate) fn run(&mut self, length: Duration) {
        let end = self.passed + length;
        while self.passed < end {
            self.deliver();
            self.passed += Duration::from_millis(10);
            for node in (0..self.nodes.len()).filter(|node| !self.asleep.contains(node)).collect::<Vec<_>>() {
                let time = self.time();
                let is_due = |engine: &Engine| engine.poll_timeout().is_some_and(|(at, _)| at <= time.now);
                let mut turns = 0;
                while is_due(&self.nodes[node].engine) {
                    turns += 1;
                    assert!(turns <= 3, "a busy loop: {:?}", self.nodes[node].engine.poll_timeout());
                    self.nodes[node].engine.handle_timeout(time);
                    self.drain(node);
                }
            }
        }
    }

    /// Says whether a packet of `from` comes out at `to` within three seconds.
    pub(crate) fn reaches(&mut self, from: usize, to: usize) -> bool {
        let id = self.id(to);
        let aliases = self.nodes[from].engine.pins();
        let suffix = aliases.into_iter().find(|pin| pin.device == id).unwrap().suffix;
        let [c, d] = suffix.to_be_bytes();
        let packet = udp(self.nodes[from].engine.own_alias(), Ipv4Addr::new(127, 80, c, d));
        self.nodes[to].packets.clear();
        self.packet(from, packet);
        self.run(Duration::from_secs(3));
        self.nodes[to].packets.iter().any(|packet| packet.ends_with(b"are you there"))
    }

    fn drain(&mut self, node: usize) {
        let time = self.time();
        let there = &mut self.nodes[node];
        loop {
            let mut moved = false;
            while let Some(note) = there.forwarder.poll_note() {
                there.engine.handle_note(note, time);
            }
            while let Some(event) = there.engine.poll_event() {
                moved = true;
                match event {
                    Event::Lookup { key } => {
                        let values = self.dht.get(&key).cloned().into_iter().collect();
                        let found = Command::Found { key, values, answered: 3 };
                        there.engine.handle_command(found, time);
                    }
                    Event::Publish { key, value, .. } => {
                        record::check(&key, &value, time.wall_ms / 1_000).unwrap();
                        self.dht.insert(key, value);
                        there.engine.handle_command(Command::Published(key, 3), time);
                    }
                    event => there.on_event(event, time),
                }
            }
            while let Some(update) = there.engine.poll_update() {
                there.note_sealer(&update);
                there.forwarder.apply(update);
            }
            let mut transmits = 0;
            while let Some(Transmit { to, datagram }) = there.engine.poll_transmit() {
                let to = to.udp().expect("nobody relays here");
                assert_ne!(to, STRANGER, "a stranger was sent {} bytes", datagram.len());
                transmits += 1;
                self.wire.push_back(Flight { from: there.address, to, bytes: datagram });
            }
            assert!(transmits <= 200, "{transmits} datagrams for one input");
            there.packets.extend(std::iter::from_fn(|| there.engine.poll_packet()));
            if !moved {
                return;
            }
        }
    }
}

impl Node {
    fn new(address: SocketAddr, device: SigningSecret, engine: Engine) -> Self {
        let forwarder = Forwarder::new(engine.own_alias());
        Self {
            address,
            device,
            engine,
            forwarder,
            packets: Vec::new(),
            stored: Vec::new(),
            dropped: Vec::new(),
            is_joined: false,
            presences: Vec::new(),
            announced: Vec::new(),
            sealers: Vec::new(),
            relayed_sealer: None,
            asked: Vec::new(),
            signed: None,
            token: None,
        }
    }

    /// The newest sending half of the link to `to`.
    pub(crate) fn sealer(&self, to: SocketAddr) -> Option<Arc<Sealer>> {
        self.sealers.iter().rev().find(|(remote, _)| *remote == to).map(|(_, sealer)| Arc::clone(sealer))
    }

    /// The newest sending half of a link by way of another member.
    pub(crate) fn relayed_sealer(&self) -> Option<Arc<Sealer>> {
        self.relayed_sealer.clone()
    }

    fn note_sealer(&mut self, update: &Update) {
        if let Update::Send { route: Some(route), .. } = update {
            if let Remote::Relayed { .. } = route.remote {
                self.relayed_sealer = Some(Arc::clone(&route.sealer));
            }
            self.sealers.extend(route.remote.udp().map(|remote| (remote, Arc::clone(&route.sealer))));
        }
    }

    fn on_event(&mut self, event: Event, time: Time) {
        match event {
            Event::Store { ticket, objects, .. } => {
                self.stored.extend(objects);
                self.engine.handle_command(Command::Stored(ticket), time);
            }
            Event::Invited { outcome, .. } => self.token = Some(outcome.unwrap()),
            Event::Signed { outcome, .. } => self.signed = Some(outcome),
            Event::Joined => self.is_joined = true,
            Event::Presence(object) => self.presences.push(object),
            Event::Announce(datagram) => self.announced.push(datagram),
            Event::MapPort(ask) => self.asked.push(ask),
            Event::Dropped(reason) => self.dropped.push(reason),
            _ => {}
        }
    }
}

struct Datagrams<'t>(&'t mut Vec<Transmit>);

impl Egress for Datagrams<'_> {
    fn datagram(&mut self, to: SocketAddr, bytes: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        let mut datagram = vec![0; bytes];
        let filled = fill(&mut datagram);
        if filled {
            self.0.push(Transmit { to: to.into(), datagram });
        }
        filled
    }
}

const WALL_MS: u64 = 1_800_000_000_000;

fn keys(n: u8) -> (SigningSecret, StaticSecret) {
    (SigningSecret::from_seed(&[n; 32]), StaticSecret::from_bytes([n + 50; 32]))
}

/// What the engine of member `n` is made of.
pub(crate) fn config(vpi: VpiId, n: u8) -> Config {
    let (device, static_secret) = keys(n);
    Config {
        vpi,
        device,
        static_secret,
        suites: Suites::BOTH,
        rekey_after: Duration::from_secs(120),
        idle_after: Duration::from_secs(300),
        prefix: Ipv4Addr::new(127, 80, 0, 0),
        pins: Vec::new(),
        seed: [n; 32],
    }
}

fn udp(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let text = b"are you there";
    let mut packet = vec![0x45, 0, 0, 28 + text.len() as u8, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    packet.extend_from_slice(&[0, 7, 0, 7, 0, 8 + text.len() as u8, 0, 0]);
    packet.extend_from_slice(text);
    packet
}
