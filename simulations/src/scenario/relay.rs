//! The story of a member in between: two whose NATs let nobody in talk by way of a third, of a fourth when that one dies,
//! and by themselves as soon as there is a way.

use std::time::Duration;

use protocol::engine::{Command, MemberState};
use protocol::identity::DeviceId;

use super::setup::{CONVERGENCE, agreed, founder, invite, joined, joiner, talk};
use super::{ms, secs};
use crate::action::Action;
use crate::host::Input;
use crate::net::link::Conditions;
use crate::net::nat::Kind;
use crate::world::World;

/// From the first packet to the first answer, on top of what round trips take.
const RELAYED_WITHIN: Duration = ms(900);
/// Round trips of that: a circuit's two, by way of the relay; a handshake, a word for it, the packet and its answer.
const ROUND_TRIPS: u32 = 5;
/// No answer for this long when the relay dies.
const SECOND_CHOICE_WITHIN: Duration = secs(3);
/// A direct path that dies silently is left for a relay after 3 s of silence, 1.5 s for an answer, an asking and a check; the
/// other end follows after another second.
const FALLS_WITHIN: Duration = secs(8);
/// A way that opened is tried within a round's pause and its jitter.
const UPGRADED_WITHIN: Duration = secs(90);
/// Between two packets of the stream.
const PAUSE: Duration = ms(10);

const RELAYS: [usize; 2] = [0, 1];
const ENDS: (usize, usize) = (2, 3);

pub(super) fn relay(world: &mut World) -> Result<(), String> {
    world.internet = Conditions { jitter: ms(2), ..Conditions::perfect(world.chance.between(ms(2), ms(60))) };
    let founder = founder(world, secs(60))?;
    join(world, founder)?;
    for _ in 0..2 {
        world.stand_behind(Kind::Random);
        join(world, founder)?;
    }
    settle(world)?;
    world.act(Action::Attack { shots: 5 })?;
    let round_trip = (world.internet.delay + world.internet.jitter) * 4;
    let took = talk(world, ENDS, RELAYED_WITHIN + round_trip * ROUND_TRIPS)?;
    // Each measures both ways, and they come to one.
    if !world.run_until(secs(5), |world| matches!(relay_of(world), Ok(Some(_))))? {
        return Err(format!("they talked after {took:?}, by {:?}", relay_of(world)));
    }
    let relay = relay_of(world)?.unwrap_or_default();

    let (since, left) = (world.now, 60_000);
    let (from, to) = ENDS;
    world.act(Action::Stream { from, to, bytes: 400, wants_echo: true, pause: PAUSE, left })?;
    // A second way is asked for and measured meanwhile.
    world.run_for(secs(5))?;
    unbroken(world, since, ms(100) + round_trip)?;
    die(world, relay, round_trip)?;
    if world.chance.percent(50) {
        world.act(Action::Start { host: relay })?;
    }
    meet(world)?;
    part_and_meet_again(world, round_trip)
}

/// The relay in use dies without a word; the other one takes its place.
fn die(world: &mut World, relay: usize, round_trip: Duration) -> Result<(), String> {
    let other = RELAYS.into_iter().find(|other| *other != relay).unwrap_or_default();
    let since = world.now;
    world.act(Action::Crash { host: relay, tear: 100 })?;
    world.run_for(SECOND_CHOICE_WITHIN + round_trip * 2)?;
    unbroken(world, since, SECOND_CHOICE_WITHIN + round_trip * 2)?;
    match relay_of(world)? {
        Some(used) if used == other => Ok(()),
        used => Err(format!("{relay} died, and {used:?} is used, not {other}")),
    }
}

