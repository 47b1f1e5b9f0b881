//! Stories of removal: sessions end at once, the removed get nothing from anybody, those who slept catch up, and two
//! admins that remove at once agree in the end.

use std::time::Duration;

use protocol::engine::Event;
use protocol::membership::object::{Admin, Body, Capabilities, Charter, Object};

use super::revocation::leave;
use super::setup::{RECOVERY, acquaint, add_member, all_talk, group, members, pairs, tear};
use super::{ms, secs};
use crate::action::Action;
use crate::host::Host;
use crate::net::cut::Group;
use crate::net::link::Conditions;
use crate::traffic::Sent;
use crate::world::World;

/// Every connected member has closed its sessions with the target within this time (specified).
const CLOSED_WITHIN: Duration = secs(2);
/// How long after all faults the members have one view and one epoch, links or not: an admin's node finds the epoch stale
/// for 60 s before it makes another; whoever slept is called within 22 s, and takes an exchange.
const ONE_VIEW_WITHIN: Duration = secs(120);

/// A member is removed, or leaves, while all talk to all.
pub(super) fn removal(world: &mut World) -> Result<(), String> {
    world.internet = Conditions::perfect(world.chance.between(ms(1), ms(100)));
    let count = 3 + world.chance.below(5) as usize;
    group(world, count, secs(120))?;
    let everyone: Vec<_> = (0..count).collect();
    all_talk(world, &everyone, RECOVERY)?;
    if world.chance.percent(50) {
        world.disk_delay = world.chance.between(ms(1), ms(100));
    }
    let victim = 1 + world.chance.below(count as u64 - 1) as usize;
    let others: Vec<_> = (0..count).filter(|host| *host != victim).collect();
    world.run_for(secs(1))?;
    let since = world.now;
    for (a, b) in pairs(others.len()) {
        let (from, to) = (others[a], others[b]);
        world.act(Action::Stream { from, to, bytes: 500, wants_echo: false, pause: ms(50), left: 160 })?;
    }
    let before = world.chance.between(ms(0), secs(2));
    world.run_for(before)?;
    let leaves = world.chance.percent(30);
    if leaves {
        if leave(world, victim)? == 0 {
            return Err(format!("{victim} left, and told nobody"));
        }
    } else {
        remove(world, 0, victim)?;
    }
    let device = world.hosts[victim].id();
    world.run_for(CLOSED_WITHIN)?;
    let told = world.hosts[victim].node.as_ref().and_then(|node| node.engine.told_removed_by());
    if told.is_none() != leaves {
        return Err(format!("{victim} leaves: {leaves}, and is told that it was removed by {told:?}"));
    }
    for host in &others {
        if world.hosts[*host].node.as_ref().is_some_and(|node| node.is_member(&device)) {
            return Err(format!("{host} has not closed with {victim} after {CLOSED_WITHIN:?}"));
        }
    }
    haunt(world, victim)?;
    world.run_for(secs(12))?;
    none_lost(world, since, victim)?;
    one_view(world, count - 1)?;
    let everyone = members(world, count);
    all_talk(world, &everyone, RECOVERY)?;
    // Behind a departure the next epoch comes when an admin's node makes it, and may be on its way.
    one_view(world, count - 1)
}

/// Of what was sent since then, everything arrived but what `victim` sent or should have had.
fn none_lost(world: &World, since: Duration, victim: usize) -> Result<(), String> {
    let touches = |sent: &Sent| sent.from == victim || sent.to == victim;
    let others = world.ledger.iter().filter(|sent| sent.at >= since && !touches(sent));
    let lost: Vec<&Sent> = others.filter(|sent| sent.arrived_at.is_none()).collect();
    match lost.first() {
        None => Ok(()),
        Some(Sent { from, to, at, .. }) => Err(format!(
            "{} packets of others were lost to the removal of {victim}, the first from {from} to {to} at {at:?}",
            lost.len()
        )),
    }
}

