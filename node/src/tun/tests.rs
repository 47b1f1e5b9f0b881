//! A device's owner attaches without a capability, and again after kill -9; each failure names its cause.

use std::io::{BufRead, BufReader, Lines};
use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use super::{Tun, TunError, create};
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
                    Ok(bytes) => println!("packet {bytes}"),
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
        }
    }
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
        fs::copy(env::current_exe().unwrap(), &path).unwrap();
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
