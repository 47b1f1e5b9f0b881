//! Handshakes with members: started, answered, completed, retried, given up.

use std::sync::Arc;
use std::time::Duration;

use rand_core::Rng as _;

use super::bursts::Waiting;
use super::control::is_removal_of;
use super::epochs::Asking;
use super::news::News;
use super::outbox::Event;
use super::peer::{Attempt, Pings, Reach, Settlement};
use super::proof::RELAYED_BYTES;
use super::reach;
use super::relaying::RELAY_AFTER;
use super::roster::EpochKeys;
use super::trail::Step;
use super::{Engine, Time, statics};
use crate::drop::DropReason;
use crate::forward::{Outbound, Update, send_packet};
use crate::gate::{self, Lane};
use crate::identity::DeviceId;
use crate::membership::exchange::Exchange;
use crate::membership::object::{Kind, Object};
use crate::path::Remote;
use crate::random;
use crate::tunnel::handshake::{Context, Initiation};
use crate::tunnel::timers::{Timers, rekey_wait, retry_pause};
use crate::tunnel::{Opener, Role, Sealer, Session, Suite};
use crate::veil::{self, Veiled};
use crate::wire::header::{Class, VeilHeader};
use crate::wire::hello::Hello;
use crate::wire::ip::{self, Ipv4};
use crate::wire::message::{CLOSE_REMOVED, Message};

/// Attempts of one handshake before the member counts as unreachable: about 22 s, so that a connect fails while its
/// user still waits for it. A packet starts anew.
const MAX_ATTEMPTS: u32 = 6;

/// Two initiations are at least so far apart: they are told apart by their time, in milliseconds.
const APART: Duration = Duration::from_millis(5);

/// What of a veiled datagram the handshake needs.
pub(super) struct Unveiled<'v> {
    pub(super) header: VeilHeader,
    /// The header's bytes.
    pub(super) clear: &'v [u8],
    /// The epoch under which it opened.
    pub(super) keys: &'v EpochKeys,
    pub(super) content: Veiled,
}

/// What an initiation has beyond its response, in bytes, at least (README §5.1): so much may follow to an address that is not
/// validated.
const SPARE_BYTES: usize = 253 - 208;

impl Engine {
    /// Starts a handshake with `device` if none is under way, there is an address to try, and its key is known.
    pub(super) fn wake(&mut self, device: &DeviceId, time: Time) {
        if self.peers.get(device).is_some_and(|peer| peer.attempt.is_none()) {
            self.initiate(device, 0, time);
        }
    }

    /// More is known of where `device` is: it is called there before the time, if it is called at all.
    pub(super) fn hasten(&mut self, device: &DeviceId, time: Time) {
        let Some(peer) = self.peers.get_mut(device) else { return };
        if peer.sessions.current(time.now).is_some() {
            return;
        }
        let is_waited_for = peer.is_waited_for();
        let number = match &mut peer.attempt {
            // Of two of one millisecond the later would be dropped as a replay.
            Some(attempt) if time.now < attempt.sent_at + APART => {
                attempt.retry_at = attempt.retry_at.min(time.now + APART);
                return;
            }
            Some(attempt) => attempt.number,
            None if is_waited_for => 0,
            None => return,
        };
        if peer.hastened.take(time.now) {
            self.initiate(device, number, time);
        }
    }

