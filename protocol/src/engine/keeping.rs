//! Paths in use that say nothing for a while: kept in the NATs before this machine, and what that teaches of them.
//!
//! Only a direct path that an application has used lately, and that leaves this machine through a NAT, is kept: by a probe, whose
//! echo says whether the mapping was still there. Who is idle sends nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::peer::Peer;
use super::{Engine, Time};
use crate::identity::DeviceId;
use crate::path::Remote;

/// The end that does not lead waits for so much longer: the other's probe does for both.
const FOLLOWER_EXTRA: Duration = Duration::from_secs(2);

/// A path that is kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// How long it may be silent.
    after: Option<Duration>,
    /// The silence that was ended last, until something is heard of it.
    tested: Option<Duration>,
    /// Where the member saw this device before it.
    observed: Option<SocketAddr>,
}

impl Peer {
    /// When the path is to be kept.
    pub(super) fn keep_at(&self) -> Option<Instant> {
        Some(self.timers.active_at()? + self.kept.after?)
    }
}

impl Engine {
    /// Sees whether the path to `device` is one to be kept; keeps it if that is due.
    pub(super) fn keep_path(&mut self, device: &DeviceId, time: Time) {
        let Some(peer) = self.peers.get(device) else { return };
        let hosts = self.addresses.as_deref().unwrap_or_default();
        let observed = self.candidates.reflexive.word_of(peer.link);
        let is_translated = observed.is_none_or(|observed| !hosts.contains(&observed));
        let is_direct = peer.path.remote().is_some_and(Remote::is_direct);
        let is_kept = is_direct && is_translated && !peer.is_looking && self.is_in_use(peer, time);
        let extra = if peer.is_lower { Duration::ZERO } else { FOLLOWER_EXTRA };
        let after = is_kept.then(|| self.keepalive.silence() + extra);
        let Some(peer) = self.peers.get_mut(device) else { return };
        peer.kept.after = after;
        if peer.keep_at().is_none_or(|at| time.now < at) {
            return;
        }
        let silence = peer.timers.active_at().map(|at| time.now.saturating_duration_since(at));
        let Some(probe) = peer.path.ping(&mut self.rng, time.now) else { return };
        peer.kept.tested = silence;
        peer.kept.observed = observed;
        peer.timers.on_asked(time.now);
        self.send_probe(device, probe, time);
    }

    /// Something came back over the path to `device`, which sees this device at `observed`: what kept it was in time, or not.
    pub(super) fn on_kept(&mut self, device: &DeviceId, observed: Option<SocketAddr>) {
        let Some(peer) = self.peers.get_mut(device) else { return };
        let Some(silence) = peer.kept.tested.take() else { return };
        let is_other = peer.kept.observed.zip(observed).is_some_and(|(before, now)| before != now);
        match is_other {
            true => self.keepalive.on_lost(silence),
            false => self.keepalive.on_survived(silence),
        }
    }

    /// The path to `device` does not answer.
    pub(super) fn on_unkept(&mut self, device: &DeviceId) {
        let silence = self.peers.get_mut(device).and_then(|peer| peer.kept.tested.take());
        if let Some(silence) = silence {
            self.keepalive.on_lost(silence);
        }
    }
}
