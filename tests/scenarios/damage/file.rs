//! Two hundred damaged files, each under a node of its own start.
//!
//! ```text
//! a ── b, c, d     members of one VPI: a runs, the files of the others are damaged, each in turn
//! e ── f           another VPI: f runs, the founder's files are damaged
//! ```
//!
//! A case is one seed: which host, part and kind of damage, and where. `DAMAGE_SEED=17` runs that one alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::{Host, Member, Node, scenario, wait};

use super::place::{Damaged, Kind, ROLES, Role, damage, objects};
use super::{Aliases, Rng, aliases, copy, remove};

const CASES: u64 = 200;
const VICTIMS: [&str; 4] = ["b", "c", "d", "e"];
/// Until a member answers, and what was lost is back.
const BACK_LIMIT: Duration = Duration::from_secs(10);

/// What a node may work from its start until all is as before, whatever it found: one that goes in circles works longer.
const WORK_LIMIT: Duration = Duration::from_secs(1);

/// What came of one case.
struct Outcome {
    role: Role,
    is_changed: bool,
    is_told: bool,
    /// From the ready line until all was as before.
    took: Duration,
}

#[test]
fn a_node_with_a_damaged_file_starts_says_so_and_gets_everything_back() {
    scenario("spoilt", 6, |lab| {
        let mut a = Member::found(lab.host("a")?, &[])?;
        let mut members = Vec::new();
        for name in ["b", "c", "d"] {
            members.push(Member::join(lab.host(name)?, &a.invite(&[])?, &[])?);
        }
        let e = Member::found(lab.host("e")?, &[])?;
        let mut f = Member::join(lab.host("f")?, &e.invite(&[])?, &[])?;
        f.alias_of("e")?;
        for member in &members {
            for other in ["a", "b", "c", "d"] {
                member.alias_of(other)?;
            }
        }
        members.push(e);
        let copies = tempfile::tempdir()?;
        let victims = victims(members, copies.path())?;
        let seeds: Vec<u64> = match std::env::var("DAMAGE_SEED") {
            Ok(seed) => vec![seed.parse()?],
            Err(_) => (0..CASES).collect(),
        };
        let began_at = Instant::now();
        let outcomes = thread::scope(|scope| {
            let run = |number: usize| {
                // The founder of another VPI, and to that one a joiner.
                let (victim, foreign) = (&victims[number], &victims[if number == 3 { 0 } else { 3 }].whole);
                let mine = seeds.iter().filter(move |seed| **seed as usize % VICTIMS.len() == number);
                mine.map(|seed| victim.suffer(*seed, foreign)).collect::<Result<Vec<_>>>()
            };
            let running: Vec<_> = (0..VICTIMS.len()).map(|number| scope.spawn(move || run(number))).collect();
            let ended = running.into_iter().map(|it| it.join().map_err(|_| anyhow!("a thread panicked"))?);
            ended.collect::<Result<Vec<_>>>()
        })?;
        let outcomes: Vec<Outcome> = outcomes.into_iter().flatten().collect();
        for member in [&mut a, &mut f] {
            ensure!(member.node.as_mut().context("it runs")?.is_running()?, "a live member ended");
        }
        report(&outcomes, began_at.elapsed());
        Ok(())
    });
}

/// Stops each member, once it has met its friend, and copies its state.
fn victims(members: Vec<Member>, copies: &Path) -> Result<Vec<Victim>> {
    let mut victims = Vec::new();
    for (number, mut member) in members.into_iter().enumerate() {
        let friend = if member.host.name == "e" { "f" } else { "a" };
        ping(&member.host, friend)?;
        let aliases = aliases(&member.host)?;
        member.stop()?;
        // What the copies of a first start are made of is what the start before had.
        member.restart()?;
        ping(&member.host, friend)?;
        member.stop()?;
        let whole = copies.join(number.to_string());
        copy(&member.host.state, &whole)?;
        let objects = objects(&whole)?.into_iter().collect();
        victims.push(Victim { host: member.host.clone(), friend, whole, aliases, objects });
    }
    Ok(victims)
}

/// A host whose state folder is damaged again and again.
struct Victim {
    host: Host,
    friend: &'static str,
    whole: PathBuf,
    aliases: Aliases,
    objects: BTreeSet<Vec<u8>>,
}

impl Victim {
    fn suffer(&self, seed: u64, foreign: &Path) -> Result<Outcome> {
        let mut rng = Rng(seed);
        remove(&self.host.state)?;
        copy(&self.whole, &self.host.state)?;
        let role = ROLES[seed as usize / VICTIMS.len() % ROLES.len()];
        let kind = role.pick_kind(&mut rng);
        let judged = damage(&self.host.state, foreign, (role, kind), &mut rng)
            .and_then(|damaged| self.judge(&damaged, (role, kind)));
        judged.with_context(|| {
            format!(
                "seed {seed}: {kind:?} in {role:?} of {}; replay: DAMAGE_SEED={seed} cargo test --release -p tests \
                 --features netns damaged_file -- --nocapture",
                self.host.name
            )
        })
    }

