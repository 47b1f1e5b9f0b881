//! What members put into a public DHT and read from it: the way back in when no remembered address is right any more
//! (README §18).
//!
//! ```text
//! own Presence ─► publisher: when ─► presence: sealed under the slot's blinded key ─► record ─► DHT
//! DHT ─► every value of a key ─► record: checked ─► presence: opened, verified ─► finder: the newest
//! ```
//!
//! Whoever runs the DHT learns neither which VPI nor which device a record is of, nor that two slots' records are one
//! device's. Everybody who holds the epoch's secret can find a record; only the device can write it.
//!
//! | module | owns |
//! |---|---|
//! | [`blind`] | A device's key as one slot shows it |
//! | [`bulletin`] | What an admin leaves for a sleeping device |
//! | [`finder`] | Which keys to look up, and when; what the values say |
//! | [`keeper`] | Who writes a lobby, and when |
//! | [`lobby`] | Where some member is, for whoever holds a token |
//! | [`presence`] | Where a device is, for those who hold the epoch's secret |
//! | [`publisher`] | When to publish the own Presence |
//! | [`record`] | The bytes of a record, and all that can be checked without a secret |
//! | [`slot`] | Which hours are written and read |

pub mod blind;
pub mod bulletin;
pub mod finder;
pub mod keeper;
pub mod lobby;
pub mod presence;
pub mod publisher;
pub mod record;
pub mod slot;
#[cfg(test)]
mod tests;
