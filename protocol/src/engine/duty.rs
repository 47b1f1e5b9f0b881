//! What an admin's node signs by itself, after a while in which another admin may have done it.
//!
//! - An epoch whose removed set is not that of now is followed by another (README §11).
//! - A member that only others vouch for, who are no admins, is confirmed: else it would lose its place when they leave.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rand_core::Rng as _;

use super::{Engine, Time};
use crate::membership::Membership;
use crate::membership::admin;
use crate::membership::object::{Capabilities, Target};

/// The longest wait, with a stale epoch, for another admin to be first (specified: README §9).
const STALE_FOR: Duration = Duration::from_secs(60);
/// The shortest wait, and half of the longest, if it is stale only because somebody left (chosen): those of some minutes are
/// gathered. Who leaves harms nobody, and could come and go all day.
const LEFT_FOR: Duration = Duration::from_secs(300);
/// Epochs in [`LEFT_WITHIN`] seconds at most because somebody left (chosen: so that a member that sleeps for a month still
/// shares one of the 32 secrets that are kept with the others).
const LEFT_EPOCHS: usize = 8;
/// A week.
const LEFT_WITHIN: u64 = 7 * 86_400;
/// The longest wait with members to confirm (chosen: joins come in bursts).
const CONFIRM_WITHIN: Duration = Duration::from_secs(30);

/// When something is to be signed.
#[derive(Debug, Default)]
pub(super) struct Duty {
    epoch_at: Option<Instant>,
    confirm_at: Option<Instant>,
    /// What was removed when the epoch in force was last not stale.
    covered: BTreeSet<Target>,
}

impl Engine {
    /// Sees what there is to sign, if this device may.
    pub(super) fn watch_duty(&mut self, time: Time) {
        let (own, membership) = (self.config.device.public(), self.roster.membership());
        let is_stale = membership.epoch().is_some_and(|epoch| epoch.is_stale);
        if !is_stale && !membership.removed().eq(&self.duty.covered) {
            self.duty.covered = membership.removed().copied().collect();
        }
        let makes_epoch = is_stale && membership.may(&own, Capabilities::EPOCH);
        let may_confirm =
            membership.may(&own, Capabilities::INVITE) || membership.may(&own, Capabilities::REMOVE);
        let confirms = may_confirm && has_unconfirmed(membership);
        let fresh = membership.removed().filter(|target| !self.duty.covered.contains(*target));
        let (mut is_new, mut has_only_left) = (false, true);
        for target in fresh {
            (is_new, has_only_left) = (true, has_only_left && membership.has_only_left(target));
        }
        let may_wait = is_new && has_only_left;
        let longest = time.now + STALE_FOR;
        let epoch_at = self.duty.epoch_at.filter(|at| may_wait || *at <= longest);
        let first = self.draw(if may_wait { LEFT_FOR } else { STALE_FOR });
        let wait = if may_wait { (LEFT_FOR + first).max(self.left_pause(time)) } else { first };
        self.duty.epoch_at = makes_epoch.then(|| epoch_at.unwrap_or(time.now + wait));
        let wait = self.draw(CONFIRM_WITHIN);
        self.duty.confirm_at = confirms.then(|| self.duty.confirm_at.unwrap_or(time.now + wait));
    }

    /// Any part of `longest`.
    fn draw(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(f64::from(self.rng.next_u32()) / f64::from(u32::MAX))
    }

    /// How long it takes until fewer than [`LEFT_EPOCHS`] epochs are younger than [`LEFT_WITHIN`].
    fn left_pause(&self, time: Time) -> Duration {
        let (set, membership) = (self.roster.objects(), self.roster.membership());
        let dates = membership.epochs().filter_map(|epoch| Some(set.get(&epoch.id)?.body().time()));
        let mut dates: Vec<u64> = dates.collect();
        dates.sort_unstable_by(|a, b| b.cmp(a));
        let oldest = dates.get(LEFT_EPOCHS - 1);
        // Of a clock that is far ahead nobody waits longer.
        let pause = oldest.map_or(0, |at| at.saturating_add(LEFT_WITHIN).saturating_sub(time.wall_secs()));
        Duration::from_secs(pause.min(LEFT_WITHIN))
    }

    /// When something is to be signed, if nobody else does.
    pub(super) fn duty_at(&self) -> Option<Instant> {
        [self.duty.epoch_at, self.duty.confirm_at].into_iter().flatten().min()
    }

    /// Signs what is due. A node that may not sign yet waits anew.
    pub(super) fn do_duty(&mut self, time: Time) {
        let confirms = self.duty.confirm_at.take_if(|at| time.now >= *at).is_some();
        if confirms {
            let _ = self.sign(false, |_, admin| admin::confirm(admin), time);
        }
        let makes_epoch = self.duty.epoch_at.take_if(|at| time.now >= *at).is_some();
        if makes_epoch {
            let _ = self.sign(false, admin::next_epoch, time);
        }
        if confirms || makes_epoch {
            self.watch_duty(time);
        }
    }
}

fn has_unconfirmed(membership: &Membership) -> bool {
    membership.members().any(admin::is_unconfirmed)
}
