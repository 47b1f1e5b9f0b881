//! The beacon beside a node: a process of its own that says in a file where it is, and a node that reads it there.
//!
//! ```text
//! vpi beacon --addresses FILE ──► FILE, held locked: one multiaddress a line ──► node: told to members
//! ```
//!
//! Nothing else passes between the two. The beacon runs as another user, in bounds of its own: whatever becomes of it, the
//! node loses one address, and whoever takes it over reads nothing of a VPI. The lock tells that it runs: a file that a crash
//! left behind is as good as none.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::node::jittered;
use crate::swarm::Beacon;

/// *Specified* (the unit `vpi-beacon.service` writes it): where the addresses are unless the setting says otherwise.
pub(crate) const ADDRESSES: &str = "/run/vpi-beacon/addresses";
/// *Chosen*: addresses that are read: two families, two networks.
const ADDRESSES_MAX: usize = 4;
/// *Chosen*: the longest file that is read; a line takes about 90 bytes.
const FILE_BYTES_MAX: u64 = 4_096;
/// *Chosen*: how often the file is looked at, ± a quarter. A beacon that has gone costs whoever was told of it one failed dial.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// *Chosen*: everybody may read it: the addresses are what the beacon tells everybody.
const MODE: u32 = 0o644;

/// The file of a running beacon. Dropped, it is removed.
#[derive(Debug)]
pub(super) struct Sign {
    path: PathBuf,
    /// Held for its flock only.
    _file: File,
}

impl Sign {
    /// Writes `addresses` to `path`, in the place of what stands there.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::WouldBlock`] if another beacon holds the file.
    pub(super) fn put_up(path: &Path, addresses: &[String]) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(MODE);
        let mut file = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        // Whatever the umask is.
        fs::set_permissions(path, Permissions::from_mode(MODE))?;
        file.set_len(0)?;
        file.write_all(addresses.iter().flat_map(|line| [line, "\n"]).collect::<String>().as_bytes())?;
        Ok(Self { path: path.to_owned(), _file: file })
    }
}

impl Drop for Sign {
    fn drop(&mut self) {
        // What stays is not locked, so nobody believes it.
        let _ = fs::remove_file(&self.path);
    }
}

/// The node's side.
#[derive(Debug)]
pub(crate) struct Beside {
    path: PathBuf,
    read: Vec<Beacon>,
    every: Duration,
    look_at: Instant,
}

impl Beside {
    /// The beacon that says its addresses at `path`; none until it does.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, read: Vec::new(), every: LOOK_EVERY, look_at: Instant::now() }
    }

    /// Its TCP addresses, as they were read last.
    pub(crate) fn beacons(&self) -> &[Beacon] {
        &self.read
    }

    /// Waits until it is elsewhere than before, is gone or has come. A call that is given up loses nothing.
    pub(crate) async fn changed(&mut self) {
        loop {
            sleep_until(self.look_at).await;
            self.look_at = Instant::now() + jittered(self.every);
            let read = read(&self.path).unwrap_or_else(|error| {
                debug!(%error, path = %self.path.display(), "no beacon runs beside this node");
                Vec::new()
            });
            if read != self.read {
                self.read = read;
                return;
            }
        }
    }
}

/// The TCP addresses in the file, if a beacon holds it.
fn read(path: &Path) -> io::Result<Vec<Beacon>> {
    let file = File::open(path)?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return Err(io::Error::other("its file is left over"));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    // A line without its end is still being written.
    let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    Ok(lines.filter_map(|line| line.parse().ok()).take(ADDRESSES_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "/ip4/192.0.2.1/tcp/41415/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    const QUIC: &str =
        "/ip4/192.0.2.1/udp/41415/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    fn lines(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[tokio::test]
    async fn a_beacon_that_comes_goes_crashes_and_comes_again_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("addresses");
        let often = Duration::from_millis(5);
        let mut beside = Beside { every: often, ..Beside::new(path.clone()) };
        let sign = Sign::put_up(&path, &lines(&[TCP, QUIC])).unwrap();
        beside.changed().await;
        assert_eq!(beside.beacons(), [TCP.parse().unwrap()]);
        assert_eq!(Sign::put_up(&path, &[]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(sign);
        assert!(!path.exists());
        beside.changed().await;
        assert_eq!(beside.beacons(), []);
        // What a crash leaves.
        fs::write(&path, format!("{TCP}\n")).unwrap();
        let nothing = tokio::time::timeout(20 * often, beside.changed());
        assert!(nothing.await.is_err());
        let _sign = Sign::put_up(&path, &lines(&[TCP])).unwrap();
        beside.changed().await;
        assert_eq!(beside.beacons(), [TCP.parse().unwrap()]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
    }

    #[test]
    fn a_file_of_anything_gives_few_addresses_and_no_half_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("addresses");
        let many: Vec<_> = (0..9).map(|port| TCP.replace("41415", &(port + 1).to_string())).collect();
        let sign = Sign::put_up(&path, &many).unwrap();
        assert_eq!(read(&path).unwrap().len(), ADDRESSES_MAX);
        drop(sign);
        let sign = Sign::put_up(&path, &lines(&["no address", "", TCP, &"x".repeat(5_000)])).unwrap();
        assert_eq!(read(&path).unwrap(), [TCP.parse().unwrap()]);
        let long = [&"x".repeat(4_050), TCP].join("\n");
        drop(sign);
        let _sign = Sign::put_up(&path, &[long]).unwrap();
        assert_eq!(read(&path).unwrap(), []);
    }
}
