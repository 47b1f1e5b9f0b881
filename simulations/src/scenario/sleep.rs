//! Stories of machines that sleep: their links die without a word, and they wake with a clock that stood still or not.

use std::time::Duration;

use super::setup::{RECOVERY, add_member, agreed, all_talk, converge, group};
use super::{ms, secs};
use crate::action::Action;
use crate::net::link::Conditions;
use crate::world::World;

/// Some sleep while others talk, join and move; once awake they catch up.
pub(super) fn sleepers(world: &mut World) -> Result<(), String> {
    let rekey_after = world.chance.between(secs(10), secs(120));
    let mut count = 3 + world.chance.below(4) as usize;
    world.internet = Conditions::perfect(world.chance.between(ms(1), ms(100)));
    group(world, count, rekey_after)?;
    for _ in 0..1 + world.chance.below(2) {
        let everyone: Vec<_> = (0..count).collect();
        all_talk(world, &everyone, RECOVERY)?;
        if world.chance.percent(50) {
            world.disk_delay = world.chance.between(ms(1), ms(500));
        }
        // The founder, who lets others in, stays awake.
        let asleep: Vec<_> = (1..count).filter(|_| world.chance.percent(50)).collect();
        for host in &asleep {
            let clock_goes_on = world.chance.percent(50);
            let after = world.chance.between(ms(0), secs(2));
            world.later(after, Action::Sleep { host: *host, clock_goes_on });
        }
        for from in (0..count).filter(|host| !asleep.contains(host)) {
            for to in asleep.clone() {
                let after = world.chance.between(ms(0), secs(30));
                let stream =
                    Action::Stream { from, to, bytes: 100, wants_echo: true, pause: ms(500), left: 10 };
                world.later(after, stream);
            }
        }
        world.run_for(secs(3))?;
        if world.chance.percent(50) {
            add_member(world, (0, 0), rekey_after)?;
            count += 1;
        }
        if world.chance.percent(30) {
            world.act(Action::Roam { host: 0, tells: true })?;
        }
        let longest = *world.chance.pick(&[secs(20), secs(200), secs(3_600)]);
        let nap = world.chance.between(secs(1), longest);
        world.run_for(nap)?;
        wake(world, &asleep)?;
        converge(world, count)?;
    }
    let everyone: Vec<_> = (0..count).collect();
    all_talk(world, &everyone, RECOVERY)?;
    agreed(world, count)
}

/// They wake, one after the other; some lose their power instead and start anew.
fn wake(world: &mut World, asleep: &[usize]) -> Result<(), String> {
    let mut last = Duration::ZERO;
    for host in asleep {
        let after = world.chance.between(ms(0), secs(5));
        last = last.max(after);
        if world.chance.percent(20) {
            let tear = world.chance.below(101) as u8;
            world.later(after, Action::Crash { host: *host, tear });
            world.later(after + secs(1), Action::Start { host: *host });
        } else {
            world.later(after, Action::Wake { host: *host });
        }
    }
    world.run_for(last + secs(2))
}
