//! How long a handshake takes on a bad link, told as a distribution: of two members one dies, starts without its sessions and
//! speaks, over and over.

use std::time::Duration;

use super::setup::{add_member, founder};
use super::{ms, secs};
use crate::action::Action;
use crate::net::link::Conditions;
use crate::trace::Trace;
use crate::world::World;

/// Handshakes of one world, one after the other: its beginning costs as much as some of them.
const OF_ONE: u64 = 50;
/// Between a handshake and the next: what the last one set off is said.
const PAUSE: Duration = secs(5);
/// Six attempts take about 22 s; who has no session then has none for the packet that began them.
const GIVEN_UP_AFTER: Duration = secs(40);

/// One way, 50 to 150 ms, each datagram for itself, so that they overtake each other; 5 in 100 are lost.
fn bad_link() -> Conditions {
    Conditions { jitter: ms(100), loss_percent: 5, ..Conditions::perfect(ms(50)) }
}

/// What many handshakes took, the shortest first; `None`: it did not come to be.
pub(crate) struct Taken(Vec<Option<Duration>>);

impl Taken {
    /// Puts together what several told.
    pub(crate) fn of(parts: impl IntoIterator<Item = Taken>) -> Self {
        let mut all: Vec<_> = parts.into_iter().flat_map(|part| part.0).collect();
        all.sort_by_key(|took| took.unwrap_or(Duration::MAX));
        Self(all)
    }

    /// Which share took no longer than `limit`.
    pub(crate) fn share_within(&self, limit: Duration) -> f64 {
        let within = self.0.iter().filter(|took| took.is_some_and(|took| took <= limit)).count();
        within as f64 / self.0.len().max(1) as f64
    }

    /// One line for each point of the distribution.
    pub(crate) fn lines(&self) -> Vec<String> {
        let count = self.0.len();
        let point = |share: f64| {
            let at = ((count as f64 * share).ceil() as usize).clamp(1, count.max(1)) - 1;
            self.0.get(at).copied().flatten()
        };
        let named = [("median", 0.5), ("90 %", 0.9), ("99 %", 0.99), ("99.9 %", 0.999), ("slowest", 1.0)]
            .map(|(name, share)| {
                let took =
                    point(share).map_or("never".to_owned(), |took| format!("{:.2} s", took.as_secs_f64()));
                format!("{name:>8}: {took}")
            });
        [format!("{count} handshakes, 5 % loss, 100 ± 50 ms, overtaking")].into_iter().chain(named).collect()
    }
}

/// Which seeds make `count` handshakes.
pub(crate) fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    first..first + count.div_ceil(OF_ONE)
}

/// Makes [`OF_ONE`] handshakes in one world.
///
/// # Errors
/// What did not hold.
pub(crate) fn measure(seed: u64) -> Result<Taken, String> {
    let mut world = World::new(seed, Trace::default());
    world.internet = Conditions::perfect(ms(10));
    let a = founder(&mut world, secs(120))?;
    let b = add_member(&mut world, (a, a), secs(120))?;
    world.run_for(secs(30))?;
    world.internet = bad_link();
    let mut taken = Vec::new();
    for number in 0..OF_ONE {
        let (from, to) = if number % 2 == 0 { (a, b) } else { (b, a) };
        world.act(Action::Crash { host: from, tear: 100 })?;
        world.run_for(PAUSE)?;
        let since = world.now;
        world.act(Action::Start { host: from })?;
        world.act(Action::Send { from, to, bytes: 100, wants_echo: true })?;
        let is_up = |world: &World| world.is_linked((from, to));
        let is_done = world.run_until(GIVEN_UP_AFTER, is_up)?;
        taken.push(is_done.then(|| world.now - since));
        world.run_for(PAUSE)?;
    }
    Ok(Taken(taken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_bad_link_nearly_every_handshake_is_done_within_eleven_seconds() {
        let taken = Taken::of(seeds(0, 500).map(|seed| measure(seed).unwrap()));
        println!("{}", taken.lines().join("\n"));
        assert!(taken.share_within(secs(11)) >= 0.995, "{:?}", taken.lines());
    }
}
