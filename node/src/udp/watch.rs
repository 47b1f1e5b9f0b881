//! Tells when the addresses of this machine change: roaming begins here.
//!
//! The kernel reports every change of devices, addresses and routes to whoever listens (rtnetlink(7)); reading them
//! needs no right. Reports come in bursts and most say nothing that concerns a path, so a burst is waited out and what
//! stands afterwards is compared with what stood before. What a report says is never read: one that the kernel could
//! not keep (`ENOBUFS`) is as good as one that was.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily as Family;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;

use super::{interface_addresses, sys};

/// *Specified* (Linux `rtnetlink.h`): links, IPv4 addresses, routes and rules, IPv6 addresses and routes.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400;
/// *Chosen*: any two addresses of the internet, in either half, for VPNs take it in halves to leave the default route as it is.
/// Nothing is sent there.
const FAR: [Ipv4Addr; 2] = [Ipv4Addr::new(12, 0, 0, 1), Ipv4Addr::new(198, 41, 0, 4)];
/// *Chosen*: longer than the kernel and a DHCP client take from the first report to the last, well below what a user
/// notices; also the most often that a flood of reports is looked into.
const BURST: Duration = Duration::from_millis(150);
/// *Chosen*: waits before the kernel is asked again after it failed to answer.
const RETRY: Duration = Duration::from_secs(1);
/// *Chosen*: reports are thrown away unread, so a cut one does no harm.
const REPORT_BYTES: usize = 4_096;

/// A machine's place in the network, as far as paths depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    addresses: Vec<IpAddr>,
    /// Gateway, device and metric of each default route, sorted.
    defaults: Vec<(Option<IpAddr>, Option<u32>, u32)>,
    gateway: Option<Ipv4Addr>,
}

/// A watch on this machine's addresses. Dropping it ends the watch.
pub(crate) struct AddressWatch {
    places: watch::Receiver<Place>,
    task: JoinHandle<()>,
}

impl AddressWatch {
    /// Begins to watch, in the network namespace of the calling thread, on the caller's tokio runtime. Needs no right.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) async fn start() -> io::Result<Self> {
        // Listening before looking: no change falls between the two.
        let reports = sys::watched(listen()?)?;
        let (sender, places) = watch::channel(place().await?);
        let task = tokio::spawn(follow(reports, sender));
        Ok(Self { places, task })
    }

    /// The addresses as they were last seen; see [`interface_addresses`].
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.places.borrow().addresses.clone()
    }

    /// The next router of what this machine sends to the internet over IPv4, by the kernel's word, which minds all routes and
    /// rules: that of a VPN that takes all of it, and `None` where that has no next router, or it goes several ways, or nowhere.
    pub(crate) fn gateway(&self) -> Option<Ipv4Addr> {
        self.places.borrow().gateway
    }

    /// Waits until the addresses, the default routes or the gateway are others than at the last call, and returns the addresses.
    /// A call that is given up loses nothing. Never returns if the kernel reports nothing any more.
    pub(crate) async fn changed(&mut self) -> Vec<IpAddr> {
        if self.places.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.places.borrow_and_update().addresses.clone()
    }
}

impl Drop for AddressWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn listen() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    Ok(socket)
}

/// Turns reports into places, for ever.
async fn follow(reports: AsyncFd<OwnedFd>, places: watch::Sender<Place>) {
    loop {
        if let Err(error) = wait(&reports).await {
            warn!(%error, "changes of this machine's addresses go unnoticed from here on");
            return;
        }
        tokio::time::sleep(BURST).await;
        drain(&reports);
        let place = loop {
            match place().await {
                Ok(place) => break place,
                Err(error) => warn!(%error, "the kernel does not tell this machine's addresses"),
            }
            tokio::time::sleep(RETRY).await;
        };
        places.send_if_modified(|known| {
            let is_other = *known != place;
            *known = place;
            is_other
        });
    }
}