/// Some sleep through three removals and then hear one member only, which need not be the admin.
pub(super) fn asleep(world: &mut World) -> Result<(), String> {
    world.internet = Conditions::perfect(world.chance.between(ms(1), ms(100)));
    let count = 6 + world.chance.below(2) as usize;
    group(world, count, secs(60))?;
    let everyone: Vec<_> = (0..count).collect();
    all_talk(world, &everyone, RECOVERY)?;
    let sleeper = count - 1;
    let clock_goes_on = world.chance.percent(50);
    if world.chance.percent(50) {
        world.act(Action::Sleep { host: sleeper, clock_goes_on })?;
    } else {
        let tear = tear(world);
        world.act(Action::Crash { host: sleeper, tear })?;
    }
    for victim in 1..4 {
        let pause = world.chance.between(ms(1), secs(90));
        world.run_for(pause)?;
        remove(world, 0, victim)?;
        haunt(world, victim)?;
    }
    let longest = *world.chance.pick(&[secs(10), secs(400), secs(86_400)]);
    let nap = world.chance.between(secs(5), longest);
    world.run_for(nap)?;
    one_view_of(world, &members(world, sleeper))?;
    let survivor = *world.chance.pick(&[0, 4]);
    for host in members(world, sleeper).into_iter().filter(|host| *host != survivor) {
        world.act(Action::Close { host })?;
    }
    world.act(Action::Wake { host: sleeper })?;
    world.start(sleeper)?;
    // Whoever was removed is there at once, under the keys that the sleeper still has.
    for victim in 1..4 {
        world.act(Action::Connect { from: victim, to: sleeper })?;
    }
    one_view_of(world, &[survivor, sleeper])?;
    all_talk(world, &[survivor, sleeper], RECOVERY)
}

/// Two admins, apart or not, remove somebody at once.
pub(super) fn two_admins(world: &mut World) -> Result<(), String> {
    world.internet = Conditions::perfect(world.chance.between(ms(1), ms(150)));
    let count = 4 + world.chance.below(4) as usize;
    group(world, count, secs(60))?;
    name_admin(world, 1)?;
    let everyone: Vec<_> = (0..count).collect();
    acquaint(world)?;
    all_talk(world, &everyone, RECOVERY)?;
    one_view_of(world, &everyone)?;
    let is_cut = world.chance.percent(60);
    if is_cut {
        let side: Vec<_> = (2..count).filter(|_| world.chance.percent(50)).chain([1]).collect();
        world.act(Action::Cut { group: Group::of(&side), is_one_way: false })?;
    }
    if world.chance.percent(40) {
        world.disk_delay = world.chance.between(ms(1), ms(300));
    }
    let (first, second) = if world.chance.percent(30) { (2, 2) } else { (2, 3) };
    let apart = world.chance.between(ms(1), secs(3));
    world.later(ms(1), Action::Remove { admin: 0, target: first });
    world.later(apart, Action::Remove { admin: 1, target: second });
    if world.chance.percent(20) {
        let host = world.chance.below(2) as usize;
        let (after, tear) = (world.chance.between(ms(1), secs(3)), tear(world));
        world.later(after, Action::Crash { host, tear });
        world.later(after + secs(2), Action::Start { host });
    }
    world.run_for(secs(6))?;
    if is_cut {
        let length = world.chance.between(secs(1), secs(200));
        world.run_for(length)?;
        world.act(Action::Heal)?;
    }
    let is_removed = |world: &World, host: usize| {
        let device = world.hosts[host].id();
        (0..2).any(|admin| world.hosts[admin].node.as_ref().is_some_and(|node| !node.is_member(&device)))
    };
    for victim in [first, second] {
        // An admin that died before its word was on disk removed nobody.
        if is_removed(world, victim) && !world.hosts[victim].is_out {
            haunt(world, victim)?;
        }
    }
    let left = members(world, count);
    speak(world, &left);
    one_view_of(world, &left)?;
    all_talk(world, &left, RECOVERY)
}

/// The founder's root makes host `second` an admin beside the founder, in a charter of version 1.
fn name_admin(world: &mut World, second: usize) -> Result<(), String> {
    let founder = &world.hosts[0];
    let root = founder.root.clone().ok_or("a founder without a root")?;
    let vpi = founder.disk.vpi.ok_or("a founder without a VPI")?;
    let object = founder.disk.objects.iter().find(|object| matches!(object.body(), Body::Charter(_)));
    let Some((id, Body::Charter(former))) = object.map(|object| (object.id(), object.body().clone())) else {
        return Err("a founder without a charter".to_owned());
    };
    let admin = Admin {
        device: world.hosts[second].id(),
        name: world.hosts[second].name.clone(),
        capabilities: Capabilities::ALL,
    };
    let charter = Charter {
        version: 1,
        previous: Some(id),
        time: former.time + 1,
        signers: vec![root.public()],
        admins: former.admins.iter().cloned().chain([admin]).collect(),
        ..former
    };
    let charter = Object::sign(&vpi, &Body::Charter(charter), &[&root]).map_err(|error| error.to_string())?;
    world.act(Action::Close { host: 0 })?;
    world.hosts[0].disk.objects.push(charter);
    world.run_for(secs(1))?;
    world.start(0)
}