/// Both come to stand behind NATs that others can find a way through: they are direct in a while.
fn meet(world: &mut World) -> Result<(), String> {
    for host in [ENDS.0, ENDS.1] {
        let kind = *world.chance.pick(&[Kind::PortPreserving, Kind::Translating, Kind::Independent]);
        world.move_behind(host, kind);
        let addresses = world.hosts[host].addresses();
        world.give(host, Input::Command(Command::Addresses(addresses)))?;
    }
    if world.run_until(UPGRADED_WITHIN, |world| matches!(relay_of(world), Ok(None)))? {
        return Ok(());
    }
    Err(format!("{:?} after {UPGRADED_WITHIN:?} they are no nearer", relay_of(world)))
}

/// What is between the two dies, and they fall back; it comes back, and not one packet is lost to it.
fn part_and_meet_again(world: &mut World, round_trip: Duration) -> Result<(), String> {
    world.run_for(secs(3))?;
    let since = world.now;
    world.cuts.cut_between(ENDS);
    world.run_for(FALLS_WITHIN + round_trip * 4)?;
    unbroken(world, since, FALLS_WITHIN + round_trip * 4)?;
    if relay_of(world)?.is_none() {
        return Err("they talk where nothing passes".to_owned());
    }
    world.run_for(secs(2))?;
    let healed_at = world.now;
    world.act(Action::Heal)?;
    if !world.run_until(UPGRADED_WITHIN, |world| matches!(relay_of(world), Ok(None)))? {
        return Err("the way is back, and not taken".to_owned());
    }
    world.run_for(secs(3))?;
    world.calm();
    world.run_for(secs(1))?;
    match world.ledger.iter().filter(|sent| sent.at >= healed_at && sent.arrived_at.is_none()).count() {
        0 => Ok(()),
        lost => Err(format!("{lost} packets were lost for a better path")),
    }
}

/// The relay that both ends use; none if both are direct.
fn relay_of(world: &World) -> Result<Option<usize>, String> {
    let (a, b) = ENDS;
    let [first, second] = [via(world, a, b), via(world, b, a)];
    match (first, second) {
        (Some(first), Some(second)) if first == second => {
            Ok(first.and_then(|device| (0..world.hosts.len()).find(|host| world.hosts[*host].id() == device)))
        }
        other => Err(format!("the ends see it as {other:?}")),
    }
}

/// Through whom `host` reaches `other`; none if it does not.
fn via(world: &World, host: usize, other: usize) -> Option<Option<DeviceId>> {
    let node = world.hosts[host].node.as_ref()?;
    let members = node.engine.status(world.instant(host)).members;
    let member = members.into_iter().find(|member| member.device == world.hosts[other].id())?;
    match member.state {
        MemberState::Relayed => Some(Some(member.via?)),
        MemberState::Direct => Some(None),
        _ => None,
    }
}

/// From `since` on an answer came at least every `gap`.
fn unbroken(world: &World, since: Duration, gap: Duration) -> Result<(), String> {
    let (from, to) = ENDS;
    let mut last = since;
    for at in world.ledger.echoes_since((from, to), since) {
        if at > last + gap {
            return Err(format!("no answer between {last:?} and {at:?}"));
        }
        last = at;
    }
    if world.now <= last + gap { Ok(()) } else { Err(format!("no answer since {last:?}")) }
}

fn join(world: &mut World, founder: usize) -> Result<(), String> {
    let members = [world.hosts[founder].address];
    let token = invite(world, founder, 1, &members)?;
    let host = joiner(world, &token, secs(60))?;
    joined(world, host, secs(60))
}

/// All talk to those who are to relay, until all agree on who belongs.
fn settle(world: &mut World) -> Result<(), String> {
    let count = world.hosts.len();
    for to in RELAYS {
        for from in (0..count).filter(|from| *from != to) {
            let (pause, left) = (secs(1), CONVERGENCE.as_secs() as u32);
            world.later(pause, Action::Stream { from, to, bytes: 100, wants_echo: true, pause, left });
        }
    }
    world.run_until(CONVERGENCE, |world| agreed(world, count).is_ok())?;
    world.run_for(secs(5))?;
    world.calm();
    agreed(world, count)
}
