//! Every two kinds of NAT: whether two members behind them talk directly, by way of a third or of a beacon, and after how long.
//!
//! ```text
//!  a … i  one behind each kind ┐
//!  j … r  and another one      ├ "net" ── p1 member that relays
//!                              ┘       ── p2, p3, p4 beacons that carry
//! ```
//!
//! All nodes have started anew before the first pair meets: what they know of each other is what they wrote down. Each pair
//! meets once.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result, anyhow, ensure};
use tests::member::{Member, find_member};
use tests::traffic::{EchoServer, Flow};
use tests::{Beacon, Lab, Nat, Site, impaired_nats, one_at_a_time};

const LIMIT: Duration = Duration::from_secs(60);
/// *Promised*: how long a direct path may take where RFC 4787 lets there be one.
const DIRECT_WITHIN: Duration = Duration::from_secs(60);
/// Between the beginnings of two pairs that meet at the same time, so that they do not measure each other.
const APART: Duration = Duration::from_secs(2);
/// A path that is found at once is looked for at short pauses, a later one at longer ones.
const LOOK: Duration = Duration::from_millis(30);
const BUSY: Duration = Duration::from_secs(3);
const LATER_LOOK: Duration = Duration::from_millis(300);
/// Nodes that start or join at the same time.
const AT_ONCE: usize = 4;
/// What a node that has started learns of its NAT, it learns within this.
const SETTLES: Duration = Duration::from_secs(8);
/// Where the whole matrix is written.
const FILE: &str = "VPI_MATRIX";

/// Twelve pairs, of each kind two or more. Whether there is no direct path is seen by the whole matrix only.
#[test]
fn members_behind_twelve_pairs_of_nats_talk_and_directly_where_that_can_be() {
    let _turn = one_at_a_time();
    // In each round every kind but one meets another.
    let rounds: Vec<Vec<_>> = [7, 1, 3]
        .map(|sum| {
            let pairs = (0..9).map(|one| (one, (9 + sum - one) % 9));
            pairs.filter(|(one, other)| one < other).collect()
        })
        .into();
    matrix(("matrix", &[]), &Nat::ALL, &rounds, Duration::ZERO, |outcomes| {
        ensure!(outcomes.len() >= 12, "{} pairs met", outcomes.len());
        for outcome in outcomes {
            ensure!(outcome.first.is_some(), "{outcome}: nothing came");
            ensure!(outcome.direct.is_some() != is_hopeless(outcome.kinds), "{outcome}");
        }
        Ok(())
    });
}

/// Writes the table that `netns-scripts/matrix.txt` is. A pair without a direct path is watched for as long as one may take.
#[test]
#[ignore = "takes minutes; netns-scripts/matrix.sh runs it and keeps the table"]
fn every_pair_of_nats_gets_its_line() {
    let kinds = [Nat::ALL, Nat::ALL].concat();
    let all = Nat::ALL.len();
    // Each of the first nine meets one of the second nine in a round: first its like, then the next kind, and so on.
    let rounds: Vec<Vec<_>> =
        (0..=all / 2).map(|apart| (0..all).map(|one| (one, all + (one + apart) % all)).collect()).collect();
    matrix(("matrix-whole", &[]), &kinds, &rounds, DIRECT_WITHIN, |outcomes| {
        let mut table = String::new();
        for outcome in outcomes {
            writeln!(table, "{outcome}")?;
        }
        fs::write(env::var(FILE).with_context(|| format!("{FILE} names no file"))?, table)?;
        Ok(())
    });
}

