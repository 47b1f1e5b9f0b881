//! Who belongs, on all hosts together: the same objects make the same members everywhere; what a host made and others
//! know is on its disk; an admin has one history; who was taken out is gone in that very step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use protocol::engine::{Event, Ticket, Transmit};
use protocol::identity::{DeviceId, ObjectId, sha256};
use protocol::membership::Alarm;
use protocol::membership::epoch::EpochSecret;
use protocol::membership::object::{Body, Object, Remove, Target};

use crate::disk::Write;
use crate::host::{Host, Node};

/// What a node makes of its objects: devices and names, and what a user is warned of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    members: BTreeMap<DeviceId, String>,
    alarms: Vec<Alarm>,
}

impl View {
    /// That of `node`.
    pub(crate) fn of(node: &Node, now: Instant) -> Self {
        let names = node.engine.names().map(|(device, name)| (device, name.to_owned()));
        Self { members: names.collect(), alarms: node.engine.status(now).alarms }
    }
}

/// Bytes of a sealed `have` of one object.
const HAVE_BYTES: usize = 65;
/// Bytes of a sealed `close`.
const CLOSE_BYTES: usize = 34;

/// What is known of all hosts together.
#[derive(Default)]
pub(crate) struct Records {
    /// Which host made what of a set of objects, by the digest of their ids.
    views: BTreeMap<[u8; 32], (usize, View)>,
    /// The object at each place of an admin's chain, as far as another than the admin knows it.
    places: BTreeMap<(DeviceId, u64), ObjectId>,
    hosts: BTreeMap<usize, Known>,
    /// Which hosts ever held the secret with this hash.
    holders: BTreeMap<[u8; 32], BTreeSet<usize>>,
    /// Devices that its maker knew to be removed when it made the secret with this hash.
    barred: BTreeMap<[u8; 32], BTreeSet<DeviceId>>,
}

/// What one process knows.
#[derive(Default)]
struct Known {
    objects: BTreeSet<ObjectId>,
    members: BTreeSet<DeviceId>,
    /// Devices that were members in its eyes and are none.
    gone: BTreeSet<DeviceId>,
    /// Devices that it holds a Remove of.
    removed: BTreeSet<DeviceId>,
    /// Of these, those that it took for members until this very step.
    parting: BTreeSet<DeviceId>,
    /// It said that it was removed itself.
    is_silent: bool,
    /// What each command that is not answered yet asked of the disk, and all before it.
    commanded: VecDeque<Ticket>,
}

