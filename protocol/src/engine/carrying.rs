//! Streams through beacons that carry packets, for two members between which no datagram passes (README §20).
//!
//! In: a link that has nothing but a pipe; what becomes of a stream; the other end's offer. Out: [`Event::Carry`], an offer,
//! checks. A stream is a far end like any other: a check that is echoed through it makes it a path, the last but one, and
//! every better path that is found takes its place.
//!
//! ```text
//! None ── only a pipe for 3 s, and wanted ──► Asked ── a beacon holds it; the other end is told ──► Opening ─┐ the beacon has
//!   │                                                                                                        ├──► Open
//!   └── the other end's offer ─────────────────────────────────────────────────────────────────► Opening ────┘ both ends
//! any ── closed, not used for 10 s, or the link is down ──► None
//! ```

use std::time::{Duration, Instant};

use rand_core::Rng as _;

use super::circuits::NUMBERS;
use super::outbox::Event;
use super::trail::Step;
use super::{Engine, Time};
use crate::bucket::{Bucket, Rate};
use crate::drop::DropReason;
use crate::identity::{DeviceId, Secret};
use crate::path::punch::CHECK_BYTES;
use crate::path::{Found, Remote};
use crate::random::{self, jittered};
use crate::wire::message::Message;

/// A link has nothing but a pipe for this long before a stream is asked for, ± 20 % (chosen: checks, and members that pass on,
/// have answered by then if they can).
const CARRY_AFTER: Duration = Duration::from_secs(3);
/// Between two askings for one member, ± 20 % (chosen: longer than a beacon holds one end).
const AGAIN_AFTER: Duration = Duration::from_secs(15);
/// The same where no beacon that is known carries (chosen: one that comes up is found while its user still looks).
const NONE_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Between two checks of a stream that is no path yet: what the two ends' lines drop is checked again.
const CHECK_AGAIN: Duration = Duration::from_secs(1);
/// How long the echo of the first may take (chosen: a geostationary link at both ends takes two seconds); until then it is the
/// same check that is sent again.
const CHECK_FOR: Duration = Duration::from_secs(5);
/// A stream is kept for this long behind a better path: what is under way on it arrives.
const UNUSED_FOR: Duration = Duration::from_secs(10);
/// Offers taken from one member: each makes this machine call a beacon.
const OFFERS: Rate = Rate { per_second: 0.2, burst: 4.0 };
/// Streams at once (chosen: what their lines may hold is 8 MiB).
const MAX_STREAMS: usize = 32;

/// Why a stream is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CarryEnd {
    /// No beacon that answers carries.
    NoneCarries,
    /// It ended, or the other end did not come.
    Gone,
}

#[derive(Debug, Default)]
enum Stream {
    #[default]
    None,
    /// A beacon is asked to hold this end.
    Asked { number: u32, token: Secret },
    /// One end waits at a beacon for the other.
    Opening { number: u32, is_own: bool },
    /// Frames pass.
    Open {
        number: u32,
        /// The check that is out.
        check: Option<(u64, Instant)>,
        check_at: Instant,
        /// Until when it is kept behind a better path.
        kept_until: Option<Instant>,
    },
}

/// The stream to one member.
#[derive(Debug)]
pub(super) struct Carrying {
    stream: Stream,
    /// When a stream is asked for, if the link still has nothing but a pipe then.
    ask_at: Option<Instant>,
    not_before: Option<Instant>,
    look_at: Option<Instant>,
    offers: Bucket,
    /// When it was asked for last, no beacon that answered carried.
    has_no_beacon: bool,
}

impl Default for Carrying {
    fn default() -> Self {
        let offers = Bucket::new(OFFERS);
        Self {
            stream: Stream::None,
            ask_at: None,
            not_before: None,
            look_at: None,
            offers,
            has_no_beacon: false,
        }
    }
}

impl Carrying {
    /// Its number, if there is one.
    pub(super) fn number(&self) -> Option<u32> {
        match self.stream {
            Stream::None => None,
            Stream::Asked { number, .. } | Stream::Opening { number, .. } | Stream::Open { number, .. } => {
                Some(number)
            }
        }
    }

    /// When something is due.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }
}

impl Engine {
    /// Says whether packets for `device` would have to be carried, and no beacon that answered does.
    #[must_use]
    pub fn lacks_carrier(&self, device: &DeviceId) -> bool {
        let lacks = |peer: &super::peer::Peer| {
            peer.carrying.has_no_beacon && matches!(peer.path.remote(), Some(Remote::Circuit(_)))
        };
        self.peers.get(device).is_some_and(lacks)
    }

