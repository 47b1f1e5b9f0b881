//! In-session messages: what two members say to each other inside data datagrams (README §8, §6).
//!
//! The first byte, 0x01–0x3f, is the type; integers are big-endian.
//!
//! ```text
//! 0x01 probe     id u64 | padding                 0x10 ids      kind u8 | page u16
//! 0x02 echo      id u64 | [address]               0x11 list     kind u8 | page u16 | n × id 32 (n ≤ 32)
//! 0x03 candidates  set u32 | flags u8 (1: yours?; 2: may spray) | nat u8 | step i16 | n × address (n ≤ 8)
//! 0x04 check     id u64 | padding                 0x12 get      id 32 | offset u16
//! 0x05 spray          0x06 carry   token 32 | beacon 0x13 piece    id 32 | offset u16 | total u16 | ≤ 1,000 bytes
//! 0x3f close     reason u8
//! 0x14 settled   flags u8 (1: have yours)         0x16 ask      epoch id 32
//! 0x15 have      n × id 32 (1 ≤ n ≤ 32)           0x17 secret   epoch id 32 | [secret 32]
//! 0x20 open      device 32                        0x21 opened   device 32 | label u32 | flags u8 (1: do you want it?)
//! 0x22 refused   device 32 | reason u8            0x23 closed   device 32
//!
//! address: see [`super::address`]
//! ```

use std::net::SocketAddr;

use super::address::{self, Candidate, Kind, MAX_ADDRESS_BYTES};
use crate::identity::{DeviceId, ObjectId, Secret};

/// Ids in one page of a list at most: 1,024 bytes, so that it fits the first path size.
pub const PAGE_IDS: usize = 32;
/// The page of a list that nobody asked for: ids worth knowing.
pub const NEWS_PAGE: u16 = u16::MAX;
/// Bytes of an object in one piece at most.
pub const PIECE_BYTES: usize = 1_000;

/// Addresses in one message at most (specified: as many as a path tries).
pub const MAX_CANDIDATES: usize = 8;
/// Bytes of the shortest probe or check: type and id.
pub const SHORTEST_BYTES: usize = 9;
/// A probe or check of fewer bytes is answered without an address, so that no echo is longer than what it answers.
pub const OBSERVED_BYTES: usize = SHORTEST_BYTES + MAX_ADDRESS_BYTES;

/// Bytes of a beacon's multiaddress at most (specified: as in a Presence).
pub const MAX_BEACON_BYTES: usize = 128;

/// The reason of a close: the node stops.
pub const CLOSE_STOPS: u8 = 0;
/// The reason of a close: the receiver was removed, as the sender has learnt.
pub const CLOSE_REMOVED: u8 = 1;

/// In the flags of `candidates`: the receiver is asked for its own.
const IS_QUESTION: u8 = 1;
/// In the flags of `candidates`: the sender sends to many ports when it is asked to.
const MAY_SPRAY: u8 = 2;
/// The reason of a refusal: the sender passes nothing on for others, or not to that device.
pub const REFUSED_UNWILLING: u8 = 0;
/// The reason of a refusal: the sender has no direct link with that device, or with the receiver; it may have one soon.
pub const REFUSED_NO_LINK: u8 = 1;
/// The reason of a refusal: it serves as many as it can.
pub const REFUSED_FULL: u8 = 2;

/// The range of first bytes that are in-session messages.
pub const TYPES: std::ops::RangeInclusive<u8> = 0x01..=0x3f;

/// What a device knows of the NAT before it. Any value is taken: it is a hint (README §14).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatCode {
    /// The number of its class, 0 while unknown.
    pub class: u8,
    /// From one port to the next, where they follow each other; else 0.
    pub step: i16,
}

