//! Beacons and members as they are, over whatever connections a benchmark makes between them (`benches/lookups`).

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use libp2p::PeerId;

pub use crate::beacon::within::{Look, Within as Beacon, identity};
use crate::swarm::{self, Ask, Swarm, Told};
pub use crate::swarm::{Connections, Pipe};

/// The member's side: asks beacons as a node does.
pub struct Member(Swarm);

/// What a lookup or a put came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The values that were found and signed for their key; none of a put.
    pub values: Vec<Vec<u8>>,
    /// Beacons that answered a lookup; copies that were read back after a put.
    pub answered: u32,
    /// Questions that it took.
    pub asked: u32,
}

impl Member {
    /// Starts one over what `make` makes, which knows the given beacons; to be called inside a tokio runtime.
    ///
    /// # Errors
    /// It has ended at once: there is no randomness.
    pub fn start(
        make: impl Fn() -> Connections + Send + Sync + 'static,
        known: impl IntoIterator<Item = (PeerId, SocketAddr)>,
    ) -> anyhow::Result<Self> {
        let member = Swarm::start_over(make);
        let known = known.into_iter().map(|(peer, socket)| swarm::Beacon { peer, socket });
        ensure!(member.ask(Ask::Beacons(known.collect())), "a member takes no beacons");
        Ok(Self(member))
    }

    /// Looks a key up.
    ///
    /// # Errors
    /// The member has ended.
    pub async fn get(&mut self, key: [u8; 32]) -> anyhow::Result<Outcome> {
        self.ask(Ask::Get { ticket: 1, key }).await
    }

    /// Puts a value where it belongs.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn put(&mut self, key: [u8; 32], value: Vec<u8>, life: Duration) -> anyhow::Result<Outcome> {
        self.ask(Ask::Put { key, value, expires_in: life }).await
    }

    async fn ask(&mut self, ask: Ask) -> anyhow::Result<Outcome> {
        ensure!(self.0.ask(ask), "a member asks nothing");
        loop {
            match poll_fn(|cx| self.0.poll_told(cx)).await {
                Some(Told::Found { values, answered, asked, .. }) => {
                    return Ok(Outcome { values, answered, asked });
                }
                Some(Told::Stored { copies, asked, .. }) => {
                    return Ok(Outcome { values: Vec::new(), answered: copies, asked });
                }
                Some(_) => {}
                None => anyhow::bail!("a member has ended"),
            }
        }
    }
}
