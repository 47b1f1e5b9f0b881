//! A bad link: 5 % of what is sent is lost, the rest takes 50 to 150 ms each way and is overtaken. A handshake takes no longer than
//! its retries let it.
//!
//! ```text
//!  a ── 25–75 ms, 2.5 % ── "net" ── 25–75 ms, 2.5 % ── b, c … f
//! ```

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tests::member::{find_member, group};
use tests::{internet, one_at_a_time, wait};

/// *Promised*: from the start of a node to a link.
const WITHIN: Duration = Duration::from_secs(11);
/// How long is waited, so that a failure tells by how much it was late.
const PATIENCE: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(30);
/// What a node learnt of others is on disk after this, though it is killed.
const REMEMBERED: Duration = Duration::from_secs(12);
/// Each start makes five handshakes.
const STARTS: usize = 6;
/// Both ways of `a`'s link together, and of the other's, are 5 in 100 lost of what goes one way.
const IMPAIRED: [&str; 8] = ["--delay", "25ms", "--jitter", "50ms", "--loss", "2.5%", "--reorder", "5%"];

#[test]
fn thirty_handshakes_of_thirty_are_done_within_eleven_seconds_on_a_bad_link() {
    let _turn = one_at_a_time();
    internet("bad-link", 6, &[], |lab| {
        let mut members = group(lab, &["a", "b", "c", "d", "e", "f"])?;
        for member in &members {
            lab.impair(&member.host.name, &IMPAIRED)?;
        }
        // Where the others are is on disk by then.
        thread::sleep(REMEMBERED);
        let mut taken = Vec::new();
        for _ in 0..STARTS {
            // Without a word to the others, which find its sessions gone when it calls.
            members[0].kill()?;
            members[0].restart()?;
            let since = Instant::now();
            let a = &members[0];
            let times: Vec<Result<Duration>> = thread::scope(|scope| {
                let waits: Vec<_> = members[1..]
                    .iter()
                    .map(|member| {
                        let name = &member.host.name;
                        scope.spawn(move || {
                            let alias = a.alias_of(name)?.to_string();
                            // A packet wants the link; its answer is not what is measured.
                            let ping =
                                a.host.run("ping", &["-c", "4", "-i", "0.3", "-W", "0.1", &alias], LIMIT);
                            ping.context("ping")?;
                            wait::until(&format!("a link with {name}"), PATIENCE, || {
                                let member = find_member(&a.host, name)?;
                                Ok(member
                                    .filter(|member| member["state"] == "direct")
                                    .map(|_| since.elapsed()))
                            })
                        })
                    })
                    .collect();
                let join = |wait: thread::ScopedJoinHandle<'_, Result<Duration>>| {
                    wait.join().map_err(|_| anyhow!("panicked"))?
                };
                waits.into_iter().map(join).collect()
            });
            for took in times {
                taken.push(took?);
            }
        }
        taken.sort_unstable();
        let [median, slowest] = [taken.len() / 2, taken.len() - 1].map(|at| taken[at].as_secs_f64());
        println!("{} handshakes: median {median:.2} s, slowest {slowest:.2} s", taken.len());
        ensure!(taken.iter().all(|took| *took <= WITHIN), "{taken:?}");
        Ok(())
    });
}
