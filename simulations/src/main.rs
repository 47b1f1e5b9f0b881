//! The engine, many times, in virtual time. Same seed, same run, to the byte.
//!
//! ```text
//! simulations run --story chaos --seed 7 --trace     one run, line by line; without --story the one that the seed tells
//! simulations sweep --seeds 0..1000                  many, on all cores; a failure is named with the command that replays it
//! simulations sweep --seeds 0..1000 --story chaos    of one story only
//! simulations idle                                   what nodes do on a day without a word
//! simulations handshakes                             how long 10,000 handshakes take on a bad link
//! ```

mod action;
mod adversary;
mod chance;
mod clock;
mod dht;
mod disk;
mod host;
mod invariant;
mod net;
mod report;
mod scenario;
#[cfg(test)]
mod tests;
mod trace;
mod traffic;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

use trace::Trace;

#[derive(Parser)]
#[command(about = "Many engines on a modelled internet, in virtual time: same seed, same run")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one seed.
    Run {
        #[arg(long)]
        seed: u64,
        /// Tells this story instead of the seed's own.
        #[arg(long, value_parser = parse_story)]
        story: Option<&'static str>,
        /// Prints every line of what happens.
        #[arg(long)]
        trace: bool,
    },
    /// Prints how often nodes wake and what they send on a day without a word.
    Idle {
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Prints how long handshakes take on a bad link; fails if fewer than 99.9 in 100 take 11 s or less.
    Handshakes {
        #[arg(long, default_value_t = 10_000)]
        count: u64,
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Runs seeds until one fails.
    Sweep {
        /// The first seed, and the one behind the last: `0..1000`.
        #[arg(long, value_parser = parse_range)]
        seeds: Range<u64>,
        /// Tells only this story.
        #[arg(long, value_parser = parse_story)]
        story: Option<&'static str>,
        /// Runs at once; as many as there are cores by default.
        #[arg(long)]
        threads: Option<usize>,
        /// Stops after this many seconds of real time.
        #[arg(long)]
        seconds: Option<u64>,
        /// Goes on after a failure and counts them.
        #[arg(long)]
        all: bool,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { seed, story, trace } => {
            let trace = if trace { Trace::to(std::io::stdout()) } else { Trace::default() };
            if run(seed, story, trace) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Command::Idle { seed } => match scenario::idle::report(seed) {
            Ok(()) => ExitCode::SUCCESS,
            Err(what) => {
                println!("seed {seed} failed: {what}");
                ExitCode::FAILURE
            }
        },
        Command::Handshakes { count, seed } => handshakes(scenario::handshakes::seeds(seed, count)),
        Command::Sweep { seeds, story, threads, seconds, all } => {
            let limit = seconds.map(Duration::from_secs);
            Sweep { seeds, story, limit, all, ..Sweep::default() }.run(threads)
        }
    }
}

/// Makes handshakes on all cores and prints what they took.
fn handshakes(seeds: Range<u64>) -> ExitCode {
    use scenario::handshakes::{Taken, measure};
    const WITHIN: Duration = Duration::from_secs(11);
    let (next, threads) = (AtomicU64::new(seeds.start), std::thread::available_parallelism());
    let work = || {
        let seeds = std::iter::from_fn(|| {
            Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < seeds.end)
        });
        seeds.map(|seed| measure(seed).map_err(|what| format!("seed {seed}: {what}"))).collect::<Vec<_>>()
    };
    let parts: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.map_or(1, Into::into)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    });
    let parts: Result<Vec<_>, String> = parts.into_iter().collect();
    let taken = match parts {
        Ok(parts) => Taken::of(parts),
        Err(what) => {
            println!("{what}");
            return ExitCode::FAILURE;
        }
    };
    taken.lines().iter().for_each(|line| println!("{line}"));
    let share = taken.share_within(WITHIN);
    println!("{:>8}: {:.3} %", "11 s", share * 100.0);
    if share >= 0.999 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one seed; says what failed, and how to see it again.
fn run(seed: u64, story: Option<&'static str>, trace: Trace) -> bool {
    let story = story.unwrap_or_else(|| scenario::story_of(seed));
    let outcome = scenario::run(story, seed, trace);
    if let Err(what) = &outcome {
        // One piece: others may speak at the same time.
        println!(
            "seed {seed} failed: {what}\n\
             replay: cargo run --release -p simulations -- run --story {story} --seed {seed} --trace"
        );
    }
    outcome.is_ok()
}

/// Many seeds, each run by one thread from its beginning to its end: how many threads there are changes no run.
#[derive(Default)]
struct Sweep {
    seeds: Range<u64>,
    story: Option<&'static str>,
    limit: Option<Duration>,
    all: bool,
    next: AtomicU64,
    failed: AtomicU64,
    is_over: AtomicBool,
    /// Runs and seconds of each story.
    told: Mutex<BTreeMap<&'static str, (u64, f64)>>,
}

impl Sweep {
    fn run(self, threads: Option<usize>) -> ExitCode {
        let begun = Instant::now();
        let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
        self.next.store(self.seeds.start, Ordering::Relaxed);
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| self.work(begun));
            }
        });
        let took = begun.elapsed().as_secs_f64();
        let told = self.told.into_inner().unwrap_or_default();
        let done: u64 = told.values().map(|(runs, _)| runs).sum();
        for (story, (runs, seconds)) in &told {
            println!("{story:>18} {runs:>6} runs, {:>7.1} ms each", seconds * 1_000.0 / *runs as f64);
        }
        let failed = self.failed.into_inner();
        println!("{done} seeds, {failed} failed, {took:.1} s, {:.0} a second", done as f64 / took);
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn work(&self, begun: Instant) {
        loop {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            let is_late = self.limit.is_some_and(|limit| begun.elapsed() >= limit);
            if seed >= self.seeds.end || is_late || self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let story = self.story.unwrap_or_else(|| scenario::story_of(seed));
            let started = Instant::now();
            let passed = run(seed, Some(story), Trace::default());
            if !passed {
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.is_over.store(!self.all, Ordering::Relaxed);
            }
            if let Ok(mut told) = self.told.lock() {
                let (runs, seconds) = told.entry(story).or_default();
                *runs += 1;
                *seconds += started.elapsed().as_secs_f64();
            }
        }
    }
}

fn parse_story(text: &str) -> Result<&'static str, String> {
    let all = || scenario::names().collect::<Vec<_>>().join(", ");
    scenario::names().find(|name| *name == text).ok_or_else(|| format!("the stories are {}", all()))
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("a range looks like 0..1000")?;
    let parse = |bound: &str| bound.parse::<u64>().map_err(|error| error.to_string());
    Ok(parse(from)?..parse(to)?)
}
