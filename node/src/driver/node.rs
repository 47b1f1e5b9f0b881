//! All VPIs of the node, and its main loop.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use libp2p::futures::future::join_all;
use protocol::alias::{Pin, assign::SUFFIXES};
use protocol::engine::{Command, Engine, Ticket, Time};
use protocol::identity::{DeviceId, StaticSecret, VpiId};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::timeout;
use tracing::{info, trace};

use super::enter::PendingJoin;
use super::names::Names;
use super::ping::PingJob;
use super::vpi::{self, Files, Happening, Secrets, Vpi};
use super::{enter, lan, statics, time, way};
use crate::beacon::beside::Beside;
use crate::config::NodeOptions;
use crate::control::protocol::Reply;
use crate::control::server::Call;
use crate::control::{Exit, Failure};
use crate::lan::Lan;
use crate::mapping::Mappings;
use crate::pump::{Queues, Seen};
use crate::store::index::{Index, Recalled};
use crate::store::settings::VpiSettings;
use crate::store::state::State;
use crate::swarm::Swarm;
use crate::udp::{AddressWatch, Socket, WakeWatch};

/// What members and applications may have waiting (chosen: a burst of every link's notes and messages).
const SEEN_WAITING: usize = 4_096;
/// What anybody may have waiting: little, so that a flood is dropped while it is young.
const VEILED_WAITING: usize = 256;
/// What is taken of members and applications for each command, at most (chosen: a command costs about as much).
const SEEN_PER_CALL: usize = 64;
/// The same of what anybody sent: handshakes are among it.
const VEILED_PER_CALL: usize = 8;
/// At start, members heard within this time are called at once (specified: protocol/README).
const RECENT: Duration = Duration::from_secs(600);

/// How long the last batch for the index may take at the end.
const REMEMBER_WITHIN: Duration = Duration::from_secs(4);

/// How long a gateway may take at the end to take a port back.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(2);
/// How long what is in line for beacons that carry may take (chosen).
const GOODBYES_WITHIN: Duration = Duration::from_secs(2);

/// The running node.
pub(super) struct Node {
    pub(super) options: NodeOptions,
    pub(super) state: State,
    pub(super) index: Index,
    pub(super) vpis: BTreeMap<VpiId, Vpi>,
    pub(super) queues: Queues,
    pub(super) joins: BTreeMap<VpiId, PendingJoin>,
    pub(super) invites: BTreeMap<Ticket, Call>,
    /// Removals and revocations that wait to be on disk, each with what is then answered.
    pub(super) signings: BTreeMap<Ticket, (Call, Reply)>,
    pub(super) leaves: BTreeMap<VpiId, Call>,
    pub(super) pings: Vec<PingJob>,
    /// Where this machine is.
    pub(super) watch: AddressWatch,
    wakes: WakeWatch,
    /// The socket of announcements, while a VPI wants it.
    pub(super) lan: Option<Lan>,
    /// How many VPIs were told where this machine is.
    pub(super) placed: usize,
    /// What gateways are being asked.
    pub(super) mappings: Mappings,
    /// The beacon beside this node, if the settings name one.
    pub(super) beside: Option<Beside>,
    /// The DNS server, if there is one.
    pub(super) names: Option<Names>,
    seen: Receiver<(VpiId, Seen)>,
    veiled: Receiver<(VpiId, Seen)>,
    pub(super) started_at: Instant,
    pub(super) look_at_statics_at: Instant,
    last_ticket: Ticket,
}

impl Node {
    /// A node without any VPI yet.
    pub(super) fn new(options: NodeOptions, state: State, watch: AddressWatch) -> Self {
        let index = Index::new(state.index_path());
        let ((seen_sender, seen), (veiled_sender, veiled)) = (channel(SEEN_WAITING), channel(VEILED_WAITING));
        let beside = options.settings.beacon.clone().map(Beside::new);
        Self {
            options,
            state,
            index,
            beside,
            vpis: BTreeMap::new(),
            queues: Queues { seen: seen_sender, veiled: veiled_sender },
            joins: BTreeMap::new(),
            invites: BTreeMap::new(),
            signings: BTreeMap::new(),
            leaves: BTreeMap::new(),
            pings: Vec::new(),
            watch,
            wakes: WakeWatch::start(),
            lan: None,
            placed: 0,
            mappings: Mappings::new(),
            names: None,
            seen,
            veiled,
            started_at: Instant::now(),
            look_at_statics_at: statics::first_look_at(Instant::now()),
            last_ticket: 0,
        }
    }

