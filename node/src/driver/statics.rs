//! This device's static keys on disk: a fresh one after three months, the one before it kept for members who slept.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use protocol::engine::{Command, Time};
use protocol::identity::StaticSecret;
use tracing::info;

use super::node::Node;
use super::vpi::Vpi;
use crate::store::keys::Keys;

/// A static key serves for so long (chosen: whoever slept less still knows the key before it).
const SERVES_FOR: Duration = Duration::from_secs(90 * 24 * 3_600);
/// Between two looks at the ages of keys, while the node runs.
const LOOK_EVERY: Duration = Duration::from_secs(24 * 3_600);

impl Node {
    /// Gives the engine this device's other static keys, and a fresh one if the newest has served.
    ///
    /// # Errors
    /// When keys cannot be read or written.
    pub(super) fn tend_statics(keys: &Keys, vpi: &mut Vpi, time: Time) -> anyhow::Result<()> {
        let id = vpi.engine.vpi();
        let mut statics = keys.statics(&id)?;
        let newest = statics.pop().context("the static key of this VPI is missing: join it again")?;
        for (counter, former) in statics.into_iter().rev() {
            if counter + 1 == newest.0 {
                vpi.engine.handle_command(Command::Static(former), time);
            } else {
                keys.remove_static(&id, counter)?;
            }
        }
        if keys.static_age(&id, newest.0)? >= SERVES_FOR {
            let fresh = StaticSecret::from_bytes(*super::enter::draw()?);
            keys.put_static(&id, newest.0 + 1, &fresh)?;
            info!(vpi = vpi.settings.name, "this device has a fresh static key");
            vpi.engine.handle_command(Command::Rekey(fresh), time);
        }
        Ok(())
    }

    /// Looks at the ages of all static keys, once a day.
    ///
    /// # Errors
    /// As [`Node::tend_statics`].
    pub(super) fn statics_due(&mut self, time: Time) -> anyhow::Result<()> {
        if time.now < self.look_at_statics_at {
            return Ok(());
        }
        self.look_at_statics_at = time.now + LOOK_EVERY;
        let keys = self.state.keys();
        for (id, vpi) in &mut self.vpis {
            if !self.joins.contains_key(id) {
                Self::tend_statics(&keys, vpi, time)?;
            }
        }
        Ok(())
    }
}

/// When the next look is due, of a node that starts.
pub(super) fn first_look_at(now: Instant) -> Instant {
    now + LOOK_EVERY
}
