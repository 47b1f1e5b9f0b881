//! The story of a full house: many members, all of whom talk to all, and who then say nothing.

use std::time::Duration;

use super::setup::{RECOVERY, agreed, all_talk, group};
use super::{ms, secs};
use crate::net::link::Conditions;
use crate::world::World;

/// Links end this long after the last packet: `idle_after`, then the last session's end.
pub(super) const LINKS_END: Duration = secs(300 + 180 + 30);
/// Wake-ups of a node in an idle hour at most (chosen: one in five minutes).
const IDLE_WAKES: u32 = 12;
/// And for each exchange that it wakes a member for.
const EXCHANGE_WAKES: u32 = 6;
/// Datagrams of a node in an idle hour at most.
const IDLE_DATAGRAMS: u64 = 60;

/// Eight to ten members.
pub(super) fn many(world: &mut World) -> Result<(), String> {
    let count = 8 + world.chance.below(3) as usize;
    let delay = world.chance.between(ms(1), ms(100));
    world.internet = Conditions { jitter: ms(20), ..Conditions::perfect(delay) };
    group(world, count, secs(120))?;
    world.internet.loss_percent = *world.chance.pick(&[0, 0, 5]);
    let everyone: Vec<_> = (0..count).collect();
    all_talk(world, &everyone, RECOVERY)?;
    agreed(world, count)?;
    idle(world, secs(3_600))
}

/// Nobody has anything to say: once the links have ended, nodes sleep.
pub(super) fn idle(world: &mut World, length: Duration) -> Result<(), String> {
    world.calm();
    world.run_for(LINKS_END)?;
    // A link that served another, by which its other end was reached, ends after that.
    let count = world.hosts.len();
    let is_up = |world: &World, a| (0..count).any(|b| a != b && world.path((a, b)).is_some());
    world.run_until(LINKS_END, |world| (0..count).all(|host| !is_up(world, host)))?;
    let sent = world.sent;
    for host in 0..world.hosts.len() {
        world.take_wakes(host);
    }
    world.run_for(length)?;
    let share = length.as_secs_f64() / 3_600.0;
    let (wakes_at_most, datagrams_at_most) = (
        (f64::from(IDLE_WAKES) * share).ceil() as u32,
        (IDLE_DATAGRAMS as f64 * share).ceil() as u64 * world.hosts.len() as u64,
    );
    for host in 0..world.hosts.len() {
        let wakes = world.take_wakes(host);
        // A member that is woken for an exchange has a link for a while, and that its timers; one may have been woken before.
        let for_exchanges = EXCHANGE_WAKES * (1 + wakes.get("upkeep").copied().unwrap_or(0));
        if wakes.values().sum::<u32>() > wakes_at_most + for_exchanges {
            return Err(format!("{host} woke in {length:?} of idleness for {wakes:?}"));
        }
    }
    match world.sent - sent {
        sent if sent > datagrams_at_most => Err(format!("{sent} datagrams in {length:?} of idleness")),
        _ => Ok(()),
    }
}
