//! Lookups of members among many beacons: a benchmark, over loopback in a namespace of its own.
//!
//! ```text
//! VPI_DHT_BEACONS="50 200" cargo test --release -p node lookups_among_many -- --ignored --nocapture
//! ```
//!
//! Each beacon stands in a /24 of its own and runs as `vpi beacon` does; two members ask, as the swarm of a node does, one lookup
//! at a time. Tables are filled as after a long time together: nobody has to be dialled back. Dead beacons answer nothing at all,
//! as hosts that are gone, and are in the tables of the others still. The figures stand in `simulations/expected/dht.txt`.

use std::future::poll_fn;
use std::time::Instant;

use ::protocol::identity::sha256;

use super::*;
use crate::loopback::lab::{in_own_namespace_async, run};
use crate::swarm::{Ask, Beacon as Place, Swarm as Member, Told};

/// Records that are put and looked up.
const RECORDS: u64 = 60;
/// Beacons that a member knows from the start.
const KNOWN: usize = 5;
/// The rows that are measured: what happens before, and how many of the lookups have to find what was put, in a hundred.
const STORY: [(&str, usize); 5] = [
    ("all stand", 99),
    ("a fifth replaced", 97),
    ("the fifth is back", 97),
    ("2 % loss", 97),
    ("5 % loss", 95),
];

/// A beacon that runs, or did.
struct Standing {
    at: Place,
    state: std::path::PathBuf,
    running: Option<Running>,
}

#[test]
#[ignore = "a benchmark of minutes, to be run by hand on a machine that does nothing else"]
fn lookups_among_many_beacons_find_what_was_put() {
    in_own_namespace_async(|| async {
        let counts = std::env::var("VPI_DHT_BEACONS").unwrap_or_else(|_| "50".to_owned());
        run("ip route add local 11.0.0.0/8 dev lo");
        run("nft add table ip bench; nft add set ip bench dead '{ type ipv4_addr; }'; \
             nft add chain ip bench in '{ type filter hook input priority 0; }'; \
             nft add rule ip bench in ip daddr @dead drop");
        println!(
            "{:>7}  {:<17} {:<4} {:>5} {:>7} {:>7} {:>7} {:>7} {:>8} {:>9}",
            "beacons",
            "when",
            "what",
            "good",
            "p10 ms",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "answered",
            "questions"
        );
        for count in counts.split_whitespace() {
            Network::start(count.parse().unwrap()).await.measure().await;
        }
    });
}

struct Network {
    dir: tempfile::TempDir,
    count: usize,
    beacons: Vec<Standing>,
}

impl Network {
    async fn start(count: usize) -> Self {
        let mut network = Self { dir: tempfile::tempdir().unwrap(), count, beacons: Vec::new() };
        for _ in 0..count {
            network.add().await;
        }
        network.acquaint(0).await;
        network.settle().await;
        network
    }

