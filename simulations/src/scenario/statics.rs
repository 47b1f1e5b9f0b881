//! The story of static keys: members take others, die before anybody knows, start anew.

use super::setup::{RECOVERY, all_talk, group, tear};
use super::{ms, secs};
use crate::action::Action;
use crate::net::link::Conditions;
use crate::world::World;

/// Members make other static keys their own, under loss and crashes; whatever is known by whom, they reach each other, and
/// where nothing is lost to the internet no packet is lost to a key.
pub(super) fn statics(world: &mut World) -> Result<(), String> {
    let delay = world.chance.between(ms(1), ms(150));
    world.internet = Conditions::perfect(delay);
    let count = 2 + world.chance.below(3) as usize;
    group(world, count, secs(20))?;
    let everyone: Vec<_> = (0..count).collect();
    all_talk(world, &everyone, RECOVERY)?;
    world.run_for(secs(2))?;
    smoothly(world, count)?;
    for _ in 0..1 + world.chance.below(3) {
        world.internet = Conditions { loss_percent: world.chance.below(21), ..Conditions::perfect(delay) };
        world.disk_delay = world.chance.between(ms(0), ms(300));
        for _ in 0..1 + world.chance.below(3) {
            let host = world.chance.below(count as u64) as usize;
            let after = world.chance.between(ms(0), secs(30));
            world.later(after, Action::NewStatic { host });
            if world.chance.percent(60) {
                let (after, tear) = (after + world.chance.between(ms(0), secs(1)), tear(world));
                let away = world.chance.between(ms(1), secs(20));
                world.later(after, Action::Crash { host, tear });
                world.later(after + away, Action::Start { host });
            }
        }
        let length = world.chance.between(secs(1), secs(60));
        world.run_for(length)?;
        world.internet.loss_percent = 0;
        world.disk_delay = ms(0);
        // Whoever is to die has died, and runs again.
        world.run_for(secs(51))?;
        all_talk(world, &everyone, RECOVERY)?;
        let host = world.chance.below(count as u64) as usize;
        world.act(Action::Crash { host, tear: 100 })?;
        world.start(host)?;
        all_talk(world, &everyone, RECOVERY)?;
    }
    Ok(())
}

/// Keys change under traffic, across two rekeys of each session.
fn smoothly(world: &mut World, count: usize) -> Result<(), String> {
    let since = world.now;
    for (from, to) in (0..count).flat_map(|to| (0..to).map(move |from| (from, to))) {
        let stream =
            |from, to| Action::Stream { from, to, bytes: 300, wants_echo: false, pause: ms(100), left: 500 };
        world.act(stream(from, to))?;
        world.act(stream(to, from))?;
    }
    for host in 0..count {
        let after = world.chance.between(ms(0), secs(40));
        world.later(after, Action::NewStatic { host });
    }
    world.run_for(secs(60))?;
    match world.ledger.missing_since(since) {
        0 => Ok(()),
        lost => Err(format!("{lost} packets were lost to static keys that changed")),
    }
}
