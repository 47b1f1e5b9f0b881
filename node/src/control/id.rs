//! Identifiers in JSON: hexadecimal text, for `#[serde(with = "id")]`.

use protocol::identity::VpiId;
use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

/// Writes 64 hexadecimal digits.
pub(crate) fn serialize<S: Serializer>(id: &VpiId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// Reads 64 hexadecimal digits.
///
/// # Errors
/// When the text is anything else.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<VpiId, D::Error> {
    let text = String::deserialize(deserializer)?;
    VpiId::from_hex(&text).ok_or_else(|| D::Error::custom("an id is 64 hexadecimal digits"))
}

/// The same for a device that may be absent.
pub(crate) mod optional {
    use protocol::identity::DeviceId;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    /// Writes 64 hexadecimal digits or `null`.
    pub(crate) fn serialize<S: Serializer>(id: &Option<DeviceId>, serializer: S) -> Result<S::Ok, S::Error> {
        id.map(|id| id.to_string()).serialize(serializer)
    }

    /// Reads 64 hexadecimal digits or `null`.
    ///
    /// # Errors
    /// When the text is anything else.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<DeviceId>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let id = DeviceId::from_hex(&text);
        id.map(Some).ok_or_else(|| D::Error::custom("a device is 64 hexadecimal digits"))
    }
}
