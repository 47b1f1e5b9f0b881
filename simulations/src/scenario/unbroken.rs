//! The story of a link that is used while the ground moves: a NAT forgets its mappings, a machine changes its network, both do.

use std::time::Duration;

use protocol::path::Remote;

use super::setup::{add_member, agreed, founder};
use super::{ms, secs};
use crate::action::Action;
use crate::net::link::Conditions;
use crate::net::nat::Kind;
use crate::world::World;

/// How long packets may stay away when something changes at one end, on top of what round trips take (README §14): a second, and
/// half of one where the relay that is asked has lost the way, too, and is asked again.
const GAP: Duration = ms(1_500);
/// The same when both ends change.
const GAP_OF_BOTH: Duration = secs(3);
/// Round trips of that: the used path's silence, twice and three times its own; a circuit's two; a check.
const ROUND_TRIPS: u32 = 8;
const DIRECT_WITHIN: Duration = secs(60);
const PAUSE: Duration = ms(10);
/// NATs of one mapping for all.
const KINDS: [Kind; 5] =
    [Kind::Independent, Kind::AddressDependent, Kind::PortPreserving, Kind::Translating, Kind::Carrier];

/// Three things happen to two members, one after the other; no packet of another waits for the next.
pub(super) fn unbroken(world: &mut World) -> Result<(), String> {
    let delay = world.chance.between(ms(2), ms(15));
    world.internet = Conditions { jitter: ms(2), ..Conditions::perfect(delay) };
    let founder = founder(world, secs(120))?;
    let [a, b] = [0; 2].map(|_| add_member(world, (founder, founder), secs(120)));
    let (a, b) = (a?, b?);
    world.run_for(secs(1))?;
    for host in [founder, a, b] {
        world.know_beacons(host)?;
    }
    world.run_for(secs(10))?;
    agreed(world, 3)?;
    for host in [a, b] {
        move_elsewhere(world, host)?;
    }
    let left = 60_000;
    world.act(Action::Stream { from: a, to: b, bytes: 100, wants_echo: true, pause: PAUSE, left })?;
    settle(world, (a, b))?;
    let round_trips = (delay + ms(2)) * 2 * ROUND_TRIPS;
    let forgetful = *world.chance.pick(&[a, b]);
    world.forget_mappings(forgetful);
    whole(world, (a, b), GAP + round_trips)
        .map_err(|what| format!("the NAT of {forgetful} forgot: {what}"))?;
    settle(world, (a, b))?;
    let mover = *world.chance.pick(&[a, b]);
    move_elsewhere(world, mover)?;
    whole(world, (a, b), GAP + round_trips).map_err(|what| format!("{mover} moved: {what}"))?;
    settle(world, (a, b))?;
    move_elsewhere(world, a)?;
    move_elsewhere(world, b)?;
    whole(world, (a, b), GAP_OF_BOTH + round_trips).map_err(|what| format!("both moved: {what}"))?;
    settle(world, (a, b))
}

fn move_elsewhere(world: &mut World, host: usize) -> Result<(), String> {
    let kind = *world.chance.pick(&KINDS);
    world.move_behind(host, kind);
    world.addresses(host)
}

/// Both have a direct path, for a while.
fn settle(world: &mut World, (a, b): (usize, usize)) -> Result<(), String> {
    let is_direct =
        |world: &World| [(a, b), (b, a)].iter().all(|pair| world.path(*pair).is_some_and(Remote::is_direct));
    if !world.run_until(DIRECT_WITHIN, is_direct)? {
        return Err(format!("{a} and {b} have no direct path after {DIRECT_WITHIN:?}"));
    }
    world.run_for(secs(3))
}

/// From here on an answer comes at least every `gap`.
fn whole(world: &mut World, pair: (usize, usize), gap: Duration) -> Result<(), String> {
    let mut last = world.now;
    let since = last;
    world.run_for(gap + secs(4))?;
    for at in world.ledger.echoes_since(pair, since) {
        if at > last + gap {
            return Err(format!("no answer between {last:?} and {at:?}"));
        }
        last = at;
    }
    if world.now <= last + gap { Ok(()) } else { Err(format!("no answer since {last:?}")) }
}
