//! What the offloads do is never seen: bytes arrive as they were sent whatever the way does to datagrams, and every
//! packet that an application's machine gets from the tunnel is one that a sender could have written.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use socket2::SockRef;
use tests::capture::Capture;
use tests::traffic::transfer;
use tests::{Host, Pair, internet, one_at_a_time, scenario};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(10);
/// The device's MTU: what is longer in a capture is a super-packet.
const MTU: usize = 1_420;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Linux `IP_TOS`'s bits of RFC 3168: ECT(0).
const ECT: u32 = 0x02;

#[test]
fn bytes_arrive_unchanged_under_loss_reordering_and_duplication() {
    let _turn = one_at_a_time();
    internet("offloads-loss", 2, &[], |lab| {
        let pair = Pair::join(lab, &[])?;
        let (a, b) = (&pair.a.host, &pair.b.host);
        for (number, (impairments, mib)) in [
            (&[][..], 256),
            (&["--loss", "0.1%"], 64),
            (&["--loss", "1%"], 32),
            (&["--loss", "5%"], 4),
            (&["--reorder", "5%", "--delay", "1ms"], 16),
            (&["--duplicate", "5%"], 64),
            (
                &[
                    "--loss",
                    "1%",
                    "--reorder",
                    "2%",
                    "--duplicate",
                    "2%",
                    "--delay",
                    "1ms",
                    "--jitter",
                    "1ms",
                ],
                4,
            ),
        ]
        .into_iter()
        .enumerate()
        {
            lab.impair("b", impairments)?;
            let seed = 7 + number as u64;
            let there = transfer(a, b, pair.a_to_b, mib * MIB, seed)
                .with_context(|| format!("{impairments:?}, there"))?;
            let back = transfer(b, a, pair.b_to_a, mib * MIB, seed)
                .with_context(|| format!("{impairments:?}, back"))?;
            println!(
                "{impairments:?}: {mib} MiB each way, {:.0} and {:.0} Mbit/s",
                there.megabits(),
                back.megabits()
            );
        }
        let said = lab.impair("b", &[])?;
        ensure!(said.iter().all(|line| line["lost"].as_u64() > Some(0)), "nothing was lost at all: {said:?}");
        Ok(())
    });
}

#[test]
fn every_packet_out_of_the_tunnel_is_one_that_a_sender_could_have_written() {
    let _turn = one_at_a_time();
    scenario("offloads-valid", 2, |lab| {
        let pair = Pair::join(lab, &[])?;
        let (a, b) = (&pair.a.host, &pair.b.host);
        let capture = Capture::on_device(lab, b, "vpi-home", "ip", "tunnel")?;
        let source = pair.b_to_a;

        echoes(a, pair.a_to_b)?;
        for may_fragment in [false, true] {
            for bytes in [0, 1, 100, 1_391, 1_392, 1_393, 8_000, 65_507] {
                if may_fragment || bytes <= MTU - 28 {
                    datagrams(a, b, pair.a_to_b, (bytes, 1, may_fragment))?;
                }
            }
        }
        // Bursts, which are put together on the way.
        datagrams(a, b, pair.a_to_b, (1_000, 40, false))?;
        datagrams(a, b, pair.a_to_b, (100, 40, true))?;
        stream(a, b, pair.a_to_b)?;
        transfer(a, b, pair.a_to_b, 8 * MIB, 5)?;

        let packets: Vec<_> = capture
            .finish_packets()?
            .into_iter()
            .filter(|packet| packet[12..16] == source.octets())
            .collect();
        for packet in &packets {
            check(packet).with_context(|| {
                format!("{} bytes: {:02x?}", packet.len(), &packet[..packet.len().min(64)])
            })?;
        }
        seen(&packets)
    });
}

/// Each form that was sent is among what came.
fn seen(packets: &[Vec<u8>]) -> Result<()> {
    let is = |protocol: u8| move |packet: &&Vec<u8>| packet[9] == protocol;
    let is_fragment = |packet: &[u8]| word(packet, 6) & 0x3fff != 0;
    let flags = |flag: u8| move |packet: &&Vec<u8>| packet[9] == TCP && packet[33] & flag != 0;
    let super_packets =
        |protocol| packets.iter().filter(is(protocol)).filter(|packet| packet.len() > MTU).count();
    let count = |what: &dyn Fn(&&Vec<u8>) -> bool| packets.iter().filter(|packet| what(packet)).count();
    let found = [
        ("ICMP", count(&is(ICMP))),
        ("fragments", count(&|packet| is_fragment(packet))),
        ("fragments of ICMP", count(&|packet| packet[9] == ICMP && is_fragment(packet))),
        ("UDP with DF", count(&|packet| packet[9] == UDP && packet[6] & 0x40 != 0)),
        ("UDP without DF", count(&|packet| packet[9] == UDP && word(packet, 6) & 0x7fff == 0)),
        ("empty UDP", count(&|packet| packet[9] == UDP && packet.len() == 28)),
        ("ECN", count(&|packet| packet[9] == UDP && u32::from(packet[1]) & 3 == ECT)),
        ("TCP with options", count(&|packet| packet[9] == TCP && packet[32] >> 4 > 5)),
        ("FIN", count(&flags(0x01))),
        ("PSH", count(&flags(0x08))),
        ("URG", count(&flags(0x20))),
        ("super-packets of TCP", super_packets(TCP)),
    ];
    println!("{} packets; {found:?}; super-packets of UDP {}", packets.len(), super_packets(UDP));
    for (what, count) in found {
        ensure!(count > 0, "no {what} came");
    }
    Ok(())
}

