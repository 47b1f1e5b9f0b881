//! What people type: names, addresses, durations. Each function reads one argument for `clap` and says in one
//! sentence what is wrong with it.

use std::net::{IpAddr, SocketAddr};

use protocol::identity::DeviceId;

use super::code;

/// The longest name of a VPI: its device `vpi-NAME` must fit the 15 bytes of an interface's name.
const MAX_VPI_NAME: usize = 11;

/// The longest name of a member (protocol/README, *Join*).
const MAX_MEMBER_NAME: usize = 32;

/// The longest life of an invite, in seconds: 30 days (protocol/README §12).
const MAX_LIFETIME_S: u32 = 30 * 86_400;

/// Reads the name of a VPI to be founded.
pub(crate) fn vpi_name(text: &str) -> Result<String, String> {
    label(text, MAX_VPI_NAME)
}

/// Reads the name of a device.
pub(crate) fn member_name(text: &str) -> Result<String, String> {
    label(text, MAX_MEMBER_NAME)
}

/// A label as host names have them (RFC 1123 §2.1), lower case only.
fn label(text: &str, longest: usize) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= longest && text.bytes().all(is_label_byte);
    if fits && !text.starts_with('-') && !text.ends_with('-') {
        return Ok(text.to_owned());
    }
    Err(format!("a name is 1 to {longest} of a-z, 0-9 and -, with no - at its ends"))
}

fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

/// Returns the name of this device when none is given: the first label of the host name, cut to what a name may
/// hold; `device` when nothing is left of it.
pub(crate) fn default_member_name() -> String {
    name_from_host(&rustix::system::uname().nodename().to_string_lossy())
}

fn name_from_host(host: &str) -> String {
    let first = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let mut name: String = first.chars().filter(|c| u8::try_from(*c).is_ok_and(is_label_byte)).collect();
    name = name.trim_start_matches('-').chars().take(MAX_MEMBER_NAME).collect();
    name.truncate(name.trim_end_matches('-').len());
    if name.is_empty() { "device".to_owned() } else { name }
}

/// Reads an address and port under which others reach this device.
pub(crate) fn endpoint(text: &str) -> Result<SocketAddr, String> {
    let endpoint: SocketAddr =
        text.parse().map_err(|_| "an endpoint is IP:PORT, such as 203.0.113.5:41414".to_owned())?;
    let nowhere = match endpoint.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast(),
    };
    if nowhere || endpoint.port() == 0 {
        return Err("nobody can send to this address".to_owned());
    }
    Ok(endpoint)
}

/// Reads a beacon's multiaddress, which must end in its peer id; the node reads the rest.
pub(crate) fn beacon(text: &str) -> Result<String, String> {
    let (address, peer) = text.rsplit_once("/p2p/").unwrap_or_default();
    if !address.starts_with('/') || peer.is_empty() || peer.contains('/') {
        return Err("a beacon is a multiaddress that ends in /p2p/ and its peer id".to_owned());
    }
    Ok(text.to_owned())
}

/// Reads a duration such as `90s`, `30m`, `24h` or `7d` into seconds, 1 second to 30 days.
pub(crate) fn lifetime(text: &str) -> Result<u32, String> {
    let wrong = || "a duration is a number and s, m, h or d, such as 24h; 30d at most".to_owned();
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number = text.strip_suffix(unit).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let number: u32 = number.and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
    let total = number.checked_mul(seconds).filter(|total| (1..=MAX_LIFETIME_S).contains(total));
    total.ok_or_else(wrong)
}

/// Reads a device's code, or its key as 64 hexadecimal digits.
pub(crate) fn device(text: &str) -> Result<DeviceId, String> {
    let device = DeviceId::from_hex(text).or_else(|| code::read(text));
    device.ok_or_else(|| {
        "this is no device code, or not all of it: it is what `vpi request-code` prints on that device"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_lower_case_labels() {
        for good in ["a", "home", "home-2", "abcdefghijk"] {
            assert_eq!(vpi_name(good).as_deref(), Ok(good));
        }
        for bad in ["", "abcdefghijkl", "Home", "my home", "-home", "home-", "hömе", "a/b", "a.b"] {
            assert!(vpi_name(bad).is_err(), "{bad}");
        }
        assert!(member_name(&"n".repeat(32)).is_ok());
        assert!(member_name(&"n".repeat(33)).is_err());
    }

    #[test]
    fn a_host_name_is_cut_to_a_member_name() {
        for (host, name) in [
            ("nas", "nas"),
            ("Max_s-MacBook.local", "maxs-macbook"),
            ("--x--", "x"),
            ("日本", "device"),
            ("", "device"),
        ] {
            assert_eq!(name_from_host(host), name);
        }
        let cut = name_from_host(&format!("{}-tail", "n".repeat(31)));
        assert_eq!(member_name(&cut), Ok("n".repeat(31)));
        assert!(member_name(&default_member_name()).is_ok());
    }

    #[test]
    fn durations_carry_a_unit_and_end_at_thirty_days() {
        for (text, seconds) in [("1s", 1), ("90s", 90), ("30m", 1_800), ("24h", 86_400), ("30d", 2_592_000)] {
            assert_eq!(lifetime(text), Ok(seconds));
        }
        for bad in
            ["", "s", "24", "0h", "31d", "721h", "-1h", "+1h", "1.5h", "1w", "4294967296s", "99999999d", "1é"]
        {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn endpoints_are_addresses_that_can_be_sent_to() {
        assert!(endpoint("203.0.113.5:41414").is_ok());
        assert!(endpoint("[2001:db8::1]:41414").is_ok());
        for bad in [
            "203.0.113.5",
            "203.0.113.5:0",
            "0.0.0.0:1",
            "[::]:1",
            "224.0.0.1:1",
            "nas:41414",
            "1.2.3.4:65536",
        ] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn beacons_end_in_a_peer_id() {
        assert!(beacon("/ip4/203.0.113.5/tcp/4001/p2p/12D3KooW").is_ok());
        for bad in ["", "/ip4/203.0.113.5/tcp/4001", "/p2p/", "x/p2p/y", "/ip4/1.2.3.4/p2p/a/b", "/p2p/a"] {
            assert!(beacon(bad).is_err(), "{bad}");
        }
    }
}
