//! One VPI's way back in: its swarm, and what engine and swarm have to say to each other.
//!
//! ```text
//! settings, token, Presences ──► beacons ──► Swarm ◄── lookups, records, pipes ── Engine
//! ```
//!
//! Each VPI has a swarm and a peer id of its own, so that no beacon sees that two of them are on one machine. Without
//! beacons there is none, and nothing of it costs anything.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use protocol::engine::{Command, Event, Leave, Time};
use protocol::identity::VpiId;
use protocol::path::Remote;
use protocol::wire::header;
use tracing::{debug, warn};

use super::carry::Streams;
use super::node::Node;
use super::time;
use super::vpi::Vpi;
use crate::beacon::beside::Beside;
use crate::config::Settings;
use crate::pump::Seen;
use crate::swarm::{Ask, Beacon, BeaconState, BeaconStatus, INBOUND, Swarm, Told};

/// Beacons are asked for the time, and for their STUN responders, again if none answered (chosen: a start without a network).
const ASK_TIME_AGAIN: Duration = Duration::from_secs(30);
/// While members are searched for, they are asked again after this long: a clock may have been set wrong since.
const ASK_TIME_SELDOM: Duration = Duration::from_secs(600);
/// STUN servers at most: as many as an engine keeps.
const STUN_SERVERS: usize = 8;
/// This machine's clock is believed if it is off by less, in milliseconds: veils allow twice as much.
const CLOCK_OFF_MS: u64 = 60_000;
/// The clock of a machine cannot be right if it is before this, in unix seconds: the time of this version's build.
const BUILT_SECS: u64 = 1_767_225_600;

/// What the driver keeps of it.
#[derive(Default)]
pub(super) struct Way {
    swarm: Option<Swarm>,
    /// Beacons and STUN servers of the node's settings.
    named: Vec<String>,
    stun: Vec<SocketAddr>,
    /// The beacon that runs beside this node.
    own: Vec<Beacon>,
    /// As the swarm was told.
    beacons: Vec<Beacon>,
    status: Vec<BeaconStatus>,
    is_reserving: bool,
    /// Keys that are being looked up.
    lookups: BTreeMap<u64, [u8; 32]>,
    last_ticket: u64,
    addresses: Option<Vec<SocketAddr>>,
    time_asked_at: Option<Instant>,
    /// How far the right time is ahead of this machine's, in milliseconds, by beacons; where that is not made up for.
    clock_offset_ms: Option<i64>,
    /// Beacons were asked for the time, and have not told it, nor that they do not.
    awaits_time: bool,
    has_stun: bool,
    /// The streams that carry packets.
    pub(super) streams: Streams,
    /// Those that the engine gave up, with something in line perhaps.
    pub(super) ended_streams: Vec<u32>,
}

impl Way {
    /// How the beacons do.
    pub(super) fn status(&self) -> &[BeaconStatus] {
        &self.status
    }

    /// Says whether a beacon may still name STUN servers.
    pub(super) fn awaits_stun(&self) -> bool {
        let are_silent =
            !self.status.is_empty() && self.status.iter().all(|beacon| beacon.state == BeaconState::Silent);
        !self.has_stun && self.awaits_time && !are_silent
    }

    fn on_time_asked(&mut self, now: Instant) {
        self.awaits_time = true;
        self.time_asked_at = Some(now);
    }

    fn on_time_told(&mut self, stun: &[SocketAddr]) {
        self.awaits_time = false;
        self.has_stun |= !stun.is_empty();
    }

    /// Says whether a beacon answers.
    pub(super) fn is_answered(&self) -> bool {
        let is_there =
            |beacon: &BeaconStatus| matches!(beacon.state, BeaconState::Answers | BeaconState::Reserved);
        self.status.iter().any(is_there)
    }

    /// By how many seconds this machine's clock is ahead of beacons', where what is sent is dated by it all the same.
    pub(super) fn clock_ahead_secs(&self) -> Option<i64> {
        self.clock_offset_ms.map(|offset| offset.saturating_neg() / 1_000)
    }

    /// The beacons that are used, the surest first: for others to use.
    pub(super) fn beacons(&self) -> Vec<String> {
        self.beacons.iter().map(ToString::to_string).collect()
    }

    /// Asks the swarm, if there is one; returns whether it will be done.
    pub(super) fn ask(&self, ask: Ask) -> bool {
        self.swarm.as_ref().is_some_and(|swarm| swarm.ask(ask))
    }
}

/// Waits for what any swarm tells; without one, for ever. `None`: the swarm ended.
pub(super) async fn told(vpis: &mut BTreeMap<VpiId, Vpi>) -> (VpiId, Option<Told>) {
    poll_fn(|context| {
        for (id, vpi) in &mut *vpis {
            if let Some(swarm) = &mut vpi.way.swarm
                && let Poll::Ready(told) = swarm.poll_told(context)
            {
                return Poll::Ready((*id, told));
            }
        }
        Poll::Pending
    })
    .await
}

