//! The story of a nearer path: members that talk over the internet come to stand on one network, and leave it again.

use std::time::Duration;

use super::setup::{RECOVERY, all_talk, group, pairs, talk};
use super::{ms, secs};
use crate::action::Action;
use crate::net::link::Conditions;
use crate::world::World;

/// How long a link in use is let on a worse path: an application's packet, a set of candidates each way, a few checks.
const FINDS_WITHIN: Duration = secs(8);
/// How long after a path died silently another one that works is used: 3 s of silence, 1.5 s for an answer, a check, and
/// what the loss of one of them costs. The session's own end is not waited for.
const LEAVES_WITHIN: Duration = secs(10);

/// Links in use go to the nearer path when there is one, and back when it dies, without a word of warning or with one.
pub(super) fn nearer(world: &mut World) -> Result<(), String> {
    let count = 2 + world.chance.below(3) as usize;
    world.internet =
        Conditions { jitter: ms(2), ..Conditions::perfect(world.chance.between(ms(30), ms(150))) };
    world.near = Conditions { jitter: ms(1), ..Conditions::perfect(world.chance.between(ms(1), ms(8))) };
    group(world, count, secs(120))?;
    let everyone: Vec<_> = (0..count).collect();
    let times = 1 + world.chance.below(3);
    for time in 1..=times {
        all_talk(world, &everyone, RECOVERY)?;
        for (a, b) in pairs(count) {
            let left = 200;
            world.act(Action::Stream {
                from: a,
                to: b,
                bytes: 100,
                wants_echo: true,
                pause: ms(100),
                left,
            })?;
        }
        let last = everyone.iter().map(|host| plug(world, *host)).max().unwrap_or_default();
        world.act(Action::Attack { shots: 5 })?;
        world.run_for(last + FINDS_WITHIN)?;
        world.calm();
        world.run_for(secs(1))?;
        for pair in pairs(count) {
            let took = talk(world, pair, secs(2))?;
            let near = (world.near.delay + world.near.jitter + ms(3)) * 2;
            if took > near {
                return Err(format!("{pair:?} took {took:?} on a network of {near:?}"));
            }
        }
        // A node that does not hear of it looks for better paths again only after minutes.
        let tells = time < times || world.chance.percent(30);
        leave(world, &everyone, tells)?;
    }
    Ok(())
}

/// Lets one host come to the near network; returns after what time it knows.
fn plug(world: &mut World, host: usize) -> Duration {
    let after = world.chance.between(ms(0), secs(3));
    world.later(after, Action::Near { host, is_on: true, tells: true });
    after
}

/// The near network dies while all talk. Whoever notices tells; the others find out.
fn leave(world: &mut World, everyone: &[usize], tells: bool) -> Result<(), String> {
    for host in everyone {
        world.act(Action::Near { host: *host, is_on: false, tells })?;
    }
    all_talk(world, everyone, LEAVES_WITHIN)
}
