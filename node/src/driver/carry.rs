//! Streams through beacons that carry packets: an engine's wishes to the swarm, and what becomes of them.
//!
//! The packets themselves pass between pump and swarm, by a [`Line`] each; what the engine sends goes the same way.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::engine::{CarryEnd, Command, Event, Time};
use tracing::debug;

use super::vpi::Vpi;
use super::way::Way;
use crate::carry::Line;
use crate::swarm::{Ask, Beacon, CarryEnded, Wish};

/// The streams, by the engine's numbers.
pub(super) type Streams = BTreeMap<u32, Stream>;

/// One stream.
pub(super) struct Stream {
    line: Arc<Line>,
    /// Where its two ends are joined.
    beacon: Option<Beacon>,
}

impl Way {
    /// Sends a datagram over a stream, if there is one of this number.
    pub(super) fn send_on(&self, number: u32, datagram: &[u8]) -> bool {
        self.streams.get(&number).map(|stream| stream.line.send(datagram.to_vec())).is_some()
    }

    /// The beacon that carries the stream of this number.
    pub(super) fn beacon_of(&self, number: u32) -> Option<Beacon> {
        self.streams.get(&number)?.beacon
    }
}

impl Vpi {
    /// Asks for a stream, or gives one up.
    pub(super) fn on_carry_wish(&mut self, wish: Event, time: Time) {
        match wish {
            Event::Carry { number, token, beacon, is_offer } => {
                let at: Option<Beacon> = beacon.and_then(|beacon| beacon.parse().ok());
                let line = self.pump.open_line(number, Arc::clone(&self.drops));
                self.way.streams.insert(number, Stream { line: Arc::clone(&line), beacon: at });
                let is_sensible = is_offer || at.is_some();
                if !is_sensible || !self.way.ask(Ask::Carry(Wish { number, token, at, is_offer, line })) {
                    self.on_carry_closed(number, CarryEnded::Gone, time);
                }
            }
            // What is to be sent goes first: a goodbye is among it.
            Event::CloseCarry(number) => self.way.ended_streams.push(number),
            _ => {}
        }
    }

    /// Ends the streams that the engine gave up, once what it wanted to send is in their lines.
    pub(super) fn forget_ended_streams(&mut self) {
        for number in std::mem::take(&mut self.way.ended_streams) {
            self.forget_stream(number);
        }
    }

    fn forget_stream(&mut self, number: u32) {
        if let Some(stream) = self.way.streams.remove(&number) {
            stream.line.end();
            self.pump.close_line(number);
        }
    }

    /// A beacon holds this end, and waits for the other.
    pub(super) fn on_carry_held(&mut self, number: u32, beacon: Beacon, time: Time) {
        if let Some(stream) = self.way.streams.get_mut(&number) {
            stream.beacon = Some(beacon);
            self.engine.handle_command(Command::CarryHeld(number, beacon.to_string()), time);
        }
    }

    /// A stream is gone, or did not come to be.
    pub(super) fn on_carry_closed(&mut self, number: u32, ended: CarryEnded, time: Time) {
        debug!(vpi = self.settings.name, number, ?ended, "a stream through a beacon is gone");
        self.forget_stream(number);
        let end = match ended {
            CarryEnded::NoneCarries => CarryEnd::NoneCarries,
            CarryEnded::Gone => CarryEnd::Gone,
        };
        self.engine.handle_command(Command::CarryClosed(number, end), time);
    }

    /// What asks beacons is gone, and all streams with it.
    pub(super) fn end_streams(&mut self, time: Time) {
        for number in self.way.streams.keys().copied().collect::<Vec<_>>() {
            self.on_carry_closed(number, CarryEnded::Gone, time);
        }
    }
}
