//! What befalls machines: they start, move, sleep, wake, lose power; their clocks are set.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use protocol::engine::Command;
use protocol::identity::StaticSecret;

use super::{Occurrence, World};
use crate::host::{Input, Sleep};

impl World {
    /// Starts a node from its disk.
    pub(crate) fn start(&mut self, host: usize) -> Result<(), String> {
        if self.hosts[host].node.is_some()
            || self.hosts[host].asleep.is_some()
            || self.hosts[host].disk.vpi.is_none()
        {
            return Ok(());
        }
        self.trace.line(self.now, format_args!("{host} starts"));
        let time = self.time(host);
        self.hosts[host].start(time, &mut self.chance)?;
        self.watches[host].on_start();
        self.records.on_start(host, &self.hosts[host]);
        self.check_view(host)?;
        self.give(host, Input::Start)?;
        self.pin(host)?;
        for command in self.hosts[host].start_commands() {
            self.give(host, Input::Command(command))?;
        }
        if self.dht.is_some() {
            self.give(host, Input::Command(Command::Beacons(true)))?;
        }
        Ok(())
    }

    /// The host is at another address from here on, of the internet itself.
    pub(crate) fn roam(&mut self, host: usize) {
        let port = 1_024 + self.known.len() as u16;
        let address = SocketAddr::from(([198, 51, 100, host as u8 + 1], port));
        self.hosts[host].address = address;
        self.hosts[host].site = None;
        self.known.push((address, host));
        self.trace.line(self.now, format_args!("{host} is at {address}"));
    }

    /// The host is on the near network from here on, beside the internet, or not any more.
    pub(crate) fn plug(&mut self, host: usize, is_on: bool) {
        let near = SocketAddr::from(([10, 0, 0, host as u8 + 1], 41_414));
        self.hosts[host].near = is_on.then_some(near);
        if is_on && !self.known.contains(&(near, host)) {
            self.known.push((near, host));
        }
        self.trace.line(self.now, format_args!("{host} is near: {is_on}"));
    }

    /// The node dies where it stands; of what the disk was asked to keep a prefix survives, record by record, as `tear`
    /// says: 0 nothing, 100 everything.
    pub(crate) fn crash(&mut self, host: usize, tear: u8) {
        let records = self.hosts[host].disk.records_under_way();
        let survivors = (records * usize::from(tear)).div_ceil(100);
        if records > 0 {
            self.trace.line(self.now, format_args!("{host} keeps {survivors} of {records} records"));
        }
        self.hosts[host].crash(survivors);
        self.hosts[host].asleep = None;
    }

    /// Another static key is on the host's disk; its node, if it runs, is told to use it.
    pub(crate) fn new_static(&mut self, host: usize) -> Result<(), String> {
        let secret = StaticSecret::from_bytes(self.chance.bytes());
        let machine = &mut self.hosts[host];
        let former = std::mem::replace(&mut machine.static_secret, secret.clone());
        machine.former_statics.push(former);
        self.give(host, Input::Command(Command::Rekey(secret)))
    }

    /// The machine sleeps: no timer fires, nothing is heard, no write ends.
    pub(crate) fn sleep(&mut self, host: usize, clock_goes_on: bool) {
        let since = self.now;
        self.hosts[host].asleep.get_or_insert(Sleep { since, clock_goes_on });
    }

    /// The machine wakes, if it slept; what its disk was asked to keep comes to its end.
    pub(crate) fn wake_up(&mut self, host: usize) -> Result<(), String> {
        let Some(slept) = self.hosts[host].asleep.take() else { return Ok(()) };
        if !slept.clock_goes_on {
            self.hosts[host].clock.stand_still(self.now - slept.since);
        }
        let boot = self.hosts[host].boot;
        for _ in 0..self.hosts[host].disk.under_way.len() {
            self.schedule(self.disk_delay, Occurrence::Stored { host, boot });
        }
        // Where the kernel has no such word the node goes on as if nothing had been.
        if self.chance.percent(70) { self.give(host, Input::Command(Command::Woke)) } else { Ok(()) }
    }

    /// Wake-ups of `host` since this was last asked, by their reason.
    pub(crate) fn take_wakes(&mut self, host: usize) -> BTreeMap<&'static str, u32> {
        self.watches[host].take_wakes()
    }
}
