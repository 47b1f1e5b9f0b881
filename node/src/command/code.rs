//! A device's code: its key as text that a person can read out, and that notices a mistake.
//!
//! ```text
//! binary = device key 32 ‖ first 3 bytes of CRC32C("vpi device" ‖ device key), big-endian
//! text   = base32 of it (RFC 4648), lower case, 7 groups of 8 joined by dashes
//! ```
//!
//! Of one changed character all are noticed, of any other mistake all but one in 16 million. The code is no secret.

use data_encoding::BASE32_NOPAD;
use protocol::identity::DeviceId;

/// Bytes of the checksum (chosen: 35 bytes are 56 letters, without a bit to spare).
const SUM_BYTES: usize = 3;
const GROUP: usize = 8;

/// Writes the code of a device.
pub(crate) fn write(device: &DeviceId) -> String {
    let mut bytes = device.as_bytes().to_vec();
    bytes.extend(sum(device));
    let text = BASE32_NOPAD.encode(&bytes).to_ascii_lowercase();
    text.as_bytes().chunks(GROUP).map(String::from_utf8_lossy).collect::<Vec<_>>().join("-")
}

/// Reads a code, in either case, with dashes and white space anywhere; `None` when it is none, or was damaged.
pub(crate) fn read(text: &str) -> Option<DeviceId> {
    let letters: String = text.chars().filter(|c| *c != '-' && !c.is_whitespace()).collect();
    let bytes = BASE32_NOPAD.decode(letters.to_ascii_uppercase().as_bytes()).ok()?;
    let (key, checked) = bytes.split_last_chunk::<SUM_BYTES>()?;
    let device = DeviceId::from(<[u8; 32]>::try_from(key).ok()?);
    (sum(&device) == *checked).then_some(device)
}

fn sum(device: &DeviceId) -> [u8; SUM_BYTES] {
    let [a, b, c, _] = crc32c::crc32c_append(crc32c::crc32c(b"vpi device"), device.as_bytes()).to_be_bytes();
    [a, b, c]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> DeviceId {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(1..).for_each(|(byte, at)| *byte = at * 7);
        DeviceId::from(bytes)
    }

    #[test]
    fn a_code_is_seven_groups_that_read_back() {
        let code = write(&device());
        assert_eq!(code.split('-').map(str::len).collect::<Vec<_>>(), [GROUP; 7]);
        let spoken = code.replace('-', " ").to_uppercase();
        for form in [code.as_str(), &spoken, &code.replace('-', ""), &format!(" {code}\n")] {
            assert_eq!(read(form), Some(device()), "{form}");
        }
    }

    #[test]
    fn every_changed_missing_or_swapped_character_is_noticed() {
        let code = write(&device()).replace('-', "");
        for at in 0..code.len() {
            for letter in "abcdefghijklmnopqrstuvwxyz234567".chars().filter(|c| !code[at..].starts_with(*c)) {
                let wrong = format!("{}{letter}{}", &code[..at], &code[at + 1..]);
                assert_eq!(read(&wrong), None, "{wrong}");
            }
            let missing = format!("{}{}", &code[..at], &code[at + 1..]);
            assert_eq!(read(&missing), None, "{missing}");
            let mut swapped = code.clone().into_bytes();
            if at > 0 && swapped[at - 1] != swapped[at] {
                swapped.swap(at - 1, at);
                assert_eq!(read(&String::from_utf8(swapped).unwrap()), None, "swapped at {at}");
            }
        }
        for bad in ["", "-", "nas", "0", &"a".repeat(56), &"é".repeat(28)] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
