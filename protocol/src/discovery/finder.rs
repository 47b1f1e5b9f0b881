//! Which keys to look up to find members, and what the values say (README §18). In: whom to find, the values of a
//! lookup. Out: keys to look up, the newest Presence of a device.
//!
//! ```text
//! wanted ─► round: current slot, then the one before, under the newest epoch, then under the one before it
//!             │        ▲ nothing valid there, or no word in 10 s
//!             ▼        │
//!           LOOKING ───┘── something valid, or the last key ──► RESTING ── after 5, 10, 20 … 600 s ± 20 % ──► next round
//! ```
//!
//! Anybody can put anything under a key as long as it is asked of nobody who checks; so every value is checked here, and
//! of the valid ones the Presence with the highest counter counts, whatever the DHT says is newest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::presence::{Place, presence_in};
use super::record::KEY_BYTES;
use super::slot;
use crate::bucket::{Bucket, Rate};
use crate::identity::DeviceId;
use crate::membership::epoch::EpochSecret;
use crate::membership::object::Object;
use crate::random::{Rng, jittered};

/// Members looked for at the same time, at most (chosen: more than an hour's worth of lookups is no search).
pub const MAX_SEARCHES: usize = 1_024;
/// Epochs under which a member is looked for, newest first (chosen: who missed one change still publishes under the
/// epoch before it).
pub const MAX_EPOCHS: usize = 2;
/// Values of one lookup that are looked at, at most (chosen: three times the k closest beacons).
pub const MAX_VALUES: usize = 60;
/// Lookups in all: 60 a minute, 40 at once (chosen: a member with forty others asks for all of them at its start).
const LOOKUPS: Rate = Rate { per_second: 1.0, burst: 40.0 };
/// Without a word by then a lookup counts as empty (chosen: as long as finding through lying beacons may take).
const LOOKUP_LIFE: Duration = Duration::from_secs(10);
/// The pause after the first round, which doubles with each, and its bound.
const PAUSE: Duration = Duration::from_secs(5);
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// Wanted again, a member is looked for so long after the last round at the latest (chosen: a user tries again).
const WANTED_PAUSE: Duration = Duration::from_secs(60);

/// A key to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// Who is looked for.
    pub device: DeviceId,
    /// The DHT key.
    pub key: [u8; KEY_BYTES],
}

/// What a lookup gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Who was looked for.
    pub device: DeviceId,
    /// Its newest Presence among the values; whether it is newer than what is known is for the caller to see.
    pub presence: Option<Object>,
    /// How many of the values were none of its records, equal ones counted once.
    pub invalid: usize,
}

#[derive(Debug)]
enum State {
    /// The next round starts at `at`; the last of `rounds` ended at `since`.
    Resting { since: Instant, at: Instant, rounds: u32 },
    /// Places still to be looked at, in the round that was due at `at`. The first was asked for until `until`, if it was.
    Looking { places: VecDeque<Place>, until: Option<Instant>, at: Instant, rounds: u32 },
}

/// Looks for the members of one VPI.
#[derive(Debug)]
pub struct Finder {
    searches: BTreeMap<DeviceId, State>,
    lookups: Bucket,
    /// Nothing is asked before, because the lookups are used up.
    crowded_until: Option<Instant>,
}

impl Default for Finder {
    fn default() -> Self {
        Self { searches: BTreeMap::new(), lookups: Bucket::new(LOOKUPS), crowded_until: None }
    }
}

impl Finder {
    /// Starts to look for `device`, at once. One that is looked for already has its next round within a minute of the last.
    /// Returns whether it is looked for.
    pub fn want(&mut self, device: DeviceId, now: Instant) -> bool {
        if self.searches.len() >= MAX_SEARCHES && !self.searches.contains_key(&device) {
            return false;
        }
        let first = State::Resting { since: now, at: now, rounds: 0 };
        if let State::Resting { since, at, .. } = self.searches.entry(device).or_insert(first) {
            *at = (*at).min(*since + WANTED_PAUSE);
        }
        true
    }

    /// Ends the search for `device`: it has a link, or nobody needs one.
    pub fn forget(&mut self, device: &DeviceId) {
        self.searches.remove(device);
    }

    /// Who is looked for.
    pub fn wanted(&self) -> impl Iterator<Item = &DeviceId> {
        self.searches.keys()
    }

