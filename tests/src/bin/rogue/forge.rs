//! Objects that the rogue may sign and that must not count, and objects that it may not sign at all.

use anyhow::{Context as _, Result, bail};
use data_encoding::HEXLOWER;
use protocol::identity::{DeviceId, InviteId, ObjectId, SigningSecret, sha256};
use protocol::membership::object::{
    Admin, Admit, Body, Capabilities, Charter, Epoch, Invite, Join, Object, Rekey, Root,
};
use protocol::random::{self, Rng};
use protocol::wire::cbor::Extensions;
use serde_json::{Value, json};

use crate::link::wall_ms;
use crate::state::State;

/// A number of kind that no object has; like all that do, one byte of CBOR.
const UNKNOWN_KIND: u8 = 0x16;
/// More than an envelope may have, less than an exchange asks for.
const OVERSIZE_BYTES: usize = 3_900;

/// The charter behind the newest one: as it was, with `device` as one more admin called `name`. Signed by the root key
/// that the founder's machine holds.
pub(crate) fn next_charter(state: &State, name: &str, device: &str) -> Result<Object> {
    let root = state.root.as_ref().context("no root key in this state folder: it is not the founder's")?;
    let (former, charter) = state.charter()?;
    let device = DeviceId::from_hex(device).context("a device is 64 hexadecimal digits")?;
    let admin = Admin { device, name: name.to_owned(), capabilities: Capabilities::ALL };
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce)?;
    let mut charter = Charter {
        version: charter.version + 1,
        previous: Some(former.id()),
        time: wall_ms()? / 1_000,
        signers: vec![root.public()],
        nonce,
        ..charter.clone()
    };
    charter.admins.push(admin);
    Ok(Object::sign(&state.vpi, &Body::Charter(charter), &[root])?)
}

/// What `sign-charter` prints.
pub(crate) fn described(object: &Object) -> Value {
    json!({"id": object.id().to_string(), "object": HEXLOWER.encode(object.bytes())})
}

/// The bytes of objects of one sort, in the order in which one hangs on the other.
///
/// `victim` is the member whose name is misused.
pub(crate) fn objects(state: &State, rng: &mut Rng, sort: &str, victim: &str) -> Result<Vec<Vec<u8>>> {
    let own = |body: Body| -> Result<Vec<u8>> {
        Ok(Object::sign(&state.vpi, &body, &[&state.device])?.bytes().to_vec())
    };
    let victim = state.device_of(victim)?;
    match sort {
        // Its own key, as it may: a member that takes over another's static key.
        "stolen static key" => Ok(vec![own(rekey(state, &victim)?)?]),
        "epoch of no admin" => Ok(vec![own(epoch(state, rng)?)?]),
        "charter of no root" => Ok(vec![own(charter(state)?)?]),
        "members of its own making" => made_up_member(state, rng),
        "in another's name" => [rekey(state, &victim)?, epoch(state, rng)?]
            .into_iter()
            .map(|body| Ok(renamed(&own(body)?, &state.device.public(), &victim)))
            .collect(),
        "unknown kind" => {
            let (kind, mut bytes) = (7, own(rekey(state, &victim)?)?);
            let at = bytes.windows(3).position(|window| window == [0xa5, 0, kind]);
            bytes[at.context("a rekey has five fields")? + 2] = UNKNOWN_KIND;
            Ok(vec![bytes])
        }
        "one byte altered" => {
            let mut bytes = own(rekey(state, &victim)?)?;
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            Ok(vec![bytes])
        }
        "oversize" => Ok(vec![random::bytes::<OVERSIZE_BYTES>(rng).to_vec()]),
        _ => bail!("no such sort of objects: {sort}"),
    }
}

fn rekey(state: &State, victim: &DeviceId) -> Result<Body> {
    Ok(Body::Rekey(Rekey {
        device: state.device.public(),
        counter: 1_000_000,
        static_key: state.static_key_of(victim)?,
        time: wall_ms()? / 1_000,
        extensions: Extensions::default(),
    }))
}

fn epoch(state: &State, rng: &mut Rng) -> Result<Body> {
    Ok(Body::Epoch(Epoch {
        admin: state.device.public(),
        seq: 0,
        previous: ObjectId(state.vpi.0),
        time: wall_ms()? / 1_000,
        number: 1_000,
        secret_hash: random::bytes(rng),
        removed_digest: random::bytes(rng),
        extensions: Extensions::default(),
    }))
}

/// A charter of the next version whose one root and one admin is the rogue.
fn charter(state: &State) -> Result<Body> {
    let (former, charter) = state.charter()?;
    let own = state.device.public();
    Ok(Body::Charter(Charter {
        version: charter.version + 1,
        previous: Some(former.id()),
        signers: vec![own],
        roots: vec![Root { key: own, is_recovery: false }],
        threshold: 1,
        admins: vec![Admin { device: own, name: "rogue".to_owned(), capabilities: Capabilities::ALL }],
        ..charter.clone()
    }))
}

/// Invite, Join and Admit, all by the rogue, for a device that it made up.
fn made_up_member(state: &State, rng: &mut Rng) -> Result<Vec<Vec<u8>>> {
    let (time, invite_id) = (wall_ms()? / 1_000, InviteId(random::bytes(rng)));
    let (invite_key, device) =
        (SigningSecret::from_seed(&random::bytes(rng)), SigningSecret::from_seed(&random::bytes(rng)));
    let extensions = Extensions::default();
    let invite = Body::Invite(Invite {
        admin: state.device.public(),
        seq: 0,
        previous: ObjectId(state.vpi.0),
        time,
        invite_id,
        invite_key: invite_key.public(),
        max_uses: 1,
        not_after: time + 3_600,
        name: None,
        capabilities: Capabilities::NONE,
        groups: Vec::new(),
        bound_device: None,
        admitters: Vec::new(),
        extensions: extensions.clone(),
    });
    let join = Body::Join(Join {
        invite_id,
        device: device.public(),
        static_key: protocol::identity::StaticSecret::from_bytes(random::bytes(rng)).public(),
        name: "mole".to_owned(),
        time,
        nonce: random::bytes(rng),
        invite_key: invite_key.public(),
        extensions: extensions.clone(),
    });
    let join = Object::sign(&state.vpi, &join, &[&device, &invite_key])?;
    let (witness, join_id) = (state.device.public(), join.id());
    let admit = Body::Admit(Admit { witness, join_id, time, epoch_seen: 0, extensions });
    let own = |body: &Body| Object::sign(&state.vpi, body, &[&state.device]);
    Ok([own(&invite)?, join, own(&admit)?].iter().map(|object| object.bytes().to_vec()).collect())
}

/// `object` with another key, and its short form, in the place of the one that signed it.
fn renamed(object: &[u8], signer: &DeviceId, other: &DeviceId) -> Vec<u8> {
    let mut bytes = object.to_vec();
    for length in [signer.0.len(), 8] {
        let (from, to) = (&signer.0[..length], &other.0[..length]);
        while let Some(at) = bytes.windows(length).position(|window| window == from) {
            bytes[at..at + length].copy_from_slice(to);
        }
    }
    bytes
}

/// An id under which to offer `object`: its own, if it has one.
pub(crate) fn id_of(state: &State, object: &[u8]) -> (u8, ObjectId) {
    match Object::open(&state.vpi, object) {
        Ok(object) => (object.kind() as u8, object.id()),
        Err(_) => (7, ObjectId(sha256(&[object]))),
    }
}
