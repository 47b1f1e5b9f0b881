//! The TUN device: packets from and to applications.
//!
//! Root makes a persistent device for the node's user once ([`create`]); the running node, which has no
//! capability, only attaches to it ([`Tun::attach`]). The device, its addresses and the applications'
//! connections outlive the process that is attached. Taking a device off the machine is part of
//! `loopback::remove`, which works while a node is attached, too. In and out: one whole IPv4 packet a call, or
//! a super-packet of up to 64 KiB that stands for many (`IFF_VNET_HDR`); a kernel that has none of that hands
//! out and takes plain packets (`IFF_NO_PI`). Source: Linux `Documentation/networking/tuntap.rst`.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use protocol::forward::Offload;
use protocol::tunnel::coalesce::{Coalesced, Coalescer, PARTS_MAX};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use thiserror::Error;
use tun_rs::{DeviceBuilder, SyncDevice};

mod sys;
#[cfg(test)]
mod tests;
mod vnet;

/// Where the kernel's TUN driver is opened.
const DRIVER: &str = "/dev/net/tun";

/// *Specified* (`IFNAMSIZ` less the terminating zero): the longest name of a device, in bytes.
pub(crate) const NAME_MAX_BYTES: usize = 15;

/// *Chosen*: the longest that attaching waits for the kernel; measured: 1 ms, at most 5, and a
/// node that starts late is worse than one that loses a packet.
const RUNNING_WAIT_MAX: Duration = Duration::from_millis(200);
/// *Chosen*: below what a user notices.
const RUNNING_WAIT_STEP: Duration = Duration::from_millis(1);

/// *Specified*: bytes of the largest super-packet that the kernel hands out, an IPv4 packet's.
pub(crate) const PACKET_BYTES_MAX: usize = 65_535;

/// Why a device was not made or not attached.
#[derive(Debug, Error)]
pub(crate) enum TunError {
    /// No device can have this name.
    #[error("{0:?} cannot be the name of a device: 1 to 15 bytes, no zero, slash or white space")]
    Name(String),
    /// The driver is not there.
    #[error("/dev/net/tun is missing: run modprobe tun, or give this container the device")]
    NoDriver,
    /// The driver's file may not be opened.
    #[error("/dev/net/tun may not be opened by this user: chmod 0666 /dev/net/tun, as udev does")]
    DriverForbidden,
    /// [`create`] was called without `CAP_NET_ADMIN`.
    #[error("making device {0} needs root")]
    NeedsRoot(String),
    /// The device belongs to another user.
    #[error("device {0} belongs to another user: run vpi up as root to give it to this one")]
    NotOwner(String),
    /// Another process is attached.
    #[error("device {0} is in use by another process: stop the other node first")]
    Busy(String),
    /// There is no such device in this network namespace.
    #[error("device {0} does not exist: run vpi up as root to make it")]
    Missing(String),
    /// There is such a device, of another kind.
    #[error("device {0} is not a single-queue tun device: remove what else uses this name")]
    Foreign(String),
    /// Anything else the kernel says.
    #[error("device {name}: {source}")]
    Io {
        /// The device.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Makes the persistent TUN device `name`, or takes the one that is there, and gives it to user `owner`.
///
/// The device is left down and without an address; it stays until it is deleted or the machine restarts.
/// Needs `CAP_NET_ADMIN`.
///
/// # Errors
/// Every [`TunError`] but `Missing` and `NotOwner`; `Busy` when a process is attached.
pub(crate) fn create(name: &str, owner: u32) -> Result<(), TunError> {
    check_name(name)?;
    let driver = open_driver(name)?;
    sys::set_interface(driver.as_fd(), name)
        .and_then(|()| sys::set_owner(driver.as_fd(), owner))
        .and_then(|()| sys::set_persistent(driver.as_fd()))
        .map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::PERM) => TunError::NeedsRoot(name.to_owned()),
            _ => cause(name, error),
        })
}

/// Whether this kernel's driver can hand out and take super-packets at all.
///
/// # Errors
/// [`TunError::NoDriver`], [`TunError::DriverForbidden`], or what else the kernel says.
pub(crate) fn has_offloads() -> Result<bool, TunError> {
    let driver = open_driver(DRIVER)?;
    let features = sys::features(driver.as_fd()).map_err(|error| cause(DRIVER, error))?;
    Ok(features & libc::IFF_VNET_HDR as libc::c_uint != 0)
}

/// An open TUN device. Dropping it detaches; the device itself stays.
pub(crate) struct Tun {
    device: SyncDevice,
    /// A header stands in front of each packet, and super-packets pass.
    has_vnet_header: bool,
    /// Those of UDP, too.
    has_udp_offload: bool,
}

impl Tun {
    /// Attaches to the device `name`, which [`create`] made for this process's user. Needs no capability.
    ///
    /// Neither the device's addresses nor its up-or-down state are touched. Its offloads are set to what this
    /// node and the kernel both can. Blocks until the kernel lets packets into the device, if that is up: a
    /// few milliseconds.
    ///
    /// # Errors
    /// Every [`TunError`] but `NeedsRoot`.
    pub(crate) fn attach(name: &str) -> Result<Self, TunError> {
        check_name(name)?;
        // tun-rs would make a driver file that is missing, and report a refused one like a refused device.
        drop(open_driver(name)?);
        // TUNSETIFF makes a device that is missing, if it may.
        state(name)?;
        let build = |offload| {
            let builder = DeviceBuilder::new().name(name).inherit_enable_state();
            builder
                .with(|linux| {
                    linux.offload(offload);
                })
                .build_sync()
        };
        // A refusal of the device itself comes again without offloads, and is then reported.
        let device = build(true).or_else(|_| build(false)).map_err(|error| cause(name, error))?;
        device.set_nonblocking(true).map_err(|error| cause(name, error))?;
        let (has_vnet_header, has_udp_offload) = (device.tcp_gso(), device.udp_gso());
        tracing::info!(name, tcp = has_vnet_header, udp = has_udp_offload, "device attached, with offloads");
        wait_until_running(name)?;
        Ok(Self { device, has_vnet_header, has_udp_offload })
    }

