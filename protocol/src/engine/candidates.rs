//! Where this device may be reached, and better paths to members: told, checked, taken.
//!
//! In: STUN servers and what they say, what members see, candidates that members tell, echoes of checks. Out: requests,
//! candidates, checks; Presences. A member is told and checked while the path to it is no direct one, or silent, and once
//! when an application begins to use a direct one, of whose ends only the leading one asks.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand_core::Rng as _;

use super::bursts::Waiting;
use super::lan::is_sensible;
use super::outbox::Event;
use super::peer::{Peer, Quiet};
use super::{Engine, Time};
use crate::bucket::{Bucket, Rate};
use crate::drop::DropReason;
use crate::forward::Update;
use crate::identity::DeviceId;
use crate::path::keepalive::Keepalive;
use crate::path::nat::Nat;
use crate::path::punch::{Candidate, Check, Kind, Tempo};
use crate::path::reflexive::Reflexive;
use crate::path::stun::Sighting;
use crate::path::{Found, Remote};
use crate::random::{self, Rng};
use crate::tunnel::timers::SILENT_AFTER;
use crate::wire::message::{MAX_CANDIDATES, Message, NatCode};

/// Between two askings while applications use links, ± 20 % (chosen: RFC 4787 REQ-5 lets a mapping live as long).
const ASK_EVERY: Duration = Duration::from_secs(120);
/// For a search servers are asked only if the last time is as long ago.
const ASK_AGAIN: Duration = Duration::from_secs(20);
/// A Presence that says what servers see, or where a mapped port leads, waits for the other servers' words.
pub(super) const GATHER_FOR: Duration = Duration::from_secs(1);
/// Places among the candidates of where this device is outside, which hosts' addresses leave to them.
const REFLEXIVE_PLACES: usize = 3;
/// Checks to all addresses that members named (specified: README §14).
const CHECKS: Rate = Rate { per_second: 64.0, burst: 256.0 };
/// Between two sets told to one member (specified: README §14: it takes one a second).
const TELL_PAUSE: Duration = Duration::from_millis(1_200);
/// Between two comparisons of a direct path in use with others, ± 20 % (chosen: what changes is told, or shows at once).
const COMPARE_EVERY: Duration = Duration::from_secs(120);
/// A direct path with a round trip below this is not compared with others: none is much nearer.
const NEAR: Duration = Duration::from_millis(5);
/// Where something usually comes back by itself, silence shows after two and three round trips, and no less than this each (chosen:
/// what a busy machine or a delayed acknowledgement takes; a relay is at work within a second). Links that packets are sent on are
/// looked at as often.
pub(super) const PROMPT_SILENCE: Duration = Duration::from_millis(200);
/// After a path was lost servers are asked only if the last time is as long ago: the NAT may have other mappings.
const ASK_WHEN_LOST: Duration = Duration::from_secs(5);
/// A check from elsewhere, while the used path seemed to work, is worth one in return for as long, should it not (chosen: longer than
/// what it takes to see that).
const CHECK_KEPT_FOR: Duration = Duration::from_secs(5);
/// The round trip of a path that was not measured yet.
pub(super) const UNKNOWN_RTT: Duration = Duration::from_millis(100);

/// How long a path may be silent.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// After something was sent that nothing followed, it is asked.
    pub(super) silent_after: Duration,
    /// To answer, before others are looked at.
    pub(super) asked_for: Duration,
}

impl Patience {
    /// By way of another there are two that can die, and another way is at hand (chosen: with the second that passes
    /// between two notes of what is sent, a dead relay is left within 3 s).
    pub(super) fn of(peer: &Peer, used: Remote) -> Self {
        let [silent_after, asked_for] = match used {
            Remote::Udp(_) | Remote::Side { .. } | Remote::Circuit(_) | Remote::Carried(_) => {
                [SILENT_AFTER, Duration::from_millis(1_500)]
            }
            Remote::Relayed { .. } => [Duration::from_millis(700), Duration::from_millis(500)],
        };
        match peer.path.rtt().filter(|_| peer.is_prompt) {
            None => Self { silent_after, asked_for },
            Some(rtt) => Self {
                silent_after: silent_after.min(PROMPT_SILENCE.max(rtt * 2)),
                asked_for: asked_for.min(PROMPT_SILENCE.max(rtt * 3)),
            },
        }
    }
}

