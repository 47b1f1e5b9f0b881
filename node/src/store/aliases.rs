//! The pins: which alias stands for which device on this machine, in one VPI.
//!
//! In: the pins after each change. Out: the pins after a restart, and the lines that made no sense. Text, so that a
//! person can read and mend it; written whole, by rename, and once more as `aliases.copy`, from which pins come back whose
//! line was damaged or cut off. Which alias a device gets is not decided here.
//!
//! ```text
//! 3.9 <device, 64 hexadecimal digits> sum <CRC32C of the VPI and what stands before, 8 hexadecimal digits>
//! 12.7 <device> removed <unix seconds> sum …
//! ```
//!
//! `3.9` is the suffix: the last two bytes of an alias, so that a pin outlives a change of the /16 in front. A line that ends
//! before `sum` is a person's: it is taken, told, and written again with a sum. One flipped digit would otherwise give a
//! known address to another key.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use protocol::alias::{Pin, assign::SUFFIXES};
use protocol::identity::{DeviceId, VpiId};

use super::StoreError;
use super::replace::{append_durably, beside, make_way, read, replace, set_aside};

/// How long a removed device keeps its alias, so that no other key gets a known address soon.
const REMOVED_KEEP_SECONDS: u64 = 90 * 24 * 60 * 60;

/// `aliases.copy`: the same once more.
const COPY: &str = "copy";

/// The file of pins of one VPI.
#[derive(Debug)]
pub(crate) struct Aliases {
    path: PathBuf,
    vpi: VpiId,
}

/// What the file held beside pins that are as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mended {
    /// Lines that were set aside into `aliases.damaged`.
    pub(crate) bad: Vec<BadLine>,
    /// Lines without a sum, counted from 1: a person's.
    pub(crate) edited: Vec<usize>,
    /// Pins that came back from the copy.
    pub(crate) recovered: usize,
    /// Whether the copy held what nobody wrote there; it was set aside as `aliases.copy.damaged`.
    pub(crate) is_copy_bad: bool,
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
    /// Reads the pins of `vpi` at `path`, sorted by suffix, without those removed more than 90 days before `now_seconds`
    /// (unix time). No file is no pins. A bad line is set aside and the rest kept; what the copy has beside it comes back.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn open(
        path: &Path,
        vpi: &VpiId,
        now_seconds: u64,
    ) -> Result<(Self, Vec<Pin>, Mended), StoreError> {
        make_way(path)?;
        let is_copy_bad = make_way(&beside(path, COPY))?;
        let bytes = read(path)?.unwrap_or_default();
        let (mut pins, mut mended, mut aside) =
            (Pins::default(), Mended { is_copy_bad, ..Mended::default() }, Vec::new());
        for (number, line) in (1..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
            match parse(vpi, line).and_then(|(pin, is_edited)| pins.take(pin).map(|()| is_edited)) {
                Ok(true) => mended.edited.push(number),
                Ok(false) => {}
                Err(reason) => {
                    mended.bad.push(BadLine { number, reason });
                    aside.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
                    aside.push(b'\n');
                }
            }
        }
        let copy = read(&beside(path, COPY))?.unwrap_or_default();
        let copied = || copy.split_inclusive(|byte| *byte == b'\n').map(|line| parse(vpi, line));
        let sound = copied().filter_map(Result::ok).filter(|(_, is_edited)| !is_edited);
        mended.recovered = sound.filter(|(pin, _)| pins.take(*pin).is_ok()).count();
        // Nobody edits a copy.
        mended.is_copy_bad |=
            copied().any(|line| line.is_err() || line.is_ok_and(|(_, is_edited)| is_edited));
        let file = Self { path: path.to_owned(), vpi: *vpi };
        if !aside.is_empty() {
            append_durably(&beside(path, "damaged"), &aside)?;
        }
        if mended.is_copy_bad && beside(path, COPY).exists() {
            set_aside(&beside(path, COPY))?;
        }
        let is_whole = mended == Mended::default() && (bytes == copy || bytes.is_empty());
        if !is_whole {
            file.save(&pins.found, now_seconds)?;
        }
        Ok((file, current(&pins.found, now_seconds), mended))
    }

    /// The pins of `vpi` at `path` of devices that were not removed, for whoever only looks: bad lines are passed over.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn peek(path: &Path, vpi: &VpiId) -> Result<Vec<Pin>, StoreError> {
        let mut pins = Pins::default();
        for path in [path, &beside(path, COPY)] {
            let bytes = read(path)?.unwrap_or_default();
            let lines = bytes.split_inclusive(|byte| *byte == b'\n');
            for (pin, _) in lines.filter_map(|line| parse(vpi, line).ok()) {
                // A second line for a device or alias says nothing.
                let _ = pins.take(pin);
            }
        }
        pins.found.retain(|pin| pin.removed_at.is_none());
        Ok(pins.found)
    }

    /// Writes all pins but those removed more than 90 days before `now_seconds`.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the file is then as before.
    pub(crate) fn save(&self, pins: &[Pin], now_seconds: u64) -> Result<(), StoreError> {
        let text: String = current(pins, now_seconds).iter().map(|pin| line(&self.vpi, pin)).collect();
        replace(&self.path, text.as_bytes())?;
        replace(&beside(&self.path, COPY), text.as_bytes())
    }
}

