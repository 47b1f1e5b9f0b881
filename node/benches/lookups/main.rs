//! Lookups of members among many beacons, all in this process: `cargo bench --workspace --profile release --bench lookups`.
//!
//! ```text
//! lookups [BEACONS]... [--lookups NUMBER] [--delay-ms NUMBER]        50 200 500, 100, 25 without a word
//! ```
//!
//! Beacons and members are those of the program: the same swarms, admission, store on disk, lookups. Only what carries their
//! bytes is libp2p's memory transport (net.rs), and beacons answer for their share of this process's memory. Every record is
//! put, and looked up, by a member that starts for it, knows five beacons and is connected to none.
//!
//! It prints figures, and fails if fewer lookups find what was put than are promised: of latency nothing is promised, as the
//! machine's work for all beacons is in it.

// Its sources name what they share as that package.
extern crate self as tests;

#[allow(unused_imports, unreachable_pub, reason = "a library elsewhere, and its tests are left out here")]
#[path = "../../../tests/src/kademlia.rs"]
mod kademlia;
mod liar;
#[allow(dead_code, reason = "not every way of lying is taken here")]
#[path = "../../../tests/src/bin/liar/lies.rs"]
mod lies;
mod net;
mod network;

use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use libp2p::futures::{StreamExt as _, stream};
use protocol::discovery::lobby::{Contact, Lobby};
use protocol::discovery::record::Record;
use protocol::discovery::slot::slot_of;
use protocol::identity::{Secret, VpiId};
use protocol::random::Rng;
use rand_core::SeedableRng as _;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Handle};
use vpi::benchmark::Member;

use crate::net::Net;
use crate::network::{Network, Tables};

/// Beacons that a member was told of.
const TOLD: usize = 5;
/// Lookups at once, each of another member.
const AT_ONCE: usize = 8;
/// How long a record lasts.
const LIFE: Duration = Duration::from_secs(7_200);
/// How many in a hundred have to find what was put: all stand, a fifth lies, a fifth was replaced.
const STAND: usize = 99;
const LIE: usize = 95;
const REPLACED: usize = 97;

fn main() -> Result<()> {
    let options = Options::read(std::env::args().skip(1))?;
    // As on machines of their own, beacons do not wait for each other: as many threads as there are cores.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (0..threads).map(|_| thread()).collect::<Result<Vec<_>>>()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut missed, mut asked) = (Vec::new(), Vec::new());
        for count in &options.beacons {
            let bench = Bench::start(*count, &options, &threads).await?;
            asked.push((*count, bench.run(&mut missed).await?));
        }
        if let [(first, few), .., (last, many)] = &asked[..] {
            println!("questions a lookup: {:.2} times as many at {last} as at {first} beacons", many / few);
        }
        ensure!(missed.is_empty(), "too few lookups found what was put: {}", missed.join(", "));
        Ok(())
    })
}

/// A thread that runs what is started on its handle, until the end of the process.
fn thread() -> Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    Ok(handle)
}

struct Options {
    beacons: Vec<usize>,
    lookups: usize,
    delay: Duration,
}

impl Options {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { beacons: Vec::new(), lookups: 100, delay: Duration::from_millis(25) };
        while let Some(argument) = arguments.next() {
            let mut number = || -> Result<u64> {
                let number = arguments.next().with_context(|| format!("{argument} wants a number"))?;
                number.parse().with_context(|| format!("{number} is no number"))
            };
            match argument.as_str() {
                // What cargo says to every benchmark.
                "--bench" => {}
                "--lookups" => options.lookups = usize::try_from(number()?)?.max(1),
                "--delay-ms" => options.delay = Duration::from_millis(number()?),
                count => {
                    options.beacons.push(count.parse().with_context(|| format!("{count} is no number"))?);
                }
            }
        }
        if options.beacons.is_empty() {
            options.beacons = vec![50, 200, 500];
        }
        Ok(options)
    }
}

/// One number of beacons.
struct Bench {
    network: Network,
    count: usize,
    lookups: usize,
    wall_secs: u64,
    members: u32,
}

/// What is done with each record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Put,
    Get,
}

impl Bench {
    async fn start(count: usize, options: &Options, threads: &[Handle]) -> Result<Self> {
        let (began_at, resident, cpu) = (Instant::now(), resident_bytes()?, cpu_secs());
        let net = Net { delay: options.delay };
        let network = Network::start((net, threads), count, Rng::from_seed([count as u8; 32])).await?;
        let sum = network.sum().await;
        let of_each = |number: u64| number as f64 / count as f64;
        println!(
            "\n{count} beacons, {} ms one way: together after {:.0} s and {:.0} s of a core; each {:.1} MB, {:.0} others in its \
             table ({} at least), {:.0} questions heard, {} kept out; refused: {:?}",
            options.delay.as_millis(),
            began_at.elapsed().as_secs_f64(),
            cpu_secs() - cpu,
            of_each(resident_bytes()?.saturating_sub(resident)) / 1e6,
            of_each(sum.table as u64),
            sum.smallest_table,
            of_each(sum.requests.values().sum()),
            sum.kept_out,
            sum.refused,
        );
        println!(
            "{:>7}  {:<18} {:<4} {:>8} {:>5} {:>9} {:>8} {:>6} {:>7} {:>7} {:>7}",
            "beacons",
            "when",
            "what",
            "good",
            "hops",
            "questions",
            "answered",
            "kB",
            "p50 ms",
            "p90 ms",
            "p99 ms"
        );
        let wall_secs = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        Ok(Self { network, count, lookups: options.lookups, wall_secs, members: 0 })
    }

