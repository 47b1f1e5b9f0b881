//! Packets of applications: made with a number inside, recognised when they come out.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use protocol::identity::sha256;
use protocol::wire::checksum::Sum;
use protocol::wire::ip::{self, HEADER_BYTES, Ipv4, UDP, UDP_HEADER_BYTES};

/// The smallest packet: headers and the number.
pub(crate) const MIN_BYTES: usize = HEADER_BYTES + UDP_HEADER_BYTES + 8;

/// One packet that an application sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) bytes: usize,
    pub(crate) at: Duration,
    /// The receiver answers with a packet of its own.
    pub(crate) wants_echo: bool,
    /// The packet that this one answers.
    pub(crate) echo_of: Option<u64>,
    pub(crate) arrived_at: Option<Duration>,
}

/// Every packet of a run.
#[derive(Default)]
pub(crate) struct Ledger {
    packets: BTreeMap<u64, Sent>,
    /// When packets of a pair were sent whose answers came back, and when these did, in that order.
    echoes: BTreeMap<(usize, usize), Vec<(Duration, Duration)>>,
}

impl Ledger {
    /// Writes down a packet; returns its number.
    pub(crate) fn add(&mut self, sent: Sent) -> u64 {
        let number = self.packets.len() as u64;
        self.packets.insert(number, sent);
        number
    }

    /// The packet with this number.
    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut Sent> {
        self.packets.get_mut(&number)
    }

    /// All packets, in the order in which they were sent.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Sent> {
        self.packets.values()
    }

    /// How many were sent at `since` or later and did not arrive.
    pub(crate) fn missing_since(&self, since: Duration) -> usize {
        self.iter().filter(|sent| sent.at >= since && sent.arrived_at.is_none()).count()
    }

    /// A packet arrived.
    pub(crate) fn arrived(&mut self, number: u64, at: Duration) -> Option<Sent> {
        let sent = self.packets.get_mut(&number)?;
        sent.arrived_at = Some(at);
        let echo = *sent;
        if let Some(asked) = echo.echo_of.and_then(|number| self.packets.get(&number)) {
            self.echoes.entry((asked.from, asked.to)).or_default().push((asked.at, at));
        }
        Some(echo)
    }

    /// When answers to packets from `from` to `to`, sent at `since` or later, came back, in the order of that.
    pub(crate) fn echoes_since(
        &self,
        pair: (usize, usize),
        since: Duration,
    ) -> impl Iterator<Item = Duration> {
        let echoes = self.echoes.get(&pair).into_iter().flatten();
        echoes.filter(move |(asked_at, _)| *asked_at >= since).map(|(_, arrived_at)| *arrived_at)
    }

    /// When an answer to a packet from `from` to `to`, sent at `since` or later, first came back.
    pub(crate) fn first_echo(&self, pair: (usize, usize), since: Duration) -> Option<Duration> {
        let echoes = self.echoes.get(&pair)?.iter().rev();
        // In the order of their arrival: what arrived before cannot have been asked since.
        let recent = echoes.take_while(|(_, arrived_at)| *arrived_at >= since);
        recent.filter(|(asked_at, _)| *asked_at >= since).map(|(_, arrived_at)| *arrived_at).min()
    }
}

/// A UDP packet of `bytes` bytes that carries `number`; may not be fragmented.
pub(crate) fn packet(number: u64, bytes: usize, (source, destination): (Ipv4Addr, Ipv4Addr)) -> Vec<u8> {
    let bytes = bytes.max(MIN_BYTES);
    let mut packet = vec![0; HEADER_BYTES];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(bytes as u16).to_be_bytes());
    packet[6] = 0x40;
    packet[8] = 64;
    packet[9] = UDP;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    let checksum = Sum::default().add_bytes(&packet).checksum();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    let udp_bytes = (bytes - HEADER_BYTES) as u16;
    packet.extend_from_slice(&[0x13, 0x88, 0x13, 0x89]);
    packet.extend_from_slice(&udp_bytes.to_be_bytes());
    packet.extend_from_slice(&[0, 0]);
    packet.extend(payload(number, bytes));
    // UDP sends 0xffff for 0, which there means "none" (RFC 768).
    let checksum = match udp_sum(&packet).checksum() {
        0 => 0xffff,
        checksum => checksum,
    };
    packet[26..28].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// What came out of a tunnel.
pub(crate) enum Arrived<'p> {
    /// The packet with this number, to the byte as it was sent but for the addresses.
    Whole(u64, Ipv4<'p>),
    /// An ICMP error of the node itself.
    Error(Ipv4<'p>),
    /// Neither.
    Strange(&'static str),
}

/// Recognises a packet.
pub(crate) fn recognise(packet: &[u8]) -> Arrived<'_> {
    let Ok(view) = Ipv4::parse(packet) else { return Arrived::Strange("is no IPv4 packet") };
    if view.icmp().is_some_and(|(kind, _)| kind == ip::UNREACHABLE) {
        return Arrived::Error(view);
    }
    let Some(number) = packet.get(28..36).and_then(|bytes| bytes.first_chunk()) else {
        return Arrived::Strange("is too short");
    };
    let number = u64::from_be_bytes(*number);
    if packet[28..] != payload(number, packet.len()) {
        return Arrived::Strange("carries another payload than was sent");
    }
    if Sum::default().add_bytes(&packet[..HEADER_BYTES]).checksum() != 0 || udp_sum(packet).checksum() != 0 {
        return Arrived::Strange("has a wrong checksum");
    }
    Arrived::Whole(number, view)
}

/// The number, then bytes that follow from it.
fn payload(number: u64, packet_bytes: usize) -> Vec<u8> {
    let length = packet_bytes - HEADER_BYTES - UDP_HEADER_BYTES;
    let filler = sha256(&[&number.to_be_bytes()]);
    number.to_be_bytes().into_iter().chain(filler.into_iter().cycle()).take(length).collect()
}

fn udp_sum(packet: &[u8]) -> Sum {
    let udp = &packet[HEADER_BYTES..];
    Sum::default()
        .add_bytes(&packet[12..20])
        .add_word(u16::from(UDP))
        .add_word(udp.len() as u16)
        .add_bytes(udp)
}
