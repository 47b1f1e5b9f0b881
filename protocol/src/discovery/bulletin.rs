//! Bulletins: what an admin leaves for a device that sleeps through a change of epoch (README §18).
//!
//! ```text
//! A' = the ADMIN's key, blinded with (K of the newest epoch that the sleeper is known to hold, bulletin, the SLEEPER's
//!      device key, part u64 in the slot's place)             box key from the same, with label "box"
//! part 0     = parts u8, 1–8 ‖ sealed box 80 (README §3) ‖ length u16 ‖ Epoch envelope ‖ n × ( length u16 ‖ Remove envelope )
//! part 1 … 7 = parts u8 ‖ n × ( length u16 ‖ Remove envelope )
//! ```
//!
//! An ex-member that held the same epoch can find a bulletin and read which devices and invites were removed; the secret
//! is in a box of the sleeper's own, and only the admin can write. A sleeper takes the secret only once its removed set
//! is that which the Epoch names (README §9, *Secrets*); so a bulletin that cannot hold every Remove is not made.

use super::blind::{BlindedSigner, Purpose, blinded_public, blinding};
use super::presence::box_key;
use super::record::{
    self, BULLETIN_LIFE_SECS, Class, KEY_BYTES, ReadKeys, Record, RecordError, Signer, WriteKeys,
};
use super::slot::SLOT_SECS;
use crate::identity::{DeviceId, Secret, SigningSecret, StaticKey, StaticSecret, VpiId};
use crate::membership::epoch::{EpochSecret, SEALED_BYTES, open_secret, seal_secret, secret_hash};
use crate::membership::object::{Body, Epoch, Kind, Object};
use crate::random::Rng;

/// Records of one bulletin, at most (chosen: about 150 Removes; who misses more learns of them from a member).
pub const MAX_PARTS: u8 = 8;

/// For whom a bulletin is.
#[derive(Clone, Copy, Debug)]
pub struct Sleeper<'a> {
    /// The device.
    pub device: &'a DeviceId,
    /// Its static key in force, to which the secret is sealed.
    pub static_key: &'a StaticKey,
    /// The newest epoch that it is known to hold.
    pub held: &'a EpochSecret,
}

/// What a sleeper is to learn.
#[derive(Clone, Copy, Debug)]
pub struct News<'a> {
    /// The Epoch in force.
    pub epoch: &'a Object,
    /// Its secret.
    pub secret: &'a Secret,
    /// Every Remove that the sleeper may lack.
    pub removes: &'a [Object],
}

/// One part, opened. Its objects are signed and of these kinds; whether they count is the reducer's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// How many parts there are, 1 to [`MAX_PARTS`].
    pub parts: u8,
    /// The Epoch and the box with its secret: in part 0, and only there.
    pub epoch: Option<(Object, [u8; SEALED_BYTES])>,
    /// Removes.
    pub removes: Vec<Object>,
}

impl Part {
    /// The secret of the Epoch inside, if it is sealed to `own` and the one that the Epoch names.
    #[must_use]
    pub fn secret(&self, vpi: &VpiId, own: &StaticSecret) -> Option<EpochSecret> {
        let (object, sealed) = self.epoch.as_ref()?;
        let epoch = epoch_in(object)?;
        let secret = open_secret(vpi, own, sealed)?;
        (secret_hash(&secret) == epoch.secret_hash).then(|| EpochSecret::new(*vpi, epoch.number, secret))
    }
}

/// Where one part of one admin's bulletin for one sleeper stands.
#[derive(Clone, Debug)]
pub struct Place {
    vpi: VpiId,
    part: u8,
    keys: ReadKeys,
}

impl Place {
    /// The place of `part` of the bulletin by `admin` for `sleeper`, who holds `held`; `None` if there is no such part, or
    /// `admin` is no key that can be blinded.
    #[must_use]
    pub fn new(held: &EpochSecret, admin: &DeviceId, sleeper: &DeviceId, part: u8) -> Option<Self> {
        (part < MAX_PARTS).then_some(())?;
        let h = blinding(held.secret(), held.vpi(), Purpose::Bulletin, sleeper, u64::from(part));
        let box_key = box_key(held, Purpose::Bulletin, sleeper, u64::from(part));
        let keys = ReadKeys::new(&blinded_public(admin, &h)?, box_key);
        Some(Self { vpi: *held.vpi(), part, keys })
    }

    /// The key to look up.
    #[must_use]
    pub fn key(&self) -> &[u8; KEY_BYTES] {
        &self.keys.key
    }

