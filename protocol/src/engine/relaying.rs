//! Fellow members that pass datagrams on, at both places: what this node does for others, and what others do for it
//! (README §19).
//!
//! In: askings and answers, what the forwarder saw pass, paths that changed. Out: messages, updates for the forwarder, legs
//! for handshakes and checks. A leg is a far end like any other: a handshake that is answered through it, or a check,
//! makes it a path, and a direct one is looked for meanwhile.
//!
//! Only direct links are used for either, at both ends of a circuit: nothing is passed on twice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::peer::Peer;
use super::trail::Step;
use super::{Engine, Time};
use crate::bucket::{Bucket, Rate};
use crate::drop::DropReason;
use crate::forward::{End, Traffic, Update};
use crate::identity::DeviceId;
use crate::membership::object::RELAYS;
use crate::path::punch::CHECK_BYTES;
use crate::path::{Found, Remote};
use crate::relay::SILENT_FOR;
use crate::relay::circuits::{Circuits, Complete};
use crate::relay::consent::Consent;
use crate::relay::legs::{Act, Leg, Legs, Need, Offer};
use crate::tunnel::timers::rekey_wait;
use crate::wire::message::{Message, REFUSED_FULL, REFUSED_NO_LINK, REFUSED_UNWILLING};

/// Direct addresses have this long to answer a handshake before relays are asked (chosen: most round trips are shorter).
pub(super) const RELAY_AFTER: Duration = Duration::from_millis(300);
/// Askings for circuits taken from one member; each costs another one a message.
const ASKINGS: Rate = Rate { per_second: 4.0, burst: 32.0 };
/// Relays without a link that are woken for one member at once.
const MAX_WOKEN: usize = 2;

/// What this node does for others.
#[derive(Default)]
pub(super) struct Relaying {
    pub(super) consent: Consent,
    pub(super) circuits: Circuits,
    /// Bytes of others: come, and passed on.
    pub(super) traffic: Arc<Traffic>,
}

/// What one member has to do with relays.
pub(super) struct Relays {
    /// The ways to it through others.
    pub(super) legs: Legs,
    /// Circuits that it may still ask for.
    askings: Bucket,
    /// Where it was directly, when circuits and legs were last brought in line with it.
    at: Option<SocketAddr>,
}

impl Default for Relays {
    fn default() -> Self {
        Self { legs: Legs::default(), askings: Bucket::new(ASKINGS), at: None }
    }
}

impl Engine {
    /// Says whether this node passes datagrams on for others.
    pub(super) fn passes_on(&self) -> bool {
        let own = self.addresses.iter().flatten().copied();
        let addresses: Vec<SocketAddr> = own.chain(self.mapped()).collect();
        self.is_member() && self.relaying.consent.given(&addresses)
    }

    /// The owner's word.
    pub(super) fn on_consent(&mut self, consent: Consent, time: Time) {
        self.relaying.consent = consent;
        self.publish(time);
        self.end_unwilling(time);
    }

    /// Who does not pass on any more ends what there is.
    pub(super) fn end_unwilling(&mut self, time: Time) {
        if !self.passes_on() {
            let devices: Vec<DeviceId> = self.peers.keys().copied().collect();
            devices.iter().for_each(|device| self.close_circuits(device, time));
        }
    }

    /// What was passed on for others.
    #[must_use]
    pub fn relayed(&self) -> &Traffic {
        &self.relaying.traffic
    }

    /// How many circuits there are.
    #[must_use]
    pub fn circuits(&self) -> usize {
        self.relaying.circuits.count()
    }

    /// `asker` wants its datagrams passed on to `target`, which is asked whether it wants them.
    pub(super) fn on_open(
        &mut self,
        asker: &DeviceId,
        target: DeviceId,
        time: Time,
    ) -> Result<(), DropReason> {
        let Some(peer) = self.peers.get_mut(asker) else { return Err(DropReason::NotMember) };
        if !peer.relays.askings.take(time.now) {
            return Err(DropReason::RateLimited);
        }
        let outcome = self.ask_target(asker, target, time);
        if let Err(reason) = outcome {
            self.send_message(asker, &Message::Refused { device: target, reason }, time);
        }
        Ok(())
    }

