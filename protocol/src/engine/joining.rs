//! Getting in: this device's question, the answer, and the time until its own reducer agrees.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::lobbies::LobbySearch;
use super::outbox::{Event, JoinFailure};
use super::peer::Peer;
use super::{Engine, Time};
use crate::drop::DropReason;
use crate::identity::{DeviceId, InviteId, ObjectId, Secret};
use crate::membership::epoch::EpochTag;
use crate::membership::join::{Admitted, Answer, Question};
use crate::membership::token::Token;
use crate::membership::{INVITE_GRACE_SECONDS, Waiting};
use crate::path::Remote;
use crate::random;
use crate::tunnel::timers::retry_pause;
use crate::veil::{self, Veiled};
use crate::wire::header::{Class, VeilHeader};

/// From becoming a member to telling where this device is.
const PUBLISH_AFTER: Duration = Duration::from_secs(1);

/// A device that holds an invite and is no member yet.
pub(super) struct Joining {
    question: Question,
    invite: InviteId,
    not_after: u64,
    key: Secret,
    epoch_tag: EpochTag,
    members: Vec<SocketAddr>,
    lobby: LobbySearch,
    ask_at: Instant,
    attempt: u32,
    /// The member that let this device in, by its own word.
    witness: Option<DeviceId>,
}

impl Joining {
    pub(super) fn new(token: &Token, question: Question, now: Instant) -> Self {
        Self {
            question,
            invite: token.invite().invite_id,
            not_after: token.invite().not_after,
            key: token.join_veil_key().clone(),
            epoch_tag: token.epoch_tag(),
            members: token.members().to_vec(),
            lobby: LobbySearch::default(),
            ask_at: now,
            attempt: 0,
            witness: None,
        }
    }

    /// When the question is to be asked again.
    pub(super) fn ask_at(&self) -> Instant {
        self.ask_at
    }

    /// Questions asked so far.
    pub(super) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The search for the lobby, and the join-veil key that leads to it.
    pub(super) fn lobby(&mut self) -> (&mut LobbySearch, &Secret) {
        (&mut self.lobby, &self.key)
    }

    /// There are more places to ask at, or to look at.
    pub(super) fn hasten(&mut self, now: Instant) {
        self.ask_at = self.ask_at.min(now);
    }

    /// Where to ask: the token's addresses, and what the lobby said.
    fn remotes(&self) -> impl Iterator<Item = Remote> {
        self.members.iter().copied().map(Remote::Udp).chain(self.lobby.remotes())
    }

    fn join_id(&self) -> ObjectId {
        self.question.join_object().id()
    }
}

impl Engine {
    /// Asks every address of the token, if it is time; once somebody answered, sees to it that the link comes up.
    pub(super) fn ask_to_join(&mut self, time: Time) {
        let Some(joining) = &mut self.joining else { return };
        if time.now < joining.ask_at {
            return;
        }
        joining.ask_at = time.now + retry_pause(joining.attempt, &mut self.rng);
        joining.attempt = joining.attempt.saturating_add(1);
        if let Some(witness) = joining.witness.filter(|witness| self.is_talking_to(witness, time)) {
            return self.hurry(&witness, time);
        }
        self.search_lobby(time);
        let Some(joining) = &mut self.joining else { return };
        if time.wall_secs() > joining.not_after + INVITE_GRACE_SECONDS {
            self.out.events.push_back(Event::JoinFailed(JoinFailure::Expired));
            return;
        }
        let class = Class::Join(joining.invite);
        let header = VeilHeader { class, epoch_tag: joining.epoch_tag, nonce: random::bytes(&mut self.rng) };
        let body = joining.question.encode();
        let datagram = Veiled { time_ms: self.clocks.true_ms(time.wall_ms), kind: veil::QUESTION, body }
            .seal(&joining.key, &header);
        for remote in joining.remotes() {
            self.out.transmit(remote, datagram.clone());
        }
    }

