//! What a stranger sends to a node, and the check that nothing of it is answered.
//!
//! [`besiege`] is the one check: it captures at the switch port of the besieged host, sends every probe, and fails if
//! a single packet left that host for anybody but its members. The scenario runs it against a node, and as a control
//! against a responder in the node's place, where it must fail. [`knock`] is its like for TCP: a SYN to every port.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::capture::{Capture, Frame};
use crate::rogue::packet;
use crate::{Host, Lab, wait};

mod forms;

pub use forms::{Material, Probe, probes};

/// Where nodes on one lan announce themselves (protocol/README); a node need not listen there.
pub const MULTICAST: (Ipv4Addr, u16) = (Ipv4Addr::new(239, 255, 86, 73), 41_413);

/// What a siege found, when nothing was answered.
#[derive(Debug)]
pub struct Silence {
    /// How many probes were sent, by kind.
    pub kinds: BTreeMap<&'static str, usize>,
    /// How many of them arrived at the besieged ports.
    pub arrived: usize,
    /// From the first probe to the end of the wait for an answer.
    pub lasted: Duration,
    /// Packets of the besieged host to a multicast group: what it says by itself, and not in answer.
    pub announced: usize,
}

/// Addresses under which the stranger sends, so that a limit for one source does not hide an answer.
const SOURCES: u8 = 16;
/// Probes between two pauses of a millisecond: about 20,000 a second, which no receive buffer loses.
const BURST: usize = 24;
/// How long the last probe may take to the capture's file.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(20);
/// How often the capture's file is read meanwhile.
const ARRIVAL_STEP: Duration = Duration::from_millis(200);
/// How long an answer may take after the last probe.
const PATIENCE: Duration = Duration::from_secs(2);
/// SYNs between two pauses of a millisecond.
const KNOCKS: usize = 64;
/// TCP's flags, and where they stand in its header.
const SYN_ACK: u8 = 0x12;
const RST: u8 = 0x04;
const FLAGS_AT: usize = 13;
const TCP: u8 = 6;

