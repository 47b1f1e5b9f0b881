//! One VPI of the running node: its engine, and the files, socket and pump that do what the engine wants.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use protocol::drop::DropReason;
use protocol::engine::{Command, Config, Engine, Event, JoinFailure, Ticket, Time};
use protocol::forward::Forwarder;
use protocol::identity::{SigningSecret, StaticSecret, VpiId};
use protocol::membership::admin::AdminError;
use protocol::membership::epoch::EpochSecret;
use protocol::membership::object::Object;
use protocol::membership::token::Token;
use protocol::path::Remote;
use protocol::path::portmap::Ask;
use protocol::wire::hello::Suites;
use tracing::{debug, info, warn};

use super::sides::Sides;
use super::way::Way;
use crate::config::{Cipher, Settings};
use crate::metrics::Drops;
use crate::pump::{Pump, Queues, Seen};
use crate::store::aliases::Aliases;
use crate::store::floor::{Floor, Reached};
use crate::store::index::Index;
use crate::store::keys::{EpochName, Keys};
use crate::store::objects::ObjectLog;
use crate::store::settings::VpiSettings;
use crate::store::state::State;
use crate::tun::Tun;
use crate::udp::{Batch, Socket};

/// What the rest of the node has to do or to know after an engine ran.
#[derive(Debug)]
pub(super) enum Happening {
    /// This device became a member.
    Joined,
    /// It cannot become one.
    JoinFailed(JoinFailure),
    /// An invite is made, or not.
    Invited(Ticket, Result<Box<Token>, AdminError>),
    /// A removal or a revocation is signed and on disk, or not.
    Signed(Ticket, Result<(), AdminError>),
    /// This device left, and so many members know; or it may not.
    Left(Result<u32, AdminError>),
    /// This device is to be announced on its networks.
    Announce(Vec<u8>),
    /// Guessed ports are tried, or no more.
    Burst(bool),
    /// A gateway is to be asked for a port, or one is given back.
    MapPort(Ask),
    /// A ping came back.
    Pong(Ticket, std::time::Duration),
}

/// The secrets of one VPI that an engine starts with.
pub(super) struct Secrets {
    pub(super) device: SigningSecret,
    pub(super) static_secret: StaticSecret,
}

/// One VPI.
pub(super) struct Vpi {
    pub(super) settings: VpiSettings,
    pub(super) engine: Engine,
    pub(super) drops: Arc<Drops>,
    /// Dropped before the device that it reads.
    pub(super) pump: Pump,
    tun: Option<Arc<Tun>>,
    socket: Arc<Socket>,
    pub(super) sides: Sides,
    outgoing: Batch,
    log: ObjectLog,
    /// The engine began with all that is in the log.
    has_whole_log: bool,
    aliases: Aliases,
    floor: Floor,
    keys: Keys,
    pub(super) way: Way,
    /// It was told that the disk went back.
    has_told_back: bool,
    /// Who is a member, or an alias, may be another than when names were looked at last.
    pub(super) has_news: bool,
    /// Members may say that they are reached over other beacons than when these were looked at last.
    has_other_beacons: bool,
}

/// The files of one VPI, opened and read.
pub(super) struct Files {
    pub(super) log: ObjectLog,
    pub(super) objects: Vec<Object>,
    pub(super) aliases: Aliases,
    pub(super) pins: Vec<protocol::alias::Pin>,
    pub(super) floor: Floor,
    pub(super) keys: Keys,
}

impl Files {
    /// Opens the files of `vpi`; damage is set aside and told.
    pub(super) fn open(state: &State, vpi: VpiId, time: Time) -> anyhow::Result<Self> {
        let files = state.vpi(&vpi)?;
        let verified = |record: &[u8]| match Object::open(&vpi, record) {
            Ok(object) => Some(object),
            Err(error) => {
                warn!(%vpi, %error, "a stored object does not verify and is set aside");
                None
            }
        };
        let (log, objects, damage) = ObjectLog::open(&files.objects, verified)?;
        if !damage.is_none() {
            warn!(%vpi, ?damage, "the object log was damaged; what is missing comes back from other members");
        }
        let (aliases, pins, mended) = Aliases::open(&files.aliases, &vpi, time.wall_ms / 1_000)?;
        if mended.is_copy_bad {
            warn!(%vpi, "the copy of the aliases was damaged: set aside, and written again");
        }
        for line in &mended.bad {
            warn!(%vpi, %line, "an alias was set aside");
        }
        if mended.recovered > 0 {
            warn!(%vpi, aliases = mended.recovered, "aliases came back from the copy");
        }
        if !mended.edited.is_empty() {
            warn!(%vpi, lines = ?mended.edited, "aliases without a sum, as a person writes them, are taken");
        }
        let floor = Floor::open(&files.floor, &vpi)?;
        Ok(Self { log, objects, aliases, pins, floor, keys: state.keys() })
    }