    fn ask_target(&mut self, asker: &DeviceId, target: DeviceId, time: Time) -> Result<(), u8> {
        if !self.passes_on() || target == *asker || !self.peers.contains_key(&target) {
            return Err(REFUSED_UNWILLING);
        }
        if self.direct(asker, time).is_none() {
            return Err(REFUSED_NO_LINK);
        }
        if self.direct(&target, time).is_none() {
            let has_address = |peer: &Peer| peer.path.candidates().next().is_some();
            if self.peers.get(&target).is_some_and(has_address) {
                self.wake(&target, time);
            }
            return Err(REFUSED_NO_LINK);
        }
        let circuits = &mut self.relaying.circuits;
        let label = circuits.ask(*asker, target, &mut self.rng, time.now).ok_or(REFUSED_FULL)?;
        let question = Message::Opened { device: *asker, label, is_question: true };
        self.send_message(&target, &question, time);
        Ok(())
    }

    /// `from` offers a way to `device`, or says that it wants one that this node offered.
    pub(super) fn on_opened(
        &mut self,
        from: &DeviceId,
        (device, label, is_question): (DeviceId, u32, bool),
        time: Time,
    ) {
        let wanted = match is_question {
            true => None,
            false => self.relaying.circuits.answer(*from, (device, label), time.now),
        };
        if let Some(complete) = wanted {
            return self.join(*from, complete, time);
        }
        let via = self.direct(from, time);
        let (Some(via), Some(peer)) = (via, self.peers.get_mut(&device)) else { return };
        let remote = Remote::Relayed { via, label };
        let offer = peer.relays.legs.on_offer((*from, remote), !is_question, time.now);
        if let Offer::Taken(gone) = offer {
            gone.iter().for_each(|gone| self.tell_leg(*gone, false));
            self.tell_leg(remote, true);
        }
        if offer == Offer::Refused {
            if is_question {
                self.send_message(from, &Message::Closed { device }, time);
            }
            return;
        }
        if is_question {
            self.send_message(from, &Message::Opened { device, label, is_question: false }, time);
        } else {
            self.send_attempt(&device, remote, time);
        }
        self.send_due_messages(&device, time);
    }

    /// Both ends want it: passes on between them. Who asked is told; who said so last knows.
    fn join(&mut self, last: DeviceId, complete: Complete, time: Time) {
        let Complete { ends: [a, b], labels } = complete;
        let end = |device: &DeviceId, label| {
            Some(End { link: self.peers.get(device)?.link, at: self.direct(device, time)?, label })
        };
        let (Some(first), Some(second)) = (end(&a, labels[0]), end(&b, labels[1])) else {
            return self.close_circuit(a, b, time);
        };
        let traffic = Arc::clone(&self.relaying.traffic);
        self.out.updates.push_back(Update::Join { ends: [first, second], traffic });
        let (asker, other, label) = if a == last { (b, a, labels[1]) } else { (a, b, labels[0]) };
        self.send_message(&asker, &Message::Opened { device: other, label, is_question: false }, time);
    }

    /// `from` does not pass on what it was asked to.
    pub(super) fn on_refused(&mut self, from: &DeviceId, device: &DeviceId, time: Time) {
        if let Some(peer) = self.peers.get_mut(device) {
            peer.relays.legs.on_refused(from, &mut self.rng, time.now);
            peer.trail.add_once(Step::RelayRefused(*from), time.now);
            self.watch_relays(device, time);
        }
    }

    /// `from` passes nothing on any more to `device`, or wants nothing passed on from there.
    pub(super) fn on_closed(&mut self, from: &DeviceId, device: DeviceId, time: Time) {
        if let Some(closed) = self.relaying.circuits.close(*from, device) {
            self.out.updates.push_back(Update::Part { labels: closed.labels });
            self.send_message(&device, &Message::Closed { device: *from }, time);
        }
        self.lose_leg(&device, from, time);
    }

    /// Something passed on a circuit: the links of its ends are in use.
    pub(super) fn on_relayed(&mut self, label: u32, time: Time) {
        let Some(ends) = self.relaying.circuits.on_used(label, time.now) else { return };
        ends.iter().for_each(|end| self.use_link(end, time));
    }

    /// The link with `device` is in use for others, or it is by way of it: it lives on and is renewed for as long as a
    /// circuit does without a word, not as long as after an application's.
    fn use_link(&mut self, device: &DeviceId, time: Time) {
        let Some(peer) = self.peers.get_mut(device) else { return };
        peer.timers.on_served(time.now + SILENT_FOR);
        let rekey_after = self.config.rekey_after;
        let is_worn = peer
            .sessions
            .current(time.now)
            .is_some_and(|session| time.now >= session.began_at + rekey_wait(session.role, rekey_after));
        if is_worn {
            self.wake(device, time);
        }
    }