    /// Checks one value that was found there, opens it, and verifies the objects inside.
    ///
    /// # Errors
    /// A [`RecordError`]; [`RecordError::Content`] for anything but such a part.
    pub fn open(&self, value: &[u8], wall_secs: u64) -> Result<Part, RecordError> {
        let (_, content) = self.keys.open(Class::Bulletin, value, wall_secs)?;
        self.read(&content).ok_or(RecordError::Content)
    }

    fn read(&self, content: &[u8]) -> Option<Part> {
        let (parts, mut rest) = content.split_first()?;
        (self.part < *parts && *parts <= MAX_PARTS).then_some(())?;
        let mut epoch = None;
        if self.part == 0 {
            let (sealed, behind) = rest.split_first_chunk()?;
            rest = behind;
            epoch = Some((self.take_object(&mut rest, Kind::Epoch)?, *sealed));
        }
        let mut removes = Vec::new();
        while !rest.is_empty() {
            removes.push(self.take_object(&mut rest, Kind::Remove)?);
        }
        Some(Part { parts: *parts, epoch, removes })
    }

    fn take_object(&self, rest: &mut &[u8], kind: Kind) -> Option<Object> {
        let (length, behind) = rest.split_first_chunk::<2>()?;
        let (bytes, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        *rest = behind;
        // The kind is read first: no signature of another kind is worth verifying.
        (Object::kind_in(bytes) == Some(kind)).then_some(())?;
        Object::open(&self.vpi, bytes).ok()
    }
}

/// Makes the records of a bulletin by the admin whose secret is `admin`, part 0 first.
///
/// `wall_secs` becomes their sequence; they end at the last full hour within 30 days. Other members may put the same bytes
/// again until then. `None` if `news` is not an Epoch with its secret and Removes, if the sleeper's static key is of low
/// order, or if it does not fit [`MAX_PARTS`] parts: nothing is left out.
#[must_use]
pub fn seal(
    sleeper: Sleeper<'_>,
    admin: &SigningSecret,
    news: News<'_>,
    wall_secs: u64,
    rng: &mut Rng,
) -> Option<Vec<Record>> {
    (epoch_in(news.epoch)?.secret_hash == secret_hash(news.secret)).then_some(())?;
    news.removes.iter().all(|object| object.kind() == Kind::Remove).then_some(())?;
    let vpi = sleeper.held.vpi();
    let head = seal_secret(rng, vpi, sleeper.static_key, news.secret)?.to_vec();
    let bodies = cut([&head[..], &prefixed(news.epoch)?].concat(), news.removes)?;
    let parts = u8::try_from(bodies.len()).ok().filter(|parts| *parts <= MAX_PARTS)?;
    let expiry = wall_secs.saturating_add(BULLETIN_LIFE_SECS) / SLOT_SECS * SLOT_SECS;
    let record = |(part, body): (u8, &Vec<u8>)| {
        let h = blinding(sleeper.held.secret(), vpi, Purpose::Bulletin, sleeper.device, u64::from(part));
        let box_key = box_key(sleeper.held, Purpose::Bulletin, sleeper.device, u64::from(part));
        let keys = WriteKeys { signer: Signer::Blinded(BlindedSigner::new(admin, &h)?), box_key };
        let content = [&[parts], &body[..]].concat();
        record::seal(Class::Bulletin, &keys, (wall_secs, expiry), &content, rng)
    };
    (0..parts).zip(&bodies).map(record).collect()
}

/// Distributes the Removes over bodies of parts, in order, the first of which starts with `head`.
fn cut(head: Vec<u8>, removes: &[Object]) -> Option<Vec<Vec<u8>>> {
    let room = Class::Bulletin.content_bytes() - 1;
    let mut bodies = vec![head];
    for remove in removes {
        let object = prefixed(remove)?;
        match bodies.last_mut() {
            Some(body) if body.len() + object.len() <= room => body.extend_from_slice(&object),
            _ => bodies.push(object),
        }
    }
    bodies.iter().all(|body| body.len() <= room).then_some(bodies)
}

fn prefixed(object: &Object) -> Option<Vec<u8>> {
    let length = u16::try_from(object.bytes().len()).ok()?;
    Some([&length.to_be_bytes(), &object.bytes()[..]].concat())
}

fn epoch_in(object: &Object) -> Option<&Epoch> {
    match object.body() {
        Body::Epoch(epoch) => Some(epoch),
        _ => None,
    }
}
