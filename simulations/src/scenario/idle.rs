//! A day of a VPI in which nobody has anything to say: how often nodes wake, what they send.

use std::collections::BTreeMap;
use std::time::Duration;

use super::many::LINKS_END;
use super::setup::{RECOVERY, all_talk, group};
use super::{ms, secs};
use crate::net::link::Conditions;
use crate::trace::Trace;
use crate::world::World;

const DAY: Duration = secs(86_400);
/// Exchanges that a node begins in a day at most: one in 6 h − 20 % (specified: README §9).
const EXCHANGES: u64 = 5;
/// Datagrams of both ends of one exchange, from its handshake to the end of its sessions (chosen: a third above what
/// such a one takes).
const DATAGRAMS_OF_ONE: u64 = 100;
/// Wake-ups of both ends for one exchange at most (chosen: likewise).
const WAKES_OF_ONE: u64 = 60;

/// What one day of all nodes together took.
struct Day {
    wakes: BTreeMap<&'static str, u32>,
    datagrams: u64,
    handshakes: u64,
}

/// Two to five members say nothing for a day.
pub(super) fn idle_day(world: &mut World) -> Result<(), String> {
    let count = 2 + world.chance.below(4);
    let day = quiet_day(world, count as usize)?;
    let wakes: u32 = day.wakes.values().sum();
    let (wakes_at_most, datagrams_at_most) =
        (count * EXCHANGES * WAKES_OF_ONE, count * EXCHANGES * DATAGRAMS_OF_ONE);
    if day.handshakes > count * EXCHANGES
        || day.datagrams > datagrams_at_most
        || u64::from(wakes) > wakes_at_most
    {
        let Day { wakes, datagrams, handshakes } = day;
        return Err(format!(
            "{count} idle members had {handshakes} handshakes, sent {datagrams} datagrams and woke for {wakes:?}"
        ));
    }
    Ok(())
}

/// Prints what a node does in an idle day, in VPIs of two sizes.
///
/// # Errors
/// What did not hold.
pub(crate) fn report(seed: u64) -> Result<(), String> {
    for count in [2, 5] {
        let mut world = World::new(seed, Trace::default());
        let day = quiet_day(&mut world, count)?;
        let each = |of_all: u64| of_all as f64 / count as f64;
        println!(
            "{count} members, each: {:.1} handshakes begun, {:.1} datagrams, {:.1} wake-ups in an idle day; all wake-ups: {:?}",
            each(day.handshakes),
            each(day.datagrams),
            each(day.wakes.values().map(|times| u64::from(*times)).sum()),
            day.wakes,
        );
    }
    Ok(())
}

fn quiet_day(world: &mut World, count: usize) -> Result<Day, String> {
    world.internet = Conditions::perfect(world.chance.between(ms(1), ms(100)));
    group(world, count, secs(120))?;
    let everyone: Vec<_> = (0..count).collect();
    all_talk(world, &everyone, RECOVERY)?;
    world.calm();
    world.run_for(LINKS_END)?;
    for host in 0..count {
        world.take_wakes(host);
    }
    let (sent, veiled) = (world.sent, world.veiled);
    world.run_for(DAY)?;
    let mut wakes: BTreeMap<_, u32> = BTreeMap::new();
    for (why, times) in (0..count).flat_map(|host| world.take_wakes(host)) {
        *wakes.entry(why).or_default() += times;
    }
    // An initiation and a response each.
    Ok(Day { wakes, datagrams: world.sent - sent, handshakes: (world.veiled - veiled) / 2 })
}
