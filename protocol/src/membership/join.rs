//! Joining: the question and the answer (README §12). What lies between them is in witness.rs.
//!
//! ```text
//! question = length u16 ‖ Join envelope ‖ length u16 ‖ Invite envelope
//! answer   = 1 ‖ length u16 ‖ Admit envelope ‖ epoch number u64 ‖ epoch tag 2 ‖ sealed secret 80
//!              ‖ witness 32 ‖ witness's static key 32
//!          | 2 ‖ join id 32                                          the invite's uses are spent
//! ```
//!
//! Both travel inside a veil (join class) that is not made here. An answer is never longer than its question, so
//! that nobody gains traffic by asking in another's name. The answering member stands in the answer apart from
//! the Admit, because a join that any member admitted is answered with that member's Admit.

use super::epoch::{EpochSecret, EpochTag, SEALED_BYTES, open_secret, seal_secret};
use super::object::{Body, Invite, Join, MAX_OBJECT_BYTES, Object, ObjectError};
use super::token::Token;
use crate::drop::DropReason;
use crate::identity::{DeviceId, ObjectId, SigningSecret, StaticKey, StaticSecret, VpiId};
use crate::random::Rng;
use crate::wire::cbor::Extensions;

const ADMITTED: u8 = 1;
const USED_UP: u8 = 2;

/// Bytes of an answer beside the Admit.
pub(super) const ADMITTED_FIXED_BYTES: usize = 1 + 2 + 8 + 2 + SEALED_BYTES + 32 + 32;

/// What a joiner asks: the same Join and Invite at each try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    join: Object,
    invite: Object,
}

impl Question {
    /// The question of `join` by `invite`; `None` when they are of other kinds.
    #[must_use]
    pub fn new(join: Object, invite: Object) -> Option<Self> {
        let is_fit = matches!(join.body(), Body::Join(_)) && matches!(invite.body(), Body::Invite(_));
        is_fit.then_some(Self { join, invite })
    }

    /// The question that the holder of `token` asks as `joiner`; to be kept, for each retry asks the same.
    ///
    /// # Errors
    /// An [`ObjectError`] when the name or the time is not one that an object may hold.
    pub fn ask(token: &Token, joiner: &Joiner<'_>) -> Result<Self, ObjectError> {
        let invite_secret = token.invite_secret();
        let body = Body::Join(Join {
            invite_id: token.invite().invite_id,
            device: joiner.device.public(),
            static_key: joiner.static_key,
            name: joiner.name.to_owned(),
            time: joiner.wall_secs,
            nonce: joiner.nonce,
            invite_key: invite_secret.public(),
            extensions: Extensions::default(),
        });
        let join = Object::sign(token.vpi(), &body, &[joiner.device, &invite_secret])?;
        Ok(Self { join, invite: token.invite_object().clone() })
    }

    /// Reads a question to `vpi`; both objects are opened, so every signature in it holds.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] for anything but the form above, [`DropReason::ObjectInvalid`] for an object
    /// that does not open, [`DropReason::ObjectUnknown`] for one of a kind that is not known.
    pub fn decode(vpi: &VpiId, bytes: &[u8]) -> Result<Self, DropReason> {
        let (join, rest) = split_prefixed(bytes).ok_or(DropReason::Malformed)?;
        let (invite, rest) = split_prefixed(rest).ok_or(DropReason::Malformed)?;
        if !rest.is_empty() {
            return Err(DropReason::Malformed);
        }
        Self::new(open(vpi, join)?, open(vpi, invite)?).ok_or(DropReason::Malformed)
    }

    /// The bytes above.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_prefixed(&mut out, &self.join);
        put_prefixed(&mut out, &self.invite);
        out
    }

    /// The Join as a signed object.
    #[must_use]
    pub fn join_object(&self) -> &Object {
        &self.join
    }

    /// The Invite as a signed object.
    #[must_use]
    pub fn invite_object(&self) -> &Object {
        &self.invite
    }

    /// What the two say.
    ///
    /// # Panics
    /// Never: a question is made of these kinds only.
    #[must_use]
    pub fn bodies(&self) -> (&Join, &Invite) {
        match (self.join.body(), self.invite.body()) {
            (Body::Join(join), Body::Invite(invite)) => (join, invite),
            _ => unreachable!("a question is made of a join and an invite"),
        }
    }
}

/// Who wants to join, and how it will be known.
#[derive(Clone, Copy, Debug)]
pub struct Joiner<'k> {
    /// The device's key.
    pub device: &'k SigningSecret,
    /// The key of its handshakes.
    pub static_key: StaticKey,
    /// Its name, 1 to 32 of `[a-z0-9-]`.
    pub name: &'k str,
    /// Random.
    pub nonce: [u8; 16],
    /// Unix seconds.
    pub wall_secs: u64,
}

/// What a witness answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The device is admitted.
    Admitted(Box<Admitted>),
    /// The uses of a live invite are spent on others.
    UsedUp {
        /// The Join that came too late.
        join_id: ObjectId,
    },
}

