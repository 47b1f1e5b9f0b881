//! `recvmmsg`, `sendmmsg` and the options that set DF on every datagram: ip(7), ipv6(7), recvmmsg(2).
#![allow(unsafe_code)]

use std::io;
use std::mem::{self, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::batch::{BATCH_MAX, Entry, SLOT_BYTES};
use super::socket::Family;

/// An address as the kernel has it.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// Receives datagrams without waiting, the first into the first slot of `slab` and so on.
///
/// `slab` is [`BATCH_MAX`] slots of [`SLOT_BYTES`]. Returns how many entries are filled, at least 1. One that
/// was larger than its slot has length 0.
///
/// # Errors
/// What the kernel says; `WouldBlock` when there is none.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    slab: &mut [u8],
    entries: &mut [Entry; BATCH_MAX],
) -> io::Result<usize> {
    let mut call = Call::new();
    let mut slots = 0;
    for (index, slot) in slab.chunks_exact_mut(SLOT_BYTES).take(BATCH_MAX).enumerate() {
        call.set(index, slot.as_mut_ptr(), slot.len(), size_of::<Name>());
        slots += 1;
    }
    call.link();
    // SAFETY: the first `slots` headers point to live, writable names and slots, none of them twice, with
    // their lengths in bytes; `call` and `slab` outlive the call.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            call.headers.as_mut_ptr(),
            slots,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
        )
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    for ((entry, header), name) in entries.iter_mut().zip(&call.headers).zip(&call.names).take(received) {
        let is_cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        let bytes = if is_cut { 0 } else { header.msg_len as usize };
        *entry = match decode(name) {
            Some(address) => Entry { address, bytes },
            None => Entry { bytes: 0, ..*entry },
        };
    }
    Ok(received)
}

/// Sends datagrams without waiting, in order, as far as the kernel takes them; at most [`BATCH_MAX`].
///
/// Returns how many were sent. An error concerns the first datagram, and then none was sent.
///
/// # Errors
/// What the kernel says.
pub(super) fn send<'a>(
    socket: BorrowedFd<'_>,
    family: Family,
    datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>,
) -> io::Result<usize> {
    let mut call = Call::new();
    let mut count = 0;
    for (index, (to, datagram)) in datagrams.take(BATCH_MAX).enumerate() {
        let (name, name_bytes) = encode(to, family);
        call.names[index] = name;
        call.set(index, datagram.as_ptr().cast_mut(), datagram.len(), name_bytes);
        count += 1;
    }
    call.link();
    // SAFETY: the first `count` headers point to live names and datagrams with their lengths in bytes, which
    // the kernel only reads; `call` and the datagrams outlive the call.
    let sent =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), call.headers.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Sets DF on whatever is sent, and lets datagrams up to the device's MTU out whatever the kernel believes of
/// the path.
///
/// # Errors
/// What the kernel says.
pub(super) fn always_set_df(socket: BorrowedFd<'_>, family: Family) -> io::Result<()> {
    // On a socket for both, the option of IPv4 holds for mapped destinations.
    set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
    match family {
        Family::V4 => Ok(()),
        Family::Dual => {
            set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
        }
    }
}

/// The memory of one system call, on the stack.
struct Call {
    headers: [libc::mmsghdr; BATCH_MAX],
    pieces: [libc::iovec; BATCH_MAX],
    names: [Name; BATCH_MAX],
}

impl Call {
    fn new() -> Self {
        // SAFETY: all three are arrays of plain C data, for which all zeros is a valid value.
        unsafe { mem::zeroed() }
    }

    /// Describes datagram `index`, below [`BATCH_MAX`].
    fn set(&mut self, index: usize, start: *mut u8, bytes: usize, name_bytes: usize) {
        self.pieces[index] = libc::iovec { iov_base: start.cast(), iov_len: bytes };
        self.headers[index].msg_hdr.msg_namelen = name_bytes as libc::socklen_t;
        self.headers[index].msg_hdr.msg_iovlen = 1;
    }

    /// Points each header to its name and piece. This value must not move from here on.
    fn link(&mut self) {
        let parts = self.names.iter_mut().zip(&mut self.pieces);
        for (header, (name, piece)) in self.headers.iter_mut().zip(parts) {
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_iov = piece;
        }
    }
}

fn decode(name: &Name) -> Option<SocketAddr> {
    // SAFETY: both variants are plain integers and begin with the family, and the name is zeroed at first.
    let (v4, v6) = unsafe { (&name.v4, &name.v6) };
    match libc::c_int::from(v4.sin_family) {
        libc::AF_INET => {
            let address = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::from((address, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            let (address, port) = (Ipv6Addr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port));
            Some(match address.to_ipv4_mapped() {
                Some(address) => SocketAddr::from((address, port)),
                None => SocketAddrV6::new(address, port, 0, v6.sin6_scope_id).into(),
            })
        }
        _ => None,
    }
}

fn encode(to: SocketAddr, family: Family) -> (Name, usize) {
    match (to, family) {
        (SocketAddr::V4(to), Family::V4) => (Name { v4: encode_v4(to) }, size_of::<libc::sockaddr_in>()),
        (SocketAddr::V4(to), Family::Dual) => {
            let mapped = SocketAddrV6::new(to.ip().to_ipv6_mapped(), to.port(), 0, 0);
            (Name { v6: encode_v6(mapped) }, size_of::<libc::sockaddr_in6>())
        }
        // A socket for IPv4 alone refuses it, which is reported for this datagram.
        (SocketAddr::V6(to), _) => (Name { v6: encode_v6(to) }, size_of::<libc::sockaddr_in6>()),
    }
}

fn encode_v4(to: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

fn encode_v6(to: SocketAddrV6) -> libc::sockaddr_in6 {
    libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: to.port().to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
        sin6_scope_id: to.scope_id(),
    }
}

fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let bytes = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option is an int, `value` lives through the call, and `bytes` is its size.
    let returned =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, ptr::from_ref(&value).cast(), bytes) };
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
