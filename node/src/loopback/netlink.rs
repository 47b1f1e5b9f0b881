//! Devices, addresses and routes, asked of and told to the kernel (rtnetlink(7)).
//!
//! Knows the kernel's words, and of a VPI only its [`Plan`]. Every change first looks or says "replace", so
//! that repeating it is no error.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::{Stream, TryStreamExt};
use rtnetlink::packet_core::{DefaultNla, Nla};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{InfoData, InfoTun, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType};
use rtnetlink::{AddressMessageBuilder, Handle, LinkUnspec, RouteMessageBuilder};

use super::Plan;

/// *Specified* (node/README, On the machine): behind every other route of the same prefix.
const GUARD_METRIC: u32 = 65_535;
/// *Specified* (Linux `rtnetlink.h`): the table of addresses, which every lookup begins with.
const TABLE_LOCAL: u8 = 255;
/// *Specified* (Linux `if_link.h`): attributes of a TUN device.
const IFLA_TUN_OWNER: u16 = 1;
/// *Specified*, as above.
const IFLA_TUN_PERSIST: u16 = 6;

/// A connection to the kernel, which lives on the caller's tokio runtime until this is dropped.
pub(super) struct Netlink {
    handle: Handle,
}

/// A network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Device {
    /// The kernel's number.
    pub(super) index: u32,
    /// Whether it is administratively up.
    pub(super) is_up: bool,
    /// Its MTU.
    pub(super) mtu_bytes: u32,
    /// What it is as a TUN device, if it is one.
    pub(super) tun: Option<TunFacts>,
}

/// What the kernel says of a TUN device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TunFacts {
    /// The user who may attach.
    pub(super) owner_uid: Option<u32>,
    /// Whether it stays when nobody is attached.
    pub(super) is_persistent: bool,
}

/// An IPv4 address of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    /// The address.
    pub(super) address: Ipv4Addr,
    index: u32,
    bits: u8,
    scope: AddressScope,
}

/// A route of table local.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LocalRoute {
    /// First address of the destination.
    pub(super) destination: Ipv4Addr,
    /// How many bits of it count.
    pub(super) bits: u8,
    kind: RouteType,
    index: Option<u32>,
    source: Option<Ipv4Addr>,
    metric: u32,
}

impl Netlink {
    /// Opens a connection in the network namespace of the calling thread, with kernel-side filters on.
    ///
    /// # Errors
    /// What the kernel says.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(super) fn open() -> io::Result<Self> {
        let (connection, handle, _events) = rtnetlink::new_connection_with_strict_check()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The device of this name.
    pub(super) async fn device(&self, name: &str) -> io::Result<Option<Device>> {
        let asked = self.handle.link().get().match_name(name).execute();
        match collected(asked).await {
            Ok(found) => Ok(found.first().map(Device::from)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names of all devices that are up.
    pub(super) async fn devices_up(&self) -> io::Result<Vec<String>> {
        let found = collected(self.handle.link().get().execute()).await?;
        let up = found.iter().filter(|link| link.header.flags.contains(LinkFlags::Up));
        let name = |link: &LinkMessage| {
            link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            })
        };
        Ok(up.filter_map(name).collect())
    }

    /// All IPv4 addresses of this machine.
    pub(super) async fn addresses(&self) -> io::Result<Vec<Address>> {
        let mut request = self.handle.address().get();
        request.message_mut().header.family = AddressFamily::Inet;
        let found = collected(request.execute()).await?;
        Ok(found.iter().filter_map(Address::read).collect())
    }

    /// All IPv4 routes of table local.
    pub(super) async fn local_routes(&self) -> io::Result<Vec<LocalRoute>> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = TABLE_LOCAL;
        let found = collected(self.handle.route().get(message).execute()).await?;
        // A kernel that does not filter sends the other tables, too.
        let of_local = |route: &&RouteMessage| route.header.table == TABLE_LOCAL;
        Ok(found.iter().filter(of_local).map(LocalRoute::from).collect())
    }

    /// Makes the own alias the only IPv4 address of the device.
    pub(super) async fn set_address(&self, plan: &Plan, index: u32) -> io::Result<()> {
        let mut is_there = false;
        for address in self.addresses().await?.into_iter().filter(|address| address.index == index) {
            if address.is_own_of(plan, index) {
                is_there = true;
            } else {
                self.delete_address(address).await?;
            }
        }
        if is_there {
            return Ok(());
        }
        let mut request = self.handle.address().add(index, IpAddr::V4(plan.own()), 32);
        request.message_mut().header.scope = AddressScope::Host;
        unless(libc::EEXIST, request.execute().await)
    }

