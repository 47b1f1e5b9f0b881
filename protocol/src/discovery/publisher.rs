//! When a device publishes its Presence (README §18). In: its newest Presence, a change of epoch, what became of a
//! publication. Out: records to put.
//!
//! ```text
//!   a slot comes within reach, Presence or epoch changes
//!         │
//!         ▼  at its time               put and read back
//!       DUE ───────────────► OUT ───────────────────────► KEPT    nothing more, unless something changes
//!        ▲                    │ not read back, or no word
//!        └────────────────────┘ again after 5, 10, 20 … 600 s ± 20 %
//!
//! time of a slot's first publication:
//!   the slot is the next one                                     at random in what is left until its start
//!   it is the current one, and that before it has a record       at random within 600 s
//!   it is the current one, and there is none: start, long sleep  at once
//! ```
//!
//! What everybody would do in one moment, at a slot's start or a change of epoch, is spread over ten minutes, so that a
//! beacon cannot tell by the time which records belong together.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::presence;
use super::record::{KEY_BYTES, MAX_AHEAD_SECS, Record};
use super::slot::{self, NEXT_SECS};
use crate::bucket::{Bucket, Rate};
use crate::identity::SigningSecret;
use crate::membership::epoch::EpochSecret;
use crate::membership::object::Object;
use crate::random::{Rng, jittered, within};

/// A change is published after this long, ± 20 %: addresses change together (chosen: a link that comes up has all of its
/// addresses by then).
const DEBOUNCE: Duration = Duration::from_secs(2);
/// What all members would do at once is spread over this long (specified: README §18).
const SPREAD: Duration = Duration::from_secs(NEXT_SECS);
/// How long a publication may take; without a word by then it counts as failed (chosen: three slow lookups).
const PUT_LIFE: Duration = Duration::from_secs(60);
/// The pause after the first failure, which doubles with each, and its bound.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(600);
/// Publications, repetitions included: a Presence that flaps does not flood the DHT (chosen: a start and its first
/// changes pass at once).
const PUBLICATIONS: Rate = Rate { per_second: 1.0 / 15.0, burst: 6.0 };
/// The pause when that is used up.
const CROWDED_PAUSE: Duration = Duration::from_secs(15);

/// With what the records are made.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The newest epoch held.
    pub epoch: &'a EpochSecret,
    /// The device's key.
    pub secret: &'a SigningSecret,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be put at `at`; `failures` in a row came before.
    Due { at: Instant, failures: u32 },
    /// Put under `key`; without a word by `until` it failed.
    Out { key: [u8; KEY_BYTES], until: Instant, failures: u32 },
    /// It was read back.
    Kept,
}

/// What there is to be in one slot.
#[derive(Debug)]
struct Entry {
    state: State,
    /// Of the last record made for this slot.
    sequence: Option<u64>,
}

/// Publishes one device's Presence in one VPI.
#[derive(Debug)]
pub struct Publisher {
    presence: Option<Object>,
    /// At most three: the slot before if it was kept, the current one, the next.
    entries: BTreeMap<u64, Entry>,
    /// When the next slot comes within reach, as of the last look at the clock.
    reach_at: Option<Instant>,
    publications: Bucket,
}

impl Default for Publisher {
    fn default() -> Self {
        let publications = Bucket::new(PUBLICATIONS);
        Self { presence: None, entries: BTreeMap::new(), reach_at: None, publications }
    }
}

impl Publisher {
    /// Takes the device's newest Presence, which it signed itself. The first is published at once.
    pub fn handle_presence(&mut self, presence: &Object, rng: &mut Rng, now: Instant) {
        if self.presence.as_ref() == Some(presence) {
            return;
        }
        if self.presence.replace(presence.clone()).is_none() {
            self.reach_at = Some(now);
        }
        self.bring_forward(now + jittered(DEBOUNCE, rng));
    }

    /// Notes that another epoch is the newest held: every key is another than before.
    pub fn handle_epoch(&mut self, rng: &mut Rng, now: Instant) {
        self.bring_forward(now + within(SPREAD, rng));
    }

    /// Takes the word on what was put under `key`: `copies` were read back. None is a failure.
    pub fn handle_stored(&mut self, key: &[u8; KEY_BYTES], copies: u32, rng: &mut Rng, now: Instant) {
        for entry in self.entries.values_mut() {
            match entry.state {
                State::Out { key: out, failures, .. } if out == *key => {
                    entry.state = if copies > 0 { State::Kept } else { State::failed(failures, rng, now) };
                }
                State::Out { .. } | State::Due { .. } | State::Kept => {}
            }
        }
    }