/// What this device knows of where it is, and what it told.
pub(super) struct Candidates {
    pub(super) reflexive: Reflexive,
    /// The set last told, and its number.
    own: Vec<Candidate>,
    set: u32,
    /// What was said of the NAT with it.
    nat: NatCode,
    /// Where the mapped port led when it was looked at last.
    pub(super) mapped: Option<SocketAddr>,
    checks: Bucket,
    /// When the servers are asked again.
    ask_at: Option<Instant>,
    /// The forwarder lets responses through.
    is_open: bool,
}

impl Candidates {
    pub(super) fn new(rng: &mut Rng) -> Self {
        Self {
            reflexive: Reflexive::default(),
            own: Vec::new(),
            // A number that a former process used would hide this one's set from members that remember it.
            set: rng.next_u32(),
            nat: NatCode::default(),
            mapped: None,
            checks: Bucket::new(CHECKS),
            ask_at: None,
            is_open: false,
        }
    }

    /// The number of the set last told.
    pub(super) fn set(&self) -> u32 {
        self.set
    }

    /// When something is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.ask_at, self.reflexive.poll_timeout()].into_iter().flatten().min()
    }
}

/// What is known of the network around this machine.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The NAT, as far as it shows.
    pub nat: Option<Nat>,
    /// The STUN servers that were asked last; none after a change of networks.
    pub asked: Vec<SocketAddr>,
    /// When.
    pub asked_at: Option<Instant>,
    /// What they said.
    pub seen: Vec<Sighting>,
    /// One of them may still say something.
    pub is_asking: bool,
}

impl Engine {
    /// What is known of the network around this machine.
    #[must_use]
    pub fn surroundings(&self) -> Surroundings {
        let reflexive = &self.candidates.reflexive;
        Surroundings {
            nat: reflexive.nat(),
            asked: reflexive.asked().to_vec(),
            asked_at: reflexive.asked_at(),
            seen: reflexive.seen().to_vec(),
            is_asking: reflexive.is_open(),
        }
    }

    /// Takes in what may answer a STUN request: while one waits, the forwarder passes it on.
    ///
    /// # Errors
    /// [`DropReason::StunUnasked`] if it answers none.
    pub fn handle_stun(&mut self, from: Remote, datagram: &[u8], time: Time) -> Result<(), DropReason> {
        let hosts = self.addresses.as_deref().unwrap_or_default();
        if !self.candidates.reflexive.on_datagram(from, datagram, hosts, time.now) {
            return Err(DropReason::StunUnasked);
        }
        let is_over = !self.candidates.reflexive.is_open();
        self.tell_forwarder();
        if is_over {
            self.end_scout(time);
        }
        self.look_at_mapped(time);
        self.on_own_candidates(time);
        let is_over = is_over && !(self.candidates.reflexive.wants_second_look() && self.scout(time));
        if is_over && self.publish_at.is_none() {
            self.publish(time);
        } else if self.is_member() {
            self.publish_at.get_or_insert(time.now + GATHER_FOR);
        }
        Ok(())
    }

    /// Asks these servers from here on.
    pub(super) fn on_stun_servers(&mut self, servers: Vec<SocketAddr>, time: Time) {
        let canonical = servers.into_iter().map(|at| SocketAddr::new(at.ip().to_canonical(), at.port()));
        if self.candidates.reflexive.set_servers(canonical.filter(is_sensible)) {
            self.ask_servers(Duration::ZERO, time);
        }
    }

    /// This machine is elsewhere: what others saw is no longer true.
    pub(super) fn on_elsewhere(&mut self, time: Time) {
        self.candidates.reflexive.forget();
        self.keepalive = Keepalive::default();
        self.ask_servers(Duration::ZERO, time);
        for peer in self.peers.values_mut() {
            peer.punch.start_over();
            peer.compare_at = None;
        }
    }

    /// A member is searched for, and may call back: it is worth knowing where this device is.
    pub(super) fn ask_servers_for_search(&mut self, time: Time) {
        self.ask_servers(ASK_AGAIN, time);
    }

    fn ask_servers(&mut self, not_within: Duration, time: Time) {
        let asked_at = self.candidates.reflexive.asked_at();
        if !self.is_removed && asked_at.is_none_or(|at| time.now >= at + not_within) {
            if self.candidates.reflexive.wants_side() {
                self.scout(time);
                return;
            }
            self.candidates.reflexive.ask(None, &mut self.rng, time.now);
            self.send_requests(time);
        }
    }

