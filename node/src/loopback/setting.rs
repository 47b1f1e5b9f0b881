//! The device's kernel settings below `/proc/sys/net`: of that device only, never of all.

use std::fs;
use std::io::{self, ErrorKind};

use super::{Missing, Plan};

/// Families, names and values.
const SETTINGS: [(&str, &str, &str); 2] = [
    // Nothing here filters IPv6 yet.
    ("ipv6", "disable_ipv6", "1"),
    // Else the kernel drops 127.x that comes in by, or goes out of, any device but lo.
    ("ipv4", "route_localnet", "1"),
];

/// Sets what differs.
///
/// # Errors
/// What the kernel says; `PermissionDenied` or `ReadOnlyFilesystem` only if a value really differs.
pub(super) fn apply(plan: &Plan) -> io::Result<()> {
    for (path, _, value) in differing(plan)? {
        fs::write(path, value)?;
    }
    Ok(())
}

/// The settings that differ.
///
/// # Errors
/// When a setting that exists cannot be read.
pub(super) fn missing(plan: &Plan) -> io::Result<impl Iterator<Item = Missing>> {
    Ok(differing(plan)?.into_iter().map(|(_, name, _)| Missing::Setting(name)))
}

fn differing(plan: &Plan) -> io::Result<Vec<(String, &'static str, &'static str)>> {
    let mut differing = Vec::new();
    for (family, name, value) in SETTINGS {
        let path = format!("/proc/sys/net/{family}/conf/{}/{name}", plan.device());
        match fs::read_to_string(&path) {
            Ok(found) if found.trim() == value => {}
            Ok(_) => differing.push((path, name, value)),
            // A kernel without IPv6 has no need to switch it off.
            Err(error) if family == "ipv6" && error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(differing)
}
