//! Who writes a lobby, and when (README §18): of all who could, one at a time does. In: which invites there are, where this
//! node is, what a lookup gave. Out: keys to look up, records to put.
//!
//! ```text
//!                       within 600 s of a slot's start, or of a record's 30 minutes being over
//!   RESTING ───────────────────────────────────────────────► READING ── a younger one, not outdated ──► RESTING
//!      ▲  within 60 s of another address, if the one there is   │
//!      │  this node's                                           │ none, one that leads to nobody, or this node's and
//!      │                                                        │ no longer true
//!      └──────────────────────────── a record to put ◄──────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::lobby::{Contact, Lobby};
use super::record::{KEY_BYTES, Record};
use super::slot::{self, NEXT_SECS};
use crate::identity::{InviteId, Secret, VpiId};
use crate::random::{self, Rng, jittered};

/// Lobbies kept, at most (chosen: as many open invites as a person remembers).
pub const MAX_LOBBIES: usize = 16;
/// Values of one lookup that are looked at, at most (chosen: three times the k closest beacons).
const MAX_VALUES: usize = 60;
/// A record younger than this is left alone (specified: README §18).
const FRESH_SECS: u64 = 1_800;
/// What many could do at once is spread over this long (specified: README §18).
pub const SPREAD: Duration = Duration::from_secs(NEXT_SECS);
/// An own record that is no longer true is replaced within this long (specified: README §18).
const CORRECTION: Duration = Duration::from_secs(60);
/// Without a word by then a lookup counts as empty.
const LOOKUP_LIFE: Duration = Duration::from_secs(10);

#[derive(Debug)]
enum State {
    /// Looks at `at` whether there is a record.
    Resting { at: Instant },
    /// Waits for the values of `lobby` until `until`.
    Reading { lobby: Lobby, until: Instant },
    /// Has a record to put into `lobby`.
    Writing { lobby: Lobby },
}

#[derive(Debug)]
struct Kept {
    key: Secret,
    state: State,
    /// What this node wrote last.
    written: Option<Contact>,
}

/// Keeps the lobbies of one VPI's open invites.
#[derive(Debug)]
pub struct Keeper {
    vpi: VpiId,
    contact: Contact,
    kept: BTreeMap<InviteId, Kept>,
}

impl Keeper {
    /// Keeps none, of `vpi`.
    #[must_use]
    pub fn new(vpi: VpiId) -> Self {
        Self { vpi, contact: Contact::default(), kept: BTreeMap::new() }
    }

    /// Keeps the lobby of `invite`, which is open, under its join-veil key, and looks at it `within` this time: [`SPREAD`] where
    /// all members hear of the invite at once. Returns whether there is room.
    pub fn keep(
        &mut self,
        (invite, key): (InviteId, Secret),
        within: Duration,
        rng: &mut Rng,
        now: Instant,
    ) -> bool {
        if self.kept.len() >= MAX_LOBBIES && !self.kept.contains_key(&invite) {
            return false;
        }
        let state = State::Resting { at: now + random::within(within, rng) };
        self.kept.entry(invite).or_insert(Kept { key, state, written: None });
        true
    }

    /// The invites whose lobbies are kept.
    pub fn kept(&self) -> impl Iterator<Item = &InviteId> {
        self.kept.keys()
    }

    /// Ends it: the invite is over.
    pub fn forget(&mut self, invite: &InviteId) {
        self.kept.remove(invite);
    }

    /// Takes where this node is.
    pub fn handle_contact(&mut self, contact: Contact, rng: &mut Rng, now: Instant) {
        self.contact = contact;
        for kept in self.kept.values_mut() {
            let is_outdated = kept.written.as_ref().is_some_and(|written| *written != self.contact);
            if let State::Resting { at } = &mut kept.state
                && is_outdated
            {
                *at = (*at).min(now + random::within(CORRECTION, rng));
            }
        }
    }