/// What an admitted joiner needs for its first handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The Admit of its Join, by any member.
    pub admit: Object,
    /// The number of the newest epoch.
    pub epoch_number: u64,
    /// The tag of the newest epoch.
    pub epoch_tag: EpochTag,
    /// The newest epoch's secret, sealed to the static key in the Join.
    pub sealed: [u8; SEALED_BYTES],
    /// The member that answers.
    pub witness: DeviceId,
    /// The key of its handshakes.
    pub witness_static: StaticKey,
}

impl Admitted {
    /// The newest epoch's number and secret, for the joiner that asked `question` with the secret half of the
    /// static key in it; `None` when the Admit is of another Join, or the secret is sealed to
    /// another key or has another tag.
    #[must_use]
    pub fn epoch(&self, vpi: &VpiId, question: &Question, own: &StaticSecret) -> Option<EpochSecret> {
        is_admit_of(&self.admit, &question.join).then_some(())?;
        let secret = open_secret(vpi, own, &self.sealed)?;
        Some(EpochSecret::new(*vpi, self.epoch_number, secret)).filter(|epoch| epoch.tag() == self.epoch_tag)
    }
}

impl Answer {
    /// The answer to `question` that hands over `admit`, an Admit of its Join, and the newest `epoch`; `witness`
    /// is the member that answers, with the key of its handshakes. `None` when `admit` is none of that Join.
    #[must_use]
    pub fn admitted(
        rng: &mut Rng,
        question: &Question,
        admit: Object,
        epoch: &EpochSecret,
        witness: (DeviceId, StaticKey),
    ) -> Option<Self> {
        is_admit_of(&admit, &question.join).then_some(())?;
        let to = &question.bodies().0.static_key;
        let (witness, witness_static) = witness;
        Some(Self::Admitted(Box::new(Admitted {
            admit,
            epoch_number: epoch.number(),
            epoch_tag: epoch.tag(),
            sealed: seal_secret(rng, epoch.vpi(), to, epoch.secret())?,
            witness,
            witness_static,
        })))
    }

    /// Reads an answer within `vpi`; the Admit is opened, so its signature holds.
    ///
    /// # Errors
    /// As [`Question::decode`].
    pub fn decode(vpi: &VpiId, bytes: &[u8]) -> Result<Self, DropReason> {
        let (kind, rest) = bytes.split_first().ok_or(DropReason::Malformed)?;
        match *kind {
            ADMITTED => Self::decode_admitted(vpi, rest),
            USED_UP => {
                let join_id = rest.try_into().map(ObjectId).map_err(|_| DropReason::Malformed)?;
                Ok(Self::UsedUp { join_id })
            }
            _ => Err(DropReason::Malformed),
        }
    }

    /// The bytes above.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::UsedUp { join_id } => [&[USED_UP], &join_id.0[..]].concat(),
            Self::Admitted(admitted) => {
                let mut out = vec![ADMITTED];
                put_prefixed(&mut out, &admitted.admit);
                out.extend_from_slice(&admitted.epoch_number.to_be_bytes());
                out.extend_from_slice(&admitted.epoch_tag);
                out.extend_from_slice(&admitted.sealed);
                out.extend_from_slice(&admitted.witness.0);
                out.extend_from_slice(&admitted.witness_static.0);
                out
            }
        }
    }

    fn decode_admitted(vpi: &VpiId, bytes: &[u8]) -> Result<Self, DropReason> {
        let (admit, rest) = split_prefixed(bytes).ok_or(DropReason::Malformed)?;
        let admitted = Self::fixed_part(rest, open(vpi, admit)?).ok_or(DropReason::Malformed)?;
        if !matches!(admitted.admit.body(), Body::Admit(_)) {
            return Err(DropReason::Malformed);
        }
        Ok(Self::Admitted(Box::new(admitted)))
    }

    fn fixed_part(bytes: &[u8], admit: Object) -> Option<Admitted> {
        let (number, rest) = bytes.split_first_chunk()?;
        let (epoch_tag, rest) = rest.split_first_chunk()?;
        let (sealed, rest) = rest.split_first_chunk()?;
        let (witness, rest) = rest.split_first_chunk()?;
        let witness_static = StaticKey(rest.try_into().ok()?);
        Some(Admitted {
            admit,
            epoch_number: u64::from_be_bytes(*number),
            epoch_tag: *epoch_tag,
            sealed: *sealed,
            witness: DeviceId::from(*witness),
            witness_static,
        })
    }
}

fn is_admit_of(admit: &Object, join: &Object) -> bool {
    matches!(admit.body(), Body::Admit(admit) if admit.join_id == join.id())
}

fn open(vpi: &VpiId, bytes: &[u8]) -> Result<Object, DropReason> {
    Object::open(vpi, bytes).map_err(|error| match error {
        ObjectError::UnknownKind(_) => DropReason::ObjectUnknown,
        _ => DropReason::ObjectInvalid,
    })
}

fn put_prefixed(out: &mut Vec<u8>, object: &Object) {
    const { assert!(MAX_OBJECT_BYTES <= u16::MAX as usize) };
    let length = u16::try_from(object.bytes().len()).expect("an object is below 64 KiB");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(object.bytes());
}

fn split_prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}
