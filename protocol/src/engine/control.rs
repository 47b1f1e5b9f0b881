//! In-session messages of a member, and what this end says in return.

use std::net::SocketAddr;

use super::candidates::PROMPT_SILENCE;
use super::news::{Origin, is_kept_on, is_urgent, is_wake_worthy};
use super::outbox::Event;
use super::peer::{Peer, Settlement};
use super::witness::Acknowledgement;
use super::{Engine, Time};
use crate::drop::DropReason;
use crate::forward::{Note, Update};
use crate::identity::{DeviceId, ObjectId};
use crate::membership::exchange;
use crate::membership::object::{Body, Kind, Object, Target};
use crate::path::{Probe, Purpose, Remote};
use crate::tunnel::timers::{REKEY_AFTER_DATAGRAMS, rekey_wait};
use crate::wire::header::DATA_OVERHEAD_BYTES;
use crate::wire::message::{Message, MessageError, OBSERVED_BYTES, SHORTEST_BYTES};

/// The pause between two `Settled` that were not answered (chosen: above any round trip on earth).
const SETTLE_AGAIN: std::time::Duration = std::time::Duration::from_millis(500);

/// Exchanges begun anew on one session with a member that listed nothing of what this device signed (chosen: it lists that
/// at the first, if it is honest).
const MAX_ASKED_AGAIN: u8 = 2;

impl Engine {
    /// Takes in a message that opened with session `index` and came from `from`.
    pub(super) fn on_message(
        &mut self,
        (index, from): (u32, Remote),
        bytes: &[u8],
        time: Time,
    ) -> Result<(), DropReason> {
        let device = *self.indices.get(&index).ok_or(DropReason::UnknownIndex)?;
        let peer = self.peers.get_mut(&device).ok_or(DropReason::UnknownIndex)?;
        let message = Message::decode(bytes).map_err(|error| match error {
            MessageError::Unknown => DropReason::MessageUnknown,
            MessageError::Malformed => DropReason::MessageMalformed,
        })?;
        // Checks and their echoes come from wherever the member tries to be heard, not from where it is.
        if !matches!(message, Message::Check { .. } | Message::Echo { .. }) {
            let answer = match message {
                Message::Probe { length, .. } if length >= OBSERVED_BYTES => {
                    OBSERVED_BYTES + DATA_OVERHEAD_BYTES
                }
                Message::Probe { .. } => SHORTEST_BYTES + DATA_OVERHEAD_BYTES,
                _ => 0,
            };
            let spare = (bytes.len() + DATA_OVERHEAD_BYTES).saturating_sub(answer);
            peer.path.on_source(from, spare, time.now);
        }
        peer.timers.on_received(false, time.now);
        let mut outcome = Ok(());
        match message {
            Message::Probe { id, length } => self.send_echo(&device, (id, length), from, time),
            Message::Check { id, length } => self.on_check(&device, (id, length), from, time),
            Message::Echo { id, observed } => self.on_echo((&device, from), (id, observed), time),
            Message::Candidates { set, is_question, may_spray, nat, candidates } => {
                let said = (nat, may_spray, candidates);
                outcome = self.on_candidates(&device, (set, is_question), said, time);
            }
            Message::Spray => outcome = self.on_spray(&device, time),
            Message::Carry { token, beacon } => outcome = self.on_carry(&device, (token, beacon), time),
            Message::Ids { kind, page } => {
                let list = self.roster.list(kind, page);
                self.send_message(&device, &list, time);
            }
            Message::List { kind, page, ids } => self.on_list(&device, (kind, page), &ids, time),
            Message::Have { ids } => self.on_have(&device, &ids, time),
            Message::Get { id, offset } => self.on_get(&device, id, offset, time),
            Message::Ask { id } => self.on_ask(&device, id, time),
            Message::Secret { id, secret } => outcome = self.on_secret(&device, (id, secret), time),
            Message::Piece { id, offset, total, bytes } => {
                if let Some(object) = peer.exchange.on_piece(id, (offset, total), bytes) {
                    outcome = self.on_object(&device, &object, time);
                }
            }
            Message::Settled { heard } => self.on_settled(&device, heard, time),
            Message::Open { device: target } => outcome = self.on_open(&device, target, time),
            Message::Opened { device: other, label, is_question } => {
                self.on_opened(&device, (other, label, is_question), time);
            }
            Message::Refused { device: other, .. } => self.on_refused(&device, &other, time),
            Message::Closed { device: other } => self.on_closed(&device, other, time),
            Message::Close { reason } => self.on_close(&device, (index, reason), time),
        }
        self.send_due_messages(&device, time);
        outcome
    }

