//! The story of two members behind NATs of any two kinds, who hear each other through a beacon's pipe at first.
//!
//! They joined where nothing was in the way, moved behind their NATs, and have not spoken for longer than a session lives. What
//! they know of each other came by a third member.

use std::time::Duration;

use protocol::path::Remote;

use super::setup::{CONVERGENCE, add_member, agreed, founder};
use super::{ms, secs};
use crate::action::Action;
use crate::net::link::Conditions;
use crate::net::nat::Kind;
use crate::world::World;

/// How long a direct path may take where there can be one (README §14).
const DIRECT_WITHIN: Duration = secs(60);

/// What became of two members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// From the first packet until both had a session.
    pub(crate) met: Duration,
    /// From then until both used a direct path.
    pub(crate) direct: Option<Duration>,
}

/// Any two kinds: they meet directly where that can be.
pub(super) fn meet(world: &mut World) -> Result<(), String> {
    let kinds = [*world.chance.pick(&Kind::ALL), *world.chance.pick(&Kind::ALL)];
    let delay = world.chance.between(ms(5), ms(100));
    world.internet = Conditions { jitter: ms(5), ..Conditions::perfect(delay) };
    let outcome = behind(world, kinds)?;
    match (may_be_direct(kinds), outcome.direct) {
        (true, None) => Err(format!("{kinds:?} have no direct path after {DIRECT_WITHIN:?}")),
        (false, Some(after)) => Err(format!("{kinds:?} have a direct path after {after:?}")),
        (true, Some(_)) | (false, None) => Ok(()),
    }
}

/// Whether RFC 4787 lets two behind such NATs have a direct path: not where neither end's port towards the other can be
/// known or met by chance.
fn may_be_direct(kinds: [Kind; 2]) -> bool {
    let is_dependent = |kind: Kind| matches!(kind, Kind::Random | Kind::Sequential);
    let is_hopeless = kinds.contains(&Kind::Random) && kinds.into_iter().all(is_dependent);
    !(is_hopeless || kinds.contains(&Kind::UdpBlocked))
}

/// Has two members move behind NATs of these kinds, who have not spoken since; returns them.
pub(super) fn part(world: &mut World, kinds: [Kind; 2]) -> Result<(usize, usize), String> {
    let founder = founder(world, secs(120))?;
    let [a, b] = [0; 2].map(|_| add_member(world, (founder, founder), secs(120)));
    let (a, b) = (a?, b?);
    world.run_for(secs(1))?;
    for host in [founder, a, b] {
        world.know_beacons(host)?;
    }
    world.run_for(secs(10))?;
    agreed(world, 3)?;
    for (host, kind) in [(a, kinds[0]), (b, kinds[1])] {
        world.move_behind(host, kind);
        world.addresses(host)?;
    }
    // Longer than a session lives: what they say of themselves comes by the founder alone.
    for host in [a, b] {
        speak(world, (host, founder), CONVERGENCE)?;
    }
    world.run_for(CONVERGENCE)?;
    Ok((a, b))
}

/// Lets two members meet who stand behind NATs of these kinds.
pub(crate) fn behind(world: &mut World, kinds: [Kind; 2]) -> Result<Outcome, String> {
    let (a, b) = part(world, kinds)?;
    speak(world, (a, b), DIRECT_WITHIN + secs(20))?;
    let since = world.now;
    let is_up = |world: &World| [(a, b), (b, a)].iter().all(|pair| world.path(*pair).is_some());
    if !world.run_until(secs(20), is_up)? {
        return Err(format!("{kinds:?} have not met"));
    }
    let met = world.now - since;
    let is_direct =
        |world: &World| [(a, b), (b, a)].iter().all(|pair| world.path(*pair).is_some_and(Remote::is_direct));
    let direct = world.run_until(DIRECT_WITHIN, is_direct)?.then(|| world.now - since - met);
    if direct.is_some() {
        check(world, (a, b))?;
    }
    Ok(Outcome { met, direct })
}