    /// The epoch secrets on disk.
    pub(super) fn epochs(&self, vpi: VpiId) -> anyhow::Result<Vec<EpochSecret>> {
        let epochs = self.keys.epochs(&vpi)?;
        Ok(epochs.into_iter().map(|(name, secret)| EpochSecret::new(vpi, name.number, secret)).collect())
    }
}

impl Vpi {
    /// Puts an engine to work: its pump runs when this returns.
    pub(super) fn start(
        settings: VpiSettings,
        mut engine: Engine,
        files: Files,
        socket: Arc<Socket>,
        queues: Queues,
    ) -> anyhow::Result<Self> {
        engine.handle_command(Command::Reach(settings.reach()), super::time());
        let drops = Arc::new(Drops::default());
        let forwarder = Forwarder::new(engine.own_alias());
        let pump = Pump::start((engine.vpi(), forwarder), Arc::clone(&socket), queues, Arc::clone(&drops))
            .context("cannot start the thread that moves packets")?;
        Ok(Self {
            settings,
            has_whole_log: !engine.is_joining(),
            engine,
            drops,
            pump,
            tun: None,
            socket,
            sides: Sides::default(),
            outgoing: Batch::small(),
            log: files.log,
            aliases: files.aliases,
            floor: files.floor,
            keys: files.keys,
            way: Way::default(),
            has_told_back: false,
            has_news: true,
            has_other_beacons: true,
        })
    }

    /// Attaches to the TUN device.
    pub(super) fn attach(&mut self) -> Result<(), crate::tun::TunError> {
        if self.tun.is_none() {
            let tun = Arc::new(Tun::attach(&self.settings.device)?);
            self.pump.attach(Arc::clone(&tun));
            self.tun = Some(tun);
        }
        Ok(())
    }

    /// Lets the TUN device go.
    pub(super) fn detach(&mut self) {
        self.pump.detach();
        self.tun = None;
    }

    /// Hands the pump a datagram of a session that came over a pipe.
    pub(super) fn pass_on(&self, circuit: u32, bytes: Vec<u8>) {
        self.pump.pass_on(circuit, bytes);
    }

    /// Looks at what was reached before; a disk that went back is told.
    pub(super) fn check_floor(&mut self) -> anyhow::Result<()> {
        if let Some(rolled_back) = self.floor.check(self.reached_state()) {
            self.engine.handle_command(Command::WentBack, super::time());
            self.has_told_back = true;
            warn!(
                vpi = self.settings.name, cause = %rolled_back,
                "the state folder is older than it once was; what is missing comes back from other members"
            );
        }
        Ok(self.floor.raise(self.reached_state())?)
    }

    /// How many signed objects are on disk.
    pub(super) fn objects(&self) -> u64 {
        self.log.count()
    }

    fn reached_state(&self) -> Reached {
        let engine = &self.engine;
        Reached { charter: engine.charter_version(), epoch: engine.epoch(), objects: self.objects() }
    }

    /// Hands the engine what the pump saw, and counts what it drops.
    pub(super) fn on_seen(&mut self, seen: Seen, time: Time) {
        let outcome = match seen {
            Seen::Note(note) => {
                self.engine.handle_note(note, time);
                Ok(())
            }
            Seen::Message { index, from, bytes } => {
                let outcome = self.engine.handle_message((index, from), &bytes, time);
                outcome.inspect(|()| self.vouch(from))
            }
            Seen::Packet(packet) => {
                self.engine.handle_packet(packet, time);
                Ok(())
            }
            Seen::Veiled { from, bytes } => {
                let outcome = self.engine.handle_datagram(from, &bytes, time);
                outcome.inspect(|()| self.vouch(from))
            }
            Seen::Stun { from, bytes } => self.engine.handle_stun(from, &bytes, time),
            Seen::Detached | Seen::Failed => {
                self.tun = None;
                Ok(())
            }
        };
        if let Err(reason) = outcome {
            self.drops.count(reason);
        }
    }

