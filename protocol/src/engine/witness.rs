//! Letting others in: a joiner's question, the transaction, the answer. And what waits for the disk.

use std::collections::{BTreeMap, VecDeque};

use super::news::Origin;
use super::outbox::{Event, Ticket, Transmit};
use super::{Engine, Time};
use crate::drop::DropReason;
use crate::gate::{self, Lane};
use crate::identity::{InviteId, ObjectId, Secret};
use crate::membership::epoch::EpochSecret;
use crate::membership::join::{Answer, Question};
use crate::membership::object::{Body, Kind, Object};
use crate::membership::witness::{self, Verdict};
use crate::path::{Remote, is_candidate};
use crate::random;
use crate::veil::{self, Veiled};
use crate::wire::header::VeilHeader;

/// Joins remembered that others let in (chosen: those of a burst in the largest VPI, 200 kB).
const MAX_LET_IN: usize = 4_096;

/// Joins that other members let in, and this node's wall clock, in milliseconds, when it heard of it. What was asked
/// before was answered elsewhere: it is sent again by whoever saw it on the way. A joiner that missed its answer asks
/// anew. Not kept over a restart: what was asked before that is not answered either.
#[derive(Default)]
pub(super) struct LetIn(VecDeque<(ObjectId, u64)>);

impl LetIn {
    fn add(&mut self, join: ObjectId, wall_ms: u64) {
        if self.0.len() >= MAX_LET_IN {
            self.0.pop_front();
        }
        self.0.push_back((join, wall_ms));
    }

    /// Whether the question with this Join was answered elsewhere, if it was asked at `asked_ms`.
    fn has_answered(&self, join: &ObjectId, asked_ms: u64) -> bool {
        self.0.iter().any(|(known, heard_ms)| known == join && asked_ms <= *heard_ms)
    }
}

/// What may be said only once something is on disk.
pub(super) enum Acknowledgement {
    /// A joiner's answer.
    Answer(Transmit),
    /// An answer to this machine.
    Reply(Event),
    /// That there are objects of this device's own making.
    News(Vec<(Kind, ObjectId)>),
    /// That this device leaves.
    Farewell,
}

/// Stores under way, in order.
#[derive(Default)]
pub(super) struct Storing {
    last: Ticket,
    under_way: VecDeque<Ticket>,
    waiting: BTreeMap<Ticket, Vec<Acknowledgement>>,
}

impl Storing {
    /// Starts a store.
    fn begin(&mut self) -> Ticket {
        self.last += 1;
        self.under_way.push_back(self.last);
        self.last
    }

    /// What may be said now that `ticket`, and all before it, are on disk.
    fn end(&mut self, ticket: Ticket) -> Vec<Acknowledgement> {
        while self.under_way.pop_front_if(|first| *first <= ticket).is_some() {}
        let later = self.waiting.split_off(&(ticket + 1));
        std::mem::replace(&mut self.waiting, later).into_values().flatten().collect()
    }
}

impl Engine {
    /// Asks for objects and secrets to be put on disk.
    pub(super) fn store(&mut self, objects: Vec<Object>, epochs: Vec<EpochSecret>) {
        let ticket = self.storing.begin();
        self.out.events.push_back(Event::Store { ticket, objects, epochs });
    }

    /// Says `acknowledgement` once all that is under way is on disk: at once, if nothing is.
    pub(super) fn acknowledge(&mut self, acknowledgement: Acknowledgement, time: Time) {
        match self.storing.under_way.back() {
            Some(ticket) => self.storing.waiting.entry(*ticket).or_default().push(acknowledgement),
            None => self.say(acknowledgement, time),
        }
    }

    /// `ticket`, and all before it, are on disk.
    pub(super) fn on_stored(&mut self, ticket: Ticket, time: Time) {
        for acknowledgement in self.storing.end(ticket) {
            self.say(acknowledgement, time);
        }
    }

    fn say(&mut self, acknowledgement: Acknowledgement, time: Time) {
        match acknowledgement {
            Acknowledgement::Answer(transmit) => self.out.transmits.push_back(transmit),
            Acknowledgement::Reply(event) => self.out.events.push_back(event),
            Acknowledgement::News(news) => {
                self.roster.let_go(news.iter().map(|(_, id)| *id));
                self.pass_on(&news, Origin::Own, time);
            }
            Acknowledgement::Farewell => self.say_farewell(time),
        }
    }

