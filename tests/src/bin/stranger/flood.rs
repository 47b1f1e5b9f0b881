//! Floods of a beacon: more of everything than one should make, from source addresses in many networks.
//!
//! | sort | each connection |
//! |---|---|
//! | `silent` | TCP only, and not a byte |
//! | `connections` | Noise and yamux under an identity of its own, and nothing more |
//! | `streams` | the same, and 64 streams that each begin a Kademlia message of 16 KiB and never end it |
//! | `messages` | the same, and streams with malformed Kademlia messages, one after the other |
//! | `records` | the same, and 64 valid records, each of a writer of its own |
//!
//! The addresses are 10.78.N.1 for N from 0 to NETWORKS; the scenario gives them to this host.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Result, bail};
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt as _, SubstreamBox};
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p::core::upgrade::Version;
use libp2p::core::{Endpoint, Transport};
use libp2p::futures::future::{BoxFuture, Pending, join_all, poll_fn, select};
use libp2p::futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::tcp::tokio::TcpStream;
use libp2p::{Multiaddr, noise, yamux};
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::record;

/// How long one connection may take to stand.
const LIMIT: Duration = Duration::from_secs(10);
/// Connections that are being made at once.
const AT_ONCE: u64 = 48;
/// Streams and records of one connection.
const EACH: u64 = 64;
/// What a stream begins with (multistream-select 1.0, both ends of the negotiation at once).
const KAD: &[u8] = b"\x13/multistream/1.0.0\n\x0b/vpi/kad/1\n";

/// Makes `count` connections, says how many stood, and holds them until the end of standard input.
pub(crate) async fn run(sort: &str, target: SocketAddr, count: u64, networks: u64) -> Result<()> {
    if !["silent", "connections", "streams", "messages", "records"].contains(&sort) {
        bail!("no such flood: {sort}");
    }
    let (mut making, mut stood, mut failed) = (JoinSet::new(), 0_u64, 0_u64);
    let (held, mut holding) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..count {
        while making.len() as u64 >= AT_ONCE {
            tally(making.join_next().await.as_ref(), &mut stood, &mut failed);
        }
        let octet = u8::try_from(number % networks)?;
        let from = Ipv4Addr::new(10, 78, octet, 1);
        let (sort, held) = (sort.to_owned(), held.clone());
        making.spawn(async move {
            let made = timeout(LIMIT, connection(&sort, number, from, target)).await;
            let made = made.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            made.map(|task| drop(held.send(task)))
        });
    }
    while let Some(made) = making.join_next().await {
        tally(Some(&made), &mut stood, &mut failed);
    }
    // What those that came first do meanwhile goes on; a moment for the last.
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("{}", json!({"stood": stood, "failed": failed}));
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    while let Ok(task) = holding.try_recv() {
        task.abort();
    }
    Ok(())
}

fn tally(made: Option<&Result<io::Result<()>, tokio::task::JoinError>>, stood: &mut u64, failed: &mut u64) {
    match made {
        Some(Ok(Ok(()))) => *stood += 1,
        Some(_) => *failed += 1,
        None => {}
    }
}

/// One connection, held by the returned task.
async fn connection(
    sort: &str,
    number: u64,
    from: Ipv4Addr,
    target: SocketAddr,
) -> io::Result<tokio::task::JoinHandle<()>> {
    if sort == "silent" {
        let mut stream = connect(from, target).await?;
        return Ok(tokio::spawn(async move {
            // Its end is the beacon's.
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut Vec::new()).await;
        }));
    }
    let keypair = Keypair::generate_ed25519();
    let noise = noise::Config::new(&keypair).map_err(io::Error::other)?;
    let mut transport =
        Source(from).upgrade(Version::V1Lazy).authenticate(noise).multiplex(yamux::Config::default());
    let address = Multiaddr::from(target.ip()).with(Protocol::Tcp(target.port()));
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let dialled = transport.dial(address, options).map_err(io::Error::other)?;
    let (_, muxer) = dialled.await.map_err(io::Error::other)?;
    let mut muxer = StreamMuxerBox::new(muxer);
    let payloads = payloads(sort, number)?;
    let mut streams = Vec::new();
    for _ in &payloads {
        streams.push(open(&mut muxer).await?);
    }
    Ok(tokio::spawn(async move {
        let writing = join_all(streams.into_iter().zip(payloads).map(|(stream, bytes)| talk(stream, bytes)));
        let both = async {
            writing.await;
            std::future::pending::<()>().await;
        };
        select(Box::pin(both), Box::pin(drive(muxer))).await;
    }))
}

