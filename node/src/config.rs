//! Every setting of a running node: its default, its unit, its range.
//!
//! Settings come from the TOML file that `vpi up --config` names. Durations are whole seconds. An unknown key is
//! an error that names it, so that a misspelt setting is not silently the default.
//!
//! ```toml
//! rekey_after = 120   # seconds, 10 to 120
//! idle_after = 900    # seconds, 10 to 86400
//! cipher = "auto"     # auto, aes256gcm or chacha20
//! lan = true          # find members on the same network by veiled announcements
//! birthday = true     # open 256 sockets for some seconds where nothing else leads to a member, or send to as many ports
//! dns = "127.0.0.1:5354"   # loopback address and port of a DNS server for names; none unless set
//! beacons = ["/ip4/192.0.2.1/tcp/41415/p2p/12D3Koo…"]   # beacons of every VPI, beside those that it knows itself; none unless set
//! beacon = true       # members are told of the beacon that runs beside this node; or the file in which it says its addresses
//! relay = true        # pass datagrams on for members that do not reach each other; unless set, with a public IPv4 address, its own or mapped
//! port_mapping = true # ask the gateway, by PCP, NAT-PMP and UPnP, to let members in by a port of its own
//! stun = ["192.0.2.7:3478"]   # at most 8 servers that say where datagrams of this machine come from; none unless set
//! ```

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::beacon::beside::ADDRESSES;
use crate::names::is_alias;
use crate::swarm::Beacon;

/// Seconds after which a session gets fresh keys; longer than 120 would outlive the peer's limit of 180 s.
const REKEY_AFTER_S: RangeInclusive<u64> = 10..=120;

/// Seconds without an application's packet after which a link closes; below 10 it would close between two requests.
const IDLE_AFTER_S: RangeInclusive<u64> = 10..=86_400;

/// STUN servers at most: as many as an engine keeps.
const STUN_MAX: usize = 8;

/// What `vpi up` is told: places, user and settings.
#[derive(Clone, Debug)]
pub(crate) struct NodeOptions {
    /// The state folder.
    pub state: PathBuf,
    /// The control socket.
    pub control: PathBuf,
    /// The user to run as when started by root; the owner of the state folder when absent.
    pub user: Option<String>,
    /// The settings of the file, or their defaults.
    pub settings: Settings,
}

/// The settings of a running node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Age at which a session is rekeyed: 10 to 120 s, default 120 s (WireGuard paper §6).
    pub rekey_after: Duration,
    /// Time without an application's packet after which a link closes: 10 s to a day, default 15 minutes.
    pub idle_after: Duration,
    /// The packet cipher that this node prefers; default [`Cipher::Auto`].
    pub cipher: Cipher,
    /// Whether members on the same network are told of this device and heard; default yes.
    pub lan: bool,
    /// Whether many sockets are opened, and many ports tried, for a member that nothing else leads to; default yes.
    pub birthday: bool,
    /// Where names are served by DNS: a loopback address that is no alias; default nowhere.
    pub dns: Option<SocketAddr>,
    /// Whether datagrams of members that do not reach each other are passed on; default: if one of this machine's
    /// addresses, or of those that a gateway maps to it, is a public one of IPv4.
    pub relay: Option<bool>,
    /// Whether the gateway is asked for a port by which members reach this device first; default yes.
    pub port_mapping: bool,
    /// STUN servers that are asked beside those at beacons, the best first; default none.
    pub stun: Vec<SocketAddr>,
    /// Beacons that every VPI of this node may be found through, beside those that it knows itself; default none.
    pub beacons: Vec<String>,
    /// Where the beacon that runs beside this node says its addresses; default: none runs.
    pub beacon: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rekey_after: Duration::from_secs(120),
            idle_after: Duration::from_secs(15 * 60),
            cipher: Cipher::Auto,
            lan: true,
            birthday: true,
            dns: None,
            relay: None,
            port_mapping: true,
            stun: Vec::new(),
            beacons: Vec::new(),
            beacon: None,
        }
    }
}

/// Which packet cipher a node prefers (protocol/README, *Transport AEAD*).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cipher {
    /// AES-256-GCM where both ends have AES instructions, else ChaCha20-Poly1305.
    #[default]
    Auto,
    /// AES-256-GCM, with or without instructions for it.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    ChaCha20,
}

