//! What a stranger sends to a node, and the check that nothing of it is answered.
//!
//! [`besiege`] is the one check: it captures at the switch port of the besieged host, sends every probe, and fails if
//! a single packet left that host for anybody but its members. The scenario runs it against a node, and as a control
//! against a responder in the node's place, where it must fail.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::capture::{Capture, Frame};
use crate::{Host, Lab, wait};

/// A stranger's datagram.
#[derive(Clone, Debug)]
pub struct Probe {
    /// What it pretends to be.
    pub kind: &'static str,
    /// The UDP payload.
    pub bytes: Vec<u8>,
}

/// What a siege found, when nothing was answered.
#[derive(Debug)]
pub struct Silence {
    /// How many probes were seen on the wire, by kind.
    pub kinds: BTreeMap<&'static str, usize>,
    /// How many of them arrived at the besieged port.
    pub arrived: usize,
}

/// Addresses under which the stranger sends, so that a limit for one source does not hide an answer.
const SOURCES: u8 = 16;
/// Probes between two pauses of a millisecond: about 5,000 a second, which no receive buffer loses.
const BURST: usize = 8;
/// How long the last probe may take to the capture's file.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(10);
/// How long an answer may take after the last probe.
const PATIENCE: Duration = Duration::from_secs(2);

/// Makes `count` probes: each kind in turn. `recorded` are genuine datagrams that the node once took.
#[must_use]
pub fn probes(count: usize, recorded: &[Vec<u8>], seed: u64) -> Vec<Probe> {
    let mut noise = Noise(seed | 1);
    (0..count).map(|number| probe(number, recorded, &mut noise)).collect()
}

/// Sends `probes` from `stranger` to `target:port`; returns what was seen, or an error if anything left `target` for
/// an address that is not in `members`.
///
/// # Errors
/// Shows the first answer. Also: probes that did not arrive, or a capture with holes.
pub fn besiege(
    lab: &Lab,
    stranger: &Host,
    (target, port): (&Host, u16),
    probes: &[Probe],
    members: &[Ipv4Addr],
) -> Result<Silence> {
    let sources = take_addresses(stranger)?;
    let capture = Capture::at_port(lab, &target.name, "ip", "siege", &[])?;
    let to = SocketAddr::from((target.address, port));
    let sockets = stranger.enter(|| {
        let bound = sources.iter().map(|source| UdpSocket::bind((*source, 0)));
        Ok(bound.collect::<std::io::Result<Vec<_>>>()?)
    })?;
    for (number, probe) in probes.iter().enumerate() {
        // An ICMP error for an earlier probe shows here; it is an answer, and the capture has it.
        let _ = sockets[number % sockets.len()].send_to(&probe.bytes, to);
        if number % BURST == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    wait::until("the last probe on the wire", ARRIVAL_LIMIT, || {
        Ok((arrivals(&capture, &sources, to)? == probes.len()).then_some(()))
    })?;
    // Silence has no condition to wait for: the time in which an answer would come has to pass.
    thread::sleep(PATIENCE);
    let arrived = arrivals(&capture, &sources, to)?;
    let frames = capture.finish()?;
    let node = IpAddr::V4(target.address);
    let is_member = |address: IpAddr| members.iter().any(|member| IpAddr::V4(*member) == address);
    let answer =
        frames.iter().position(|frame| frame.source.ip() == node && !is_member(frame.destination.ip()));
    if let Some(at) = answer {
        let kind = cause(probes, &frames[..at], frames[at].destination).unwrap_or("none of the probes");
        bail!("{} answered a stranger ({kind}): {:02x?}", target.name, frames[at]);
    }
    let mut kinds = BTreeMap::new();
    for probe in probes {
        *kinds.entry(probe.kind).or_default() += 1;
    }
    Ok(Silence { kinds, arrived })
}

/// How many datagrams to `port` the kernel of `host` threw away because the socket's queue was full: a probe that the
/// node never read proves nothing.
///
/// # Errors
/// `/proc/net/udp` is not as proc(5) says.
pub fn lost_in_queue(host: &Host, port: u16) -> Result<u64> {
    let table = host.run("cat", &["/proc/net/udp", "/proc/net/udp6"], PATIENCE)?.success()?.stdout;
    let suffix = format!(":{port:04X}");
    let mut lost = 0;
    for line in
        table.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|at| at.ends_with(&suffix)))
    {
        lost += line.split_whitespace().last().context("a line without drops")?.parse::<u64>()?;
    }
    Ok(lost)
}