    pub(super) fn send_requests(&mut self, time: Time) {
        // Responses must find the forwarder ready.
        self.tell_forwarder();
        while let Some((server, request)) = self.candidates.reflexive.poll(&mut self.rng, time.now) {
            self.out.transmit(server, request);
        }
        self.tell_forwarder();
    }

    fn tell_forwarder(&mut self) {
        let is_open = self.candidates.reflexive.is_open();
        if std::mem::replace(&mut self.candidates.is_open, is_open) != is_open {
            self.out.updates.push_back(Update::Stun { is_open });
        }
    }

    /// Sends the requests that are due; asks again while links are in use.
    pub(super) fn stun_due(&mut self, time: Time) {
        self.send_requests(time);
        self.end_scout(time);
        if self.candidates.ask_at.take_if(|at| time.now >= *at).is_some() {
            self.plan_asking(time);
            if self.candidates.ask_at.is_some() {
                self.ask_servers(ASK_AGAIN, time);
            }
        }
    }

    /// Plans the next asking while there is a link in use.
    pub(super) fn plan_asking(&mut self, time: Time) {
        let is_in_use = self.peers.values().any(|peer| self.is_in_use(peer, time));
        if !is_in_use {
            self.candidates.ask_at = None;
        } else if self.candidates.ask_at.is_none() && self.candidates.reflexive.asked_at().is_some() {
            self.candidates.ask_at = Some(time.now + random::jittered(ASK_EVERY, &mut self.rng));
        }
    }

    /// The addresses for a Presence, the best first, and the number of the NAT's class; `None` while this machine's are
    /// not known.
    pub(super) fn whereabouts(&mut self) -> Option<(Vec<SocketAddr>, u8)> {
        let mapped = self.mapped();
        let hosts = self.addresses.as_deref()?;
        // Everybody gets in there.
        let outside = outside(mapped.iter().chain(self.candidates.reflexive.lasting(hosts)));
        let kept = hosts.iter().take(MAX_CANDIDATES - outside.len());
        let addresses = kept.copied().chain(outside).collect();
        Some((addresses, self.candidates.reflexive.nat().map_or(0, |nat| nat.code())))
    }

    /// What this device tells a member may be another set than before.
    pub(super) fn on_own_candidates(&mut self, time: Time) {
        let hosts = self.addresses.as_deref().unwrap_or_default();
        let own = set(hosts, self.mapped(), &self.candidates.reflexive.told(hosts));
        let nat = self.candidates.reflexive.nat().map(|nat| nat.told()).unwrap_or_default();
        if own == self.candidates.own && nat == self.candidates.nat {
            return;
        }
        let is_other_nat = std::mem::replace(&mut self.candidates.nat, nat) != nat;
        let has_more = is_other_nat || own.iter().any(|candidate| !self.candidates.own.contains(candidate));
        self.candidates.own = own;
        self.candidates.set = self.candidates.set.wrapping_add(1);
        for peer in self.peers.values_mut().filter(|peer| has_more && peer.is_looking) {
            let may_at = peer.told_at.map_or(time.now, |at| time.now.max(at + TELL_PAUSE));
            peer.punch.hasten(may_at);
        }
    }

    /// A member, heard at `from`, saw a datagram of this device's come from `observed`.
    pub(super) fn on_observed(
        &mut self,
        (device, from): (&DeviceId, Remote),
        observed: Option<SocketAddr>,
        time: Time,
    ) {
        let Some((peer, observed)) = self.peers.get(device).zip(observed.filter(is_sensible)) else { return };
        // What it saw of a socket that is not the own one is no use to others.
        if from.side().is_some() {
            return;
        }
        let hosts = self.addresses.as_deref().unwrap_or_default();
        if self.candidates.reflexive.on_member((peer.link, from), observed, hosts, time.now) {
            self.on_own_candidates(time);
            if self.is_member() {
                self.publish_at.get_or_insert(time.now + GATHER_FOR);
            }
        }
    }

