//! The story in which everything happens at once: two to five members under loss, crashes, new addresses, removals and
//! a stranger; once it is over, all is well within 30 s.

use std::time::Duration;

use super::many::idle;
use super::removal::remove;
use super::setup::{acquaint, converge, founder, invite, joined, joiner, members, pairs, talk, tear};
use super::{ms, secs};
use crate::action::Action;
use crate::net::cut::Group;
use crate::net::link::Conditions;
use crate::world::World;

/// How long after the faults packets must flow.
const RECOVERY: Duration = Duration::from_secs(30);
/// Within this time the epoch that follows a departure is made.
const LEFT_EPOCH: Duration = Duration::from_secs(620);
/// If any member has the word of one that left, the founder has it after this time: an exchange with each is had by then.
const HEARD_WITHIN: Duration = Duration::from_secs(60);

/// Everything.
pub(super) fn chaos(world: &mut World) -> Result<(), String> {
    let rekey_after = world.chance.between(secs(10), secs(120));
    let count = 2 + world.chance.below(4) as usize;
    world.internet = Conditions::drawn(&mut world.chance);
    let a = founder(world, rekey_after)?;
    if world.chance.percent(40) {
        world.disk_delay = world.chance.between(ms(1), ms(300));
    }
    for _ in 1..count {
        // Any member may let others in.
        let known = if world.chance.percent(50) { 1 } else { world.hosts.len() };
        let members: Vec<_> = world.hosts.iter().take(known).map(|host| host.address).collect();
        let token = invite(world, a, 1, &members)?;
        let host = joiner(world, &token, rekey_after)?;
        if world.chance.percent(30) {
            disturb_join(world, (a, host));
        }
        for _ in 0..4 {
            let after = world.chance.between(ms(0), secs(5));
            world.later(after, Action::Attack { shots: 3 });
        }
        joined(world, host, secs(180))?;
        // Whoever died in the middle of it runs again.
        world.run_for(secs(7))?;
    }
    let length = world.chance.between(secs(20), secs(90));
    for _ in 0..world.chance.below(30) + 5 {
        let (after, action) = (world.chance.between(ms(0), length), draw(world, count));
        world.later(after, action);
    }
    simultaneous_start(world, count);
    if count > 3 && world.chance.percent(60) {
        removals(world, count, length);
    }
    world.run_for(length)?;
    recover(world, count)
}

/// One of the two of a join dies in the middle of it.
fn disturb_join(world: &mut World, (witness, joiner): (usize, usize)) {
    let host = if world.chance.percent(50) { witness } else { joiner };
    let after = world.chance.between(ms(1), secs(3));
    let tear = tear(world);
    world.later(after, Action::Crash { host, tear });
    let away = world.chance.between(ms(1), secs(4));
    world.later(after + away, Action::Start { host });
}

/// The founder removes one or two, or some of them leave; whether it comes to that, chance decides.
fn removals(world: &mut World, count: usize, length: Duration) {
    for _ in 0..1 + world.chance.below(2) {
        let after = world.chance.between(ms(0), length);
        let target = 1 + world.chance.below(count as u64 - 1) as usize;
        let leaves = world.chance.percent(30);
        let wish = if leaves { Action::Leave { host: target } } else { Action::Remove { admin: 0, target } };
        world.later(after, wish);
    }
}

/// Two hosts start to speak at one instant.
fn simultaneous_start(world: &mut World, count: usize) {
    let after = world.chance.between(ms(0), secs(20));
    let (from, to) = two(world, count);
    for (from, to) in [(from, to), (to, from)] {
        world.later(after, Action::Connect { from, to });
        world.later(after, Action::Send { from, to, bytes: 100, wants_echo: true });
    }
}

fn two(world: &mut World, count: usize) -> (usize, usize) {
    let from = world.chance.below(count as u64) as usize;
    let other = world.chance.below(count as u64 - 1) as usize;
    (from, if other < from { other } else { other + 1 })
}

