//! The lab judges itself: a link with delay, loss and a rate does what it says, as ordinary programs see it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::traffic::{Loads, offer};
use tests::{Host, Lab, internet, one_at_a_time};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn an_impaired_link_delays_loses_and_limits_as_asked() {
    let _turn = one_at_a_time();
    internet("wan", 2, &[], |lab| {
        delays(lab)?;
        loses(lab)?;
        limits(lab)?;
        // Clean again, as if it had never been.
        lab.impair("a", &[])?;
        let rtts = ping(lab, 20, "0.02")?;
        ensure!(median(&rtts)? < 5.0, "a clean link has an RTT of {} ms", median(&rtts)?);
        Ok(())
    });
}

/// One link, there and back: twice the delay. The median, because a busy machine adds to some.
fn delays(lab: &Lab) -> Result<()> {
    lab.impair("a", &["--delay", "20ms"])?;
    let rtts = ping(lab, 50, "0.02")?;
    let (least, middle) = (rtts.iter().copied().fold(f64::INFINITY, f64::min), median(&rtts)?);
    println!("wan-link 20 ms each way: RTT at least {least} ms, median {middle} ms");
    ensure!(rtts.len() == 50, "{} of 50 answers on a link without loss", rtts.len());
    ensure!(least >= 40.0 && middle <= 44.0, "RTT at least {least} ms, median {middle} ms");
    Ok(())
}

/// 10 % of 3,000 in one direction: 300, with a standard deviation of 16.4; four of them.
fn loses(lab: &Lab) -> Result<()> {
    lab.impair("a", &["--loss", "10%", "--seed", "7"])?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let load = offer(a, b, Loads { count: 3_000, size_bytes: 100, interval: Duration::from_micros(300) })?;
    let lost = load.sent - load.came;
    println!("wan-link 10 % loss: {lost} of {} lost", load.sent);
    ensure!((234..=366).contains(&lost), "{lost} of {} lost", load.sent);
    let said = lab.impair("a", &[])?;
    ensure!(count(&said, "out", "lost")? == lost as u64, "{lost} missing, but wan-link says {said:?}");
    Ok(())
}

/// Twice as much as a line of 20 Mbit/s takes, for a second and a half; measured between first and last arrival.
fn limits(lab: &Lab) -> Result<()> {
    lab.impair("a", &["--rate", "20mbit", "--queue", "64k"])?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let load = offer(a, b, Loads { count: 7_500, size_bytes: 1_000, interval: Duration::from_micros(200) })?;
    // The line counts IP and UDP headers.
    let bits = (load.came - 1) as u32 * (1_000 + 28) * 8;
    let megabits = f64::from(bits) / load.between.as_secs_f64() / 1e6;
    println!("wan-link 20 Mbit/s: {megabits:.2} Mbit/s, {} of {} came", load.came, load.sent);
    ensure!((18.0..=22.0).contains(&megabits), "{megabits} Mbit/s");
    let said = lab.impair("a", &[])?;
    ensure!(count(&said, "out", "dropped")? as usize == load.sent - load.came, "{load:?}, {said:?}");
    Ok(())
}

/// The RTTs of `ping`, in ms.
fn ping(lab: &Lab, count: usize, interval: &str) -> Result<Vec<f64>> {
    let (a, b): (&Host, &Host) = (lab.host("a")?, lab.host("b")?);
    let words = ["-c", &count.to_string(), "-i", interval, "-W", "2", &b.address.to_string()];
    let said = a.run("ping", &words, LIMIT)?.success()?.stdout;
    let times = said.lines().filter_map(|line| line.split("time=").nth(1)?.split(' ').next()?.parse().ok());
    Ok(times.collect())
}

fn median(times: &[f64]) -> Result<f64> {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().context("nothing was answered")
}

fn count(statistics: &[Value], direction: &str, what: &str) -> Result<u64> {
    let line = statistics.iter().find(|line| line["direction"] == direction);
    line.and_then(|line| line[what].as_u64()).with_context(|| format!("no {what} in {statistics:?}"))
}