    /// Takes in what the forwarder saw.
    pub(super) fn on_note(&mut self, note: Note, time: Time) {
        if let Note::Opened { index } = note {
            return self.on_first_datagram(index, time);
        }
        if let Note::Relayed { label } = note {
            return self.on_relayed(label, time);
        }
        let (Note::Sent(link)
        | Note::Large(link)
        | Note::Outcome { link, .. }
        | Note::Received { link, .. }
        | Note::Source { link, .. }) = note
        else {
            return;
        };
        let Some(device) = self.peer_at_link(link) else { return };
        let Some(peer) = self.peers.get_mut(&device) else { return };
        match note {
            Note::Opened { .. } | Note::Relayed { .. } => {}
            Note::Sent(_) => {
                peer.timers.on_sent(time.now);
                peer.look_at.get_or_insert(time.now + PROMPT_SILENCE);
                let current = peer.sessions.current(time.now);
                // A link that rested when its renewal was due has it when it is used again.
                let rekey_after = self.config.rekey_after;
                let is_worn = current.is_none_or(|session| {
                    session.sealer.sealed() >= REKEY_AFTER_DATAGRAMS
                        || time.now >= session.began_at + rekey_wait(session.role, rekey_after)
                });
                if is_worn || peer.timers.is_dead(time.now) {
                    self.wake(&device, time);
                }
                self.watch_path(&device, time);
            }
            Note::Large(_) => {
                peer.path.on_large(time.now);
                self.send_due_messages(&device, time);
            }
            Note::Outcome { service, outcome, .. } => peer.outcomes.add((service, outcome), time.now),
            Note::Received { packets, .. } => {
                peer.timers.on_received(packets, time.now);
                peer.last_seen_secs = Some(time.wall_secs());
                if packets {
                    self.watch_path(&device, time);
                }
            }
            Note::Source { from, bytes, .. } => {
                peer.path.on_source(from, bytes, time.now);
                self.send_due_messages(&device, time);
            }
        }
    }

    /// Sends what path, exchange and settlement have to say.
    pub(super) fn send_due_messages(&mut self, device: &DeviceId, time: Time) {
        self.watch_path(device, time);
        self.watch_relays(device, time);
        self.watch_carrying(device, time);
        while let Some(peer) = self.peers.get_mut(device) {
            if peer.sessions.current(time.now).is_none() {
                return;
            }
            if let Some(probe) = peer.path.poll_probe(&mut self.rng, time.now) {
                self.send_probe(device, probe, time);
            } else if let Some(check) = peer.punch.poll(&mut self.rng, time.now) {
                self.send_check(device, check, time);
            } else if let Some(question) = peer.exchange.poll_question(&mut self.rng, time.now) {
                peer.timers.on_asked(time.now);
                self.send_message(device, &question, time);
            } else if let Some(news) = peer.news.poll(&mut self.rng, time.now) {
                peer.timers.on_asked(time.now);
                self.send_message(device, &news, time);
            } else if let Some(question) = self.poll_ask(device, time) {
                self.send_message(device, &question, time);
            } else {
                break;
            }
        }
        self.settle_history(device, time);
        self.settle(device, time);
        let is_held_up = |peer: &Peer| peer.settlement == Settlement::Rekey || peer.timers.is_dead(time.now);
        if self.peers.get(device).is_some_and(is_held_up) {
            self.wake(device, time);
        }
        self.flush(device, time);
    }

    /// Notes whether this device's history is known to be whole. A member that has just come in lists nothing at first, and
    /// is asked again once it has settled.
    fn settle_history(&mut self, device: &DeviceId, time: Time) {
        let Some(peer) = self.peers.get_mut(device).filter(|_| !self.has_settled) else { return };
        if !peer.is_settled() || !peer.exchange.is_complete() || peer.exchange_at.is_none() {
            return;
        }
        self.has_settled = peer.knows_history;
        if !peer.knows_history && peer.asked_again < MAX_ASKED_AGAIN {
            peer.asked_again += 1;
            peer.begin_exchange(time.now);
            let question = peer.exchange.poll_question(&mut self.rng, time.now);
            if let Some(question) = question {
                self.send_message(device, &question, time);
            }
        }
    }

    /// Says `Settled` if it is true and due.
    fn settle(&mut self, device: &DeviceId, time: Time) {
        let may_settle = self.joining.is_none() && self.has_secrets_of(device);
        let Some(peer) = self.peers.get_mut(device) else { return };
        let Settlement::Open { theirs, again_at } = &mut peer.settlement else { return };
        if !may_settle || !peer.exchange.is_settled() || time.now < *again_at {
            return;
        }
        let heard = *theirs;
        *again_at = time.now + SETTLE_AGAIN;
        peer.timers.on_asked(time.now);
        self.send_message(device, &Message::Settled { heard }, time);
        if heard {
            self.on_both_settled(device, time);
        }
    }