/// Waits until the beacon beside this node is elsewhere; without one, for ever.
pub(super) async fn moved(beside: &mut Option<Beside>) {
    match beside {
        Some(beside) => beside.changed().await,
        None => std::future::pending().await,
    }
}

impl Node {
    /// Tells every VPI where the beacon beside this node is.
    pub(super) fn on_beside(&mut self) {
        let (own, time) = (self.beside.as_ref().map_or(&[][..], Beside::beacons), time());
        for vpi in self.vpis.values_mut() {
            vpi.stand_beside(own, time);
        }
    }
}

impl Vpi {
    /// Takes in the node's settings, and where this machine is: elsewhere it is somebody else to beacons.
    pub(super) fn place(&mut self, settings: &Settings, addresses: Vec<SocketAddr>, time: Time) {
        self.way.named.clone_from(&settings.beacons);
        self.way.stun.clone_from(&settings.stun);
        self.look_at_beacons(time);
        let before = self.way.addresses.replace(addresses.clone());
        if before.is_some_and(|before| before != addresses) {
            self.way.ask(Ask::Renew);
            self.ask_time(time);
        }
        self.engine.handle_command(Command::Addresses(addresses), time);
        let leave = Leave { may_foretell: true, may_birthday: settings.birthday };
        self.engine.handle_command(Command::Bursts(leave), time);
        if !self.way.has_stun {
            self.engine.handle_command(Command::StunServers(settings.stun.clone()), time);
        }
    }

    /// This machine slept: beacons may have given it up.
    pub(super) fn on_woke(&mut self, time: Time) {
        self.way.ask(Ask::Renew);
        self.ask_time(time);
        self.engine.handle_command(Command::Woke, time);
    }

    /// Takes in where the beacon beside this node is. This device is reached over it where it reaches it itself, and so the
    /// others are told of it.
    pub(super) fn stand_beside(&mut self, own: &[Beacon], time: Time) {
        if self.way.own != own {
            self.way.own = own.to_vec();
            self.look_at_beacons(time);
        }
    }

    /// Takes the swarm away, for its end.
    pub(super) fn end_swarm(&mut self) -> Option<Swarm> {
        self.way.swarm.take()
    }

    /// Brings the swarm in line with the beacons that are known: the one beside this node, those named by the settings, the
    /// token and the command that founded the VPI, then those that members say they are reached over.
    pub(super) fn look_at_beacons(&mut self, time: Time) {
        if self.engine.is_removed() {
            self.way.swarm = None;
            return;
        }
        let told = self.engine.beacons().map(str::to_owned);
        let texts = self.settings.beacons.iter().chain(&self.way.named).cloned().chain(told);
        let others = texts.filter_map(|text| text.parse().ok());
        let mut beacons: Vec<Beacon> = Vec::new();
        for beacon in self.way.own.iter().copied().chain(others) {
            if !beacons.contains(&beacon) {
                beacons.push(beacon);
            }
        }
        if self.way.swarm.is_none() && !beacons.is_empty() {
            self.way = Way {
                swarm: Some(Swarm::start()),
                named: std::mem::take(&mut self.way.named),
                own: std::mem::take(&mut self.way.own),
                stun: std::mem::take(&mut self.way.stun),
                addresses: self.way.addresses.take(),
                ..Way::default()
            };
        }
        if beacons != self.way.beacons && self.way.ask(Ask::Beacons(beacons.clone())) {
            self.way.beacons = beacons;
            let are_known = !self.way.beacons.is_empty();
            self.engine.handle_command(Command::Beacons(are_known), time);
            self.ask_time(time);
        }
        let may_reserve = self.engine.belongs() && !self.way.beacons.is_empty();
        if may_reserve != self.way.is_reserving && self.way.ask(Ask::Reserve(may_reserve)) {
            self.way.is_reserving = may_reserve;
        }
    }

    /// Asks beacons for the time and for their STUN responders.
    fn ask_time(&mut self, time: Time) {
        if self.way.ask(Ask::Time) {
            self.way.on_time_asked(time.now);
        }
    }

    /// Does what the engine wants of the swarm; what cannot be asked of it is answered at once.
    pub(super) fn on_wish(&mut self, wish: Event, time: Time) {
        let pause = if self.way.has_stun { ASK_TIME_SELDOM } else { ASK_TIME_AGAIN };
        if self.way.time_asked_at.is_none_or(|at| time.now >= at + pause) {
            self.ask_time(time);
        }
        match wish {
            Event::Lookup { key } => {
                self.way.last_ticket += 1;
                let ticket = self.way.last_ticket;
                if self.way.ask(Ask::Get { ticket, key }) {
                    self.way.lookups.insert(ticket, key);
                } else {
                    let none = Command::Found { key, values: Vec::new(), answered: 0 };
                    self.engine.handle_command(none, time);
                }
            }
            Event::Publish { key, value, expires_in } => {
                let is_asked = self.way.ask(Ask::Put { key, value, expires_in });
                if !is_asked {
                    self.engine.handle_command(Command::Published(key, 0), time);
                }
            }
            Event::OpenCircuit { circuit, beacon, peer } => {
                let place = beacon.parse().ok().zip(PeerId::from_bytes(&peer).ok());
                let ask = place.map(|(beacon, peer)| Ask::Open { circuit, beacon, peer });
                if !ask.is_some_and(|ask| self.way.ask(ask)) {
                    self.engine.handle_command(Command::CircuitClosed(circuit), time);
                }
            }
            _ => {}
        }
    }

