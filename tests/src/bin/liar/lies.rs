//! What is answered to a question.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use ::tests::kademlia::{Peer, Question};
use anyhow::{Context, Result};
use libp2p::identity::Keypair;
use libp2p::kad::KBucketKey;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use protocol::discovery::lobby::{Contact, Lobby};
use protocol::discovery::record::Class;
use protocol::discovery::slot::slot_of;
use protocol::identity::{Secret, VpiId};
use protocol::random::Rng;
use rand_core::SeedableRng as _;

/// Peers that do not exist; the closest twenty of them are closer to any key than most that do.
const MADE_UP: usize = 2_000;
/// Peers in an answer (Kademlia's k).
const NAMED: usize = 20;
/// As many as 16 KiB hold.
const NAMED_ENORMOUS: usize = 250;
/// Longer than any record, and within a message.
const LONG_VALUE_BYTES: usize = 12_000;
/// Where a record's sequence is.
const SEQUENCE: std::ops::Range<usize> = 33..41;

/// How it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Wrong,
    Stale,
    Empty,
    Enormous,
    Close,
    Stall,
}

/// What happens on the stream of a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// These bytes are written.
    Say(Vec<u8>),
    /// A message is announced that is this long, and zeros follow.
    Flood(usize),
    /// The connection is closed.
    Close,
    /// The stream is held.
    Nothing,
}

/// The liar's mind.
pub(crate) struct Lies {
    ways: Vec<Way>,
    asked: usize,
    /// First and last value of each key.
    put: BTreeMap<Vec<u8>, (Vec<u8>, Vec<u8>)>,
    made_up: Vec<PeerId>,
    named: Multiaddr,
    /// The beacons that it knows.
    pub(crate) known: Vec<(PeerId, Multiaddr)>,
}

impl Lies {
    pub(crate) fn new(ways: Vec<Way>, named: SocketAddr) -> Result<Self> {
        let made_up =
            if ways.iter().any(|way| matches!(way, Way::Wrong | Way::Enormous)) { MADE_UP } else { 0 };
        let made_up = (0..made_up).map(|_| Keypair::generate_ed25519().public().to_peer_id()).collect();
        let named = Multiaddr::from(named.ip()).with(Protocol::Tcp(named.port()));
        Ok(Self { ways, asked: 0, put: BTreeMap::new(), made_up, named, known: Vec::new() })
    }

    /// The answer to the next question.
    pub(crate) fn answer(&mut self, question: &Question) -> Answer {
        self.asked += 1;
        let turn = self.asked / self.ways.len().max(1);
        let way = self.ways.get(self.asked % self.ways.len().max(1)).copied();
        if let Question::Put { key, value } = question {
            match way {
                Some(Way::Close) => return Answer::Close,
                Some(Way::Stall) => return Answer::Nothing,
                // Nothing is kept, and nobody is told.
                Some(Way::Empty | Way::Enormous) => {}
                None | Some(Way::Wrong | Way::Stale) => {
                    let put = self.put.entry(key.clone());
                    put.or_insert_with(|| (value.clone(), value.clone())).1.clone_from(value);
                }
            }
            return Answer::Say(question.answer(Some(value), &[]));
        }
        let is_get = matches!(question, Question::Get { .. });
        let held = self.put.get(question.key()).filter(|_| is_get);
        let say = |value: Option<&[u8]>, peers: &[Peer]| Answer::Say(question.answer(value, peers));
        match way {
            None => say(held.map(|(_, last)| &last[..]), &self.known()),
            Some(Way::Wrong) => {
                let value = wrong_value(held.map(|(_, last)| &last[..]), turn).filter(|_| is_get);
                say(value.as_deref(), &self.closest(question.key(), NAMED))
            }
            Some(Way::Stale) => say(held.map(|(first, _)| &first[..]), &self.known()),
            Some(Way::Empty) => say(None, &[]),
            Some(Way::Enormous) => match turn % 3 {
                0 if is_get => say(Some(&[7; LONG_VALUE_BYTES]), &[]),
                1 => Answer::Flood(1 << 30),
                _ => say(None, &self.closest(question.key(), NAMED_ENORMOUS)),
            },
            Some(Way::Close) => Answer::Close,
            Some(Way::Stall) => Answer::Nothing,
        }
    }

