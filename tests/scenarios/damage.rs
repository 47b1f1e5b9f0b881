//! Damaged files and nodes that are killed: a node starts again without help, and loses nothing that it said it had done.
//!
//! ```text
//! a ── b, c, d     members of one VPI: a runs, the files of the others are damaged, each in turn
//! e ── f           another VPI: f runs, the founder's files are damaged
//! ```
//!
//! A case is one seed: which host, file and kind of damage, and where. `DAMAGE_SEED=17` runs that one alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use tests::process::finish;
use tests::topology::{COMMAND_LIMIT, vpi_binary};
use tests::{Host, Member, Node, scenario, wait};

const CASES: u64 = 200;
const KILLS: u64 = 200;
const VICTIMS: [&str; 4] = ["b", "c", "d", "e"];
const SECTOR: usize = 512;
/// Until a member answers that has to be found first: one that still talks to the killed node's former sessions notices
/// after 15 s without an answer that they are gone.
const MEET_LIMIT: Duration = Duration::from_secs(40);

/// A device by its alias.
type Aliases = BTreeMap<String, String>;

#[test]
#[ignore = "does not hold yet: a device key of another device is taken without a word, and some cases take 15 s to meet"]
fn a_node_with_a_damaged_file_starts_and_gets_everything_back_or_names_the_key_that_is_lost() {
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
        let (live, foreign) = ([&mut a, &mut f], tempfile::tempdir()?);
        let mut victims = Vec::new();
        for (number, mut member) in members.into_iter().enumerate() {
            let friend = if member.host.name == "e" { "f" } else { "a" };
            ping(&member.host, friend)?;
            let aliases = aliases(&member.host)?;
            member.stop()?;
            let whole = foreign.path().join(number.to_string());
            copy(&member.host.state, &whole)?;
            victims.push(Victim { host: member.host.clone(), friend, whole, aliases });
        }
        let seeds: Vec<u64> = match std::env::var("DAMAGE_SEED") {
            Ok(seed) => vec![seed.parse()?],
            Err(_) => (0..CASES).collect(),
        };
        let other = victims.iter().map(|victim| victim.whole.clone()).collect::<Vec<_>>();
        let refusals = thread::scope(|scope| {
            let run = |number: usize| {
                let (victim, other) = (&victims[number], &other[if number == 3 { 0 } else { 3 }]);
                let mine = seeds.iter().filter(move |seed| **seed as usize % VICTIMS.len() == number);
                mine.map(|seed| victim.suffer(*seed, other)).sum::<Result<usize>>()
            };
            let running: Vec<_> = (0..VICTIMS.len()).map(|number| scope.spawn(move || run(number))).collect();
            let ended = running.into_iter().map(|it| it.join().map_err(|_| anyhow!("a thread panicked"))?);
            ended.sum::<Result<usize>>()
        })?;
        for member in live {
            ensure!(member.node.as_mut().context("it runs")?.is_running()?, "a live member ended");
        }
        println!("{} damaged folders, {refusals} refused because a key is lost", seeds.len());
        Ok(())
    });
}

#[test]
fn what_was_acknowledged_outlives_kills_at_any_moment() {
    scenario("killed", 6, |lab| {
        let hosts = ["a", "b", "c", "d", "e", "f"].map(|name| lab.host(name));
        let [a, b, c, d, e, f] = hosts;
        let (a, b, c, d, e, f) = (a?, b?, c?, d?, e?, f?);
        thread::scope(|scope| {
            let lanes = [
                scope.spawn(|| admin_is_killed(a, 1)),
                scope.spawn(|| admin_is_killed(b, 2)),
                scope.spawn(|| joiner_is_killed(c, d, e, 3)),
                scope.spawn(|| founder_is_killed(f, 4)),
            ];
            let ended =
                lanes.into_iter().map(|lane| lane.join().map_err(|_| anyhow!("a thread panicked"))?);
            ended.collect::<Result<Vec<_>>>()
        })?;
        println!("{KILLS} kills");
        Ok(())
    });
}

/// Kills of each of the four lanes.
const KILLS_A_LANE: u64 = KILLS / 4;
/// What a command takes, and some time before and after it.
const MOMENTS_MS: usize = 60;