    /// Sees whether a stream to `device` is needed, is to be checked, or is not needed any more.
    pub(super) fn watch_carrying(&mut self, device: &DeviceId, time: Time) {
        let now = time.now;
        let may_ask = self.finding.is_on() && self.joining.is_none() && self.streams() < MAX_STREAMS;
        let is_wanted = self.peers.get(device).is_some_and(|peer| self.is_wanted(peer, time));
        let patience = jittered(CARRY_AFTER, &mut self.rng);
        let Some(peer) = self.peers.get_mut(device) else { return };
        let used = peer.path.remote().filter(|_| peer.sessions.current(now).is_some());
        let is_silent = peer.is_silent();
        let carrying = &mut peer.carrying;
        let has_only_pipe = matches!(used, Some(Remote::Circuit(_)));
        let ask_at = has_only_pipe.then(|| carrying.ask_at.unwrap_or(now + patience));
        (carrying.ask_at, carrying.look_at) = (ask_at, None);
        match &mut carrying.stream {
            Stream::None => {
                let due = ask_at.map(|ask_at| carrying.not_before.unwrap_or(ask_at).max(ask_at));
                let Some(due) = due.filter(|_| may_ask && is_wanted) else { return };
                if now < due {
                    carrying.look_at = Some(due);
                } else {
                    self.ask_to_carry(device, time);
                }
            }
            Stream::Asked { .. } | Stream::Opening { .. } => {}
            Stream::Open { number, check, check_at, kept_until } => {
                let remote = Remote::Carried(*number);
                let is_better = used.is_some_and(|used| used.rank() > remote.rank()) && !is_silent;
                *kept_until = kept_until.or(Some(now + UNUSED_FOR)).filter(|_| is_better);
                if kept_until.is_some_and(|until| now >= until) {
                    return self.end_carrying(device);
                }
                if is_better || used.is_none_or(|used| used == remote) {
                    carrying.look_at = *kept_until;
                } else if now < *check_at {
                    carrying.look_at = Some(*check_at);
                } else {
                    let out = check.filter(|(_, sent_at)| now < *sent_at + CHECK_FOR);
                    let (id, sent_at) = out.unwrap_or((self.rng.next_u64(), now));
                    (*check, *check_at) = (Some((id, sent_at)), now + CHECK_AGAIN);
                    carrying.look_at = Some(*check_at);
                    self.send_message_to(device, &Message::Check { id, length: CHECK_BYTES }, remote, time);
                }
            }
        }
    }

    fn streams(&self) -> usize {
        self.peers.values().filter(|peer| peer.carrying.number().is_some()).count()
    }

    fn next_number(&mut self) -> u32 {
        let number = self.next_circuit;
        self.next_circuit = (number + 1) % NUMBERS;
        number
    }

    /// Asks a beacon that carries to hold this end of a stream: the one at which the member is met, before all others.
    fn ask_to_carry(&mut self, device: &DeviceId, time: Time) {
        let presence = self.roster.objects().presence_of(device);
        let beacon = presence.and_then(|(_, presence)| Some(presence.beacon.as_ref()?.0.clone()));
        let (number, token) = (self.next_number(), Secret(random::bytes(&mut self.rng)));
        let Some(peer) = self.peers.get_mut(device) else { return };
        peer.carrying.stream = Stream::Asked { number, token: token.clone() };
        peer.carrying.not_before = Some(time.now + jittered(AGAIN_AFTER, &mut self.rng));
        peer.trail.add_once(Step::CarryAsked, time.now);
        self.out.events.push_back(Event::Carry { number, token, beacon, is_offer: true });
    }

    fn peer_of_stream(&self, number: u32) -> Option<DeviceId> {
        let has = |peer: &super::peer::Peer| peer.carrying.number() == Some(number);
        self.peers.iter().find(|(_, peer)| has(peer)).map(|(device, _)| *device)
    }

    /// A beacon holds this end: the other is told where.
    pub(super) fn on_carry_held(&mut self, number: u32, beacon: &str, time: Time) {
        let Some(device) = self.peer_of_stream(number) else { return };
        let Some(peer) = self.peers.get_mut(&device) else { return };
        let Stream::Asked { token, .. } = &peer.carrying.stream else { return };
        let token = token.clone();
        peer.carrying.stream = Stream::Opening { number, is_own: true };
        peer.carrying.has_no_beacon = false;
        self.send_message(&device, &Message::Carry { token, beacon }, time);
    }