    fn known(&self) -> Vec<Peer> {
        self.known.iter().map(|(id, address)| named(id, address)).collect()
    }

    /// The peers that do not exist and are closest to `key`.
    fn closest(&self, key: &[u8], most: usize) -> Vec<Peer> {
        let target = KBucketKey::new(key.to_vec());
        let mut ids = self.made_up.clone();
        ids.sort_by_cached_key(|id| KBucketKey::from(*id).distance(&target));
        ids.iter().take(most).map(|id| named(id, &self.named)).collect()
    }
}

fn named(id: &PeerId, address: &Multiaddr) -> Peer {
    Peer { id: id.to_bytes(), address: address.to_vec() }
}

/// Something that is no record of its key: in turn noise of a record's length, another writer's record, and the record
/// that is there, dated later than its signature.
fn wrong_value(held: Option<&[u8]>, turn: usize) -> Option<Vec<u8>> {
    match (turn % 3, held) {
        (0, _) => Some((0..Class::Slot.value_bytes()).map(|at| (at * 7 + turn) as u8).collect()),
        (2, Some(held)) => {
            let mut later = held.to_vec();
            later.get_mut(SEQUENCE)?.last_mut()?.clone_from(&u8::MAX);
            Some(later)
        }
        _ => others_record().ok(),
    }
}

/// A record of this hour that every beacon takes, under its own key.
fn others_record() -> Result<Vec<u8>> {
    let wall_secs = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let lobby = Lobby::new(&VpiId([6; 32]), &Secret([6; 32]), slot_of(wall_secs));
    let made = lobby.seal(&Contact::default(), wall_secs, &mut Rng::from_seed([6; 32]));
    Ok(made.context("a contact without addresses fits")?.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn liar(ways: &[Way]) -> Lies {
        Lies::new(ways.to_vec(), "198.18.0.1:9".parse().unwrap()).unwrap()
    }

    fn put(lies: &mut Lies, value: &[u8]) -> Answer {
        lies.answer(&Question::Put { key: vec![1; 32], value: value.to_vec() })
    }

    fn get() -> Question {
        Question::Get { key: vec![1; 32] }
    }

    #[test]
    fn without_a_way_the_last_value_is_served_and_stale_serves_the_first() {
        for (ways, served) in [(&[][..], b"new"), (&[Way::Stale], b"old")] {
            let mut lies = liar(ways);
            for value in [b"old", b"new"] {
                let question = Question::Put { key: vec![1; 32], value: value.to_vec() };
                assert_eq!(put(&mut lies, value), Answer::Say(question.answer(Some(value), &[])));
            }
            assert_eq!(lies.answer(&get()), Answer::Say(get().answer(Some(served), &[])));
        }
    }

    #[test]
    fn several_ways_take_turns() {
        let mut lies = liar(&[Way::Close, Way::Stall]);
        let answers: Vec<_> = (0..4).map(|_| lies.answer(&get())).collect();
        assert_eq!(answers, [Answer::Nothing, Answer::Close, Answer::Nothing, Answer::Close]);
    }

    #[test]
    fn no_wrong_value_is_the_one_that_was_put() {
        let mut lies = liar(&[Way::Wrong]);
        let value = others_record().unwrap();
        put(&mut lies, &value);
        for turn in 0..6 {
            let wrong = wrong_value(Some(&value[..]), turn).unwrap();
            assert_eq!(wrong.len(), value.len());
            if turn % 3 != 1 {
                assert_ne!(wrong, value);
            }
        }
    }
}
