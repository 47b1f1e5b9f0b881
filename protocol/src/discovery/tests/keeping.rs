//! Who writes a lobby: several nodes around one DHT that keeps the newest value of each key, in virtual time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand_core::SeedableRng as _;

use super::{VPI, rng};
use crate::discovery::keeper::{Keeper, MAX_LOBBIES};
use crate::discovery::lobby::{Contact, Lobby};
use crate::discovery::slot::{slot_of, start_of};
use crate::identity::{InviteId, Secret};
use crate::random::Rng;

const INVITE: InviteId = InviteId([3; 16]);
const KEY: Secret = Secret([4; 32]);

#[test]
fn of_ten_members_about_one_writes_each_half_hour_and_the_lobby_is_never_empty_for_long() {
    let mut lab = Lab::new(10);
    let mut empty = 0;
    for _ in 0..10 * 60 {
        lab.run(60);
        empty += u32::from(lab.read().is_none());
    }
    // The first ten minutes may pass without one.
    assert!(empty <= 10, "{empty} minutes without a contact");
    // Each slot, and once in it when the first record is 30 minutes old.
    assert!((15..=24).contains(&lab.puts), "{}", lab.puts);
}

#[test]
fn a_member_that_wrote_corrects_its_record_within_a_minute_and_others_leave_it() {
    let mut lab = Lab::new(3);
    lab.run(600);
    let (before, puts) = (lab.read().unwrap(), lab.puts);
    let writer = (0..3).find(|n| contact(*n, 0) == before).unwrap();
    for n in 0..3 {
        lab.keepers[usize::from(n)].0.handle_contact(contact(n, 1), &mut rng(), lab.now);
    }
    lab.run(60);
    assert_eq!((lab.read().unwrap(), lab.puts), (contact(writer, 1), puts + 1));
}

#[test]
fn who_has_no_address_writes_nothing() {
    let mut lab = Lab::new(1);
    lab.keepers[0].0.handle_contact(Contact::default(), &mut rng(), lab.now);
    lab.run(7_200);
    assert_eq!(lab.puts, 0);
}

#[test]
fn an_invite_that_is_over_is_looked_up_no_more() {
    let mut lab = Lab::new(1);
    lab.keepers[0].0.forget(&INVITE);
    assert_eq!(lab.keepers[0].0.poll_timeout(), None);
}

#[test]
fn a_lookup_without_a_word_is_made_again_later_and_writes_nothing() {
    let (mut keeper, mut rng, start) = (Keeper::new(VPI), rng(), Instant::now());
    keeper.handle_contact(contact(1, 0), &mut rng, start);
    keeper.keep(INVITE, KEY, &mut rng, start);
    let mut lookups = 0;
    while let Some(at) = keeper.poll_timeout().filter(|at| *at < start + Duration::from_secs(7_200)) {
        let wall = 1_800_000_000 + (at - start).as_secs();
        lookups += u32::from(keeper.poll_lookup(&mut rng, wall, at).is_some());
        assert_eq!(keeper.poll_record(&mut rng, wall, at), None);
    }
    assert!((8..=16).contains(&lookups), "{lookups}");
}

#[test]
fn lobbies_are_bounded() {
    let (mut keeper, mut rng, now) = (Keeper::new(VPI), rng(), Instant::now());
    for n in 0..MAX_LOBBIES as u8 {
        assert!(keeper.keep(InviteId([n; 16]), KEY, &mut rng, now));
    }
    assert!(!keeper.keep(InviteId([99; 16]), KEY, &mut rng, now));
    assert!(keeper.keep(InviteId([0; 16]), KEY, &mut rng, now), "one that is kept stays");
}

struct Lab {
    keepers: Vec<(Keeper, Rng)>,
    /// The newest value of each key, with its sequence.
    dht: BTreeMap<[u8; 32], Vec<u8>>,
    puts: u32,
    wall: u64,
    now: Instant,
}

impl Lab {
    fn new(count: u8) -> Self {
        let now = Instant::now();
        let keeper = |n: u8| {
            let (mut keeper, mut rng) = (Keeper::new(VPI), Rng::from_seed([n; 32]));
            keeper.handle_contact(contact(n, 0), &mut rng, now);
            keeper.keep(INVITE, KEY, &mut rng, now);
            (keeper, rng)
        };
        let keepers = (0..count).map(keeper).collect();
        Self { keepers, dht: BTreeMap::new(), puts: 0, wall: start_of(500_000), now }
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.wall += 1;
            for (keeper, rng) in &mut self.keepers {
                while let Some(key) = keeper.poll_lookup(rng, self.wall, self.now) {
                    let values: Vec<_> = self.dht.get(&key).cloned().into_iter().collect();
                    assert_eq!(keeper.handle_found((&key, &values), rng, self.wall, self.now), Some(0));
                }
                while let Some(record) = keeper.poll_record(rng, self.wall, self.now) {
                    self.puts += 1;
                    self.dht.insert(record.key, record.value);
                }
            }
        }
    }

    /// What a joiner reads: the current slot, then the one before.
    fn read(&self) -> Option<Contact> {
        let slot = slot_of(self.wall);
        [slot, slot - 1].into_iter().find_map(|slot| {
            let lobby = Lobby::new(&VPI, &KEY, slot);
            lobby.open(self.dht.get(lobby.key())?, self.wall).ok().map(|(_, contact)| contact)
        })
    }
}

fn contact(n: u8, moved: u8) -> Contact {
    Contact { addresses: vec![([192, 0, 2 + moved, n], 41_414).into()], beacon: None }
}