/// One in-session message; borrows from the datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'m> {
    /// Asks for an echo; padded to the size under test.
    Probe {
        /// Random; the echo repeats it.
        id: u64,
        /// The whole message's length in bytes, at least 9.
        length: usize,
    },
    /// Answers a probe or a check, to where it came from.
    Echo {
        /// The probe's.
        id: u64,
        /// Where that is, if it is an address.
        observed: Option<SocketAddr>,
    },
    /// Where the sender may be reached.
    Candidates {
        /// Counts the sender's sets; the receiver knows by it whether it has this one.
        set: u32,
        /// Asks for the receiver's.
        is_question: bool,
        /// The sender sends to many ports when it is asked to ([`Message::Spray`]).
        may_spray: bool,
        /// What the sender knows of its NAT.
        nat: NatCode,
        /// At most [`MAX_CANDIDATES`], the best first.
        candidates: Vec<Candidate>,
    },
    /// Asks for an echo, from an address that may be as good as the one that is used; says nothing of where the sender
    /// wants its datagrams.
    Check {
        /// Random; the echo repeats it.
        id: u64,
        /// The whole message's length in bytes, at least 9.
        length: usize,
    },
    /// The sender has many sockets open at the address that its newest set says others see it at, each behind a port that
    /// nobody knows: many ports are to be tried.
    Spray,
    /// A beacon holds a stream's end for the sender, and would join it to the receiver's: they talk over it from then on.
    Carry {
        /// By which the beacon knows the two ends of a stream.
        token: Secret,
        /// The beacon's multiaddress, 1 to [`MAX_BEACON_BYTES`].
        beacon: &'m str,
    },
    /// Asks for the ids of all objects of a kind, page by page.
    Ids {
        /// The kind's number.
        kind: u8,
        /// From 0.
        page: u16,
    },
    /// One page of ids, asked for (one that is not full is the last); or, unasked, ids worth knowing ([`NEWS_PAGE`]).
    List {
        /// The kind's number.
        kind: u8,
        /// From 0.
        page: u16,
        /// At most [`PAGE_IDS`].
        ids: Vec<ObjectId>,
    },
    /// Asks for a piece of an object.
    Get {
        /// The object's.
        id: ObjectId,
        /// In bytes.
        offset: u16,
    },
    /// A piece of an object.
    Piece {
        /// The object's.
        id: ObjectId,
        /// In bytes.
        offset: u16,
        /// Bytes of the whole object; 0 if the sender does not have it.
        total: u16,
        /// At most [`PIECE_BYTES`]; none of an object that is not there.
        bytes: &'m [u8],
    },
    /// The sender has received or rejected everything that was listed to it.
    Settled {
        /// The sender has had the receiver's `Settled`.
        heard: bool,
    },
    /// The sender has these objects, of which it was told unasked.
    Have {
        /// At most [`PAGE_IDS`].
        ids: Vec<ObjectId>,
    },
    /// Asks for the secret of an epoch.
    Ask {
        /// The Epoch object's.
        id: ObjectId,
    },
    /// The secret of an epoch; the session keeps it from others.
    Secret {
        /// The Epoch object's.
        id: ObjectId,
        /// What the object names by its hash; `None`: the sender does not hold it.
        secret: Option<Secret>,
    },
    /// Asks the receiver to pass datagrams on to and from another member.
    Open {
        /// The other member.
        device: DeviceId,
    },
    /// Datagrams to and from another member go under this label, by way of the one end that passes them on.
    Opened {
        /// The other member.
        device: DeviceId,
        /// What the receiver puts before them, and finds before what comes; in an answer, what was asked.
        label: u32,
        /// Asks whether the receiver wants it; answered with the same without the question.
        is_question: bool,
    },
    /// The sender does not pass on what the receiver asked it to.
    Refused {
        /// The other member.
        device: DeviceId,
        /// [`REFUSED_UNWILLING`], [`REFUSED_NO_LINK`], [`REFUSED_FULL`] or another, which says nothing.
        reason: u8,
    },
    /// Nothing is passed on any more between the receiver and another member, or between the sender and that one.
    Closed {
        /// The other member.
        device: DeviceId,
    },
    /// The sender forgets the session.
    Close {
        /// [`CLOSE_STOPS`], [`CLOSE_REMOVED`] or another, which says nothing.
        reason: u8,
    },
}