    /// All rows; gives the questions that a lookup took while all stood.
    async fn run(mut self, missed: &mut Vec<String>) -> Result<f64> {
        let (first, second) = (0..self.lookups as u64, self.lookups as u64..2 * self.lookups as u64);
        let records = |numbers: &Range<u64>, age| {
            numbers.clone().map(|number| record(number, self.wall_secs, age)).collect::<Result<Vec<_>>>()
        };
        let (kept, older, newer) = (records(&first, 0)?, records(&second, 60)?, records(&second, 0)?);
        self.row("all stand", What::Put, &kept, &kept).await?;
        let (good, asked) = self.row("all stand", What::Get, &kept, &kept).await?;
        self.judge("all stand", good, STAND, missed);
        self.row("all stand", What::Put, &older, &older).await?;

        self.network.corrupt_a_fifth(&older).await?;
        self.row("a fifth lies", What::Put, &newer, &older).await?;
        let (good, _) = self.row("a fifth lies", What::Get, &newer, &older).await?;
        self.judge("a fifth lies", good, LIE, missed);
        self.network.restore().await?;

        self.network.replace_a_fifth().await?;
        let (good, _) = self.row("a fifth replaced", What::Get, &kept, &kept).await?;
        self.judge("a fifth replaced", good, REPLACED, missed);
        self.network.stop().await?;
        Ok(asked)
    }

    fn judge(&self, when: &str, good: usize, least: usize, missed: &mut Vec<String>) {
        if good * 100 < least * self.lookups {
            missed.push(format!("{good} of {} among {} beacons, {when}", self.lookups, self.count));
        }
    }

    /// One row: each of `records`, in whose place nothing else may be found but the one of `others`. Gives how many were good, and
    /// the questions for each.
    async fn row(
        &mut self,
        when: &str,
        what: What,
        records: &[Record],
        others: &[Record],
    ) -> Result<(usize, f64)> {
        let tables = Arc::new(self.network.tables().await);
        let mut jobs = Vec::new();
        for (record, other) in records.iter().zip(others) {
            self.members += 1;
            let [_, a, b, c] = self.members.to_be_bytes();
            jobs.push(Job {
                what,
                record: record.clone(),
                other: other.value.clone(),
                host: self.network.net.host(Ipv4Addr::new(16 + a, b, c, 1)),
                told: self.network.told(TOLD, self.count),
                tables: Arc::clone(&tables),
            });
        }
        let all: Vec<Result<Done>> =
            stream::iter(jobs).map(Job::run).buffer_unordered(AT_ONCE).collect().await;
        let all = all.into_iter().collect::<Result<Vec<_>>>()?;
        let good = all.iter().filter(|done| done.is_good).count();
        let mean = |of: fn(&Done) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
        let mut took: Vec<_> = all.iter().map(|done| done.took.as_millis()).collect();
        took.sort_unstable();
        let part = |hundredth: usize| took[(took.len() - 1) * hundredth / 100];
        let questions = mean(|done| f64::from(done.asked));
        println!(
            "{:>7}  {when:<18} {:<4} {:>8} {:>5.1} {:>9.1} {:>8.1} {:>6.1} {:>7} {:>7} {:>7}",
            self.count,
            if what == What::Put { "put" } else { "get" },
            format!("{good}/{}", all.len()),
            mean(|done| done.hops as f64),
            questions,
            mean(|done| f64::from(done.answered)),
            mean(|done| done.bytes as f64) / 1e3,
            part(50),
            part(90),
            part(99),
        );
        Ok((good, questions))
    }
}

/// One put or lookup.
struct Job {
    what: What,
    record: Record,
    other: Vec<u8>,
    host: net::Host,
    told: Vec<(libp2p::PeerId, std::net::SocketAddr)>,
    tables: Arc<Tables>,
}

/// What it came to.
struct Done {
    is_good: bool,
    took: Duration,
    asked: u32,
    answered: u32,
    bytes: u64,
    hops: usize,
}

impl Job {
    async fn run(self) -> Result<Done> {
        let hops = self.tables.hops(&self.told, &self.record.key);
        let host = self.host.clone();
        let mut member = Member::start(move || host.connections(), self.told)?;
        let began_at = Instant::now();
        let outcome = match self.what {
            What::Put => member.put(self.record.key, self.record.value.clone(), LIFE).await?,
            What::Get => member.get(self.record.key).await?,
        };
        let took = began_at.elapsed();
        let is_known = |value: &Vec<u8>| *value == self.record.value || *value == self.other;
        ensure!(outcome.values.iter().all(is_known), "a value was found that nobody put");
        let is_good = match self.what {
            What::Put => outcome.answered > 0,
            What::Get => outcome.values.contains(&self.record.value),
        };
        let (asked, answered, bytes) = (outcome.asked, outcome.answered, self.host.bytes());
        Ok(Done { is_good, took, asked, answered, bytes, hops })
    }
}

/// The record of one writer, `age` seconds old.
fn record(number: u64, wall_secs: u64, age: u64) -> Result<Record> {
    let mut key = [7; 32];
    key[..8].copy_from_slice(&number.to_be_bytes());
    let lobby = Lobby::new(&VpiId([1; 32]), &Secret(key), slot_of(wall_secs));
    let mut rng = Rng::from_seed([age as u8; 32]);
    lobby.seal(&Contact::default(), wall_secs - age, &mut rng).context("an empty contact fits")
}

/// Memory of this process in RAM.
fn resident_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has memory")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1_024)
}

/// Time of a processor that this process took, in seconds.
fn cpu_secs() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
