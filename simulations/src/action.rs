//! What can happen to a world, besides what its hosts do by themselves.

use std::time::Duration;

use protocol::engine::Command;

use crate::host::Input;
use crate::net::link::Conditions;
use crate::world::World;

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    /// An application on `from` sends one packet of `bytes` bytes to `to`.
    Send { from: usize, to: usize, bytes: usize, wants_echo: bool },
    /// It sends `left` of them, `pause` apart.
    Stream { from: usize, to: usize, bytes: usize, wants_echo: bool, pause: Duration, left: u32 },
    /// The node dies where it stands. What was not stored yet is lost, or the first half of it is not.
    Crash { host: usize, loses_all: bool },
    /// The node starts, unless it runs.
    Start { host: usize },
    /// The node says goodbye and stops.
    Close { host: usize },
    /// The host has another address from here on; `tells` says whether its node notices and initiates to everyone.
    Roam { host: usize, tells: bool },
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
            Action::Crash { host, loses_all } => {
                let under_way = self.hosts[host].disk.under_way.len();
                self.hosts[host].crash(if loses_all { 0 } else { under_way.div_ceil(2) });
                Ok(())
            }
            Action::Start { host } => self.start(host),
            Action::Close { host } => {
                self.give(host, Input::Command(Command::Close))?;
                let under_way = self.hosts[host].disk.under_way.len();
                self.hosts[host].crash(under_way);
                Ok(())
            }
            Action::Roam { host, tells } => {
                self.roam(host);
                let others = (0..self.hosts.len()).filter(|other| tells && *other != host);
                others.into_iter().try_for_each(|to| self.act(Action::Connect { from: host, to }))
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
}
