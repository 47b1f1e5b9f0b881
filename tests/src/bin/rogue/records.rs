//! What the keys in a state folder show of the DHT (protocol/README §18): where the records of others stand, and records that
//! its owner may sign.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use data_encoding::HEXLOWER;
use protocol::discovery::slot::{read_at, slot_of, written_at};
use protocol::discovery::{bulletin, presence};
use protocol::identity::DeviceId;
use protocol::membership::object::{Body, Object, Presence};
use protocol::random::Rng;
use protocol::wire::cbor::Extensions;
use rand_core::SeedableRng as _;
use serde_json::{Value, json};

use crate::link::wall_ms;
use crate::state::State;

/// `{NAME: {"presence": [KEY], "bulletin": [KEY]}}` for the members `names`, under every epoch whose secret is here, the newest
/// and the current slot first; and `"own": {"key", "value"}`, a record of this device's Presence.
pub(crate) fn places(state: &State, names: &[String]) -> Result<Value> {
    let wall_secs = wall_ms()? / 1_000;
    let mut told = json!({"own": own(state, wall_secs)?});
    for name in names {
        let device = state.device_of(name)?;
        told[name] =
            json!({"presence": presences(state, &device, wall_secs), "bulletin": bulletins(state, &device)?});
    }
    Ok(told)
}

fn presences(state: &State, device: &DeviceId, wall_secs: u64) -> Vec<String> {
    let slots: Vec<u64> = read_at(wall_secs).into_iter().chain(written_at(wall_secs)).collect();
    let epochs = state.epochs.iter().rev();
    let places =
        epochs.flat_map(|epoch| slots.iter().map(move |slot| presence::Place::new(epoch, device, *slot)));
    once(places.flatten().map(|place| HEXLOWER.encode(place.key())))
}

/// Of every admin's, the first part.
fn bulletins(state: &State, sleeper: &DeviceId) -> Result<Vec<String>> {
    let admins = &state.charter()?.1.admins;
    let places = state.epochs.iter().rev().flat_map(|epoch| {
        admins.iter().map(move |admin| bulletin::Place::new(epoch, &admin.device, sleeper, 0))
    });
    Ok(once(places.flatten().map(|place| HEXLOWER.encode(place.key()))))
}

/// Each key once, in this order; the same epoch may lie in a folder twice.
fn once(keys: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    keys.filter(|key| seen.insert(key.clone())).collect()
}

fn own(state: &State, wall_secs: u64) -> Result<Value> {
    let presence = Presence {
        device: state.device.public(),
        time: wall_secs,
        counter: u64::from(u32::MAX),
        candidates: vec!["198.18.0.66:41414".parse()?],
        beacon: None,
        nat: 0,
        flags: 0,
        extensions: Extensions::default(),
    };
    let object = Object::sign(&state.vpi, &Body::Presence(presence), &[&state.device])?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    let epoch = state.epochs.last().context("no epoch secret")?;
    let who = (&state.device, &object);
    let record = presence::seal(epoch, slot_of(wall_secs), who, wall_secs, &mut Rng::from_seed(seed));
    let record = record.context("a Presence of one address fits")?;
    Ok(json!({"key": HEXLOWER.encode(&record.key), "value": HEXLOWER.encode(&record.value)}))
}
