//! The machine itself: the TUN driver, privileges, settings of the kernel, ports.

use std::fs;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use caps::{CapSet, Capability};

use super::{Facts, Finding};
use crate::tun::{self, TunError};

/// Where the kernel's TUN driver is opened.
const DRIVER: &str = "/dev/net/tun";
/// *Specified* (Linux 6.2, `TUN_F_USO4`): from here on the kernel hands out runs of UDP datagrams at once.
const UDP_OFFLOAD_SINCE: (u32, u32) = (6, 2);

/// Judges everything here.
pub(super) fn examine(dir: &Path, facts: &Facts, findings: &mut Vec<Finding>) {
    driver(facts, findings);
    privileges(dir, facts, findings);
    return_path(findings);
    ports(facts, findings);
    if !facts.vpis.is_empty() {
        let what = "to strangers the node is silent, but this kernel answers for closed ports (RST, ICMP), so that \
                    a machine is seen to be here";
        findings.push(Finding::note("network", what, "to hide that, too: a firewall that drops by default"));
    }
}

fn driver(facts: &Facts, findings: &mut Vec<Finding>) {
    let mode = match fs::metadata(DRIVER) {
        Ok(found) => found.permissions().mode(),
        Err(_) => {
            let error = TunError::NoDriver.to_string();
            let (what, advice) = error.split_once(": ").unwrap_or((&error, ""));
            return findings.push(Finding::problem("tun", what, advice));
        }
    };
    if facts.owner_uid.is_some_and(|owner| owner != 0) && mode & 0o006 != 0o006 {
        let what = format!("{DRIVER} has mode {:04o}: the node's user may not open it", mode & 0o777);
        findings.push(Finding::problem("tun", what, format!("chmod 0666 {DRIVER}, as udev does")));
    }
    match tun::has_offloads() {
        Ok(true) => {}
        Ok(false) => {
            let what = "this kernel's tun has no offloads: packets pass one by one, slower";
            return findings.push(Finding::note("tun", what, ""));
        }
        Err(error) => return findings.push(Finding::unseen("tun", error.to_string(), "")),
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if kernel_version(&release).is_some_and(|version| version < UDP_OFFLOAD_SINCE) {
        let what = format!("kernel {release} has no UDP offloads of tun: datagrams pass one by one, slower");
        findings.push(Finding::note("tun", what, "kernel 6.2 or later has them"));
    }
}

/// Major and minor of `6.18.5-generic`.
pub(super) fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn privileges(dir: &Path, facts: &Facts, findings: &mut Vec<Finding>) {
    let is_root = rustix::process::geteuid().is_root();
    if is_root && !caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN).unwrap_or(true) {
        let what = "root has no CAP_NET_ADMIN here, so this machine cannot be set up";
        findings.push(Finding::problem("privileges", what, "give this container CAP_NET_ADMIN"));
    }
    if facts.is_running != Some(true) {
        return;
    }
    let Ok(pid) = fs::read_to_string(dir.join("lock")) else { return };
    let Ok(status) = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("status")) else { return };
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    if effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set != 0) {
        let what = "the running node has capabilities, and needs none";
        findings.push(Finding::problem("privileges", what, "restart it with `vpi up`, which gives them up"));
    }
}

/// With several devices, a strict filter drops what arrives by another one than the answer would leave by.
fn return_path(findings: &mut Vec<Finding>) {
    let value = |device: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter")).ok()?;
        text.trim().parse::<u8>().ok()
    };
    let Ok(entries) = fs::read_dir("/proc/sys/net/ipv4/conf") else { return };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_other =
        |name: &String| !matches!(name.as_str(), "all" | "default" | "lo") && !name.starts_with("vpi-");
    let devices: Vec<_> = names.filter(is_other).collect();
    let all = value("all").unwrap_or_default();
    // The larger of the two holds (Linux ip-sysctl); 1 is strict, 2 loose.
    let strict: Vec<_> =
        devices.iter().filter(|device| value(device).unwrap_or_default().max(all) == 1).cloned().collect();
    if devices.len() > 1 && !strict.is_empty() {
        let what = format!(
            "rp_filter is strict on {}: datagrams that arrive there while answers leave elsewhere are dropped",
            strict.join(", ")
        );
        let advice = "if members are not heard by one of them: sysctl net.ipv4.conf.DEVICE.rp_filter=2";
        findings.push(Finding::note("network", what, advice));
    }
}

/// Without a node, its ports must be free for it.
fn ports(facts: &Facts, findings: &mut Vec<Finding>) {
    if facts.is_running != Some(false) {
        return;
    }
    for vpi in &facts.vpis {
        let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, vpi.port));
        let bound = match UdpSocket::bind(everywhere) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => UdpSocket::bind(("0.0.0.0", vpi.port)),
            bound => bound,
        };
        if bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
            let what = format!("udp port {} is in use by another program, and the node needs it", vpi.port);
            let advice = format!("find it with `ss -lunp sport = :{}` and stop it", vpi.port);
            findings.push(Finding::problem(&vpi.device, what, advice));
        }
    }
}