    /// Looks whether the path to `device` is good enough; where it is not, begins a round of checks that is due.
    pub(super) fn watch_path(&mut self, device: &DeviceId, time: Time) {
        let is_in_use = self.peers.get(device).is_some_and(|peer| self.is_in_use(peer, time));
        let Some(peer) = self.peers.get_mut(device) else { return };
        let Some(used) = peer.path.remote().filter(|_| peer.sessions.current(time.now).is_some()) else {
            peer.is_looking = false;
            peer.quiet = Quiet::No;
            return;
        };
        let patience = Patience::of(peer, used);
        let is_silent = peer.look(patience, time.now);
        let before = peer.quiet;
        peer.quiet = match before {
            Quiet::Looking(silent, since) if silent == used && !peer.path.has_echoed_since(since) => {
                peer.quiet
            }
            Quiet::Looking(..) => Quiet::No,
            Quiet::Moved(at) if peer.path.has_echoed_since(at) => Quiet::No,
            Quiet::Moved(at) if time.now >= at + peer.moved_patience() => Quiet::Looking(used, time.now),
            Quiet::Moved(_) => peer.quiet,
            Quiet::No | Quiet::Asked(_) | Quiet::AskedAgain(_) if !is_silent => Quiet::No,
            Quiet::No => Quiet::Asked(time.now),
            Quiet::Asked(at) if time.now >= at + patience.asked_for / 2 => Quiet::AskedAgain(at),
            Quiet::AskedAgain(at) if time.now >= at + patience.asked_for => Quiet::Looking(used, time.now),
            Quiet::Asked(_) | Quiet::AskedAgain(_) => peer.quiet,
        };
        let is_asking = peer.quiet != before && matches!(peer.quiet, Quiet::Asked(_) | Quiet::AskedAgain(_));
        let is_lost = peer.quiet != before && peer.is_silent();
        if is_asking {
            peer.was_questioned = true;
        }
        if peer.is_silent() {
            peer.path.on_silent(time.now);
        }
        if is_lost {
            let recent = peer.checked_from.take().filter(|(_, at)| time.now < *at + CHECK_KEPT_FOR);
            if let Some((from, _)) = recent {
                peer.punch.on_check(from);
            }
        }
        let wants_direct = match used {
            Remote::Circuit(_) => true,
            Remote::Relayed { .. } | Remote::Carried(_) => is_in_use,
            Remote::Udp(_) | Remote::Side { .. } => false,
        };
        peer.is_looking = wants_direct || peer.is_silent();
        let may_tell = peer.told_at.is_none_or(|at| time.now >= at + TELL_PAUSE);
        let is_round_due = peer.punch.again_at().is_none_or(|at| time.now >= at);
        let is_far = peer.path.rtt().is_some_and(|rtt| rtt >= NEAR);
        let probe = if is_asking { peer.path.ping(&mut self.rng, time.now) } else { None };
        let is_compared = peer.compare_at.is_some_and(|at| time.now < at);
        if peer.is_looking && is_round_due && peer.waiting == Waiting::No {
            if !self.waits_for_port(device, Waiting::ToAsk, time) {
                self.ask_round(device, Tempo::Punch, time);
            }
        } else if !peer.is_looking && !is_compared && is_in_use && peer.is_lower && is_far && may_tell {
            self.ask_round(device, Tempo::Compare, time);
        }
        if let Some(probe) = probe {
            self.send_probe(device, probe, time);
        }
        self.try_birthday(device, time);
        if is_lost {
            self.on_unkept(device);
            self.ask_servers(ASK_WHEN_LOST, time);
        }
        self.keep_path(device, time);
    }

    /// Tells `device` where this one is and asks the same of it; the checks go out when it has heard.
    fn ask_round(&mut self, device: &DeviceId, tempo: Tempo, time: Time) {
        self.tell_candidates(device, true, time);
        let targets = self.targets(device);
        let Some(peer) = self.peers.get_mut(device) else { return };
        peer.punch.begin(targets, tempo, time.now + peer.path.rtt().unwrap_or(UNKNOWN_RTT) / 2);
        peer.punch.plan_next(&mut self.rng, time.now);
        peer.compare_at = Some(time.now + random::jittered(COMPARE_EVERY, &mut self.rng));
        if tempo == Tempo::Punch {
            self.ask_servers(ASK_EVERY, time);
        }
    }

