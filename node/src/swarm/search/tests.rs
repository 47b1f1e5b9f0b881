//! Lookups among beacons that exist only here: each has the table that admission and Kademlia's buckets of twenty leave it.

use std::collections::HashMap;

use protocol::identity::sha256;

use super::*;

const KEY: [u8; 32] = [7; 32];
/// What a beacon takes to answer, connecting included.
const TAKES: Duration = Duration::from_millis(200);
/// When a lookup is given up.
const LIMIT: Duration = Duration::from_secs(8);

fn peer(number: usize) -> PeerId {
    PeerId::from_bytes(&[&[0x12, 0x20][..], &sha256(&[b"peer", &number.to_be_bytes()])].concat()).unwrap()
}

fn named(peer: PeerId) -> Named {
    (peer, vec!["/ip4/192.0.2.1/tcp/1".parse().unwrap()])
}

fn nearest(mut peers: Vec<PeerId>, key: &[u8; 32]) -> Vec<PeerId> {
    let target = KBucketKey::new(key.to_vec());
    peers.sort_by_cached_key(|peer| target.distance(&KBucketKey::from(*peer)));
    peers.truncate(REPLICATION);
    peers
}

/// Beacons and whom each knows.
struct World {
    peers: Vec<PeerId>,
    tables: HashMap<PeerId, Vec<PeerId>>,
}

impl World {
    fn new(count: usize) -> Self {
        let peers: Vec<_> = (0..count).map(peer).collect();
        let table = |own: &PeerId| {
            let mut buckets: HashMap<_, Vec<PeerId>> = HashMap::new();
            // In an order of its own.
            let mut others: Vec<_> = peers.iter().filter(|peer| *peer != own).copied().collect();
            others.sort_by_key(|other| sha256(&[&own.to_bytes(), &other.to_bytes()]));
            for other in others {
                let bucket = KBucketKey::from(*own).distance(&KBucketKey::from(other)).ilog2();
                let bucket = buckets.entry(bucket).or_default();
                if bucket.len() < REPLICATION {
                    bucket.push(other);
                }
            }
            (*own, buckets.into_values().flatten().collect())
        };
        let tables = peers.iter().map(table).collect();
        Self { peers, tables }
    }

    /// Runs a lookup that knows five, in which each beacon answers as `says`; gives the lookup, whom it asked, and its end.
    fn run(
        &self,
        number: usize,
        says: impl Fn(&PeerId, Vec<PeerId>) -> Option<Vec<PeerId>>,
    ) -> (Search, usize, Duration) {
        let known: Vec<_> =
            (0..5).map(|at| named(self.peers[(number * 7 + at * 11) % self.peers.len()])).collect();
        let key = sha256(&[&number.to_be_bytes()]);
        let mut search = Search::new(&key, &known);
        let (began_at, mut now, mut asked) = (Instant::now(), Instant::now(), 0);
        let mut under_way: Vec<(Instant, PeerId)> = Vec::new();
        while !search.is_done(now) && !search.is_enough(now) && now < began_at + LIMIT {
            while let Some((peer, _)) = search.next(now) {
                asked += 1;
                assert!(search.is_asked(&peer));
                under_way.push((now + TAKES, peer));
            }
            now += Duration::from_millis(20);
            let (due, rest) = under_way.into_iter().partition(|(at, _)| *at <= now);
            under_way = rest;
            let due: Vec<(Instant, PeerId)> = due;
            for (_, peer) in due {
                let known = nearest(self.tables.get(&peer).cloned().unwrap_or_default(), &key);
                if let Some(names) = says(&peer, known) {
                    search.on_answer(&peer, &names.into_iter().map(named).collect::<Vec<_>>(), now);
                }
            }
        }
        (search, asked, now - began_at)
    }

    /// How many of those nearest to the key of a lookup it found.
    fn share(&self, number: usize, search: &Search) -> usize {
        let key = sha256(&[&number.to_be_bytes()]);
        let closest = nearest(self.peers.clone(), &key);
        search.found().iter().filter(|(peer, _)| closest.contains(peer)).count()
    }
}

/// The mean of something over forty lookups.
fn mean(of: impl Fn(usize) -> usize) -> f64 {
    (0..40).map(of).sum::<usize>() as f64 / 40.0
}

#[test]
fn the_twenty_closest_are_found_with_few_questions_beside_them() {
    let asked: Vec<_> = [50, 500]
        .map(|count| {
            let world = World::new(count);
            let share = mean(|number| world.share(number, &world.run(number, |_, known| Some(known)).0));
            assert!(share > 19.0, "{share} of the twenty closest among {count}");
            mean(|number| world.run(number, |_, known| Some(known)).1)
        })
        .into();
    assert!(asked[0] < 30.0 && asked[1] < 45.0, "{asked:?}");
}