    /// Ends circuits through which nothing passes.
    pub(super) fn circuits_due(&mut self, time: Time) {
        while let Some([a, b]) = self.relaying.circuits.poll_silent(time.now) {
            self.close_circuit(a, b, time);
        }
    }

    fn close_circuit(&mut self, a: DeviceId, b: DeviceId, time: Time) {
        let Some(closed) = self.relaying.circuits.close(a, b) else { return };
        self.out.updates.push_back(Update::Part { labels: closed.labels });
        self.send_message(&a, &Message::Closed { device: b }, time);
        self.send_message(&b, &Message::Closed { device: a }, time);
    }

    /// Ends all circuits of `device`.
    pub(super) fn close_circuits(&mut self, device: &DeviceId, time: Time) {
        let ends: Vec<_> = self.relaying.circuits.of(*device).map(|circuit| circuit.ends).collect();
        ends.iter().for_each(|[a, b]| self.close_circuit(*a, *b, time));
    }

    /// `device` may be elsewhere, or nowhere: its circuits lead there, and the legs by way of it start there.
    pub(super) fn follow_relays(&mut self, device: &DeviceId, time: Time) {
        let at = self.direct(device, time);
        let Some(peer) = self.peers.get_mut(device) else { return };
        if std::mem::replace(&mut peer.relays.at, at) == at {
            return;
        }
        if at.is_none() {
            self.close_circuits(device, time);
        }
        let circuits = &self.relaying.circuits;
        let complete: Vec<_> =
            circuits.of(*device).filter(|circuit| circuits.is_complete(&circuit.ends)).collect();
        for circuit in complete {
            let [a, b] = circuit.ends;
            self.join(if a == *device { a } else { b }, circuit, time);
        }
        self.lose_legs_by(device, time);
    }

    /// Nobody is reached by way of `device` any more.
    pub(super) fn lose_legs_by(&mut self, device: &DeviceId, time: Time) {
        let is_by = |peer: &Peer| peer.relays.legs.iter().any(|leg| leg.relay == *device);
        let ends: Vec<_> =
            self.peers.iter().filter(|(_, peer)| is_by(peer)).map(|(device, _)| *device).collect();
        ends.iter().for_each(|end| self.lose_leg(end, device, time));
    }

    /// All ways to `device` through others are forgotten with it.
    pub(super) fn forget_legs(&mut self, relays: &Relays) {
        relays.legs.iter().for_each(|leg| self.tell_leg(leg.remote, false));
    }

    /// The way to `device` through `relay` is over: another is taken, or the link is down until it is made anew.
    fn lose_leg(&mut self, device: &DeviceId, relay: &DeviceId, time: Time) {
        let Some(peer) = self.peers.get_mut(device) else { return };
        let Some(gone) = peer.relays.legs.remove(relay, &mut self.rng, time.now) else { return };
        let is_used = peer.path.remote() == Some(gone.remote);
        let best = peer.relays.legs.best(time.now).map(|leg| (leg.remote, leg.rtt));
        self.tell_leg(gone.remote, false);
        let Some(peer) = self.peers.get_mut(device).filter(|_| is_used) else { return };
        if let Some((remote, rtt)) = best {
            peer.path.select(remote, rtt, time.now);
            return self.on_better_path(device, time);
        }
        self.on_link_down(device, time);
        if self.peers.get(device).is_some_and(|peer| self.is_wanted(peer, time)) {
            self.wake(device, time);
        }
    }

    fn tell_leg(&mut self, leg: Remote, is_open: bool) {
        if let Remote::Relayed { via, label } = leg {
            self.out.updates.push_back(Update::Leg { via, label, is_open });
        }
    }

    /// Sees whether a relay is needed for `device`, and does what is due about it.
    pub(super) fn watch_relays(&mut self, device: &DeviceId, time: Time) {
        let Some(peer) = self.peers.get(device) else { return };
        let need = self.relay_need(peer, time);
        if !peer.relays.legs.is_due(need, time.now) {
            return;
        }
        let relays = if need == Need::None { Vec::new() } else { self.relays_for(device, time) };
        let Some(peer) = self.peers.get_mut(device) else { return };
        for act in peer.relays.legs.act(need, &relays, &mut self.rng, time.now) {
            match act {
                Act::Ask(relay) => {
                    if let Some(peer) = self.peers.get_mut(device) {
                        peer.trail.add_once(Step::RelayAsked(relay), time.now);
                    }
                    self.send_message(&relay, &Message::Open { device: *device }, time);
                }
                Act::Check { id, to } => {
                    let check = Message::Check { id, length: CHECK_BYTES };
                    self.send_message_to(device, &check, to, time);
                }
                Act::Lose(relay) => {
                    self.send_message(&relay, &Message::Closed { device: *device }, time);
                    self.lose_leg(device, &relay, time);
                }
            }
        }
        let used = self.peers.get(device).into_iter().flat_map(|peer| peer.relays.legs.iter());
        let used: Vec<DeviceId> = used.map(|leg| leg.relay).collect();
        used.iter().for_each(|relay| self.use_link(relay, time));
        if need != Need::None && used.is_empty() && relays.len() < MAX_WOKEN {
            self.wake_relays(device, time);
        }
    }

