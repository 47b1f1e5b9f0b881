//! The pins: which alias stands for which device on this machine, in one VPI.
//!
//! In: the pins after each change. Out: the pins after a restart, and the lines that made no sense. Text, so that a
//! person can read and mend it; written whole, by rename. Which alias a device gets is not decided here.
//!
//! ```text
//! 3.9 <device, 64 hexadecimal digits>
//! 12.7 <device> removed <unix seconds>
//! ```
//!
//! `3.9` is the suffix: the last two bytes of an alias, so that a pin outlives a change of the /16 in front.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use protocol::alias::{Pin, assign::SUFFIXES};
use protocol::identity::DeviceId;

use super::StoreError;
use super::replace::{append_durably, beside, make_way, read, replace};

/// How long a removed device keeps its alias, so that no other key gets a known address soon.
const REMOVED_KEEP_SECONDS: u64 = 90 * 24 * 60 * 60;

/// The file of pins of one VPI.
#[derive(Debug)]
pub(crate) struct Aliases {
    path: PathBuf,
}

/// A line that was set aside into `aliases.damaged`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {number} of the aliases was set aside: {reason}")]
pub(crate) struct BadLine {
    /// Counted from 1.
    pub(crate) number: usize,
    /// What is wrong with it.
    pub(crate) reason: &'static str,
}

impl Aliases {
    /// Reads the pins at `path`, sorted by suffix, without those removed more than 90 days before `now_seconds`
    /// (unix time). No file is no pins. A bad line is set aside and the rest kept.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn open(path: &Path, now_seconds: u64) -> Result<(Self, Vec<Pin>, Vec<BadLine>), StoreError> {
        make_way(path)?;
        let bytes = read(path)?.unwrap_or_default();
        let (mut pins, mut bad, mut aside) = (Vec::new(), Vec::new(), Vec::new());
        let (mut suffixes, mut devices) = (BTreeSet::new(), BTreeSet::new());
        for (number, line) in
            (1..).zip(bytes.split(|byte| *byte == b'\n')).filter(|(_, line)| !line.is_empty())
        {
            let pin = parse(line).and_then(|pin| {
                let is_first = suffixes.insert(pin.suffix) && devices.insert(pin.device);
                if is_first { Ok(pin) } else { Err("its alias or device stands in an earlier line") }
            });
            match pin {
                Ok(pin) => pins.push(pin),
                Err(reason) => {
                    bad.push(BadLine { number, reason });
                    aside.extend_from_slice(line);
                    aside.push(b'\n');
                }
            }
        }
        let file = Self { path: path.to_owned() };
        if !bad.is_empty() {
            append_durably(&beside(path, "damaged"), &aside)?;
            file.save(&pins, now_seconds)?;
        }
        Ok((file, current(&pins, now_seconds), bad))
    }

    /// The pins at `path` of devices that were not removed, for whoever only looks: bad lines are passed over.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn peek(path: &Path) -> Result<Vec<Pin>, StoreError> {
        let bytes = read(path)?.unwrap_or_default();
        let pins = bytes.split(|byte| *byte == b'\n').filter_map(|line| parse(line).ok());
        Ok(pins.filter(|pin| pin.removed_at.is_none()).collect())
    }

    /// Writes all pins but those removed more than 90 days before `now_seconds`.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the file is then as before.
    pub(crate) fn save(&self, pins: &[Pin], now_seconds: u64) -> Result<(), StoreError> {
        let text: String = current(pins, now_seconds).iter().map(line).collect();
        replace(&self.path, text.as_bytes())
    }
}

fn current(pins: &[Pin], now_seconds: u64) -> Vec<Pin> {
    let is_current =
        |pin: &&Pin| pin.removed_at.is_none_or(|at| now_seconds.saturating_sub(at) <= REMOVED_KEEP_SECONDS);
    let mut current: Vec<Pin> = pins.iter().filter(is_current).copied().collect();
    current.sort_unstable_by_key(|pin| pin.suffix);
    current
}

