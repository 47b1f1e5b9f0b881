//! What one seed stands for: a story drawn from it, and what must be true at the story's end.

mod chaos;
mod join;
mod restart;
mod setup;

use std::time::Duration;

use crate::trace::Trace;
use crate::world::World;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Plays the story of `seed`.
///
/// # Errors
/// The story's name and what did not hold.
pub(crate) fn run(seed: u64, trace: Trace) -> Result<(), String> {
    let mut world = World::new(seed, trace);
    let (name, outcome) = match seed % 10 {
        0..=3 => ("chaos", chaos::chaos(&mut world)),
        4 => ("restart", restart::restart(&mut world)),
        5 => ("rekeys", restart::rekeys(&mut world)),
        6 => ("used up", join::used_up(&mut world)),
        7 => ("both at once", restart::both_at_once(&mut world)),
        8 => ("forgotten invite", join::forgotten_invite(&mut world)),
        _ => ("lost answer", join::lost_answer(&mut world)),
    };
    let outcome = outcome.and_then(|()| world.check_alarms());
    outcome.map_err(|what| format!("{name}: {what}"))
}