/// Why a settings file is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the settings file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no TOML, has an unknown key, or a value of the wrong type.
    #[error("settings file {path}, {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line and cause.
        reason: String,
    },
    /// The DNS server would be reached from elsewhere.
    #[error(
        "settings file {path}: dns is {value}, it must be a loopback address and port outside 127.64.0.0/10, such as \
         127.0.0.1:5354"
    )]
    NotLoopback {
        /// The file.
        path: PathBuf,
        /// What the file says.
        value: String,
    },
    /// A STUN server is no address and port.
    #[error(
        "settings file {path}: stun names {value}, each of its servers must be an IP address and port, such as \
         \"192.0.2.7:3478\""
    )]
    NotStun {
        /// The file.
        path: PathBuf,
        /// What the file says.
        value: String,
    },
    /// A beacon is none.
    #[error("settings file {path}: beacons names {value}: {reason}")]
    NotBeacon {
        /// The file.
        path: PathBuf,
        /// What the file says.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The beacon beside this node is no file.
    #[error(
        "settings file {path}: beacon is {value}, it must be true, false, or the file that `vpi beacon --addresses` writes, \
         such as \"{ADDRESSES}\""
    )]
    NotFile {
        /// The file.
        path: PathBuf,
        /// What the file says.
        value: String,
    },
    /// Too many STUN servers.
    #[error("settings file {path}: stun names {count} servers, leave at most {STUN_MAX}")]
    StunMany {
        /// The file.
        path: PathBuf,
        /// How many.
        count: usize,
    },
    /// A number is out of its range.
    #[error("settings file {path}: {key} is {value} s, it may be {least} to {most} s")]
    Range {
        /// The file.
        path: PathBuf,
        /// The setting.
        key: &'static str,
        /// What the file says.
        value: u64,
        /// The least that is allowed.
        least: u64,
        /// The most that is allowed.
        most: u64,
    },
}

/// The file as it is written; what it leaves out keeps its default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rekey_after: Option<u64>,
    idle_after: Option<u64>,
    cipher: Option<Cipher>,
    lan: Option<bool>,
    birthday: Option<bool>,
    dns: Option<String>,
    relay: Option<bool>,
    port_mapping: Option<bool>,
    #[serde(default)]
    stun: Vec<String>,
    #[serde(default)]
    beacons: Vec<String>,
    beacon: Option<toml::Value>,
}

impl Settings {
    /// Reads the settings file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file and the key or line.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let read = fs::read_to_string(path);
        let text = read.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            reason: format!("line {}: {}", line_of(text, &error), error.message()),
        })?;
        let seconds = |key, value: Option<u64>, range: RangeInclusive<u64>, default| match value {
            None => Ok(default),
            Some(value) if range.contains(&value) => Ok(Duration::from_secs(value)),
            Some(value) => {
                let (least, most) = range.into_inner();
                Err(ConfigError::Range { path: path.to_owned(), key, value, least, most })
            }
        };
        let default = Self::default();
        Ok(Self {
            rekey_after: seconds("rekey_after", file.rekey_after, REKEY_AFTER_S, default.rekey_after)?,
            idle_after: seconds("idle_after", file.idle_after, IDLE_AFTER_S, default.idle_after)?,
            cipher: file.cipher.unwrap_or(default.cipher),
            lan: file.lan.unwrap_or(default.lan),
            birthday: file.birthday.unwrap_or(default.birthday),
            dns: file.dns.map(|value| dns(path, value)).transpose()?,
            relay: file.relay.or(default.relay),
            port_mapping: file.port_mapping.unwrap_or(default.port_mapping),
            stun: stun(path, file.stun)?,
            beacons: beacons(path, file.beacons)?,
            beacon: file.beacon.map_or(Ok(None), |value| beacon(path, &value))?,
        })
    }
}

/// Reads where the DNS server is to be: members reach the aliases, and others whatever is no loopback.
fn dns(path: &Path, value: String) -> Result<SocketAddr, ConfigError> {
    let is_own = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_loopback() && !is_alias(ip),
        IpAddr::V6(ip) => ip.is_loopback(),
    };
    let address =
        value.parse().ok().filter(|address: &SocketAddr| is_own(address.ip()) && address.port() > 0);
    address.ok_or_else(|| ConfigError::NotLoopback { path: path.to_owned(), value })
}

/// Reads which STUN servers are asked.
fn stun(path: &Path, values: Vec<String>) -> Result<Vec<SocketAddr>, ConfigError> {
    if values.len() > STUN_MAX {
        return Err(ConfigError::StunMany { path: path.to_owned(), count: values.len() });
    }
    let server = |value: String| {
        let address = value.parse().ok().filter(|address: &SocketAddr| {
            address.port() > 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
        });
        address.ok_or_else(|| ConfigError::NotStun { path: path.to_owned(), value })
    };
    values.into_iter().map(server).collect()
}

/// Reads through which beacons every VPI may be found.
fn beacons(path: &Path, values: Vec<String>) -> Result<Vec<String>, ConfigError> {
    for value in &values {
        if let Err(error) = value.parse::<Beacon>() {
            let (path, value) = (path.to_owned(), value.clone());
            return Err(ConfigError::NotBeacon { path, value, reason: error.to_string() });
        }
    }
    Ok(values)
}

