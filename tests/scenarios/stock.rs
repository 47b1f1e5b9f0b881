//! Members and stock libp2p nodes (bin/stock: QUIC, identify, relay, DCUtR), side by side behind every two kinds of NAT.
//!
//! ```text
//!  a … i  behind each kind  ┐
//!  j … r  and another one   ├ "net" ── p1 member that relays, then libp2p's relay
//!                           ┘       ── p2, p3, p4 beacons that carry
//! ```
//!
//! Each try has a network of its own: what one learnt of it, the next does not know. First the members meet, then they stop and
//! the others meet in the same places.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;
use std::{collections::BTreeMap, env};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use tests::{Host, Lab, Nat, Site, impaired_nats, wait};

use crate::matrix::{Outcome, meet_all, settled};

const STOCK: &str = env!("CARGO_BIN_EXE_stock");
/// A folder for the table and the logs.
const FOLDER: &str = "VPI_STOCK";
const TRIES: usize = 5;
/// Longer than DCUtR's three attempts.
const WATCHED_SECS: u64 = 45;
/// How long members without hope of a direct path are watched: what is found later is found in the matrix.
const WATCHED: Duration = Duration::from_secs(15);
/// A node of libp2p learns the relay's address, is seen there and has a place within this.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Between the beginnings of two pairs.
const APART: Duration = Duration::from_secs(1);
const RELAY_PORT: u16 = 4_001;

/// What both came to in all tries, by pair.
type Pairs = BTreeMap<[Nat; 2], [Vec<Outcome>; 2]>;

#[test]
#[ignore = "takes half an hour; netns-scripts/matrix.sh --stock runs it and keeps table and logs"]
fn members_and_stock_libp2p_nodes_meet_side_by_side() {
    let kinds = [Nat::ALL, Nat::ALL].concat();
    let sites: Vec<_> = kinds.iter().copied().map(Site::behind).collect();
    let folder = PathBuf::from(env::var(FOLDER).expect("VPI_STOCK names a folder"));
    let mut pairs = Pairs::new();
    for number in 1..=TRIES {
        impaired_nats("stock", 4, &sites, &["--delay", "5ms"], |lab| {
            let logs = folder.join(format!("try-{number}"));
            fs::create_dir_all(&logs)?;
            for (which, outcomes) in [ours(lab, &kinds)?, theirs(lab, &kinds, &logs)?].into_iter().enumerate()
            {
                for outcome in outcomes {
                    pairs.entry(outcome.kinds).or_default()[which].push(outcome);
                }
            }
            fs::write(folder.join("table.txt"), table(&pairs)?)?;
            Ok(())
        });
    }
    println!("{}", table(&pairs).expect("a text takes what is written"));
    assert!(pairs.values().flatten().all(|tries| tries.len() == TRIES), "each pair met {TRIES} times");
}

/// Each of the first nine meets one of the second nine in a round.
fn rounds() -> impl Iterator<Item = Vec<(usize, usize)>> {
    let all = Nat::ALL.len();
    (0..=all / 2).map(move |apart| (0..all).map(|one| (one, all + (one + apart) % all)).collect())
}

fn ours(lab: &Lab, kinds: &[Nat]) -> Result<Vec<Outcome>> {
    let (_beacons, members) = settled(lab, kinds.len())?;
    let mut outcomes = Vec::new();
    for round in rounds() {
        outcomes.extend(meet_all(&members, kinds, &round, WATCHED)?);
    }
    Ok(outcomes)
}

