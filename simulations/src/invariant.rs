//! What must hold after every step, whatever happened.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use protocol::drop::DropReason;
use protocol::engine::{Event, Transmit};
use protocol::identity::DeviceId;
use protocol::wire::ip::Ipv4;

use crate::adversary;
use crate::host::Host;
use crate::traffic::{Arrived, Ledger, recognise};

/// Datagrams that one input may cause at most: all held packets, a page of news, an exchange's questions.
const MAX_TRANSMITS_AT_ONCE: usize = 200;
/// Calls of `handle_timeout` at one instant at most: more is a loop without end.
const MAX_TIMEOUTS_AT_ONCE: u32 = 2;
/// Timeouts of one host in one second at most, on average over ten.
const MAX_TIMEOUTS_IN_TEN_SECONDS: u32 = 400;

/// What is known of one host from what it did so far.
#[derive(Default)]
pub(crate) struct Watch {
    /// Every alias that was ever given, and to whom.
    aliases: BTreeMap<u16, DeviceId>,
    /// Links that are up, as the events said.
    links: BTreeMap<DeviceId, bool>,
    timeouts_at: Option<Instant>,
    timeouts: u32,
    window_at: Duration,
    in_window: u32,
}

impl Watch {
    /// A process started: its links are down.
    pub(crate) fn on_start(&mut self) {
        self.links.clear();
    }

    /// A timeout is about to be handled at `now`.
    pub(crate) fn on_timeout(&mut self, now: Instant, at: Duration, why: &str) -> Result<(), String> {
        self.timeouts = if self.timeouts_at == Some(now) { self.timeouts + 1 } else { 1 };
        self.timeouts_at = Some(now);
        if at > self.window_at + Duration::from_secs(10) {
            (self.window_at, self.in_window) = (at, 0);
        }
        self.in_window += 1;
        if self.timeouts > MAX_TIMEOUTS_AT_ONCE {
            return Err(format!(
                "busy loop: {} timeouts at one instant, the last for \"{why}\"",
                self.timeouts
            ));
        }
        if self.in_window > MAX_TIMEOUTS_IN_TEN_SECONDS {
            return Err(format!("{} timeouts in ten seconds, the last for \"{why}\"", self.in_window));
        }
        Ok(())
    }

    /// The host wrote its aliases.
    pub(crate) fn on_pins(&mut self, host: &Host) -> Result<(), String> {
        for pin in &host.disk.pins {
            let holder = *self.aliases.entry(pin.suffix).or_insert(pin.device);
            if holder != pin.device {
                return Err(format!("alias {} of {holder:?} was given to {:?}", pin.suffix, pin.device));
            }
        }
        Ok(())
    }

    /// The host said something.
    pub(crate) fn on_event(&mut self, event: &Event) -> Result<(), String> {
        let Event::Link { device, is_up } = event else { return Ok(()) };
        if self.links.insert(*device, *is_up).unwrap_or(false) == *is_up {
            return Err(format!("the link with {device:?} is said to be up={is_up} twice"));
        }
        Ok(())
    }
}

/// Bytes of a challenge: a sealed probe.
const CHALLENGE_BYTES: usize = 41;

/// Only members are answered, and no input makes a host send without measure. Who has brought a genuine datagram from
/// its own address, as a member that moved would, may be challenged; it gets nothing more.
pub(crate) fn check_transmits(
    transmits: &[Transmit],
    known: &[SocketAddr],
    may_challenge: bool,
) -> Result<(), String> {
    if transmits.len() > MAX_TRANSMITS_AT_ONCE {
        return Err(format!("{} datagrams for one input", transmits.len()));
    }
    for transmit in transmits {
        if transmit.to == adversary::address() {
            if may_challenge && transmit.datagram.len() == CHALLENGE_BYTES {
                continue;
            }
            return Err(format!("a stranger was answered with {} bytes", transmit.datagram.len()));
        }
        if !known.contains(&transmit.to) {
            return Err(format!("a datagram was sent to {}, where nobody ever was", transmit.to));
        }
    }
    Ok(())
}

/// A packet that came out at host `at` is one that was sent to it, unchanged, once, under its sender's alias. Returns
/// its number; `None` for an error of the node's own.
pub(crate) fn check_packet(
    packet: &[u8],
    at: usize,
    hosts: &[Host],
    ledger: &mut Ledger,
) -> Result<Option<u64>, String> {
    let host = &hosts[at];
    let to_own = |view: &Ipv4<'_>| Some(view.destination()) == host.alias_of(&host.id());
    match recognise(packet) {
        Arrived::Strange(what) => Err(format!("a packet of {} bytes came out that {what}", packet.len())),
        Arrived::Error(view) if to_own(&view) && host.device_at(view.source()).is_some() => Ok(None),
        Arrived::Error(_) => Err("an error came out under an address that is no member's".to_owned()),
        Arrived::Whole(number, view) => {
            let sent = ledger.get_mut(number).ok_or("a packet came out that nobody sent")?;
            if sent.to != at || !to_own(&view) {
                return Err(format!("packet {number} to {} came out at {at}", sent.to));
            }
            if host.device_at(view.source()) != Some(hosts[sent.from].id()) {
                return Err(format!("packet {number} of {} came out as from {}", sent.from, view.source()));
            }
            if sent.arrived_at.is_some() {
                return Err(format!("packet {number} came out twice"));
            }
            if sent.bytes != packet.len() {
                return Err(format!("packet {number} has {} bytes, not {}", packet.len(), sent.bytes));
            }
            Ok(Some(number))
        }
    }
}

/// Reasons for which a datagram may be dropped and still be one that the host took: sent again, it is a replay.
pub(crate) fn is_taken(dropped: &[DropReason]) -> bool {
    dropped.iter().all(|reason| {
        matches!(reason, DropReason::VeilReplayed | DropReason::Replayed | DropReason::ControlOnly)
    })
}

/// Nobody's history forked, and no invite let in more than it should.
pub(crate) fn check_alarms(host: &Host, now: Instant) -> Result<(), String> {
    let Some(node) = &host.node else { return Ok(()) };
    match node.engine.status(now).alarms.first() {
        Some(alarm) => Err(format!("alarm at {}: {alarm:?}", host.name)),
        None => Ok(()),
    }
}