    fn on_settled(&mut self, device: &DeviceId, heard: bool, time: Time) {
        let may_settle = self.joining.is_none() && self.has_secrets_of(device);
        let Some(peer) = self.peers.get_mut(device) else { return };
        match &mut peer.settlement {
            Settlement::Open { theirs, again_at } => {
                *theirs = true;
                *again_at = time.now;
                // Whatever the other end says that it heard: this one says it only once its own exchange has come so far.
                if heard && may_settle && peer.exchange.is_settled() {
                    self.on_both_settled(device, time);
                }
            }
            // The other end has not heard ours; what it missed is said again.
            Settlement::Done | Settlement::Rekey if !heard => {
                self.send_message(device, &Message::Settled { heard: true }, time);
            }
            Settlement::Done | Settlement::Rekey => {}
        }
    }

    /// From now on packets pass; on a session under an older epoch only after another handshake.
    fn on_both_settled(&mut self, device: &DeviceId, time: Time) {
        let Some(peer) = self.peers.get_mut(device) else { return };
        let current = peer.sessions.current(time.now);
        if !current.is_some_and(|session| self.roster.is_newest(&session.epoch)) {
            peer.settlement = Settlement::Rekey;
            return self.wake(device, time);
        }
        peer.settlement = Settlement::Done;
        let allowed = peer.sessions.iter().map(|session| Update::Allow { index: session.index });
        self.out.updates.extend(allowed);
        self.flush(device, time);
    }

    fn on_echo(
        &mut self,
        (device, from): (&DeviceId, Remote),
        (id, observed): (u64, Option<SocketAddr>),
        time: Time,
    ) {
        let Some(peer) = self.peers.get_mut(device) else { return };
        if peer.sessions.current(time.now).is_none() {
            return;
        }
        let Some(echo) = peer.path.on_echo(id, time.now) else {
            return self.on_checked((device, from), (id, observed), time);
        };
        if let Some(ticket) = peer.pings.sent.remove(&id) {
            self.out.events.push_back(Event::Pong { ticket, rtt: echo.rtt });
        }
        self.on_kept(device, observed);
        self.on_observed((device, from), observed, time);
        let Some(peer) = self.peers.get_mut(device).filter(|_| echo.changed) else { return };
        if echo.purpose == Purpose::Challenge {
            peer.trail.extend_moved(peer.path.remote(), time.now);
        }
        if let Some(remote) = peer.path.remote().and_then(Remote::udp) {
            self.out.events.push_back(Event::Reached { device: *device, remote });
        }
    }

    /// Answers a probe or a check where it came from, with no more bytes than it had.
    pub(super) fn send_echo(
        &mut self,
        device: &DeviceId,
        (id, length): (u64, usize),
        from: Remote,
        time: Time,
    ) {
        let observed = from.udp().filter(|address| length >= OBSERVED_BYTES && address.port() != 0);
        self.send_message_to(device, &Message::Echo { id, observed }, from, time);
    }

    fn on_get(&mut self, device: &DeviceId, id: ObjectId, offset: u16, time: Time) {
        if let Some(peer) = self.peers.get_mut(device) {
            peer.news.on_get(&id);
        }
        let object = self.roster.to_tell(&id).or_else(|| self.farewell_object(&id)).cloned();
        let piece = match &object {
            Some(object) => exchange::piece(id, object.bytes(), offset),
            None => Some(Message::Piece { id, offset, total: 0, bytes: &[] }),
        };
        if let Some(piece) = piece {
            self.send_message(device, &piece, time);
        }
    }

    /// Takes in an object from a member: kept, acted upon, and told to the others.
    fn on_object(&mut self, from: &DeviceId, bytes: &[u8], time: Time) -> Result<(), DropReason> {
        let is_urgent_kind = Object::kind_in(bytes).is_some_and(is_urgent);
        let may_take = self.peers.get_mut(from).is_some_and(|peer| match is_urgent_kind {
            true => peer.urgent_objects.take(time.now),
            false => peer.objects.take(time.now),
        });
        if !may_take {
            // What is given up here, a later exchange brings.
            if let Some(peer) = self.peers.get_mut(from) {
                peer.exchange.on_refused();
            }
            return Err(DropReason::ObjectBound);
        }
        let taken = self.roster.receive(bytes, from, time.wall_secs())?;
        let is_last = self.peers.get(from).is_none_or(|peer| peer.exchange.is_done());
        for object in taken {
            self.on_taken(from, (object, is_last), time);
        }
        Ok(())
    }

