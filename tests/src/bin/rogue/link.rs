//! The rogue's socket and its one session: handshakes, datagrams sealed or raw, and what comes back.
//!
//! It answers what keeps a session going (probes, `ids`, `get` of what it offers, `settled`) whenever it listens.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use protocol::identity::{ObjectId, StaticKey, StaticSecret};
use protocol::membership::epoch::EpochSecret;
use protocol::membership::exchange;
use protocol::random::{self, Rng};
use protocol::tunnel::handshake::{Context, Initiation};
use protocol::tunnel::{Opener, Sealer, Suite};
use protocol::veil::{self, Veiled};
use protocol::wire::header::{Class, DATA, VeilHeader, read_data_header};
use protocol::wire::hello::{Digests, Hello, Suites};
use protocol::wire::message::Message;
use rand_core::{Rng as _, SeedableRng as _};

use crate::state::State;

/// How long a response may take.
const RESPONSE_LIMIT: Duration = Duration::from_secs(2);
/// How long the socket waits at most before the clock is looked at.
const POLL: Duration = Duration::from_millis(1);
/// Packets that are kept for the next answer.
const MAX_KEPT: usize = 64;
const LARGEST_DATAGRAM: usize = 1 << 16;

/// What a handshake pretends.
#[derive(Default)]
pub(crate) struct Pretence {
    /// Uses a static key made up on the spot, that is no member's.
    pub(crate) made_up_static: bool,
    /// Uses the epoch with this number; `None`: the newest.
    pub(crate) epoch: Option<u64>,
    /// Says that it holds nothing, so that the session carries messages only.
    pub(crate) holds_nothing: bool,
}

/// A session that the victim answered.
pub(crate) struct Session {
    pub(crate) sealer: Sealer,
    opener: Opener,
    pub(crate) to: SocketAddr,
    /// Where the victim finds it.
    pub(crate) their_index: u32,
}

/// What came since the last answer.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) packets: Vec<Vec<u8>>,
    /// By the first byte of the message; 0 for keepalives.
    pub(crate) messages: BTreeMap<u8, u64>,
    /// Pieces of offered objects that the victim asked for.
    pub(crate) pieces: u64,
}

/// The rogue.
pub(crate) struct Rogue {
    pub(crate) state: State,
    pub(crate) rng: Rng,
    pub(crate) session: Option<Session>,
    pub(crate) heard: Heard,
    pub(crate) offered: BTreeMap<ObjectId, Vec<u8>>,
    socket: UdpSocket,
}