    /// Brings the device up with its MTU.
    pub(super) async fn set_up(&self, plan: &Plan, index: u32) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(index).mtu(plan.mtu_bytes()).up().build();
        self.handle.link().set(message).execute().await.map_err(reason)
    }

    /// Leads the whole prefix into the device.
    pub(super) async fn set_route(&self, plan: &Plan, index: u32) -> io::Result<()> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .table_id(TABLE_LOCAL.into())
            .destination_prefix(plan.prefix(), 16)
            .scope(RouteScope::Link)
            .output_interface(index)
            .pref_source(plan.own())
            .build();
        self.handle.route().add(message).replace().execute().await.map_err(reason)
    }

    /// Makes the whole prefix unreachable where no other route leads it elsewhere.
    pub(super) async fn set_guard(&self, plan: &Plan) -> io::Result<()> {
        self.handle.route().add(guard(plan)).replace().execute().await.map_err(reason)
    }

    /// Undoes [`Self::set_guard`].
    pub(super) async fn delete_guard(&self, plan: &Plan) -> io::Result<()> {
        unless(libc::ESRCH, self.handle.route().del(guard(plan)).execute().await)
    }

    /// Deletes a device, with its addresses and routes, whoever is attached.
    pub(super) async fn delete_device(&self, index: u32) -> io::Result<()> {
        unless(libc::ENODEV, self.handle.link().del(index).execute().await)
    }

    async fn delete_address(&self, address: Address) -> io::Result<()> {
        let message = AddressMessageBuilder::<Ipv4Addr>::new()
            .index(address.index)
            .address(address.address, address.bits)
            .build();
        unless(libc::EADDRNOTAVAIL, self.handle.address().del(message).execute().await)
    }
}

impl From<&LinkMessage> for Device {
    fn from(link: &LinkMessage) -> Self {
        let mut device = Self {
            index: link.header.index,
            is_up: link.header.flags.contains(LinkFlags::Up),
            mtu_bytes: 0,
            tun: None,
        };
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::Mtu(bytes) => device.mtu_bytes = *bytes,
                LinkAttribute::LinkInfo(infos) => device.tun = infos.iter().find_map(TunFacts::read),
                _ => {}
            }
        }
        device
    }
}

impl TunFacts {
    fn read(info: &LinkInfo) -> Option<Self> {
        let LinkInfo::Data(InfoData::Tun(attributes)) = info else { return None };
        let mut facts = Self::default();
        for attribute in attributes {
            match attribute {
                InfoTun::Other(nla) if nla.kind() == IFLA_TUN_OWNER => {
                    facts.owner_uid = value(nla).map(u32::from_ne_bytes);
                }
                InfoTun::Other(nla) if nla.kind() == IFLA_TUN_PERSIST => {
                    facts.is_persistent = value(nla).is_some_and(|[on]: [u8; 1]| on != 0);
                }
                _ => {}
            }
        }
        Some(facts)
    }
}

impl Address {
    fn read(message: &AddressMessage) -> Option<Self> {
        let address = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        })?;
        let header = &message.header;
        Some(Self { address, index: header.index, bits: header.prefix_len, scope: header.scope })
    }

    /// Whether this is what [`Netlink::set_address`] makes.
    pub(super) fn is_own_of(&self, plan: &Plan, index: u32) -> bool {
        let wanted = Self { address: plan.own(), index, bits: 32, scope: AddressScope::Host };
        *self == wanted
    }
}

impl From<&RouteMessage> for LocalRoute {
    fn from(message: &RouteMessage) -> Self {
        let mut route = Self {
            destination: Ipv4Addr::UNSPECIFIED,
            bits: message.header.destination_prefix_length,
            kind: message.header.kind,
            index: None,
            source: None,
            metric: 0,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => route.destination = *address,
                RouteAttribute::Oif(index) => route.index = Some(*index),
                RouteAttribute::PrefSource(RouteAddress::Inet(address)) => route.source = Some(*address),
                RouteAttribute::Priority(metric) => route.metric = *metric,
                _ => {}
            }
        }
        route
    }
}

impl LocalRoute {
    /// Whether this is what [`Netlink::set_route`] makes.
    pub(super) fn is_route_of(&self, plan: &Plan, index: u32) -> bool {
        self.is_to(plan, RouteType::Unicast, 0)
            && self.index == Some(index)
            && self.source == Some(plan.own())
    }

    /// Whether this is what [`Netlink::set_guard`] makes.
    pub(super) fn is_guard_of(&self, plan: &Plan) -> bool {
        self.is_to(plan, RouteType::Unreachable, GUARD_METRIC)
    }

    fn is_to(&self, plan: &Plan, kind: RouteType, metric: u32) -> bool {
        self.destination == plan.prefix() && self.bits == 16 && self.kind == kind && self.metric == metric
    }
}

fn guard(plan: &Plan) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .table_id(TABLE_LOCAL.into())
        .destination_prefix(plan.prefix(), 16)
        .kind(RouteType::Unreachable)
        .priority(GUARD_METRIC)
        .build()
}

/// The value of an attribute, if it has this many bytes.
fn value<const BYTES: usize>(nla: &DefaultNla) -> Option<[u8; BYTES]> {
    let mut value = [0; BYTES];
    (nla.value_len() == BYTES).then(|| {
        nla.emit_value(&mut value);
        value
    })
}

async fn collected<T>(found: impl Stream<Item = Result<T, rtnetlink::Error>>) -> io::Result<Vec<T>> {
    found.try_collect().await.map_err(reason)
}

/// Takes one error number as success: what is to be done was done before.
fn unless(done: i32, result: Result<(), rtnetlink::Error>) -> io::Result<()> {
    match result.map_err(reason) {
        Err(error) if error.raw_os_error() == Some(done) => Ok(()),
        other => other,
    }
}

fn reason(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