    /// An object of a member's is in the set, and was not before.
    fn on_taken(&mut self, from: &DeviceId, (object, is_last): (Object, bool), time: Time) {
        // Others know what this device signed, and it did not: its disk went back to when it was alone.
        let own = self.config.device.public();
        let is_own = object.body().link().is_some_and(|link| link.admin == own);
        self.began_alone &= !is_own;
        self.went_back |= is_own;
        if is_kept_on(object.kind()) && !is_removal_of(from, &object) {
            // Before anything is done about it: a member that leaves is forgotten by its own word.
            self.send_message(from, &Message::Have { ids: vec![object.id()] }, time);
        }
        if is_urgent(object.kind()) {
            self.on_news(vec![object], Origin::Member(*from), time);
        } else if let Some(arrived) = self.arriving.add(object, *from, (is_last, time.now)) {
            self.on_news(arrived.objects, Origin::Member(arrived.from), time);
        }
    }

    /// Takes in what arrived and waited for more, if it has waited long enough.
    pub(super) fn on_arrived(&mut self, time: Time) {
        if let Some(arrived) = self.arriving.take_due(time.now) {
            self.on_news(arrived.objects, Origin::Member(arrived.from), time);
        }
    }

    /// Stores objects that are new here, brings everything in line with them, and tells the others. What this device made
    /// itself is told, also to those who ask, once it is on disk: an admin that forgot what others heard would sign a second history.
    pub(super) fn on_news(&mut self, objects: Vec<Object>, origin: Origin, time: Time) {
        self.roster.refresh_keys();
        let mut news: Vec<(Kind, ObjectId)> = Vec::new();
        for object in &objects {
            if self.may_tell(object, time) {
                news.push((object.kind(), object.id()));
            }
        }
        if news.iter().any(|(kind, _)| *kind == Kind::Epoch) {
            self.epoch_at = Some(time.now);
        }
        if origin == Origin::Own {
            self.roster.keep_back(news.iter().map(|(_, id)| *id));
        }
        let (presences, lasting): (Vec<_>, Vec<_>) =
            objects.into_iter().partition(|object| object.kind() == Kind::Presence);
        if !lasting.is_empty() {
            self.on_admits(&lasting, time);
            self.store(lasting, Vec::new());
            self.check_joined(time);
            self.on_membership(time);
        }
        for presence in &presences {
            self.on_presence(presence, time);
        }
        match origin {
            Origin::Own => self.acknowledge(Acknowledgement::News(news), time),
            Origin::Member(_) | Origin::Elsewhere => self.pass_on(&news, origin, time),
        }
    }

    /// Tells those with a link, and wakes others for what decides who may be talked to.
    pub(super) fn pass_on(&mut self, news: &[(Kind, ObjectId)], origin: Origin, time: Time) {
        let from = match origin {
            Origin::Member(device) => Some(device),
            Origin::Own | Origin::Elsewhere => None,
        };
        self.tell(news, from.as_ref(), time);
        let is_worth_it =
            |(_, id): &(Kind, ObjectId)| self.roster.objects().get(id).is_some_and(is_wake_worthy);
        if self.joining.is_none() && news.iter().any(is_worth_it) {
            self.begin_spread(origin == Origin::Own, time);
        }
    }

    pub(super) fn send_probe(&mut self, device: &DeviceId, probe: Probe, time: Time) {
        let message = Message::Probe { id: probe.id, length: probe.length };
        self.send_message_to(device, &message, probe.to, time);
    }

    /// Says nothing, so that the other end hears something.
    pub(super) fn send_keepalive(&mut self, device: &DeviceId, time: Time) {
        let Some(peer) = self.peers.get_mut(device) else { return };
        peer.timers.on_keepalive();
        let Some((remote, session)) = peer.path.remote().zip(peer.sessions.current(time.now)) else { return };
        if let Ok(datagram) = session.sealer.seal_message(&[]) {
            self.out.transmit(remote, datagram);
        }
    }

    /// Seals a message and sends it on the selected path, if there are both.
    pub(super) fn send_message(&mut self, device: &DeviceId, message: &Message<'_>, time: Time) {
        if let Some(remote) = self.peers.get(device).and_then(|peer| peer.path.remote()) {
            self.send_message_to(device, message, remote, time);
        }
    }

    /// Seals a message and sends it to `to`.
    pub(super) fn send_message_to(
        &mut self,
        device: &DeviceId,
        message: &Message<'_>,
        to: Remote,
        time: Time,
    ) {
        let Some(session) = self.peers.get(device).and_then(|peer| peer.sessions.current(time.now)) else {
            return;
        };
        if let Ok(datagram) = session.sealer.seal_message(&message.encode()) {
            self.out.transmit(to, datagram);
        }
    }
}

/// Whether this is the word of another that `device` is out: it has what it knows of it for itself.
pub(super) fn is_removal_of(device: &DeviceId, object: &Object) -> bool {
    matches!(object.body(), Body::Remove(remove)
        if remove.target == Target::Device(*device) && !remove.is_leave())
}