/// Sends `probes` from `stranger`, those of each kind to each of `to` in turn (a group's address for multicast); returns
/// what was seen, or an error if anything left `target` for an address that is not in `members`.
///
/// # Errors
/// Shows the first answer. Also: probes that did not arrive, or a capture with holes.
pub fn besiege(
    lab: &Lab,
    (stranger, target): (&Host, &Host),
    to: &[SocketAddr],
    probes: &[Probe],
    members: &[Ipv4Addr],
) -> Result<Silence> {
    let sources = take_addresses(stranger)?;
    let capture = Capture::at_port(lab, &target.name, "ip", "siege", &[])?;
    let started_at = Instant::now();
    let sockets =
        stranger.enter(|| sources.iter().map(|source| open(*source)).collect::<Result<Vec<_>>>())?;
    let mut kinds = BTreeMap::new();
    for (number, probe) in probes.iter().enumerate() {
        let sent: &mut usize = kinds.entry(probe.kind).or_default();
        let to = to[*sent % to.len()];
        *sent += 1;
        // An ICMP error for an earlier probe shows here; it is an answer, and the capture has it.
        let _ = sockets[number % sockets.len()].send_to(&probe.bytes, to);
        if number % BURST == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    wait::until("the last probe on the wire", ARRIVAL_LIMIT, || {
        thread::sleep(ARRIVAL_STEP);
        Ok((arrivals(&capture.frames()?, &sources, to) == probes.len()).then_some(()))
    })?;
    // Silence has no condition to wait for: the time in which an answer would come has to pass.
    thread::sleep(PATIENCE);
    let lasted = started_at.elapsed();
    let frames = capture.finish()?;
    let node = IpAddr::V4(target.address);
    let is_member = |address: IpAddr| members.iter().any(|member| IpAddr::V4(*member) == address);
    let left = |frame: &&Frame| frame.source.ip() == node && !is_member(frame.destination.ip());
    let answer = frames.iter().position(|frame| left(&frame) && !frame.destination.ip().is_multicast());
    if let Some(at) = answer {
        let kind = cause(probes, &frames[..at], frames[at].destination).unwrap_or("none of the probes");
        bail!("{} answered a stranger ({kind}): {:02x?}", target.name, frames[at]);
    }
    let announced = frames.iter().filter(left).count();
    Ok(Silence { kinds, arrived: arrivals(&frames, &sources, to), lasted, announced })
}

/// Sends a TCP SYN from `stranger` to every port of `target` from 1 on. Its kernel refuses them, which is no answer of
/// a node: what must not come is an acknowledgement. Returns how many were refused.
///
/// # Errors
/// Names a port that opened, or shows what else came back.
pub fn knock(lab: &Lab, stranger: &Host, target: &Host) -> Result<usize> {
    let ends = (stranger.address, target.address);
    let filter = format!("tcp and host {} and host {}", ends.0, ends.1);
    let capture = Capture::at_port(lab, &target.name, &filter, "knock", &["-s", "96"])?;
    let socket = stranger.enter(|| Ok(Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?))?;
    let to = SocketAddr::from((target.address, 0)).into();
    for port in 1..=u16::MAX {
        socket.send_to(&packet::syn(ends, 40_000, port), &to)?;
        if usize::from(port) % KNOCKS == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    let is_from =
        |frame: &Frame, host: Ipv4Addr| frame.protocol == TCP && frame.source.ip() == IpAddr::V4(host);
    wait::until("the last SYN on the wire", ARRIVAL_LIMIT, || {
        thread::sleep(ARRIVAL_STEP);
        let knocked = capture.frames()?.iter().filter(|frame| is_from(frame, stranger.address)).count();
        // More where a port opened: the stranger's kernel resets what it knows nothing of.
        Ok((knocked >= usize::from(u16::MAX)).then_some(()))
    })?;
    thread::sleep(PATIENCE / 4);
    let frames = capture.finish()?;
    let answers: Vec<&Frame> = frames.iter().filter(|frame| is_from(frame, target.address)).collect();
    for answer in &answers {
        let flags = answer.payload.get(FLAGS_AT).context("a TCP header has flags")?;
        ensure!(
            flags & SYN_ACK != SYN_ACK,
            "{} opened a port to a stranger: {:02x?}",
            target.name,
            answer.payload
        );
        ensure!(flags & RST != 0, "{} answered a SYN with {:02x?}", target.name, answer.payload);
    }
    Ok(answers.len())
}

/// How many packets `host` sends by itself to others than `members` in `time`, while nobody asks it for anything.
///
/// # Errors
/// A capture with holes.
pub fn unasked(lab: &Lab, host: &Host, members: &[Ipv4Addr], time: Duration) -> Result<usize> {
    let capture = Capture::at_port(lab, &host.name, "ip", "quiet", &[])?;
    thread::sleep(time);
    let is_member =
        |frame: &Frame| members.iter().any(|member| IpAddr::V4(*member) == frame.destination.ip());
    let is_own = |frame: &&Frame| frame.source.ip() == IpAddr::V4(host.address) && !is_member(frame);
    Ok(capture.finish()?.iter().filter(is_own).count())
}

/// The sockets that listen on `host`, as `tcp PORT` or `udp PORT`, in ascending order, each once.
///
/// # Errors
/// ss fails, or prints what it should not.
pub fn listening(host: &Host) -> Result<Vec<String>> {
    let said = host.run("ss", &["-H", "-l", "-n", "-t", "-u"], PATIENCE)?.success()?.stdout;
    let socket = |line: &str| {
        let mut words = line.split_whitespace();
        let protocol = words.next()?.to_owned();
        let (_, port) = words.nth(3)?.rsplit_once(':')?;
        Some(format!("{protocol} {port}"))
    };
    let mut sockets =
        said.lines().map(|line| socket(line).with_context(|| line.to_owned())).collect::<Result<Vec<_>>>()?;
    sockets.sort();
    Ok(sockets)
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

/// Checks that a siege was one: all of `count` arrived, of that many kinds.
///
/// # Errors
/// Says what was missing.
pub fn was_a_siege(silence: &Silence, count: usize, kinds: usize) -> Result<()> {
    ensure!(silence.arrived == count, "{} of {count} probes arrived", silence.arrived);
    ensure!(silence.kinds.len() == kinds, "{} of {kinds} kinds of probes", silence.kinds.len());
    Ok(())
}

fn open(source: Ipv4Addr) -> Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_multicast_if_v4(&source)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    Ok(socket.into())
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

fn arrivals(frames: &[Frame], sources: &[Ipv4Addr], to: &[SocketAddr]) -> usize {
    let is_probe = |ip: IpAddr| sources.iter().any(|source| IpAddr::V4(*source) == ip);
    frames.iter().filter(|frame| to.contains(&frame.destination) && is_probe(frame.source.ip())).count()
}

/// The kind of the last probe that came from `answered` before the answer.
fn cause(probes: &[Probe], before: &[Frame], answered: SocketAddr) -> Option<&'static str> {
    let asked = before.iter().rfind(|frame| frame.source.ip() == answered.ip())?;
    probes.iter().find(|probe| probe.bytes == asked.payload).map(|probe| probe.kind)
}