/// What is said on each stream of a connection.
fn payloads(sort: &str, number: u64) -> io::Result<Vec<Vec<u8>>> {
    let kad = |message: &[u8]| [KAD, message].concat();
    Ok(match sort {
        "connections" => Vec::new(),
        // Length 16,383 as a varint, and less than that.
        "streams" => (0..EACH).map(|_| kad(&[&[0xff, 0x7f][..], &[0x12; 12_000]].concat())).collect(),
        "messages" => malformed().iter().cycle().take(32).map(|message| kad(message)).collect(),
        _ => {
            let mut puts = Vec::new();
            // Ten streams, because those past Kademlia's own bound are dropped unread.
            for stream in 0..10 {
                let mut bytes = KAD.to_vec();
                for record in 0..EACH / 10 {
                    bytes.extend(put(1_000 + number * EACH + stream * 10 + record)?);
                }
                puts.push(bytes);
            }
            puts
        }
    })
}

/// PUT_VALUE of a valid record: Message { key = 2, record = 3 { key = 1, value = 2 } } behind its length.
fn put(number: u64) -> io::Result<Vec<u8>> {
    let record = record(number).map_err(io::Error::other)?;
    let inner = [field(0x0a, &record.key), field(0x12, &record.value)].concat();
    let message = [field(0x12, &record.key), field(0x1a, &inner)].concat();
    Ok([varint(message.len()), message].concat())
}

/// Kademlia messages that are none.
fn malformed() -> Vec<Vec<u8>> {
    let framed = |message: &[u8]| [varint(message.len()), message.to_vec()].concat();
    vec![
        framed(&[]),
        framed(&[0xff; 64]),
        // A length of 2^63.
        vec![0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
        // A varint without end.
        vec![0xff; 200],
        // No such type; a type without a key; a key of 16,000 bytes for each type.
        framed(&[0x08, 0x63]),
        framed(&[0x08, 0x01]),
        framed(&[&[0x08, 0x01][..], &field(0x12, &[7; 16_000])].concat()),
        framed(&[&[0x08, 0x04][..], &field(0x12, &[7; 16_000])].concat()),
        framed(&[&[0x08, 0x03][..], &field(0x12, &[7; 16_000])].concat()),
        // A field that is longer than the message.
        framed(&[0x12, 0xff, 0xff, 0x03, 1, 2, 3]),
        // PUT_VALUE of nothing, of a value that is no record, with a publisher that is no peer.
        framed(&field(0x1a, &[])),
        framed(&field(0x1a, &[field(0x0a, &[1; 32]), field(0x12, &[2; 1_177])].concat())),
        framed(&field(0x1a, &[field(0x0a, &[1; 32]), vec![0xd2, 0x29, 0x03, 1, 2, 3]].concat())),
        // ADD_PROVIDER of peers with addresses that are none.
        framed(&[&[0x08, 0x02][..], &field(0x12, &[3; 32]), &field(0x4a, &field(0x12, &[9; 500]))].concat()),
        // Groups nested in groups.
        framed(&[0x0b; 8_000]),
    ]
}

fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    [vec![tag], varint(bytes.len()), bytes.to_vec()].concat()
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap_or_default());
    bytes
}

/// Says `bytes`, then listens without an end.
async fn talk(mut stream: SubstreamBox, bytes: Vec<u8>) {
    let said = async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    };
    if said.await.is_ok() {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
}

async fn open(muxer: &mut StreamMuxerBox) -> io::Result<SubstreamBox> {
    poll_fn(|cx| {
        if let Poll::Ready(opened) = muxer.poll_outbound_unpin(cx) {
            return Poll::Ready(opened);
        }
        match muxer.poll_unpin(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Pending,
        }
    })
    .await
}

/// Keeps a connection going until the other end ends it; what it opens is held and not answered.
async fn drive(mut muxer: StreamMuxerBox) {
    let mut theirs = Vec::new();
    poll_fn(|cx| {
        while let Poll::Ready(Ok(stream)) = muxer.poll_inbound_unpin(cx) {
            theirs.push(stream);
        }
        match muxer.poll_unpin(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
}

async fn connect(from: Ipv4Addr, target: SocketAddr) -> io::Result<tokio::net::TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(target).await
}

/// TCP from one source address.
struct Source(Ipv4Addr);

impl Transport for Source {
    type Output = TcpStream;
    type Error = io::Error;
    type ListenerUpgrade = Pending<io::Result<TcpStream>>;
    type Dial = BoxFuture<'static, io::Result<TcpStream>>;

    fn listen_on(&mut self, _: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        Err(TransportError::MultiaddrNotSupported(address))
    }

    fn remove_listener(&mut self, _: ListenerId) -> bool {
        false
    }

    fn dial(&mut self, address: Multiaddr, _: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let mut parts = address.iter();
        let (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port))) = (parts.next(), parts.next()) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let from = self.0;
        Ok(Box::pin(async move { connect(from, (ip, port).into()).await.map(TcpStream) }))
    }

    fn poll(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Poll::Pending
    }
}