    /// The next key to look up, if one is due. Of `epochs`, newest first, the first [`MAX_EPOCHS`] are used.
    pub fn poll_lookup(
        &mut self,
        epochs: &[&EpochSecret],
        rng: &mut Rng,
        wall_secs: u64,
        now: Instant,
    ) -> Option<Lookup> {
        if self.crowded_until.is_some_and(|until| now < until) {
            return None;
        }
        self.crowded_until = None;
        for state in self.searches.values_mut() {
            state.pass_over(rng, now);
        }
        // Whose round has been due for longest comes first, so that no member waits for ever.
        loop {
            let ready = self.searches.iter_mut().filter_map(|(device, state)| {
                let at = state.ready_at().filter(|at| *at <= now)?;
                Some((at, device, state))
            });
            let (_, device, state) = ready.min_by_key(|(at, device, _)| (*at, **device))?;
            if !self.lookups.take(now) {
                self.crowded_until = Some(now + jittered(Duration::from_secs(1), rng));
                return None;
            }
            if let Some(key) = state.ask(device, epochs, rng, (wall_secs, now)) {
                return Some(Lookup { device: *device, key });
            }
        }
    }

    /// Takes a key that was looked up and every value that was found there, none included. `None` if nobody waits for that key.
    pub fn handle_found(
        &mut self,
        (key, values): (&[u8; KEY_BYTES], &[Vec<u8>]),
        rng: &mut Rng,
        wall_secs: u64,
        now: Instant,
    ) -> Option<Found> {
        let waits = |state: &State| match state {
            State::Looking { places, until: Some(_), .. } => {
                places.front().is_some_and(|place| place.key() == key)
            }
            State::Looking { until: None, .. } | State::Resting { .. } => false,
        };
        let (device, state) = self.searches.iter_mut().find(|(_, state)| waits(state))?;
        let State::Looking { places, until, rounds, .. } = state else { return None };
        let place = places.pop_front()?;
        *until = None;
        // Most beacons give the same bytes; each is worth one look.
        let different: BTreeSet<&[u8]> = values.iter().take(MAX_VALUES).map(Vec::as_slice).collect();
        let valid: Vec<Object> =
            different.iter().filter_map(|value| place.open(value, wall_secs).ok()).collect();
        let invalid = different.len() - valid.len();
        let age = |object: &Object| presence_in(object).map(|presence| (presence.counter, presence.time));
        let presence = valid.into_iter().max_by_key(age);
        if presence.is_some() || places.is_empty() {
            *state = State::rest(*rounds, rng, now);
        }
        Some(Found { device: *device, presence, invalid })
    }

    /// When [`Finder::poll_lookup`] is to be asked again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let ready = self.searches.values().filter_map(State::ready_at).min();
        let ready = ready.map(|at| self.crowded_until.map_or(at, |until| at.max(until)));
        let answers = self.searches.values().filter_map(State::answer_by);
        answers.chain(ready).min()
    }
}

impl State {
    fn rest(rounds: u32, rng: &mut Rng, now: Instant) -> Self {
        let pause = PAUSE.saturating_mul(1 << rounds.min(16)).min(MAX_PAUSE);
        Self::Resting { since: now, at: now + jittered(pause, rng), rounds: rounds.saturating_add(1) }
    }

    /// Passes over a lookup that had no word.
    fn pass_over(&mut self, rng: &mut Rng, now: Instant) {
        if let Self::Looking { places, until, rounds, .. } = self
            && until.is_some_and(|until| until <= now)
        {
            *until = None;
            places.pop_front();
            if places.is_empty() {
                *self = Self::rest(*rounds, rng, now);
            }
        }
    }

    /// Asks for the next place, the first of a round if none runs; `None` if there is no place to look at, and rests then.
    fn ask(
        &mut self,
        device: &DeviceId,
        epochs: &[&EpochSecret],
        rng: &mut Rng,
        (wall_secs, now): (u64, Instant),
    ) -> Option<[u8; KEY_BYTES]> {
        if let Self::Resting { at, rounds, .. } = *self {
            let slots = slot::read_at(wall_secs);
            let under = |epoch: &&EpochSecret| slots.map(|slot| Place::new(epoch, device, slot));
            let places = epochs.iter().take(MAX_EPOCHS).flat_map(under).flatten().collect();
            *self = Self::Looking { places, until: None, at, rounds };
        }
        let Self::Looking { places, until, rounds, .. } = self else { return None };
        let Some(place) = places.front() else {
            *self = Self::rest(*rounds, rng, now);
            return None;
        };
        *until = Some(now + LOOKUP_LIFE);
        Some(*place.key())
    }

    /// From when on a lookup is to be made.
    fn ready_at(&self) -> Option<Instant> {
        match self {
            Self::Resting { at, .. } | Self::Looking { until: None, at, .. } => Some(*at),
            Self::Looking { until: Some(_), .. } => None,
        }
    }

    /// Until when a lookup waits for its values.
    fn answer_by(&self) -> Option<Instant> {
        match self {
            Self::Looking { until, .. } => *until,
            Self::Resting { .. } => None,
        }
    }
}