/// ICMP: nothing in it, some, and more than one packet holds.
fn echoes(from: &Host, alias: Ipv4Addr) -> Result<()> {
    for bytes in ["0", "56", "1392", "4000"] {
        from.run("ping", &["-c", "2", "-i", "0.05", "-W", "5", "-s", bytes, &alias.to_string()], LIMIT)?
            .success()?;
    }
    Ok(())
}

/// UDP: so many datagrams of a size, back to back, with DF or such as may be fragmented; all of them come, as sent.
fn datagrams(
    from: &Host,
    to: &Host,
    alias: Ipv4Addr,
    (bytes, count, may_fragment): (usize, u8, bool),
) -> Result<()> {
    let receiver = to.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    receiver.set_read_timeout(Some(LIMIT))?;
    let target = SocketAddr::from((alias, receiver.local_addr()?.port()));
    let sender = from.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    SockRef::from(&sender).set_tos_v4(ECT)?;
    let fragments = if may_fragment { Ipv4PathMtuDiscovery::DONT } else { Ipv4PathMtuDiscovery::DO };
    set_ip_mtu_discover(&sender, fragments)?;
    let content = |number: u8| (0..bytes).map(|at| (at as u8).wrapping_mul(31) ^ number).collect::<Vec<_>>();
    for number in 0..count {
        sender.send_to(&content(number), target)?;
    }
    let mut buffer = vec![0; 1 << 16];
    for number in 0..count {
        let length = receiver.recv(&mut buffer).with_context(|| format!("{bytes} bytes, number {number}"))?;
        ensure!(
            buffer[..length] == content(number),
            "{bytes} bytes, number {number}, came as {length} others"
        );
    }
    Ok(())
}

/// TCP: small writes, urgent data among them, and an end.
fn stream(from: &Host, to: &Host, alias: Ipv4Addr) -> Result<()> {
    let listener = to.enter(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    let target = SocketAddr::from((alias, listener.local_addr()?.port()));
    let mut sender = from.enter(|| Ok(TcpStream::connect_timeout(&target, LIMIT)?))?;
    sender.set_nodelay(true)?;
    let mut receiver = listener.accept()?.0;
    receiver.set_read_timeout(Some(LIMIT))?;
    SockRef::from(&receiver).set_out_of_band_inline(true)?;
    sender.write_all(b"one ")?;
    SockRef::from(&sender).send_out_of_band(b"two ")?;
    sender.write_all(b"three")?;
    drop(sender);
    let mut came = String::new();
    receiver.read_to_string(&mut came)?;
    ensure!(came == "one two three", "{came:?}");
    Ok(())
}

/// Requires a right header, lengths that agree, and a right transport checksum; that of a super-packet is the
/// pseudo-header's, for the kernel to complete.
fn check(packet: &[u8]) -> Result<()> {
    ensure!(packet[0] == 0x45, "a header of other than 20 bytes");
    ensure!(usize::from(word(packet, 2)) == packet.len(), "the header says {} bytes", word(packet, 2));
    ensure!(sum(&packet[..20], 0) == 0xffff, "the header's checksum is wrong");
    let body = &packet[20..];
    if word(packet, 6) & 0x3fff != 0 {
        return Ok(());
    }
    if packet[9] == ICMP {
        ensure!(sum(body, 0) == 0xffff, "the checksum of ICMP is wrong");
        return Ok(());
    }
    let at = if packet[9] == TCP { 16 } else { 6 };
    let mut pseudo = packet[12..20].to_vec();
    pseudo.extend([0, packet[9]]);
    pseudo.extend((body.len() as u16).to_be_bytes());
    let pseudo = sum(&pseudo, 0);
    if packet[9] == UDP {
        ensure!(usize::from(word(body, 4)) == body.len(), "UDP says {} bytes", word(body, 4));
    }
    let is_complete = sum(body, pseudo) == 0xffff;
    // Two small packets of a flow may be one super-packet.
    let is_for_the_kernel = word(body, at) == pseudo;
    ensure!(is_complete || is_for_the_kernel, "the transport checksum is wrong");
    Ok(())
}

/// The ones' complement sum (RFC 1071), as its definition has it.
fn sum(bytes: &[u8], start: u16) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum = words.fold(u32::from(start), |sum, word| sum + word);
    let folded = (sum >> 16) + (sum & 0xffff);
    ((folded >> 16) + (folded & 0xffff)) as u16
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
