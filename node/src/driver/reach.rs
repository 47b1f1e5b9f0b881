//! What members reach on this machine: changes of policy and exposures, written down before they count.
//!
//! The engine's filter follows at once; the firewall table is the command's part, which runs as root.

use std::collections::BTreeSet;

use anyhow::Context as _;
use protocol::engine::Command;
use protocol::identity::{DeviceId, VpiId};

use super::enter::plan;
use super::node::Node;
use super::time;
use crate::control::protocol::Reply;
use crate::control::reach::{Expose, Exposed, Named, Opened, Reachable};
use crate::control::{Exit, Failure};
use crate::store::reach::{EXPOSURES_MAX, Exposure, Policy, Service};
use crate::store::settings::VpiSettings;

impl Node {
    /// Lets members reach a service on 127.0.0.1; who may is what was said last.
    ///
    /// # Errors
    /// An unknown VPI or member, too many exposures, or a disk that does not take it.
    pub(super) fn expose(&mut self, expose: &Expose) -> anyhow::Result<Reply> {
        let id = self.resolve_vpi(&expose.vpi)?;
        let to: BTreeSet<DeviceId> =
            expose.to.iter().map(|typed| self.resolve_device(&id, typed)).collect::<Result<_, _>>()?;
        let exposure = Exposure {
            proto: expose.service.proto,
            port: expose.service.port,
            to: (!expose.to.is_empty()).then_some(to),
        };
        self.change_reach(id, |settings| put(&mut settings.exposures, exposure))
    }

    /// Closes a service again.
    ///
    /// # Errors
    /// An unknown VPI, a service that is not exposed, or a disk that does not take it.
    pub(super) fn unexpose(&mut self, vpi: &str, service: Service) -> anyhow::Result<Reply> {
        let id = self.resolve_vpi(vpi)?;
        self.change_reach(id, |settings| {
            let before = settings.exposures.len();
            settings.exposures.retain(|exposure| exposure.service() != service);
            if settings.exposures.len() < before {
                return Ok(());
            }
            let message = format!("{service} is not exposed to {}", settings.name);
            Err(Failure::new(Exit::NotFound, message, "see `vpi exposures`"))
        })
    }

    /// Chooses what members reach beyond the exposures.
    ///
    /// # Errors
    /// An unknown VPI, or a disk that does not take it.
    pub(super) fn set_policy(&mut self, vpi: &str, policy: Policy) -> anyhow::Result<Reply> {
        let id = self.resolve_vpi(vpi)?;
        self.change_reach(id, |settings| {
            settings.policy = policy;
            Ok(())
        })
    }

    /// What members reach in one VPI or in all.
    ///
    /// # Errors
    /// If there is no such VPI.
    pub(super) fn exposures(&self, vpi: Option<&str>) -> Result<Vec<Reachable>, Failure> {
        let chosen = vpi.map(|vpi| self.resolve_vpi(vpi)).transpose()?;
        let entered = self.entered().filter(|(id, _)| chosen.is_none_or(|chosen| **id == chosen));
        let mut all: Vec<_> = entered.map(|(id, vpi)| self.reachable(id, &vpi.settings)).collect();
        all.sort_by(|a, b| a.vpi.cmp(&b.vpi));
        Ok(all)
    }

    fn change_reach(
        &mut self,
        id: VpiId,
        change: impl FnOnce(&mut VpiSettings) -> Result<(), Failure>,
    ) -> anyhow::Result<Reply> {
        let path = self.state.vpi(&id)?.settings;
        let vpi = self.vpis.get_mut(&id).context("a VPI that was just found is there")?;
        let mut settings = vpi.settings.clone();
        change(&mut settings)?;
        vpi.settings.check_untouched(&path)?;
        settings.save(&path)?;
        vpi.settings = settings.clone();
        vpi.engine.handle_command(Command::Reach(settings.reach()), time());
        Ok(Reply::Opened(Opened { plan: plan(&settings), reach: self.reachable(&id, &settings) }))
    }

    fn reachable(&self, id: &VpiId, settings: &VpiSettings) -> Reachable {
        let exposed = |exposure: &Exposure| Exposed {
            proto: exposure.proto,
            port: exposure.port,
            to: exposure.to.as_ref().map(|to| to.iter().map(|device| self.named(id, device)).collect()),
        };
        Reachable {
            vpi: settings.name.clone(),
            policy: settings.policy,
            exposures: settings.exposures.iter().map(exposed).collect(),
        }
    }

    fn named(&self, vpi: &VpiId, device: &DeviceId) -> Named {
        Named { member: self.member_label(vpi, device), id: device.to_string() }
    }
}

/// Puts an exposure in its place, instead of a former one of the same service.
fn put(exposures: &mut Vec<Exposure>, exposure: Exposure) -> Result<(), Failure> {
    exposures.retain(|former| former.service() != exposure.service());
    if exposures.len() >= EXPOSURES_MAX {
        let message = format!("a VPI has at most {EXPOSURES_MAX} exposures");
        return Err(Failure::new(Exit::Refused, message, "close one with `vpi unexpose`"));
    }
    let at = exposures.partition_point(|other| other.service() < exposure.service());
    exposures.insert(at, exposure);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loopback::Transport;

    fn exposure(port: u16, to: &[u8]) -> Exposure {
        let to: BTreeSet<_> = to.iter().map(|byte| DeviceId::from([*byte; 32])).collect();
        Exposure { proto: Transport::Tcp, port, to: (!to.is_empty()).then_some(to) }
    }

    #[test]
    fn who_may_reach_a_service_is_what_was_said_last() {
        let mut exposures = Vec::new();
        for said in [exposure(80, &[]), exposure(22, &[1, 2]), exposure(22, &[3]), exposure(22, &[3])] {
            put(&mut exposures, said).unwrap();
        }
        assert_eq!(exposures, [exposure(22, &[3]), exposure(80, &[])]);
    }

    #[test]
    fn the_exposures_are_bounded_and_a_former_one_may_still_change() {
        let mut exposures: Vec<_> = (1..=256).map(|port| exposure(port, &[])).collect();
        assert_eq!(put(&mut exposures, exposure(300, &[])).unwrap_err().exit, Exit::Refused);
        put(&mut exposures, exposure(7, &[1])).unwrap();
        assert_eq!((exposures.len(), &exposures[6]), (256, &exposure(7, &[1])));
    }
}
