//! A VPI in memory, founded with keys that anybody may know, and the rooms' tests over it.

mod chartering;
mod joining;
mod reducing;
mod removing;
mod sparing;
mod tokens;

use rand_core::SeedableRng as _;

use super::admin::{Admin, AdminError, Signed};
use super::epoch::EpochSecret;
use super::founding::{Addresses, Founding, InviteWish, found, invite};
use super::join::{Joiner, Question};
use super::object::{Admit, Body, Capabilities, Charter, Confirm, Object, Reason, Rekey, Remove, Target};
use super::token::Token;
use super::{Insertion, Membership, ObjectSet, admin, reduce};
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
        let key = key(FOUNDER);
        let inviter = Admin { key: &key, set: &self.set, wall_secs: START + 10 };
        let addresses = Addresses {
            members: &["192.0.2.1:41414".parse().unwrap(), "[2001:db8::1]:41414".parse().unwrap()],
            beacons: &["/ip4/192.0.2.9/tcp/443".to_owned()],
        };
        invite(&mut self.rng, &inviter, &self.epoch, wish, addresses).unwrap()
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

    /// Lets `work` sign as the admin `n`, and stores what it made.
    fn work(
        &mut self,
        n: u8,
        work: impl FnOnce(&mut Rng, &Admin<'_>) -> Result<Signed, AdminError>,
    ) -> Result<Signed, AdminError> {
        let key = key(n);
        let admin = Admin { key: &key, set: &self.set, wall_secs: START + 200 };
        let removal = work(&mut self.rng, &admin)?;
        for object in &removal.objects {
            self.insert(object);
        }
        Ok(removal)
    }

    /// Removes device `n` as the founder.
    fn remove(&mut self, n: u8) -> Signed {
        self.work(FOUNDER, |rng, admin| admin::remove(rng, admin, &device(n), Reason::Lost)).unwrap()
    }

    /// A successor of the charter in force, signed with `signers`.
    fn next_charter(&self, signers: &[u8], change: impl FnOnce(&mut Charter)) -> Object {
        let (object, charter) = self.set.charter().unwrap();
        successor(&self.vpi, (object, charter), signers, change)
    }

    /// Stores a charter with the founder and device `n` as admins.
    fn add_admin(&mut self, n: u8) {
        let charter = self.next_charter(&[1], |charter| charter.admins.push(admin_entry(n)));
        self.insert(&charter);
    }
}

fn admin_entry(n: u8) -> super::object::Admin {
    let name = format!("admin-{n}");
    super::object::Admin { device: device(n), name, capabilities: Capabilities::ALL }
}

/// What follows `previous`, changed, by the roots and others whose keys are `signers`.
fn successor(
    vpi: &VpiId,
    (previous, charter): (&Object, &Charter),
    signers: &[u8],
    change: impl FnOnce(&mut Charter),
) -> Object {
    let mut charter = charter.clone();
    charter.version += 1;
    charter.previous = Some(previous.id());
    charter.signers = signers.iter().map(|n| device(*n)).collect();
    charter.signers.sort_unstable();
    change(&mut charter);
    let secrets: Vec<_> = signers.iter().map(|n| key(*n)).collect();
    Object::sign(vpi, &Body::Charter(charter), &secrets.iter().collect::<Vec<_>>()).unwrap()
}

/// A Remove by admin `n` at this place of its chain.
fn removal(vpi: &VpiId, n: u8, link: (u64, ObjectId), target: Target) -> Object {
    let body = Remove {
        signer: device(n),
        link: Some(link),
        time: START + 200,
        target,
        reason: Reason::Unspecified,
        extensions: Extensions::default(),
    };
    Object::sign(vpi, &Body::Remove(body), &[&key(n)]).unwrap()
}

/// A device that leaves, whether or not it belongs.
fn departure(vpi: &VpiId, n: u8, time: u64) -> Object {
    let (signer, target) = (device(n), Target::Device(device(n)));
    let body =
        Remove { signer, link: None, time, target, reason: Reason::Left, extensions: Extensions::default() };
    Object::sign(vpi, &Body::Remove(body), &[&key(n)]).unwrap()
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

/// The member whose handshakes are made with `key`.
fn holder(membership: &Membership, key: StaticKey) -> Option<DeviceId> {
    membership.members().find(|member| member.static_key == Some(key)).map(|member| member.device)
}