/// `from` speaks to `to` for a while.
fn speak(world: &mut World, (from, to): (usize, usize), length: Duration) -> Result<(), String> {
    let pause = ms(500);
    let left = (length.as_millis() / pause.as_millis()) as u32;
    world.act(Action::Stream { from, to, bytes: 100, wants_echo: true, pause, left })
}

/// Packets come and go, and no socket is left open that nothing uses.
fn check(world: &mut World, (a, b): (usize, usize)) -> Result<(), String> {
    let since = world.now;
    if !world.run_until(secs(5), |world| world.ledger.first_echo((a, b), since).is_some())? {
        return Err("no packet comes back over a direct path".to_owned());
    }
    world.run_for(secs(10))?;
    for (host, other) in [(a, b), (b, a)] {
        let used = world.path((host, other)).and_then(Remote::side);
        if world.hosts[host].sides.iter().copied().ne(used) {
            return Err(format!("{host} has sockets {:?}, and uses {used:?}", world.hosts[host].sides));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Trace;

    const THEORY: &str = include_str!("../../expected/nat-theory.txt");
    /// What real nodes behind real NATs came to (netns-scripts/matrix.sh).
    const SEEN: &str = include_str!("../../../netns-scripts/matrix.txt");

    fn world(seed: u64, delay: Duration) -> World {
        let mut world = World::new(seed, Trace::default());
        world.internet = Conditions { jitter: ms(2), ..Conditions::perfect(delay) };
        world
    }

    #[test]
    fn all_pairs_of_kinds_meet_as_the_theory_has_it_and_as_they_did_in_namespaces() {
        let mut lines = THEORY.lines().filter(|line| !line.starts_with('#'));
        let mut seen = SEEN.lines().filter(|line| !line.starts_with('#'));
        for (number, one) in Kind::ALL.into_iter().enumerate() {
            for other in Kind::ALL.into_iter().skip(number) {
                let line = lines.next().unwrap();
                let outcome = behind(&mut world(number as u64, ms(25)), [one, other]).unwrap();
                println!("{one:?} {other:?}: {outcome:?}");
                assert_eq!(outcome.direct.is_some(), !line.contains(" relayed: "), "{line}");
                let words: Vec<&str> = seen.next().unwrap().split(' ').collect();
                assert_eq!(words[..2], line.split(' ').collect::<Vec<_>>()[..2], "pairs in the same order");
                let is_blocked = words[..2].contains(&"udp-blocked");
                let otherwise = if is_blocked { "carried" } else { "relayed" };
                assert_eq!(words[2], outcome.direct.map_or(otherwise, |_| "direct"), "{words:?}");
            }
        }
        assert_eq!((lines.next(), seen.next()), (None, None));
    }

    #[test]
    fn two_mappings_that_are_the_same_for_all_make_a_direct_path_at_once() {
        let kinds = [
            Kind::Independent,
            Kind::AddressDependent,
            Kind::PortPreserving,
            Kind::Translating,
            Kind::Carrier,
        ];
        let mut times: Vec<Duration> = (0..50)
            .map(|seed: u64| {
                let pick = |n: u64| kinds[(n % 5) as usize];
                let outcome = behind(&mut world(seed, ms(25)), [pick(seed), pick(seed / 5)]).unwrap();
                outcome.direct.unwrap()
            })
            .collect();
        times.sort_unstable();
        println!("{times:?}");
        assert!(times[25] < ms(300), "{times:?}");
        assert!(times[49] < secs(2), "{times:?}");
    }

    #[test]
    fn chance_finds_a_port_within_ten_seconds() {
        let kinds = [Kind::PortPreserving, Kind::Translating, Kind::Carrier];
        let found = (0..40).filter(|seed| {
            let pair = [Kind::Random, kinds[(seed % 3) as usize]];
            let outcome = behind(&mut world(*seed, ms(25)), pair).unwrap();
            println!("{seed} {pair:?} {outcome:?}");
            outcome.direct.is_some_and(|direct| direct <= secs(10))
        });
        assert!(found.count() >= 38);
    }
}