    /// Opens a VPI that is on disk and on this machine, and calls the members that were near last.
    pub(super) fn open(&mut self, settings: VpiSettings) -> anyhow::Result<()> {
        let (time, id) = (time(), settings.id);
        let mut files = Files::open(&self.state, id, time)?;
        self.state.keys().settle(&id, &files.objects)?;
        let epochs = files.epochs(id)?;
        let (mut pins, objects) = (std::mem::take(&mut files.pins), files.objects.clone());
        pin_own(&mut pins, self.state.keys().device_in(&id)?.public(), settings.alias);
        let config = self.config(&settings, pins, None)?;
        let engine =
            Engine::member(config, objects, epochs, time).context("the aliases contradict each other")?;
        check_alias(&settings, engine.own_alias())?;
        let socket = Arc::new(Socket::bind(settings.port)?);
        let mut vpi = Vpi::start(settings, engine, files, socket, self.queues.clone())?;
        vpi.attach()?;
        vpi.check_floor()?;
        Self::tend_statics(&self.state.keys(), &mut vpi, time)?;
        self.call_members(&mut vpi, time);
        vpi.drain(&mut self.index, time)?;
        self.vpis.insert(id, vpi);
        Ok(())
    }

    /// What an engine on this machine is made of. `static_secret` is the newest on disk unless one is given.
    pub(super) fn config(
        &self,
        settings: &VpiSettings,
        pins: Vec<Pin>,
        static_secret: Option<StaticSecret>,
    ) -> anyhow::Result<protocol::engine::Config> {
        let keys = self.state.keys();
        let static_secret = match static_secret {
            Some(secret) => secret,
            None => {
                let newest = keys.statics(&settings.id)?.into_iter().max_by_key(|(counter, _)| *counter);
                newest.context("the static key of this VPI is missing: join it again")?.1
            }
        };
        let secrets = Secrets { device: keys.device_in(&settings.id)?, static_secret };
        vpi::config((settings.id, settings.prefix), secrets, pins, &self.options.settings)
    }

    /// Tells the engine where members were last, and calls those of the last minutes: at least one.
    fn call_members(&mut self, vpi: &mut Vpi, time: Time) {
        let Recalled { paths, presences } = self.index.take_recalled(&vpi.engine.vpi());
        for presence in presences {
            vpi.engine.handle_command(Command::Presence(presence), time);
        }
        // The newest is remembered last: the engine tries it first.
        for path in paths.iter().rev() {
            vpi.engine.handle_command(Command::Remember(path.device, path.remote), time);
        }
        let since = (time.wall_ms / 1_000).saturating_sub(RECENT.as_secs());
        let recent = paths.iter().enumerate().filter(|(at, path)| *at == 0 || path.last_at >= since);
        for (_, path) in recent {
            vpi.engine.handle_command(Command::Connect(path.device), time);
        }
    }

    /// One line about what runs.
    pub(super) fn summary(&self) -> String {
        if self.vpis.is_empty() {
            return "no VPI yet; `vpi create NAME` founds one, `vpi join` enters one".to_owned();
        }
        let vpis =
            self.vpis.values().map(|vpi| format!("{} ({})", vpi.settings.name, vpi.engine.own_alias()));
        vpis.collect::<Vec<_>>().join(", ")
    }