    /// The next key to look up, if one is due.
    pub fn poll_lookup(&mut self, rng: &mut Rng, wall_secs: u64, now: Instant) -> Option<[u8; KEY_BYTES]> {
        for kept in self.kept.values_mut() {
            match &kept.state {
                State::Resting { at } if *at <= now => {
                    let lobby = Lobby::new(&self.vpi, &kept.key, slot::slot_of(wall_secs));
                    let key = *lobby.key();
                    kept.state = State::Reading { lobby, until: now + LOOKUP_LIFE };
                    return Some(key);
                }
                // Who cannot read cannot know: the next try is a while off.
                State::Reading { until, .. } if *until <= now => {
                    kept.state = State::Resting { at: now + jittered(SPREAD, rng) };
                }
                State::Resting { .. } | State::Reading { .. } | State::Writing { .. } => {}
            }
        }
        None
    }

    /// Takes a key that was looked up and every value that was found there, none included. `is_true` says whether some member is
    /// where a record says, as far as this node knows: a record that nobody is at is written over. Returns how many were no record
    /// of that lobby, equal ones counted once, or `None` if nobody waits for that key.
    pub fn handle_found(
        &mut self,
        (key, values): (&[u8; KEY_BYTES], &[Vec<u8>]),
        is_true: impl Fn(&Contact) -> bool,
        rng: &mut Rng,
        (wall_secs, now): (u64, Instant),
    ) -> Option<usize> {
        let waits =
            |kept: &&mut Kept| matches!(&kept.state, State::Reading { lobby, .. } if lobby.key() == key);
        let kept = self.kept.values_mut().find(waits)?;
        let State::Reading { lobby, .. } = &kept.state else { return None };
        let lobby = lobby.clone();
        // Most beacons give the same bytes; each is worth one look.
        let different: BTreeSet<&[u8]> = values.iter().take(MAX_VALUES).map(Vec::as_slice).collect();
        let valid: Vec<_> = different.iter().filter_map(|value| lobby.open(value, wall_secs).ok()).collect();
        let invalid = different.len() - valid.len();
        let newest = valid.into_iter().max_by_key(|(checked, _)| checked.sequence);
        let fresh = newest.filter(|(checked, _)| checked.sequence.saturating_add(FRESH_SECS) > wall_secs);
        let own = kept.written.as_ref();
        let is_outdated = |contact: &Contact| match own == Some(contact) {
            true => *contact != self.contact,
            false => !is_true(contact),
        };
        kept.state = match fresh {
            Some((checked, contact)) if !is_outdated(&contact) => {
                State::rest(checked.sequence, rng, wall_secs, now)
            }
            _ if self.contact == Contact::default() => State::rest(wall_secs, rng, wall_secs, now),
            Some(_) => State::Writing { lobby },
            None => State::Writing { lobby },
        };
        Some(invalid)
    }

    /// The next record to put, if there is one.
    pub fn poll_record(&mut self, rng: &mut Rng, wall_secs: u64, now: Instant) -> Option<Record> {
        for kept in self.kept.values_mut() {
            let State::Writing { lobby } = &kept.state else { continue };
            let made = lobby.seal(&self.contact, wall_secs, rng);
            kept.state = State::rest(wall_secs, rng, wall_secs, now);
            if made.is_some() {
                kept.written = Some(self.contact.clone());
                return made;
            }
        }
        None
    }

    /// When [`Keeper::poll_lookup`] is to be asked again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = |kept: &Kept| match kept.state {
            State::Resting { at } => Some(at),
            State::Reading { until, .. } => Some(until),
            State::Writing { .. } => None,
        };
        self.kept.values().filter_map(due).min()
    }
}

impl State {
    /// Rests until a record of `sequence` is old, or the next slot starts, and a part of ten minutes more.
    fn rest(sequence: u64, rng: &mut Rng, wall_secs: u64, now: Instant) -> Self {
        let next = slot::start_of(slot::slot_of(wall_secs).saturating_add(1));
        let until = next.min(sequence.saturating_add(FRESH_SECS));
        let pause = Duration::from_secs(until.saturating_sub(wall_secs));
        Self::Resting { at: now + pause + random::within(SPREAD, rng) }
    }
}