    /// A member waits at a beacon. Where both ends wait, the leading one's beacon is taken.
    pub(super) fn on_carry(
        &mut self,
        device: &DeviceId,
        (token, beacon): (Secret, &str),
        time: Time,
    ) -> Result<(), DropReason> {
        let has_room = self.streams() < MAX_STREAMS;
        let Some(peer) = self.peers.get_mut(device) else { return Err(DropReason::NotMember) };
        if !peer.carrying.offers.take(time.now) {
            return Err(DropReason::RateLimited);
        }
        let is_own =
            matches!(peer.carrying.stream, Stream::Asked { .. } | Stream::Opening { is_own: true, .. });
        if is_own && peer.is_lower || !has_room && peer.carrying.number().is_none() {
            return Ok(());
        }
        self.end_carrying(device);
        let number = self.next_number();
        let Some(peer) = self.peers.get_mut(device) else { return Ok(()) };
        peer.carrying.stream = Stream::Opening { number, is_own: false };
        peer.trail.add_once(Step::CarryAsked, time.now);
        let beacon = Some(beacon.to_owned());
        self.out.events.push_back(Event::Carry { number, token, beacon, is_offer: false });
        Ok(())
    }

    /// Frames pass from here on.
    pub(super) fn on_carry_open(&mut self, number: u32, time: Time) {
        let Some(device) = self.peer_of_stream(number) else { return };
        if let Some(peer) = self.peers.get_mut(&device) {
            peer.carrying.stream = Stream::Open { number, check: None, check_at: time.now, kept_until: None };
        }
        self.watch_carrying(&device, time);
    }

    /// A stream is gone, or did not come to be. A link that went over it ends; if it is wanted, the member is called again.
    pub(super) fn on_carry_closed(&mut self, number: u32, end: CarryEnd, time: Time) {
        let Some(device) = self.peer_of_stream(number) else { return };
        let is_wanted = self.peers.get(&device).is_some_and(|peer| self.is_wanted(peer, time));
        let Some(peer) = self.peers.get_mut(&device) else { return };
        let was_open = matches!(peer.carrying.stream, Stream::Open { .. });
        peer.carrying.stream = Stream::None;
        let pause = match end {
            CarryEnd::NoneCarries => NONE_AGAIN_AFTER,
            CarryEnd::Gone => AGAIN_AFTER,
        };
        let again_at = time.now + jittered(pause, &mut self.rng);
        // One that stood is made anew as soon as the members meet again.
        peer.carrying.not_before = (!was_open).then_some(again_at);
        peer.carrying.has_no_beacon = end == CarryEnd::NoneCarries;
        let step = if end == CarryEnd::NoneCarries { Step::NoneCarries } else { Step::CarryEnded };
        peer.trail.add_once(step, time.now);
        if peer.path.remote() == Some(Remote::Carried(number)) {
            self.close(&device, time);
            if is_wanted {
                self.wake(&device, time);
            }
        } else {
            self.watch_carrying(&device, time);
        }
    }

    /// The stream to `device` is not needed any more.
    pub(super) fn end_carrying(&mut self, device: &DeviceId) {
        let Some(peer) = self.peers.get_mut(device) else { return };
        let number = peer.carrying.number();
        peer.carrying.stream = Stream::None;
        self.out.events.extend(number.map(Event::CloseCarry));
    }

    /// Takes in the echo of a stream's check: it is a path, and perhaps the better one.
    pub(super) fn on_stream_checked(&mut self, device: &DeviceId, id: u64, time: Time) {
        let Some(peer) = self.peers.get_mut(device) else { return };
        let Stream::Open { number, check, .. } = &mut peer.carrying.stream else { return };
        let Some((_, sent_at)) = check.take_if(|(out, _)| *out == id) else { return };
        let remote = Remote::Carried(*number);
        let rtt = time.now.saturating_duration_since(sent_at);
        let is_silent = peer.is_silent();
        let found = Found { remote, rtt, sent_at, is_nearer: false, is_silent };
        if peer.path.consider(found, peer.is_lower, time.now) {
            self.on_better_path(device, time);
        }
    }
}