/// The promises at 50 ms from one end to the other and back, kept by fifty-five and forty pairs.
#[test]
#[ignore = "takes minutes; netns-scripts/matrix.sh --figures runs it"]
fn first_contacts_at_fifty_milliseconds_are_as_quick_as_promised() {
    let _turn = one_at_a_time();
    let steady =
        [Nat::Independent, Nat::AddressDependent, Nat::PortPreserving, Nat::Translating, Nat::Carrier];
    // Eleven of these, two or three of each kind, and five others.
    let kinds: Vec<_> = steady.into_iter().cycle().take(11).chain([Nat::Random; 5]).collect();
    let among = |sum: usize| -> Vec<(usize, usize)> {
        let pairs = (0..11).map(move |one| (one, (11 + sum - one) % 11));
        pairs.filter(|(one, other)| one < other).collect()
    };
    let across = |apart: usize| (0..5).map(|one| (11 + one, (one + apart) % 8)).collect();
    let rounds: Vec<Vec<_>> = (0..11).map(among).chain((0..8).map(across)).collect();
    let link = ["--delay", "12500us"];
    matrix(("matrix-figures", &link), &kinds, &rounds, DIRECT_WITHIN, |outcomes| {
        let (random, steady): (Vec<_>, Vec<_>) =
            outcomes.iter().partition(|outcome| outcome.kinds.contains(&Nat::Random));
        let firsts = sorted(outcomes.iter().map(|outcome| outcome.first));
        let directs =
            sorted(steady.iter().map(|outcome| Some(outcome.direct?.saturating_sub(outcome.first?))));
        let chances = sorted(random.iter().map(|outcome| outcome.direct));
        let in_time = chances.iter().filter(|direct| **direct <= Duration::from_secs(10)).count();
        let [first, direct] = [&firsts, &directs].map(|all| (all.get(all.len() / 2), all.last()));
        println!("first packet: {first:?} (p50, slowest) of {}", firsts.len());
        println!("direct after that, one mapping for all: {direct:?} (p50, slowest) of {}", directs.len());
        println!("direct, by chance: {in_time} of {} within 10 s; {chances:?}", random.len());
        ensure!(firsts.len() == outcomes.len() && firsts.last() <= Some(&Duration::from_millis(1_500)));
        ensure!(directs.len() == 55 && directs[27] < Duration::from_millis(300));
        ensure!(directs.last() < Some(&Duration::from_secs(2)) && random.len() == 40 && in_time >= 38);
        Ok(())
    });
}

/// Those that there are, the least first.
fn sorted(times: impl Iterator<Item = Option<Duration>>) -> Vec<Duration> {
    let mut times: Vec<_> = times.flatten().collect();
    times.sort_unstable();
    times
}

/// What became of two members.
pub(crate) struct Outcome {
    /// In the order of [`Nat::ALL`].
    pub(crate) kinds: [Nat; 2],
    /// From the first packet until one was answered.
    pub(crate) first: Option<Duration>,
    /// And until both used a direct path.
    pub(crate) direct: Option<Duration>,
    /// What is used at the end goes by way of a beacon that carries, and of no member.
    pub(crate) is_carried: bool,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds =
            |time: Option<Duration>| time.map_or("-".to_owned(), |time| format!("{:.2}", time.as_secs_f64()));
        let verdict = match (self.first, self.direct) {
            (None, _) => "unreachable",
            (Some(_), None) if self.is_carried => "carried",
            (Some(_), None) => "relayed",
            (Some(_), Some(_)) => "direct",
        };
        let [one, other] = self.kinds;
        write!(f, "{one} {other} {verdict} {} {}", seconds(self.first), seconds(self.direct))
    }
}

/// Whether neither end's port towards the other can be known or met by chance, or one end has none.
fn is_hopeless(kinds: [Nat; 2]) -> bool {
    let is_dependent = |kind| matches!(kind, Nat::Random | Nat::Sequential);
    kinds.contains(&Nat::UdpBlocked) || kinds.contains(&Nat::Random) && kinds.into_iter().all(is_dependent)
}

/// Members behind NATs of `kinds` meet in pairs, given by their places; of one round all at the same time. A pair without a
/// direct path is watched for `watched`, or for as long as one may take if it may have one.
fn matrix(
    (name, impairments): (&str, &[&str]),
    kinds: &[Nat],
    rounds: &[Vec<(usize, usize)>],
    watched: Duration,
    check: impl FnOnce(&[Outcome]) -> Result<()>,
) {
    let sites: Vec<_> = kinds.iter().copied().map(Site::behind).collect();
    impaired_nats(name, 4, &sites, impairments, |lab| {
        let since = Instant::now();
        let (_beacons, members) = settled(lab, sites.len())?;
        println!("{} members are ready after {:.1} s", sites.len(), since.elapsed().as_secs_f64());
        let mut outcomes = Vec::new();
        for round in rounds {
            outcomes.extend(meet_all(&members, kinds, round, watched)?);
        }
        outcomes.sort_by_key(|outcome| outcome.kinds);
        check(&outcomes)
    });
}