    /// What puts packets together as [`Tun::write`] takes them, if it takes super-packets.
    ///
    /// The kernel that can be told to hand out those of UDP (Linux 6.2) is the first that also takes them.
    pub(crate) fn coalescer<'d>(&self) -> Option<Coalescer<'d>> {
        self.has_vnet_header.then(|| Coalescer::new(self.has_udp_offload))
    }

    /// Reads one packet into `packet`; returns its length in bytes and what the kernel left undone in it. What
    /// does not fit is cut off; nothing is, from [`PACKET_BYTES_MAX`] bytes on.
    ///
    /// One system call.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; `InvalidData` for one that is none of ours, which is skipped;
    /// `EBADFD` once the device was deleted.
    pub(crate) fn recv(&self, packet: &mut [u8]) -> io::Result<(usize, Offload)> {
        if !self.has_vnet_header {
            return Ok((rustix::io::read(&self.device, packet)?, Offload::default()));
        }
        let mut header = vnet::PLAIN;
        let places = &mut [IoSliceMut::new(&mut header), IoSliceMut::new(packet)];
        let bytes = rustix::io::readv(&self.device, places)?.saturating_sub(vnet::VNET_BYTES);
        let offload = vnet::decode(header).ok_or(ErrorKind::InvalidData)?;
        Ok((bytes, offload))
    }

    /// Hands one whole packet to the kernel.
    ///
    /// # Errors
    /// `EINVAL` for bytes that are not IP; `EIO` when the device is down; `EBADFD` once it was deleted.
    pub(crate) fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.write(&Coalesced::from(packet))
    }

    /// Hands one packet or super-packet to the kernel, straight from where its parts are.
    ///
    /// One system call, which copies the bytes once.
    ///
    /// # Errors
    /// As [`Tun::send`]; `EINVAL` also for a super-packet, if [`Tun::coalescer`] gives none.
    pub(crate) fn write(&self, packet: &Coalesced<'_, '_>) -> io::Result<()> {
        let header = match packet.segment_bytes {
            None => vnet::PLAIN,
            Some(_) if !self.has_vnet_header => return Err(Errno::INVAL.into()),
            Some(bytes) => vnet::encode(packet.headers, bytes),
        };
        let mut parts = [IoSlice::new(&[]); PARTS_MAX + 2];
        let used = packet.payloads.len().min(PARTS_MAX) + 2;
        parts[0] = IoSlice::new(&header);
        parts[1] = IoSlice::new(packet.headers);
        for (part, payload) in parts[2..].iter_mut().zip(packet.payloads) {
            *part = IoSlice::new(payload);
        }
        let first = usize::from(!self.has_vnet_header);
        rustix::io::writev(&self.device, &parts[first..used])?;
        Ok(())
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn check_name(name: &str) -> Result<(), TunError> {
    let fits = (1..=NAME_MAX_BYTES).contains(&name.len()) && name != "." && name != "..";
    // A colon makes an alias label, a percent sign a pattern that the kernel fills in.
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
    if fits && name.bytes().all(is_plain) { Ok(()) } else { Err(TunError::Name(name.to_owned())) }
}

fn open_driver(name: &str) -> Result<File, TunError> {
    File::options().read(true).write(true).open(DRIVER).map_err(|error| {
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NODEV | Errno::NXIO | Errno::NOTDIR) => TunError::NoDriver,
            // EPERM is what a container's device rules say.
            Some(Errno::ACCESS | Errno::PERM) => TunError::DriverForbidden,
            _ => cause(name, error),
        }
    })
}

/// Waits until the kernel's link watch has seen that somebody is attached. Until then it drops what
/// applications send, and a TCP connection's first packet would be missed for a whole second.
fn wait_until_running(name: &str) -> Result<(), TunError> {
    let end = Instant::now() + RUNNING_WAIT_MAX;
    while let (true, false) = state(name)? {
        if Instant::now() >= end {
            tracing::debug!(name, "device does not run yet");
            break;
        }
        thread::sleep(RUNNING_WAIT_STEP);
    }
    Ok(())
}

/// Whether the device of this name, of whatever kind, is up, and whether it runs.
fn state(name: &str) -> Result<(bool, bool), TunError> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let state =
        socket.map_err(io::Error::from).and_then(|socket| sys::is_up_and_is_running(socket.as_fd(), name));
    state.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NODEV) => TunError::Missing(name.to_owned()),
        _ => cause(name, error),
    })
}

/// Names the cause of an ioctl's failure.
fn cause(name: &str, source: io::Error) -> TunError {
    let name = name.to_owned();
    match Errno::from_io_error(&source) {
        Some(Errno::BUSY) => TunError::Busy(name),
        Some(Errno::PERM) => TunError::NotOwner(name),
        Some(Errno::INVAL) => TunError::Foreign(name),
        _ => TunError::Io { name, source },
    }
}