/// Waits for a report.
async fn wait(reports: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        let mut ready = reports.readable().await?;
        match ready.try_io(|reports| Ok(recv(reports.get_ref(), &mut [0; REPORT_BYTES], RecvFlags::TRUNC)?)) {
            Ok(Ok(_)) => return Ok(()),
            // Reports were lost, which is one.
            Ok(Err(error)) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => return Ok(()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}

/// Throws away the rest of a burst. Whatever comes later is a burst of its own.
fn drain(reports: &AsyncFd<OwnedFd>) {
    let mut report = [0; REPORT_BYTES];
    while let Ok(_) | Err(Errno::NOBUFS | Errno::INTR) =
        recv(reports.get_ref(), &mut report, RecvFlags::TRUNC)
    {}
}

async fn place() -> io::Result<Place> {
    let mut addresses = interface_addresses().await?;
    addresses.sort_unstable();
    let (connection, handle, _events) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let mut defaults = Vec::new();
    for family in [Family::Inet, Family::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let routes: Vec<_> =
            handle.route().get(message).execute().try_collect().await.map_err(io::Error::other)?;
        defaults.extend(routes.iter().filter(|route| is_default(route)).map(default_route));
    }
    defaults.sort_unstable();
    let [a, b] = FAR.map(|far| next_router(&handle, far));
    let gateway = a.await.zip(b.await).filter(|(a, b)| a == b).map(|(gateway, _)| gateway);
    Ok(Place { addresses, defaults, gateway })
}

/// Asks the kernel by which router datagrams to `far` would go.
async fn next_router(handle: &Handle, far: Ipv4Addr) -> Option<Ipv4Addr> {
    let mut message = RouteMessage::default();
    message.header.address_family = Family::Inet;
    message.header.destination_prefix_length = 32;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(far)));
    // An error is no way there.
    let route = handle.route().get(message).execute().try_next().await.ok()??;
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some(*gateway),
        _ => None,
    })
}

fn is_default(route: &RouteMessage) -> bool {
    use rtnetlink::packet_route::route::RouteType;
    route.header.destination_prefix_length == 0 && route.header.kind == RouteType::Unicast
}

