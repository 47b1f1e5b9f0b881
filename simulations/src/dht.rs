//! A stand-in for the DHT: slow, lossy, stale, forgetful, as members meet it through their lookups (node/README, Members and
//! beacons).
//!
//! In: what an engine looks up and publishes. Out: what it is told of that, and after how long. Each record lies at the twenty
//! beacons whose numbers are nearest to its key; a beacon that is gone answers nothing and learns nothing, and has what it had
//! when it comes back. What is slow about it is what a member's lookups are made of: round trips while all answer, deadlines as
//! soon as one does not (`expected/dht.txt` has what was measured).

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::discovery::record::{KEY_BYTES, check, is_signed};
use protocol::engine::Command;
use protocol::identity::sha256;

use crate::chance::Chance;

/// Copies of a record (specified: Kademlia's k).
const COPIES: usize = 20;
/// Round trips until the first answer of a beacon that is not connected: TCP, Noise, the stream, the question.
const FIRST_TRIPS: u32 = 4;
/// Round trips of a lookup that begins without a connection: among three beacons, all of which are known, and among many
/// (measured at 50 ms: 224 ms; `expected/dht.txt`).
const LOOKUP_TRIPS: (u32, u32) = (FIRST_TRIPS, 15);
/// The same of a put that is read back (measured likewise: 331 ms and a lookup that is connected; `expected/dht.txt`).
const PUT_TRIPS: (u32, u32) = (8, 21);
/// A lookup among beacons of which some say nothing ends after the first with what there is, or after as many times what the
/// first answer took; with nothing after the last (specified: node/README, Members and beacons).
const SETTLE: Duration = Duration::from_secs(2);
const PATIENCE: u32 = 4;
const DEADLINE: Duration = Duration::from_secs(8);
/// Steps of a put that have to settle when some say nothing (`expected/dht.txt`): to find the closest. To put and to read back is
/// done with those that answered.
const PUT_STEPS: u32 = 1;

type Key = [u8; KEY_BYTES];

/// How a beacon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// As it should.
    Honest,
    /// It answers nothing.
    Gone,
    /// It says yes to every put, and keeps the first value of a key for ever.
    Stale,
    /// It says yes to every put, answers with what nobody signed, and names beacons that do not exist and so say nothing.
    Wrong,
}

#[derive(Debug)]
struct Beacon {
    way: Way,
    place: Key,
    values: BTreeMap<Key, Vec<u8>>,
}

/// All beacons.
#[derive(Debug)]
pub(crate) struct Dht {
    beacons: Vec<Beacon>,
    /// Between a member and a beacon, from and to.
    rtt: (Duration, Duration),
}

/// What a member is told, and after how long.
pub(crate) struct Answer {
    pub(crate) after: Duration,
    pub(crate) command: Command,
}

impl Dht {
    /// `count` honest beacons, up to half a second away.
    pub(crate) fn new(count: usize, chance: &mut Chance) -> Self {
        let rtt = chance.between(Duration::from_millis(2), Duration::from_millis(250));
        let beacons = (0..count).map(|number| Beacon {
            way: Way::Honest,
            place: sha256(&[b"beacon", &number.to_be_bytes()]),
            values: BTreeMap::new(),
        });
        Self { beacons: beacons.collect(), rtt: (rtt, rtt * 2) }
    }

    /// Makes `count` random ones do so from here on, and all others as they should.
    pub(crate) fn set(&mut self, way: Way, count: usize, chance: &mut Chance) {
        let mut numbers: Vec<usize> = (0..self.beacons.len()).collect();
        for beacon in &mut self.beacons {
            beacon.way = Way::Honest;
        }
        for _ in 0..count.min(numbers.len()) {
            let at = chance.below(numbers.len() as u64) as usize;
            self.beacons[numbers.swap_remove(at)].way = way;
        }
    }