    /// Waits until the beacons have looked at their tables, which begin with a look at everybody.
    async fn settle(&self) {
        let (mut before, mut quiet) = (0, 0);
        tokio::time::sleep(Duration::from_secs(20)).await;
        while quiet < 3 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let asked = self.questions("find_node").await;
            quiet = if asked == before { quiet + 1 } else { 0 };
            before = asked;
        }
    }

    /// One more, that knows nobody.
    async fn add(&mut self) {
        let number = self.beacons.len();
        let ip = std::net::Ipv4Addr::new(11, (number >> 8) as u8, number as u8, 1);
        let state = self.dir.path().join(number.to_string());
        let running = Running::start_at(&state, SocketAddr::from((ip, 41_415)), &[]).await;
        let at = Place { peer: running.at(false).0, socket: SocketAddr::from((ip, 41_415)) };
        self.beacons.push(Standing { at, state, running: Some(running) });
    }

    /// All know those from number `first` on, and these all.
    async fn acquaint(&self, first: usize) {
        let all: Vec<(PeerId, Multiaddr)> =
            self.beacons.iter().map(|beacon| peer_address(&beacon.at.to_string()).unwrap()).collect();
        for (number, beacon) in self.beacons.iter().enumerate() {
            let Some(running) = &beacon.running else { continue };
            let others = if number < first { all[first..].to_vec() } else { all.clone() };
            let told = running.ask(move |beacon| {
                let own = *beacon.swarm.local_peer_id();
                for (peer, address) in others.into_iter().filter(|(peer, _)| *peer != own) {
                    beacon.swarm.behaviour_mut().kad.add_address(&peer, address);
                }
            });
            told.await;
        }
    }

    /// Questions of one kind that all beacons have heard.
    async fn questions(&self, kind: &'static str) -> u64 {
        let mut questions = 0;
        for running in self.beacons.iter().filter_map(|beacon| beacon.running.as_ref()) {
            let asked = move |beacon: &mut Beacon| beacon.counts.requests.get(kind).copied();
            questions += running.ask(asked).await.unwrap_or_default();
        }
        questions
    }

    async fn measure(mut self) {
        let wall = wall_secs();
        self.row(("", "put"), 0..RECORDS, wall, 99).await;
        for (number, (when, least)) in STORY.into_iter().enumerate() {
            match number {
                1 => self.replace_a_fifth().await,
                2 => self.restart().await,
                3 => lose(2),
                4 => lose(5),
                _ => {}
            }
            self.row((when, "get"), 0..RECORDS, wall, least).await;
            if number > 0 {
                let first = RECORDS * (1 + number as u64);
                self.row((when, "put"), first..first + RECORDS / 3, wall, least).await;
            }
        }
        lose(0);
        for beacon in self.beacons {
            if let Some(running) = beacon.running {
                running.stop().await;
            }
        }
    }

    /// One row: `numbers` are put or looked up by two members that start for it.
    async fn row(&self, (when, what): (&str, &str), numbers: std::ops::Range<u64>, wall: u64, least: usize) {
        let before = self.questions("get_value").await;
        let mut members = [self.member(), self.member()];
        let (mut took, mut good, mut answers, mut count) = (Vec::new(), 0, 0, 0);
        for number in numbers {
            let record = lobby_record(number, wall, wall);
            let member = &mut members[(number % 2) as usize];
            let began_at = Instant::now();
            let (is_good, answered) = lookup(member, &record, what == "put").await;
            took.push(began_at.elapsed());
            (good, answers, count) = (good + usize::from(is_good), answers + answered as usize, count + 1);
        }
        took.sort();
        let questions = self.questions("get_value").await - before;
        let part = |hundredth: usize| took[(took.len() - 1) * hundredth / 100].as_millis();
        println!(
            "{:>7}  {when:<17} {what:<4} {:>3} % {:>7} {:>7} {:>7} {:>7} {:>8.1} {:>9.1}",
            self.count,
            good * 100 / count,
            part(10),
            part(50),
            part(90),
            part(99),
            answers as f64 / count as f64,
            questions as f64 / count as f64,
        );
        assert!(good * 100 >= least * count, "{good} of {count}, wanted {least} %");
    }

    /// A member that knows some of those that were there from the start, and one that stands.
    fn member(&self) -> Member {
        let member = Member::start();
        let step = (self.count / KNOWN).max(1);
        let mut known: Vec<_> =
            self.beacons.iter().step_by(step).take(KNOWN).map(|beacon| beacon.at).collect();
        known.extend(
            self.beacons.iter().rev().find(|beacon| beacon.running.is_some()).map(|beacon| beacon.at),
        );
        assert!(member.ask(Ask::Beacons(known)));
        member
    }

    /// Every fifth is gone without a word, and as many come that hold nothing.
    async fn replace_a_fifth(&mut self) {
        let before = self.beacons.len();
        for beacon in self.beacons.iter_mut().step_by(5) {
            run(&format!("nft add element ip bench dead '{{ {} }}'", beacon.at.socket.ip()));
            beacon.running.take().unwrap().stop().await;
        }
        for _ in 0..before.div_ceil(5) {
            self.add().await;
        }
        self.acquaint(before).await;
        self.settle().await;
    }

    /// Those that are gone start again on their folders.
    async fn restart(&mut self) {
        run("nft flush set ip bench dead");
        for beacon in self.beacons.iter_mut().filter(|beacon| beacon.running.is_none()) {
            beacon.running = Some(Running::start_at(&beacon.state, beacon.at.socket, &[]).await);
        }
    }
}

/// As many of a hundred packets are lost from here on.
fn lose(percent: u32) {
    run("nft flush chain ip bench in; nft add rule ip bench in ip daddr @dead drop");
    if percent > 0 {
        run(&format!("nft add rule ip bench in numgen random mod 100 \\< {percent} drop"));
    }
}

/// Puts or looks up one record; says whether it was found or has copies, and how many beacons answered or hold it.
async fn lookup(member: &mut Member, record: &Record, is_put: bool) -> (bool, u32) {
    let key: [u8; 32] = record.key.as_ref().try_into().unwrap();
    assert_eq!(key, sha256(&[&record.value[1..33]]));
    let expires_in = Duration::from_secs(7_200);
    let ask = match is_put {
        true => Ask::Put { key, value: record.value.clone(), expires_in },
        false => Ask::Get { ticket: 1, key },
    };
    assert!(member.ask(ask));
    let told = async {
        loop {
            match poll_fn(|cx| member.poll_told(cx)).await.expect("the member runs") {
                Told::Found { values, answered, .. } => break (values.contains(&record.value), answered),
                Told::Stored { copies, .. } => break (copies > 0, copies),
                _ => {}
            }
        }
    };
    timeout(LIMIT, told).await.expect("a lookup ends")
}
