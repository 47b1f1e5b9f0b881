//! What can happen to a world, besides what its hosts do by themselves.

use std::time::Duration;

use protocol::engine::{Command, Removal, Ticket};
use protocol::identity::InviteId;
use protocol::membership::object::Reason;

use crate::host::Input;
use crate::net::cut::Group;
use crate::net::link::Conditions;
use crate::world::World;

/// Names removals; the answer says whose it is.
const REMOVAL: Ticket = 2;

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    /// An application on `from` sends one packet of `bytes` bytes to `to`.
    Send { from: usize, to: usize, bytes: usize, wants_echo: bool },
    /// It sends `left` of them, `pause` apart.
    Stream { from: usize, to: usize, bytes: usize, wants_echo: bool, pause: Duration, left: u32 },
    /// The node dies where it stands. Of what was being stored this much survives, in a hundred records.
    Crash { host: usize, tear: u8 },
    /// The node starts, unless it runs.
    Start { host: usize },
    /// The node says goodbye and stops.
    Close { host: usize },
    /// The host has another address from here on; `tells` says whether its node notices.
    Roam { host: usize, tells: bool },
    /// The host is on the near network from here on, or not any more; `tells` says whether its node notices.
    Near { host: usize, is_on: bool, tells: bool },
    /// The machine sleeps, its monotonic clock going on or not.
    Sleep { host: usize, clock_goes_on: bool },
    /// It wakes, if it sleeps.
    Wake { host: usize },
    /// Its wall clock is set to be off by this many milliseconds.
    Clock { host: usize, off_ms: i64 },
    /// Nothing passes between a group and all others; if `is_one_way`, only what the group sends is lost.
    Cut { group: Group, is_one_way: bool },
    /// All cuts are healed.
    Heal,
    /// `admin` removes `target`.
    Remove { admin: usize, target: usize },
    /// `host` leaves.
    Leave { host: usize },
    /// `admin` takes an invite back.
    Revoke { admin: usize, invite: InviteId },
    /// `host` makes another static key its own.
    NewStatic { host: usize },
    /// `from` initiates to `to`.
    Connect { from: usize, to: usize },
    /// `host` is told where `of` is.
    Remember { host: usize, of: usize },
    /// `from` measures the round trip to `to`.
    Ping { from: usize, to: usize },
    /// The internet behaves like this from here on.
    Internet(Conditions),
    /// Stores take this long from here on.
    Disk(Duration),
    /// The adversary sends this many datagrams to every host.
    Attack { shots: u32 },
}

impl World {
    /// Lets `action` happen.
    ///
    /// # Errors
    /// What did not hold.
    pub(crate) fn act(&mut self, action: Action) -> Result<(), String> {
        self.trace.line(self.now, format_args!("{action:?}"));
        match action {
            Action::Send { from, to, bytes, wants_echo } => {
                self.send_packet((from, to), bytes, (wants_echo, None))
            }
            Action::Stream { from, to, bytes, wants_echo, pause, left } => {
                if left > 1 {
                    let left = left - 1;
                    self.later(pause, Action::Stream { from, to, bytes, wants_echo, pause, left });
                }
                self.send_packet((from, to), bytes, (wants_echo, None))
            }
            Action::Crash { host, tear } => {
                self.crash(host, tear);
                Ok(())
            }
            Action::Start { host } => self.start(host),
            Action::Close { host } => {
                self.give(host, Input::Command(Command::Close))?;
                if self.hosts[host].asleep.is_none() {
                    self.crash(host, 100);
                }
                Ok(())
            }
            Action::Roam { host, tells } => {
                self.roam(host);
                let addresses = self.hosts[host].addresses();
                if tells { self.give(host, Input::Command(Command::Addresses(addresses))) } else { Ok(()) }
            }
            Action::Near { host, is_on, tells } => {
                self.plug(host, is_on);
                let addresses = self.hosts[host].addresses();
                if tells { self.give(host, Input::Command(Command::Addresses(addresses))) } else { Ok(()) }
            }
            Action::Sleep { host, clock_goes_on } => {
                self.sleep(host, clock_goes_on);
                Ok(())
            }
            Action::Wake { host } => self.wake_up(host),
            Action::Clock { host, off_ms } => {
                self.hosts[host].clock.off_ms = off_ms;
                Ok(())
            }
            Action::Cut { group, is_one_way } => {
                self.cuts.cut_off(group, is_one_way, self.hosts.len());
                Ok(())
            }
            Action::Heal => {
                self.cuts.heal();
                Ok(())
            }
            Action::Remove { .. }
            | Action::Leave { .. }
            | Action::Revoke { .. }
            | Action::Connect { .. }
            | Action::Remember { .. }
            | Action::Ping { .. } => self.command(action),
            Action::NewStatic { host } => self.new_static(host),
            Action::Internet(conditions) => {
                self.internet = conditions;
                Ok(())
            }
            Action::Disk(delay) => {
                self.disk_delay = delay;
                Ok(())
            }
            Action::Attack { shots } => {
                (0..shots).for_each(|_| self.attack());
                Ok(())
            }
        }
    }

    /// Gives a node the command that `action` is.
    fn command(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Remove { admin, target } => {
                let target = self.hosts[target].id();
                let removal = Removal { target, reason: Reason::Lost, offline: false };
                self.have_signed(admin, Command::Remove(REMOVAL, removal))
            }
            Action::Leave { host } => self.give(host, Input::Command(Command::Leave(REMOVAL))),
            Action::Revoke { admin, invite } => {
                self.have_signed(admin, Command::Revoke(REMOVAL, invite, false))
            }
            Action::Connect { from, to } => {
                let device = self.hosts[to].id();
                self.give(from, Input::Command(Command::Connect(device)))
            }
            Action::Remember { host, of } => {
                let (device, address) = (self.hosts[of].id(), self.hosts[of].address);
                self.give(host, Input::Command(Command::Remember(device, address)))
            }
            Action::Ping { from, to } => {
                let device = self.hosts[to].id();
                self.give(from, Input::Command(Command::Ping(0, device)))
            }
            _ => Ok(()),
        }
    }
}