/// Runs a command while its node is killed at a random moment, then starts the node again. `None`: not
/// acknowledged; a recovery phrase that was printed counts as seen, whatever came after it.
fn cut_short(
    host: &Host,
    node: &mut Option<Node>,
    (input, words): (&str, &[&str]),
    rng: &mut Rng,
) -> Result<Option<Value>> {
    let moment = Duration::from_micros(rng.below(MOMENTS_MS * 1_000) as u64);
    let victim = node.take().context("it runs")?;
    let answer = thread::scope(|scope| {
        let asking = scope.spawn(|| finish(host.command(&vpi_binary()?, words), input, COMMAND_LIMIT));
        thread::sleep(moment);
        victim.kill()?;
        asking.join().map_err(|_| anyhow!("a thread panicked"))?
    })?;
    *node =
        Some(Node::start(host, &[]).with_context(|| format!("after {words:?}, killed after {moment:?}"))?);
    let is_seen = answer.code == 0 || answer.stdout.contains("\"recovery\"");
    if is_seen { Ok(Some(serde_json::from_str(&answer.stdout)?)) } else { Ok(None) }
}

/// An admin that makes and revokes invites, exposes and closes services.
fn admin_is_killed(host: &Host, seed: u64) -> Result<()> {
    let mut rng = Rng(seed);
    let founded = Member::found(host, &[])?;
    let alias = founded.alias.to_string();
    let mut node = founded.node;
    // By invite and by port; the value is unknown where a command was cut short.
    let (mut revoked, mut exposed) =
        (BTreeMap::<String, Option<bool>>::new(), BTreeMap::<u64, Option<bool>>::new());
    for round in 0..KILLS_A_LANE {
        let port = 1 + rng.below(5) as u64;
        let service = format!("tcp/{port}");
        let open: Vec<String> =
            revoked.iter().filter(|(_, is)| **is == Some(false)).map(|(id, _)| id.clone()).collect();
        match rng.below(4) {
            0 if !open.is_empty() => {
                let invite = rng.pick(&open).clone();
                let words = ["revoke", "home", &invite, "--json"];
                let done = cut_short(host, &mut node, ("", &words), &mut rng)?;
                revoked.insert(invite, done.map(|_| true));
            }
            1 => {
                let words = ["expose", "home", &service, "--json"];
                let done = cut_short(host, &mut node, ("", &words), &mut rng)?;
                exposed.insert(port, done.map(|_| true));
            }
            2 if exposed.get(&port) == Some(&Some(true)) => {
                let words = ["unexpose", "home", &service, "--json"];
                let done = cut_short(host, &mut node, ("", &words), &mut rng)?;
                exposed.insert(port, done.map(|_| false));
            }
            _ => {
                let done = cut_short(host, &mut node, ("", &["invite", "home", "--json"]), &mut rng)?;
                if let Some(invite) = done.as_ref().and_then(|done| done["invite"].as_str()) {
                    revoked.insert(invite.to_owned(), Some(false));
                }
            }
        }
        let judged = as_acknowledged(host, &revoked, &exposed).and_then(|()| set_up(host, &alias));
        judged.with_context(|| format!("host {}, round {round}", host.name))?;
    }
    Ok(())
}

fn as_acknowledged(
    host: &Host,
    revoked: &BTreeMap<String, Option<bool>>,
    exposed: &BTreeMap<u64, Option<bool>>,
) -> Result<()> {
    let found = host.vpi(&["invites", "home", "--json"])?.json()?;
    let found = found["invites"].as_array().context("no invites")?;
    for (id, wanted) in revoked {
        let invite = found.iter().find(|invite| invite["invite"] == id.as_str());
        let state = invite.and_then(|invite| invite["state"].as_str()).context("an invite is lost")?;
        ensure!(wanted.is_none_or(|wanted| wanted == (state == "revoked")), "invite {id} is {state}");
    }
    let found = host.vpi(&["exposures", "home", "--json"])?.json()?;
    let found = found["vpis"][0]["exposures"].as_array().context("no exposures")?;
    for (port, wanted) in exposed {
        let is_open = found.iter().any(|exposure| exposure["port"] == *port);
        ensure!(wanted.is_none_or(|wanted| wanted == is_open), "port {port}: open is {is_open}");
    }
    Ok(())
}

/// The device is there, with the own alias on it, and the guard behind it.
fn set_up(host: &Host, alias: &str) -> Result<()> {
    let shown = host.run("ip", &["address", "show", "dev", "vpi-home"], COMMAND_LIMIT)?.success()?.stdout;
    ensure!(shown.contains(&format!("{alias}/32")), "{alias} is not on the device: {shown}");
    let routes = host.run("ip", &["route", "show", "table", "local"], COMMAND_LIMIT)?.success()?.stdout;
    ensure!(routes.contains("unreachable") && routes.contains("vpi-home"), "routes are missing: {routes}");
    Ok(())
}

/// A machine without a state, as one that was never used.
fn unused(host: &Host) -> Result<Option<Node>> {
    if host.state.join("vpi").exists() {
        host.vpi(&["down"])?.success()?;
        fs::remove_dir_all(&host.state)?;
    }
    Node::start(host, &[]).map(Some)
}

