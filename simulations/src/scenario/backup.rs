//! The story of a disk that went back: a machine starts from a backup, and what happened since is news to it.

use super::removal::remove;
use super::setup::{RECOVERY, acquaint, add_member, agreed, all_talk, converge, group, joined, members};
use super::{ms, secs};
use crate::action::Action;
use crate::net::link::Conditions;
use crate::world::World;

/// A member or the admin goes back: to before joins, invites, removals and epochs, even to before it was a member. It
/// catches up, and an admin signs no second history.
pub(super) fn backup(world: &mut World) -> Result<(), String> {
    world.internet = Conditions::perfect(world.chance.between(ms(1), ms(100)));
    let mut count = 3 + world.chance.below(3) as usize;
    group(world, count, secs(60))?;
    let everyone: Vec<_> = (0..count).collect();
    all_talk(world, &everyone, RECOVERY)?;
    let host = if world.chance.percent(50) { 0 } else { 1 + world.chance.below(count as u64 - 1) as usize };
    let mut backup = world.hosts[host].disk.backup();
    let known = if host == 1 { 0 } else { 1 };
    let mut may_remove = true;
    if backup.joining.is_some() && world.chance.percent(30) {
        // It was made while its node still asked to join.
        backup.is_member = false;
        backup.objects.clear();
        backup.epochs.clear();
        // The one member that its token names must be there.
        may_remove = false;
    }
    let events = 1 + world.chance.below(3);
    for _ in 0..events {
        let pause = world.chance.between(ms(1), secs(90));
        world.run_for(pause)?;
        // One that the backup knows stays: who knows of nobody who is there finds nobody.
        let mut removable = members(world, world.hosts.len());
        removable.retain(|other| may_remove && ![0, known, host].contains(other));
        if !removable.is_empty() && world.chance.percent(40) {
            let victim = *world.chance.pick(&removable);
            remove(world, 0, victim)?;
            world.act(Action::Close { host: victim })?;
            count -= 1;
        } else {
            let witness = if world.chance.percent(50) { host } else { 0 };
            add_member(world, (0, witness), secs(60))?;
            acquaint(world)?;
            count += 1;
        }
    }
    let everyone = members(world, world.hosts.len());
    all_talk(world, &everyone, RECOVERY)?;
    let tear = world.chance.below(101) as u8;
    world.act(Action::Crash { host, tear })?;
    let away = world.chance.between(ms(1), secs(200));
    world.run_for(away)?;
    world.hosts[host].disk.go_back(backup);
    world.start(host)?;
    joined(world, host, secs(60))?;
    // Whoever went back makes or hears of something at once.
    let witness = if world.chance.percent(50) { host } else { 0 };
    add_member(world, (0, witness), secs(60))?;
    converge(world, count + 1)?;
    let everyone = members(world, world.hosts.len());
    all_talk(world, &everyone, RECOVERY)?;
    agreed(world, count + 1)
}
