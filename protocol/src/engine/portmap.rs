//! The port that a gateway maps to the data socket: where it leads is told as every address of this device's is.
//!
//! In: the gateway, what came of asking it. Out: [`Event::MapPort`], candidates, Presences. A member asks only, and gives back
//! what it has when it is none any more, or stops.

use std::net::SocketAddr;

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
        let before = self.portmap.outside();
        self.portmap.set_gateway(gateway, port, time.now);
        self.on_portmap(before, time);
    }

    /// What came of what [`Event::MapPort`] wanted.
    pub(super) fn on_port_asked(&mut self, ask: &Ask, outcome: Outcome, time: Time) {
        let before = self.portmap.outside();
        self.portmap.on_outcome(ask, outcome, &mut self.rng, time.now);
        self.on_portmap(before, time);
    }

    /// Asks what is due.
    pub(super) fn portmap_due(&mut self, time: Time) {
        self.on_portmap(self.portmap.outside(), time);
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
        while let Some(ask) = self.portmap.poll(time.now) {
            self.out.events.push_back(Event::MapPort(ask));
        }
    }

    fn on_portmap(&mut self, before: Option<SocketAddr>, time: Time) {
        if !self.is_member() {
            return;
        }
        self.ask_gateway(time);
        if self.portmap.outside() != before {
            self.on_own_candidates(time);
            // Consent to pass on may hang on it.
            self.on_consent(self.relaying.consent, time);
        }
    }

    /// The mapping, for whoever wants to know.
    #[must_use]
    pub fn portmap(&self) -> &PortMap {
        &self.portmap
    }
}