/// Why a message does not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A type that is not known.
    #[error("the message type is unknown")]
    Unknown,
    /// Truncated, too long, or with a field out of bounds.
    #[error("the message is malformed")]
    Malformed,
}

impl<'m> Message<'m> {
    /// The bytes to seal.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Probe { id, length } => {
                out.push(0x01);
                out.extend_from_slice(&id.to_be_bytes());
                out.resize((*length).max(SHORTEST_BYTES), 0);
            }
            Self::Echo { id, observed } => {
                out.push(0x02);
                out.extend_from_slice(&id.to_be_bytes());
                if let Some(address) = observed {
                    address::put(&mut out, &Candidate { address: *address, kind: Kind::Host });
                }
            }
            Self::Candidates { set, is_question, may_spray, nat, candidates } => {
                out.push(0x03);
                out.extend_from_slice(&set.to_be_bytes());
                let question = if *is_question { IS_QUESTION } else { 0 };
                out.extend([question | if *may_spray { MAY_SPRAY } else { 0 }, nat.class]);
                out.extend_from_slice(&nat.step.to_be_bytes());
                candidates
                    .iter()
                    .take(MAX_CANDIDATES)
                    .for_each(|candidate| address::put(&mut out, candidate));
            }
            Self::Check { id, length } => {
                out.push(0x04);
                out.extend_from_slice(&id.to_be_bytes());
                out.resize((*length).max(SHORTEST_BYTES), 0);
            }
            Self::Spray => out.push(0x05),
            Self::Carry { token, beacon } => {
                put(&mut out, 0x06, &token.0);
                out.extend_from_slice(beacon.as_bytes());
            }
            Self::Ids { kind, page } => {
                out.extend_from_slice(&[0x10, *kind]);
                out.extend_from_slice(&page.to_be_bytes());
            }
            Self::List { kind, page, ids } => {
                out.extend_from_slice(&[0x11, *kind]);
                out.extend_from_slice(&page.to_be_bytes());
                out.extend(ids.iter().flat_map(|id| id.0));
            }
            Self::Get { id, offset } => {
                put(&mut out, 0x12, &id.0);
                out.extend_from_slice(&offset.to_be_bytes());
            }
            Self::Piece { id, offset, total, bytes } => {
                put(&mut out, 0x13, &id.0);
                out.extend_from_slice(&offset.to_be_bytes());
                out.extend_from_slice(&total.to_be_bytes());
                out.extend_from_slice(bytes);
            }
            Self::Settled { heard } => out.extend_from_slice(&[0x14, u8::from(*heard)]),
            Self::Have { ids } => {
                out.push(0x15);
                ids.iter().take(PAGE_IDS).for_each(|id| out.extend_from_slice(&id.0));
            }
            Self::Ask { id } => put(&mut out, 0x16, &id.0),
            Self::Secret { id, secret } => {
                put(&mut out, 0x17, &id.0);
                secret.iter().for_each(|secret| out.extend_from_slice(&secret.0));
            }
            Self::Open { device } => put(&mut out, 0x20, &device.0),
            Self::Opened { device, label, is_question } => {
                put(&mut out, 0x21, &device.0);
                out.extend_from_slice(&label.to_be_bytes());
                out.push(u8::from(*is_question));
            }
            Self::Refused { device, reason } => {
                put(&mut out, 0x22, &device.0);
                out.push(*reason);
            }
            Self::Closed { device } => put(&mut out, 0x23, &device.0),
            Self::Close { reason } => out.extend_from_slice(&[0x3f, *reason]),
        }
        out
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(bytes: &'m [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(bytes);
        let message = match reader.u8()? {
            0x01 => {
                let id = reader.u64()?;
                reader.0 = &[];
                Self::Probe { id, length: bytes.len() }
            }
            0x02 => Self::decode_echo(&mut reader)?,
            0x03 => Self::decode_candidates(&mut reader)?,
            0x04 => {
                let id = reader.u64()?;
                reader.0 = &[];
                Self::Check { id, length: bytes.len() }
            }
            0x05 => Self::Spray,
            0x06 => {
                let token = Secret(reader.array()?);
                let beacon = std::str::from_utf8(std::mem::take(&mut reader.0));
                let beacon = beacon.map_err(|_| MessageError::Malformed)?;
                if !(1..=MAX_BEACON_BYTES).contains(&beacon.len()) {
                    return Err(MessageError::Malformed);
                }
                Self::Carry { token, beacon }
            }
            0x10 => Self::Ids { kind: reader.u8()?, page: reader.u16()? },
            0x11 => Self::decode_list(&mut reader)?,
            0x12 => Self::Get { id: ObjectId(reader.array()?), offset: reader.u16()? },
            0x13 => {
                let (id, offset, total) = (ObjectId(reader.array()?), reader.u16()?, reader.u16()?);
                let bytes = std::mem::take(&mut reader.0);
                let fits = usize::from(offset) + bytes.len() <= usize::from(total);
                let is_missing = total == 0 && bytes.is_empty();
                if !is_missing && (bytes.is_empty() || bytes.len() > PIECE_BYTES || !fits) {
                    return Err(MessageError::Malformed);
                }
                Self::Piece { id, offset, total, bytes }
            }
            0x14 => match reader.u8()? {
                heard @ 0..=1 => Self::Settled { heard: heard == 1 },
                _ => return Err(MessageError::Malformed),
            },
            0x15 => match reader.ids()? {
                ids if ids.is_empty() => return Err(MessageError::Malformed),
                ids => Self::Have { ids },
            },
            0x16 => Self::Ask { id: ObjectId(reader.array()?) },
            0x17 => {
                let id = ObjectId(reader.array()?);
                let secret = if reader.0.is_empty() { None } else { Some(Secret(reader.array()?)) };
                Self::Secret { id, secret }
            }
            0x20 => Self::Open { device: DeviceId::from(reader.array::<32>()?) },
            0x21 => {
                let (device, label) = (DeviceId::from(reader.array::<32>()?), reader.u32()?);
                match reader.u8()? {
                    flags @ 0..=1 => Self::Opened { device, label, is_question: flags == 1 },
                    _ => return Err(MessageError::Malformed),
                }
            }
            0x22 => Self::Refused { device: DeviceId::from(reader.array::<32>()?), reason: reader.u8()? },
            0x23 => Self::Closed { device: DeviceId::from(reader.array::<32>()?) },
            0x3f => Self::Close { reason: reader.u8()? },
            _ => return Err(MessageError::Unknown),
        };
        if reader.0.is_empty() { Ok(message) } else { Err(MessageError::Malformed) }
    }

    fn decode_echo(reader: &mut Reader<'m>) -> Result<Self, MessageError> {
        let id = reader.u64()?;
        if reader.0.is_empty() {
            return Ok(Self::Echo { id, observed: None });
        }
        let Candidate { address, kind: Kind::Host } = address::read(reader)? else {
            return Err(MessageError::Malformed);
        };
        Ok(Self::Echo { id, observed: Some(address) })
    }

    fn decode_candidates(reader: &mut Reader<'m>) -> Result<Self, MessageError> {
        let (set, flags) = (reader.u32()?, reader.u8()?);
        let nat = NatCode { class: reader.u8()?, step: reader.u16()?.cast_signed() };
        let mut candidates = Vec::new();
        while !reader.0.is_empty() && candidates.len() < MAX_CANDIDATES {
            candidates.push(address::read(reader)?);
        }
        if flags & !(IS_QUESTION | MAY_SPRAY) != 0 {
            return Err(MessageError::Malformed);
        }
        let (is_question, may_spray) = (flags & IS_QUESTION != 0, flags & MAY_SPRAY != 0);
        Ok(Self::Candidates { set, is_question, may_spray, nat, candidates })
    }

    fn decode_list(reader: &mut Reader<'m>) -> Result<Self, MessageError> {
        Ok(Self::List { kind: reader.u8()?, page: reader.u16()?, ids: reader.ids()? })
    }
}