    /// Runs until told to stop.
    pub(super) async fn run(mut self, mut calls: Receiver<Call>) -> anyhow::Result<Exit> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        loop {
            if self.placed != self.vpis.len() {
                self.on_networks().await;
                self.turn()?;
            }
            let deadline = self.deadline();
            tokio::select! {
                biased;
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                Some(call) = calls.recv() => {
                    self.on_call(call).await?;
                    self.turn()?;
                    self.let_others_in()?;
                }
                Some((vpi, seen)) = self.seen.recv() => self.on_seen(vpi, seen)?,
                Some((vpi, seen)) = self.veiled.recv() => self.on_seen(vpi, seen)?,
                _ = self.watch.changed() => self.on_networks().await,
                slept = self.wakes.woke() => {
                    info!(seconds = slept.as_secs(), "this machine slept");
                    self.vpis.values_mut().for_each(|vpi| vpi.on_woke(time()));
                }
                (from, datagram) = lan::heard(&mut self.lan) => self.on_announcement(from, &datagram),
                (vpi, told) = way::told(&mut self.vpis) => {
                    if let Some(vpi) = self.vpis.get_mut(&vpi) {
                        vpi.on_told(told, time());
                    }
                }
                (vpi, ask, outcome) = self.mappings.told() => {
                    if let Some(vpi) = self.vpis.get_mut(&vpi) {
                        vpi.engine.handle_command(Command::PortAsked(ask, outcome), time());
                    }
                }
                () = way::moved(&mut self.beside) => self.on_beside(),
                () = self.index.finished() => {}
                // Last: whatever woke the loop, every turn does what is due.
                () = wait_until(deadline) => {}
            }
            self.turn()?;
        }
        let time = time();
        for (id, vpi) in &mut self.vpis {
            for happening in vpi.close(&mut self.index, time) {
                if let Happening::MapPort(ask) = happening {
                    self.mappings.ask(*id, ask);
                }
            }
        }
        let swarms = self.vpis.values_mut().filter_map(Vpi::end_swarm);
        let goodbyes = timeout(GOODBYES_WITHIN, join_all(swarms.map(Swarm::close)));
        let _ =
            tokio::join!(goodbyes, self.index.close(REMEMBER_WITHIN), self.mappings.close(GIVE_BACK_WITHIN));
        Ok(Exit::Done)
    }

    /// Serves others after a command, so that commands without end do not keep them from being heard.
    fn let_others_in(&mut self) -> anyhow::Result<()> {
        for _ in 0..SEEN_PER_CALL {
            let Ok((vpi, seen)) = self.seen.try_recv() else { break };
            self.on_seen(vpi, seen)?;
            self.turn()?;
        }
        for _ in 0..VEILED_PER_CALL {
            let Ok((vpi, seen)) = self.veiled.try_recv() else { break };
            self.on_seen(vpi, seen)?;
            self.turn()?;
        }
        Ok(())
    }

    /// A ticket that no request has.
    pub(super) fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        self.last_ticket
    }

    fn on_seen(&mut self, vpi: VpiId, seen: Seen) -> anyhow::Result<()> {
        let is_end = matches!(seen, Seen::Failed);
        if let Some(vpi) = self.vpis.get_mut(&vpi) {
            vpi.on_seen(seen, time());
            // A node that looks alive and moves nothing is worse than one that stops and is started again.
            anyhow::ensure!(!is_end, "the packets of {} cannot be moved any more", vpi.settings.name);
        }
        Ok(())
    }

    /// Does what is due, and everything that the engines want done.
    pub(super) fn turn(&mut self) -> anyhow::Result<()> {
        let time = time();
        self.ping_due(time);
        self.joins_due(time);
        self.statics_due(time)?;
        self.index.on_time(time.now);
        let mut happenings = Vec::new();
        for (id, vpi) in &mut self.vpis {
            if let Some((_, why)) = vpi.engine.poll_timeout().filter(|(at, _)| time.now >= *at) {
                trace!(vpi = vpi.settings.name, why, "due");
                vpi.engine.handle_timeout(time);
            }
            happenings
                .extend(vpi.drain(&mut self.index, time)?.into_iter().map(|happening| (*id, happening)));
        }
        for (id, happening) in happenings {
            self.on_happening(id, happening)?;
        }
        self.refresh_names();
        Ok(())
    }

    fn on_happening(&mut self, id: VpiId, happening: Happening) -> anyhow::Result<()> {
        match happening {
            Happening::Joined => self.on_joined(id)?,
            Happening::JoinFailed(failure) => self.on_join_failed(id, failure)?,
            Happening::Invited(ticket, outcome) => {
                if let Some(call) = self.invites.remove(&ticket) {
                    enter::answer_invite(&call, outcome);
                }
            }
            Happening::Signed(ticket, outcome) => self.on_signed(ticket, outcome),
            Happening::Left(outcome) => self.on_left(id, outcome)?,
            Happening::MapPort(ask) => self.mappings.ask(id, ask),
            Happening::Burst(is_running) => self.on_burst(id, is_running),
            Happening::Announce(datagram) => self.announce(&datagram),
            Happening::Pong(ticket, rtt) => self.on_pong(ticket, rtt),
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        let engines = self.vpis.values().filter_map(|vpi| vpi.engine.poll_timeout()).map(|(at, _)| at);
        let pings = self.pings.iter().map(PingJob::due_at);
        let joins = self.joins.values().map(PendingJoin::due_at);
        let own = [Some(self.look_at_statics_at), self.index.due_at()].into_iter().flatten();
        engines.chain(pings).chain(joins).chain(own).min()
    }
}

/// Sees to it that this device keeps its alias where the file of aliases has lost it: the settings have it, too.
fn pin_own(pins: &mut Vec<Pin>, device: DeviceId, alias: Ipv4Addr) {
    let [_, _, high, low] = alias.octets();
    let suffix = u16::from_be_bytes([high, low]);
    if (1..=SUFFIXES).contains(&suffix) && pins.iter().all(|pin| pin.device != device && pin.suffix != suffix)
    {
        pins.push(Pin { suffix, device, removed_at: None });
    }
}

/// Refuses settings that name another own alias than the one that is pinned: the machine would be set up for the former.
fn check_alias(settings: &VpiSettings, pinned: Ipv4Addr) -> Result<(), Failure> {
    let VpiSettings { name, alias, .. } = settings;
    if *alias == pinned {
        return Ok(());
    }
    let message =
        format!("vpi.toml of {name} has the alias {alias}, and the file of aliases {pinned} for this device");
    Err(Failure::new(Exit::Failed, message, format!("write alias = \"{pinned}\" there, and start again")))
}

async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
