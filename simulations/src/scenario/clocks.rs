//! Stories of wall clocks that are wrong, within what the veil bears (120 s) and beyond, and that are set while the node
//! runs.

use std::time::Duration;

use super::setup::{agreed, pair, talk};
use super::{ms, secs};
use crate::action::Action;
use crate::net::link::Conditions;
use crate::world::World;

/// The age up to which a veiled datagram is looked at.
const MAX_AGE: Duration = secs(120);
/// What delays and timers may add.
const MARGIN: Duration = secs(1);

/// Two members whose clocks are up to 120 s apart meet, whoever starts anew; further apart they do not, until the clock
/// is right again.
pub(super) fn skewed(world: &mut World) -> Result<(), String> {
    world.internet = Conditions::perfect(world.chance.between(ms(1), ms(150)));
    let (a, b) = pair(world, secs(120))?;
    world.run_for(MAX_AGE)?;
    let apart = world.chance.between(secs(2), MAX_AGE - MARGIN).as_millis() as i64;
    let apart = if world.chance.percent(50) { apart } else { -apart };
    let true_ms = world.hosts[b].clock.off_ms;
    world.act(Action::Clock { host: b, off_ms: world.hosts[a].clock.off_ms + apart })?;
    // An initiation that is older than one of the last 10 s is not answered.
    world.run_for(secs(11))?;
    for _ in 0..2 {
        let (anew, other) = if world.chance.percent(50) { (a, b) } else { (b, a) };
        restart(world, anew)?;
        // What a process says itself is answered at once; it hears one whose clock is behind after that long.
        talk(world, (anew, other), secs(3))?;
        talk(world, (other, anew), secs(2))?;
        let nap = world.chance.between(secs(1), secs(300));
        world.run_for(nap)?;
        restart(world, anew)?;
        world.run_for(Duration::from_millis(apart.unsigned_abs()) + MARGIN)?;
        talk(world, (other, anew), secs(20))?;
    }
    beyond(world, (a, b), true_ms)?;
    agreed(world, 2)
}

/// One clock shows 1970, or is off by more than the veil bears: no link, and no harm, until it is set.
fn beyond(world: &mut World, (a, b): (usize, usize), true_ms: i64) -> Result<(), String> {
    let wrong = if world.chance.percent(50) { a } else { b };
    for host in [a, b] {
        world.act(Action::Close { host })?;
    }
    let right_ms = if wrong == b { true_ms } else { world.hosts[a].clock.off_ms };
    world.act(Action::Clock { host: b, off_ms: true_ms })?;
    if world.chance.percent(40) {
        let now = world.now;
        world.hosts[wrong].clock.set_to_1970(now);
    } else {
        let most = *world.chance.pick(&[secs(200), secs(3_600), secs(400 * 86_400)]);
        let off = world.chance.between(MAX_AGE + secs(2), most).as_millis() as i64;
        let off = if world.chance.percent(50) { off } else { -off };
        world.act(Action::Clock { host: wrong, off_ms: right_ms + off })?;
    }
    world.run_for(secs(1))?;
    for host in [a, b] {
        world.start(host)?;
    }
    for order in [(a, b), (b, a)] {
        if talk(world, order, secs(30)).is_ok() {
            return Err("two clocks that are further apart than the veil bears made a link".to_owned());
        }
    }
    world.act(Action::Clock { host: wrong, off_ms: right_ms })?;
    world.run_for(secs(30))?;
    talk(world, (wrong, a + b - wrong), secs(30)).map(drop)
}

/// A clock is set while the link is in use: nothing is lost, until the session has to be renewed; and all is well once
/// it is set right.
pub(super) fn set(world: &mut World) -> Result<(), String> {
    world.internet = Conditions::perfect(world.chance.between(ms(1), ms(150)));
    let (a, b) = pair(world, secs(120))?;
    let host = if world.chance.percent(50) { a } else { b };
    let right_ms = world.hosts[host].clock.off_ms;
    world.calm();
    world.run_for(secs(1))?;
    for _ in 0..1 + world.chance.below(3) {
        let by = if world.chance.percent(40) { back_then(world)? } else { any_step(world) };
        let begun_at = world.now;
        for (from, to) in [(a, b), (b, a)] {
            let stream = Action::Stream { from, to, bytes: 300, wants_echo: false, pause: ms(50), left: 100 };
            world.later(Duration::ZERO, stream);
        }
        world.later(secs(1), Action::Clock { host, off_ms: right_ms + by });
        world.later(secs(2), Action::Attack { shots: 100 });
        world.run_for(secs(6))?;
        match world.ledger.missing_since(begun_at) {
            0 => {}
            lost => return Err(format!("{lost} packets were lost to a clock that was set by {by} ms")),
        }
        let length = world.chance.between(secs(1), secs(300));
        world.run_for(length)?;
        world.act(Action::Clock { host, off_ms: right_ms })?;
        world.act(Action::Attack { shots: 20 })?;
        world.run_for(secs(1))?;
        let order = if world.chance.percent(50) { (a, b) } else { (b, a) };
        talk(world, order, secs(45))?;
        talk(world, (order.1, order.0), secs(10))?;
        world.calm();
        world.run_for(secs(1))?;
    }
    agreed(world, 2)
}

/// Milliseconds by which a clock is set, forward or back.
fn any_step(world: &mut World) -> i64 {
    let most = *world.chance.pick(&[secs(60), secs(3_600), secs(400 * 86_400)]);
    let by = world.chance.between(secs(1), most).as_millis() as i64;
    if world.chance.percent(50) { by } else { -by }
}

/// Time passes, and a clock is set back to the moments after the first handshake: what a stranger recorded then looks
/// young again.
fn back_then(world: &mut World) -> Result<i64, String> {
    let length = world.chance.between(secs(250), secs(600));
    world.run_for(length)?;
    let since_start = world.now - world.chance.between(secs(0), secs(100));
    Ok(-(since_start.as_millis() as i64))
}

fn restart(world: &mut World, host: usize) -> Result<(), String> {
    let tear = world.chance.below(101) as u8;
    world.act(Action::Crash { host, tear })?;
    world.run_for(secs(1))?;
    world.start(host)
}