fn draw(world: &mut World, count: usize) -> Action {
    let (from, to) = two(world, count);
    let bytes = *world.chance.pick(&[40, 200, 1_000, 1_168, 1_300, 1_420]);
    match world.chance.below(27) {
        0..=7 => {
            let (wants_echo, pause) = (world.chance.percent(50), world.chance.between(ms(5), ms(400)));
            let left = world.chance.below(150) as u32 + 1;
            Action::Stream { from, to, bytes, wants_echo, pause, left }
        }
        8 => Action::Send { from, to, bytes, wants_echo: true },
        9 | 10 => {
            let away = world.chance.between(ms(1), secs(20));
            world.later(away, Action::Start { host: from });
            let tear = tear(world);
            Action::Crash { host: from, tear }
        }
        11 => Action::Start { host: from },
        12 => Action::Close { host: from },
        13 => Action::Roam { host: from, tells: world.chance.percent(50) },
        14 => Action::Connect { from, to },
        15 => Action::Remember { host: from, of: to },
        16 => Action::Ping { from, to },
        17 => Action::Internet(Conditions::drawn(&mut world.chance)),
        18 => Action::Disk(world.chance.between(ms(0), secs(1))),
        19 | 20 => {
            let away = world.chance.between(ms(1), secs(40));
            world.later(away, Action::Wake { host: from });
            Action::Sleep { host: from, clock_goes_on: world.chance.percent(50) }
        }
        21 | 22 => {
            let length = world.chance.between(ms(1), secs(40));
            world.later(length, Action::Heal);
            let bits = world.chance.below(1 << count) as u16;
            Action::Cut { group: Group::of_bits(bits), is_one_way: world.chance.percent(30) }
        }
        23 => Action::Clock { host: from, off_ms: world.chance.below(1_000) as i64 },
        _ => Action::Attack { shots: 8 },
    }
}

/// The faults are over: everything runs, whoever speaks first is answered in time, all agree on who belongs, and at
/// last nobody says a word.
fn recover(world: &mut World, count: usize) -> Result<(), String> {
    world.disk_delay = Duration::ZERO;
    world.internet = Conditions::perfect(world.chance.between(ms(1), ms(200)));
    // What was on its way is over, too.
    world.run_for(secs(4))?;
    world.act(Action::Heal)?;
    for host in 0..count {
        world.act(Action::Wake { host })?;
        world.start(host)?;
    }
    let left = remaining(world, count)?;
    // Who lost news of a member hears of it with the next rekey of a link in use.
    converge(world, left.len())?;
    for (first, second) in pairs(left.len()) {
        let (first, second) = (left[first], left[second]);
        let (from, to) = if world.chance.percent(50) { (first, second) } else { (second, first) };
        // Where both have moved, nobody but a third could tell them.
        world.act(Action::Remember { host: from, of: to })?;
        world.act(Action::Attack { shots: 4 })?;
        talk(world, (from, to), RECOVERY)?;
        talk(world, (to, from), RECOVERY)?;
    }
    if left.len() < count {
        // Where somebody left, an admin's node takes its time with the next epoch.
        world.run_for(LEFT_EPOCH)?;
    }
    converge(world, left.len())?;
    idle(world, secs(600))
}

/// Who is still a member: those whom the founder has not removed, and who have not left. One that left where nobody heard
/// it is removed.
fn remaining(world: &mut World, count: usize) -> Result<Vec<usize>, String> {
    acquaint(world)?;
    for to in 1..count {
        world.act(Action::Connect { from: 0, to })?;
    }
    // Whoever leaves has left.
    world.run_for(secs(10))?;
    for host in 1..count {
        let device = world.hosts[host].id();
        let is_gone =
            |world: &World| world.hosts[0].node.as_ref().is_some_and(|node| !node.is_member(&device));
        let is_silent = world.hosts[host].node.as_ref().is_some_and(|node| node.engine.is_removed());
        if is_silent && !world.run_until(HEARD_WITHIN, is_gone)? {
            remove(world, 0, host)?;
        }
        world.hosts[host].is_out = is_silent || is_gone(world);
    }
    Ok(members(world, count))
}