    pub(super) fn tell_candidates(&mut self, device: &DeviceId, is_question: bool, time: Time) {
        let Candidates { set, ref own, nat, .. } = self.candidates;
        if let Some(peer) = self.peers.get_mut(device) {
            peer.told_at = Some(time.now);
            peer.told_set = Some(set);
        }
        let (may_spray, candidates) = (self.may_spray(), own.clone());
        let message = Message::Candidates { set, is_question, may_spray, nat, candidates };
        self.send_message(device, &message, time);
    }

    /// Takes in where `device` may be reached: for checks, until one is echoed.
    pub(super) fn on_candidates(
        &mut self,
        device: &DeviceId,
        (set, is_question): (u32, bool),
        (nat, may_spray, mut candidates): (NatCode, bool, Vec<Candidate>),
        time: Time,
    ) -> Result<(), DropReason> {
        candidates.retain(|candidate| is_sensible(&candidate.address));
        let Some(peer) = self.peers.get_mut(device) else { return Err(DropReason::NotMember) };
        if !peer.punch.on_told(set, candidates, time.now) {
            return Err(DropReason::RateLimited);
        }
        peer.punch.on_nat(Nat::read(nat), may_spray);
        let is_looking = peer.is_looking;
        let is_direct = peer.path.remote().is_some_and(Remote::is_direct);
        let tempo = if is_direct && !is_looking { Tempo::Compare } else { Tempo::Punch };
        let waits = is_question && is_looking && self.waits_for_port(device, Waiting::ToAnswer, time);
        if is_question && !waits {
            self.tell_candidates(device, false, time);
        }
        let targets = self.targets(device);
        let Some(peer) = self.peers.get_mut(device) else { return Ok(()) };
        peer.punch.begin(targets, tempo, time.now);
        if is_question && peer.is_looking {
            peer.punch.plan_next(&mut self.rng, time.now);
        }
        self.foretell(device, time);
        Ok(())
    }

    /// The addresses of `device` that are worth a check, the best first: all but the used one, which is among them only
    /// where it is silent.
    fn targets(&self, device: &DeviceId) -> Vec<SocketAddr> {
        let Some(peer) = self.peers.get(device) else { return Vec::new() };
        let own = self.addresses.as_deref().unwrap_or_default();
        let used = peer.path.remote().and_then(Remote::udp).filter(|_| !peer.is_silent());
        let told = peer.punch.told().map(|candidate| candidate.address);
        let mut targets: Vec<SocketAddr> = Vec::new();
        for address in told.chain(peer.path.candidates()) {
            let is_own = own.contains(&address) || Some(address) == used;
            if !is_own && is_sensible(&address) && !targets.contains(&address) {
                targets.push(address);
            }
        }
        targets
    }

    /// Sends a check, unless there are too many in all.
    pub(super) fn send_check(&mut self, device: &DeviceId, check: Check, time: Time) {
        if self.candidates.checks.take(time.now) {
            let message = Message::Check { id: check.id, length: check.length };
            self.send_message_to(device, &message, check.to, time);
        }
    }

    /// Answers a check. Whoever looks for a path itself checks the address that it came from, which the member may not
    /// know of (RFC 8445 §7.3.1.4).
    pub(super) fn on_check(
        &mut self,
        device: &DeviceId,
        (id, length): (u64, usize),
        from: Remote,
        time: Time,
    ) {
        self.send_echo(device, (id, length), from, time);
        let Some(peer) = self.peers.get_mut(device) else { return };
        let is_asking = length >= crate::path::punch::CHECK_BYTES;
        let is_better = peer.path.remote().is_some_and(|used| from.rank() > used.rank());
        if from.is_direct() && is_asking && (is_better || peer.is_looking) {
            peer.punch.on_check(from);
        } else if from.is_direct() && is_asking {
            peer.checked_from = Some((from, time.now));
        }
    }

    /// Takes in the echo of a check: its address is a path, and perhaps the better one.
    pub(super) fn on_checked(
        &mut self,
        (device, from): (&DeviceId, Remote),
        (id, observed): (u64, Option<SocketAddr>),
        time: Time,
    ) {
        if self.is_of_burst(device, id, from) {
            return;
        }
        let Some(peer) = self.peers.get_mut(device) else { return };
        let Some(checked) = peer.punch.on_echo(id, time.now) else {
            return self.on_leg_checked(device, id, time);
        };
        let used = peer.path.remote().and_then(Remote::udp);
        let checked_at = checked.remote.udp();
        let found = Found {
            remote: checked.remote,
            rtt: checked.rtt,
            sent_at: checked.sent_at,
            is_nearer: checked_at.zip(used).is_some_and(|(at, used)| peer.kind_of(&at) < peer.kind_of(&used)),
            is_silent: peer.is_silent(),
        };
        let is_taken = peer.path.consider(found, peer.is_lower, time.now);
        self.on_observed((device, from), observed, time);
        if is_taken {
            self.on_better_path(device, time);
        }
    }