fn put(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.push(kind);
    out.extend_from_slice(bytes);
}

/// What is left to read.
pub(super) struct Reader<'r>(pub(super) &'r [u8]);

impl<'r> Reader<'r> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'r [u8], MessageError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(MessageError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        self.take(N)?.try_into().map_err(|_| MessageError::Malformed)
    }

    /// All ids that are left, at most [`PAGE_IDS`].
    fn ids(&mut self) -> Result<Vec<ObjectId>, MessageError> {
        let (ids, rest) = std::mem::take(&mut self.0).as_chunks::<32>();
        if !rest.is_empty() || ids.len() > PAGE_IDS {
            return Err(MessageError::Malformed);
        }
        Ok(ids.iter().map(|id| ObjectId(*id)).collect())
    }

    pub(super) fn u8(&mut self) -> Result<u8, MessageError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, MessageError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, MessageError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, MessageError> {
        self.array().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: NatCode = NatCode { class: 0, step: 0 };

    fn candidate(text: &str, kind: Kind) -> Candidate {
        Candidate { address: text.parse().unwrap(), kind }
    }

    fn all() -> Vec<Message<'static>> {
        let id = ObjectId([7; 32]);
        vec![
            Message::Probe { id: 1, length: 9 },
            Message::Probe { id: 1, length: 1_420 },
            Message::Echo { id: 2, observed: None },
            Message::Echo { id: 2, observed: Some("192.0.2.1:41414".parse().unwrap()) },
            Message::Echo { id: 2, observed: Some("[2001:db8::1]:1".parse().unwrap()) },
            Message::Candidates {
                set: 3,
                is_question: true,
                may_spray: false,
                nat: NONE,
                candidates: vec![],
            },
            Message::Spray,
            Message::Carry { token: Secret([6; 32]), beacon: "/ip4/192.0.2.1/tcp/41415" },
            Message::Candidates {
                set: 4,
                is_question: false,
                may_spray: true,
                nat: NatCode { class: 4, step: -2 },
                candidates: vec![
                    candidate("10.0.0.1:5", Kind::Host),
                    candidate("[fd00::1]:6", Kind::Reflexive),
                ],
            },
            Message::Candidates {
                set: 4,
                is_question: true,
                may_spray: true,
                nat: NatCode { class: 255, step: i16::MIN },
                candidates: vec![candidate("[2001:db8::1]:1", Kind::Reflexive); MAX_CANDIDATES],
            },
            Message::Check { id: 5, length: SHORTEST_BYTES },
            Message::Check { id: 5, length: 72 },
            Message::Ids { kind: 3, page: 4 },
            Message::List { kind: 3, page: 0, ids: vec![] },
            Message::List { kind: 3, page: 1, ids: vec![id; PAGE_IDS] },
            Message::Get { id, offset: 1_000 },
            Message::Piece { id, offset: 1_000, total: 1_003, bytes: b"abc" },
            Message::Piece { id, offset: 1_000, total: 0, bytes: b"" },
            Message::Settled { heard: true },
            Message::Have { ids: vec![id] },
            Message::Have { ids: vec![id; PAGE_IDS] },
            Message::Ask { id },
            Message::Secret { id, secret: Some(Secret([8; 32])) },
            Message::Secret { id, secret: None },
            Message::Open { device: DeviceId::from([9; 32]) },
            Message::Opened { device: DeviceId::from([9; 32]), label: 0x0102_0304, is_question: true },
            Message::Opened { device: DeviceId::from([9; 32]), label: 0, is_question: false },
            Message::Refused { device: DeviceId::from([9; 32]), reason: REFUSED_FULL },
            Message::Closed { device: DeviceId::from([9; 32]) },
            Message::Close { reason: 0 },
        ]
    }

    #[test]
    fn messages_round_trip() {
        for message in all() {
            let bytes = message.encode();
            assert!(TYPES.contains(&bytes[0]));
            assert_eq!(Message::decode(&bytes), Ok(message));
        }
    }

    #[test]
    fn truncations_and_flipped_bits_decode_to_an_error_or_to_what_they_say() {
        for message in all() {
            let bytes = message.encode();
            for cut in 0..bytes.len() {
                if let Ok(other) = Message::decode(&bytes[..cut]) {
                    assert_eq!(other.encode(), bytes[..cut], "cut at {cut} of {message:?}");
                }
            }
            for bit in 0..bytes.len() * 8 {
                let mut altered = bytes.clone();
                altered[bit / 8] ^= 1 << (bit % 8);
                match Message::decode(&altered) {
                    // A probe's padding means nothing.
                    Ok(Message::Probe { length, .. } | Message::Check { length, .. }) => {
                        assert_eq!(length, bytes.len());
                    }
                    Ok(other) => assert_eq!(other.encode(), altered, "bit {bit} of {message:?}"),
                    Err(_) => {}
                }
            }
        }
    }

    #[test]
    fn known_bytes() {
        assert_eq!(Message::Echo { id: 0x0102, observed: None }.encode(), [0x02, 0, 0, 0, 0, 0, 0, 1, 2]);
        let observed = Some("192.0.2.1:258".parse().unwrap());
        let echo = Message::Echo { id: 3, observed }.encode();
        assert_eq!(echo, [0x02, 0, 0, 0, 0, 0, 0, 0, 3, 4, 192, 0, 2, 1, 1, 2]);
        let candidates = vec![candidate("10.0.0.1:5", Kind::Host), candidate("192.0.2.1:6", Kind::Reflexive)];
        let nat = NatCode { class: 0x14, step: -2 };
        let told =
            Message::Candidates { set: 7, is_question: true, may_spray: true, nat, candidates }.encode();
        let addresses = [4, 10, 0, 0, 1, 0, 5, 0x14, 192, 0, 2, 1, 0, 6];
        assert_eq!(told, [&[0x03, 0, 0, 0, 7, 3, 0x14, 0xff, 0xfe][..], &addresses].concat());
        assert_eq!(Message::Spray.encode(), [0x05]);
        let carry = Message::Carry { token: Secret([9; 32]), beacon: "/a" }.encode();
        assert_eq!(carry, [&[0x06][..], &[9; 32], b"/a"].concat());
        assert_eq!(Message::Ids { kind: 6, page: 258 }.encode(), [0x10, 6, 1, 2]);
        assert_eq!(Message::decode(&[0x3e]), Err(MessageError::Unknown));
        assert_eq!(Message::decode(&[]), Err(MessageError::Malformed));
    }

    #[test]
    fn an_address_has_one_form_and_a_ninth_is_too_many() {
        let mut told = vec![0x03, 0, 0, 0, 1, 0, 0, 0, 0];
        for _ in 0..=MAX_CANDIDATES {
            assert!(Message::decode(&told).is_ok());
            told.extend([4, 192, 0, 2, 1, 0, 5]);
        }
        assert_eq!(Message::decode(&told), Err(MessageError::Malformed), "nine");
        let mapped = "::ffff:192.0.2.1".parse::<std::net::Ipv6Addr>().unwrap().octets();
        for address in
            [&[4, 192, 0, 2, 1, 0, 0][..], &[5, 192, 0, 2, 1, 0, 5], &[&[6][..], &mapped, &[0, 5]].concat()]
        {
            let told = [&[0x03, 0, 0, 0, 1, 0, 0, 0, 0][..], address].concat();
            assert_eq!(Message::decode(&told), Err(MessageError::Malformed), "{address:?}");
        }
        let reflexive = [&[0x02, 0, 0, 0, 0, 0, 0, 0, 3][..], &[0x14, 192, 0, 2, 1, 1, 2]].concat();
        assert_eq!(Message::decode(&reflexive), Err(MessageError::Malformed), "an echo's has no kind");
    }

    #[test]
    fn an_echo_is_never_longer_than_what_asks_for_it() {
        let observed = Some("[2001:db8::1]:65535".parse().unwrap());
        assert!(Message::Echo { id: u64::MAX, observed }.encode().len() <= OBSERVED_BYTES);
        assert!(Message::Echo { id: u64::MAX, observed: None }.encode().len() <= SHORTEST_BYTES);
    }
}
