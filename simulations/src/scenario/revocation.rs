//! Stories of an invite that is taken back, and of a device that leaves by itself, whether or not somebody hears it.

use std::time::Duration;

use protocol::engine::Event;
use protocol::membership::token::Token;

use super::many::LINKS_END;
use super::removal::{one_view, remove, sign};
use super::setup::{RECOVERY, agreed, all_talk, converge, group, invite, joined, joiner, members};
use super::{ms, secs};
use crate::action::Action;
use crate::net::cut::Group;
use crate::net::link::Conditions;
use crate::world::World;

/// A device that leaves waits so long for somebody to hear it, and the disk before that.
const LEFT_WITHIN: Duration = secs(6);
/// For so long nobody lets in the holder of a revoked invite (chosen: each attempt of its first half minute).
const REFUSED_FOR: Duration = secs(30);

/// An invite is taken back after its first use: whoever is in stays in, and nobody comes in after; who came in meanwhile
/// where the word had not arrived is out once it has.
pub(super) fn revocation(world: &mut World) -> Result<(), String> {
    world.internet = Conditions::perfect(world.chance.between(ms(1), ms(100)));
    let count = 2 + world.chance.below(4) as usize;
    group(world, count, secs(60))?;
    if world.chance.percent(50) {
        world.disk_delay = world.chance.between(ms(1), ms(100));
    }
    let witness = world.chance.below(count as u64) as usize;
    let addresses = [world.hosts[witness].address];
    let token = invite(world, 0, 3, &addresses)?;
    let first = joiner(world, &token, secs(60))?;
    joined(world, first, secs(30))?;
    converge(world, count + 1)?;
    let is_cut = witness != 0 && world.chance.percent(60);
    let second = first + 1;
    if is_cut {
        world.cuts.cut_off(Group::of(&[witness, second]), false, second + 1);
    }
    let id = Token::parse(&token).map_err(|error| error.to_string())?.invite().invite_id;
    sign(world, 0, Action::Revoke { admin: 0, invite: id })?;
    world.run_for(secs(2))?;
    let late = joiner(world, &token, secs(60))?;
    world.hosts[late].is_out = true;
    let is_in = |world: &World| world.hosts[late].disk.is_member;
    if world.run_until(REFUSED_FOR, is_in)? != is_cut {
        return Err(format!(
            "the word did not reach {witness}: {is_cut}, but {late} is a member: {}",
            !is_cut
        ));
    }
    if is_cut {
        let apart = world.chance.between(ms(1), secs(60));
        world.run_for(apart)?;
        world.act(Action::Heal)?;
    }
    converge(world, count + 1)?;
    let everyone = members(world, late + 1);
    all_talk(world, &everyone, RECOVERY)?;
    agreed(world, count + 1)
}

/// How a device leaves.
#[derive(Clone, Copy, PartialEq)]
enum Links {
    Up,
    Ended,
    CutOff,
}

/// A device leaves, with links up, after they have ended, or where nobody hears it: in the end it is out, and silent.
pub(super) fn leaving(world: &mut World) -> Result<(), String> {
    world.internet = Conditions::perfect(world.chance.between(ms(1), ms(100)));
    let count = 3 + world.chance.below(4) as usize;
    group(world, count, secs(60))?;
    let everyone: Vec<_> = (0..count).collect();
    all_talk(world, &everyone, RECOVERY)?;
    let links = *world.chance.pick(&[Links::Up, Links::Ended, Links::CutOff]);
    if links == Links::Ended {
        world.run_for(LINKS_END)?;
    }
    if world.chance.percent(50) {
        world.disk_delay = world.chance.between(ms(1), ms(300));
    }
    let victim = 1 + world.chance.below(count as u64 - 1) as usize;
    if links == Links::CutOff {
        world.act(Action::Cut { group: Group::of(&[victim]), is_one_way: false })?;
    }
    let told = leave(world, victim)?;
    if (told == 0) != (links == Links::CutOff) {
        return Err(format!("{victim} left and told {told}"));
    }
    // What it says from here on fails the run, whoever asks.
    for to in (0..count).filter(|to| *to != victim) {
        world.act(Action::Connect { from: victim, to })?;
        world.act(Action::Send { from: victim, to, bytes: 100, wants_echo: true })?;
        world.act(Action::Send { from: to, to: victim, bytes: 100, wants_echo: true })?;
    }
    world.run_for(secs(3))?;
    world.act(Action::Heal)?;
    if links == Links::CutOff {
        // Nobody has heard of it.
        remove(world, 0, victim)?;
    }
    one_view(world, count - 1)?;
    let everyone = members(world, count);
    all_talk(world, &everyone, RECOVERY)?;
    if links == Links::CutOff { Ok(()) } else { epoch_follows(world, count - 1) }
}

/// Behind a departure comes an epoch, and not at once: many are gathered.
fn epoch_follows(world: &mut World, count: usize) -> Result<(), String> {
    let epoch = |world: &World| world.hosts[0].view(world.instant(0)).map(|(epoch, _)| epoch);
    world.run_for(secs(200))?;
    if epoch(world) != Some(0) {
        return Err(format!("epoch {:?} soon after somebody left", epoch(world)));
    }
    world.run_for(secs(420))?;
    if epoch(world) != Some(1) {
        return Err(format!("epoch {:?} long after somebody left", epoch(world)));
    }
    one_view(world, count)
}

/// `host` leaves; returns how many members have its word.
pub(super) fn leave(world: &mut World, host: usize) -> Result<u32, String> {
    world.heard.clear();
    world.act(Action::Leave { host })?;
    let left = |world: &World| world.heard.iter().any(|(_, event)| matches!(event, Event::Left { .. }));
    if !world.run_until(LEFT_WITHIN, left)? {
        return Err(format!("{host} did not come to an end with leaving"));
    }
    world.hosts[host].is_out = true;
    let outcome = world.heard.iter().find_map(|(_, event)| match event {
        Event::Left { outcome, .. } => Some(outcome),
        _ => None,
    });
    match outcome {
        Some(Ok(told)) => Ok(*told),
        other => Err(format!("{host} left: {other:?}")),
    }
}
