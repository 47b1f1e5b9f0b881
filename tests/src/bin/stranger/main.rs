//! A stranger to beacons: a stock libp2p node, and floods that no node would make.
//!
//! | command | does |
//! |---|---|
//! | `stranger identify ADDRESS` | connects and prints what identify told |
//! | `stranger closest ADDRESS` | asks for the peers closest to a random key |
//! | `stranger put NUMBER ADDRESS...` | puts a valid record to all of them; another NUMBER is another writer |
//! | `stranger plant TEXT ADDRESS...` | puts a valid record whose box is not sealed: it holds TEXT |
//! | `stranger get NUMBER ADDRESS` | fetches that record |
//! | `stranger fetch KEY ADDRESS` | fetches what is under KEY, in hexadecimal, whatever it is |
//! | `stranger place KEY VALUE ADDRESS` | puts VALUE under KEY, both in hexadecimal, whatever they are |
//! | `stranger circuits ADDRESS PEER PEERS EACH [SORT]...` | PEERS strangers with EACH circuits to PEER at once (circuit.rs), until the end of standard input |
//! | `stranger stock ADDRESS PEER` | dials PEER over a circuit, as any libp2p node does |
//! | `stranger flood SORT IP:PORT COUNT NETWORKS` | COUNT connections from NETWORKS networks (flood.rs), held until the end of standard input |
//!
//! Addresses end in `/p2p/` and a peer id. All print one line of JSON.

mod circuit;
mod flood;
mod stock;

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use data_encoding::HEXLOWER;
use libp2p::Multiaddr;
use protocol::discovery::lobby::{Contact, Lobby};
use protocol::discovery::record::Record;
use protocol::discovery::slot::slot_of;
use protocol::identity::{Secret, SigningSecret, VpiId, sha256};
use protocol::random::Rng;
use rand_core::SeedableRng as _;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let addresses = |texts: &[&str]| -> Result<Vec<Multiaddr>> {
        texts.iter().map(|text| text.parse().with_context(|| format!("no address: {text}"))).collect()
    };
    runtime.block_on(async {
        let said = match words {
            ["identify", address] => stock::Node::connect(&addresses(&[address])?).await?.identified()?,
            ["closest", address] => stock::Node::connect(&addresses(&[address])?).await?.closest().await?,
            ["put", number, rest @ ..] if !rest.is_empty() => {
                let record = record(number.parse()?)?;
                stock::Node::connect(&addresses(rest)?).await?.put(record).await?
            }
            ["plant", text, rest @ ..] if !rest.is_empty() => {
                stock::Node::connect(&addresses(rest)?).await?.put(planted(text)?).await?
            }
            ["get", number, address] => {
                let record = record(number.parse()?)?;
                stock::Node::connect(&addresses(&[address])?).await?.get(&record).await?
            }
            ["fetch", key, address] => {
                let key = HEXLOWER.decode(key.as_bytes())?;
                stock::Node::connect(&addresses(&[address])?).await?.fetch(key).await?
            }
            ["place", key, value, address] => {
                let (key, value) = (HEXLOWER.decode(key.as_bytes())?, HEXLOWER.decode(value.as_bytes())?);
                stock::Node::connect(&addresses(&[address])?).await?.place(key, value).await?
            }
            ["circuits", address, member, peers, each, sorts @ ..] => {
                let to = (&address.parse()?, member.parse()?);
                circuit::run(to, (peers.parse()?, each.parse()?), sorts).await?
            }
            ["stock", address, member] => circuit::stock(&address.parse()?, member.parse()?).await?,
            ["flood", sort, target, count, networks] => {
                return flood::run(sort, target.parse()?, count.parse()?, networks.parse()?).await;
            }
            _ => bail!(
                "stranger identify | closest | put | plant | get | fetch | place | circuits | stock | flood"
            ),
        };
        println!("{said}");
        Ok(())
    })
}

/// A record of this hour that every beacon takes; the same `number` gives the same key, and a newer record each second.
fn record(number: u64) -> Result<Record> {
    let wall_secs = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut seed = [5; 32];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    // The hour before lives on, so that a test across a change of slots finds what it put.
    let slot = slot_of(wall_secs.saturating_sub(600));
    let lobby = Lobby::new(&VpiId([5; 32]), &Secret(seed), slot);
    let made = lobby.seal(&Contact::default(), wall_secs, &mut Rng::from_seed(seed));
    made.context("a contact without addresses fits")
}

/// A record of this hour that every beacon takes, as it can see nothing wrong with it: where the sealed box should be stands
/// `text`, over and over.
fn planted(text: &str) -> Result<Record> {
    // As protocol/README §18 has them.
    const SEQUENCE_AT: usize = 33;
    const NONCE_AT: usize = 49;
    let wall_secs = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let secret = SigningSecret::from_seed(&[9; 32]);
    let mut value = record(9)?.value;
    let expiry = record(9)?.expiry;
    value.truncate(value.len() - 64);
    value.splice(1..SEQUENCE_AT, secret.public().0);
    value.splice(SEQUENCE_AT..SEQUENCE_AT + 8, wall_secs.to_be_bytes());
    let open = text.bytes().cycle();
    value.iter_mut().skip(NONCE_AT).zip(open).for_each(|(byte, open)| *byte = open);
    let signature = secret.sign(&[b"vpi/v1 record\0", &value[..]].concat());
    value.extend(signature);
    Ok(Record { key: sha256(&[&secret.public().0]), value, expiry })
}
