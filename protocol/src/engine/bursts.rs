//! What is tried where checks of known addresses do not find a member: ports foretold, and many sockets (README §14).
//!
//! In: what the NATs of both ends are, new sets of candidates, the wish of a member that has opened many sockets, time. Out:
//! checks, sockets to open and to close. One burst runs at a time, and a member has few of them, so that one that lies makes
//! no flood. A socket by which a member was found stays open while that path is used.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::outbox::Event;
use super::peer::Peer;
use super::{Engine, Time};
use crate::bucket::Rate;
use crate::drop::DropReason;
use crate::identity::DeviceId;
use crate::path::Remote;
use crate::path::burst::{Burst, SOCKETS};
use crate::path::nat::Tactic;
use crate::random;
use crate::wire::message::Message;

/// Checks alone have this long before many sockets are opened (chosen: several round trips on earth).
pub(super) const CHECKS_FOR: Duration = Duration::from_secs(1);
/// Between two looks whether many sockets may be opened, while something else runs.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Many sockets for one member, or many ports of its NAT: once in this time (specified: README §14).
const BIRTHDAY_EVERY: Duration = Duration::from_secs(60);
/// Sockets are open for as long: 1.3 s until all are, 5.2 s of the other end's datagrams, and what is under way.
const BIRTHDAY_FOR: Duration = Duration::from_secs(8);
/// Bursts of foretold ports for one member: as many datagrams a minute as many sockets cost (specified: README §14).
pub(super) const FORETELLS: Rate = Rate { per_second: 1.0 / 7.5, burst: 8.0 };
/// What a server saw is what the NAT gives out next for as long (chosen: a round trip, and a member's answer).
const FRESH_FOR: Duration = Duration::from_secs(3);
/// A socket that asks servers for the next port has this long.
const SCOUT_FOR: Duration = Duration::from_secs(1);
/// Sockets that stay open because members were found by them (chosen: few members are behind two such NATs).
const MAX_WON: usize = 16;

/// What may be tried; all until told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave {
    /// Ports may be foretold.
    pub may_foretell: bool,
    /// Many sockets may be opened, and many ports sprayed.
    pub may_birthday: bool,
}

/// What waits for a socket that asks servers for the next port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Nothing.
    #[default]
    No,
    /// A round of this end's.
    ToAsk,
    /// A member's question.
    ToAnswer,
}

/// What a burst is for.
#[derive(Debug)]
enum Aim {
    /// Ports foretold, or sprayed.
    Ports,
    /// To open these sockets' mappings; the member is asked to spray when half of them are.
    Open { sockets: Range<u32>, is_told: bool },
}

#[derive(Debug)]
struct Running {
    device: DeviceId,
    burst: Burst,
    aim: Aim,
    until: Instant,
}

/// The burst that runs, and the sockets beside the own one.
#[derive(Debug)]
pub(super) struct Bursts {
    leave: Leave,
    running: Option<Running>,
    /// Numbers are never given twice.
    next_socket: u32,
    open: BTreeSet<u32>,
    /// The one that asks servers, and since when.
    scout: Option<(u32, Instant)>,
    scouted_at: Option<Instant>,
    /// When ports of the own NAT were last used up.
    foretold_at: Option<Instant>,
}

impl Default for Bursts {
    fn default() -> Self {
        Self {
            leave: Leave { may_foretell: true, may_birthday: true },
            running: None,
            next_socket: 0,
            open: BTreeSet::new(),
            scout: None,
            scouted_at: None,
            foretold_at: None,
        }
    }
}

impl Bursts {
    /// When something is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let running = self.running.as_ref();
        let step = running.map(|running| running.burst.poll_timeout().unwrap_or(running.until));
        let scout = self.scout.map(|(_, since)| since + SCOUT_FOR);
        [step, scout].into_iter().flatten().min()
    }
}

impl Engine {
    /// Takes in what may be tried from here on. What runs is not ended.
    pub(super) fn on_leave(&mut self, leave: Leave) {
        self.bursts.leave = leave;
    }

    /// Says whether many ports are sprayed for a member that asks.
    pub(super) fn may_spray(&self) -> bool {
        self.bursts.leave.may_birthday
    }

    /// Says whether a member's set of candidates, or its own, is to wait for the port that the NAT gives out next; has it
    /// asked for. Nothing waits where the ports do not follow each other, or are known.
    pub(super) fn waits_for_port(&mut self, device: &DeviceId, waiting: Waiting, time: Time) -> bool {
        let is_lately = self.bursts.scouted_at.is_some_and(|at| time.now < at + FRESH_FOR);
        let may_ask = self.bursts.scout.is_some() || !is_lately;
        if self.is_port_fresh(time) || !may_ask || !self.candidates.reflexive.wants_side() {
            return false;
        }
        if self.bursts.scout.is_none() && !self.scout(time) {
            return false;
        }
        if let Some(peer) = self.peers.get_mut(device) {
            peer.waiting = waiting;
        }
        true
    }