    /// Sends a datagram over a pipe; what finds no room is lost, as it may be on any network.
    pub(super) fn send_over(&self, circuit: u32, bytes: Vec<u8>) -> bool {
        self.way.ask(Ask::Frame { circuit, bytes })
    }

    /// Something authentic came over this pipe: if another opened it, it may stay.
    pub(super) fn vouch(&self, from: Remote) {
        if let Remote::Circuit(circuit) = from
            && circuit & INBOUND != 0
        {
            self.way.ask(Ask::Vouch(circuit));
        }
    }

    /// Takes in what the swarm tells.
    pub(super) fn on_told(&mut self, told: Option<Told>, time: Time) {
        let command = match told {
            None => {
                warn!(vpi = self.settings.name, "what asks beacons has ended, and is begun again");
                self.way.swarm = None;
                self.way.beacons.clear();
                self.way.awaits_time = false;
                self.end_streams(time);
                self.engine.handle_command(Command::Reserved(None), time);
                return self.look_at_beacons(time);
            }
            Some(Told::Beacons(status)) => {
                self.way.status = status;
                return;
            }
            Some(Told::Reserved(place)) => {
                Command::Reserved(place.map(|(beacon, peer)| (beacon.to_string(), peer.to_bytes())))
            }
            Some(Told::Found { ticket, values, answered, asked }) => {
                let Some(key) = self.way.lookups.remove(&ticket) else { return };
                debug!(vpi = self.settings.name, asked, answered, values = values.len(), "looked up");
                Command::Found { key, values, answered }
            }
            Some(Told::Stored { key, copies, asked }) => {
                debug!(vpi = self.settings.name, asked, copies, "published");
                Command::Published(key, copies)
            }
            Some(Told::Circuit { circuit, .. }) => {
                debug!(vpi = self.settings.name, circuit, "a pipe over a beacon stands");
                return;
            }
            Some(Told::Frame { circuit, bytes }) => return self.on_frame(circuit, bytes, time),
            Some(Told::Closed { circuit, ended }) => {
                debug!(vpi = self.settings.name, circuit, ?ended, "a pipe over a beacon is gone");
                Command::CircuitClosed(circuit)
            }
            Some(Told::CarryHeld { number, beacon }) => return self.on_carry_held(number, beacon, time),
            Some(Told::CarryOpen { number }) => Command::CarryOpen(number),
            Some(Told::CarryClosed { number, ended }) => return self.on_carry_closed(number, ended, time),
            Some(Told::Clock { offset_ms, stun }) => return self.on_clock(offset_ms, stun, time),
        };
        self.engine.handle_command(command, time);
    }

    /// A datagram came over a pipe: to the engine, or to the pump, which holds the keys of sessions.
    fn on_frame(&mut self, circuit: u32, bytes: Vec<u8>, time: Time) {
        if bytes.first() == Some(&header::VEILED) {
            self.on_seen(Seen::Veiled { from: Remote::Circuit(circuit), bytes }, time);
        } else {
            self.pass_on(circuit, bytes);
        }
    }

    /// STUN responders are asked from here on; a clock that cannot be right is corrected for veils and slots.
    fn on_clock(&mut self, offset_ms: Option<i64>, stun: Vec<SocketAddr>, time: Time) {
        self.way.on_time_told(&stun);
        if !stun.is_empty() {
            let servers = self.way.stun.iter().copied().chain(stun).take(STUN_SERVERS).collect();
            self.engine.handle_command(Command::StunServers(servers), time);
        }
        self.way.clock_offset_ms = offset_ms.or(self.way.clock_offset_ms);
        let wall_secs = time.wall_ms / 1_000;
        let is_wrong = wall_secs < BUILT_SECS || self.engine.clock_behind_secs(wall_secs).is_some();
        if let Some(offset_ms) = offset_ms.filter(|offset| is_wrong && offset.unsigned_abs() > CLOCK_OFF_MS) {
            warn!(
                vpi = self.settings.name,
                secs = offset_ms / 1_000,
                "this machine's clock is behind; what others check is dated by beacons' clocks"
            );
            self.way.clock_offset_ms = None;
            self.engine.handle_command(Command::ClockOffset(offset_ms), time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_told_the_time_without_a_stun_server_is_not_waited_for() {
        let mut way = Way::default();
        assert!(!way.awaits_stun(), "nobody was asked");
        way.on_time_asked(Instant::now());
        assert!(way.awaits_stun());
        way.on_time_told(&[]);
        assert!(!way.awaits_stun() && !way.has_stun);
        way.on_time_asked(Instant::now());
        way.on_time_told(&["192.0.2.7:3478".parse().unwrap()]);
        assert!(!way.awaits_stun() && way.has_stun);
    }
}