/// Beacons, the member that relays, and one for each site, all started anew. Who cannot join is none.
pub(crate) fn settled(lab: &Lab, sites: usize) -> Result<(Vec<Beacon>, Vec<Option<Member>>)> {
    let beacons = Beacon::start_all(lab, &["p2", "p3", "p4"], &["--carry"])?;
    let words = Beacon::words(&beacons)?;
    let relay = Member::found_with(lab.host("p1")?, &words, &[])?;
    let token = relay.invite(&["--uses", &sites.to_string()])?;
    let names: Vec<_> = ('a'..='z').take(sites).map(String::from).collect();
    // A public one would have links with those for whom it relays, before it meets them.
    let settings = lab.evidence().join("settings.toml");
    fs::write(&settings, "relay = false\n")?;
    let settings = settings.to_string_lossy();
    let join = |name: &String| {
        let joined = Member::join(lab.host(name)?, &token, &["--config", &settings]);
        if let Err(error) = &joined {
            println!("{name} has not joined: {error:#}");
        }
        Ok(joined.ok())
    };
    let mut members: Vec<Option<Member>> = at_once(&names, join)?;
    members.push(Some(relay));
    for member in members.iter().flatten() {
        for name in &names {
            if members.iter().flatten().any(|other| other.host.name == *name && name != &member.host.name) {
                member.alias_of(name)?;
            }
        }
    }
    for member in members.iter_mut().flatten() {
        member.stop()?;
    }
    for member in members.iter_mut().rev().flatten() {
        member.restart()?;
    }
    // They ask where they are seen; no state says that all servers have answered.
    thread::sleep(SETTLES);
    Ok((beacons, members))
}

/// Does the same for all, a few at a time; in their order.
fn at_once<T: Sync, R: Send>(all: &[T], act: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let mut results = Vec::new();
    for some in all.chunks(AT_ONCE) {
        thread::scope(|scope| {
            let running: Vec<_> = some.iter().map(|one| scope.spawn(|| act(one))).collect();
            for one in running {
                results.push(one.join().map_err(|_| anyhow!("a thread panicked"))??);
            }
            anyhow::Ok(())
        })?;
    }
    Ok(results)
}

/// The pairs of one round meet; those without hope of a direct path are watched for `watched`.
pub(crate) fn meet_all(
    members: &[Option<Member>],
    kinds: &[Nat],
    round: &[(usize, usize)],
    watched: Duration,
) -> Result<Vec<Outcome>> {
    thread::scope(|scope| {
        let mut running = Vec::new();
        for (one, other) in round {
            let mut kinds = [kinds[*one], kinds[*other]];
            kinds.sort_unstable();
            let ends = members[*one].as_ref().zip(members[*other].as_ref());
            running.push(scope.spawn(move || match ends {
                None => Ok(Outcome { kinds, first: None, direct: None, is_carried: false }),
                Some(ends) => {
                    let watched = if is_hopeless(kinds) { watched } else { DIRECT_WITHIN };
                    meet(ends, kinds, watched).with_context(|| format!("{} and {}", kinds[0], kinds[1]))
                }
            }));
            thread::sleep(APART);
        }
        running.into_iter().map(|one| one.join().map_err(|_| anyhow!("a meeting panicked"))?).collect()
    })
}

/// One sends to the other until both have a direct path, or none was found in time.
fn meet((one, other): (&Member, &Member), kinds: [Nat; 2], watched: Duration) -> Result<Outcome> {
    let state = |host, name: &str| anyhow::Ok(find_member(host, name)?.context("a member")?["state"].take());
    let alias = one.alias_of(&other.host.name)?;
    let before = state(&one.host, &other.host.name)?;
    ensure!(before == "idle", "{} and {} had met before: {before}", one.host.name, other.host.name);
    let echo = EchoServer::start(&other.host, 0)?;
    let since = Instant::now();
    let flow = Flow::start(&one.host, (alias, echo.port).into(), Duration::from_millis(10))?;
    let is_direct = || -> Result<bool> {
        Ok(state(&one.host, &other.host.name)? == "direct" && state(&other.host, &one.host.name)? == "direct")
    };
    let mut outcome =
        Outcome { kinds, first: flow.first_echo_after(since, LIMIT).ok(), direct: None, is_carried: false };
    while outcome.first.is_some() && outcome.direct.is_none() {
        outcome.direct = is_direct()?.then(|| since.elapsed());
        if since.elapsed() > watched {
            break;
        }
        thread::sleep(if since.elapsed() < BUSY { LOOK } else { LATER_LOOK });
    }
    outcome.is_carried = state(&one.host, &other.host.name)? == "carried";
    if outcome.direct.is_some() {
        flow.first_echo_after(Instant::now(), LIMIT).context("over the direct path")?;
    }
    println!("{outcome}");
    Ok(outcome)
}
