//! A VPI in memory, founded with keys that anybody may know, and the rooms' tests over it.

mod joining;
mod reducing;
mod tokens;

use rand_core::SeedableRng as _;

use super::epoch::EpochSecret;
use super::founding::{Addresses, Founding, InviteWish, Inviter, found, invite};
use super::join::{Joiner, Question};
use super::object::{Admit, Body, Object, Rekey};
use super::token::Token;
use super::{Insertion, Membership, ObjectSet, reduce};
use crate::identity::{DeviceId, ObjectId, Secret, SigningSecret, StaticKey, StaticSecret, VpiId};
use crate::random::Rng;
use crate::wire::cbor::{Extensions, MapReader, MapWriter};

/// When the VPI is founded.
const START: u64 = 1_700_000_000;

/// The founder's device key.
const FOUNDER: u8 = 3;

/// One VPI as its founder's node holds it.
struct Home {
    vpi: VpiId,
    set: ObjectSet,
    epoch: EpochSecret,
    rng: Rng,
}

impl Home {
    fn new() -> Self {
        let secret = Secret([9; 32]);
        let founded = found(&Founding {
            name: "home",
            device_name: "nas",
            root: &key(1),
            recovery: &key(2),
            device: &key(FOUNDER),
            static_key: static_key(FOUNDER),
            secret: &secret,
            nonce: [4; 16],
            wall_secs: START,
        })
        .unwrap();
        let mut set = ObjectSet::new(founded.vpi);
        for object in founded.objects {
            assert_eq!(set.insert(&object), Insertion::Stored { dropped: vec![] });
        }
        let epoch = EpochSecret::new(founded.vpi, 0, secret);
        Self { vpi: founded.vpi, set, epoch, rng: Rng::from_seed([8; 32]) }
    }

    fn membership(&self) -> Membership {
        reduce(&self.set)
    }

    fn insert(&mut self, object: &Object) -> ObjectId {
        let id = object.id();
        assert!(matches!(self.set.insert(object), Insertion::Stored { .. }));
        id
    }

    /// Makes an invite without storing it.
    fn token(&mut self, wish: &InviteWish) -> Token {
        let membership = self.membership();
        let inviter = Inviter {
            admin: &key(FOUNDER),
            membership: &membership,
            epoch: &self.epoch,
            wall_secs: START + 10,
        };
        let addresses = Addresses {
            members: &["192.0.2.1:41414".parse().unwrap(), "[2001:db8::1]:41414".parse().unwrap()],
            beacons: &["/ip4/192.0.2.9/tcp/443".to_owned()],
        };
        invite(&mut self.rng, &inviter, wish, addresses).unwrap()
    }

    /// Makes and stores an invite for `uses` joins.
    fn invite(&mut self, uses: u64) -> Token {
        let token = self.token(&wish(uses));
        self.insert(token.invite_object());
        token
    }

    /// Stores the Join of device `n` and an Admit by `witness`; returns the Join's id.
    fn admit(&mut self, token: &Token, n: u8, witness: u8, at: u64) -> ObjectId {
        let question = question(token, n);
        let join = question.join_object().clone();
        self.set.insert(&join);
        self.insert(&admit(&self.vpi, &join, witness, at));
        join.id()
    }
}

fn wish(max_uses: u64) -> InviteWish {
    InviteWish { name: None, max_uses, seconds: None, bound_device: None }
}

fn question(token: &Token, n: u8) -> Question {
    let name = format!("device-{n}");
    let joiner = Joiner {
        device: &key(n),
        static_key: static_key(n),
        name: &name,
        nonce: [n; 16],
        wall_secs: START + 20,
    };
    Question::ask(token, &joiner).unwrap()
}

fn admit(vpi: &VpiId, join: &Object, witness: u8, at: u64) -> Object {
    let body = Admit {
        witness: device(witness),
        join_id: join.id(),
        time: at,
        epoch_seen: 0,
        extensions: Extensions::default(),
    };
    Object::sign(vpi, &Body::Admit(body), &[&key(witness)]).unwrap()
}

/// A field of a later version, of `bytes` bytes.
fn padding(bytes: usize) -> Extensions {
    let map = MapWriter::new().text(64, &"x".repeat(bytes)).finish(&Extensions::default());
    MapReader::open(&map).unwrap().finish().unwrap()
}

fn rekey(vpi: &VpiId, n: u8, counter: u64, static_key: StaticKey) -> Object {
    let body =
        Rekey { device: device(n), counter, static_key, time: START, extensions: Extensions::default() };
    Object::sign(vpi, &Body::Rekey(body), &[&key(n)]).unwrap()
}

fn key(n: u8) -> SigningSecret {
    SigningSecret::from_seed(&[n; 32])
}

fn device(n: u8) -> DeviceId {
    key(n).public()
}

fn static_secret(n: u8) -> StaticSecret {
    StaticSecret::from_bytes([n; 32])
}

fn static_key(n: u8) -> StaticKey {
    static_secret(n).public()
}
