//! Puts aliases, routes, guard and nftables on this machine, and takes them off.
//!
//! The set-up of one VPI (node/README, On the machine), and nothing else, in the order in which it is made:
//!
//! ```text
//! guard     unreachable 127.80.0.0/16 table local metric 65535     first on, last off: fail closed
//! device    vpi-home, persistent TUN of the node's user            tun::create
//! settings  disable_ipv6 = 1, route_localnet = 1                   on this device only
//! address   127.80.12.7/32 scope host
//! link      mtu 1420, up
//! route     127.80.0.0/16 dev vpi-home table local src 127.80.12.7
//! firewall  table ip vpi-home                                      where nft exists
//! ```
//!
//! Each step looks first and does only what is missing, so that it can be repeated at any time, also under
//! a running node. Everything acts in the network namespace of the calling thread. `rp_filter` is left
//! alone: with the route above, the strict setting lets the tunnel's packets in (tested).

use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;

use thiserror::Error;

use crate::tun::{self, TunError};
use netlink::{Device, Netlink};

mod firewall;
#[cfg(test)]
pub(crate) mod lab;
mod netlink;
mod plan;
mod pool;
mod setting;
#[cfg(test)]
mod sys;
#[cfg(test)]
mod tests;

pub(crate) use firewall::{Firewall, Listing, rule_text, ruleset};
use plan::Missing;
pub(crate) use plan::{DEVICE_PREFIX, Plan, Transport};
pub(crate) use pool::choose;

