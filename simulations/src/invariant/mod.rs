//! What must hold after every step, whatever happened.
//!
//! [`wire`]: what is sent, and what comes out. [`belonging`]: who belongs, what is on disk, who holds which secret.
//! Here: a host's aliases, links and timers.

pub(crate) mod belonging;
pub(crate) mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use protocol::engine::Event;
use protocol::identity::DeviceId;

use crate::host::Host;

/// Calls of `handle_timeout` at one instant at most: more is a loop without end.
const MAX_TIMEOUTS_AT_ONCE: u32 = 2;
/// Timeouts of one host in ten seconds at most, for each host that there is.
const MAX_TIMEOUTS_IN_TEN_SECONDS: u32 = 100;

/// Datagrams of one host to addresses that nobody was ever seen at, in one second: those of one burst, and a member's
/// candidates.
const MAX_GUESSES_A_SECOND: usize = 232;

/// What is known of one host from what it did so far.
#[derive(Default)]
pub(crate) struct Watch {
    /// Every alias that was ever given, and to whom.
    aliases: BTreeMap<u16, DeviceId>,
    /// Links that are up, as the events said.
    links: BTreeMap<DeviceId, bool>,
    timeouts_at: Option<Duration>,
    timeouts: u32,
    window_at: Duration,
    in_window: u32,
    /// Wake-ups since the last look, by their reason.
    wakes: BTreeMap<&'static str, u32>,
    /// When datagrams to guessed addresses were sent, in the last second.
    guesses: VecDeque<Duration>,
}

impl Watch {
    /// A process started: its links are down.
    pub(crate) fn on_start(&mut self) {
        self.links.clear();
    }

    /// A timeout is about to be handled at `now`, on one of `hosts` machines.
    pub(crate) fn on_timeout(&mut self, now: Duration, why: &'static str, hosts: u32) -> Result<(), String> {
        self.timeouts = if self.timeouts_at == Some(now) { self.timeouts + 1 } else { 1 };
        self.timeouts_at = Some(now);
        if now > self.window_at + Duration::from_secs(10) {
            (self.window_at, self.in_window) = (now, 0);
        }
        // A burst ends by itself, and what it sends is bounded.
        self.in_window += u32::from(why != "burst");
        *self.wakes.entry(why).or_default() += 1;
        if self.timeouts > MAX_TIMEOUTS_AT_ONCE {
            return Err(format!(
                "busy loop: {} timeouts at one instant, the last for \"{why}\"",
                self.timeouts
            ));
        }
        if self.in_window > MAX_TIMEOUTS_IN_TEN_SECONDS * hosts {
            return Err(format!("{} timeouts in ten seconds, the last for \"{why}\"", self.in_window));
        }
        Ok(())
    }

    /// A datagram goes to where nobody was ever seen.
    pub(crate) fn on_guess(&mut self, now: Duration) -> Result<(), String> {
        self.guesses.push_back(now);
        while self.guesses.front().is_some_and(|at| *at + Duration::from_secs(1) <= now) {
            self.guesses.pop_front();
        }
        if self.guesses.len() <= MAX_GUESSES_A_SECOND {
            return Ok(());
        }
        Err(format!("{} datagrams in a second to where nobody ever was", self.guesses.len()))
    }

    /// Wake-ups since the last look, by their reason.
    pub(crate) fn take_wakes(&mut self) -> BTreeMap<&'static str, u32> {
        std::mem::take(&mut self.wakes)
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
