//! Stories in which nothing that anybody remembers is right any more, and the DHT is the way back in.

use super::setup::{all_talk, group};
use super::{ms, secs};
use crate::action::Action;
use crate::dht::{Dht, Way};
use crate::net::link::Conditions;
use crate::world::World;

/// How long an engine that runs may take to publish where it is, and a second time after others were gone: a jitter of a
/// minute, and what a put takes.
const PUBLISHED: std::time::Duration = secs(150);
/// How long after the last start any two talk (the promise is 10 s for one lookup; a search whose first round came before the
/// other had published waits for its second).
const FOUND: std::time::Duration = secs(45);

/// All nodes are down, and every address changes; some beacons are gone, or lie: all pairs talk soon after the start.
pub(super) fn moved(world: &mut World) -> Result<(), String> {
    world.internet = Conditions::perfect(world.chance.between(ms(1), ms(100)));
    let beacons = 3 + world.chance.below(60) as usize;
    world.dht = Some(Dht::new(beacons, &mut world.chance));
    let count = 2 + world.chance.below(3) as usize;
    group(world, count, secs(120))?;
    world.run_for(PUBLISHED)?;
    for _ in 0..2 {
        for host in 0..count {
            world.act(Action::Close { host })?;
        }
        let away = world.chance.between(secs(1), secs(3_000));
        world.run_for(away)?;
        let way = *world.chance.pick(&[Way::Honest, Way::Gone, Way::Stale, Way::Wrong]);
        let third = beacons / 3;
        if let Some(dht) = &mut world.dht {
            dht.set(way, third, &mut world.chance);
        }
        for host in 0..count {
            world.act(Action::Roam { host, tells: false })?;
            world.start(host)?;
        }
        let hosts: Vec<usize> = (0..count).collect();
        all_talk(world, &hosts, FOUND)?;
        world.run_for(PUBLISHED)?;
    }
    Ok(())
}
