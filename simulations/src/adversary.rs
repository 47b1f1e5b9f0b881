//! A stranger who hears everything: replays what was delivered, to anyone and from anywhere, alters it, makes it up.
//!
//! It never gets anything: a single datagram to its address fails the run.

use std::net::SocketAddr;

use protocol::wire::header::VEILED;

use crate::chance::Chance;

/// Where it is.
pub(crate) fn address() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 66], 666))
}

/// The second byte of a veiled datagram that is about a join.
const JOIN: u8 = 1;
/// Datagrams kept at most; beyond it a random one gives way.
const MAX_RECORDED: usize = 256;

/// A datagram that was delivered.
struct Recorded {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

/// What it heard.
#[derive(Default)]
pub(crate) struct Adversary {
    recorded: Vec<Recorded>,
    announced: Vec<Vec<u8>>,
}

/// A datagram of the adversary's: from where it claims to be, to a host, with what.
pub(crate) struct Shot {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

impl Adversary {
    /// Hears a datagram that a host took. One that never arrived is no replay when it is sent again, and whoever
    /// brings the first copy is answered.
    pub(crate) fn hear(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8], chance: &mut Chance) {
        let recorded = Recorded { from, to, bytes: bytes.to_vec() };
        if self.recorded.len() < MAX_RECORDED {
            self.recorded.push(recorded);
        } else {
            let at = chance.below(MAX_RECORDED as u64) as usize;
            self.recorded[at] = recorded;
        }
    }

    /// Hears an announcement.
    pub(crate) fn overhear(&mut self, bytes: &[u8]) {
        if self.announced.len() < MAX_RECORDED {
            self.announced.push(bytes.to_vec());
        }
    }

    /// Makes up an announcement: one that was heard, whole or altered; or any datagram.
    pub(crate) fn announcement(&self, chance: &mut Chance) -> Vec<u8> {
        if self.announced.is_empty() || chance.percent(20) {
            return junk(chance);
        }
        let mut bytes = chance.pick(&self.announced).clone();
        let at = chance.below(bytes.len().max(1) as u64) as usize;
        if let Some(byte) = bytes.get_mut(at).filter(|_| chance.percent(50)) {
            *byte ^= 1 << chance.below(8);
        }
        bytes
    }

    /// Makes up one datagram against `target`.
    pub(crate) fn shot(&self, target: SocketAddr, chance: &mut Chance) -> Shot {
        if self.recorded.is_empty() || chance.percent(20) {
            return Shot { from: address(), to: target, bytes: junk(chance) };
        }
        let recorded = chance.pick(&self.recorded);
        let mut bytes = recorded.bytes.clone();
        match chance.below(4) {
            // To the host that had it, from the adversary or in the sender's name.
            0 => Shot { from: address(), to: recorded.to, bytes },
            1 => Shot { from: recorded.from, to: recorded.to, bytes },
            // To any host; a join's question is for whichever member hears it first.
            2 if !bytes.starts_with(&[VEILED, JOIN]) => Shot { from: address(), to: target, bytes },
            _ => {
                let at = chance.below(bytes.len().max(1) as u64) as usize;
                let length = bytes.len();
                match bytes.get_mut(at) {
                    Some(byte) if chance.percent(80) => *byte ^= 1 << chance.below(8),
                    _ => bytes.truncate(at.min(length)),
                }
                Shot { from: address(), to: recorded.to, bytes }
            }
        }
    }
}

fn junk(chance: &mut Chance) -> Vec<u8> {
    let length = chance.below(1_400) as usize;
    let mut bytes = chance.blob(length);
    if let Some(first) = bytes.first_mut() {
        *first = *chance.pick(&[0x00, 0x01, 0x45, 0x80, 0x80, 0x81, 0x81, 0x82, 0xff]);
    }
    bytes
}
