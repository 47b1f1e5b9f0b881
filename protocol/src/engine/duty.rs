//! What an admin's node signs by itself, after a while in which another admin may have done it.
//!
//! - An epoch whose removed set is not that of now is followed by another (README §11).
//! - A member that only others vouch for, who are no admins, is confirmed: else it would lose its place when they leave.

use std::time::{Duration, Instant};

use rand_core::Rng as _;

use super::{Engine, Time};
use crate::membership::Membership;
use crate::membership::admin;
use crate::membership::object::Capabilities;

/// The longest wait, with a stale epoch, for another admin to be first (specified: README §9).
const STALE_FOR: Duration = Duration::from_secs(60);
/// The longest wait with members to confirm (chosen: joins come in bursts).
const CONFIRM_WITHIN: Duration = Duration::from_secs(30);

/// When something is to be signed.
#[derive(Debug, Default)]
pub(super) struct Duty {
    epoch_at: Option<Instant>,
    confirm_at: Option<Instant>,
}

impl Engine {
    /// Sees what there is to sign, if this device may.
    pub(super) fn watch_duty(&mut self, time: Time) {
        let (own, membership) = (self.config.device.public(), self.roster.membership());
        let is_stale = membership.epoch().is_some_and(|epoch| epoch.is_stale);
        let makes_epoch = is_stale && membership.may(&own, Capabilities::EPOCH);
        let may_confirm =
            membership.may(&own, Capabilities::INVITE) || membership.may(&own, Capabilities::REMOVE);
        let confirms = may_confirm && has_unconfirmed(membership);
        for (at, is_due, within) in [
            (&mut self.duty.epoch_at, makes_epoch, STALE_FOR),
            (&mut self.duty.confirm_at, confirms, CONFIRM_WITHIN),
        ] {
            let wait = within.mul_f64(f64::from(self.rng.next_u32()) / f64::from(u32::MAX));
            *at = if is_due { at.or(Some(time.now + wait)) } else { None };
        }
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
