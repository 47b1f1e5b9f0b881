//! What the device leaves to us in a packet, and how it is made up for: nothing here knows how the device says so.

use std::num::NonZeroU16;

use crate::tunnel::segment::{TcpCut, UdpCut};
use crate::wire::checksum::Sum;
use crate::wire::ip;

/// What the device left undone in a packet that it hands out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The transport checksum's field holds the sum of the pseudo-header only.
    pub has_partial_checksum: bool,
    /// The packet stands for several, each with so many bytes of TCP or UDP payload, the last with what is left. Then
    /// its checksum is partial, too, whatever the other field says.
    pub segment_bytes: Option<NonZeroU16>,
}

/// Completes the transport checksum of `packet`, one whole IPv4 packet, in place. Reads the payload once.
pub(super) fn complete_checksum(packet: &mut [u8]) {
    let Some((header, payload)) = packet.split_first_chunk_mut::<{ ip::HEADER_BYTES }>() else { return };
    let at = match header[9] {
        ip::TCP => 16,
        ip::UDP => 6,
        _ => return,
    };
    let checksum = match (header[9], Sum::default().add_bytes(payload).checksum()) {
        (ip::UDP, 0) => 0xffff,
        (_, checksum) => checksum,
    };
    if let Some(field) = payload.get_mut(at..at + 2) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Hands `emit` the packets that `packet` stands for, each whole and valid; one if it stands for one.
///
/// For the few packets that wait for a link: allocates each of them.
pub fn whole_packets(packet: &[u8], offload: Offload, mut emit: impl FnMut(Vec<u8>)) {
    let mut write = |bytes: usize, write: &dyn Fn(&mut [u8])| {
        let mut whole = vec![0; bytes];
        write(&mut whole);
        emit(whole);
    };
    let Some(segment_bytes) = offload.segment_bytes else {
        return write(packet.len(), &|out| {
            out.copy_from_slice(packet);
            if offload.has_partial_checksum {
                complete_checksum(out);
            }
        });
    };
    if let Some(cut) = TcpCut::new(packet, usize::from(u16::MAX), Some(segment_bytes)) {
        (0..cut.count()).for_each(|index| write(cut.packet_bytes(index), &|out| cut.write(index, out)));
    } else if let Some(cut) = UdpCut::new(packet, segment_bytes) {
        (0..cut.count()).for_each(|index| write(cut.packet_bytes(index), &|out| cut.write(index, out)));
    }
}
