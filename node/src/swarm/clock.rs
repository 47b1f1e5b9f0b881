//! What time it is, from beacons: for a device whose own clock cannot be right (node/README, Beacons).

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::futures::io::AsyncReadExt as _;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{PeerId, Swarm};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::Told;
use super::behaviour::Member;
use super::roster::Roster;
use crate::beacon::protocol::{TIME, TIME_BYTES, TimeAnswer};

/// How long one answer may take (chosen: longer, and half of it says nothing about when the beacon looked at its clock).
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long all may take, dialling included.
const ROUND_WITHIN: Duration = Duration::from_secs(5);

/// What one beacon said.
pub(super) struct Reading {
    peer: PeerId,
    offset_ms: i64,
    stun_port: Option<u16>,
}

struct Round {
    dialling: Vec<PeerId>,
    readings: Vec<Reading>,
    until: Instant,
}

/// One round at a time; who asks during one gets its answer.
#[derive(Default)]
pub(super) struct Clock {
    round: Option<Round>,
    asking: JoinSet<Option<Reading>>,
}

impl Clock {
    /// Asks a few beacons.
    pub(super) fn begin(&mut self, swarm: &mut Swarm<Member>, roster: &Roster, now: Instant) {
        if self.round.is_some() {
            return;
        }
        let mut dialling = Vec::new();
        for peer in roster.sample() {
            if swarm.is_connected(&peer) {
                self.ask(peer, swarm);
            } else {
                let condition = PeerCondition::DisconnectedAndNotDialing;
                // An error is that it is being dialled already, or fails as all dials do.
                let _ = swarm.dial(DialOpts::peer_id(peer).condition(condition).build());
                dialling.push(peer);
            }
        }
        self.round = Some(Round { dialling, readings: Vec::new(), until: now + ROUND_WITHIN });
    }

    pub(super) fn is_idle(&self) -> bool {
        self.round.is_none()
    }

    fn ask(&mut self, peer: PeerId, swarm: &Swarm<Member>) {
        let control = swarm.behaviour().stream.new_control();
        self.asking.spawn(async move {
            let answer = timeout(ANSWER_WITHIN, read(peer, control)).await;
            answer.inspect_err(|_| debug!("a beacon did not tell the time")).ok().flatten()
        });
    }

    pub(super) fn on_connected(&mut self, peer: PeerId, swarm: &Swarm<Member>) {
        let round = self.round.as_mut();
        if let Some(round) = round.filter(|round| round.dialling.contains(&peer)) {
            round.dialling.retain(|other| *other != peer);
            self.ask(peer, swarm);
        }
    }

    pub(super) fn on_unreachable(&mut self, peer: PeerId) {
        if let Some(round) = &mut self.round {
            round.dialling.retain(|other| *other != peer);
        }
    }

    /// Waits for the next beacon's answer; never returns while none is asked. A call that is given up loses nothing.
    pub(super) async fn answered(&mut self) -> Option<Reading> {
        match self.asking.join_next().await {
            Some(reading) => reading.ok().flatten(),
            None => std::future::pending().await,
        }
    }

    pub(super) fn on_answered(&mut self, reading: Option<Reading>) {
        if let Some(round) = &mut self.round {
            round.readings.extend(reading);
        }
    }

    /// When [`Self::result`] is there at the latest.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.round.as_ref().map(|round| round.until)
    }

    /// The end of a round, once.
    pub(super) fn result(&mut self, roster: &Roster, now: Instant) -> Option<Told> {
        let is_late = self.round.as_ref()?.until <= now;
        let is_complete = self.asking.is_empty() && self.round.as_ref()?.dialling.is_empty();
        let round = self.round.take_if(|_| is_late || is_complete)?;
        self.asking.abort_all();
        let stun = |reading: &Reading| -> Option<SocketAddr> {
            let ip = roster.beacon(reading.peer)?.socket.ip();
            Some(SocketAddr::new(ip, reading.stun_port?))
        };
        let stun = round.readings.iter().filter_map(stun).collect();
        let offsets = round.readings.iter().map(|reading| reading.offset_ms).collect();
        Some(Told::Clock { offset_ms: median(offsets), stun })
    }
}

/// Opens the stream and reads the answer. The beacon looked at its clock half a round trip before the answer came.
async fn read(peer: PeerId, mut control: libp2p_stream::Control) -> Option<Reading> {
    let asked_at = Instant::now();
    let mut stream = control
        .open_stream(peer, TIME)
        .await
        .inspect_err(|error| debug!(%error, "a beacon does not tell the time"))
        .ok()?;
    let mut bytes = [0; TIME_BYTES];
    stream.read_exact(&mut bytes).await.ok()?;
    let half = i64::try_from(asked_at.elapsed().as_millis() / 2).ok()?;
    let own = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
    let answer = TimeAnswer::decode(&bytes);
    let offset_ms = i64::try_from(answer.wall_ms).ok()?.checked_add(half)?.checked_sub(own)?;
    Some(Reading { peer, offset_ms, stun_port: answer.stun })
}

/// The middle one; of an even number the lower of the two in the middle, so that it is what one beacon said.
fn median(mut offsets: Vec<i64>) -> Option<i64> {
    offsets.sort_unstable();
    offsets.get(offsets.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_beacon_of_three_cannot_move_the_clock() {
        assert_eq!(median(vec![i64::MAX, 12, 10]), Some(12));
        assert_eq!(median(vec![10, i64::MIN, 12]), Some(10));
        assert_eq!(median(vec![7]), Some(7));
        assert_eq!(median(vec![9, 7]), Some(7));
        assert_eq!(median(Vec::new()), None);
    }
}