    /// Everything under a key that its owner signed, whenever that was.
    pub(crate) fn look_up(&self, key: &Key, wall_secs: u64, chance: &mut Chance) -> Answer {
        let (mut values, mut answered, mut is_silent): (Vec<Vec<u8>>, _, _) = (Vec::new(), 0, false);
        for number in self.nearest(key) {
            let beacon = &self.beacons[number];
            if beacon.way == Way::Gone {
                is_silent = true;
                continue;
            }
            answered += 1;
            is_silent |= beacon.way == Way::Wrong;
            let held = beacon.values.get(key).filter(|value| is_signed(key, value));
            // An honest one forgets what has ended.
            let is_in_force =
                |value: &[u8]| beacon.way != Way::Honest || check(key, value, wall_secs).is_ok();
            let held = held.filter(|value| is_in_force(value));
            values.extend(
                held.filter(|value| !values.contains(value)).cloned().into_iter().collect::<Vec<_>>(),
            );
        }
        let (settled, all) = self.ends(LOOKUP_TRIPS, chance);
        let after = match (is_silent, values.is_empty()) {
            (true, true) => DEADLINE,
            (true, false) => settled,
            (false, true) => all.min(DEADLINE),
            (false, false) => all.min(settled),
        };
        Answer { after, command: Command::Found { key: *key, values, answered } }
    }

    /// Puts a value where it belongs, and reads it back.
    pub(crate) fn publish(
        &mut self,
        (key, value): (&Key, &[u8]),
        wall_secs: u64,
        chance: &mut Chance,
    ) -> Answer {
        let (mut copies, mut is_silent) = (0, false);
        for number in self.nearest(key) {
            let beacon = &mut self.beacons[number];
            is_silent |= matches!(beacon.way, Way::Gone | Way::Wrong);
            match beacon.way {
                Way::Gone => {}
                Way::Wrong => drop(beacon.values.insert(*key, value[1..].to_vec())),
                Way::Stale => drop(beacon.values.entry(*key).or_insert_with(|| value.to_vec())),
                Way::Honest => {
                    let sequence = |value: &[u8]| Some(check(key, value, wall_secs).ok()?.sequence);
                    let held = beacon.values.get(key).and_then(|held| sequence(held));
                    if sequence(value) > held {
                        beacon.values.insert(*key, value.to_vec());
                    }
                }
            }
            copies += u32::from(
                beacon.way != Way::Gone && beacon.values.get(key).is_some_and(|held| held == value),
            );
        }
        let (settled, all) = self.ends(PUT_TRIPS, chance);
        let settled = settled * PUT_STEPS;
        let after = if is_silent { settled } else { all.min(settled) };
        Answer { after, command: Command::Published(*key, copies) }
    }

    fn nearest(&self, key: &Key) -> Vec<usize> {
        let distance = |number: &usize| {
            let place = self.beacons[*number].place;
            std::array::from_fn::<u8, KEY_BYTES, _>(|at| place[at] ^ key[at])
        };
        let mut numbers: Vec<usize> = (0..self.beacons.len()).collect();
        numbers.sort_by_key(distance);
        numbers.truncate(COPIES);
        numbers
    }

    /// When a step has settled, and when all have answered.
    fn ends(&self, (least, most): (u32, u32), chance: &mut Chance) -> (Duration, Duration) {
        let trips = u64::from(least) + chance.below(u64::from(most - least) + 1);
        let rtt = chance.between(self.rtt.0, self.rtt.1);
        ((rtt * FIRST_TRIPS * PATIENCE).clamp(SETTLE, DEADLINE), rtt * trips as u32)
    }
}

#[cfg(test)]
mod tests {
    use protocol::discovery::lobby::{Contact, Lobby};
    use protocol::discovery::record::Record;
    use protocol::discovery::slot::slot_of;
    use protocol::identity::{Secret, VpiId};
    use protocol::random::Rng;
    use rand_core::SeedableRng as _;

    use super::*;

    const WALL: u64 = 1_800_000_100;