/// A joiner killed while it joins and while it leaves, and its admin while it removes it.
fn joiner_is_killed(admin: &Host, joiner: &Host, late: &Host, seed: u64) -> Result<()> {
    let mut rng = Rng(seed);
    let mut founder = Member::found(admin, &[])?;
    for round in 0..KILLS_A_LANE / 2 {
        let mut node = unused(joiner)?;
        let token = founder.invite(&["--offline"])?;
        let name = format!("d{round}");
        let words = ["join", "--name", &name, "--json"];
        let mut once = || -> Result<()> {
            let first = cut_short(joiner, &mut node, (&token, &words), &mut rng)?;
            let told = match &first {
                Some(told) => told.clone(),
                None => joiner.vpi_reading(&token, &words)?.json()?,
            };
            let alias = told["alias"].as_str().context("no alias")?;
            let status = joiner.vpi(&["status", "--json"])?.json()?;
            ensure!(status["vpis"][0]["alias"] == alias, "the membership that was told is lost: {status}");
            set_up(joiner, alias)?;
            wait::until("the joiner to be known", MEET_LIMIT, || tests::member::find_member(admin, &name))?;
            if round % 8 == 0 {
                let _late = unused(late)?;
                late.vpi_reading(&token, &["join", "--name", "late", "--json"])?.refused(5, &["used"])?;
            }
            let member = format!("{name}.home");
            if round % 2 == 0 {
                let left = cut_short(joiner, &mut node, ("", &["leave", "home", "--json"]), &mut rng)?;
                let status = joiner.vpi(&["status", "--json"])?.json()?;
                ensure!(left.is_none() || status["vpis"] == serde_json::json!([]), "it is back: {status}");
                return Ok(());
            }
            let words = ["remove", "home", &member, "--offline", "--json"];
            let removed = cut_short(admin, &mut founder.node, ("", &words), &mut rng)?;
            let known = tests::member::find_member(admin, &name)?;
            let is_in = known.as_ref().is_some_and(|known| known["state"] != "removed");
            ensure!(removed.is_none() || !is_in, "{name} is a member again: {known:?}");
            Ok(())
        };
        once().with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// A node killed while it founds a VPI.
fn founder_is_killed(host: &Host, seed: u64) -> Result<()> {
    let mut rng = Rng(seed);
    for round in 0..KILLS_A_LANE {
        let mut node = unused(host)?;
        let words = ["create", "home", "--name", "f", "--json"];
        let first = cut_short(host, &mut node, ("", &words), &mut rng)?;
        let once = || -> Result<()> {
            let status = host.vpi(&["status", "--json"])?.json()?;
            let count = status["vpis"].as_array().map_or(0, Vec::len);
            ensure!(first.is_none() || count == 1, "what was founded is lost: {status}");
            let told = match &first {
                Some(told) => told.clone(),
                None if count == 1 && status["vpis"][0]["notices"] == serde_json::json!([]) => {
                    bail!("nobody saw the recovery phrase, and no notice says so: {status}")
                }
                None => host.vpi(&words)?.json()?,
            };
            let status = host.vpi(&["status", "--json"])?.json()?;
            ensure!(status["vpis"].as_array().map_or(0, Vec::len) == 1, "not one VPI: {status}");
            set_up(host, told["alias"].as_str().context("no alias")?)
        };
        once().with_context(|| format!("round {round}"))?;
    }
    Ok(())
}

/// A host whose state folder is damaged again and again.
struct Victim {
    host: Host,
    friend: &'static str,
    whole: PathBuf,
    aliases: Aliases,
}

impl Victim {
    /// One case; 1 if the node refused to start because a key is lost.
    fn suffer(&self, seed: u64, other: &Path) -> Result<usize> {
        let mut rng = Rng(seed);
        fs::remove_dir_all(&self.host.state)?;
        copy(&self.whole, &self.host.state)?;
        let files = files(&self.whole)?;
        let file = rng.pick(&files).clone();
        let kind = *rng.pick(&KINDS);
        let is_changed = damage(&self.host.state.join(&file), kind, &mut rng, || {
            role(other, &file).context("the other state has no such file")
        })?;
        let judged = self.judge(&file, is_changed);
        judged.with_context(|| {
            format!(
                "seed {seed}: {kind:?} in {} of {}; replay: DAMAGE_SEED={seed} cargo test --release -p tests \
                 --features netns damaged_file -- --nocapture",
                file.display(),
                self.host.name
            )
        })
    }

    fn judge(&self, file: &Path, is_changed: bool) -> Result<usize> {
        let said_before = fs::read(&self.host.log)?.len();
        let damaged = fs::read(self.host.state.join(file)).ok();
        let started = Node::start(&self.host, &[]);
        let said = || -> Result<String> {
            let log = fs::read(&self.host.log)?;
            Ok(String::from_utf8_lossy(log.get(said_before..).unwrap_or_default()).into_owned())
        };
        let name = file.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        let node = match started {
            Ok(node) => node,
            Err(error) => {
                let said = said()?;
                let last = said.lines().last().unwrap_or_default();
                ensure!(file.starts_with("keys") && last.contains(&name), "it refused: {error:#}");
                ensure!(!said.contains("panicked"), "it panicked: {said}");
                let kept = fs::read(self.host.state.join(file)).ok();
                ensure!(kept == damaged, "it refused, and changed the file");
                return Ok(1);
            }
        };
        ping(&self.host, self.friend)?;
        wait::until("every member to be known as before", MEET_LIMIT, || {
            let found = aliases(&self.host)?;
            for (alias, device) in &found {
                let before = self.aliases.get(alias);
                ensure!(before.is_none_or(|before| before == device), "{alias} is another key's");
            }
            ensure!(found.values().all(|device| self.aliases.values().any(|known| known == device)));
            let is_own = file.ends_with("aliases");
            let is_back = found.len() == self.aliases.len() && (is_own || found == self.aliases);
            Ok(is_back.then_some(()))
        })?;
        let said = said()?;
        // sled's own panics are caught in the index, and told by the hook.
        ensure!(file.starts_with("index") || !said.contains("panicked"), "it panicked: {said}");
        let tells = ["objects.log", "floor"].contains(&name.as_str());
        ensure!(!tells || !is_changed || said.contains("WARN"), "it told nothing of what is damaged");
        node.kill()?;
        Ok(0)
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Truncate,
    Flip,
    ZeroSector,
    DoubleBlock,
    Empty,
    Folder,
    Foreign,
}

const KINDS: [Kind; 7] = [
    Kind::Truncate,
    Kind::Flip,
    Kind::ZeroSector,
    Kind::DoubleBlock,
    Kind::Empty,
    Kind::Folder,
    Kind::Foreign,
];

/// Damages one file; says whether it is another one afterwards.
fn damage(path: &Path, kind: Kind, rng: &mut Rng, foreign: impl Fn() -> Result<PathBuf>) -> Result<bool> {
    let whole = fs::read(path)?;
    let at = rng.below(whole.len().max(1));
    let mut bytes = whole.clone();
    match kind {
        Kind::Truncate => bytes.truncate(at),
        Kind::Flip => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
        Kind::ZeroSector => {
            let start = at / SECTOR * SECTOR;
            let end = whole.len().min(start + SECTOR);
            bytes[start..end].fill(0);
        }
        Kind::DoubleBlock => {
            let end = whole.len().min(at + SECTOR);
            bytes.splice(end..end, whole[at..end].to_vec());
        }
        Kind::Empty => bytes.clear(),
        Kind::Folder => {
            fs::remove_file(path)?;
            fs::create_dir(path)?;
            return Ok(true);
        }
        Kind::Foreign => bytes = fs::read(foreign()?)?,
    }
    // In place, so that owner and mode stay.
    fs::write(path, &bytes)?;
    Ok(bytes != whole)
}

/// The files of a state folder that hold something, relative to it.
fn files(state: &Path) -> Result<Vec<PathBuf>> {
    let (mut folders, mut found) = (vec![state.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let (path, kind) = {
                let entry = entry?;
                (entry.path(), entry.file_type()?)
            };
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && !path.ends_with("lock") {
                found.push(path.strip_prefix(state)?.to_path_buf());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The file of another state that has the part of `file`; its object log where there is none.
fn role(other: &Path, file: &Path) -> Option<PathBuf> {
    let found = files(other).ok()?;
    let same = found.iter().find(|path| path.file_name() == file.file_name());
    let role = same.or_else(|| found.iter().find(|path| path.ends_with("objects.log")))?;
    Some(other.join(role))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status()?;
    ensure!(copied.success(), "cp -a failed");
    Ok(())
}

fn ping(host: &Host, friend: &str) -> Result<()> {
    let member = format!("{friend}.home");
    wait::until(&format!("{member} to answer {}", host.name), MEET_LIMIT, || {
        Ok((host.vpi(&["ping", &member, "-c", "1"])?.code == 0).then_some(()))
    })
}

fn aliases(host: &Host) -> Result<Aliases> {
    let status = host.vpi(&["status", "--json"])?.json()?;
    let members = status["vpis"][0]["members"].as_array().context("no members in the status")?;
    let fact = |member: &Value, key: &str| Some(member[key].as_str()?.to_owned());
    Ok(members.iter().filter_map(|member| Some((fact(member, "alias")?, fact(member, "id")?))).collect())
}

/// SplitMix64: small, and the same on every machine.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}