    /// Says whether the last port that servers saw is likely to be the last that the NAT gave out.
    fn is_port_fresh(&self, time: Time) -> bool {
        let seen_at = self.candidates.reflexive.seen_at();
        seen_at.is_some_and(|at| {
            time.now < at + FRESH_FOR && self.bursts.foretold_at.is_none_or(|used| used < at)
        })
    }

    /// Asks the servers from a socket that has sent nothing yet. Returns whether it does.
    pub(super) fn scout(&mut self, time: Time) -> bool {
        if self.bursts.scout.is_some() {
            return false;
        }
        let socket = self.bursts.next_socket;
        if !self.candidates.reflexive.ask(Some(socket), &mut self.rng, time.now) {
            return false;
        }
        self.open_sockets(1);
        self.bursts.scout = Some((socket, time.now));
        self.bursts.scouted_at = Some(time.now);
        self.send_requests(time);
        true
    }

    /// Ends the asking by a socket of its own, once all servers answered or its time is over: what waited for it goes on.
    pub(super) fn end_scout(&mut self, time: Time) {
        let is_open = self.candidates.reflexive.is_open();
        let is_over = |(_, since): &(u32, Instant)| !is_open || time.now >= *since + SCOUT_FOR;
        if self.bursts.scout.take_if(|scout| is_over(scout)).is_none() {
            return;
        }
        self.candidates.reflexive.give_up();
        self.sweep_sockets();
        self.send_requests(time);
        self.on_own_candidates(time);
        let waiting: Vec<(DeviceId, Waiting)> = self
            .peers
            .iter_mut()
            .map(|(device, peer)| (*device, std::mem::take(&mut peer.waiting)))
            .filter(|(_, waiting)| *waiting != Waiting::No)
            .collect();
        for (device, waiting) in waiting {
            match waiting {
                Waiting::No => {}
                Waiting::ToAsk => self.watch_path(&device, time),
                Waiting::ToAnswer => self.tell_candidates(&device, false, time),
            }
            self.foretell(&device, time);
        }
    }

    fn tactic(&self, peer: &Peer) -> Tactic {
        Tactic::choose(self.candidates.reflexive.nat(), peer.punch.nat())
    }

    /// Sends to the ports that the NAT of `device` is likely to give out, if that is the tactic, and a set of its
    /// candidates has come since the last time. Where both ends do it, it is done when each has told the other.
    pub(super) fn foretell(&mut self, device: &DeviceId, time: Time) {
        let Some(peer) = self.peers.get(device).filter(|peer| peer.is_looking) else { return };
        let Tactic::Foretell { is_mutual } = self.tactic(peer) else { return };
        let is_news = peer.punch.set().is_some() && peer.punch.set() != peer.foretold_set;
        let is_free = self.bursts.running.is_none() && self.bursts.leave.may_foretell;
        let is_told = peer.told_set == Some(self.candidates.set()) && self.is_port_fresh(time);
        if !is_news || !is_free || is_mutual && !is_told {
            return;
        }
        let step = peer.punch.nat().and_then(|nat| nat.step());
        let Some(place) = peer.punch.seen_at().zip(step) else { return };
        let leads = peer.is_lower;
        let burst = match is_mutual {
            true => Burst::foretell_both(place, leads, &mut self.rng, time.now),
            false => Burst::foretell(place, &mut self.rng, time.now),
        };
        let Some(peer) = self.peers.get_mut(device) else { return };
        if !peer.foretells.take(time.now) {
            return;
        }
        peer.foretold_set = peer.punch.set();
        if is_mutual {
            self.bursts.foretold_at = Some(time.now);
        }
        let running = Running { device: *device, burst, aim: Aim::Ports, until: time.now };
        self.begin_burst(running, time);
    }

    /// Opens many sockets for `device`, if that is the tactic and it is time: checks alone have had theirs.
    pub(super) fn try_birthday(&mut self, device: &DeviceId, time: Time) {
        let Some(peer) = self.peers.get_mut(device) else { return };
        if !peer.is_looking {
            peer.birthday_at = None;
            return;
        }
        let due = *peer.birthday_at.get_or_insert(time.now + CHECKS_FOR);
        let is_paused = peer.had_birthday_at.is_some_and(|at| time.now < at + BIRTHDAY_EVERY);
        if time.now < due {
            return;
        }
        peer.birthday_at = Some(time.now + random::jittered(LOOK_AGAIN, &mut self.rng));
        let Some(peer) = self.peers.get(device).filter(|peer| peer.punch.may_spray() && !is_paused) else {
            return;
        };
        let won = self.peers.values().filter(|peer| peer.path.remote().and_then(Remote::side).is_some());
        let is_free = self.bursts.running.is_none() && self.bursts.leave.may_birthday;
        if self.tactic(peer) != Tactic::Open || !is_free || won.count() >= MAX_WON {
            return;
        }
        let Some(address) = peer.punch.seen_at() else { return };
        let sockets = self.open_sockets(SOCKETS);
        let burst = Burst::open(address, sockets.clone(), &mut self.rng, time.now);
        let aim = Aim::Open { sockets, is_told: false };
        self.begin_birthday(Running { device: *device, burst, aim, until: time.now + BIRTHDAY_FOR }, time);
    }

