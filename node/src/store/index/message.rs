//! What the node and a keeper say to each other: JSON lines, one value each, of bounded length.
//!
//! ```text
//! node ──► keeper, on its standard input     change … recall …, then the end of the input
//! keeper ──► node, on its standard output    set aside?  fact …  done      or, instead of `done`, unusable
//! ```
//!
//! A line without its end was cut off with its writer, and counts as none.

use std::net::SocketAddr;
use std::sync::Arc;

use protocol::identity::{DeviceId, VpiId};
use protocol::membership::object::MAX_OBJECT_BYTES;
use serde::{Deserialize, Serialize};

/// Bytes of a line, at most: the largest object in hexadecimal, and everything else there is to say.
pub(super) const LINE_MAX: usize = 2 * MAX_OBJECT_BYTES + 512;

/// A path over which a peer answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastPath {
    /// The peer.
    #[serde(with = "id")]
    pub(crate) device: DeviceId,
    /// Where it answered from.
    pub(crate) remote: SocketAddr,
    /// When it last did, in unix seconds.
    pub(crate) last_at: u64,
}

/// The newest Presence of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastPresence {
    /// The device.
    #[serde(with = "id")]
    pub(crate) device: DeviceId,
    /// The counter of the Presence: a greater one is newer.
    pub(crate) counter: u64,
    /// When it arrived, in unix seconds of this machine.
    pub(crate) last_at: u64,
    /// Its signed envelope.
    #[serde(with = "bytes")]
    pub(crate) object: Arc<[u8]>,
}

/// One thing worth remembering about a member of a VPI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fact {
    Path(#[serde(with = "id")] VpiId, LastPath),
    Presence(#[serde(with = "id")] VpiId, LastPresence),
}

/// What the node wants changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Change {
    Remember(Fact),
    /// Everything about a VPI.
    Forget(#[serde(with = "id")] VpiId),
}

/// What the node asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    Change(Change),
    /// Every fact about a VPI; given after all changes.
    Recall(#[serde(with = "id")] VpiId),
}

/// What a keeper tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// The index was damaged, stands there, and began empty.
    SetAside(String),
    Fact(Fact),
    /// All is done and on disk.
    Done,
    /// Nothing can be done; why.
    Unusable(String),
}

/// One line, with its end.
pub(super) fn line(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// Identifiers as hexadecimal text.
mod id {
    use std::fmt::Display;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<T: Display, S: Serializer>(id: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(super) fn deserialize<'de, T: From<[u8; 32]>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?;
        let bytes = <[u8; 32]>::try_from(bytes).map_err(|_| D::Error::custom("an id has 32 bytes"))?;
        Ok(T::from(bytes))
    }
}

/// Objects as hexadecimal text.
mod bytes {
    use std::sync::Arc;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &Arc<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&data_encoding::HEXLOWER.encode_display(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<[u8]>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?;
        Ok(bytes.into())
    }
}