#[test]
fn a_lookup_does_not_wait_for_the_few_that_are_gone() {
    let world = World::new(200);
    let is_gone = |peer: &PeerId| world.peers.iter().position(|other| other == peer).unwrap() % 5 == 0;
    let mut quick = 0;
    for number in 0..40 {
        let (search, asked, took) = world.run(number, |peer, known| (!is_gone(peer)).then_some(known));
        quick += usize::from(took < Duration::from_millis(2_500));
        assert!(asked < 80, "{asked}");
        assert!(world.share(number, &search) >= 8, "{}", world.share(number, &search));
    }
    // The rest end by the clock of lookups: too many are gone of those that two paths look for.
    assert!(quick >= 30, "{quick} of 40");
}

#[test]
fn those_that_make_up_nearer_ones_mislead_no_path_but_theirs() {
    let world = World::new(200);
    let is_liar = |peer: &PeerId| world.peers.iter().position(|other| other == peer).unwrap() % 10 == 0;
    let mut found = 0;
    for number in 0..40_usize {
        let key = sha256(&[&number.to_be_bytes()]);
        let made_up = nearest((10_000..12_000).map(peer).collect(), &key);
        let says = |peer: &PeerId, known| match world.tables.contains_key(peer) {
            true if is_liar(peer) => Some(made_up.clone()),
            true => Some(known),
            false => None,
        };
        found += usize::from(world.share(number, &world.run(number, says).0) >= 10);
    }
    assert!(found >= 38, "{found} of 40");
}

#[test]
fn what_one_path_was_told_no_other_hears() {
    let now = Instant::now();
    let known: Vec<_> = (0..4).map(|number| named(peer(number))).collect();
    let mut search = Search::new(&KEY, &known);
    let first: Vec<_> = std::iter::from_fn(|| search.next(now)).map(|(peer, _)| peer).collect();
    assert_eq!(first.len(), 4, "one for each path");
    // All that the first names answer, and name their like.
    let ring: Vec<_> = nearest((100..1_000).map(peer).collect(), &KEY).into_iter().map(named).collect();
    search.on_answer(&first[0], &ring, now);
    while let Some((peer, _)) = search.next(now) {
        assert!(ring.iter().any(|(other, _)| *other == peer));
        search.on_answer(&peer, &ring, now);
    }
    assert_eq!(search.found().len(), REPLICATION);
    assert!(!search.is_enough(now) && !search.is_done(now));
    // The others hear of whom their own beacons name.
    let honest = named(peer(2_000));
    search.on_answer(&first[1], std::slice::from_ref(&honest), now);
    assert_eq!(search.next(now), Some(honest));
}

#[test]
fn one_known_beacon_leads_all_paths_and_wrong_addresses_do_not_hide_an_honest_one() {
    let now = Instant::now();
    let mut search = Search::new(&KEY, &[named(peer(0))]);
    assert_eq!(search.next(now), Some(named(peer(0))));
    assert_eq!(search.next(now), None);
    assert!(!search.is_enough(now) && !search.is_done(now));
    let others: Vec<_> = (1..9).map(|number| named(peer(number))).collect();
    search.on_answer(&peer(0), &others, now);
    let asked: Vec<_> = std::iter::from_fn(|| search.next(now)).map(|(peer, _)| peer).collect();
    assert_eq!(asked.len(), 8, "its own path has arrived, and asks all");
    search.put_back(&asked[0]);
    assert_eq!(search.next(now).map(|(peer, _)| peer), Some(asked[0]));
    for peer in &asked[1..] {
        search.on_answer(peer, &[], now);
    }
    search.on_failure(&asked[0]);
    assert!(search.is_done(now));
    assert_eq!(search.answered(), 8);

    let mut search = Search::new(&KEY, &[named(peer(0)), named(peer(1)), named(peer(2))]);
    let asked: Vec<_> = std::iter::from_fn(|| search.next(now)).map(|(peer, _)| peer).collect();
    let honest = peer(3);
    let wrong = (honest, vec!["/ip4/192.0.2.9/tcp/9".parse().unwrap()]);
    search.on_answer(&asked[0], std::slice::from_ref(&wrong), now);
    assert_eq!(search.next(now), Some(wrong));
    search.on_answer(&asked[1], &[named(honest)], now);
    search.on_failure(&honest);
    let (again, addresses) = search.next(now).unwrap();
    assert_eq!((again, addresses.len()), (honest, 2));
    search.on_failure(&honest);
    assert_eq!(search.next(now), None);
}