    /// Sends attempt number `number` of a handshake to every address of `device`.
    pub(super) fn initiate(&mut self, device: &DeviceId, number: u32, time: Time) {
        let hello = self.hello();
        let index = self.unused_index();
        let is_lost = self.remotes(device, time.now).is_empty();
        if is_lost && self.search_lan(u32::MAX, time) {
            self.note_step(device, Step::SearchedLan, time.now);
        }
        self.search_dht(device, if is_lost { u32::MAX } else { number }, time);
        let mut remotes = self.remotes(device, time.now);
        remotes.extend(self.legs_for_handshake(device, &remotes));
        let is_relayed = remotes.iter().any(|remote| matches!(remote, Remote::Relayed { .. }));
        let may_be_found = self.finding.is_on() && self.is_member();
        let is_known = number == 0 && self.peers.get(device).is_some_and(|peer| peer.has_met);
        let proofs =
            if is_known || self.joining.is_some() { Vec::new() } else { self.own_proofs(is_relayed) };
        let Some(peer) = self.peers.get_mut(device) else { return };
        let known_tag = peer.digests.map(|digests| digests.epoch_tag);
        let Some(keys) = self.roster.keys_for(number, known_tag) else { return };
        let is_hopeless = remotes.is_empty() && !may_be_found && !peer.is_waited_for();
        let Some(static_key) = peer.static_key.filter(|_| !is_hopeless) else {
            return self.give_up(device, time);
        };
        let nonce = random::bytes(&mut self.rng);
        let header = VeilHeader { class: Class::Member, epoch_tag: keys.tag, nonce };
        let time_ms = self.clocks.true_ms(time.wall_ms);
        let prologue = veil::prologue(&header.to_bytes(), time_ms);
        let context = Context { psk: &keys.psk, prologue: &prologue };
        let proofs: Vec<&[u8]> = proofs.iter().map(|object| &**object.bytes()).collect();
        let payload = hello.encode_initiation(&proofs);
        let made = Initiation::new(
            &self.config.static_secret,
            &static_key,
            context,
            (index, &payload),
            &mut self.rng,
        );
        let Ok((initiation, body)) = made else { return };
        let datagram = Veiled { time_ms, kind: veil::INITIATION, body }.seal(&keys.veil, &header);
        let retry_at = time.now + retry_pause(number, &mut self.rng);
        peer.timers.on_asked(time.now);
        let epoch = keys.hash;
        let attempt = Attempt {
            initiation,
            datagram: datagram.clone(),
            epoch,
            index,
            sent_at: time.now,
            retry_at,
            number,
        };
        let old = peer.attempt.replace(attempt);
        if let Some(old) = old {
            self.indices.remove(&old.index);
        }
        peer.trail.add(Step::Called { remotes: remotes.len(), attempt: number }, time.now);
        peer.relays.legs.look_by(time.now + RELAY_AFTER);
        self.indices.insert(index, *device);
        for remote in remotes {
            self.out.transmit(remote, datagram.clone());
        }
        self.watch_relays(device, time);
    }

    /// A way to `device` through another is there: what waits for an answer goes there, too.
    pub(super) fn send_attempt(&mut self, device: &DeviceId, to: Remote, time: Time) {
        let Some(peer) = self.peers.get(device) else { return };
        let Some(attempt) = peer.attempt.as_ref().filter(|_| peer.goes_by_legs()) else { return };
        if attempt.datagram.len() > RELAYED_BYTES {
            let number = attempt.number;
            return self.initiate(device, number, time);
        }
        self.out.transmit(to, attempt.datagram.clone());
    }

    /// The ways through others on which a handshake with `device` goes, beside `remotes`.
    fn legs_for_handshake(&self, device: &DeviceId, remotes: &[Remote]) -> Vec<Remote> {
        let Some(peer) = self.peers.get(device).filter(|peer| peer.goes_by_legs()) else { return Vec::new() };
        let legs = peer.relays.legs.iter().map(|leg| leg.remote);
        legs.filter(|leg| !remotes.contains(leg)).collect()
    }

