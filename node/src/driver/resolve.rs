//! What a person typed ↔ VPI and member.

use std::net::Ipv4Addr;

use protocol::identity::{DeviceId, VpiId};

use super::node::Node;
use super::vpi::Vpi;
use crate::control::members::Who;
use crate::control::{Exit, Failure};

impl Node {
    /// The VPIs in which this device is a member, or was: not those that it asks to join.
    pub(super) fn entered(&self) -> impl Iterator<Item = (&VpiId, &Vpi)> {
        self.vpis.iter().filter(|(id, _)| !self.joins.contains_key(id))
    }

    /// The VPI of this local name or id.
    ///
    /// # Errors
    /// A [`Failure`] that says which there are.
    pub(super) fn resolve_vpi(&self, typed: &str) -> Result<VpiId, Failure> {
        let id = VpiId::from_hex(typed);
        let found = self.entered().find(|(known, vpi)| vpi.settings.name == typed || id == Some(**known));
        found.map(|(id, _)| *id).ok_or_else(|| {
            let message = format!("there is no VPI called {typed}");
            Failure::new(Exit::NotFound, message, self.which_vpis())
        })
    }

    fn which_vpis(&self) -> String {
        let names: Vec<_> = self.entered().map(|(_, vpi)| vpi.settings.name.as_str()).collect();
        match names.as_slice() {
            [] => "this node is in no VPI yet: `vpi create NAME` or `vpi join`".to_owned(),
            names => format!("this node is in: {}", names.join(", ")),
        }
    }

    /// The member that was typed as `name.vpi`, as a name that only one VPI knows, or as an alias; with the words to show
    /// for it.
    ///
    /// # Errors
    /// A [`Failure`] that says what to type.
    pub(super) fn resolve_member(&self, typed: &str) -> Result<(VpiId, DeviceId, String), Failure> {
        let found = match typed.parse::<Ipv4Addr>() {
            Ok(alias) => self.member_at(alias),
            Err(_) => self.member_called(typed)?,
        };
        let (vpi, device) = found.ok_or_else(|| no_member(typed))?;
        Ok((vpi, device, self.label(&vpi, &device)))
    }

    /// The member of `vpi` that was typed as for [`Node::resolve_member`], or any device by its key.
    ///
    /// # Errors
    /// A [`Failure`] that says what to type.
    pub(super) fn resolve_device(&self, vpi: &VpiId, typed: &str) -> Result<DeviceId, Failure> {
        let there = self.vpis.get(vpi).ok_or_else(|| no_member(typed))?;
        if let Some(id) = DeviceId::from_hex(typed) {
            return Ok(id);
        }
        if let Ok(alias) = typed.parse::<Ipv4Addr>() {
            return there.engine.member_at(alias).ok_or_else(|| no_member(typed));
        }
        let name = match typed.rsplit_once('.') {
            Some((name, of)) if self.resolve_vpi(of)? == *vpi => name,
            Some(_) => {
                let message = format!("{typed} is no member of {}", there.settings.name);
                return Err(Failure::new(Exit::NotFound, message, "name a member of that VPI"));
            }
            None => typed,
        };
        named_in(there, name)?.ok_or_else(|| no_member(typed))
    }

    /// Which member an alias is.
    ///
    /// # Errors
    /// A [`Failure`] when it is none.
    pub(super) fn whois(&self, alias: Ipv4Addr) -> Result<Who, Failure> {
        let (vpi, device) = self.member_at(alias).ok_or_else(|| {
            let message = format!("{alias} is no member's alias on this machine");
            Failure::new(Exit::NotFound, message, "see `vpi status` for the members and their aliases")
        })?;
        let name = self.vpis.get(&vpi).map(|vpi| vpi.settings.name.clone()).unwrap_or_default();
        Ok(Who { vpi: name, member: self.label(&vpi, &device), id: device.to_string(), alias })
    }

    /// `nas.home` for a member; `None` for who is none.
    pub(super) fn member_label(&self, vpi: &VpiId, device: &DeviceId) -> Option<String> {
        let vpi = self.vpis.get(vpi)?;
        let (_, name) = vpi.engine.names().find(|(known, _)| known == device)?;
        Some(format!("{name}.{}", vpi.settings.name))
    }

    /// The words to show for a device.
    pub(super) fn label(&self, vpi: &VpiId, device: &DeviceId) -> String {
        self.member_label(vpi, device).unwrap_or_else(|| device.short())
    }

    fn member_at(&self, alias: Ipv4Addr) -> Option<(VpiId, DeviceId)> {
        self.entered().find_map(|(id, vpi)| Some((*id, vpi.engine.member_at(alias)?)))
    }

    fn member_called(&self, typed: &str) -> Result<Option<(VpiId, DeviceId)>, Failure> {
        if let Some((name, vpi)) = typed.rsplit_once('.') {
            let id = self.resolve_vpi(vpi)?;
            let Some(vpi) = self.vpis.get(&id) else { return Ok(None) };
            return Ok(named_in(vpi, name)?.map(|device| (id, device)));
        }
        let mut found = Vec::new();
        for (id, vpi) in self.entered() {
            found.extend(named_in(vpi, typed)?.map(|device| (*id, device, vpi.settings.name.as_str())));
        }
        match found.as_slice() {
            [] if self.vpis.is_empty() => {
                Err(Failure::new(Exit::NotFound, format!("there is no member {typed}"), self.which_vpis()))
            }
            [] => Ok(None),
            [(vpi, device, _)] => Ok(Some((*vpi, *device))),
            several => {
                let full: Vec<_> = several.iter().map(|(_, _, vpi)| format!("{typed}.{vpi}")).collect();
                let message = format!("{typed} is a member of several VPIs");
                Err(Failure::new(Exit::NotFound, message, format!("write one of: {}", full.join(", "))))
            }
        }
    }
}

/// The one member of `vpi` with this name.
fn named_in(vpi: &Vpi, name: &str) -> Result<Option<DeviceId>, Failure> {
    let mut found = vpi.engine.names().filter(|(_, known)| *known == name).map(|(device, _)| device);
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => {
            let message = format!("several members of {} are called {name}", vpi.settings.name);
            Err(Failure::new(Exit::NotFound, message, "write the alias of one, as `vpi status` shows it"))
        }
        (found, _) => Ok(found),
    }
}

fn no_member(typed: &str) -> Failure {
    let advice = "see `vpi status` for the members: NAME.VPI, or an alias";
    Failure::new(Exit::NotFound, format!("there is no member {typed}"), advice)
}
