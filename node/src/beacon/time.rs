//! `/vpi/time/1`: tells members the time, and where the STUN responder is ([`TimeAnswer`]).
//!
//! In: streams that members open. Out: one answer each. Nothing is read, so nobody can make it wait for a question.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::futures::AsyncWriteExt as _;
use libp2p::swarm::Stream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::metrics::Shared;
use super::protocol::TimeAnswer;

/// *Chosen*: answers under way; each is ten bytes, and waits for nothing but a line that is full.
const ANSWERS_MAX: usize = 64;
/// *Chosen*: how long an answer may take to go out.
const WITHIN: Duration = Duration::from_secs(5);

/// Answers streams.
pub(super) struct Clock {
    stun: Option<u16>,
    places: Arc<Semaphore>,
    shared: Arc<Shared>,
}

impl Clock {
    /// `stun` is the port of the STUN responder.
    pub(super) fn new(stun: Option<u16>, shared: Arc<Shared>) -> Self {
        Self { stun, places: Arc::new(Semaphore::new(ANSWERS_MAX)), shared }
    }

    /// Answers one; without a place it is dropped, and the member asks another beacon.
    pub(super) fn tell(&self, stream: Stream) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return };
        let (stun, shared) = (self.stun, Arc::clone(&self.shared));
        tokio::spawn(async move {
            if let Ok(Ok(())) = timeout(WITHIN, tell(stream, stun)).await {
                shared.time_answered.count();
            }
            drop(place);
        });
    }
}

async fn tell(mut stream: Stream, stun: Option<u16>) -> std::io::Result<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    stream.write_all(&TimeAnswer { wall_ms, stun }.encode()).await?;
    stream.close().await
}
