//! The engine, many times, in virtual time. Same seed, same run, to the byte.
//!
//! ```text
//! simulations run --seed 7 --trace         one seed, line by line
//! simulations sweep --seeds 0..1000        many; the first that fails is named with the command that replays it
//! ```

mod action;
mod adversary;
mod chance;
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

use std::ops::Range;
use std::process::ExitCode;
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
        /// Prints every line of what happens.
        #[arg(long)]
        trace: bool,
    },
    /// Runs seeds until one fails.
    Sweep {
        /// The first seed, and the one behind the last: `0..1000`.
        #[arg(long, value_parser = parse_range)]
        seeds: Range<u64>,
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
        Command::Run { seed, trace } => {
            let trace = if trace { Trace::to(std::io::stdout()) } else { Trace::default() };
            if run(seed, trace) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Command::Sweep { seeds, seconds, all } => sweep(seeds, seconds.map(Duration::from_secs), all),
    }
}

/// Runs one seed; says what failed, and how to see it again.
fn run(seed: u64, trace: Trace) -> bool {
    let outcome = scenario::run(seed, trace);
    if let Err(what) = &outcome {
        println!("seed {seed} failed: {what}");
        println!("replay: cargo run --release -p simulations -- run --seed {seed} --trace");
    }
    outcome.is_ok()
}

fn sweep(seeds: Range<u64>, limit: Option<Duration>, all: bool) -> ExitCode {
    let begun = Instant::now();
    let (mut done, mut failed) = (0u64, 0u64);
    for seed in seeds {
        if limit.is_some_and(|limit| begun.elapsed() >= limit) {
            break;
        }
        done += 1;
        failed += u64::from(!run(seed, Trace::default()));
        if failed > 0 && !all {
            break;
        }
    }
    let took = begun.elapsed().as_secs_f64();
    println!("{done} seeds, {failed} failed, {took:.1} s, {:.0} a second", done as f64 / took);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("a range looks like 0..1000")?;
    let parse = |bound: &str| bound.parse::<u64>().map_err(|error| error.to_string());
    Ok(parse(from)?..parse(to)?)
}
