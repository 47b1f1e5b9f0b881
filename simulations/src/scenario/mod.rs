//! What one seed stands for: a story drawn from it, and what must be true at the story's end.

mod backup;
mod carry;
mod chaos;
mod clocks;
mod finding;
pub(crate) mod handshakes;
pub(crate) mod idle;
mod join;
mod lan;
mod many;
mod meet;
mod nat;
mod nearer;
mod partition;
mod relay;
mod removal;
mod restart;
mod revocation;
mod setup;
mod sleep;
mod statics;
mod unbroken;

use std::time::Duration;

use crate::trace::Trace;
use crate::world::World;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A story, and how many of each hundred seeds tell it.
struct Story {
    name: &'static str,
    weight: u64,
    play: fn(&mut World) -> Result<(), String>,
}

const STORIES: &[Story] = &[
    Story { name: "chaos", weight: 10, play: chaos::chaos },
    Story { name: "restart", weight: 4, play: restart::restart },
    Story { name: "both-at-once", weight: 5, play: restart::both_at_once },
    Story { name: "rekeys", weight: 4, play: restart::rekeys },
    Story { name: "used-up", weight: 4, play: join::used_up },
    Story { name: "two-takers", weight: 5, play: join::two_takers },
    Story { name: "lost-answer", weight: 6, play: join::lost_answer },
    Story { name: "forgotten-invite", weight: 5, play: join::forgotten_invite },
    Story { name: "partition", weight: 5, play: partition::partition },
    Story { name: "sleepers", weight: 5, play: sleep::sleepers },
    Story { name: "skewed-clocks", weight: 5, play: clocks::skewed },
    Story { name: "set-clocks", weight: 5, play: clocks::set },
    Story { name: "removal", weight: 7, play: removal::removal },
    Story { name: "removed-asleep", weight: 2, play: removal::asleep },
    Story { name: "two-admins", weight: 4, play: removal::two_admins },
    Story { name: "back-again", weight: 2, play: removal::back_again },
    Story { name: "revocation", weight: 4, play: revocation::revocation },
    Story { name: "leaving", weight: 4, play: revocation::leaving },
    Story { name: "backup", weight: 3, play: backup::backup },
    Story { name: "static-keys", weight: 3, play: statics::statics },
    Story { name: "neighbours", weight: 3, play: lan::neighbours },
    Story { name: "nat", weight: 3, play: nat::nat },
    Story { name: "meet", weight: 3, play: meet::meet },
    Story { name: "relay", weight: 3, play: relay::relay },
    Story { name: "unbroken", weight: 2, play: unbroken::unbroken },
    Story { name: "carry", weight: 2, play: carry::carry },
    Story { name: "nearer", weight: 3, play: nearer::nearer },
    Story { name: "moved", weight: 3, play: finding::moved },
    Story { name: "idle-day", weight: 1, play: idle::idle_day },
    Story { name: "many", weight: 1, play: many::many },
];

/// The names of all stories.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    STORIES.iter().map(|story| story.name)
}

/// The story that `seed` tells.
pub(crate) fn story_of(seed: u64) -> &'static str {
    let all: u64 = STORIES.iter().map(|story| story.weight).sum();
    // Neighbouring seeds tell different stories: 61 and the sum have no common divisor.
    let mut left = seed.wrapping_mul(61) % all;
    for story in STORIES {
        match left.checked_sub(story.weight) {
            Some(rest) => left = rest,
            None => return story.name,
        }
    }
    STORIES[0].name
}

/// Plays a story, as `seed` has it.
///
/// # Errors
/// The story's name and what did not hold; or that there is no story of this name.
pub(crate) fn run(name: &str, seed: u64, trace: Trace) -> Result<(), String> {
    let story = STORIES.iter().find(|story| story.name == name);
    let story = story.ok_or_else(|| format!("there is no story \"{name}\""))?;
    let mut world = World::new(seed, trace);
    (story.play)(&mut world).map_err(|what| format!("{name}: {what}"))
}
