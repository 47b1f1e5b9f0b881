//! The pool 127.64.0.0/10: 64 prefixes of 65,536 addresses, one for each VPI on this machine (node/README, On the machine).
//!
//! A prefix is free if no address of the machine, no bound socket and no route of table local lies in it.
//! The last means another VPI's guard, which stands while that VPI's node and device are away.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::netlink::Netlink;
use super::{LoopbackError, failed};

/// *Specified*: how many prefixes there are.
const PREFIXES: u8 = 64;
/// *Specified*: the second byte of the first prefix, a multiple of [`PREFIXES`].
const FIRST: u8 = 64;
/// Tables of sockets below `/proc/thread-self/net`. Sockets for both families show in the second kind.
const SOCKET_TABLES: [&str; 6] = ["tcp", "udp", "raw", "tcp6", "udp6", "raw6"];

/// Chooses the prefix of a VPI: `preferred`, or the next one after it, in a circle, that is free and not
/// among those `taken` by VPIs that are known but not installed.
///
/// # Errors
/// [`LoopbackError::Prefix`] if `preferred` is not of the pool, [`LoopbackError::PoolExhausted`],
/// [`LoopbackError::Io`] when the kernel cannot be asked.
pub(crate) async fn choose(preferred: Ipv4Addr, taken: &[Ipv4Addr]) -> Result<Ipv4Addr, LoopbackError> {
    if !is_prefix(preferred) {
        return Err(LoopbackError::Prefix(preferred));
    }
    let used = Used::read().await?;
    circle(preferred)
        .find(|prefix| !taken.contains(prefix) && used.leaves_free(*prefix))
        .ok_or(LoopbackError::PoolExhausted)
}

/// Whether this is the first address of a /16 of the pool.
pub(super) fn is_prefix(address: Ipv4Addr) -> bool {
    matches!(address.octets(), [127, second, 0, 0] if second & !(PREFIXES - 1) == FIRST)
}

/// Whether `address` lies in the /16 that begins at `prefix`.
pub(super) fn is_within(address: Ipv4Addr, prefix: Ipv4Addr) -> bool {
    address.octets()[..2] == prefix.octets()[..2]
}

/// All prefixes of the pool, each once, from `preferred` on.
fn circle(preferred: Ipv4Addr) -> impl Iterator<Item = Ipv4Addr> {
    let start = preferred.octets()[1];
    (0..PREFIXES).map(move |step| Ipv4Addr::new(127, FIRST + (start - FIRST + step) % PREFIXES, 0, 0))
}

/// Every loopback address that something on this machine uses.
struct Used(Vec<Ipv4Addr>);

impl Used {
    async fn read() -> Result<Self, LoopbackError> {
        let netlink = Netlink::open().map_err(failed("netlink"))?;
        let addresses = netlink.addresses().await.map_err(failed("the addresses"))?;
        let routes = netlink.local_routes().await.map_err(failed("the routes"))?;
        let mut used: Vec<_> = addresses.iter().map(|address| address.address).collect();
        // Shorter routes, such as 127.0.0.0/8, hold for the whole pool and use none of it.
        used.extend(routes.iter().filter(|route| route.bits >= 16).map(|route| route.destination));
        for table in SOCKET_TABLES {
            used.extend(bound(table).map_err(failed("the bound sockets"))?);
        }
        used.retain(Ipv4Addr::is_loopback);
        Ok(Self(used))
    }

    fn leaves_free(&self, prefix: Ipv4Addr) -> bool {
        !self.0.iter().any(|address| is_within(*address, prefix))
    }
}

/// The local addresses in one table of sockets; a kernel without that protocol has none.
fn bound(table: &str) -> io::Result<Vec<Ipv4Addr>> {
    match std::fs::read_to_string(format!("/proc/thread-self/net/{table}")) {
        Ok(text) => Ok(text.lines().skip(1).filter_map(local_address).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The local IPv4 address in one line, as `sl: 0100007F:0016 …`: 32-bit words of the address as the machine
/// holds them, in hexadecimal; one word for IPv4, four for IPv6, of which the mapped ones are IPv4.
fn local_address(line: &str) -> Option<Ipv4Addr> {
    let (words, _port) = line.split_whitespace().nth(1)?.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(words.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match words.len() {
        8 => Some(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (place, at) in octets.chunks_exact_mut(4).zip([0, 8, 16, 24]) {
                place.copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(octets).to_ipv4_mapped()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circle_visits_each_prefix_of_the_pool_once() {
        let mut all: Vec<_> = circle(Ipv4Addr::new(127, 100, 0, 0)).collect();
        assert_eq!(all[0], Ipv4Addr::new(127, 100, 0, 0));
        assert_eq!(all[28], Ipv4Addr::new(127, 64, 0, 0));
        assert!(all.iter().all(|prefix| is_prefix(*prefix)));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 64);
    }

    #[test]
    fn only_first_addresses_in_the_pool_are_prefixes() {
        for other in ["127.63.0.0", "127.128.0.0", "127.0.0.0", "127.80.1.0", "127.80.0.1", "10.80.0.0"] {
            assert!(!is_prefix(other.parse().unwrap()), "{other}");
        }
        assert!(is_prefix(Ipv4Addr::new(127, 127, 0, 0)));
    }

    #[test]
    fn local_addresses_are_read_from_the_kernels_tables() {
        let words = |octets: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(octets));
        let v4 = format!("   0: {}:0016 00000000:0000 0A", words([127, 80, 1, 2]));
        assert_eq!(local_address(&v4), Some(Ipv4Addr::new(127, 80, 1, 2)));
        let mapped = words([0; 4]).repeat(2) + &words([0, 0, 255, 255]) + &words([127, 80, 1, 2]);
        assert_eq!(local_address(&format!("1: {mapped}:0016 x")), Some(Ipv4Addr::new(127, 80, 1, 2)));
        for other in ["", "0:", "0: 0100:0016", "0: XXXXXXXX:0016", "0: é100007F:0016", "0: 0100007F"] {
            assert_eq!(local_address(other), None, "{other}");
        }
        assert_eq!(local_address(&format!("1: {}:0016 x", "0".repeat(32))), None);
    }
}