    /// Takes in a veiled join datagram as a member.
    pub(super) fn on_join_question(
        &mut self,
        source: Remote,
        header: &VeilHeader,
        (invite, clear, sealed): (InviteId, &[u8], &[u8]),
        time: Time,
    ) -> Result<(), DropReason> {
        if !self.is_member() {
            return Err(DropReason::NotMember);
        }
        let keys: Vec<Secret> = self.roster.join_keys(header.epoch_tag, invite).collect();
        if keys.is_empty() {
            return Err(DropReason::UnknownEpoch);
        }
        let opened = keys.iter().find_map(|key| Some((key, Veiled::open(key, header, clear, sealed)?)));
        let (key, content) = opened.ok_or(DropReason::VeilForged)?;
        if content.kind != veil::QUESTION {
            return Err(DropReason::VeilType);
        }
        let asked = gate::Question { nonce: header.nonce, time_ms: content.time_ms, source };
        self.gate.look(Lane::Join, &asked, time.wall_ms, time.now)?;
        let question = Question::decode(&self.config.vpi, &content.body)?;
        if question.bodies().1.invite_id != invite {
            return Err(DropReason::JoinRefused);
        }
        let is_of_old = self.roster.newest_keys().is_none_or(|newest| newest.tag != header.epoch_tag);
        if is_of_old && self.has_had_its_answer(&question) {
            return Err(DropReason::JoinRefused);
        }
        let answer = self.answer_to(&question, &asked, time)?.encode();
        // Whoever is let in by several members calls one of them; the others know where to wake it.
        let near = source.udp().filter(is_candidate);
        if let Some((peer, near)) = self.peers.get_mut(&question.bodies().0.device).zip(near) {
            peer.path.add_candidate(near);
        }
        debug_assert!(answer.len() <= content.body.len(), "an answer is never longer than its question");
        let header = VeilHeader { nonce: random::bytes(&mut self.rng), ..*header };
        let answer = Veiled { time_ms: time.wall_ms, kind: veil::ANSWER, body: answer };
        let datagram = answer.seal(key, &header);
        self.acknowledge(Acknowledgement::Answer(Transmit { to: source, datagram }), time);
        Ok(())
    }

    /// Whoever is in and has told where it is has had its answer. Under an older epoch such a question is an ex-member's,
    /// who knows the Join and holds the secret.
    fn has_had_its_answer(&self, question: &Question) -> bool {
        let device = question.bodies().0.device;
        self.roster.membership().member(&device).is_some()
            && self.roster.objects().presence_of(&device).is_some()
    }

    /// Decides on a question and does what it asks for; the answer may leave once everything is on disk.
    fn answer_to(
        &mut self,
        question: &Question,
        asked: &gate::Question,
        time: Time,
    ) -> Result<Answer, DropReason> {
        let own = self.config.device.public();
        let (objects, membership) = (self.roster.objects(), self.roster.membership());
        let verdict = witness::consider(objects, membership, question, &own, time.wall_secs());
        if let Verdict::Silent(reason) = verdict {
            return Err(reason);
        }
        let join = question.join_object().id();
        if matches!(verdict, Verdict::Known(_)) && self.let_in.has_answered(&join, asked.time_ms) {
            return Err(DropReason::VeilReplayed);
        }
        self.gate.answer_join(asked, time.now)?;
        let admit = match verdict {
            Verdict::Silent(reason) => return Err(reason),
            Verdict::UsedUp => return Ok(Answer::UsedUp { join_id: question.join_object().id() }),
            Verdict::Known(admit) => admit,
            Verdict::Admit => self.admit(question, time)?,
        };
        let newest = self.roster.newest_epoch().ok_or(DropReason::JoinRefused)?;
        let witness = (own, self.config.static_secret.public());
        Answer::admitted(&mut self.rng, question, admit, newest, witness).ok_or(DropReason::JoinRefused)
    }

    /// Takes in that others let somebody in. Whom this device let in itself, it knows by the nonce of the question.
    pub(super) fn on_admits(&mut self, objects: &[Object], time: Time) {
        let own = self.config.device.public();
        for object in objects {
            let Body::Admit(admit) = object.body() else { continue };
            let mut admits = self.roster.objects().admits_of(&admit.join_id);
            if admits.all(|(_, admit)| admit.witness != own) {
                self.let_in.add(admit.join_id, time.wall_ms);
            }
        }
    }

    /// The one transaction of an admission: Invite, Join and Admit together.
    fn admit(&mut self, question: &Question, time: Time) -> Result<Object, DropReason> {
        let seen = self.roster.newest_epoch().map_or(0, EpochSecret::number);
        let admit = witness::admit(&self.config.vpi, question, &self.config.device, seen, time.wall_secs())
            .map_err(|_| DropReason::JoinRefused)?;
        // The Admit before the Join: a join that a member vouches for is not crowded out by others of its invite.
        let objects = [question.invite_object(), &admit, question.join_object()].map(Object::clone);
        let taken = self.roster.insert(objects);
        self.on_news(taken, Origin::Own, time);
        let is_kept = self.roster.objects().get(&question.join_object().id()).is_some();
        if is_kept { Ok(admit) } else { Err(DropReason::ObjectBound) }
    }
}
