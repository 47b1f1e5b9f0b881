//! What can be read at a beacon: its folder, its log, its traffic, searched for what nobody there may know, in every form in
//! which it could stand there.
//!
//! | form | of bytes | of text | of an address |
//! |---|---|---|---|
//! | raw | as they are | as it is, in any case | as bytes, and as text |
//! | hex, base32, base64, base64url | in any case; at every alignment within something longer | the same | the same of its text |

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};

use crate::Host;
use crate::capture::Frame;

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Something that may not be found.
#[derive(Clone, Debug)]
pub struct Needle {
    /// What it is, to be shown.
    pub name: String,
    forms: Vec<Form>,
}

#[derive(Clone, Debug)]
struct Form {
    name: &'static str,
    bytes: Vec<u8>,
    /// Upper and lower case are the same.
    is_caseless: bool,
}

impl Needle {
    /// Bytes, such as a key; at least 4, or chance finds them.
    #[must_use]
    pub fn bytes(name: &str, bytes: &[u8]) -> Self {
        let mut forms = vec![Form { name: "raw", bytes: bytes.to_vec(), is_caseless: false }];
        forms.extend(encoded(bytes));
        Self { name: name.to_owned(), forms }
    }

    /// A text, such as a name; at least 6 characters.
    #[must_use]
    pub fn text(name: &str, text: &str) -> Self {
        let mut needle = Self::bytes(name, text.as_bytes());
        for form in &mut needle.forms {
            form.is_caseless |= form.name == "raw";
        }
        needle
    }

    /// An IPv4 address: as text, and as its four bytes.
    #[must_use]
    pub fn address(name: &str, address: Ipv4Addr) -> Self {
        let mut needle = Self::text(name, &address.to_string());
        needle.forms.push(Form { name: "four bytes", bytes: address.octets().to_vec(), is_caseless: false });
        needle
    }
}

/// All that was at a beacon, part by part.
#[derive(Clone, Debug, Default)]
pub struct Haystack {
    parts: Vec<(String, Vec<u8>)>,
}

impl Haystack {
    /// What lies in `folder`, all files of it, and in the log of `host`.
    ///
    /// # Errors
    /// A file cannot be read, or there is none.
    pub fn at_rest(host: &Host, folder: &Path) -> Result<Self> {
        let mut haystack = Self::default();
        haystack.add_folder(folder)?;
        haystack.add("log", fs::read(&host.log)?);
        Ok(haystack)
    }

    /// Adds a part.
    pub fn add(&mut self, name: &str, bytes: Vec<u8>) {
        self.parts.push((name.to_owned(), bytes));
    }

    /// Adds what was in these frames, behind their IP headers: first what one side sent after the other, then frame by frame.
    pub fn add_traffic(&mut self, name: &str, frames: &[Frame]) {
        // Something that begins in one segment of a stream ends in the next of the same direction.
        let mut streams: Vec<((_, _), Vec<u8>)> = Vec::new();
        for frame in frames {
            let direction = (frame.source, frame.destination);
            let payload = payload_of(frame);
            match streams.iter_mut().find(|(known, _)| *known == direction) {
                Some((_, stream)) => stream.extend_from_slice(payload),
                None => streams.push((direction, payload.to_vec())),
            }
        }
        for ((source, destination), bytes) in streams {
            self.add(&format!("{name}, {source} to {destination}"), bytes);
        }
    }

    /// How many bytes there are to search: with none, nothing is ever found.
    #[must_use]
    pub fn length(&self) -> usize {
        self.parts.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// Where a needle is, and in which form.
    #[must_use]
    pub fn find(&self, needle: &Needle) -> Vec<String> {
        let mut found = Vec::new();
        for (part, bytes) in &self.parts {
            let lower = bytes.to_ascii_lowercase();
            for form in &needle.forms {
                let (hay, wanted) = match form.is_caseless {
                    true => (&lower, form.bytes.to_ascii_lowercase()),
                    false => (bytes, form.bytes.clone()),
                };
                if hay.windows(wanted.len().max(1)).any(|window| window == wanted) {
                    found.push(format!("{} as {} in {part}", needle.name, form.name));
                }
            }
        }
        found
    }

    fn add_folder(&mut self, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                self.add_folder(&path)?;
            } else if path.is_file() {
                // Its name, too.
                self.add("file names", path.to_string_lossy().into_owned().into_bytes());
                self.add(&path.to_string_lossy(), fs::read(&path)?);
            }
        }
        Ok(())
    }
}