fn line(pin: &Pin) -> String {
    let ([high, low], device) = (pin.suffix.to_be_bytes(), pin.device);
    match pin.removed_at {
        None => format!("{high}.{low} {device}\n"),
        Some(at) => format!("{high}.{low} {device} removed {at}\n"),
    }
}

fn parse(bytes: &[u8]) -> Result<Pin, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (suffix, device, removed) = match words.as_slice() {
        [suffix, device] => (suffix, device, None),
        [suffix, device, "removed", at] => (suffix, device, Some(at)),
        _ => return Err("it is not `SUFFIX DEVICE [removed SECONDS]`"),
    };
    let removed_at =
        removed.map(|at| at.parse()).transpose().map_err(|_| "its time is not a number of seconds")?;
    let device = DeviceId::from_hex(device).ok_or("its device is not 64 hexadecimal digits")?;
    Ok(Pin {
        suffix: parse_suffix(suffix).ok_or("its suffix is not two bytes such as 3.9")?,
        device,
        removed_at,
    })
}

fn parse_suffix(text: &str) -> Option<u16> {
    let (high, low) = text.split_once('.')?;
    let suffix = u16::from_be_bytes([high.parse().ok()?, low.parse().ok()?]);
    (1..=SUFFIXES).contains(&suffix).then_some(suffix)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const DAY: u64 = 24 * 60 * 60;

    fn pin(suffix: [u8; 2], device: u8, removed_at: Option<u64>) -> Pin {
        Pin { suffix: u16::from_be_bytes(suffix), device: DeviceId::from([device; 32]), removed_at }
    }

    #[test]
    fn pins_are_found_again_sorted_by_suffix() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aliases");
        let (file, pins, _) = Aliases::open(&path, 0).unwrap();
        assert!(pins.is_empty());

        file.save(&[pin([12, 7], 1, None), pin([3, 9], 2, Some(50))], 60).unwrap();

        let (_, pins, bad) = Aliases::open(&path, 60).unwrap();
        assert_eq!(pins, [pin([3, 9], 2, Some(50)), pin([12, 7], 1, None)]);
        assert!(bad.is_empty());
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("3.9 {} removed 50\n12.7 {}\n", "02".repeat(32), "01".repeat(32)));
    }

    #[test]
    fn a_removed_device_keeps_its_alias_for_ninety_days() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aliases");
        let (file, _, _) = Aliases::open(&path, 0).unwrap();
        let pins = [pin([1, 1], 1, Some(1_000)), pin([1, 2], 2, None)];
        file.save(&pins, 1_000).unwrap();

        assert_eq!(Aliases::open(&path, 1_000 + 90 * DAY).unwrap().1, pins);
        assert_eq!(Aliases::open(&path, 1_001 + 90 * DAY).unwrap().1, pins[1..]);
        assert_eq!(Aliases::open(&path, 0).unwrap().1, pins, "the clock went back");
    }

    #[test]
    fn bad_lines_are_set_aside_and_the_rest_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aliases");
        let good = line(&pin([1, 1], 1, None));
        let device = "02".repeat(32);
        let bad = [
            format!("0.0 {device}"),
            format!("255.255 {device}"),
            format!("1.256 {device}"),
            format!("1.2 {device} gone 5"),
            format!("1.2 {device} removed soon"),
            "1.2 02".to_owned(),
            format!("1.1 {device}"),
        ];
        let mut bytes = good.clone().into_bytes();
        bytes.extend_from_slice(bad.join("\n").as_bytes());
        bytes.extend_from_slice(b"\n\xff\xfe\n");
        fs::write(&path, &bytes).unwrap();

        let (_, pins, warnings) = Aliases::open(&path, 0).unwrap();

        assert_eq!(pins, [pin([1, 1], 1, None)]);
        assert_eq!(
            warnings.iter().map(|warning| warning.number).collect::<Vec<_>>(),
            (2..=9).collect::<Vec<_>>()
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), good);
        assert_eq!(fs::read(beside(&path, "damaged")).unwrap(), bytes[good.len()..]);
        assert!(Aliases::open(&path, 0).unwrap().2.is_empty());
    }
}
