//! Carrying what decides who may be talked to beyond the live links: members that sleep are woken.
//!
//! Whoever learns of a Charter, Remove or Epoch wakes other members one after another, at random, until three of them
//! show that they knew already; its author wakes them all. A handshake shows it: its digests are equal.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rand_core::Rng as _;

use super::{Engine, Time};
use crate::identity::DeviceId;
use crate::random::{Rng, jittered};
use crate::wire::hello::Digests;

/// Members that knew already after which nobody else is woken (specified: README §9).
const ENOUGH: usize = 3;
/// The longest pause between two that are woken (specified: README §9).
const PAUSE: Duration = Duration::from_secs(2);
/// The author's pause: ten a second, ± 20 % (specified: README §9).
const AUTHORS_PAUSE: Duration = Duration::from_millis(100);

/// Something worth waking others for.
#[derive(Debug)]
pub(super) struct Spread {
    is_authors: bool,
    next_at: Instant,
    woken: BTreeSet<DeviceId>,
    /// Members that knew already.
    knew: BTreeSet<DeviceId>,
}

impl Spread {
    fn pause(is_authors: bool, rng: &mut Rng) -> Duration {
        if is_authors {
            jittered(AUTHORS_PAUSE, rng)
        } else {
            PAUSE.mul_f64(f64::from(rng.next_u32()) / f64::from(u32::MAX))
        }
    }
}

impl Engine {
    /// Begins to wake others for what became known just then.
    pub(super) fn begin_spread(&mut self, is_authors: bool, time: Time) {
        let is_authors = is_authors || self.spread.as_ref().is_some_and(|spread| spread.is_authors);
        let next_at = time.now + Spread::pause(is_authors, &mut self.rng);
        self.spread = Some(Spread { is_authors, next_at, woken: BTreeSet::new(), knew: BTreeSet::new() });
    }

    /// A member knew already.
    pub(super) fn spread_was_known(&mut self, device: &DeviceId) {
        let Some(spread) = &mut self.spread else { return };
        spread.knew.insert(*device);
        if !spread.is_authors && spread.knew.len() >= ENOUGH {
            self.spread = None;
        }
    }

    /// Takes in what a member said of itself in a handshake.
    pub(super) fn on_digests(&mut self, device: &DeviceId, theirs: Digests) {
        let is_equal = theirs == self.roster.digests();
        if let Some(peer) = self.peers.get_mut(device) {
            peer.digests = Some(theirs);
        }
        let was_woken = self.spread.as_ref().is_some_and(|spread| spread.woken.contains(device));
        if is_equal && was_woken {
            self.spread_was_known(device);
        }
    }

    /// Wakes the next member, if it is time; ends when there is none left.
    pub(super) fn spread_on(&mut self, time: Time) {
        let Some(spread) = self.spread.as_ref().filter(|spread| time.now >= spread.next_at) else { return };
        let ours = self.roster.digests();
        let asleep: Vec<DeviceId> = self
            .peers
            .iter()
            .filter(|(device, peer)| {
                !spread.woken.contains(*device)
                    && peer.digests != Some(ours)
                    && peer.attempt.is_none()
                    && peer.sessions.current(time.now).is_none()
                    && peer.path.candidates().next().is_some()
            })
            .map(|(device, _)| *device)
            .collect();
        let Some(chosen) = pick(&asleep, &mut self.rng) else {
            self.spread = None;
            return;
        };
        let Some(spread) = &mut self.spread else { return };
        spread.woken.insert(chosen);
        spread.next_at = time.now + Spread::pause(spread.is_authors, &mut self.rng);
        self.wake(&chosen, time);
    }

    /// When the next member is to be woken.
    pub(super) fn spread_at(&self) -> Option<Instant> {
        self.spread.as_ref().map(|spread| spread.next_at)
    }
}

/// One of `devices`, each as likely as any other.
pub(super) fn pick(devices: &[DeviceId], rng: &mut Rng) -> Option<DeviceId> {
    let at = (rng.next_u32() as usize).checked_rem(devices.len())?;
    devices.get(at).copied()
}
