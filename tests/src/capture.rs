//! Frames on the wire: tcpdump at a port of the switch, and its file (pcap, draft-ietf-opsawg-pcap) read back.
//!
//! The port stands outside the host, so what is seen there is what left it, whatever its own firewall would hide. A
//! capture on a device of the host itself shows what the tunnel delivers.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::topology::command_inside;
use crate::{Host, Lab, wait};

/// How long tcpdump may take to start, and to end.
const LIMIT: Duration = Duration::from_secs(10);
/// After as long the kernel has handed over to tcpdump what it saw: it fills its blocks for up to a second.
const HANDED_OVER: Duration = Duration::from_millis(1_200);
const UDP: u8 = 17;
/// Link types of pcap: Ethernet, and bare IP packets as a TUN device has them.
const ETHERNET: u32 = 1;
const RAW: u32 = 101;

/// A running tcpdump. Dropping it ends it.
pub struct Capture {
    child: Child,
    file: PathBuf,
    log: PathBuf,
}

/// One IPv4 packet inside an Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The outer source; its port is 0 unless the packet is UDP and no later fragment.
    pub source: SocketAddr,
    /// The outer destination; its port as the source's.
    pub destination: SocketAddr,
    /// The IP protocol: 1 ICMP, 6 TCP, 17 UDP …
    pub protocol: u8,
    /// The UDP payload; of other protocols, and of later fragments, everything behind the IP header.
    pub payload: Vec<u8>,
}

impl Capture {
    /// Starts tcpdump at the switch's port of `host`, whole frames unless `options` say otherwise. The file is
    /// `NAME.pcap` in the lab's evidence.
    ///
    /// # Errors
    /// tcpdump does not start.
    pub fn at_port(lab: &Lab, host: &str, filter: &str, name: &str, options: &[&str]) -> Result<Self> {
        let command = command_inside(&lab.switch(), "tcpdump", &["-i", host]);
        Self::start(lab, command, filter, name, options)
    }

    /// Starts tcpdump on `device` of `host`, whole packets. The file is `NAME.pcap` in the lab's evidence.
    ///
    /// # Errors
    /// tcpdump does not start.
    pub fn on_device(lab: &Lab, host: &Host, device: &str, filter: &str, name: &str) -> Result<Self> {
        Self::start(lab, host.command("tcpdump", &["-i", device]), filter, name, &[])
    }

    /// Gives `command`, a tcpdump that knows its device, the other words, and starts it.
    fn start(lab: &Lab, mut command: Command, filter: &str, name: &str, options: &[&str]) -> Result<Self> {
        let file = lab.evidence().join(format!("{name}.pcap"));
        let log = lab.evidence().join(format!("{name}.tcpdump"));
        command.args(["-n", "-U", "-B", "16384", "-Z", "root", "-w"]).arg(&file).args(options).arg(filter);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("tcpdump does not start")?;
        let capture = Self { child, file, log };
        wait::until("tcpdump to listen", LIMIT, || {
            Ok(capture.said()?.contains("listening on").then_some(()))
        })?;
        Ok(capture)
    }

    /// The frames so far, in the order of the wire.
    ///
    /// # Errors
    /// The file is not what tcpdump writes.
    pub fn frames(&self) -> Result<Vec<Frame>> {
        read_frames(&self.file)
    }

    /// Ends the capture and returns all frames.
    ///
    /// # Errors
    /// tcpdump missed some: nothing can be said about such a capture.
    pub fn finish(mut self) -> Result<Vec<Frame>> {
        self.end()?;
        self.frames()
    }

    /// Ends the capture and returns all IPv4 packets, each from its header on.
    ///
    /// # Errors
    /// As [`Capture::finish`].
    pub fn finish_packets(mut self) -> Result<Vec<Vec<u8>>> {
        self.end()?;
        read_packets(&self.file)
    }

    fn end(&mut self) -> Result<()> {
        let process = Pid::from_raw(i32::try_from(self.child.id())?).context("a process id is not zero")?;
        thread::sleep(HANDED_OVER);
        kill_process(process, Signal::INT)?;
        wait::until("tcpdump to end", LIMIT, || Ok(self.child.try_wait()?))?;
        let said = self.said()?;
        ensure!(said.contains("\n0 packets dropped by kernel"), "the capture has holes: {said}");
        Ok(())
    }

    fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_frames(path: &Path) -> Result<Vec<Frame>> {
    Ok(read_packets(path)?.iter().filter_map(|packet| parse_packet(packet)).collect())
}

/// Reads a pcap file: header 24 that ends in the link type, then each frame behind 16 bytes with its length at 8. A torn
/// last frame, as a running capture has it, is left out, and so is what is not IPv4.
fn read_packets(path: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = fs::read(path)?;
    let Some((header, mut rest)) = bytes.split_at_checked(24) else { return Ok(Vec::new()) };
    ensure!(
        header.starts_with(&0xa1b2_c3d4_u32.to_ne_bytes()),
        "{} is no pcap file of this machine",
        path.display()
    );
    let link = u32::from_ne_bytes([header[20], header[21], header[22], header[23]]);
    ensure!(matches!(link, ETHERNET | RAW), "{} has frames of link type {link}", path.display());
    let mut packets = Vec::new();
    while let Some((record, tail)) = rest.split_at_checked(16) {
        let length = u32::from_ne_bytes([record[8], record[9], record[10], record[11]]);
        let Some((frame, tail)) = tail.split_at_checked(usize::try_from(length)?) else { break };
        let packet = if link == RAW { Some(frame) } else { packet_of(frame) };
        packets.extend(
            packet.filter(|packet| packet.first().is_some_and(|first| *first >> 4 == 4)).map(<[u8]>::to_vec),
        );
        rest = tail;
    }
    Ok(packets)
}

/// The IPv4 packet in an Ethernet frame.
fn packet_of(frame: &[u8]) -> Option<&[u8]> {
    frame.get(14..).filter(|_| frame.get(12..14) == Some(&[0x08, 0x00]))
}

/// An IPv4 packet, complete or cut by the capture.
fn parse_packet(packet: &[u8]) -> Option<Frame> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let length = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    let address = |at: usize| {
        let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(octets)))
    };
    let body = packet.get(header..length.min(packet.len()))?;
    let is_later_fragment = packet.get(6)? & 0x1f != 0 || *packet.get(7)? != 0;
    let (protocol, source, destination) = (*packet.get(9)?, address(12)?, address(16)?);
    let (ports, payload) = match body {
        [s0, s1, d0, d1, _, _, _, _, payload @ ..] if protocol == UDP && !is_later_fragment => {
            ((u16::from_be_bytes([*s0, *s1]), u16::from_be_bytes([*d0, *d1])), payload)
        }
        other => ((0, 0), other),
    };
    Some(Frame {
        source: SocketAddr::new(source, ports.0),
        destination: SocketAddr::new(destination, ports.1),
        protocol,
        payload: payload.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A capture of one UDP datagram with the payload `hi`, padded by Ethernet.
    fn capture_of_one() -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2]);
        frame.extend([0x12, 0x34, 0, 53, 0, 10, 0, 0, b'h', b'i', 0, 0, 0, 0]);
        let length = u32::try_from(frame.len()).unwrap().to_ne_bytes();
        let mut bytes = 0xa1b2_c3d4_u32.to_ne_bytes().to_vec();
        bytes.extend([0; 16]);
        bytes.extend(ETHERNET.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(length);
        bytes.extend(length);
        bytes.extend(frame);
        bytes
    }

    #[test]
    fn a_datagram_is_read_back_with_its_addresses_and_without_padding() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), capture_of_one()).unwrap();
        let expected = Frame {
            source: "10.77.0.1:4660".parse().unwrap(),
            destination: "10.77.0.2:53".parse().unwrap(),
            protocol: UDP,
            payload: b"hi".to_vec(),
        };
        assert_eq!(read_frames(file.path()).unwrap(), [expected]);
    }

    #[test]
    fn a_torn_last_frame_is_left_out() {
        let whole = capture_of_one();
        let file = tempfile::NamedTempFile::new().unwrap();
        for length in 0..whole.len() {
            fs::write(file.path(), &whole[..length]).unwrap();
            let frames = read_frames(file.path()).unwrap();
            assert!(frames.is_empty(), "{length} bytes");
        }
    }
}
