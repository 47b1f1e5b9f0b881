//! The story of one network, on which members announce themselves: all addresses change at once, and they find each other.

use std::time::Duration;

use super::many::LINKS_END;
use super::setup::{RECOVERY, all_talk, group};
use super::{ms, secs};
use crate::action::Action;
use crate::net::link::Conditions;
use crate::world::World;

/// Everybody moves at once, some while they sleep or do not run: no address that anybody remembers is true.
pub(super) fn neighbours(world: &mut World) -> Result<(), String> {
    world.has_lan = true;
    let count = 2 + world.chance.below(4) as usize;
    world.internet = Conditions { jitter: ms(5), ..Conditions::perfect(world.chance.between(ms(1), ms(20))) };
    group(world, count, secs(60))?;
    let everyone: Vec<_> = (0..count).collect();
    for _ in 0..1 + world.chance.below(3) {
        all_talk(world, &everyone, RECOVERY)?;
        if world.chance.percent(50) {
            world.run_for(LINKS_END)?;
        }
        world.act(Action::Attack { shots: 5 })?;
        world.internet.loss_percent = *world.chance.pick(&[0, 0, 20]);
        let last = everyone.iter().map(|host| move_away(world, *host)).max().unwrap_or_default();
        world.run_for(last + secs(3))?;
        world.act(Action::Attack { shots: 5 })?;
        world.internet.loss_percent = 0;
        all_talk(world, &everyone, RECOVERY)?;
    }
    Ok(())
}

/// Lets one host move, in one of three ways; returns after what time it runs at its new place.
fn move_away(world: &mut World, host: usize) -> Duration {
    let after = world.chance.between(ms(0), secs(3));
    let back = after + world.chance.between(ms(1), secs(10));
    match world.chance.below(3) {
        0 => {
            world.later(after, Action::Roam { host, tells: true });
            return after;
        }
        1 => {
            let tear = world.chance.below(101) as u8;
            world.later(ms(0), Action::Crash { host, tear });
            world.later(back, Action::Roam { host, tells: false });
            world.later(back, Action::Start { host });
        }
        _ => {
            let clock_goes_on = world.chance.percent(50);
            world.later(ms(0), Action::Sleep { host, clock_goes_on });
            world.later(back, Action::Wake { host });
            world.later(back, Action::Roam { host, tells: true });
        }
    }
    back
}
