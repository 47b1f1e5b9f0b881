//! `recvmmsg`, `sendmmsg`, the options that set DF on every datagram, and runs of datagrams: ip(7), ipv6(7),
//! recvmmsg(2), udp(7).
#![allow(unsafe_code)]

use std::io;
use std::mem::{self, MaybeUninit, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::batch::{BATCH_MAX, Message};
use super::received::{Entry, MESSAGE_BYTES, MESSAGES_MAX};
use super::socket::Family;

/// An address as the kernel has it.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// *Specified*: room for one control message with up to eight bytes in it (`CMSG_SPACE`).
const CONTROL_BYTES: usize = 24;
/// Messages that one call takes at most.
const CALL_MAX: usize = if BATCH_MAX > MESSAGES_MAX { BATCH_MAX } else { MESSAGES_MAX };

/// One control message, with the alignment of its header.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Has the caller's tokio runtime tell when something can be read from `socket`.
///
/// # Errors
/// What the kernel says.
pub(super) fn watched(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is one open descriptor, the same at every call, until it is dropped; the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// Receives messages without waiting, the first into the first slot of `slots` and so on.
///
/// `slots` are [`MESSAGE_BYTES`] each, as many as `entries`. Returns how many entries are filled, at least 1. One that
/// was larger than its slot has length 0.
///
/// # Errors
/// What the kernel says; `WouldBlock` when there is none.
pub(super) fn receive(socket: BorrowedFd<'_>, slots: &mut [u8], entries: &mut [Entry]) -> io::Result<usize> {
    let mut call = Call::new();
    for slot in slots.chunks_exact_mut(MESSAGE_BYTES).take(entries.len().min(CALL_MAX)) {
        // SAFETY: a name is plain integers, for which all zeros is a valid value: an address of no family.
        let nobody = unsafe { mem::zeroed() };
        call.push(
            (slot.as_mut_ptr(), slot.len()),
            (nobody, size_of::<Name>()),
            Some(Control([0; CONTROL_BYTES])),
        );
    }
    let count = call.count;
    let headers = call.link();
    // SAFETY: the first `count` headers point to live, writable names, control buffers and slots, none of them twice,
    // with their lengths in bytes; `call` and `slots` outlive the call.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers,
            count as libc::c_uint,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
        )
    };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    for (entry, (header, name)) in entries.iter_mut().zip(call.filled()).take(received) {
        let is_cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        let bytes = if is_cut { 0 } else { header.msg_len as usize };
        let segment_bytes = segment_bytes(&header.msg_hdr).unwrap_or(bytes);
        *entry = match decode(name) {
            Some(address) => Entry { address, bytes, segment_bytes },
            None => Entry { bytes: 0, ..*entry },
        };
    }
    Ok(received)
}