/// What a frame carries: of TCP without its header, so that the pieces of a stream join.
fn payload_of(frame: &Frame) -> &[u8] {
    const TCP: u8 = 6;
    let words = if frame.protocol == TCP {
        frame.payload.get(12).map_or(0, |byte| usize::from(byte >> 4))
    } else {
        0
    };
    frame.payload.get(words * 4..).unwrap_or_default()
}

/// Bytes in every encoding of text that is used anywhere here.
fn encoded(bytes: &[u8]) -> Vec<Form> {
    let hex = bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect();
    let mut forms = vec![Form { name: "hex", bytes: hex, is_caseless: true }];
    for (name, alphabet, bits, is_caseless) in
        [("base32", &BASE32[..], 5, true), ("base64", BASE64, 6, false), ("base64url", BASE64URL, 6, false)]
    {
        // Within something longer it may begin at each of the bits of a character.
        for skipped in 0..bits {
            let text = inner(bytes, alphabet, bits, skipped);
            forms.push(Form { name, bytes: text, is_caseless });
        }
    }
    forms
}

/// The characters that lie wholly in `bytes`, if the first begins `skipped` bits into them.
fn inner(bytes: &[u8], alphabet: &[u8], bits: usize, skipped: usize) -> Vec<u8> {
    let bit = |at: usize| usize::from(bytes[at / 8] >> (7 - at % 8) & 1);
    let starts = (skipped..).step_by(bits).take_while(|start| start + bits <= bytes.len() * 8);
    starts.map(|start| alphabet[(start..start + bits).fold(0, |number, at| number << 1 | bit(at))]).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn hay(bytes: &[u8]) -> Haystack {
        let mut haystack = Haystack::default();
        haystack.add("part", bytes.to_vec());
        haystack
    }

    /// RFC 4648 §10: base64 of "foobar" is Zm9vYmFy, base32 MZXW6YTBOI======.
    #[test]
    fn a_needle_is_found_in_every_form_and_within_something_longer() {
        let needle = Needle::text("word", "foobar");
        for there in ["...foobar", "FooBar", "x666F6F626172", "x666f6f626172", "Zm9vYmFy", "MZXW6YTBOI======"]
        {
            assert!(!hay(there.as_bytes()).find(&needle).is_empty(), "{there}");
        }
        // base64 of "xfoobar", "xyfoobar!"; base32 of "xfoobar!yy".
        for there in ["eGZvb2Jhcg==", "eHlmb29iYXIh", "PBTG633CMFZCC6LZ"] {
            assert!(!hay(there.as_bytes()).find(&needle).is_empty(), "{there}");
        }
        for other in ["foobat", "Zm9vYmF0", "oofrab", ""] {
            assert_eq!(hay(other.as_bytes()).find(&needle), Vec::<String>::new(), "{other}");
        }
        let key = Needle::bytes("key", &[0xff, 0xef, 0xfe, 0xfb]);
        assert!(!hay(b"/+/++w==").find(&key).is_empty() && !hay(b"_-_--w").find(&key).is_empty());
    }

    #[test]
    fn an_address_is_found_as_bytes_and_as_text() {
        let needle = Needle::address("host", "10.1.2.3".parse().unwrap());
        for there in [&b"/ip4/10.1.2.3/tcp/1"[..], &[4, 10, 1, 2, 3, 6]] {
            assert!(!hay(there).find(&needle).is_empty());
        }
        assert!(hay(b"10.1.2.4").find(&needle).is_empty());
    }

    #[test]
    fn what_is_split_over_two_segments_is_found() {
        let segment = |source: &str, payload: &[u8]| {
            let mut header = [0_u8; 20];
            header[12] = 0x50;
            let (source, destination) =
                (source.parse::<SocketAddr>().unwrap(), "10.0.0.9:0".parse().unwrap());
            Frame { source, destination, protocol: 6, payload: [&header[..], payload].concat() }
        };
        let frames = [
            segment("10.0.0.1:0", b"..foo"),
            segment("10.0.0.2:0", b"between"),
            segment("10.0.0.1:0", b"bar.."),
        ];
        let mut haystack = Haystack::default();
        haystack.add_traffic("wire", &frames);
        assert_eq!(haystack.find(&Needle::text("word", "foobar")).len(), 1);
        assert_eq!(haystack.length(), 17);
    }
}
