//! The port that a gateway maps to the data socket: where it leads is told as every address of this device's is.
//!
//! In: the gateway, what came of asking it. Out: [`Event::MapPort`], candidates, Presences. A member asks only, and gives back
//! what it has when it is none any more, or stops.

use std::net::SocketAddr;

use super::candidates::GATHER_FOR;
use super::outbox::Event;
use super::{Config, Engine, Time};
use crate::identity::derive;
use crate::path::portmap::{Ask, Gateway, Outcome, PortMap};

/// No mapping yet, of a number that stays the same for this device and this VPI.
pub(super) fn of(config: &Config) -> PortMap {
    PortMap::new(derive(&config.vpi, &config.device.seed(), "port mapping", &[]))
}

impl Engine {
    /// This machine's gateway, and the port of the data socket; `None`: there is none, or it is not to be asked.
    pub(super) fn on_gateway(&mut self, gateway: Option<Gateway>, port: u16, time: Time) {
        self.portmap.set_gateway(gateway, port, time.now);
        self.portmap_due(time);
    }

    /// What came of what [`Event::MapPort`] wanted.
    pub(super) fn on_port_asked(&mut self, ask: &Ask, outcome: Outcome, time: Time) {
        self.portmap.on_outcome(ask, outcome, &mut self.rng, time.now);
        self.portmap_due(time);
    }

    /// Asks what is due, and tells where that leads.
    pub(super) fn portmap_due(&mut self, time: Time) {
        if self.is_member() {
            self.ask_gateway(time);
            self.look_at_mapped(time);
        }
    }

    /// Asks once more where nobody mapped a port when asked last.
    pub(super) fn hasten_portmap(&mut self, time: Time) {
        if self.portmap.hasten(time.now) {
            self.portmap_due(time);
        }
    }

    /// Gives the mapping back.
    pub(super) fn end_portmap(&mut self, time: Time) {
        self.portmap.close();
        self.ask_gateway(time);
    }

    fn ask_gateway(&mut self, time: Time) {
        while let Some(ask) = self.portmap.poll(&mut self.rng, time.now) {
            self.out.events.push_back(Event::MapPort(ask));
        }
    }

    /// The mapped port may lead elsewhere than was told, or servers see this machine elsewhere. A change of networks changes
    /// several things at once, which are told together.
    pub(super) fn look_at_mapped(&mut self, time: Time) {
        let mapped = self.mapped();
        if !self.is_member() || std::mem::replace(&mut self.candidates.mapped, mapped) == mapped {
            return;
        }
        self.on_own_candidates(time);
        self.publish_at.get_or_insert(time.now + GATHER_FOR);
        // Consent to pass on may hang on it.
        self.end_unwilling(time);
    }

    /// Where everybody reaches the data socket, by the port that a gateway maps. None where servers see this machine, and all at
    /// other addresses: the gateway is behind another NAT, or says what is not so.
    #[must_use]
    pub fn mapped(&self) -> Option<SocketAddr> {
        let reflexive = &self.candidates.reflexive;
        self.portmap.outside().filter(|outside| !reflexive.is_seen_elsewhere(outside.ip()))
    }

    /// The mapping, for whoever wants to know.
    #[must_use]
    pub fn portmap(&self) -> &PortMap {
        &self.portmap
    }
}
