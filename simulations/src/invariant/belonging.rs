//! Who belongs, on all hosts together: the same objects make the same members everywhere; what a host made and others
//! know is on its disk; an admin has one history; who was taken out is gone in that very step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use protocol::engine::Transmit;
use protocol::identity::{DeviceId, ObjectId, sha256};
use protocol::membership::Alarm;
use protocol::membership::object::{Body, Object};

use crate::host::{Host, Node};

/// Devices and names, and what a user is warned of.
type View = (BTreeMap<DeviceId, String>, Vec<Alarm>);

/// What is known of all hosts together.
#[derive(Default)]
pub(crate) struct Records {
    /// Which host made what of a set of objects, by the digest of their ids.
    views: BTreeMap<[u8; 32], (usize, View)>,
    /// The object at each place of an admin's chain, as far as another than the admin knows it.
    places: BTreeMap<(DeviceId, u64), ObjectId>,
    hosts: BTreeMap<usize, Known>,
}

/// What one process knows.
#[derive(Default)]
struct Known {
    objects: BTreeSet<ObjectId>,
    members: BTreeSet<DeviceId>,
    /// Devices that were members in its eyes and are none.
    gone: BTreeSet<DeviceId>,
}

impl Records {
    /// A process started from the host's disk.
    pub(crate) fn on_start(&mut self, number: usize, host: &Host) {
        // One that still joins begins with nothing, whatever is on its disk.
        let kept = host.disk.objects.iter().filter(|_| host.disk.is_member);
        let objects = kept.map(Object::id).collect();
        self.hosts.insert(number, Known { objects, ..Known::default() });
    }

    /// Host `number` took these objects in.
    ///
    /// # Errors
    /// If one is another host's that has it not on disk, or there are two at one place of a chain.
    pub(crate) fn on_objects(
        &mut self,
        number: usize,
        objects: &[Object],
        hosts: &[Host],
    ) -> Result<(), String> {
        for object in objects {
            self.hosts.entry(number).or_default().objects.insert(object.id());
            let maker = maker(object).and_then(|device| hosts.iter().position(|host| host.id() == device));
            let Some(maker) = maker.filter(|maker| *maker != number) else { continue };
            if !hosts[maker].disk.has(&object.id()) {
                let kind = object.kind();
                return Err(format!(
                    "{number} has heard of a {kind:?} that {maker} made and has not on disk"
                ));
            }
            self.place(object)?;
        }
        Ok(())
    }

    /// A command's caller was told that `object` was made.
    ///
    /// # Errors
    /// If it is not on disk, or there are two at one place of a chain.
    pub(crate) fn on_acknowledged(&mut self, object: &Object, host: &Host) -> Result<(), String> {
        if !host.disk.has(&object.id()) {
            return Err(format!("a {:?} was acknowledged that is not on disk", object.kind()));
        }
        self.place(object)
    }

    fn place(&mut self, object: &Object) -> Result<(), String> {
        let Some(link) = object.body().link() else { return Ok(()) };
        let first = *self.places.entry((link.admin, link.seq)).or_insert(object.id());
        if first == object.id() {
            Ok(())
        } else {
            Err(format!(
                "an admin signed two objects at place {}, the second a {:?}",
                link.seq,
                object.kind()
            ))
        }
    }

    /// After a step in which host `number` took objects in, or started.
    ///
    /// # Errors
    /// If it makes something else of them than another host did.
    pub(crate) fn check_view(&mut self, number: usize, host: &Host, now: Instant) -> Result<(), String> {
        let Some(node) = &host.node else { return Ok(()) };
        let alarms = node.engine.status(now).alarms;
        // No story has members that break the rules; of two takers of one use one is denied.
        if let Some(alarm) = alarms.iter().find(|alarm| !matches!(alarm, Alarm::Contested { .. })) {
            return Err(format!("alarm at {}: {alarm:?}", host.name));
        }
        let known = self.hosts.entry(number).or_default();
        let members: BTreeMap<_, _> =
            node.engine.names().map(|(device, name)| (device, name.to_owned())).collect();
        let devices: BTreeSet<DeviceId> = members.keys().copied().collect();
        known.gone.extend(known.members.difference(&devices));
        known.gone.retain(|device| !devices.contains(device));
        known.members = devices;
        let ids: Vec<u8> = known.objects.iter().flat_map(|id| *id.as_bytes()).collect();
        let view = (members, alarms);
        let (first, same) = self.views.entry(sha256(&[&ids])).or_insert_with(|| (number, view.clone()));
        if *same == view {
            return Ok(());
        }
        Err(format!("of the same objects {first} makes {same:?}, but {number} makes {view:?}"))
    }

    /// After every step of host `number`: of who is no member any more it has no link, no alias, and it sends nothing
    /// to where that device was.
    ///
    /// # Errors
    /// What it still has.
    pub(crate) fn check_gone(
        &self,
        number: usize,
        hosts: &[Host],
        (transmits, known): (&[Transmit], &[(SocketAddr, usize)]),
    ) -> Result<(), String> {
        let Some(record) = self.hosts.get(&number).filter(|record| !record.gone.is_empty()) else {
            return Ok(());
        };
        let host = &hosts[number];
        for device in &record.gone {
            if let Some(node) = &host.node {
                check_traces(node, host, device)?;
            }
        }
        for transmit in transmits {
            let holder = known.iter().find(|(address, _)| *address == transmit.to).map(|(_, holder)| *holder);
            if let Some(holder) = holder.filter(|holder| record.gone.contains(&hosts[*holder].id())) {
                let length = transmit.datagram.len();
                return Err(format!("{number} sent {length} bytes to {holder}, for it no member any more"));
            }
        }
        Ok(())
    }
}

/// A node remembers nothing of a device that is gone but its alias, which nobody else gets.
fn check_traces(node: &Node, host: &Host, device: &DeviceId) -> Result<(), String> {
    if node.engine.traffic(device).is_some() {
        return Err(format!("{} has a link with {device:?}, which is gone", host.name));
    }
    if host.alias_of(device).is_some_and(|alias| node.engine.member_at(alias).is_some()) {
        return Err(format!("{} says who {device:?} was, which is gone", host.name));
    }
    Ok(())
}

/// The device that alone made an object. A Join is its joiner's, who tells it before anything else is on disk.
fn maker(object: &Object) -> Option<DeviceId> {
    match object.body() {
        Body::Invite(invite) => Some(invite.admin),
        Body::Admit(admit) => Some(admit.witness),
        Body::Epoch(epoch) => Some(epoch.admin),
        Body::Rekey(rekey) => Some(rekey.device),
        Body::Charter(_) | Body::Join(_) => None,
    }
}