    fn judge(&self, damaged: &Damaged, (role, kind): (Role, Kind)) -> Result<Outcome> {
        let said_before = fs::read(&self.host.log)?.len();
        let mut node = Node::start(&self.host, &[])?;
        ping(&self.host, self.friend)?;
        wait::until("everything to be as before", BACK_LIMIT, || {
            let found = aliases(&self.host)?;
            for (alias, device) in &found {
                ensure!(self.aliases.get(alias) == Some(device), "{alias} is the alias of {device}");
            }
            Ok((found.len() == self.aliases.len() && self.objects()?.is_superset(&self.objects))
                .then_some(()))
        })?;
        let took = node.ready_at().elapsed();
        let strange = self.objects()?.difference(&self.objects).count();
        ensure!(strange == 0, "{strange} objects are kept that no member ever signed");
        let log = fs::read(&self.host.log)?;
        let said = String::from_utf8_lossy(log.get(said_before..).unwrap_or_default()).into_owned();
        // sled's own panics are caught in the process of the index, and told by the hook.
        ensure!(role == Role::Index || !said.contains("panicked"), "it panicked: {said}");
        let is_told = said.lines().any(|line| line.contains("WARN"));
        ensure!(is_told || !damaged.is_changed() || !role.is_told(), "it told nothing of what is damaged");
        self.shows(damaged, (role, kind))?;
        ensure!(node.is_running()?, "it ended");
        let worked = node.cpu_time()?;
        ensure!(worked < WORK_LIMIT, "it worked for {worked:?}");
        node.kill()?;
        Ok(Outcome { role, is_changed: damaged.is_changed(), is_told, took })
    }

    /// What a person reads: each thing that was set aside, with its place and what to do; a mistake of their own, which stays.
    fn shows(&self, damaged: &Damaged, (role, kind): (Role, Kind)) -> Result<()> {
        // Of the index and of the journal only what cannot be read at all is set aside.
        let aside =
            if [Role::Index, Role::Journal].contains(&role) { Vec::new() } else { damaged.set_aside()? };
        let status = self.host.vpi(&["status", "--json"])?.json()?;
        let notices: Vec<&str> = status["vpis"][0]["notices"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|it| it.as_str())
            .collect();
        let doctor = self.host.vpi(&["doctor", "--json"])?.stdout;
        for path in aside.iter().map(|path| path.display().to_string()) {
            let notice = notices.iter().find(|notice| notice.contains(&path));
            let notice = notice.with_context(|| format!("no notice of {path}: {notices:?}"))?;
            ensure!(notice.contains("delete it"), "it does not say what to do: {notice}");
            ensure!(doctor.contains(&path), "doctor says nothing of {path}: {doctor}");
        }
        if matches!(kind, Kind::Typo) {
            ensure!(damaged.is_left_alone(), "a person's file was changed");
            let is_told = |said: &str| said.contains("vpi.toml: line ") && said.contains("mend it");
            ensure!(notices.iter().any(|notice| is_told(notice)), "no notice: {notices:?}");
            ensure!(is_told(&doctor), "doctor says nothing of it: {doctor}");
            self.host.vpi(&["expose", "home", "tcp/22"])?.refused(1, &["line ", "mend it"])?;
            ensure!(damaged.is_left_alone(), "a person's file was written over");
        }
        Ok(())
    }

    fn objects(&self) -> Result<BTreeSet<Vec<u8>>> {
        Ok(objects(&self.host.state)?.into_iter().collect())
    }
}

fn ping(host: &Host, friend: &str) -> Result<()> {
    let member = format!("{friend}.home");
    wait::until(&format!("{member} to answer {}", host.name), BACK_LIMIT, || {
        Ok((host.vpi(&["ping", &member, "-c", "1"])?.code == 0).then_some(()))
    })
}

fn report(outcomes: &[Outcome], took: Duration) {
    let mut by_role = BTreeMap::<Role, Vec<&Outcome>>::new();
    for outcome in outcomes {
        by_role.entry(outcome.role).or_default().push(outcome);
    }
    for (role, outcomes) in &by_role {
        let changed = outcomes.iter().filter(|outcome| outcome.is_changed).count();
        let told = outcomes.iter().filter(|outcome| outcome.is_told).count();
        let slowest = outcomes.iter().map(|outcome| outcome.took).max().unwrap_or_default();
        println!(
            "{role:?}: {} places, {changed} changed, {told} told, back within {slowest:.1?}",
            outcomes.len()
        );
    }
    let told = outcomes.iter().filter(|outcome| outcome.is_told).count();
    println!("{} damaged places in {took:.1?}, {told} told of", outcomes.len());
}