    /// Takes in a veiled join datagram as a joiner.
    pub(super) fn on_join_answer(
        &mut self,
        from: Remote,
        header: &VeilHeader,
        (invite, clear, sealed): (InviteId, &[u8], &[u8]),
        time: Time,
    ) -> Result<(), DropReason> {
        let joining = self.joining.as_ref().ok_or(DropReason::VeilType)?;
        if invite != joining.invite {
            return Err(DropReason::UnknownEpoch);
        }
        // An answer is not bound to its question: sent again from elsewhere, it would lead there.
        if joining.remotes().all(|asked| asked != from) {
            return Err(DropReason::UnexpectedResponse);
        }
        let content = Veiled::open(&joining.key, header, clear, sealed).ok_or(DropReason::VeilForged)?;
        if content.kind != veil::ANSWER {
            return Err(DropReason::VeilType);
        }
        match Answer::decode(&self.config.vpi, &content.body)? {
            Answer::UsedUp { join_id } if join_id == joining.join_id() => {
                // Whoever holds the token can say so; an admission that is under way does not end by it.
                if joining.witness.is_none() {
                    self.out.events.push_back(Event::JoinFailed(JoinFailure::UsedUp));
                }
                Ok(())
            }
            Answer::UsedUp { .. } => Err(DropReason::UnexpectedResponse),
            Answer::Admitted(admitted) => self.on_admitted(from, &admitted, time),
        }
    }

    /// A member says that it let this device in: provisional, until the own reducer agrees.
    fn on_admitted(&mut self, from: Remote, admitted: &Admitted, time: Time) -> Result<(), DropReason> {
        let joining = self.joining.as_ref().ok_or(DropReason::UnexpectedResponse)?;
        let other = joining.witness.filter(|witness| *witness != admitted.witness);
        let is_held = other.is_some_and(|witness| self.is_talking_to(&witness, time));
        let is_own = admitted.witness == self.config.device.public();
        let epoch = admitted.epoch(&self.config.vpi, &joining.question, &self.config.static_secret);
        let epoch = epoch.filter(|_| !is_held && !is_own).ok_or(DropReason::UnexpectedResponse)?;
        let Some(joining) = &mut self.joining else { return Err(DropReason::UnexpectedResponse) };
        joining.witness = Some(admitted.witness);
        self.roster.set_epochs([epoch]);
        self.add_peer(admitted.witness, Some(admitted.witness_static), None);
        if let Some(peer) = self.peers.get_mut(&admitted.witness) {
            peer.circuit.adopt(from);
            if let Some(from) = from.udp() {
                peer.path.add_candidate(from);
            }
        }
        self.wake(&admitted.witness, time);
        Ok(())
    }

    /// Once this device's own reducer finds both it and its witness to be members, it is one.
    pub(super) fn check_joined(&mut self, time: Time) {
        let own = self.config.device.public();
        let Some(joining) = &self.joining else { return };
        let Some(witness) = joining.witness else { return };
        let membership = self.roster.membership();
        if membership.waiting(&own) == Some(Waiting::Contested) {
            self.out.events.push_back(Event::JoinFailed(JoinFailure::Contested));
            return;
        }
        // Without its key the witness could not be heard again.
        let knows_witness = membership.member(&witness).is_some_and(|member| member.static_key.is_some());
        if membership.member(&own).is_none() || !knows_witness {
            return;
        }
        // A secret is a witness's word until an Epoch names it; so is its number.
        let epochs = self.roster.named_epochs();
        if epochs.is_empty() {
            return;
        }
        self.joining = None;
        self.roster.set_epochs(epochs.clone());
        self.store(Vec::new(), epochs);
        self.on_membership(time);
        self.announce_start(time);
        self.out.events.push_back(Event::Joined);
        // Its Presence ends the answers to its question; by then this machine has written down that it is in.
        self.publish_at = Some(time.now + PUBLISH_AFTER);
        self.keep_up(time);
    }

    /// Says whether a link with `device` is up or coming up.
    fn is_talking_to(&self, device: &DeviceId, time: Time) -> bool {
        self.peers
            .get(device)
            .is_some_and(|peer| peer.attempt.is_some() || peer.sessions.current(time.now).is_some())
    }

    /// A link whose exchange came to its end and did not make this device a member is made again: the witness may have
    /// started anew since, and a handshake shows it.
    fn hurry(&mut self, witness: &DeviceId, time: Time) {
        let is_stuck = |peer: &Peer| peer.sessions.current(time.now).is_none() || peer.exchange.is_done();
        if self.peers.get(witness).is_some_and(is_stuck) {
            self.wake(witness, time);
        }
    }
}