    /// Takes in an initiation that opened under a veil; answers it if the gate lets it.
    pub(super) fn on_initiation(
        &mut self,
        question: &gate::Question,
        unveiled: &Unveiled<'_>,
        time: Time,
    ) -> Result<(), DropReason> {
        let Unveiled { header, clear, keys, content } = unveiled;
        let lane = if self.roster.is_newest(&keys.hash) { Lane::Newest } else { Lane::OldEpoch };
        let looked = self.gate.look(lane, question, self.clocks.true_ms(time.wall_ms), time.now);
        if looked == Err(DropReason::VeilTime) {
            self.clocks.on_stray(question.time_ms, time);
        }
        looked?;
        let prologue = veil::prologue(clear, content.time_ms);
        let context = Context { psk: &keys.psk, prologue: &prologue };
        let own = std::iter::once(&self.config.static_secret).chain(&self.former_statics);
        let received = statics::receive(own, context, &content.body, &mut self.rng)
            .map_err(|_| DropReason::HandshakeForged)?;
        let (theirs, proofs) =
            Hello::decode_initiation(&received.payload).map_err(|_| DropReason::HandshakeForged)?;
        let suite = Suite::choose(self.config.suites, theirs.suites).ok_or(DropReason::HandshakeForged)?;
        let device = theirs.device;
        let is_member = self.is_peer((&device, &received.peer), (&proofs, header.nonce), time);
        self.gate.answer(question, &received.peer, is_member, time.now)?;

        let (hello, index) = (self.hello(), self.unused_index());
        let (body, made) =
            received.answer(index, &hello.encode_response()).map_err(|_| DropReason::HandshakeForged)?;
        let header = VeilHeader { nonce: random::bytes(&mut self.rng), ..*header };
        let answer = Veiled { time_ms: self.clocks.true_ms(time.wall_ms), kind: veil::RESPONSE, body };
        self.out.transmit(question.source, answer.seal(&keys.veil, &header));

        self.settle_by(&device, (hello, theirs), keys.hash, time);
        let place = (index, Role::Responder, keys.hash);
        let session = self.open_session(&device, place, made.into_halves(suite), time);
        let Some((peer, session)) = self.peers.get_mut(&device).zip(session) else { return Ok(()) };
        peer.answered = Some((index, question.source));
        let replaced = peer.sessions.add_responded(session);
        self.forget(replaced.map(|session| session.index));
        Ok(())
    }

    /// Takes in a response that opened under a veil.
    pub(super) fn on_response(
        &mut self,
        from: Remote,
        content: &Veiled,
        time: Time,
    ) -> Result<(), DropReason> {
        let (index, message) = content.body.split_first_chunk::<4>().ok_or(DropReason::HandshakeForged)?;
        let index = u32::from_be_bytes(*index);
        let device = *self.indices.get(&index).ok_or(DropReason::UnexpectedResponse)?;
        let peer = self.peers.get_mut(&device).ok_or(DropReason::UnexpectedResponse)?;
        let attempt = peer.attempt.as_mut().filter(|attempt| attempt.index == index);
        let attempt = attempt.ok_or(DropReason::UnexpectedResponse)?;
        let (payload, keys) =
            attempt.initiation.complete(message).map_err(|_| DropReason::HandshakeForged)?;
        let theirs = Hello::decode_response(&payload).map_err(|_| DropReason::HandshakeForged)?;
        if theirs.device != device {
            return Err(DropReason::NotMember);
        }
        let suite = Suite::choose(self.config.suites, theirs.suites).ok_or(DropReason::HandshakeForged)?;
        let (sent_at, epoch) = (attempt.sent_at, attempt.epoch);
        self.clocks.on_response(content.time_ms, time);
        peer.attempt = None;

        let hello = self.hello();
        self.settle_by(&device, (hello, theirs), epoch, time);
        let place = (index, Role::Initiator, epoch);
        let session = self.open_session(&device, place, keys.into_halves(suite), time);
        let Some((peer, mut session)) = self.peers.get_mut(&device).zip(session) else { return Ok(()) };
        session.began_at = sent_at;
        // Where the response came from is used if the initiation was sent there; any other address is challenged first.
        let remote = {
            let heard = peer.heard.addresses(time.now).map(Remote::Udp);
            let legs = peer.relays.legs.iter().map(|leg| leg.remote);
            let mut tried = peer.path.remotes().chain(heard).chain(legs).chain(peer.circuit.remote());
            tried.find(|candidate| *candidate == from)
        };
        let remote = remote.or_else(|| peer.path.remotes().next()).unwrap_or(from);
        let replaced = peer.sessions.add_initiated(session, peer.is_lower);
        self.forget(replaced.map(|session| session.index));
        let rtt = time.now.saturating_duration_since(sent_at);
        self.on_link_up(&device, (remote, Some(rtt)), time);
        if let Some(peer) = self.peers.get_mut(&device) {
            peer.path.on_source(from, SPARE_BYTES, time.now);
        }
        // The other end sends on the session only after it opened something with it.
        self.send_keepalive(&device, time);
        self.flush(&device, time);
        self.send_due_messages(&device, time);
        Ok(())
    }