fn take_addresses(stranger: &Host) -> Result<Vec<Ipv4Addr>> {
    let [first, second, third, _] = stranger.address.octets();
    let addresses: Vec<_> =
        (0..SOURCES).map(|number| Ipv4Addr::from([first, second, third, 100 + number])).collect();
    for address in &addresses {
        let words = ["address", "replace", &format!("{address}/24"), "dev", "eth0"];
        stranger.run("ip", &words, PATIENCE)?.success()?;
    }
    Ok(addresses)
}

fn arrivals(capture: &Capture, sources: &[Ipv4Addr], to: SocketAddr) -> Result<usize> {
    let is_probe = |ip: IpAddr| sources.iter().any(|source| IpAddr::V4(*source) == ip);
    Ok(capture
        .frames()?
        .iter()
        .filter(|frame| frame.destination == to && is_probe(frame.source.ip()))
        .count())
}

/// The kind of the last probe that came from `answered` before the answer.
fn cause(probes: &[Probe], before: &[Frame], answered: SocketAddr) -> Option<&'static str> {
    let asked = before.iter().rfind(|frame| frame.source.ip() == answered.ip())?;
    probes.iter().find(|probe| probe.bytes == asked.payload).map(|probe| probe.kind)
}

// Forms of protocol/README and of other protocols, as first bytes and a length; the rest is noise.
const FORMS: [(&str, &[u8], usize); 14] = [
    ("nothing", &[], 0),
    ("one byte", &[0x81], 1),
    ("noise", &[], 200),
    ("data, unknown index", &[0x80, 0, 0, 0], 96),
    ("data, too short", &[0x80, 0, 0, 0], 31),
    ("data, reserved bytes set", &[0x80, 1, 2, 3], 96),
    ("veiled member question", &[0x81, 0], 220),
    ("veiled join question", &[0x81, 1], 760),
    ("relayed", &[0x82, 0, 0, 0, 0, 0, 0, 1, 0x81, 0], 260),
    ("STUN binding request", &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42], 20),
    ("WireGuard initiation", &[1, 0, 0, 0], 148),
    ("QUIC Initial", &[0xc3, 0, 0, 0, 1, 8], 1200),
    ("DTLS ClientHello", &[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0], 160),
    ("DNS query", &[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, b'l', b'o', 0, 0, 1, 0, 1], 20),
];

fn probe(number: usize, recorded: &[Vec<u8>], noise: &mut Noise) -> Probe {
    let turn = number % (FORMS.len() + 4);
    if let Some((kind, head, length)) = FORMS.get(turn) {
        let mut bytes = head.to_vec();
        bytes.extend((head.len()..*length).map(|_| noise.byte()));
        return Probe { kind, bytes };
    }
    let mut bytes = match recorded.len() {
        0 => Vec::new(),
        count => recorded[noise.below(count)].clone(),
    };
    let at = noise.below(bytes.len().max(1));
    let kind = match turn - FORMS.len() {
        0 => "genuine, replayed",
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << noise.below(8);
            }
            "genuine, one bit flipped"
        }
        2 => {
            bytes.truncate(at);
            "genuine, cut short"
        }
        _ => {
            bytes.extend((0..=noise.below(64)).map(|_| noise.byte()));
            "genuine, lengthened"
        }
    };
    Probe { kind, bytes }
}

/// xorshift64 (Marsaglia 2003): the same probes for the same seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or_default() % bound
    }
}

/// Checks that a siege was one: all of `count` arrived, at least eight kinds.
///
/// # Errors
/// Says what was missing.
pub fn was_a_siege(silence: &Silence, count: usize) -> Result<()> {
    ensure!(silence.arrived == count, "{} of {count} probes arrived", silence.arrived);
    ensure!(silence.kinds.len() >= 8, "only {} kinds of probes", silence.kinds.len());
    Ok(())
}