    /// Another path was chosen: the other end hears something from there at once, and follows.
    pub(super) fn on_better_path(&mut self, device: &DeviceId, time: Time) {
        let Some(peer) = self.peers.get_mut(device) else { return };
        peer.punch.start_over();
        peer.quiet = Quiet::No;
        peer.trail.extend_moved(peer.path.remote(), time.now);
        if let Some(remote) = peer.path.remote().and_then(Remote::udp) {
            self.out.events.push_back(Event::Reached { device: *device, remote });
        }
        if let Some(probe) = peer.path.ping(&mut self.rng, time.now) {
            peer.timers.on_asked(time.now);
            self.send_probe(device, probe, time);
        }
        // Over what was used before, packets may not have passed.
        self.flush(device, time);
        self.watch_path(device, time);
        self.burst_due(time);
        self.sweep_sockets();
    }
}

/// What a member is told: from the first that is seen outside it foretells where the next datagram comes from, so that the port
/// that a gateway maps, which no datagram but those to it shows, stands behind.
fn set(hosts: &[SocketAddr], mapped: Option<SocketAddr>, seen: &[SocketAddr]) -> Vec<Candidate> {
    let (first, others) = seen.split_at(seen.len().min(1));
    let outside = outside(first.iter().chain(&mapped).chain(others));
    let kept = hosts.iter().take(MAX_CANDIDATES - outside.len());
    let kept = kept.map(|address| Candidate { address: *address, kind: Kind::Host });
    kept.chain(outside.into_iter().map(|address| Candidate { address, kind: Kind::Reflexive })).collect()
}

/// Each once, and so many as have places.
fn outside<'a>(all: impl Iterator<Item = &'a SocketAddr>) -> Vec<SocketAddr> {
    let mut outside: Vec<SocketAddr> = Vec::new();
    for address in all {
        if outside.len() < REFLEXIVE_PLACES && !outside.contains(address) {
            outside.push(*address);
        }
    }
    outside
}

impl Peer {
    /// Says whether the path that is used did not answer.
    pub(super) fn is_silent(&self) -> bool {
        matches!(self.quiet, Quiet::Looking(..))
    }

    /// How the member knows that it is at `address`; where it did not say, as its own.
    fn kind_of(&self, address: &SocketAddr) -> Kind {
        let mut told = self.punch.told();
        told.find(|candidate| candidate.address == *address).map_or(Kind::Host, |candidate| candidate.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::punch::Punch;

    #[test]
    fn members_foretell_from_where_servers_saw_this_device_and_not_from_a_mapped_port() {
        let at = |port: u16| SocketAddr::from(([198, 51, 100, 7], port));
        let hosts: Vec<SocketAddr> = (1..=8).map(|n| SocketAddr::from(([192, 168, 1, n], 41_414))).collect();
        let seen_at = |mapped: u16, seen: &[u16]| {
            let seen: Vec<SocketAddr> = seen.iter().map(|port| at(*port)).collect();
            let told = set(&hosts[..2], Some(at(mapped)), &seen);
            assert!(told.iter().any(|candidate| candidate.address == at(mapped)));
            assert!(told.len() <= 2 + REFLEXIVE_PLACES);
            let mut punch = Punch::default();
            punch.on_told(1, told, Instant::now());
            punch.seen_at().unwrap().port()
        };
        assert_eq!(seen_at(41_414, &[20_007, 20_006, 20_005]), 20_007);
        assert_eq!((seen_at(41_414, &[]), seen_at(41_414, &[41_414])), (41_414, 41_414));
        let told = set(&hosts, Some(at(1)), &[at(2), at(3), at(4)]);
        let told: Vec<SocketAddr> = told.iter().map(|candidate| candidate.address).collect();
        assert_eq!(told, [&hosts[..5], &[at(2), at(1), at(3)]].concat());
    }
}
