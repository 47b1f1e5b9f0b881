//! What a person typed ↔ VPI and member.

use std::net::Ipv4Addr;

use protocol::identity::{DeviceId, VpiId};

use super::node::Node;
use crate::control::{Exit, Failure};

impl Node {
    /// The VPI of this local name or id.
    ///
    /// # Errors
    /// A [`Failure`] that says which there are.
    pub(super) fn resolve_vpi(&self, typed: &str) -> Result<VpiId, Failure> {
        let by_name = self.vpis.iter().find(|(id, vpi)| {
            !self.joins.contains_key(id)
                && (vpi.settings.name == typed || VpiId::from_hex(typed) == Some(**id))
        });
        by_name.map(|(id, _)| *id).ok_or_else(|| {
            let names: Vec<_> = self.vpis.values().map(|vpi| vpi.settings.name.as_str()).collect();
            let advice = match names.as_slice() {
                [] => "this node is in no VPI yet: `vpi create NAME` or `vpi join`".to_owned(),
                names => format!("this node is in: {}", names.join(", ")),
            };
            Failure::new(Exit::NotFound, format!("there is no VPI called {typed}"), advice)
        })
    }

    /// The member that was typed as `name.vpi`, as a name where there is one VPI, or as an alias; with the words to
    /// show for it.
    ///
    /// # Errors
    /// A [`Failure`] that says what to type.
    pub(super) fn resolve_member(&self, typed: &str) -> Result<(VpiId, DeviceId, String), Failure> {
        let found = match typed.parse::<Ipv4Addr>() {
            Ok(alias) => self.vpis.iter().find_map(|(id, vpi)| Some((*id, vpi.engine.member_at(alias)?))),
            Err(_) => self.member_called(typed)?,
        };
        let (vpi, device) = found.ok_or_else(|| {
            let advice = "see `vpi status` for the members: NAME.VPI, or an alias";
            Failure::new(Exit::NotFound, format!("there is no member {typed}"), advice)
        })?;
        Ok((vpi, device, self.label(&vpi, &device)))
    }

    fn member_called(&self, typed: &str) -> Result<Option<(VpiId, DeviceId)>, Failure> {
        let (name, vpi) = match (typed.rsplit_once('.'), self.vpis.keys().next(), self.vpis.len()) {
            (Some((name, vpi)), _, _) => (name, self.resolve_vpi(vpi)?),
            (None, Some(only), 1) => (typed, *only),
            (None, None, _) => (typed, self.resolve_vpi("")?),
            (None, Some(_), _) => {
                let message = format!("{typed} could be in any of several VPIs");
                return Err(Failure::new(Exit::NotFound, message, "write NAME.VPI"));
            }
        };
        let Some(there) = self.vpis.get(&vpi) else { return Ok(None) };
        let device = there.engine.names().find(|(_, known)| *known == name).map(|(device, _)| device);
        Ok(device.map(|device| (vpi, device)))
    }

    fn label(&self, vpi: &VpiId, device: &DeviceId) -> String {
        let Some(vpi) = self.vpis.get(vpi) else { return device.short() };
        let name = vpi.engine.names().find(|(known, _)| known == device).map(|(_, name)| name.to_owned());
        format!("{}.{}", name.unwrap_or_else(|| device.short()), vpi.settings.name)
    }
}