/// Why the machine is not as it should be.
#[derive(Debug, Error)]
pub(crate) enum LoopbackError {
    /// See [`Plan::new`].
    #[error("{0:?} cannot be the device of a VPI: vpi- and 1 to 11 of a-z, 0-9 and -")]
    Device(String),
    /// See [`Plan::new`].
    #[error("{0} is not the first address of a /16 in 127.64.0.0/10")]
    Prefix(Ipv4Addr),
    /// See [`Plan::new`].
    #[error("{0} cannot be the own alias: it is not inside the prefix")]
    Own(Ipv4Addr),
    /// All 64 prefixes are in use.
    #[error("every /16 of 127.64.0.0/10 is in use on this machine: leave a VPI first")]
    PoolExhausted,
    /// The device.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The name is another kind of device's.
    #[error("device {0} is not a tun device and is left alone: remove what else uses this name")]
    Foreign(String),
    /// The caller is not root.
    #[error("{0} needs root")]
    NeedsRoot(String),
    /// The firewall table was refused.
    #[error("nft refused the table of {device}: {said}")]
    Firewall {
        /// The device, which is the table's name.
        device: String,
        /// The first line that nft said.
        said: String,
    },
    /// Anything else the kernel says.
    #[error("{step}: {source}")]
    Io {
        /// What was to be done.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Puts one VPI on this machine, its device owned by user `owner_uid`; what is there already stays.
///
/// Runs on the caller's tokio runtime and blocks it for the moment that `nft` takes.
///
/// # Errors
/// [`LoopbackError`] of the first step that failed; the steps before it stay and do no harm, the guard being
/// the first. [`Firewall::NoNft`] is no error: the caller warns.
pub(crate) async fn install(plan: &Plan, owner_uid: u32) -> Result<Firewall, LoopbackError> {
    let netlink = Netlink::open().map_err(failed("netlink"))?;
    netlink.set_guard(plan).await.map_err(failed("the guard route"))?;
    let device = device_of(&netlink, plan, owner_uid).await?;
    // IPv6 goes off before the device comes up: else its first packet is a router solicitation.
    setting::apply(plan).map_err(failed("the settings of the device"))?;
    netlink.set_address(plan, device.index).await.map_err(failed("the own alias"))?;
    netlink.set_up(plan, device.index).await.map_err(failed("the mtu and state of the device"))?;
    netlink.set_route(plan, device.index).await.map_err(failed("the route into the device"))?;
    firewall::load(plan)
}

/// Puts the firewall table in force as `plan` has it, for when only its exposures changed; `None`, and nothing done,
/// when the VPI is not on this machine: [`install`] will do it.
///
/// # Errors
/// [`LoopbackError`]; the former table is then still in force.
pub(crate) async fn expose(plan: &Plan) -> Result<Option<Firewall>, LoopbackError> {
    let netlink = Netlink::open().map_err(failed("netlink"))?;
    match netlink.device(plan.device()).await.map_err(failed("the device"))? {
        Some(_) => firewall::load(plan).map(Some),
        None => Ok(None),
    }
}

/// What of one VPI is on this machine, whole or in part: what [`remove`] would take off. The firewall table only if
/// the caller may ask for it.
///
/// # Errors
/// [`LoopbackError::Io`] when the kernel cannot be asked, [`LoopbackError::Foreign`] for a device of another kind.
pub(crate) async fn present(plan: &Plan) -> Result<Vec<&'static str>, LoopbackError> {
    let netlink = Netlink::open().map_err(failed("netlink"))?;
    let routes = netlink.local_routes().await.map_err(failed("the routes"))?;
    let mut present = Vec::new();
    match netlink.device(plan.device()).await.map_err(failed("the device"))? {
        Some(Device { tun: None, .. }) => return Err(LoopbackError::Foreign(plan.device().to_owned())),
        Some(_) => present.push("its device"),
        None => {}
    }
    if routes.iter().any(|route| route.is_guard_of(plan)) {
        present.push("its guard route");
    }
    if firewall::is_loaded(plan) {
        present.push("its firewall table");
    }
    Ok(present)
}

/// Takes one VPI off this machine: firewall table, device with all that hangs on it, guard.
///
/// A part that is not there is done. Works while a node is attached, which then reads `EBADFD`.
///
/// # Errors
/// [`LoopbackError`] of the first step that failed; the guard goes last.
pub(crate) async fn remove(plan: &Plan) -> Result<(), LoopbackError> {
    let netlink = Netlink::open().map_err(failed("netlink"))?;
    firewall::unload(plan)?;
    match netlink.device(plan.device()).await.map_err(failed("the device"))? {
        Some(Device { tun: None, .. }) => return Err(LoopbackError::Foreign(plan.device().to_owned())),
        Some(device) => netlink.delete_device(device.index).await.map_err(failed("the device"))?,
        None => {}
    }
    netlink.delete_guard(plan).await.map_err(failed("the guard route"))
}

/// Takes only the guard route off, for when the device's name is another VPI's by now.
///
/// # Errors
/// [`LoopbackError`].
pub(crate) async fn remove_guard(plan: &Plan) -> Result<(), LoopbackError> {
    let netlink = Netlink::open().map_err(failed("netlink"))?;
    netlink.delete_guard(plan).await.map_err(failed("the guard route"))
}

/// The names of all devices that are up.
///
/// # Errors
/// [`LoopbackError::Io`] when the kernel cannot be asked.
pub(crate) async fn devices_up() -> Result<Vec<String>, LoopbackError> {
    let netlink = Netlink::open().map_err(failed("netlink"))?;
    netlink.devices_up().await.map_err(failed("the devices"))
}

/// Says what of the set-up is not there; nothing when all is. Needs no right, so the firewall is not judged.
///
/// # Errors
/// [`LoopbackError::Io`] when the kernel cannot be asked.
pub(crate) async fn missing(plan: &Plan) -> Result<Vec<Missing>, LoopbackError> {
    let netlink = Netlink::open().map_err(failed("netlink"))?;
    let routes = netlink.local_routes().await.map_err(failed("the routes"))?;
    let mut missing = Vec::new();
    if !routes.iter().any(|route| route.is_guard_of(plan)) {
        missing.push(Missing::Guard);
    }
    let device = netlink.device(plan.device()).await.map_err(failed("the device"))?;
    let Some(device) = device.filter(|device| device.tun.is_some_and(|tun| tun.is_persistent)) else {
        missing.push(Missing::Device);
        return Ok(missing);
    };
    missing.extend(setting::missing(plan).map_err(failed("the settings of the device"))?);
    let addresses = netlink.addresses().await.map_err(failed("the addresses"))?;
    if !addresses.iter().any(|address| address.is_own_of(plan, device.index)) {
        missing.push(Missing::Address);
    }
    if !device.is_up || device.mtu_bytes != plan.mtu_bytes() {
        missing.push(Missing::Link);
    }
    if !routes.iter().any(|route| route.is_route_of(plan, device.index)) {
        missing.push(Missing::Route);
    }
    Ok(missing)
}

/// The inode of the calling thread's network namespace: equal numbers, one namespace.
///
/// # Errors
/// When `/proc` is not there.
pub(crate) fn net_namespace() -> io::Result<u64> {
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// Finds the device, or makes it. One that is as it should be is not opened: a node may be attached.
async fn device_of(netlink: &Netlink, plan: &Plan, owner_uid: u32) -> Result<Device, LoopbackError> {
    let is_ready =
        |device: &Device| device.tun.is_some_and(|tun| tun.is_persistent && tun.owner_uid == Some(owner_uid));
    let name = plan.device();
    if let Some(device) = netlink.device(name).await.map_err(failed("the device"))?.filter(is_ready) {
        return Ok(device);
    }
    tun::create(name, owner_uid)?;
    let made = netlink.device(name).await.map_err(failed("the device"))?;
    made.ok_or_else(|| LoopbackError::Tun(TunError::Missing(name.to_owned())))
}

/// Names the step in an error.
fn failed(step: &'static str) -> impl Fn(io::Error) -> LoopbackError {
    move |source| match source.kind() {
        io::ErrorKind::PermissionDenied => LoopbackError::NeedsRoot(format!("changing {step}")),
        _ => LoopbackError::Io { step: step.to_owned(), source },
    }
}
