//! The story of two members behind NATs who know as whom a third one sees the other, and try at once.

use protocol::engine::Command;

use super::setup::{CONVERGENCE, RECOVERY, agreed, founder, invite, joined, joiner};
use super::{ms, secs};
use crate::action::Action;
use crate::host::Input;
use crate::net::link::Conditions;
use crate::net::nat::{Dependence, Kind};
use crate::world::World;

/// Each tries what the founder has seen of the other, both at about the same time; where NATs let that be enough, they talk.
pub(super) fn nat(world: &mut World) -> Result<(), String> {
    world.internet =
        Conditions { jitter: ms(5), ..Conditions::perfect(world.chance.between(ms(1), ms(150))) };
    let founder = founder(world, secs(60))?;
    let (a, b) = (1, 2);
    let share_a_site = world.chance.percent(20);
    let kinds = pair_that_meets(world);
    world.stand_behind(kinds[0]);
    join(world, founder)?;
    if !share_a_site {
        world.stand_behind(kinds[1]);
    }
    join(world, founder)?;
    settle(world, founder)?;
    for (host, of) in [(a, b), (b, a)] {
        let seen = world.seen.get(&(of, founder)).copied().ok_or("the founder heard nobody")?;
        let address = if share_a_site { world.hosts[of].address } else { seen };
        let device = world.hosts[of].id();
        world.give(host, Input::Command(Command::Remember(device, address)))?;
    }
    world.act(Action::Attack { shots: 5 })?;
    both_talk(world, (a, b)).map_err(|what| format!("{kinds:?}, sharing a site: {share_a_site}: {what}"))
}

/// Whether two behind such NATs meet if each sends to what somebody else has seen of the other.
///
/// A mapping that is the same for all is known from anyone who saw it. One that is not is answered where it comes from, if
/// it gets in; and it gets in where ports do not matter, and the other end has sent to its address.
fn meet_by_trying(kinds: [Kind; 2]) -> bool {
    let is_open = |kind: &Kind| {
        let apart = |dependence| dependence == Dependence::AddressAndPortDependent;
        !kind.layers().iter().any(|layer| apart(layer.filtering))
    };
    let is_known =
        |kind: &Kind| kind.layers().iter().all(|layer| layer.mapping == Dependence::EndpointIndependent);
    !kinds.contains(&Kind::UdpBlocked) && (kinds.iter().any(is_open) || kinds.iter().all(is_known))
}

fn pair_that_meets(world: &mut World) -> [Kind; 2] {
    loop {
        let kinds = [*world.chance.pick(&Kind::ALL), *world.chance.pick(&Kind::ALL)];
        if meet_by_trying(kinds) {
            return kinds;
        }
    }
}

/// A host joins by an invite of the founder's.
fn join(world: &mut World, founder: usize) -> Result<(), String> {
    let members = [world.hosts[founder].address];
    let token = invite(world, founder, 1, &members)?;
    let host = joiner(world, &token, secs(60))?;
    joined(world, host, secs(60))
}

/// The others talk to the founder, until all agree on who belongs.
fn settle(world: &mut World, founder: usize) -> Result<(), String> {
    for from in 0..world.hosts.len() {
        let (pause, left) = (secs(1), CONVERGENCE.as_secs() as u32);
        let stream = Action::Stream { from, to: founder, bytes: 100, wants_echo: true, pause, left };
        if from != founder {
            world.later(pause, stream);
        }
    }
    let count = world.hosts.len();
    world.run_until(CONVERGENCE, |world| agreed(world, count).is_ok())?;
    world.run_for(secs(2))?;
    world.calm();
    agreed(world, count)
}

/// Each speaks to the other, and both are answered.
fn both_talk(world: &mut World, (a, b): (usize, usize)) -> Result<(), String> {
    let (since, pause) = (world.now, ms(250));
    let left = (RECOVERY.as_millis() / pause.as_millis()) as u32;
    for (from, to) in [(a, b), (b, a)] {
        let after = world.chance.between(ms(0), pause);
        world.later(after, Action::Stream { from, to, bytes: 100, wants_echo: true, pause, left });
    }
    let answered = |world: &World, pair| world.ledger.first_echo(pair, since).is_some();
    let done = world.run_until(RECOVERY, |world| answered(world, (a, b)) && answered(world, (b, a)))?;
    if done { Ok(()) } else { Err(format!("they tried for {RECOVERY:?} from {since:?} on in vain")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written from RFC 4787, apart from the model: a line a pair.
    const THEORY: &str = include_str!("../../expected/nat-theory.txt");
    const WORDS: [&str; 9] = [
        "public",
        "independent",
        "address-dependent",
        "port-preserving",
        "translating",
        "random",
        "sequential",
        "carrier",
        "udp-blocked",
    ];

    #[test]
    fn the_theory_has_one_verdict_and_one_sentence_for_each_pair() {
        let lines: Vec<_> = THEORY.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines.len(), 45);
        for (number, (a, b)) in pairs().enumerate() {
            let line = lines[number];
            assert!(line.starts_with(&format!("{a} {b} ")), "{line}");
            let (verdict, why) = line.splitn(3, ' ').nth(2).unwrap().split_once(": ").unwrap();
            assert!(["direct", "direct-by-prediction", "direct-by-birthday", "relayed"].contains(&verdict));
            assert!(why.ends_with('.') && !why.contains(". "), "one sentence: {line}");
        }
    }

    #[test]
    fn who_meets_by_trying_is_who_is_direct_in_theory() {
        for (a, b) in pairs() {
            let kind = |word| Kind::ALL[WORDS.iter().position(|known| *known == word).unwrap()];
            let is_direct = THEORY.contains(&format!("\n{a} {b} direct: "));
            assert_eq!(meet_by_trying([kind(a), kind(b)]), is_direct, "{a} {b}");
        }
    }

    fn pairs() -> impl Iterator<Item = (&'static str, &'static str)> {
        (0..WORDS.len()).flat_map(|a| WORDS[a..].iter().map(move |b| (WORDS[a], *b)))
    }
}