    /// Notes that a session's first datagram opened: a session that this end answered is confirmed by it.
    pub(super) fn on_first_datagram(&mut self, index: u32, time: Time) {
        let Some(device) = self.indices.get(&index).copied() else { return };
        let Some(peer) = self.peers.get_mut(&device) else { return };
        let Some(replaced) = peer.sessions.on_opened(index, peer.is_lower, time.now) else { return };
        let remote = peer.answered.take_if(|(answered, _)| *answered == index).map(|(_, remote)| remote);
        self.forget(replaced.map(|session| session.index));
        if let Some(remote) = remote {
            self.on_link_up(&device, (remote, None), time);
        }
        self.flush(&device, time);
        self.send_due_messages(&device, time);
    }

    /// Gives both halves of a session their places: the opener goes to the forwarder.
    fn open_session(
        &mut self,
        device: &DeviceId,
        (index, role, epoch): (u32, Role, [u8; 32]),
        (sealer, opener): (Sealer, Opener),
        time: Time,
    ) -> Option<Session> {
        let peer = self.peers.get(device)?;
        self.indices.insert(index, *device);
        match role {
            Role::Initiator => self.counters.initiated += 1,
            Role::Responder => self.counters.answered += 1,
        }
        let (opener, packets) = (Box::new(opener), peer.is_settled());
        self.out.updates.push_back(Update::Open { index, link: peer.link, opener, packets });
        let (sealer, now) = (Arc::new(sealer), time.now);
        Some(Session { index, role, sealer, epoch, began_at: now, finished_at: now })
    }

    /// Starts the exchange that goes with each handshake. Digests tell of what decides who may be talked to, not of
    /// who has joined, and news can be lost on the way: what is lost arrives with the next rekey.
    fn settle_by(&mut self, device: &DeviceId, (ours, theirs): (Hello, Hello), epoch: [u8; 32], time: Time) {
        let is_equal = ours.digests == theirs.digests && self.joining.is_none();
        self.on_digests(device, theirs.digests);
        let is_newest = self.roster.is_newest(&epoch);
        let Some(peer) = self.peers.get_mut(device) else { return };
        let was_up = peer.sessions.current(time.now).is_some();
        (peer.has_met, peer.asked_again) = (true, 0);
        if is_equal && !is_newest {
            peer.settlement = Settlement::Rekey;
        } else if is_equal {
            peer.settlement = Settlement::Done;
            let allowed = peer.sessions.iter().map(|session| Update::Allow { index: session.index });
            self.out.updates.extend(allowed);
        } else if !matches!(peer.settlement, Settlement::Open { .. }) || !was_up {
            peer.settlement = Settlement::Open { theirs: false, again_at: time.now };
        }
        peer.begin_exchange(time.now);
    }

    /// A session with `device` can be sent on, by way of `remote`.
    fn on_link_up(&mut self, device: &DeviceId, (remote, rtt): (Remote, Option<Duration>), time: Time) {
        let rekey_after = random::earlier(self.config.rekey_after, &mut self.rng);
        let Some(peer) = self.peers.get_mut(device) else { return };
        let was_up = peer.path.remote().is_some();
        peer.reach = Reach::Unknown;
        // What was started because the link was down is not needed any more.
        if let Some(attempt) = peer.attempt.take() {
            self.indices.remove(&attempt.index);
        }
        peer.timers.on_received(false, time.now);
        peer.traffic.on_heard();
        peer.last_seen_secs = Some(time.wall_secs());
        // Whoever hears a handshake can pass it on from elsewhere: a path that is used is left only for an echo.
        let used = peer.path.remote().filter(|used| *used != remote);
        if used.is_some() {
            peer.path.on_source(remote, SPARE_BYTES, time.now);
        } else {
            peer.path.select(remote, rtt, time.now);
        }
        if let Some(remote) = used.unwrap_or(remote).udp() {
            self.out.events.push_back(Event::Reached { device: *device, remote });
        }
        if !was_up {
            peer.trail.add(Step::Up(remote), time.now);
            self.out.events.push_back(Event::Link { device: *device, is_up: true });
        }
        if let Some(session) = peer.sessions.current(time.now) {
            peer.rekey_at = Some(session.began_at + rekey_wait(session.role, rekey_after));
        }
        self.end_search(device);
        self.say_farewell_to(device, time);
        self.plan_refresh(time);
        self.refresh_route(device, time);
    }