impl Records {
    /// A process started from the host's disk.
    pub(crate) fn on_start(&mut self, number: usize, host: &Host) {
        // One that still joins begins with nothing, whatever is on its disk.
        let mut known = Known::default();
        for object in host.disk.objects.iter().filter(|_| host.disk.is_member) {
            known.objects.insert(object.id());
            if let Body::Remove(Remove { target: Target::Device(device), .. }) = object.body() {
                known.removed.insert(*device);
            }
        }
        known.gone.clone_from(&known.removed);
        self.hosts.insert(number, known);
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
            // Whoever leaves keeps its word out of its own set, where it would end the links that carry it.
            if matches!(object.body(), Body::Remove(remove) if remove.is_leave() && remove.signer == hosts[number].id())
            {
                continue;
            }
            let known = self.hosts.entry(number).or_default();
            known.objects.insert(object.id());
            if let Body::Remove(Remove { target: Target::Device(device), .. }) = object.body() {
                known.removed.insert(*device);
            }
            if let Body::Epoch(epoch) = object.body()
                && epoch.admin == hosts[number].id()
            {
                let removed = known.removed.clone();
                self.barred.entry(epoch.secret_hash).or_insert(removed);
            }
            let maker = maker(object).and_then(|device| hosts.iter().position(|host| host.id() == device));
            let Some(maker) = maker.filter(|maker| *maker != number) else { continue };
            if !hosts[maker].disk.had(&object.id()) {
                let kind = object.kind();
                return Err(format!(
                    "{number} has heard of a {kind:?} that {maker} made and has not on disk"
                ));
            }
            self.place(object)?;
        }
        Ok(())
    }

    /// Host `number` took these secrets in.
    pub(crate) fn on_secrets(&mut self, number: usize, epochs: &[EpochSecret]) {
        for epoch in epochs {
            self.holders.entry(epoch.hash()).or_default().insert(number);
        }
    }

    /// No removed device holds a secret that was made after its removal was known to the maker.
    ///
    /// # Errors
    /// Who holds which.
    pub(crate) fn check_secrets(&self, hosts: &[Host]) -> Result<(), String> {
        for (hash, barred) in &self.barred {
            let holders = self.holders.get(hash).into_iter().flatten();
            if let Some(holder) = holders.copied().find(|holder| barred.contains(&hosts[*holder].id())) {
                return Err(format!("{holder} holds an epoch's secret that was made after its removal"));
            }
        }
        Ok(())
    }

    /// Host `number` carried out a command, of which `events` came: whatever it made by then must be on disk before it says
    /// that something was signed. What it makes later, by itself, may be under way still.
    pub(crate) fn on_command(&mut self, number: usize, events: &[Event]) {
        let ticket = |event: &Event| match event {
            Event::Store { ticket, .. } => Some(*ticket),
            _ => None,
        };
        // One that was refused is answered at once, and asks nothing of the disk.
        if let Some(last) = events.iter().filter_map(ticket).max() {
            self.hosts.entry(number).or_default().commanded.push_back(last);
        }
    }

    /// A command's caller was told that something was signed.
    ///
    /// # Errors
    /// If anything that this host made until the command was carried out is not on its disk.
    pub(crate) fn on_signed(&mut self, number: usize, host: &Host) -> Result<(), String> {
        let commanded = self.hosts.entry(number).or_default().commanded.pop_front().unwrap_or(0);
        let waits = |write: &Write| match write {
            Write::Store { ticket, objects, .. } => {
                *ticket <= commanded && objects.iter().any(|object| maker(object) == Some(host.id()))
            }
            Write::Joined => false,
        };
        if host.disk.under_way.iter().any(waits) {
            return Err(format!("{number} was told of something signed that is not on disk"));
        }
        Ok(())
    }

    /// Host `number` said that it was removed.
    pub(crate) fn on_removed(&mut self, number: usize) {
        self.hosts.entry(number).or_default().is_silent = true;
    }

    /// A command's caller was told that `object` was made.
    ///
    /// # Errors
    /// If it is not on disk, or there are two at one place of a chain.
    pub(crate) fn on_acknowledged(&mut self, object: &Object, host: &Host) -> Result<(), String> {
        if !host.disk.had(&object.id()) {
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

    /// After a step in which host `number` took objects in, or started: who is gone for it? Returns how many objects it
    /// has.
    ///
    /// # Errors
    /// If it warns its user.
    pub(crate) fn on_view(&mut self, number: usize, host: &Host, now: Instant) -> Result<usize, String> {
        let known = self.hosts.entry(number).or_default();
        let count = known.objects.len();
        let Some(node) = &host.node else { return Ok(count) };
        let alarms = node.engine.status(now).alarms;
        // No story has members that break the rules; of two takers of one use one is denied.
        if let Some(alarm) = alarms.iter().find(|alarm| !matches!(alarm, Alarm::Contested { .. })) {
            return Err(format!("alarm at {}: {alarm:?}", host.name));
        }
        let devices: BTreeSet<DeviceId> = node.engine.names().map(|(device, _)| device).collect();
        let ended = known.members.difference(&devices).filter(|device| known.removed.contains(*device));
        known.parting = ended.copied().collect();
        known.gone.extend(known.members.difference(&devices));
        known.gone.extend(&known.removed);
        known.gone.retain(|device| !devices.contains(device));
        known.members = devices;
        Ok(count)
    }

    /// How many objects host `number` has.
    pub(crate) fn count(&self, number: usize) -> usize {
        self.hosts.get(&number).map_or(0, |known| known.objects.len())
    }

    /// Host `number` saw this, and took no objects in for a while before and after.
    ///
    /// # Errors
    /// If another host made something else of those it has.
    pub(crate) fn compare(&mut self, number: usize, view: &View) -> Result<(), String> {
        let known = self.hosts.entry(number).or_default();
        let ids: Vec<u8> = known.objects.iter().flat_map(|id| *id.as_bytes()).collect();
        let (first, same) = self.views.entry(sha256(&[&ids])).or_insert_with(|| (number, view.clone()));
        if same == view {
            return Ok(());
        }
        Err(format!("of the same objects {first} makes {same:?}, but {number} makes {view:?}"))
    }

    /// After every step of host `number`: of who is no member any more it has no link, no alias, and it sends nothing
    /// to where that device was; but in the step in which it is removed, the one word that it is.
    ///
    /// # Errors
    /// What it still has.
    pub(crate) fn check_gone(
        &mut self,
        number: usize,
        hosts: &[Host],
        (transmits, known): (&[Transmit], &[(SocketAddr, usize)]),
        took_objects: bool,
    ) -> Result<(), String> {
        let Some(record) =
            self.hosts.get_mut(&number).filter(|record| record.is_silent || !record.gone.is_empty())
        else {
            return Ok(());
        };
        let (host, mut parting) = (&hosts[number], std::mem::take(&mut record.parting));
        if record.is_silent && !transmits.is_empty() {
            return Err(format!("{number} was removed, and sends {} datagrams", transmits.len()));
        }
        for device in &record.gone {
            let Some(node) = &host.node else { continue };
            // Who was gone because others' word for it was, may be back before the objects that say so are stored.
            let is_back = node.is_member(device);
            if is_back && record.removed.contains(device) {
                return Err(format!("{number} holds a Remove of {device:?}, which is a member for it"));
            }
            if !is_back {
                check_traces(node, host, device)?;
            }
        }
        for transmit in transmits {
            let holder = known
                .iter()
                .find(|(address, _)| Some(*address) == transmit.to.udp())
                .map(|(_, holder)| *holder);
            let is_gone = |device: &DeviceId| {
                record.gone.contains(device) && !host.node.as_ref().is_some_and(|node| node.is_member(device))
            };
            // Whoever brings the word of its own end is told that it was heard: a device that leaves waits for it.
            let is_have = transmit.datagram.len() == HAVE_BYTES && took_objects;
            let Some(holder) = holder.filter(|holder| is_gone(&hosts[*holder].id()) && !is_have) else {
                continue;
            };
            let is_last_word = transmit.datagram.len() == CLOSE_BYTES && parting.remove(&hosts[holder].id());
            if !is_last_word {
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
        Body::Remove(remove) => Some(remove.signer),
        Body::Presence(presence) => Some(presence.device),
        Body::Lease(lease) => Some(lease.admin),
        Body::Confirm(confirm) => Some(confirm.admin),
        Body::Charter(_) | Body::Join(_) => None,
    }
}
