//! How stories begin: a founder, invites in their text form, joiners; and how they ask whether packets flow.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::engine::{Command, Event, InviteRequest};
use protocol::identity::{Secret, SigningSecret};
use protocol::membership::admin::AdminError;
use protocol::membership::epoch::EpochSecret;
use protocol::membership::founding::{Founding, InviteWish, found};

use super::{ms, secs};
use crate::action::Action;
use crate::host::Input;
use crate::world::World;

/// How long after all faults all agree on who belongs: the next handshake brings what was missed, and a session lives 180 s.
pub(super) const CONVERGENCE: Duration = secs(200);
/// How long after all faults any two members talk: a link that died is noticed after 15 s, or its attempts are given up
/// after 22 s and the next packet starts anew.
pub(super) const RECOVERY: Duration = secs(45);

/// Adds a host that founds a VPI, and starts it.
pub(super) fn founder(world: &mut World, rekey_after: Duration) -> Result<usize, String> {
    let host = world.add_host(rekey_after);
    let root = SigningSecret::from_seed(&world.chance.bytes());
    let recovery = SigningSecret::from_seed(&world.chance.bytes());
    let secret = Secret(world.chance.bytes());
    let wall_secs = world.time(host).wall_ms / 1_000;
    let founder = &mut world.hosts[host];
    let founded = found(&Founding {
        name: "home",
        device_name: &founder.name,
        root: &root,
        recovery: &recovery,
        device: &founder.device,
        static_key: founder.static_secret.public(),
        secret: &secret,
        nonce: [7; 16],
        wall_secs,
    })
    .map_err(|error| error.to_string())?;
    founder.root = Some(root);
    founder.disk.vpi = Some(founded.vpi);
    founder.disk.objects.extend(founded.objects);
    founder.disk.epochs.push(EpochSecret::new(founded.vpi, 0, secret));
    founder.disk.is_member = true;
    world.start(host)?;
    Ok(host)
}

/// Has `admin` begin to make an invite whose token names `members`.
pub(super) fn wish(
    world: &mut World,
    admin: usize,
    max_uses: u64,
    members: &[SocketAddr],
) -> Result<(), String> {
    let wish = InviteWish { name: None, max_uses, seconds: None, bound_device: None };
    let request =
        Box::new(InviteRequest { wish, members: members.to_vec(), beacons: Vec::new(), offline: false });
    world.give(admin, Input::Command(Command::Invite(1, request)))
}

/// Has `admin` make an invite whose token names `members`; returns the token's text. An admin that started anew asks
/// again until it has settled with another member.
pub(super) fn invite(
    world: &mut World,
    admin: usize,
    max_uses: u64,
    members: &[SocketAddr],
) -> Result<String, String> {
    let give_up_at = world.now + secs(60);
    loop {
        world.heard.clear();
        wish(world, admin, max_uses, members)?;
        let invited =
            |world: &World| world.heard.iter().any(|(_, event)| matches!(event, Event::Invited { .. }));
        if !world.run_until(secs(5), invited)? {
            return Err("no invite came of a wish".to_owned());
        }
        let outcome = world.heard.drain(..).find_map(|(_, event)| match event {
            Event::Invited { outcome, .. } => Some(outcome),
            _ => None,
        });
        match outcome.ok_or("an invite got lost")? {
            Err(AdminError::Unsettled) if world.now < give_up_at => world.run_for(secs(1))?,
            outcome => return Ok(outcome.map_err(|error| error.to_string())?.to_text().to_string()),
        }
    }
}

/// Adds a host and starts it with a token.
pub(super) fn joiner(world: &mut World, text: &str, rekey_after: Duration) -> Result<usize, String> {
    let host = world.add_host(rekey_after);
    let wall_secs = world.time(host).wall_ms / 1_000;
    world.hosts[host].take_token(text, wall_secs, &mut world.chance)?;
    world.start(host)?;
    Ok(host)
}

/// Waits until `host` is a member, in its own eyes.
pub(super) fn joined(world: &mut World, host: usize, limit: Duration) -> Result<(), String> {
    if world.run_until(limit, |world| world.hosts[host].disk.is_member)? {
        Ok(())
    } else {
        Err(format!("{host} did not join within {limit:?}"))
    }
}

/// `first` speaks to `second`, which answers each packet: one answer must be back within `limit`. Returns how long it
/// took.
pub(super) fn talk(
    world: &mut World,
    (first, second): (usize, usize),
    limit: Duration,
) -> Result<Duration, String> {
    let (since, pause) = (world.now, ms(100));
    let left = (limit.as_millis() / pause.as_millis()) as u32;
    let stream = Action::Stream { from: first, to: second, bytes: 200, wants_echo: true, pause, left };
    world.act(stream)?;
    let echoed = |world: &World| world.ledger.first_echo((first, second), since);
    if world.run_until(limit, |world| echoed(world).is_some())? {
        Ok(echoed(world).unwrap_or_default() - since)
    } else {
        Err(format!("{first} spoke to {second} for {limit:?} from {since:?} on and heard nothing"))
    }
}