    /// How badly a relay is needed for a member. What no application waits for is not worth one.
    fn relay_need(&self, peer: &Peer, time: Time) -> Need {
        if self.joining.is_some() || !self.is_wanted(peer, time) {
            return Need::None;
        }
        let used = peer.path.remote().filter(|_| peer.sessions.current(time.now).is_some());
        match used {
            None => match &peer.attempt {
                Some(attempt) if attempt.number > 0 || time.now >= attempt.sent_at + RELAY_AFTER => {
                    Need::Handshake
                }
                Some(_) if peer.path.candidates().next().is_none() => Need::Handshake,
                Some(_) | None => Need::None,
            },
            Some(Remote::Circuit(_) | Remote::Carried(_)) => Need::Now,
            Some(_) if peer.is_silent() => Need::Now,
            Some(Remote::Relayed { .. }) => Need::Spare,
            Some(Remote::Udp(_) | Remote::Side { .. }) => Need::None,
        }
    }

    /// Says whether somebody on this machine waits for the link, or used it lately. That it serves others is not enough: two
    /// links, each the spare of the other, would keep each other up for ever.
    pub(super) fn is_wanted(&self, peer: &Peer, time: Time) -> bool {
        peer.timers.is_used(self.config.idle_after, time.now) || peer.is_waited_for()
    }

    /// Who could pass on to `device`: members with a direct link that say so, the nearest first.
    fn relays_for(&self, device: &DeviceId, time: Time) -> Vec<DeviceId> {
        let mut relays: Vec<_> = self
            .peers
            .iter()
            .filter(|(relay, _)| *relay != device && self.says_that_it_relays(relay))
            .filter(|(relay, _)| self.direct(relay, time).is_some())
            .map(|(relay, peer)| (peer.path.rtt().unwrap_or(Duration::MAX), *relay))
            .collect();
        relays.sort_unstable();
        relays.into_iter().map(|(_, relay)| relay).collect()
    }

    /// Calls members that pass on, and with which there is no link.
    fn wake_relays(&mut self, device: &DeviceId, time: Time) {
        let asleep = |(relay, peer): &(&DeviceId, &Peer)| {
            *relay != device
                && peer.sessions.current(time.now).is_none()
                && peer.path.candidates().next().is_some()
                && self.says_that_it_relays(relay)
        };
        let asleep: Vec<DeviceId> =
            self.peers.iter().filter(asleep).map(|(relay, _)| *relay).take(MAX_WOKEN).collect();
        asleep.iter().for_each(|relay| self.wake(relay, time));
    }

    fn says_that_it_relays(&self, device: &DeviceId) -> bool {
        let presence = self.roster.objects().presence_of(device);
        presence.is_some_and(|(_, presence)| presence.flags & RELAYS != 0)
    }

    /// Where `device` is, if there is a direct link with it.
    fn direct(&self, device: &DeviceId, time: Time) -> Option<SocketAddr> {
        let peer = self.peers.get(device)?;
        peer.sessions.current(time.now)?;
        peer.path.remote()?.udp()
    }

    /// Takes in the echo of a leg's check: it is a path, and perhaps the better one.
    pub(super) fn on_leg_checked(&mut self, device: &DeviceId, id: u64, time: Time) {
        let Some(peer) = self.peers.get_mut(device) else { return };
        let Some(checked) = peer.relays.legs.on_echo(id, &mut self.rng, time.now) else {
            return self.on_stream_checked(device, id, time);
        };
        let found = Found {
            remote: checked.remote,
            rtt: checked.rtt,
            sent_at: checked.sent_at,
            is_nearer: false,
            is_silent: peer.is_silent(),
        };
        if peer.path.consider(found, peer.is_lower, time.now) {
            self.on_better_path(device, time);
        }
    }

    /// The member that passes on to `device`, if one does.
    pub(super) fn via(&self, peer: &Peer) -> Option<DeviceId> {
        let used = peer.path.remote()?;
        peer.relays.legs.at(used).map(|Leg { relay, .. }| *relay)
    }
}
