//! Kademlia's questions and answers as beacons speak them, a stream for each beacon that is asked.
//!
//! ```text
//! frame     varint length ‖ message                                                            (protobuf)
//! message   1 type varint ‖ 2 key ‖ 3 record { 1 key ‖ 2 value ‖ 777 seconds varint } ‖ 8 peer { 1 id ‖ 2 multiaddress … } …
//! types     0 PUT_VALUE, 1 GET_VALUE, 4 FIND_NODE
//! ```
//!
//! A question says nothing of who asks: no publisher, no address. Of an answer nothing is believed here: what is no message ends
//! the question as if nobody had answered, what is said beyond the value and twenty beacons is passed over.

use libp2p::futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::{Multiaddr, PeerId};

use super::address::Beacon;
use super::book::ADDRESSES;
use crate::beacon::protocol::REPLICATION;

/// The longest answer that is read: twenty beacons with their addresses, or a bulletin of 4.3 KiB.
const ANSWER_BYTES: usize = 16 << 10;
/// Bytes of the length in front of it.
const LENGTH_BYTES: usize = 3;

/// Tags of the fields, with their wire type.
const TYPE: usize = 0x08;
const KEY: usize = 0x12;
const RECORD: usize = 0x1a;
const CLOSER_PEER: usize = 0x42;
const FIRST: usize = 0x0a;
const SECOND: usize = 0x12;
const SECONDS: usize = 777 << 3;

/// What is asked about a key.
#[derive(Clone, Debug)]
pub(super) enum Question {
    /// To keep a value for some seconds.
    Put { value: Vec<u8>, seconds: usize },
    /// For its value, and for beacons that are closer.
    Get,
    /// For beacons that are closer.
    Find,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// A value, whatever it is and whoever made it.
    pub(super) value: Option<Vec<u8>>,
    /// Beacons that are said to be closer, and where.
    pub(super) named: Vec<Named>,
}

/// A beacon by its addresses, those of one peer id.
pub(super) type Named = (PeerId, Vec<Multiaddr>);

impl Question {
    fn framed(&self, key: &[u8; 32]) -> Vec<u8> {
        let (kind, record) = match self {
            Self::Put { value, seconds } => {
                let seconds = [varint(SECONDS), varint(*seconds)].concat();
                let record = [field(FIRST, key), field(SECOND, value), seconds].concat();
                (0, field(RECORD, &record))
            }
            Self::Get => (1, Vec::new()),
            Self::Find => (4, Vec::new()),
        };
        let message = [varint(TYPE), varint(kind), field(KEY, key), record].concat();
        [varint(message.len()), message].concat()
    }
}

/// Asks on a stream, and waits for the answer; `None` if there is none that can be read.
pub(super) async fn ask<S>(stream: &mut S, key: &[u8; 32], question: &Question) -> Option<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(&question.framed(key)).await.ok()?;
    stream.flush().await.ok()?;
    let mut head = Vec::new();
    let length = loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.ok()?;
        head.extend(byte);
        match take_varint(&head) {
            Some((length, _)) => break length,
            None if head.len() < LENGTH_BYTES => {}
            None => return None,
        }
    };
    if length > ANSWER_BYTES {
        return None;
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await.ok()?;
    read(&message)
}

fn read(message: &[u8]) -> Option<Answer> {
    let mut answer = Answer::default();
    for (tag, bytes) in fields(message)? {
        match tag {
            RECORD => {
                let value = fields(bytes)?.into_iter().find(|(tag, _)| *tag == SECOND);
                answer.value = value.map(|(_, value)| value.to_vec());
            }
            CLOSER_PEER if answer.named.len() < REPLICATION => answer.named.extend(named(bytes)),
            _ => {}
        }
    }
    Some(answer)
}

/// The beacon of one field; `None` if it is none that a member could dial.
fn named(bytes: &[u8]) -> Option<Named> {
    let (mut peer, mut addresses) = (None, Vec::new());
    for (tag, bytes) in fields(bytes)? {
        match tag {
            FIRST => peer = PeerId::from_bytes(bytes).ok(),
            SECOND => addresses.push(bytes),
            _ => {}
        }
    }
    let peer = peer?;
    let place = |bytes: &&[u8]| {
        let address = Multiaddr::try_from(bytes.to_vec()).ok()?.with_p2p(peer).ok()?;
        Some(Beacon::try_from(&address).ok()?.address())
    };
    let addresses: Vec<_> = addresses.iter().filter_map(place).take(ADDRESSES).collect();
    (!addresses.is_empty()).then_some((peer, addresses))
}

