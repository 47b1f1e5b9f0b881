//! The story of a network that drops all UDP: its member talks to another by way of a beacon that carries, again when that
//! beacon dies, and by itself as soon as there is a way; and not at all where no beacon carries.

use std::time::Duration;

use protocol::engine::MemberState;
use protocol::path::Remote;

use super::meet::part;
use super::{ms, secs};
use crate::action::Action;
use crate::net::link::Conditions;
use crate::net::nat::Kind;
use crate::world::World;

/// A handshake, 3 s for better ways, and round trips.
const CARRIED_WITHIN: Duration = secs(12);
/// The same, when the next pipe may have to wait.
const AGAIN_WITHIN: Duration = secs(20);
/// A way that opened is tried within a round's pause and its jitter.
const UPGRADED_WITHIN: Duration = secs(90);
/// How long nothing is carried where no beacon does.
const IN_VAIN: Duration = secs(60);
/// Between two packets of the stream.
const PAUSE: Duration = ms(20);

pub(super) fn carry(world: &mut World) -> Result<(), String> {
    let delay = world.chance.between(ms(5), ms(80));
    world.internet = Conditions { jitter: ms(2), ..Conditions::perfect(delay) };
    let other = *world.chance.pick(&Kind::ALL);
    let ends = part(world, [Kind::UdpBlocked, other])?;
    world.calm();
    world.beacons.carries = world.chance.percent(75);
    let since = world.now;
    let (from, to) = ends;
    world.act(Action::Stream { from, to, bytes: 400, wants_echo: true, pause: PAUSE, left: 60_000 })?;
    if !world.beacons.carries {
        return in_vain(world, ends, since);
    }
    carried(world, ends, CARRIED_WITHIN)?;
    world.run_for(secs(30))?;
    unbroken(world, ends, secs(1))?;

    world.break_streams();
    world.run_for(ms(500))?;
    carried(world, ends, AGAIN_WITHIN)?;
    world.run_for(secs(5))?;

    let opened_at = world.now;
    for host in [from, to] {
        let kind = *world.chance.pick(&[Kind::PortPreserving, Kind::Independent]);
        world.move_behind(host, kind);
        world.addresses(host)?;
    }
    let is_direct = |world: &World| both(world, ends, Remote::is_direct);
    if !world.run_until(UPGRADED_WITHIN, is_direct)? {
        return Err(format!("after {UPGRADED_WITHIN:?} they are no nearer"));
    }
    world.run_for(secs(15))?;
    world.calm();
    world.run_for(secs(1))?;
    match world.ledger.missing_since(opened_at) {
        0 => Ok(()),
        lost => Err(format!("{lost} packets were lost for a better path")),
    }
}

/// Nothing comes, and it is known why.
fn in_vain(world: &mut World, ends: (usize, usize), since: Duration) -> Result<(), String> {
    world.run_for(IN_VAIN)?;
    if let Some(at) = world.ledger.first_echo(ends, since) {
        return Err(format!("an answer came at {at:?}, where nothing passes"));
    }
    let (from, to) = ends;
    let node = world.hosts[from].node.as_ref().ok_or("the node is gone")?;
    if node.engine.lacks_carrier(&world.hosts[to].id()) {
        return Ok(());
    }
    let trail = node.engine.trail(&world.hosts[to].id(), world.instant(from));
    Err(format!("nobody says that no beacon carries: {trail:?}"))
}

/// Both come to use a stream, and packets pass on it.
fn carried(world: &mut World, ends: (usize, usize), limit: Duration) -> Result<(), String> {
    let is_carried = |world: &World| both(world, ends, |remote| matches!(remote, Remote::Carried(_)));
    if !world.run_until(limit, is_carried)? {
        let paths = [world.path(ends), world.path((ends.1, ends.0))];
        return Err(format!("{limit:?} later they talk by {paths:?}"));
    }
    let since = world.now;
    if !world.run_until(secs(2), |world| world.ledger.first_echo(ends, since).is_some())? {
        return Err("no packet comes back over a stream".to_owned());
    }
    // A rekey under way may have something to settle.
    let shown = |world: &World| {
        let node = world.hosts[ends.0].node.as_ref()?;
        node.engine.member_state(&world.hosts[ends.1].id(), world.instant(ends.0))
    };
    if world.run_until(secs(2), |world| shown(world) == Some(MemberState::Carried))? {
        return Ok(());
    }
    Err(format!("the member is shown as {:?}", shown(world)))
}

fn both(world: &World, (a, b): (usize, usize), is_so: fn(Remote) -> bool) -> bool {
    [(a, b), (b, a)].iter().all(|pair| world.path(*pair).is_some_and(is_so))
}

/// In the last 20 s an answer came at least every `gap`.
fn unbroken(world: &World, ends: (usize, usize), gap: Duration) -> Result<(), String> {
    let mut last = world.now - secs(20);
    for at in world.ledger.echoes_since(ends, last) {
        if at > last + gap {
            return Err(format!("no answer between {last:?} and {at:?}"));
        }
        last = at;
    }
    if world.now <= last + gap { Ok(()) } else { Err(format!("no answer since {last:?}")) }
}