    /// Tells the forwarder how packets to `device` are sent, if that changed.
    pub(super) fn refresh_route(&mut self, device: &DeviceId, time: Time) {
        let Some(peer) = self.peers.get_mut(device) else { return };
        let route = peer.wanted_route(time.now);
        let same = match (&route, &peer.route) {
            (Some(new), Some(old)) => {
                Arc::ptr_eq(&new.sealer, &old.sealer)
                    && (new.remote, new.packet_bytes, new.is_size_settled)
                        == (old.remote, old.packet_bytes, old.is_size_settled)
            }
            (None, None) => true,
            _ => false,
        };
        if !same {
            peer.route.clone_from(&route);
            self.out.updates.push_back(Update::Send { link: peer.link, route });
        }
        self.follow_relays(device, time);
    }

    /// Sends what waited for the link: packets, and pings.
    pub(super) fn flush(&mut self, device: &DeviceId, time: Time) {
        self.refresh_route(device, time);
        let Some(peer) = self.peers.get_mut(device) else { return };
        if let Some(route) = peer.route.clone() {
            let (fresh, stale) = peer.take_held(time.now);
            for packet in fresh {
                match send_packet(&packet, &route, &peer.traffic, &mut self.out) {
                    Outbound::Sent | Outbound::Hold => peer.timers.on_sent(time.now),
                    Outbound::TooLarge(error) => {
                        reach::tell_application((&self.reach, device), error, &mut self.out);
                    }
                    Outbound::Drop(reason) => self.out.events.push_back(Event::Dropped(reason)),
                }
            }
            self.out.events.extend((0..stale).map(|_| Event::Dropped(DropReason::PacketQueue)));
        }
        self.send_pings(device, time);
    }

    fn send_pings(&mut self, device: &DeviceId, time: Time) {
        while let Some(peer) = self.peers.get_mut(device) {
            if peer.sessions.current(time.now).is_none() || peer.pings.waiting.is_empty() {
                return;
            }
            let Some(probe) = peer.path.ping(&mut self.rng, time.now) else { return };
            peer.pings.on_sent(probe.id);
            self.send_probe(device, probe, time);
        }
    }

    /// What is due on the link with `device`.
    pub(super) fn on_peer_timeout(&mut self, device: &DeviceId, time: Time) {
        let Some(peer) = self.peers.get_mut(device) else { return };
        let expired: Vec<u32> =
            peer.sessions.expire(time.now).into_iter().map(|session| session.index).collect();
        let due = peer.attempt.as_ref().filter(|attempt| time.now >= attempt.retry_at);
        let next = due.map(|attempt| attempt.number + 1);
        let is_keepalive_due = peer.timers.keepalive_at().is_some_and(|at| time.now >= at);
        let is_rekey_due = peer.rekey_at.take_if(|at| time.now >= *at).is_some();
        let is_forgotten = peer.timers.take_doubt(time.now);
        let is_used = peer.timers.is_worth(self.config.idle_after, time.now);
        let is_alive = peer.sessions.current(time.now).is_some();
        self.forget(expired);
        if !is_alive {
            self.on_link_down(device, time);
        }
        match next {
            Some(number) if number < MAX_ATTEMPTS => {
                if self.search_lan(number, time) {
                    self.note_step(device, Step::SearchedLan, time.now);
                }
                self.ask_servers_for_search(time);
                self.initiate(device, number, time);
            }
            Some(_) => self.give_up(device, time),
            None if is_forgotten || (is_rekey_due && is_used) => self.wake(device, time),
            None => {}
        }
        if is_keepalive_due {
            self.send_keepalive(device, time);
        }
        self.send_due_messages(device, time);
    }

