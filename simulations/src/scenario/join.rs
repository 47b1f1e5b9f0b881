//! Stories of getting in: an invite with more takers than uses, an answer that never arrives.

use protocol::engine::Event;

use super::setup::{
    CONVERGENCE, acquaint, agreed, founder, group, invite, joined, joiner, pair, pairs, talk, tear, wish,
};
use super::{ms, secs};
use crate::action::Action;
use crate::net::cut::Group;
use crate::net::link::Conditions;
use crate::world::World;

/// The second taker of a one-use invite is told that it is used up.
pub(super) fn used_up(world: &mut World) -> Result<(), String> {
    let a = founder(world, secs(60))?;
    let members = [world.hosts[a].address];
    let token = invite(world, a, 1, &members)?;
    world.internet = Conditions { loss_percent: world.chance.below(31), ..world.internet };
    let first = joiner(world, &token, secs(60))?;
    joined(world, first, secs(120))?;
    world.heard.clear();
    let second = joiner(world, &token, secs(60))?;
    let refused = |world: &World| {
        world.heard.iter().any(|(host, event)| *host == second && matches!(event, Event::JoinFailed(_)))
    };
    if !world.run_until(secs(120), refused)? {
        return Err("the second taker heard nothing".to_owned());
    }
    world.act(Action::Close { host: second })?;
    world.hosts[second].is_out = true;
    world.internet = Conditions::perfect(ms(20));
    talk(world, (a, first), secs(30))?;
    agreed(world, 2)
}

/// The joiner dies between question and answer: the same Join is asked again and is one use.
pub(super) fn lost_answer(world: &mut World) -> Result<(), String> {
    let a = founder(world, secs(60))?;
    let members = [world.hosts[a].address];
    let token = invite(world, a, 1, &members)?;
    world.internet = Conditions::perfect(ms(50));
    if world.chance.percent(50) {
        world.disk_delay = world.chance.between(ms(1), ms(200));
    }
    let b = joiner(world, &token, secs(60))?;
    for _ in 0..=world.chance.below(3) {
        // The answer comes 100 ms after the question, and later by the disk.
        let until_death = world.chance.between(ms(51), ms(400));
        world.run_for(until_death)?;
        let tear = tear(world);
        world.act(Action::Crash { host: b, tear })?;
        if world.chance.percent(30) {
            world.act(Action::Crash { host: a, tear })?;
            world.run_for(ms(300))?;
            world.start(a)?;
        }
        let away = world.chance.between(ms(1), secs(5));
        world.run_for(away)?;
        world.start(b)?;
    }
    joined(world, b, secs(30))?;
    let order = if world.chance.percent(50) { (a, b) } else { (b, a) };
    talk(world, order, secs(30))?;
    agreed(world, 2)
}

/// An admin dies before its invite is on disk: the next invite forks no history, for nobody has heard of the first.
pub(super) fn forgotten_invite(world: &mut World) -> Result<(), String> {
    let (a, b) = pair(world, secs(60))?;
    world.disk_delay = world.chance.between(ms(50), ms(500));
    wish(world, a, 1, &[])?;
    let until_death = world.chance.between(ms(1), world.disk_delay);
    world.run_for(until_death)?;
    world.act(Action::Crash { host: a, tear: 0 })?;
    world.run_for(ms(500))?;
    world.disk_delay = ms(0);
    world.start(a)?;
    // An admin signs nothing after a start until it has settled with one other member.
    talk(world, (a, b), secs(5))?;
    let members = [world.hosts[b].address, world.hosts[a].address];
    let token = invite(world, a, 1, &members)?;
    let c = joiner(world, &token, secs(60))?;
    joined(world, c, secs(10))?;
    // Until the news is with everybody: an address of nobody is not remembered.
    world.run_for(secs(3))?;
    for member in [a, b] {
        world.act(Action::Remember { host: member, of: c })?;
        talk(world, (member, c), secs(5))?;
    }
    agreed(world, 3)
}

/// In two parts of a broken internet two devices take an invite of one use: each part lets one in, and once they hear of
/// each other all name the same one.
pub(super) fn two_takers(world: &mut World) -> Result<(), String> {
    world.internet = Conditions::perfect(world.chance.between(ms(1), ms(100)));
    let count = 2 + world.chance.below(4) as usize;
    group(world, count, secs(20))?;
    world.run_for(secs(2))?;
    let witness = 1 + world.chance.below(count as u64 - 1) as usize;
    let members = [world.hosts[0].address, world.hosts[witness].address];
    let token = invite(world, 0, 1, &members)?;
    // Two more hosts than there are yet: the takers, one on each side.
    let near: Vec<_> = (0..count).filter(|host| *host != witness && world.chance.percent(50)).collect();
    let side = Group::of(&[near, vec![0, count]].concat());
    world.cuts.cut_off(side, false, count + 2);
    let first = joiner(world, &token, secs(20))?;
    joined(world, first, secs(30))?;
    let apart = world.chance.between(ms(1), secs(30));
    world.run_for(apart)?;
    let second = joiner(world, &token, secs(20))?;
    joined(world, second, secs(30))?;
    for taker in [first, second] {
        for member in 0..count {
            world.act(Action::Remember { host: member, of: taker })?;
            world.act(Action::Remember { host: taker, of: member })?;
        }
    }
    world.act(Action::Heal)?;
    settle_for_one(world, count, [first, second])
}

/// All old members agree on who belongs: themselves and one of the two takers.
fn settle_for_one(world: &mut World, count: usize, takers: [usize; 2]) -> Result<(), String> {
    for (from, to) in pairs(count) {
        let stream = Action::Stream { from, to, bytes: 100, wants_echo: true, pause: secs(1), left: 200 };
        world.act(stream)?;
    }
    for _ in 0..400 {
        world.run_for(ms(500))?;
        let mut views = (0..count).filter_map(|host| world.hosts[host].view(world.instant(host)));
        let Some(first) = views.next() else { continue };
        if first.1.len() == count + 1 && views.all(|view| view == first) {
            world.calm();
            let has = |taker: usize| first.1.values().any(|device| *device == world.hosts[taker].id());
            let Some(winner) = takers.into_iter().find(|taker| has(*taker)) else { break };
            acquaint(world)?;
            let member = world.chance.below(count as u64) as usize;
            return talk(world, (member, winner), CONVERGENCE).map(drop);
        }
    }
    Err("two parts did not agree on who took the last use".to_owned())
}