fn theirs(lab: &Lab, kinds: &[Nat], logs: &Path) -> Result<Vec<Outcome>> {
    let p1 = lab.host("p1")?;
    let relay = Node::start(p1, &["relay", &format!("{}:{RELAY_PORT}", p1.address)], &logs.join("relay"))?;
    let addresses = relay.until(READY_WITHIN, |lines| {
        lines.contains(&"ready").then(|| {
            lines.iter().filter(|line| line.starts_with('/')).map(|line| (*line).to_owned()).collect()
        })
    })?;
    let addresses: Vec<String> = addresses;
    let names: Vec<_> = ('a'..='z').take(kinds.len()).map(String::from).collect();
    let mut outcomes = Vec::new();
    for round in rounds() {
        thread::scope(|scope| {
            let mut running = Vec::new();
            for (one, other) in round {
                let (hosts, addresses) = ((lab.host(&names[one])?, lab.host(&names[other])?), &addresses);
                let mut kinds = [kinds[one], kinds[other]];
                kinds.sort_unstable();
                let log = logs.join(format!("{}-{}", kinds[0], kinds[1]));
                running.push(scope.spawn(move || meet(hosts, kinds, addresses, &log)));
                thread::sleep(APART);
            }
            for one in running {
                outcomes.push(one.join().map_err(|_| anyhow!("a meeting panicked"))??);
            }
            anyhow::Ok(())
        })?;
    }
    Ok(outcomes)
}

/// One waits at the relay, the other dials it there.
fn meet((one, other): (&Host, &Host), kinds: [Nat; 2], relays: &[String], log: &Path) -> Result<Outcome> {
    let relays: Vec<&str> = relays.iter().map(String::as_str).collect();
    let mut outcome = Outcome { kinds, first: None, direct: None, is_carried: false };
    let listener = Node::start(other, &[&["listen"], &relays[..]].concat(), &log.with_extension("listen"))?;
    let is_peer =
        |lines: &[&str]| lines.first().filter(|line| line.starts_with("12D3")).map(|line| (*line).to_owned());
    let Ok(peer) = listener.until(READY_WITHIN, is_peer) else { return Ok(outcome) };
    let watched = WATCHED_SECS.to_string();
    let words = [&["dial", &watched, &peer], &relays[..]].concat();
    let mut dialer = Node::start(one, &words, &log.with_extension("dial"))?;
    let limit = Duration::from_secs(WATCHED_SECS) + READY_WITHIN;
    wait::until("the end of a dialler", limit, || {
        // Whoever was called tries thrice; both ends see what it came to.
        let has_given_up = listener.lines()?.contains("\"punched\":false");
        Ok((has_given_up || dialer.child.try_wait()?.is_some()).then_some(()))
    })?;
    for line in dialer.lines()?.lines() {
        let Ok(said) = serde_json::from_str::<Value>(line) else { continue };
        let at = |key: &str| said[key].as_f64().map(Duration::from_secs_f64);
        outcome.first = outcome.first.or(at("relayed")).or(at("direct"));
        outcome.direct = outcome.direct.or(at("direct"));
    }
    println!("libp2p: {outcome}");
    Ok(outcome)
}

/// A process whose words go to a file. Dropping it kills it.
struct Node {
    child: Child,
    log: PathBuf,
}

impl Node {
    fn start(host: &Host, words: &[&str], log: &Path) -> Result<Self> {
        let (out, errors) = (File::create(log)?, File::options().append(true).open(log)?);
        let mut command = host.command(STOCK, words);
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(errors)
            .spawn()
            .context("bin/stock does not start")?;
        Ok(Self { child, log: log.to_owned() })
    }

    fn lines(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    fn until<T>(&self, limit: Duration, look: impl Fn(&[&str]) -> Option<T>) -> Result<T> {
        wait::until(&format!("a line in {}", self.log.display()), limit, || {
            let text = self.lines()?;
            // What is not ended yet is no line.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            Ok(look(&whole.lines().collect::<Vec<_>>()))
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Both fail only if the process is gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line a pair: how many tries met at all and directly, and the median of the seconds from the first packet to the direct path.
fn table(pairs: &Pairs) -> Result<String> {
    let mut text = String::new();
    for (kinds, both) in pairs {
        write!(text, "{} {}", kinds[0], kinds[1])?;
        for outcomes in both {
            let met = outcomes.iter().filter(|outcome| outcome.first.is_some()).count();
            let mut direct: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.direct).collect();
            direct.sort_unstable();
            let median = direct
                .get(direct.len() / 2)
                .map_or("-".to_owned(), |time| format!("{:.2}", time.as_secs_f64()));
            ensure!(direct.len() <= met, "{kinds:?} were direct and did not meet");
            write!(text, " {met} {} {median}", direct.len())?;
        }
        writeln!(text)?;
    }
    Ok(text)
}