/// Has `admin` remove `target`.
pub(super) fn remove(world: &mut World, admin: usize, target: usize) -> Result<(), String> {
    sign(world, admin, Action::Remove { admin, target })?;
    world.hosts[target].is_out = true;
    Ok(())
}

/// Has `admin` sign what `wish` wishes; one that started anew is asked again until it has settled.
pub(super) fn sign(world: &mut World, admin: usize, wish: Action) -> Result<(), String> {
    let give_up_at = world.now + secs(60);
    loop {
        world.heard.clear();
        world.act(wish)?;
        let signed = |world: &World| {
            world.heard.iter().any(|(host, event)| *host == admin && matches!(event, Event::Signed { .. }))
        };
        if !world.run_until(secs(5), signed)? {
            return Err(format!("nothing came of {wish:?}"));
        }
        let outcome = world.heard.drain(..).find_map(|(_, event)| match event {
            Event::Signed { outcome, .. } => Some(outcome),
            _ => None,
        });
        match outcome {
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) if world.now >= give_up_at => return Err(error.to_string()),
            _ => world.run_for(secs(1))?,
        }
    }
}

/// Who was removed goes on: speaks to all, starts anew, is elsewhere; and a stranger sends on what it said before.
pub(super) fn haunt(world: &mut World, victim: usize) -> Result<(), String> {
    world.hosts[victim].is_out = true;
    for to in (0..world.hosts.len()).filter(|host| *host != victim) {
        let after = world.chance.between(ms(1), secs(2));
        world.later(after, Action::Connect { from: victim, to });
        let stream =
            Action::Stream { from: victim, to, bytes: 100, wants_echo: true, pause: ms(500), left: 20 };
        world.later(after, stream);
    }
    if world.chance.percent(50) {
        let tear = tear(world);
        let after = world.chance.between(ms(1), secs(3));
        world.later(after, Action::Crash { host: victim, tear });
        world.later(after + ms(500), Action::Start { host: victim });
    }
    if world.chance.percent(30) {
        world.later(secs(2), Action::Roam { host: victim, tells: true });
    }
    world.later(secs(3), Action::Attack { shots: 10 });
    Ok(())
}

/// A packet from each to each, so that links come up.
fn speak(world: &mut World, hosts: &[usize]) {
    for (a, b) in pairs(hosts.len()) {
        let (from, to, pause) = (hosts[a], hosts[b], secs(1));
        world.later(ms(1), Action::Stream { from, to, bytes: 100, wants_echo: true, pause, left: 60 });
    }
}

/// The members that are left, `count` of them, have one view.
pub(super) fn one_view(world: &mut World, count: usize) -> Result<(), String> {
    let left = members(world, world.hosts.len());
    if left.len() != count {
        return Err(format!("{left:?} are left of {count}"));
    }
    one_view_of(world, &left)
}

/// These hosts have one view and one epoch within [`ONE_VIEW_WITHIN`], and nobody who is out is in it.
pub(super) fn one_view_of(world: &mut World, hosts: &[usize]) -> Result<(), String> {
    let give_up_at = world.now + ONE_VIEW_WITHIN;
    let out: Vec<_> = world.hosts.iter().filter(|host| host.is_out).map(Host::id).collect();
    loop {
        let views: Vec<_> = hosts.iter().map(|host| world.hosts[*host].view(world.instant(*host))).collect();
        let is_one = views.iter().all(|view| view.is_some() && *view == views[0]);
        let has_out =
            views.iter().flatten().any(|(_, names)| names.values().any(|device| out.contains(device)));
        if is_one && !has_out {
            return Ok(());
        }
        if world.now >= give_up_at {
            return Err(format!("{hosts:?} have no one view after {ONE_VIEW_WITHIN:?}: {views:?}"));
        }
        world.run_for(ms(500))?;
    }
}

/// Somebody who was removed asks to come in by an invite made since: as another device it may, as the same it may not.
pub(super) fn back_again(world: &mut World) -> Result<(), String> {
    world.internet = Conditions::perfect(world.chance.between(ms(1), ms(100)));
    group(world, 3, secs(120))?;
    remove(world, 0, 2)?;
    haunt(world, 2)?;
    world.run_for(secs(5))?;
    one_view(world, 2)?;
    let witness = world.chance.below(2) as usize;
    let newcomer = add_member(world, (0, witness), secs(120))?;
    one_view(world, 3)?;
    acquaint(world)?;
    all_talk(world, &[0, 1, newcomer], RECOVERY)
}