    fn record(number: u8, age: u64) -> Record {
        let lobby = Lobby::new(&VpiId([1; 32]), &Secret([number; 32]), slot_of(WALL));
        lobby.seal(&Contact::default(), WALL - age, &mut Rng::from_seed([age as u8; 32])).unwrap()
    }

    fn found(dht: &Dht, key: &Key, wall: u64, chance: &mut Chance) -> (Vec<Vec<u8>>, u32, Duration) {
        match dht.look_up(key, wall, chance) {
            Answer { after, command: Command::Found { values, answered, .. } } => (values, answered, after),
            _ => panic!("another answer"),
        }
    }

    fn copies(dht: &mut Dht, record: &Record, chance: &mut Chance) -> (u32, Duration) {
        match dht.publish((&record.key, &record.value), WALL, chance) {
            Answer { after, command: Command::Published(_, copies) } => (copies, after),
            _ => panic!("another answer"),
        }
    }

    #[test]
    fn the_newest_lies_at_twenty_until_it_ends_and_an_older_one_comes_in_nowhere() {
        let mut chance = Chance::new(1);
        let mut dht = Dht::new(50, &mut chance);
        let (old, new) = (record(1, 60), record(1, 0));
        assert_eq!(copies(&mut dht, &old, &mut chance).0, 20);
        assert_eq!(copies(&mut dht, &new, &mut chance).0, 20);
        assert_eq!(copies(&mut dht, &old, &mut chance).0, 0);
        let (values, answered, after) = found(&dht, &new.key, WALL, &mut chance);
        assert_eq!((values, answered), (vec![new.value.clone()], 20));
        assert!(after <= DEADLINE, "{after:?}");
        assert_eq!(found(&dht, &new.key, new.expiry, &mut chance).0, Vec::<Vec<u8>>::new());
        assert_eq!(found(&dht, &record(2, 0).key, WALL, &mut chance).0, Vec::<Vec<u8>>::new());
    }

    #[test]
    fn who_was_gone_has_what_it_had_and_makes_everything_slow() {
        let mut chance = Chance::new(2);
        let mut dht = Dht::new(5, &mut chance);
        dht.rtt = (Duration::from_millis(50), Duration::from_millis(100));
        let (old, new) = (record(1, 60), record(1, 0));
        copies(&mut dht, &old, &mut chance);
        dht.set(Way::Gone, 2, &mut chance);
        assert_eq!(copies(&mut dht, &new, &mut chance), (3, SETTLE * PUT_STEPS));
        assert_eq!(found(&dht, &new.key, WALL, &mut chance), (vec![new.value.clone()], 3, SETTLE));
        dht.set(Way::Gone, 0, &mut chance);
        let (mut values, answered, _) = found(&dht, &new.key, WALL, &mut chance);
        values.sort();
        let mut both = vec![old.value, new.value];
        both.sort();
        assert_eq!((values, answered), (both, 5));
        dht.set(Way::Gone, 5, &mut chance);
        assert_eq!(found(&dht, &new.key, WALL, &mut chance), (Vec::new(), 0, DEADLINE));
    }

    #[test]
    fn liars_hand_out_nothing_that_was_not_signed() {
        let mut chance = Chance::new(3);
        let mut dht = Dht::new(3, &mut chance);
        let (old, new) = (record(1, 60), record(1, 0));
        dht.set(Way::Stale, 3, &mut chance);
        copies(&mut dht, &old, &mut chance);
        assert_eq!(copies(&mut dht, &new, &mut chance).0, 0);
        assert_eq!(found(&dht, &new.key, WALL, &mut chance).0, [old.value]);
        dht.set(Way::Wrong, 3, &mut chance);
        assert_eq!(copies(&mut dht, &new, &mut chance).0, 0);
        assert_eq!(found(&dht, &new.key, WALL, &mut chance).0, Vec::<Vec<u8>>::new());
    }
}