    /// `device` has opened many sockets: many ports of its NAT are tried.
    pub(super) fn on_spray(&mut self, device: &DeviceId, time: Time) -> Result<(), DropReason> {
        let peer = self.peers.get(device).ok_or(DropReason::NotMember)?;
        let is_paused = peer.had_birthday_at.is_some_and(|at| time.now < at + BIRTHDAY_EVERY);
        let is_free = self.bursts.running.is_none() && self.bursts.leave.may_birthday;
        if !peer.is_looking || !is_free || is_paused {
            return Err(DropReason::RateLimited);
        }
        let address = peer.punch.seen_at().ok_or(DropReason::RateLimited)?;
        let burst = Burst::spray(address, &mut self.rng, time.now);
        let running = Running { device: *device, burst, aim: Aim::Ports, until: time.now };
        self.begin_birthday(running, time);
        Ok(())
    }

    fn begin_birthday(&mut self, running: Running, time: Time) {
        if let Some(peer) = self.peers.get_mut(&running.device) {
            peer.had_birthday_at = Some(time.now);
        }
        self.begin_burst(running, time);
    }

    fn begin_burst(&mut self, running: Running, time: Time) {
        self.out.events.push_back(Event::Burst { is_running: true });
        self.bursts.running = Some(running);
        self.burst_due(time);
    }

    /// Sends what is due of the burst, and ends it when its time is over or a path was found.
    pub(super) fn burst_due(&mut self, time: Time) {
        let Some(running) = &mut self.bursts.running else { return };
        let device = running.device;
        let is_wanted = self.peers.get(&device).is_some_and(|peer| peer.is_looking);
        let is_over = running.burst.is_over() && time.now >= running.until;
        if !is_wanted || is_over {
            self.bursts.running = None;
            self.out.events.push_back(Event::Burst { is_running: false });
            return self.sweep_sockets();
        }
        let checks = running.burst.poll(time.now);
        let is_half = running.burst.is_over() || running.burst.sent() >= SOCKETS as usize / 2;
        let tells = match &mut running.aim {
            Aim::Open { is_told, .. } => is_half && !std::mem::replace(is_told, is_half),
            Aim::Ports => false,
        };
        for check in checks {
            let message = Message::Check { id: check.id, length: check.length };
            self.send_message_to(&device, &message, check.to, time);
        }
        if tells {
            self.send_message(&device, &Message::Spray, time);
        }
    }

    /// An echo of the burst says that somebody is there: it is checked. Returns whether it was one.
    pub(super) fn is_of_burst(&mut self, device: &DeviceId, id: u64, from: Remote) -> bool {
        let is_it = self
            .bursts
            .running
            .as_ref()
            .is_some_and(|running| running.device == *device && running.burst.id() == id);
        if let Some(peer) = self.peers.get_mut(device).filter(|_| is_it && from.is_direct()) {
            peer.punch.on_check(from);
        }
        is_it
    }

    fn open_sockets(&mut self, count: u32) -> Range<u32> {
        let first = self.bursts.next_socket;
        self.bursts.next_socket = first.wrapping_add(count);
        let opened = first..self.bursts.next_socket;
        self.bursts.open.extend(opened.clone());
        let events = opened.clone().map(|number| Event::Socket { number, is_open: true });
        self.out.events.extend(events);
        opened
    }

    /// Closes the sockets that nothing needs.
    pub(super) fn sweep_sockets(&mut self) {
        if self.bursts.open.is_empty() {
            return;
        }
        let running = self.bursts.running.as_ref().and_then(|running| match &running.aim {
            Aim::Open { sockets, .. } => Some(sockets.clone()),
            Aim::Ports => None,
        });
        let scout = self.bursts.scout.map(|(number, _)| number);
        let won: BTreeSet<u32> = self.peers.values().filter_map(|peer| peer.path.remote()?.side()).collect();
        let is_needed = |number: &u32| {
            running.as_ref().is_some_and(|range| range.contains(number))
                || scout == Some(*number)
                || won.contains(number)
        };
        let idle: Vec<u32> = self.bursts.open.iter().copied().filter(|number| !is_needed(number)).collect();
        for number in idle {
            self.bursts.open.remove(&number);
            self.out.events.push_back(Event::Socket { number, is_open: false });
        }
    }
}
