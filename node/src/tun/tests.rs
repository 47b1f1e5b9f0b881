//! A device's owner attaches without a capability, and again after kill -9; each failure names its cause.

use std::io::{BufRead, BufReader, ErrorKind, Lines, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use protocol::forward::whole_packets;
use protocol::tunnel::coalesce::Coalesced;

use super::{PACKET_BYTES_MAX, Tun, TunError, create};
use crate::loopback::lab::{in_own_namespace, run};

/// A user with no rights whatever ("nobody").
const OWNER: u32 = 65_534;
const DEVICE: &str = "vpi-test";
/// Names the device to the helper process, and tells it that it is one.
const HOLD: &str = "VPI_TEST_HOLD_DEVICE";

#[test]
fn owner_attaches_without_capabilities_and_again_after_kill_9() {
    in_own_namespace(|| {
        open_driver_to_all();
        create(DEVICE, OWNER).unwrap();
        run(&format!("echo 1 > /proc/sys/net/ipv4/conf/{DEVICE}/route_localnet"));
        bring_up();
        run(&format!("ip address add 127.90.0.1/32 dev {DEVICE} scope host"));
        run(&format!("ip route add 127.90.0.0/16 dev {DEVICE} table local src 127.90.0.1"));
        let program = Program::copy();

        for _ in 0..3 {
            let mut holder = Holder::start(&program.path, OWNER);
            assert_eq!(holder.line("attached"), "0000000000000000", "effective capabilities");
            assert!(matches!(create(DEVICE, OWNER), Err(TunError::Busy(_))));
            let socket = UdpSocket::bind("127.90.0.1:0").unwrap();
            socket.send_to(b"hello", "127.90.0.2:9").unwrap();
            assert_eq!(holder.line("packet"), "33");
            holder.kill();
        }

        run(&format!("ip link show {DEVICE}"));
    });
}

#[test]
fn each_refusal_to_attach_names_its_cause() {
    in_own_namespace(|| {
        open_driver_to_all();
        assert!(matches!(Tun::attach(DEVICE), Err(TunError::Missing(_))));
        run("ip link add vpi-other type veth peer name other");
        assert!(matches!(Tun::attach("vpi-other"), Err(TunError::Foreign(_))));
        assert!(matches!(create("vpi-other", OWNER), Err(TunError::Foreign(_))));

        create(DEVICE, 4_242).unwrap();
        let attached = Tun::attach(DEVICE).unwrap();
        assert!(matches!(Tun::attach(DEVICE), Err(TunError::Busy(_))));
        drop(attached);

        let program = Program::copy();
        assert!(Holder::start(&program.path, OWNER).line("refused").starts_with("NotOwner"));
        run("chmod 0600 /dev/net/tun");
        assert!(Holder::start(&program.path, 4_242).line("refused").starts_with("DriverForbidden"));
        run("rm /dev/net/tun");
        assert!(matches!(Tun::attach(DEVICE), Err(TunError::NoDriver)));
        assert!(!Path::new("/dev/net/tun").exists(), "attaching makes no device file");
    });
}

#[test]
fn deleted_device_is_an_error_and_not_silence() {
    in_own_namespace(|| {
        create(DEVICE, 0).unwrap();
        bring_up();
        let tun = Tun::attach(DEVICE).unwrap();
        let mut packet = [0; 1500];
        let empty = tun.recv(&mut packet).unwrap_err();
        assert_eq!(empty.kind(), std::io::ErrorKind::WouldBlock);

        run(&format!("ip link delete {DEVICE}"));

        assert_eq!(tun.recv(&mut packet).unwrap_err().raw_os_error(), Some(libc::EBADFD));
        assert_eq!(tun.send(&[0x45; 20]).unwrap_err().raw_os_error(), Some(libc::EBADFD));
    });
}

#[test]
fn every_packet_of_a_transfer_is_valid_and_the_kernel_takes_them_back_as_one() {
    in_own_namespace(|| {
        let tun = with_network();
        let listener = TcpListener::bind("127.90.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent: Vec<u8> = (0..8_000_000u32).map(|at| (at ^ (at >> 9)) as u8).collect();
        let (mut packets, mut supers_in, mut supers_out) = (0, 0, 0);
        thread::scope(|scope| {
            let receiver = scope.spawn(move || {
                let mut received = Vec::new();
                listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
                received
            });
            // Its own listener, seen as another's: the device's other end exchanges the addresses.
            let sender = scope.spawn(|| {
                TcpStream::connect(("127.90.0.2", port)).unwrap().write_all(&sent).unwrap();
            });
            let end = Instant::now() + Duration::from_secs(20);
            while !receiver.is_finished() || !sender.is_finished() {
                assert!(Instant::now() < end, "the transfer ends");
                let mut turn: Vec<Vec<u8>> = Vec::new();
                supers_in += read_turn(&tun, |packet| turn.push(exchanged(packet)));
                packets += turn.len();
                let mut coalescer = tun.coalescer().unwrap();
                let mut write = |packet: &Coalesced<'_, '_>| {
                    supers_out += usize::from(packet.segment_bytes.is_some());
                    tun.write(packet).unwrap();
                };
                turn.iter_mut().for_each(|packet| coalescer.take(packet, &mut write));
                coalescer.finish(&mut write);
            }
            assert!(receiver.join().unwrap() == sent, "what came is what was sent");
        });
        assert!(
            supers_in > 0 && supers_out > 0,
            "{packets} packets, {supers_in} super-packets in, {supers_out} out"
        );
    });
}

#[test]
fn datagrams_whose_checksum_the_kernel_leaves_to_us_are_valid() {
    in_own_namespace(|| {
        let tun = with_network();
        let socket = UdpSocket::bind("127.90.0.1:0").unwrap();
        socket.connect("127.90.0.2:9").unwrap();
        for bytes in [0, 1, 2, 999, 1_392] {
            socket.send(&vec![7; bytes]).unwrap();
        }
        let mut lengths = Vec::new();
        read_turn(&tun, |packet| lengths.push(packet.len() - 28));
        assert_eq!(lengths, [0, 1, 2, 999, 1_392]);
    });
}

#[test]
fn names_that_no_device_can_have_are_refused() {
    for name in ["", ".", "..", "a name", "a/b", "vpi-%d", "eth0:1", "sixteen-bytes-16", "vpi-é"] {
        assert!(matches!(create(name, 0), Err(TunError::Name(_))), "{name:?}");
        assert!(matches!(Tun::attach(name), Err(TunError::Name(_))), "{name:?}");
    }
}

/// Not a test: the helper process, which holds the device until it is killed.
#[test]
fn helper_process_holds_a_device() {
    let Ok(name) = env::var(HOLD) else { return };
    match Tun::attach(&name) {
        Err(error) => println!("\nrefused {error:?}"),
        Ok(tun) => {
            println!("\nattached {}", effective_capabilities());
            let mut packet = [0; 1500];
            let end = Instant::now() + Duration::from_secs(20);
            while Instant::now() < end {
                match tun.recv(&mut packet) {
                    Ok((bytes, _)) => println!("packet {bytes}"),
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
        }
    }
}

/// The device, attached, with an alias of its own on it and its /16 behind it.
fn with_network() -> Tun {
    create(DEVICE, 0).unwrap();
    run(&format!("echo 1 > /proc/sys/net/ipv4/conf/{DEVICE}/route_localnet"));
    bring_up();
    run(&format!("ip link set {DEVICE} mtu 1420"));
    run(&format!("ip address add 127.90.0.1/32 dev {DEVICE} scope host"));
    run(&format!("ip route add 127.90.0.0/16 dev {DEVICE} table local src 127.90.0.1"));
    Tun::attach(DEVICE).unwrap()
}

/// Reads what there is, as whole packets, each of which must be valid; returns how many super-packets there were.
fn read_turn(tun: &Tun, mut each: impl FnMut(Vec<u8>)) -> usize {
    let (mut packet, mut supers) = (vec![0; PACKET_BYTES_MAX], 0);
    loop {
        match tun.recv(&mut packet) {
            Ok((bytes, offload)) => {
                supers += usize::from(offload.segment_bytes.is_some());
                whole_packets(&packet[..bytes], offload, |whole| {
                    assert_valid(&whole);
                    each(whole);
                });
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return supers,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Length and both checksums, by the slow definition of RFC 1071.
fn assert_valid(packet: &[u8]) {
    assert!(packet.len() <= 1_420, "{} bytes", packet.len());
    assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
    assert_eq!(sum(&[&packet[..20]]), 0xffff, "the header's checksum");
    let length = ((packet.len() - 20) as u16).to_be_bytes();
    assert_eq!(
        sum(&[&packet[12..20], &[0, packet[9]], &length, &packet[20..]]),
        0xffff,
        "protocol {}",
        packet[9]
    );
}

fn sum(parts: &[&[u8]]) -> u32 {
    let words = parts.concat();
    let sum: u32 = words
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| (*low).into()))
        .sum();
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum >> 16) + (sum & 0xffff)
}

/// The packet from its destination to its source; sums do not change by that.
fn exchanged(mut packet: Vec<u8>) -> Vec<u8> {
    let (source, destination) = packet[12..20].split_at_mut(4);
    source.swap_with_slice(destination);
    packet
}

/// Without IPv6, whose router solicitations would be the first packets.
fn bring_up() {
    run(&format!("echo 1 > /proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6"));
    run(&format!("ip link set {DEVICE} up"));
}

fn effective_capabilities() -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("CapEff:")).unwrap();
    line.trim_start_matches("CapEff:").trim().to_owned()
}

/// Puts a driver file that everyone may open in this thread's mount namespace only: what udev does.
fn open_driver_to_all() {
    run("mount -t tmpfs vpi-test /dev/net");
    run("mknod -m 0666 /dev/net/tun c 10 200");
}

/// A copy of this test program where every user can start it.
struct Program {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Program {
    fn copy() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = folder.path().join("vpi-test");
        // By a process of its own: a file written here would be held open by what another test starts at that instant,
        // and what is open for writing cannot be executed.
        run(&format!("cp '{}' '{}'", env::current_exe().unwrap().display(), path.display()));
        Self { _folder: folder, path }
    }
}

/// A process of another user that attaches to the device.
struct Holder {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    fn start(program: &Path, uid: u32) -> Self {
        let mut child = Command::new(program)
            .args(["--exact", "tun::tests::helper_process_holds_a_device", "--nocapture"])
            .env(HOLD, DEVICE)
            .current_dir("/")
            .gid(uid)
            .uid(uid)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The rest of the next line that begins with `word`.
    fn line(&mut self, word: &str) -> String {
        let found = self.lines.by_ref().map(Result::unwrap).find(|line| line.starts_with(word));
        found.expect("the helper says it before it ends")[word.len() + 1..].to_owned()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
