//! Kademlia's messages as libp2p has them, byte by byte, for those who misuse them.
//!
//! ```text
//! frame     varint length ‖ message
//! message   1 type varint ‖ 2 key ‖ 3 record { 1 key ‖ 2 value } ‖ 8 peer { 1 id ‖ 2 multiaddress … } …    (protobuf)
//! types     0 PUT_VALUE, 1 GET_VALUE, 4 FIND_NODE
//! ```

/// The name under which beacons speak it.
pub const NAME: &str = "/vpi/kad/1";

/// Tags of the fields, with their wire type.
const TYPE: u8 = 0x08;
const KEY: u8 = 0x12;
const RECORD: u8 = 0x1a;
const CLOSER_PEER: u8 = 0x42;
const FIRST: u8 = 0x0a;
const SECOND: u8 = 0x12;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// To keep a value.
    Put {
        /// Under this key.
        key: Vec<u8>,
        /// This one.
        value: Vec<u8>,
    },
    /// For a value, and for peers that are closer.
    Get {
        /// Under and to this key.
        key: Vec<u8>,
    },
    /// For peers that are closer.
    Find {
        /// To this key.
        key: Vec<u8>,
    },
}

/// A peer as it is named to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The bytes of its peer id.
    pub id: Vec<u8>,
    /// The bytes of a multiaddress.
    pub address: Vec<u8>,
}

impl Question {
    /// Reads a message without its length; `None` for anything but these three.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        let (mut kind, mut key, mut value) = (0, Vec::new(), Vec::new());
        for (tag, number, bytes) in fields(message)? {
            match tag {
                TYPE => kind = number,
                KEY => key = bytes.to_vec(),
                RECORD => {
                    for (tag, _, bytes) in fields(bytes)? {
                        match tag {
                            FIRST => key = bytes.to_vec(),
                            SECOND => value = bytes.to_vec(),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        match kind {
            0 => Some(Self::Put { key, value }),
            1 => Some(Self::Get { key }),
            4 => Some(Self::Find { key }),
            _ => None,
        }
    }

    /// The key that it is about.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put { key, .. } | Self::Get { key } | Self::Find { key } => key,
        }
    }

    /// The framed answer to it: with a value, and with peers.
    #[must_use]
    pub fn answer(&self, value: Option<&[u8]>, peers: &[Peer]) -> Vec<u8> {
        let kind = match self {
            Self::Put { .. } => 0,
            Self::Get { .. } => 1,
            Self::Find { .. } => 4,
        };
        let mut message = [&[TYPE, kind][..], &field(KEY, self.key())].concat();
        if let Some(value) = value {
            message.extend(field(RECORD, &[field(FIRST, self.key()), field(SECOND, value)].concat()));
        }
        for peer in peers {
            message
                .extend(field(CLOSER_PEER, &[field(FIRST, &peer.id), field(SECOND, &peer.address)].concat()));
        }
        framed(&message)
    }
}

/// A message behind its length.
#[must_use]
pub fn framed(message: &[u8]) -> Vec<u8> {
    [varint(message.len()), message.to_vec()].concat()
}

/// A field of bytes; `tag` has the wire type in it.
#[must_use]
pub fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    [vec![tag], varint(bytes.len()), bytes.to_vec()].concat()
}

/// A number in base 128, the lowest seven bits first.
#[must_use]
pub fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap_or_default());
    bytes
}

/// Takes a [`varint`] off the front.
#[must_use]
pub fn take_varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(9) {
        number |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((number, bytes.get(at + 1..)?));
        }
    }
    None
}

/// The fields of a message whose tags are one byte, others passed over: tag, number, bytes.
fn fields(mut message: &[u8]) -> Option<Vec<(u8, usize, &[u8])>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let (tag, rest) = take_varint(message)?;
        let (number, rest) = take_varint(rest)?;
        let (bytes, rest) = match tag & 7 {
            0 => (&[][..], rest),
            2 => rest.split_at_checked(number)?,
            _ => return None,
        };
        fields.extend(u8::try_from(tag).ok().map(|tag| (tag, number, bytes)));
        message = rest;
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_whatever_order_and_further_fields_they_have() {
        // ttl = 777 and cluster level = 10 are fields of libp2p that nobody here needs.
        let record = [field(FIRST, b"key"), field(SECOND, b"value"), vec![0xc8, 0x30, 0x07]].concat();
        let put = [field(KEY, b"key"), field(RECORD, &record), vec![0x50, 0x0a]].concat();
        let read = Question::read(&put);
        assert_eq!(read, Some(Question::Put { key: b"key".to_vec(), value: b"value".to_vec() }));
        let get = [vec![TYPE, 1, 0x50, 0x0a], field(KEY, &[7; 200])].concat();
        assert_eq!(Question::read(&get), Some(Question::Get { key: vec![7; 200] }));
        assert_eq!(Question::read(&[TYPE, 4]), Some(Question::Find { key: Vec::new() }));
        assert_eq!(Question::read(&[TYPE, 5]), None);
        for length in 1..put.len() {
            let _ = Question::read(&put[..length]);
        }
    }

    #[test]
    fn an_answer_has_known_bytes() {
        let peers = [Peer { id: vec![1], address: vec![4, 5] }];
        let answer = Question::Get { key: vec![9] }.answer(Some(&[8]), &peers);
        assert_eq!(
            answer,
            [
                &[22, 0x08, 1, 0x12, 1, 9][..],
                &[0x1a, 6, 0x0a, 1, 9, 0x12, 1, 8],
                &[0x42, 7, 0x0a, 1, 1, 0x12, 2, 4, 5],
                &[][..]
            ]
            .concat()
        );
        assert_eq!(take_varint(&varint(300)), Some((300, &[][..])));
        assert_eq!(take_varint(&[0xff; 20]), None);
    }
}