fn default_route(route: &RouteMessage) -> (Option<IpAddr>, Option<u32>, u32) {
    let (mut gateway, mut device, mut metric) = (None, None, 0);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(IpAddr::V4(*address)),
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    (gateway, device, metric)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::time::timeout;

    use super::*;
    use crate::loopback::lab::{in_own_namespace_async, run};

    /// Many times a burst.
    const QUIET: Duration = Duration::from_millis(800);

    fn two_hosts() {
        run("ip link add eth0 type veth peer name far && ip link set far up && ip link set eth0 up");
        run("ip address add 192.0.2.1/24 dev eth0");
    }

    #[test]
    fn changed_addresses_and_default_routes_are_told_within_half_a_second() {
        in_own_namespace_async(|| async {
            two_hosts();
            let mut watch = AddressWatch::start().await.unwrap();
            assert_eq!(watch.addresses(), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
            for change in [
                "ip address add 198.51.100.7/24 dev eth0",
                "ip address del 192.0.2.1/24 dev eth0",
                "ip route add default via 198.51.100.1",
                "ip route replace default via 198.51.100.2",
                "ip -6 address add 2001:db8::1/64 dev eth0 nodad",
                "ip link set far down",
            ] {
                run(change);
                let since = Instant::now();
                let told = timeout(Duration::from_secs(5), watch.changed()).await.expect(change);
                assert!(since.elapsed() < Duration::from_millis(500), "{change}: {:?}", since.elapsed());
                assert_eq!(told, watch.addresses(), "{change}");
            }
            assert_eq!(watch.addresses(), Vec::<IpAddr>::new(), "the carrier is gone");
        });
    }

    /// The gateway, once nothing changes any more.
    async fn settled_gateway(watch: &mut AddressWatch) -> Option<Ipv4Addr> {
        while timeout(QUIET, watch.changed()).await.is_ok() {}
        watch.gateway()
    }

    #[test]
    fn the_gateway_is_where_the_kernel_sends_what_goes_to_the_internet() {
        in_own_namespace_async(|| async {
            two_hosts();
            run("ip link add tunnel type veth peer name end && ip link set end up && ip link set tunnel up");
            run("ip address add 10.8.0.2/24 dev tunnel");
            let mut watch = AddressWatch::start().await.unwrap();
            assert_eq!(watch.gateway(), None, "no way at all");
            let (home, other) = (Ipv4Addr::new(192, 0, 2, 254), Ipv4Addr::new(192, 0, 2, 253));
            for (change, gateway) in [
                ("ip route add default via 192.0.2.254 metric 600", Some(home)),
                ("ip route add default via 192.0.2.253 metric 100", Some(other)),
                ("ip route del default via 192.0.2.253", Some(home)),
                // VPNs that take everything: by a surer route, in two halves, by a table of their own as wg-quick does.
                ("ip route add default dev tunnel metric 50", None),
                ("ip route del default dev tunnel", Some(home)),
                ("ip route add 0.0.0.0/1 dev tunnel && ip route add 128.0.0.0/1 dev tunnel", None),
                ("ip route del 128.0.0.0/1 dev tunnel", None),
                ("ip route del 0.0.0.0/1 dev tunnel", Some(home)),
                (
                    "ip route add default dev tunnel table 51820 && ip rule add not fwmark 51820 table 51820 && \
                     ip rule add table main suppress_prefixlength 0",
                    None,
                ),
                ("ip rule del table 51820", Some(home)),
                ("ip rule add table 51820", None),
                // One with a router of its own may map ports, where that leads.
                ("ip route replace default via 10.8.0.1 table 51820", Some(Ipv4Addr::new(10, 8, 0, 1))),
                // A table that nothing leads to.
                ("ip rule del table 51820", Some(home)),
            ] {
                run(change);
                assert_eq!(settled_gateway(&mut watch).await, gateway, "{change}");
            }
        });
    }

    #[test]
    fn what_concerns_no_path_wakes_nobody() {
        in_own_namespace_async(|| async {
            two_hosts();
            let mut watch = AddressWatch::start().await.unwrap();
            run("ip route add 203.0.113.0/24 dev eth0");
            run("ip address add 127.80.12.7/32 dev lo scope host");
            run("ip link set far mtu 1400");
            run("ip address add 192.0.2.2/24 dev eth0 && ip address del 192.0.2.2/24 dev eth0");
            assert!(timeout(QUIET, watch.changed()).await.is_err());
        });
    }

    #[test]
    fn a_flood_of_reports_and_a_call_given_up_lose_no_change() {
        in_own_namespace_async(|| async {
            two_hosts();
            let mut watch = AddressWatch::start().await.unwrap();
            // More than the socket's buffer holds, while nobody reads.
            run("for n in $(seq 2 200); do echo address add 192.0.2.$n/24 dev eth0; \
                 for m in $(seq 1 20); do echo route add 203.0.$m.$n/32 dev eth0; done; done | ip -batch -");
            assert!(timeout(Duration::from_millis(20), watch.changed()).await.is_err());
            timeout(Duration::from_secs(5), watch.changed()).await.unwrap();
            assert_eq!(watch.addresses().len(), 200);
            run("ip address flush dev eth0");
            timeout(Duration::from_secs(5), watch.changed()).await.unwrap();
            assert_eq!(watch.addresses().len(), 0, "the watch goes on after lost reports");
        });
    }

    #[test]
    fn watching_needs_no_right() {
        in_own_namespace_async(|| async {
            two_hosts();
            rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(65_534)).unwrap();
            let mut watch = AddressWatch::start().await.unwrap();
            std::thread::spawn(|| ()).join().unwrap();
            assert!(timeout(QUIET, watch.changed()).await.is_err());
            assert_eq!(watch.addresses().len(), 1);
        });
    }
}