/// Reads whether a beacon runs beside this node, and where it says its addresses.
fn beacon(path: &Path, value: &toml::Value) -> Result<Option<PathBuf>, ConfigError> {
    match value {
        toml::Value::Boolean(runs) => Ok(runs.then(|| ADDRESSES.into())),
        toml::Value::String(file) if Path::new(file).is_absolute() => Ok(Some(file.into())),
        _ => Err(ConfigError::NotFile { path: path.to_owned(), value: value.to_string() }),
    }
}

fn line_of(text: &str, error: &toml::de::Error) -> usize {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    before.bytes().filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(Path::new("vpi.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(parse(""), Ok(Settings::default()));
    }

    #[test]
    fn every_setting_is_read() {
        let settings = parse("rekey_after = 10\nidle_after = 60\ncipher = \"chacha20\"\n").unwrap();
        assert_eq!(settings.rekey_after, Duration::from_secs(10));
        assert_eq!(settings.idle_after, Duration::from_secs(60));
        assert_eq!(settings.cipher, Cipher::ChaCha20);
        let settings = parse("lan = false\ndns = \"127.0.0.1:5354\"\n").unwrap();
        assert_eq!((settings.lan, settings.dns), (false, Some("127.0.0.1:5354".parse().unwrap())));
        assert_eq!(parse("dns = \"[::1]:53\"").unwrap().dns, Some("[::1]:53".parse().unwrap()));
        assert_eq!(parse("relay = true").unwrap().relay, Some(true));
        assert_eq!(parse("relay = false").unwrap().relay, Some(false));
        assert!(!parse("port_mapping = false").unwrap().port_mapping);
        assert_eq!(parse("cipher = \"aes256gcm\"").unwrap().cipher, Cipher::Aes256Gcm);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let reason = parse("rekey_after = 10\nrekey_aftre = 20\n").unwrap_err();
        assert!(reason.contains("rekey_aftre") && reason.contains("line 2"), "{reason}");
    }

    #[test]
    fn a_number_out_of_range_is_named_with_its_range() {
        for text in ["rekey_after = 9", "rekey_after = 121", "idle_after = 0"] {
            let reason = parse(text).unwrap_err();
            assert!(reason.contains(text.split(' ').next().unwrap()) && reason.contains(" to "), "{reason}");
        }
        assert!(parse("rekey_after = -1").is_err());
        assert!(parse("cipher = \"rot13\"").is_err());
    }

    #[test]
    fn a_dns_server_is_on_loopback_and_on_no_alias() {
        for bad in
            ["0.0.0.0:53", "192.0.2.1:53", "127.80.12.7:53", "127.0.0.1", "127.0.0.1:0", "[::]:53", "home"]
        {
            let reason = parse(&format!("dns = \"{bad}\"")).unwrap_err();
            assert!(
                reason.contains("dns") && reason.contains(bad) && reason.contains("loopback"),
                "{reason}"
            );
        }
    }

    #[test]
    fn stun_servers_are_addresses_with_ports_and_few() {
        let servers = parse("stun = [\"192.0.2.7:3478\", \"[2001:db8::7]:3478\"]").unwrap().stun;
        assert_eq!(servers, ["192.0.2.7:3478".parse().unwrap(), "[2001:db8::7]:3478".parse().unwrap()]);
        for bad in ["stun.example:3478", "192.0.2.7", "192.0.2.7:0", "0.0.0.0:3478", "224.0.0.1:3478"] {
            let reason = parse(&format!("stun = [\"{bad}\"]")).unwrap_err();
            assert!(reason.contains("stun") && reason.contains(bad) && reason.contains("port"), "{reason}");
        }
        let many = format!("stun = [{}]", "\"192.0.2.7:3478\",".repeat(9));
        assert!(parse(&many).unwrap_err().contains("at most 8"));
    }

    #[test]
    fn a_beacon_beside_the_node_says_its_addresses_where_its_unit_does_or_in_a_file() {
        assert_eq!(parse("beacon = false").unwrap().beacon, None);
        assert_eq!(parse("beacon = true").unwrap().beacon, Some(ADDRESSES.into()));
        assert_eq!(parse("beacon = \"/run/b\"").unwrap().beacon, Some("/run/b".into()));
        for bad in ["1", "\"addresses\"", "\"\"", "[]"] {
            let reason = parse(&format!("beacon = {bad}")).unwrap_err();
            assert!(reason.contains("beacon is") && reason.contains("--addresses"), "{reason}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let reason = Settings::read(Path::new("/nonexistent/vpi.toml")).unwrap_err().to_string();
        assert!(reason.contains("/nonexistent/vpi.toml"), "{reason}");
    }
}