/// Pins of which no two have one suffix or one device.
#[derive(Default)]
struct Pins {
    found: Vec<Pin>,
    suffixes: BTreeSet<u16>,
    devices: BTreeSet<DeviceId>,
}

impl Pins {
    fn take(&mut self, pin: Pin) -> Result<(), &'static str> {
        if self.suffixes.contains(&pin.suffix) || self.devices.contains(&pin.device) {
            return Err("its alias or device stands in an earlier line");
        }
        self.suffixes.insert(pin.suffix);
        self.devices.insert(pin.device);
        self.found.push(pin);
        Ok(())
    }
}

fn current(pins: &[Pin], now_seconds: u64) -> Vec<Pin> {
    let is_current =
        |pin: &&Pin| pin.removed_at.is_none_or(|at| now_seconds.saturating_sub(at) <= REMOVED_KEEP_SECONDS);
    let mut current: Vec<Pin> = pins.iter().filter(is_current).copied().collect();
    current.sort_unstable_by_key(|pin| pin.suffix);
    current
}

fn line(vpi: &VpiId, pin: &Pin) -> String {
    let ([high, low], device) = (pin.suffix.to_be_bytes(), pin.device);
    let text = match pin.removed_at {
        None => format!("{high}.{low} {device}"),
        Some(at) => format!("{high}.{low} {device} removed {at}"),
    };
    format!("{text} sum {:08x}\n", sum(vpi, &text))
}

fn sum(vpi: &VpiId, text: &str) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&vpi.0), text.as_bytes())
}

/// The pin of one line, which ends in a line feed, and whether a person wrote it.
fn parse(vpi: &VpiId, bytes: &[u8]) -> Result<(Pin, bool), &'static str> {
    let line = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
    let text = line.strip_suffix('\n').unwrap_or(line);
    let (text, sum_said) = match text.rsplit_once(" sum ") {
        Some((text, said)) => (text, Some(said)),
        None => (text, None),
    };
    if sum_said.is_some_and(|said| said != format!("{:08x}", sum(vpi, text))) {
        return Err("its sum says that it was written otherwise, or for another VPI");
    }
    if sum_said.is_none() && !line.ends_with('\n') {
        return Err("it is cut off");
    }
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (suffix, device, removed) = match words.as_slice() {
        [suffix, device] => (suffix, device, None),
        [suffix, device, "removed", at] => (suffix, device, Some(at)),
        _ => return Err("it is not `SUFFIX DEVICE [removed SECONDS]`"),
    };
    let removed_at =
        removed.map(|at| at.parse()).transpose().map_err(|_| "its time is not a number of seconds")?;
    let device = DeviceId::from_hex(device).ok_or("its device is not 64 hexadecimal digits")?;
    let suffix = parse_suffix(suffix).ok_or("its suffix is not two bytes such as 3.9")?;
    Ok((Pin { suffix, device, removed_at }, sum_said.is_none()))
}