    /// Does everything that the engine wants done.
    ///
    /// # Errors
    /// When something cannot be put on disk: the node must not go on promising then.
    pub(super) fn drain(&mut self, index: &mut Index, time: Time) -> anyhow::Result<Vec<Happening>> {
        if std::mem::take(&mut self.has_other_beacons) {
            self.look_at_beacons(time);
        }
        let mut happenings = Vec::new();
        while let Some(event) = self.engine.poll_event() {
            happenings.extend(self.on_event(event, index, time)?);
        }
        if self.engine.went_back() && !std::mem::replace(&mut self.has_told_back, true) {
            warn!(
                vpi = self.settings.name,
                "the state folder is older than it once was: a member had what this device signed later"
            );
        }
        // The forwarder must know a session before the other end may use it.
        while let Some(update) = self.engine.poll_update() {
            self.pump.update(update);
        }
        while let Some(transmit) = self.engine.poll_transmit() {
            if self.outgoing.is_full() {
                self.flush();
            }
            let to = match transmit.to {
                Remote::Udp(to) => to,
                Remote::Side { address, socket } => {
                    self.send_by(socket, address, &transmit.datagram);
                    continue;
                }
                Remote::Circuit(circuit) if self.send_over(circuit, transmit.datagram.clone()) => continue,
                Remote::Carried(number) if self.way.send_on(number, &transmit.datagram) => continue,
                Remote::Circuit(_) | Remote::Carried(_) | Remote::Relayed { .. } => {
                    self.drops.count(DropReason::SendFailed);
                    continue;
                }
            };
            self.outgoing.push(to, |slot| match slot.get_mut(..transmit.datagram.len()) {
                Some(place) => {
                    place.copy_from_slice(&transmit.datagram);
                    transmit.datagram.len()
                }
                None => 0,
            });
        }
        self.flush();
        self.forget_ended_streams();
        while let Some(packet) = self.engine.poll_packet() {
            if let Some(tun) = &self.tun {
                let _ = tun.send(&packet);
            }
        }
        Ok(happenings)
    }

    fn on_event(&mut self, event: Event, index: &mut Index, time: Time) -> anyhow::Result<Option<Happening>> {
        match event {
            Event::Store { ticket, objects, epochs } => {
                self.has_news |= !objects.is_empty();
                self.store(&objects, &epochs).context("cannot write to the state folder")?;
                self.engine.handle_command(Command::Stored(ticket), time);
            }
            Event::EpochEnded { number, tag } => {
                self.keys.remove_epoch(&self.engine.vpi(), EpochName { number, tag })?;
            }
            Event::Pinned => {
                self.has_news = true;
                let pins: Vec<_> = self.engine.pins().collect();
                self.aliases.save(&pins, time.wall_ms / 1_000).context("cannot write the aliases")?;
            }
            Event::Carry { .. } | Event::CloseCarry(_) => self.on_carry_wish(event, time),
            Event::Lookup { .. } | Event::Publish { .. } | Event::OpenCircuit { .. } => {
                self.on_wish(event, time);
            }
            Event::Joined => {
                self.has_other_beacons = true;
                return Ok(Some(Happening::Joined));
            }
            Event::JoinFailed(failure) => return Ok(Some(Happening::JoinFailed(failure))),
            Event::Invited { ticket, outcome } => return Ok(Some(Happening::Invited(ticket, outcome))),
            Event::Signed { ticket, outcome } => return Ok(Some(Happening::Signed(ticket, outcome))),
            Event::Left { outcome, .. } => return Ok(Some(Happening::Left(outcome))),
            Event::Removed => {
                self.has_other_beacons = true;
                warn!(vpi = self.settings.name, "this device was removed by another member");
            }
            Event::Socket { number, is_open } => self.set_side(number, is_open),
            Event::Burst { is_running } => return Ok(Some(Happening::Burst(is_running))),
            Event::MapPort(ask) => return Ok(Some(Happening::MapPort(ask))),
            Event::Announce(datagram) => return Ok(Some(Happening::Announce(datagram))),
            Event::Pong { ticket, rtt } => return Ok(Some(Happening::Pong(ticket, rtt))),
            Event::Presence(object) => {
                self.has_other_beacons = true;
                index.remember_presence(self.engine.vpi(), &object, time);
            }
            Event::Reached { device, remote } => {
                index.remember_path(self.engine.vpi(), (device, remote), time);
            }
            Event::Link { device, is_up } => {
                let (vpi, peer) = (&self.settings.name, device.short());
                if is_up {
                    info!(vpi, peer, "link is up");
                } else {
                    info!(vpi, peer, "link is down");
                }
            }
            Event::Dropped(reason) => self.drops.count(reason),
        }
        Ok(None)
    }

