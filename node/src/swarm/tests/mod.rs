//! Members over TCP on loopback, against stock libp2p beacons and some that lie.

mod beacon;
mod circuits;
mod finding;

use std::future::poll_fn;
use std::time::Duration;

use libp2p::PeerId;
use protocol::discovery::lobby::{Contact, Lobby};
use protocol::discovery::record::Record;
use protocol::identity::{Secret, VpiId};
use protocol::random::Rng;
use rand_core::SeedableRng as _;
use tokio::time::timeout;

use super::*;

/// Long for a loaded machine; what is asked to be quick is measured.
const LIMIT: Duration = Duration::from_secs(30);

/// The record of one writer, dated `sequence` seconds after its slot began; all have the same key.
fn record(sequence: u64) -> Record {
    let lobby = Lobby::new(&VpiId([7; 32]), &Secret([7; 32]), 500_000);
    let sequence = 500_000 * 3_600 + sequence;
    lobby.seal(&Contact::default(), sequence, &mut Rng::from_seed([7; 32])).expect("an empty contact fits")
}

/// A member and what it was told and nobody asked for yet.
struct Member {
    swarm: Swarm,
    kept: Vec<Told>,
}

impl Member {
    fn new(beacons: &[Beacon]) -> Self {
        let member = Self { swarm: Swarm::start(), kept: Vec::new() };
        member.ask(Ask::Beacons(beacons.to_vec()));
        member
    }

    fn ask(&self, ask: Ask) {
        assert!(self.swarm.ask(ask), "room for an ask");
    }

    /// Waits for the first that `wanted` takes; the others are kept for later.
    async fn until<T>(&mut self, wanted: impl Fn(&Told) -> Option<T>) -> T {
        if let Some((at, found)) =
            self.kept.iter().enumerate().find_map(|(at, told)| Some((at, wanted(told)?)))
        {
            self.kept.remove(at);
            return found;
        }
        let wait = async {
            loop {
                let told = poll_fn(|cx| self.swarm.poll_told(cx)).await.expect("the task runs");
                match wanted(&told) {
                    Some(found) => return found,
                    None => self.kept.push(told),
                }
            }
        };
        timeout(LIMIT, wait).await.expect("told in time")
    }

    async fn get(&mut self, key: [u8; 32]) -> (Vec<Vec<u8>>, u32) {
        self.ask(Ask::Get { ticket: 5, key });
        self.until(|told| match told {
            Told::Found { ticket: 5, values, answered, .. } => Some((values.clone(), *answered)),
            _ => None,
        })
        .await
    }

    async fn put(&mut self, key: [u8; 32], value: &[u8]) -> u32 {
        self.ask(Ask::Put { key, value: value.to_vec(), expires_in: Duration::from_secs(600) });
        self.until(|told| match told {
            Told::Stored { key: stored, copies, .. } if *stored == key => Some(*copies),
            _ => None,
        })
        .await
    }

    /// Reserves a place, or waits for the next change of it.
    async fn reserved(&mut self) -> Option<(Beacon, PeerId)> {
        self.until(|told| match told {
            Told::Reserved(place) => Some(*place),
            _ => None,
        })
        .await
    }

    /// Opens a circuit and waits for its end or beginning.
    async fn open(&mut self, circuit: u32, (beacon, peer): (Beacon, PeerId)) -> Result<(), Ended> {
        self.ask(Ask::Open { circuit, beacon, peer });
        self.until(|told| match told {
            Told::Circuit { circuit: opened, .. } if *opened == circuit => Some(Ok(())),
            Told::Closed { circuit: closed, ended } if *closed == circuit => Some(Err(*ended)),
            _ => None,
        })
        .await
    }

    /// The next circuit that came in.
    async fn inbound(&mut self) -> (u32, PeerId) {
        self.until(|told| match told {
            Told::Circuit { circuit, peer } if circuit & INBOUND != 0 => Some((*circuit, *peer)),
            _ => None,
        })
        .await
    }

    async fn frame(&mut self, of: u32) -> Vec<u8> {
        self.until(|told| match told {
            Told::Frame { circuit, bytes } if *circuit == of => Some(bytes.clone()),
            _ => None,
        })
        .await
    }

    async fn closed(&mut self, of: u32) -> Ended {
        self.until(|told| match told {
            Told::Closed { circuit, ended } if *circuit == of => Some(*ended),
            _ => None,
        })
        .await
    }

    async fn clock(&mut self) -> (Option<i64>, Vec<std::net::SocketAddr>) {
        self.ask(Ask::Time);
        self.until(|told| match told {
            Told::Clock { offset_ms, stun } => Some((*offset_ms, stun.clone())),
            _ => None,
        })
        .await
    }
}