fn field(tag: usize, bytes: &[u8]) -> Vec<u8> {
    [varint(tag), varint(bytes.len()), bytes.to_vec()].concat()
}

/// A number in base 128, the lowest seven bits first.
fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap_or_default());
    bytes
}

/// Takes a [`varint`] off the front.
fn take_varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(9) {
        number |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((number, bytes.get(at + 1..)?));
        }
    }
    None
}

/// The fields of bytes of a message, by their tags; numbers are passed over.
fn fields(mut message: &[u8]) -> Option<Vec<(usize, &[u8])>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let (tag, rest) = take_varint(message)?;
        let (number, rest) = take_varint(rest)?;
        message = match tag & 7 {
            0 => rest,
            2 => {
                let (bytes, rest) = rest.split_at_checked(number)?;
                fields.push((tag, bytes));
                rest
            }
            _ => return None,
        };
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use libp2p::futures::io::Cursor;

    use super::*;

    #[test]
    fn questions_have_known_bytes_and_no_publisher() {
        let key = [7; 32];
        let about = [&[0x12, 32][..], &key].concat();
        assert_eq!(Question::Get.framed(&key), [&[36, 0x08, 1][..], &about].concat());
        assert_eq!(Question::Find.framed(&key), [&[36, 0x08, 4][..], &about].concat());
        let put = Question::Put { value: vec![9, 9], seconds: 300 };
        let record = [&[0x0a, 32][..], &key, &[0x12, 2, 9, 9, 0xc8, 0x30, 0xac, 0x02]].concat();
        let message = [&[0x08, 0][..], &about, &[0x1a, 42], &record].concat();
        assert_eq!(put.framed(&key), [&[80][..], &message].concat());
    }

    #[test]
    fn an_answer_gives_its_value_and_the_beacons_that_can_be_dialled() {
        let peer = PeerId::random();
        let named = |address: &str| {
            let address: Multiaddr = address.parse().unwrap();
            field(CLOSER_PEER, &[field(FIRST, &peer.to_bytes()), field(SECOND, &address.to_vec())].concat())
        };
        let record = [field(FIRST, b"key"), field(SECOND, b"value"), vec![0xc8, 0x30, 0x07]].concat();
        let relayed = format!("/ip4/192.0.2.1/tcp/1/p2p/{peer}/p2p-circuit");
        let message = [
            vec![0x08, 1],
            field(RECORD, &record),
            named("/ip4/192.0.2.1/tcp/41415"),
            named("/ip4/192.0.2.1/udp/41415/quic-v1"),
            named("/dns4/example.org/tcp/41415"),
            named(&relayed),
            vec![0x50, 0x0a],
        ]
        .concat();
        let answer = read(&message).unwrap();
        assert_eq!(answer.value, Some(b"value".to_vec()));
        assert_eq!(answer.named, [(peer, vec!["/ip4/192.0.2.1/tcp/41415".parse().unwrap()])]);
        for length in 0..message.len() {
            let _ = read(&message[..length]);
        }
        let many = named("/ip4/192.0.2.1/tcp/41415").repeat(250);
        assert_eq!(read(&many).unwrap().named.len(), REPLICATION);
        assert_eq!(read(&[0xff, 0x7f]), None);
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_is_not_read() {
        for head in [&[0x80, 0x80, 0x80, 0x80, 0x04][..], &[0x81, 0x80, 0x01], &[0x05, 0x08]] {
            let mut stream = Both(Cursor::new(head.to_vec()));
            assert_eq!(ask(&mut stream, &[7; 32], &Question::Get).await, None);
        }
        let mut stream = Both(Cursor::new(vec![2, 0x08, 1]));
        assert_eq!(ask(&mut stream, &[7; 32], &Question::Get).await, Some(Answer::default()));
    }

    /// Reads what is in it, and takes whatever is written.
    struct Both(Cursor<Vec<u8>>);

    impl AsyncRead for Both {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            to: &mut [u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::pin::Pin::new(&mut self.0).poll_read(cx, to)
        }
    }

    impl AsyncWrite for Both {
        fn poll_write(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            from: &[u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::task::Poll::Ready(Ok(from.len()))
        }

        fn poll_flush(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn poll_close(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
    }
}