/// Sends messages without waiting, in order, as far as the kernel takes them; at most [`BATCH_MAX`].
///
/// Returns how many were sent. An error concerns the first, and then none was sent.
///
/// # Errors
/// What the kernel says.
pub(super) fn send<'a>(
    socket: BorrowedFd<'_>,
    family: Family,
    messages: impl Iterator<Item = Message<'a>>,
) -> io::Result<usize> {
    let mut call = Call::new();
    for message in messages.take(BATCH_MAX) {
        let control = message.segment_bytes.map(|bytes| segment_control(bytes.get()));
        let bytes = (message.bytes.as_ptr().cast_mut(), message.bytes.len());
        call.push(bytes, encode(message.to, family), control);
    }
    let count = call.count;
    let headers = call.link();
    // SAFETY: the first `count` headers point to live names, control buffers and datagrams with their lengths in bytes,
    // which the kernel only reads; `call` and the datagrams outlive the call.
    let sent =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, count as libc::c_uint, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Lets the kernel hand out datagrams of one flow and size together (`UDP_GRO`).
///
/// # Errors
/// What the kernel says; `ENOPROTOOPT` before Linux 5.0.
pub(super) fn receive_runs(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
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

/// The memory of one system call, on the stack; only what its messages need is ever written.
struct Call {
    /// The first so many of each array are initialized.
    count: usize,
    headers: [MaybeUninit<libc::mmsghdr>; CALL_MAX],
    pieces: [MaybeUninit<libc::iovec>; CALL_MAX],
    names: [MaybeUninit<Name>; CALL_MAX],
    controls: [MaybeUninit<Control>; CALL_MAX],
}

impl Call {
    fn new() -> Self {
        Self {
            count: 0,
            headers: [const { MaybeUninit::uninit() }; CALL_MAX],
            pieces: [const { MaybeUninit::uninit() }; CALL_MAX],
            names: [const { MaybeUninit::uninit() }; CALL_MAX],
            controls: [const { MaybeUninit::uninit() }; CALL_MAX],
        }
    }

    /// Describes the next message, one of at most [`CALL_MAX`]: where its bytes are, a name with its length, and a
    /// control message if there is one.
    fn push(
        &mut self,
        (start, bytes): (*mut u8, usize),
        (name, name_bytes): (Name, usize),
        control: Option<Control>,
    ) {
        let index = self.count;
        // SAFETY: a header is plain C data, for which all zeros is a valid value.
        let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
        header.msg_hdr.msg_namelen = name_bytes as libc::socklen_t;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_controllen = if control.is_some() { CONTROL_BYTES } else { 0 };
        self.headers[index].write(header);
        self.pieces[index].write(libc::iovec { iov_base: start.cast(), iov_len: bytes });
        self.names[index].write(name);
        self.controls[index].write(control.unwrap_or(Control([0; CONTROL_BYTES])));
        self.count += 1;
    }

    /// Points the headers to their names, pieces and controls, and returns the first of them. This value must not move
    /// from here on.
    fn link(&mut self) -> *mut libc::mmsghdr {
        let parts = self.names.iter_mut().zip(&mut self.pieces).zip(&mut self.controls);
        for (header, ((name, piece), control)) in self.headers.iter_mut().zip(parts).take(self.count) {
            // SAFETY: `push` wrote the first `count` headers.
            let header = unsafe { header.assume_init_mut() };
            header.msg_hdr.msg_name = name.as_mut_ptr().cast();
            header.msg_hdr.msg_iov = piece.as_mut_ptr();
            if header.msg_hdr.msg_controllen > 0 {
                header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            }
        }
        self.headers.as_mut_ptr().cast()
    }

    /// Headers and names, as the kernel left them.
    fn filled(&self) -> impl Iterator<Item = (&libc::mmsghdr, &Name)> {
        let parts = self.headers.iter().zip(&self.names).take(self.count);
        // SAFETY: `push` wrote the first `count` of both.
        parts.map(|(header, name)| unsafe { (header.assume_init_ref(), name.assume_init_ref()) })
    }
}

/// The control message that has the kernel cut a run into datagrams of so many bytes.
fn segment_control(bytes: u16) -> Control {
    let mut control = Control([0; CONTROL_BYTES]);
    let header = ptr::from_mut(&mut control).cast::<libc::cmsghdr>();
    // SAFETY: `control` has the header's alignment, and room for header and an aligned u16 behind it; CMSG_DATA points
    // into it, as CMSG_LEN counts.
    unsafe {
        (*header).cmsg_level = libc::SOL_UDP;
        (*header).cmsg_type = libc::UDP_SEGMENT;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as libc::c_uint) as usize;
        libc::CMSG_DATA(header).cast::<u16>().write_unaligned(bytes);
    }
    control
}

/// The size of each datagram in a received run; `None` if it is one datagram.
fn segment_bytes(message: &libc::msghdr) -> Option<usize> {
    // SAFETY: `message` was filled by the kernel and points to its live control buffer of `msg_controllen` bytes;
    // CMSG_FIRSTHDR is null if that holds no header, and an int lies behind one of this type.
    let bytes = unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        if header.is_null() || ((*header).cmsg_level, (*header).cmsg_type) != (libc::SOL_UDP, libc::UDP_GRO) {
            return None;
        }
        libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned()
    };
    usize::try_from(bytes).ok().filter(|bytes| *bytes > 0)
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