    /// No session with `device` can be sent on any more. Where none could before, what a handshake under way has begun
    /// stays.
    pub(super) fn on_link_down(&mut self, device: &DeviceId, time: Time) {
        let Some(peer) = self.peers.get_mut(device).filter(|peer| peer.path.remote().is_some()) else {
            return;
        };
        peer.path.unselect();
        peer.trail.add(Step::Down, time.now);
        peer.punch.start_over();
        peer.compare_at = None;
        self.out.events.push_back(Event::Link { device: *device, is_up: false });
        peer.news = News::default();
        // What belongs to a handshake that is answered and not confirmed yet stays.
        let is_pending = |(index, _)| peer.sessions.find(index).is_some();
        let owes_secret = peer.asking.is_waiting(self.roster.missing_secrets());
        if !peer.answered.is_some_and(is_pending) {
            peer.exchange = Exchange::default();
            peer.asking = Asking::default();
        }
        peer.rekey_at = None;
        peer.waiting = Waiting::No;
        peer.birthday_at = None;
        if owes_secret {
            self.wake(device, time);
        }
        self.end_carrying(device);
        self.refresh_route(device, time);
        self.sweep_sockets();
    }

    /// Takes in a goodbye that came on session `index`. Of a session that another followed it is late: the other end
    /// has started again since, and the later session lives. A member that says that this device was removed is alone in
    /// saying so, and may lie: its user is told, and nothing else is done about it.
    pub(super) fn on_close(&mut self, device: &DeviceId, (index, reason): (u32, u8), time: Time) {
        let Some(peer) = self.peers.get(device) else { return };
        let closed = peer.sessions.find(index).map(|session| session.finished_at);
        if peer.sessions.iter().all(|session| closed.is_some_and(|closed| session.began_at <= closed)) {
            self.close(device, time);
            if let Some(peer) = self.peers.get_mut(device).filter(|_| reason == CLOSE_REMOVED) {
                peer.reach = Reach::Denied;
            }
        }
    }

    /// The last that `device` hears, on a live session: that others removed it. Whoever left knows that it did.
    pub(super) fn tell_removed(&mut self, device: &DeviceId, time: Time) {
        let by_others = |object: &Object| is_removal_of(device, object);
        let is_by_others = self.roster.objects().of_kind(Kind::Remove).any(by_others);
        if is_by_others && self.roster.membership().is_removed(device) {
            self.send_message(device, &Message::Close { reason: CLOSE_REMOVED }, time);
        }
    }

    /// Ends every session with `device`: the other end has forgotten them, or does not answer.
    pub(super) fn close(&mut self, device: &DeviceId, time: Time) {
        let Some(peer) = self.peers.get_mut(device) else { return };
        let closed: Vec<u32> = peer.sessions.clear().into_iter().map(|session| session.index).collect();
        peer.timers = Timers::default();
        self.forget(closed);
        self.on_link_down(device, time);
    }

    /// No attempt was answered: whoever waits is told, and a session that went unanswered ends.
    fn give_up(&mut self, device: &DeviceId, time: Time) {
        self.end_search(device);
        let Some(peer) = self.peers.get_mut(device) else { return };
        if let Some(attempt) = peer.attempt.take() {
            self.indices.remove(&attempt.index);
        }
        peer.trail.add(Step::GaveUp, time.now);
        if peer.reach == Reach::Unknown {
            peer.reach = Reach::Unreachable;
        }
        peer.pings = Pings::default();
        let (fresh, stale) = peer.take_held(time.now);
        self.out.events.extend((0..stale).map(|_| Event::Dropped(DropReason::PacketQueue)));
        for packet in fresh {
            let error = Ipv4::parse(&packet).ok().and_then(|packet| ip::host_unreachable(&packet));
            if let Some(error) = error {
                reach::tell_application((&self.reach, device), error, &mut self.out);
            }
            self.out.events.push_back(Event::Dropped(DropReason::PacketQueue));
        }
        if peer.timers.is_dead(time.now) {
            self.close(device, time);
        }
    }

    /// Forgets receiver indices.
    fn forget(&mut self, indices: impl IntoIterator<Item = u32>) {
        for index in indices {
            self.indices.remove(&index);
            self.out.updates.push_back(Update::Forget { index });
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            device: self.config.device.public(),
            suites: self.config.suites,
            digests: self.roster.digests(),
        }
    }

    /// A random receiver index that no session of ours has.
    fn unused_index(&mut self) -> u32 {
        loop {
            let index = self.rng.next_u32();
            if !self.indices.contains_key(&index) {
                return index;
            }
        }
    }
}
