//! Stories on an internet that loses nothing: crashes with remembered paths, and sessions that outlive their keys.

use std::time::Duration;

use super::setup::{pair, talk};
use super::{ms, secs};
use crate::action::Action;
use crate::net::link::Conditions;
use crate::world::World;

/// Either node dies under traffic and starts again: flow is back within 2 s, from whichever side speaks first.
pub(super) fn restart(world: &mut World) -> Result<(), String> {
    world.internet = Conditions::perfect(world.chance.between(ms(1), ms(150)));
    let (a, b) = pair(world, secs(120))?;
    for _ in 0..4 {
        let (dies, stays) = if world.chance.percent(50) { (a, b) } else { (b, a) };
        world.act(traffic(a, b, 400))?;
        world.act(traffic(b, a, 400))?;
        let until_death = world.chance.between(ms(1), secs(3));
        world.run_for(until_death)?;
        // A goodbye may be overtaken by the next start.
        world.internet.late_percent = 50;
        let clean = world.chance.percent(50);
        world.act(if clean {
            Action::Close { host: dies }
        } else {
            Action::Crash { host: dies, tear: 0 }
        })?;
        world.internet.late_percent = 0;
        let longest = *world.chance.pick(&[secs(1), secs(20)]);
        let away = world.chance.between(ms(1), longest);
        world.run_for(away)?;
        world.start(dies)?;
        let order = if world.chance.percent(50) { (dies, stays) } else { (stays, dies) };
        talk(world, order, secs(2))?;
        talk(world, (order.1, order.0), secs(2))?;
        let back_at = world.now;
        world.act(traffic(a, b, 500))?;
        world.act(traffic(b, a, 500))?;
        world.run_for(secs(10))?;
        match world.ledger.missing_since(back_at) {
            0 => {}
            lost => return Err(format!("{lost} packets lost after flow was back at {back_at:?}")),
        }
    }
    Ok(())
}

/// Both nodes start, and both ends speak, at one instant or nearly so: every packet arrives, within three round trips.
pub(super) fn both_at_once(world: &mut World) -> Result<(), String> {
    let delay = world.chance.between(ms(1), ms(300));
    world.internet = Conditions { jitter: world.chance.between(ms(0), ms(20)), ..Conditions::perfect(delay) };
    let (a, b) = pair(world, secs(120))?;
    for _ in 0..4 {
        for host in [a, b] {
            world.act(Action::Close { host })?;
        }
        world.run_for(secs(1))?;
        let begun_at = world.now;
        let apart =
            if world.chance.percent(50) { Duration::ZERO } else { world.chance.between(ms(0), delay * 2) };
        world.later(apart, Action::Start { host: b });
        world.start(a)?;
        for (after, from, to) in [(Duration::ZERO, a, b), (apart, b, a)] {
            let stream = Action::Stream { from, to, bytes: 100, wants_echo: false, pause: ms(50), left: 30 };
            world.later(after, stream);
        }
        world.run_for(secs(1) + secs(2) + (delay + ms(20)) * 6)?;
        let lost = world.ledger.missing_since(begun_at);
        if lost > 0 {
            return Err(format!("{lost} packets lost to a start {apart:?} apart"));
        }
    }
    Ok(())
}

fn traffic(from: usize, to: usize, left: u32) -> Action {
    Action::Stream { from, to, bytes: 300, wants_echo: false, pause: ms(10), left }
}

/// A session is renewed five times and more, and no packet is lost to it.
pub(super) fn rekeys(world: &mut World) -> Result<(), String> {
    let delay = world.chance.between(ms(1), ms(300));
    let jitter = if world.chance.percent(50) { Duration::ZERO } else { ms(40) };
    let mtu_bytes = *world.chance.pick(&[1_232, 1_300, 1_451, 1_452, 1_472]);
    world.internet = Conditions { jitter, mtu_bytes, ..Conditions::perfect(delay) };
    let (a, b) = pair(world, secs(10))?;
    world.run_for(secs(3))?;
    let begun_at = world.now;
    let rekeys_at_least = 5;
    let length = secs(10) * (rekeys_at_least + 2);
    let both = world.chance.percent(70);
    let left = (length.as_millis() / 50) as u32;
    for (from, to) in [(a, b), (b, a)].into_iter().take(if both { 2 } else { 1 }) {
        world.act(Action::Stream { from, to, bytes: 1_000, wants_echo: false, pause: ms(50), left })?;
    }
    let veiled = world.veiled;
    world.run_for(length + secs(3))?;
    // An initiation and a response each; the two ends should not both renew.
    let rekeys = (world.veiled - veiled) / 2;
    if !(u64::from(rekeys_at_least)..=u64::from(rekeys_at_least) + 4).contains(&rekeys) {
        return Err(format!("{rekeys} handshakes in {length:?}"));
    }
    match world.ledger.missing_since(begun_at) {
        0 => large(world, (a, b)),
        lost => Err(format!("{lost} packets were lost to rekeys")),
    }
}

/// A packet of full size that may not be cut arrives, or its application is told why not.
fn large(world: &mut World, (from, to): (usize, usize)) -> Result<(), String> {
    let (since, errors) = (world.now, world.errors);
    world.act(Action::Send { from, to, bytes: 1_420, wants_echo: false })?;
    world.run_for(secs(1))?;
    let is_carried = world.internet.mtu_bytes >= 1_420 + 32;
    match (world.ledger.missing_since(since), world.errors - errors) {
        (0, 0) if is_carried => Ok(()),
        (1, 1) if !is_carried => Ok(()),
        (lost, told) => Err(format!("of a large packet {lost} was lost and {told} told")),
    }
}