    /// Secrets first, then the objects that name them.
    fn store(&mut self, objects: &[Object], epochs: &[EpochSecret]) -> anyhow::Result<()> {
        for epoch in epochs {
            let name = EpochName { number: epoch.number(), tag: epoch.tag() };
            self.keys.put_epoch(&self.engine.vpi(), name, epoch.secret())?;
        }
        if !objects.is_empty() {
            let records: Vec<&[u8]> = objects.iter().map(Object::bytes).map(|bytes| &**bytes).collect();
            self.log.append(&records)?;
            self.tidy()?;
            self.floor.raise(self.reached_state())?;
        }
        Ok(())
    }

    /// Gives up what counts no more, once that is most of the log.
    fn tidy(&mut self) -> anyhow::Result<()> {
        let is_overgrown = self.log.is_overgrown(self.engine.lasting_bytes());
        if !is_overgrown || !self.has_whole_log || self.engine.is_removed() {
            return Ok(());
        }
        let lasting: BTreeSet<&[u8]> =
            self.engine.lasting_objects().map(|object| &**object.bytes()).collect();
        let kept = self.log.kept(|payload| lasting.contains(payload))?;
        info!(vpi = self.settings.name, from = self.log.count(), to = kept.count(), "objects given up");
        // Else a crash between the two would look like a disk that went back.
        self.floor.lower_objects(kept.count())?;
        Ok(self.log.make_anew(kept)?)
    }

    fn flush(&mut self) {
        let drops = &self.drops;
        let refused = |to: SocketAddr, bytes, cause| {
            debug!(%to, bytes, ?cause, "a datagram was not sent");
            drops.count(DropReason::SendFailed);
        };
        if self.outgoing.is_empty() {
            return;
        }
        if self.socket.send_batch(&mut self.outgoing, refused).is_err() {
            // The kernel's buffer is full of packets: handshakes and messages are repeated by themselves.
            self.outgoing.clear();
        }
    }

    /// Says goodbye to every member; what is left to do is what the node does for it.
    pub(super) fn close(&mut self, index: &mut Index, time: Time) -> Vec<Happening> {
        self.engine.handle_command(Command::Close, time);
        self.drain(index, time).unwrap_or_else(|error| {
            warn!(%error, "the last changes were not written");
            Vec::new()
        })
    }
}

/// The configuration of an engine on this machine.
pub(super) fn config(
    (vpi, prefix): (VpiId, std::net::Ipv4Addr),
    secrets: Secrets,
    pins: Vec<protocol::alias::Pin>,
    settings: &Settings,
) -> anyhow::Result<Config> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("the system gives no randomness")?;
    Ok(Config {
        vpi,
        device: secrets.device,
        static_secret: secrets.static_secret,
        suites: suites(settings.cipher),
        rekey_after: settings.rekey_after,
        idle_after: settings.idle_after,
        prefix,
        pins,
        seed,
    })
}

/// The suites that this machine names: AES only where the processor has instructions for it, unless told otherwise.
fn suites(cipher: Cipher) -> Suites {
    #[cfg(target_arch = "x86_64")]
    let has_instructions = std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    let has_instructions = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let has_instructions = false;
    match cipher {
        Cipher::ChaCha20 => Suites::CHACHA,
        Cipher::Auto if !has_instructions => Suites::CHACHA,
        Cipher::Auto | Cipher::Aes256Gcm => Suites::BOTH,
    }
}