impl Rogue {
    /// A rogue with a socket on any port.
    pub(crate) fn new(state: State) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(POLL))?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let (rng, heard, offered) = (Rng::from_seed(seed), Heard::default(), BTreeMap::new());
        Ok(Self { state, rng, session: None, heard, offered, socket })
    }

    /// Shakes hands with `name` at `to`, and says what the victim says of itself, so that packets pass at once.
    pub(crate) fn handshake(&mut self, name: &str, to: SocketAddr, pretence: &Pretence) -> Result<()> {
        let peer = self.state.static_key_of(&self.state.device_of(name)?)?;
        let nothing = Digests { charter: ObjectId([0; 32]), removes: [0; 32], epoch_tag: [0; 2] };
        let theirs = self.shake(&peer, to, nothing, pretence)?;
        if !pretence.holds_nothing {
            // Of two initiations the gate takes the later one for the elder, unless its clock is ahead.
            std::thread::sleep(2 * POLL);
            self.shake(&peer, to, theirs, pretence)?;
        }
        Ok(())
    }

    /// One initiation to `to`, sealed and ready to send, with the state that its response completes.
    pub(crate) fn initiation(
        &mut self,
        peer: &StaticKey,
        digests: Digests,
        pretence: &Pretence,
    ) -> Result<(Initiation, Vec<u8>, EpochSecret)> {
        let wanted = |epoch: &&EpochSecret| pretence.epoch.is_none_or(|number| epoch.number() == number);
        let epoch = self.state.epochs.iter().rfind(wanted).context("no such epoch")?.clone();
        let nonce = random::bytes(&mut self.rng);
        let header = VeilHeader { class: Class::Member, epoch_tag: epoch.tag(), nonce };
        let time_ms = wall_ms()?;
        let prologue = veil::prologue(&header.to_bytes(), time_ms);
        let context = Context { psk: &epoch.psk(), prologue: &prologue };
        let device = self.state.device.public();
        let payload = Hello { device, suites: Suites::BOTH, digests }.encode_initiation(&[]);
        let own = match pretence.made_up_static {
            true => StaticSecret::from_bytes(random::bytes(&mut self.rng)),
            false => self.state.static_secret.clone(),
        };
        let index = self.rng.next_u32();
        let (initiation, body) = Initiation::new(&own, peer, context, (index, &payload), &mut self.rng)?;
        let datagram = Veiled { time_ms, kind: veil::INITIATION, body }.seal(&epoch.veil_key(), &header);
        Ok((initiation, datagram, epoch))
    }

    fn shake(
        &mut self,
        peer: &StaticKey,
        to: SocketAddr,
        digests: Digests,
        pretence: &Pretence,
    ) -> Result<Digests> {
        let (mut initiation, datagram, epoch) = self.initiation(peer, digests, pretence)?;
        self.send(to, &datagram)?;
        let deadline = Instant::now() + RESPONSE_LIMIT;
        while Instant::now() < deadline {
            let Some(datagram) = self.receive()? else { continue };
            let Some((header, clear, sealed)) = VeilHeader::split(&datagram) else { continue };
            let Some(content) = Veiled::open(&epoch.veil_key(), &header, clear, sealed) else { continue };
            let Some(body) = content.body.get(4..).filter(|_| content.kind == veil::RESPONSE) else {
                continue;
            };
            let Ok((payload, keys)) = initiation.complete(body) else { continue };
            let hello = Hello::decode_response(&payload)?;
            let suite = Suite::choose(Suites::BOTH, hello.suites).context("no suite in common")?;
            let (sealer, opener) = keys.into_halves(suite);
            let keepalive = sealer.seal_message(&[])?;
            let (their_index, _) = read_data_header(&keepalive).context("a sealed datagram has a header")?;
            self.send(to, &keepalive)?;
            self.session = Some(Session { sealer, opener, to, their_index });
            return Ok(hello.digests);
        }
        bail!("no response")
    }

    /// Seals `plaintext` on the session; the datagram is not sent yet.
    pub(crate) fn seal(&self, plaintext: &[u8]) -> Result<(SocketAddr, Vec<u8>)> {
        let session = self.session.as_ref().context("no session: shake hands first")?;
        Ok((session.to, session.sealer.seal_message(plaintext)?))
    }

    /// Sends a message on the session.
    pub(crate) fn say(&self, message: &Message<'_>) -> Result<()> {
        let (to, datagram) = self.seal(&message.encode())?;
        self.send(to, &datagram)
    }

    /// Sends a datagram as it is.
    pub(crate) fn send(&self, to: SocketAddr, datagram: &[u8]) -> Result<()> {
        loop {
            match self.socket.send_to(datagram, to) {
                Ok(sent) => {
                    ensure!(sent == datagram.len(), "{sent} of {} bytes were sent", datagram.len());
                    return Ok(());
                }
                // An ICMP error for an earlier datagram is the scenario's finding, on the wire.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes in what comes until `deadline`.
    pub(crate) fn listen_until(&mut self, deadline: Instant) -> Result<()> {
        while Instant::now() < deadline {
            self.receive()?;
        }
        Ok(())
    }

    /// Takes in one datagram, if one comes soon; a veiled one is returned.
    pub(crate) fn receive(&mut self) -> Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; LARGEST_DATAGRAM];
        let length = match self.socket.recv_from(&mut buffer) {
            Ok((length, _)) => length,
            Err(error) if is_of_no_account(error.kind()) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        buffer.truncate(length);
        if buffer.first() != Some(&DATA) {
            return Ok(Some(buffer));
        }
        let opened = self.session.as_mut().and_then(|session| session.opener.open(&mut buffer).ok());
        if let Some(plaintext) = opened.map(|plaintext| plaintext.to_vec()) {
            self.on_plaintext(plaintext)?;
        }
        Ok(None)
    }

    fn on_plaintext(&mut self, plaintext: Vec<u8>) -> Result<()> {
        let first = plaintext.first().copied().unwrap_or_default();
        if first >= 0x40 {
            if self.heard.packets.len() < MAX_KEPT {
                self.heard.packets.push(plaintext);
            }
            return Ok(());
        }
        *self.heard.messages.entry(first).or_default() += 1;
        match Message::decode(&plaintext) {
            Ok(Message::Probe { id, .. } | Message::Check { id, .. }) => {
                self.say(&Message::Echo { id, observed: None })
            }
            Ok(Message::Ids { kind, page }) => self.say(&Message::List { kind, page, ids: Vec::new() }),
            Ok(Message::Settled { heard: false }) => self.say(&Message::Settled { heard: true }),
            Ok(Message::Get { id, offset }) => {
                let object = self.offered.get(&id).cloned();
                let Some(object) = object else { return Ok(()) };
                let Some(piece) = exchange::piece(id, &object, offset) else { return Ok(()) };
                self.heard.pieces += 1;
                self.say(&piece)
            }
            _ => Ok(()),
        }
    }
}

/// Unix milliseconds.
pub(crate) fn wall_ms() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

fn is_of_no_account(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused)
}
