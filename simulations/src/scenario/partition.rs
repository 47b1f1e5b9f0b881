//! Stories of an internet that falls apart and heals: parts that cannot hear each other, or only one way.

use std::time::Duration;

use super::setup::{RECOVERY, add_member, agreed, all_talk, converge, group, pairs};
use super::{ms, secs};
use crate::action::Action;
use crate::net::cut::Group;
use crate::net::link::Conditions;
use crate::world::World;

/// Several cuts, with traffic all the while and joins on the admin's side: what is apart goes on, and is one again
/// after each.
pub(super) fn partition(world: &mut World) -> Result<(), String> {
    let rekey_after = world.chance.between(secs(10), secs(60));
    let mut count = 3 + world.chance.below(6) as usize;
    let delay = world.chance.between(ms(1), ms(100));
    world.internet = Conditions { jitter: ms(10), ..Conditions::perfect(delay) };
    group(world, count, rekey_after)?;
    for _ in 0..1 + world.chance.below(2) {
        let everyone: Vec<_> = (0..count).collect();
        all_talk(world, &everyone, RECOVERY)?;
        world.internet.loss_percent = world.chance.below(15);
        let group = cut(world, count);
        let length = world.chance.between(secs(2), secs(120));
        talk_meanwhile(world, count, length);
        if world.chance.percent(60) {
            // The founder's side grows; the other side hears of it later.
            let near: Vec<_> = (0..count).filter(|host| group.has(*host) == group.has(0)).collect();
            let witness = *world.chance.pick(&near);
            let newcomer = add_member(world, (0, witness), rekey_after)?;
            world.act(Action::Remember { host: newcomer, of: 0 })?;
            count += 1;
        }
        world.run_for(length)?;
        world.act(Action::Heal)?;
        world.internet.loss_percent = 0;
        converge(world, count)?;
    }
    let everyone: Vec<_> = (0..count).collect();
    all_talk(world, &everyone, RECOVERY)?;
    agreed(world, count)
}

/// Cuts off some of the hosts, maybe in one direction only, maybe twice; returns the first of the groups.
fn cut(world: &mut World, count: usize) -> Group {
    let all = (1u64 << count) - 1;
    let bits = 1 + world.chance.below(all - 1) as u16;
    let group = Group::of_bits(bits);
    // Whoever cannot answer still hears: the founder must stay whole for those beside it.
    let is_one_way = world.chance.percent(30);
    world.cuts.cut_off(group, is_one_way, count);
    group
}

/// Applications speak while nobody can say whether they are heard.
fn talk_meanwhile(world: &mut World, count: usize, length: Duration) {
    for (from, to) in pairs(count).collect::<Vec<_>>() {
        if world.chance.percent(50) {
            continue;
        }
        let (after, pause) = (world.chance.between(ms(0), length), world.chance.between(ms(100), secs(2)));
        let left = 1 + world.chance.below(20) as u32;
        world.later(after, Action::Stream { from, to, bytes: 200, wants_echo: true, pause, left });
    }
}
