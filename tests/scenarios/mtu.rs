//! Whatever a path carries, large transfers pass: lines of many sizes, lines that lose what is too large without a word, and
//! one that begins to in the middle of a transfer.
//!
//! ```text
//!  a 9000, b 9000, c 1280, d 1400, e loses what is above 1330 ── "net"
//! ```

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use tests::member::group;
use tests::traffic::transfer;
use tests::{Host, Lab, internet, one_at_a_time, wait};

const LIMIT: Duration = Duration::from_secs(20);
const BYTES: u64 = 16 << 20;
/// What a hole in the line of `e`, and later of `b`, lets pass.
const HOLE: u16 = 1_330;
/// IP and UDP headers, and what the tunnel adds.
const OVERHEAD: u16 = 60;
/// Bytes of a datagram that no path carries whole.
const DATAGRAM: usize = 30_000;

#[test]
fn large_transfers_pass_over_paths_of_every_size_and_through_holes() {
    let _turn = one_at_a_time();
    internet("mtu", 5, &[], |lab| {
        for (host, mtu) in [("a", 9_000), ("b", 9_000), ("c", 1_280), ("d", 1_400)] {
            set_mtu(lab, host, mtu)?;
        }
        // Super-packets would pass the routers whole, and be measured as one.
        for host in ["a", "b", "e"] {
            let words = ["-K", "eth0", "tso", "off", "gso", "off", "tx-udp-segmentation", "off"];
            lab.host(host)?.run("ethtool", &words, LIMIT)?.success()?;
        }
        hole(lab, "e")?;
        let members = group(lab, &["a", "b", "c", "d", "e"])?;
        let (a, b) = (&members[0], &members[1]);
        for (member, mtu) in members[1..].iter().zip([9_000, 1_280, 1_400, HOLE]) {
            let name = &member.host.name;
            let (there, back) = (a.alias_of(name)?, member.alias_of("a")?);
            both_ways((&a.host, &member.host), (there, back), BYTES)?;
            let full = (mtu - OVERHEAD).min(1_420);
            for (from, to) in [(a, name.as_str()), (member, "a")] {
                let bytes = settled(&from.host, to, full)?;
                println!("{} to {to}, a path of {mtu}: packets of {bytes}", from.host.name);
            }
            both_ways((&a.host, &member.host), (there, back), BYTES)?;
            datagrams((&a.host, &member.host), there)?;
        }

        // A way that carried full packets loses them from one moment on.
        let (there, back) = (a.alias_of("b")?, b.alias_of("a")?);
        let took = thread::scope(|scope| {
            let runs = scope.spawn(|| {
                let since = Instant::now();
                let mut rounds = 0;
                while since.elapsed() < Duration::from_secs(3) || rounds < 2 {
                    both_ways((&a.host, &b.host), (there, back), BYTES)?;
                    rounds += 1;
                }
                Ok::<_, anyhow::Error>(since.elapsed())
            });
            thread::sleep(Duration::from_millis(500));
            hole(lab, "b")?;
            runs.join().map_err(|_| anyhow!("the transfers panicked"))?
        })?;
        println!("a hole in mid-transfer: both ways done after {:.1} s", took.as_secs_f64());
        let full = HOLE - OVERHEAD;
        let bytes = settled(&a.host, "b", full)?;
        println!("a to b, behind the hole: packets of {bytes}");
        both_ways((&a.host, &b.host), (there, back), BYTES)?;
        datagrams((&a.host, &b.host), there)
    });
}

/// The line of a host, on both sides of its router, carries packets of `mtu` bytes.
fn set_mtu(lab: &Lab, host: &str, mtu: u16) -> Result<()> {
    let (mtu, edge) = (mtu.to_string(), format!("{host}-edge"));
    for (place, device) in [(host, "eth0"), (edge.as_str(), "access"), (edge.as_str(), "core"), ("net", host)]
    {
        lab.run_in(place, "ip", &["link", "set", "dev", device, "mtu", &mtu])?.success()?;
    }
    Ok(())
}

/// The line of a host loses what is larger than [`HOLE`], and says nothing.
fn hole(lab: &Lab, host: &str) -> Result<()> {
    let rules = format!(
        "table inet hole {{ chain c {{ type filter hook forward priority 0; meta length > {HOLE} drop; }}; }}"
    );
    lab.run_in(&format!("{host}-edge"), "nft", &[&rules])?.success().map(drop)
}

/// TCP, hashed at both ends.
fn both_ways((a, b): (&Host, &Host), (there, back): (Ipv4Addr, Ipv4Addr), bytes: u64) -> Result<()> {
    let (out, home) = thread::scope(|scope| {
        let out = scope.spawn(|| transfer(a, b, there, bytes, 1));
        let home = transfer(b, a, back, bytes, 2);
        (out.join().map_err(|_| anyhow!("a transfer panicked")), home)
    });
    let what = || format!("{} and {}", a.name, b.name);
    let (out, home) = (out?.with_context(what)?, home.with_context(what)?);
    println!("{}: {:.0} and {:.0} Mbit/s", what(), out.megabits(), home.megabits());
    Ok(())
}

/// UDP: datagrams larger than any packet, which kernel and node cut, one at a time; few may be lost.
fn datagrams((from, to): (&Host, &Host), alias: Ipv4Addr) -> Result<()> {
    let receiver = to.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    receiver.set_read_timeout(Some(Duration::from_secs(2)))?;
    let target = SocketAddr::from((alias, receiver.local_addr()?.port()));
    let sender = from.enter(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    let (mut came, mut buffer) = (0, vec![0; 1 << 16]);
    for number in 0..20_u8 {
        let content: Vec<u8> = (0..DATAGRAM).map(|at| (at as u8).wrapping_mul(31) ^ number).collect();
        sender.send_to(&content, target)?;
        if let Ok(length) = receiver.recv(&mut buffer) {
            ensure!(buffer[..length] == content, "datagram {number} came as {length} others");
            came += 1;
        }
    }
    ensure!(came >= 18, "{came} of 20 datagrams of {DATAGRAM} bytes came from {} to {}", from.name, to.name);
    Ok(())
}

/// The largest packet that goes to the member whole, once it is none that the path loses. How near it comes, chance decides on a
/// busy machine: it is tried again later.
fn settled(from: &Host, to: &str, most: u16) -> Result<u16> {
    let mut last = Value::Null;
    let bytes = wait::until(&format!("{} to know the size of the path to {to}", from.name), LIMIT, || {
        last = from.vpi(&["why", to, "--json"])?.json()?;
        let bytes = last["packet_bytes"].as_u64().and_then(|bytes| u16::try_from(bytes).ok());
        Ok(bytes.filter(|bytes| *bytes <= most))
    });
    bytes.with_context(|| format!("{last:#}"))
}
