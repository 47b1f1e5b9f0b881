//! A join that was asked and is not yet answered.
//!
//! Written before the question is first sent, so that a joiner killed at any moment asks again with the *same* Join:
//! that is not a second use of the invite (protocol/README §12). It holds the token, hence it stands among the keys.
//!
//! ```text
//! file = token '\n' Join envelope in hexadecimal '\n' 8 digits of CRC32C over both lines '\n'
//! ```

use std::fmt;

use data_encoding::HEXLOWER;
use protocol::identity::VpiId;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::StoreError;
use super::keys::{Keys, read_private};
use super::replace::{remove, replace};

/// Longest file: a token is about 800 characters and an envelope at most 4,096 bytes, in hexadecimal twice that.
const FILE_MAX_BYTES: usize = 16_384;

const FILE: &str = "joining";

/// What a joiner needs to ask again.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Joining {
    /// The token as it was read, one line.
    pub(crate) token: String,
    /// The envelope of the Join that was sent.
    pub(crate) join: Vec<u8>,
}

impl fmt::Debug for Joining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Joining")
    }
}

impl Keys {
    /// Keeps the join of `vpi` that is about to be asked, in place of an earlier one.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn put_joining(&self, vpi: &VpiId, joining: &Joining) -> Result<(), StoreError> {
        replace(&self.make_vpi_folder(vpi)?.join(FILE), encode(&joining.token, &joining.join).as_bytes())
    }

    /// The join of `vpi`, if one was asked and is not yet answered.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the file is not what was written; [`StoreError::Loose`]; [`StoreError::Io`].
    pub(crate) fn joining(&self, vpi: &VpiId) -> Result<Option<Joining>, StoreError> {
        let path = self.folder(vpi).join(FILE);
        let Some(bytes) = read_private(&path, FILE_MAX_BYTES)? else { return Ok(None) };
        let advice = "remove it and run `vpi join` again";
        decode(&bytes).ok_or(StoreError::Damaged { path, advice }).map(Some)
    }

    /// Forgets the join of `vpi`, once this device is a member or was refused.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(crate) fn remove_joining(&self, vpi: &VpiId) -> Result<(), StoreError> {
        let path = self.folder(vpi).join(FILE);
        if path.exists() { remove(&path) } else { Ok(()) }
    }
}

fn encode(token: &str, join: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(token.len() + 2 * join.len() + 16));
    text.push_str(token);
    text.push('\n');
    HEXLOWER.encode_append(join, &mut text);
    text.push('\n');
    let sum = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("{sum:08x}\n"));
    text
}

fn decode(bytes: &[u8]) -> Option<Joining> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.lines();
    let (token, join) = (lines.next()?, HEXLOWER.decode(lines.next()?.as_bytes()).ok()?);
    let joining = Joining { token: token.to_owned(), join };
    (*encode(&joining.token, &joining.join) == *text).then_some(joining)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::store::damage::damaged;

    const VPI: VpiId = VpiId([9; 32]);

    fn joining() -> Joining {
        Joining { token: "vpi1exampletoken".into(), join: (0..=255).collect() }
    }

    #[test]
    fn a_join_is_found_again_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::new(dir.path().to_owned());
        keys.put_joining(&VPI, &joining()).unwrap();

        let again = Keys::new(dir.path().to_owned());

        assert_eq!(again.joining(&VPI).unwrap(), Some(joining()));
        assert_eq!(fs::metadata(keys.folder(&VPI).join(FILE)).unwrap().mode() & 0o777, 0o600);
        again.remove_joining(&VPI).unwrap();
        again.remove_joining(&VPI).unwrap();
        assert!(again.joining(&VPI).unwrap().is_none());
        again.remove_joining(&VpiId([1; 32])).unwrap();
    }

    #[test]
    fn every_flipped_bit_and_truncation_of_a_join_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::new(dir.path().to_owned());
        keys.put_joining(&VPI, &joining()).unwrap();
        let whole = fs::read(keys.folder(&VPI).join(FILE)).unwrap();

        for bytes in damaged(&whole) {
            assert_eq!(decode(&bytes), None, "{bytes:?}");
        }
        assert_eq!(decode(&whole), Some(joining()));
    }

    #[test]
    fn a_damaged_join_of_one_vpi_does_not_stand_in_the_way_of_another() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::new(dir.path().to_owned());
        let other = VpiId([8; 32]);
        keys.put_joining(&VPI, &joining()).unwrap();
        keys.put_joining(&other, &joining()).unwrap();
        fs::write(keys.folder(&other).join(FILE), "").unwrap();

        assert_eq!(keys.joining(&VPI).unwrap(), Some(joining()));
        assert!(matches!(keys.joining(&other), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn the_token_does_not_print() {
        assert_eq!(format!("{:?}", joining()), "Joining");
    }
}