    /// The next record to put, if one is due. `wall_secs` is the wall clock, corrected where it is known to be off.
    ///
    /// May be asked at any time, and is to be when the wall clock was set.
    pub fn poll_record(
        &mut self,
        writer: Writer<'_>,
        rng: &mut Rng,
        wall_secs: u64,
        now: Instant,
    ) -> Option<Record> {
        let presence = self.presence.clone()?;
        self.look_at_clock(rng, wall_secs, now);
        let current = slot::slot_of(wall_secs);
        let is_due = |state: &State| matches!(state, State::Due { at, .. } if *at <= now);
        let (slot, entry) = self.entries.range_mut(current..).find(|(_, entry)| is_due(&entry.state))?;
        let State::Due { failures, .. } = entry.state else { return None };
        if !self.publications.take(now) {
            entry.state = State::Due { at: now + jittered(CROWDED_PAUSE, rng), failures };
            return None;
        }
        // Two within a second differ in sequence still; a clock that was set back starts over.
        let after = entry.sequence.map_or(0, |last| last.saturating_add(1));
        let is_near = after <= wall_secs.saturating_add(MAX_AHEAD_SECS);
        let sequence = if is_near { after.max(wall_secs) } else { wall_secs };
        let made = presence::seal(writer.epoch, *slot, (writer.secret, &presence), sequence, rng);
        // What cannot be made, because it does not fit, cannot be made later either.
        entry.state = made.as_ref().map_or(State::Kept, |record| State::Out {
            key: record.key,
            until: now + jittered(PUT_LIFE, rng),
            failures,
        });
        entry.sequence = Some(sequence);
        made
    }

    /// When [`Publisher::poll_record`] is to be asked again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let states = self.entries.values().filter_map(|entry| entry.state.until());
        states.chain(self.reach_at).min()
    }

    /// Publishes every slot anew by `at`, but what is due before stays.
    fn bring_forward(&mut self, at: Instant) {
        for entry in self.entries.values_mut() {
            let at = match entry.state {
                State::Due { at: before, .. } => at.min(before),
                State::Out { .. } | State::Kept => at,
            };
            entry.state = State::Due { at, failures: 0 };
        }
    }

    /// Adds the slots that came within reach, drops those that are over, and gives up on what had no word.
    fn look_at_clock(&mut self, rng: &mut Rng, wall_secs: u64, now: Instant) {
        let current = slot::slot_of(wall_secs);
        let last = slot::slot_of(wall_secs.saturating_add(NEXT_SECS));
        // Of the slot before it only matters that it has a record, which is read for an hour yet.
        let before = current.checked_sub(1);
        self.entries.retain(|slot, entry| {
            (current..=last).contains(slot) || Some(*slot) == before && entry.state == State::Kept
        });
        let has_before = before.is_some_and(|before| self.entries.contains_key(&before));
        for entry in self.entries.values_mut() {
            if let State::Out { until, failures, .. } = entry.state
                && until <= now
            {
                entry.state = State::failed(failures, rng, now);
            }
        }
        for slot in slot::written_at(wall_secs) {
            if self.entries.contains_key(&slot) {
                continue;
            }
            let at = if slot > current {
                let left = slot::start_of(slot).saturating_sub(wall_secs);
                now + within(Duration::from_secs(left), rng)
            } else if has_before {
                now + within(SPREAD, rng)
            } else {
                now
            };
            self.entries.insert(slot, Entry { state: State::Due { at, failures: 0 }, sequence: None });
        }
        let reach = slot::start_of(last.saturating_add(1)).saturating_sub(NEXT_SECS);
        self.reach_at = now.checked_add(Duration::from_secs(reach.saturating_sub(wall_secs)));
    }
}

impl State {
    fn failed(failures: u32, rng: &mut Rng, now: Instant) -> Self {
        let pause = RETRY_PAUSE.saturating_mul(1 << failures.min(16)).min(MAX_RETRY_PAUSE);
        Self::Due { at: now + jittered(pause, rng), failures: failures.saturating_add(1) }
    }

    fn until(&self) -> Option<Instant> {
        match self {
            Self::Due { at, .. } => Some(*at),
            Self::Out { until, .. } => Some(*until),
            Self::Kept => None,
        }
    }
}