/// A founder and one member on a perfect internet, talking.
pub(super) fn pair(world: &mut World, rekey_after: Duration) -> Result<(usize, usize), String> {
    let founder = founder(world, rekey_after)?;
    let members = [world.hosts[founder].address];
    let token = invite(world, founder, 1, &members)?;
    let other = joiner(world, &token, rekey_after)?;
    // With 300 ms one way, and a first question that came before its time by the founder's clock.
    joined(world, other, secs(8))?;
    talk(world, (founder, other), secs(2))?;
    Ok((founder, other))
}

/// How much of what was being stored survives a crash, in a hundred records: often nothing, or all but the last.
pub(super) fn tear(world: &mut World) -> u8 {
    if world.chance.percent(50) { 0 } else { world.chance.below(100) as u8 }
}

/// Every host sees the same epoch and the same `count` members.
pub(super) fn agreed(world: &World, count: usize) -> Result<(), String> {
    let members = members(world, world.hosts.len());
    let views: Vec<_> = members.iter().map(|host| world.hosts[*host].view(world.instant(*host))).collect();
    match views.first() {
        Some(Some(first))
            if first.1.len() == count && views.iter().all(|view| view.as_ref() == Some(first)) =>
        {
            Ok(())
        }
        _ => Err(format!("{members:?} disagree on who belongs: {views:?}")),
    }
}

/// A founder and members, `count` in all, who joined one after the other by way of any of those before, and who have
/// each other's addresses.
pub(super) fn group(world: &mut World, count: usize, rekey_after: Duration) -> Result<(), String> {
    let founder = founder(world, rekey_after)?;
    for _ in 1..count {
        let witness = world.chance.below(world.hosts.len() as u64) as usize;
        add_member(world, (founder, witness), rekey_after)?;
    }
    acquaint(world)?;
    converge(world, count)
}

/// A host joins by an invite of `admin`, by way of `witness`.
pub(super) fn add_member(
    world: &mut World,
    (admin, witness): (usize, usize),
    rekey_after: Duration,
) -> Result<usize, String> {
    let members = [world.hosts[witness].address];
    let token = invite(world, admin, 1, &members)?;
    let host = joiner(world, &token, rekey_after)?;
    joined(world, host, secs(60))?;
    Ok(host)
}

/// Everybody is told where everybody is.
pub(super) fn acquaint(world: &mut World) -> Result<(), String> {
    let count = world.hosts.len();
    for (host, of) in pairs(count).flat_map(|(a, b)| [(a, b), (b, a)]) {
        world.act(Action::Remember { host, of })?;
    }
    Ok(())
}

/// Those of the first `count` hosts that were not removed.
pub(super) fn members(world: &World, count: usize) -> Vec<usize> {
    (0..count).filter(|host| !world.hosts[*host].is_out).collect()
}

/// Each two of `count`, the lower first.
pub(super) fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(|b| (0..b).map(move |a| (a, b)))
}

/// Each two of these hosts speak to each other at once, a random one first: all are answered within `limit`.
pub(super) fn all_talk(world: &mut World, hosts: &[usize], limit: Duration) -> Result<(), String> {
    let (since, pause) = (world.now, ms(250));
    let left = (limit.as_millis() / pause.as_millis()) as u32;
    let mut waiting = Vec::new();
    for (a, b) in pairs(hosts.len()) {
        let (a, b) = (hosts[a], hosts[b]);
        let (from, to) = if world.chance.percent(50) { (a, b) } else { (b, a) };
        let after = world.chance.between(ms(0), pause);
        world.later(after, Action::Stream { from, to, bytes: 100, wants_echo: true, pause, left });
        waiting.push((from, to));
    }
    while world.now < since + limit {
        world.run_for(pause)?;
        waiting.retain(|pair| world.ledger.first_echo(*pair, since).is_none());
        if waiting.is_empty() {
            world.calm();
            return Ok(());
        }
    }
    Err(format!("{waiting:?} spoke for {limit:?} from {since:?} on and were not answered"))
}

/// Traffic between all of `count` hosts until they agree on who belongs; then everybody is told where everybody is.
pub(super) fn converge(world: &mut World, count: usize) -> Result<(), String> {
    let give_up_at = world.now + CONVERGENCE;
    let members = members(world, world.hosts.len());
    for (from, to) in pairs(members.len()).map(|(a, b)| (members[a], members[b])) {
        let (pause, left) = (secs(1), CONVERGENCE.as_secs() as u32);
        world.later(pause, Action::Stream { from, to, bytes: 100, wants_echo: true, pause, left });
    }
    while agreed(world, count).is_err() && world.now < give_up_at {
        world.run_for(ms(500))?;
        // A node takes no address of a device that it does not know.
        acquaint(world)?;
    }
    world.calm();
    acquaint(world)?;
    agreed(world, count)
}