fn parse_suffix(text: &str) -> Option<u16> {
    let (high, low) = text.split_once('.')?;
    let suffix = u16::from_be_bytes([high.parse().ok()?, low.parse().ok()?]);
    (1..=SUFFIXES).contains(&suffix).then_some(suffix)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::damage::damaged;
    use super::*;

    const DAY: u64 = 24 * 60 * 60;
    const VPI: VpiId = VpiId([7; 32]);

    fn pin(suffix: [u8; 2], device: u8, removed_at: Option<u64>) -> Pin {
        Pin { suffix: u16::from_be_bytes(suffix), device: DeviceId::from([device; 32]), removed_at }
    }

    fn file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aliases");
        (dir, path)
    }

    #[test]
    fn pins_are_found_again_sorted_by_suffix() {
        let (_dir, path) = file();
        let (file, pins, _) = Aliases::open(&path, &VPI, 0).unwrap();
        assert!(pins.is_empty());

        file.save(&[pin([12, 7], 1, None), pin([3, 9], 2, Some(50))], 60).unwrap();

        let (_, pins, mended) = Aliases::open(&path, &VPI, 60).unwrap();
        assert_eq!(pins, [pin([3, 9], 2, Some(50)), pin([12, 7], 1, None)]);
        assert_eq!(mended, Mended::default());
        let text = fs::read_to_string(&path).unwrap();
        let expected = format!("3.9 {} removed 50 sum ", "02".repeat(32));
        assert!(text.starts_with(&expected), "{text}");
        assert_eq!(Aliases::peek(&path, &VPI).unwrap(), [pin([12, 7], 1, None)]);
    }

    #[test]
    fn a_removed_device_keeps_its_alias_for_ninety_days() {
        let (_dir, path) = file();
        let (file, _, _) = Aliases::open(&path, &VPI, 0).unwrap();
        let pins = [pin([1, 1], 1, Some(1_000)), pin([1, 2], 2, None)];
        file.save(&pins, 1_000).unwrap();

        let open = |now| Aliases::open(&path, &VPI, now).unwrap().1;
        assert_eq!(open(1_000 + 90 * DAY), pins);
        assert_eq!(open(1_001 + 90 * DAY), pins[1..]);
        assert_eq!(open(0), pins, "the clock went back");
    }

    #[test]
    fn whatever_happens_to_the_file_no_alias_is_anothers_and_the_copy_stands_in() {
        let (_dir, path) = file();
        let pins = [pin([1, 1], 1, None), pin([3, 9], 2, Some(50)), pin([200, 7], 0xab, None)];
        let (file, _, _) = Aliases::open(&path, &VPI, 60).unwrap();
        file.save(&pins, 60).unwrap();
        let whole = fs::read(&path).unwrap();

        for bytes in damaged(&whole) {
            fs::write(&path, &bytes).unwrap();
            assert!(Aliases::peek(&path, &VPI).unwrap().iter().all(|pin| pins.contains(pin)));
            let (_, found, mended) = Aliases::open(&path, &VPI, 60).unwrap();
            assert_eq!(found, pins, "{}", String::from_utf8_lossy(&bytes));
            assert!(mended != Mended::default() || bytes.len() + 1 == whole.len(), "it is told");
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
        for damage in [
            |path: &Path| fs::remove_file(path),
            |path: &Path| fs::remove_file(path).and_then(|()| fs::create_dir(path)),
        ] {
            damage(&path).unwrap();
            assert_eq!(Aliases::open(&path, &VPI, 60).unwrap().1, pins);
        }
    }

    #[test]
    fn a_damaged_copy_harms_nothing() {
        let (_dir, path) = file();
        let pins = [pin([1, 1], 1, None), pin([1, 2], 2, None)];
        Aliases::open(&path, &VPI, 0).unwrap().0.save(&pins, 0).unwrap();
        let whole = fs::read(&path).unwrap();
        for (bytes, is_bad) in [(&b""[..], false), (b"1.3 00", true), (&whole[..90], true)] {
            fs::write(beside(&path, COPY), bytes).unwrap();
            let (_, found, mended) = Aliases::open(&path, &VPI, 0).unwrap();
            assert_eq!((found, mended.is_copy_bad), (pins.to_vec(), is_bad));
            assert_eq!(fs::read(beside(&path, COPY)).unwrap(), whole);
        }
        assert_eq!(fs::read(beside(&beside(&path, COPY), "damaged")).unwrap(), b"1.3 00");
    }

    #[test]
    fn the_pins_of_another_vpi_are_no_pins() {
        let (_dir, path) = file();
        Aliases::open(&path, &VpiId([8; 32]), 0).unwrap().0.save(&[pin([1, 1], 1, None)], 0).unwrap();

        let (_, pins, mended) = Aliases::open(&path, &VPI, 0).unwrap();

        assert!(pins.is_empty());
        assert_eq!(mended.bad.len(), 1);
    }

    #[test]
    fn a_line_that_a_person_wrote_is_taken_and_told() {
        let (_dir, path) = file();
        fs::write(&path, format!("1.1 {}\n", "01".repeat(32))).unwrap();

        let (_, pins, mended) = Aliases::open(&path, &VPI, 0).unwrap();

        assert_eq!(pins, [pin([1, 1], 1, None)]);
        assert_eq!(mended.edited, [1]);
        assert_eq!(fs::read_to_string(&path).unwrap(), line(&VPI, &pins[0]));
    }

    #[test]
    fn bad_lines_are_set_aside_and_the_rest_kept() {
        let (_dir, path) = file();
        let good = line(&VPI, &pin([1, 1], 1, None));
        let device = "02".repeat(32);
        let bad = [
            format!("0.0 {device}"),
            format!("255.255 {device}"),
            format!("1.256 {device}"),
            format!("1.2 {device} gone 5"),
            format!("1.2 {device} removed soon"),
            "1.2 02".to_owned(),
            format!("1.1 {device}"),
            format!("1.2 {device} sum 00000000"),
        ];
        let mut bytes = good.clone().into_bytes();
        bytes.extend_from_slice(bad.join("\n").as_bytes());
        bytes.extend_from_slice(b"\n\xff\xfe\n");
        fs::write(&path, &bytes).unwrap();

        let (_, pins, mended) = Aliases::open(&path, &VPI, 0).unwrap();

        assert_eq!(pins, [pin([1, 1], 1, None)]);
        let numbers = mended.bad.iter().map(|line| line.number).collect::<Vec<_>>();
        assert_eq!(numbers, (2..=10).collect::<Vec<_>>());
        assert_eq!(fs::read_to_string(&path).unwrap(), good);
        assert_eq!(fs::read(beside(&path, "damaged")).unwrap(), bytes[good.len()..]);
        assert_eq!(Aliases::open(&path, &VPI, 0).unwrap().2, Mended::default());
    }
}
