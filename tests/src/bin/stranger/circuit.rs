//! Strangers who learnt a member's peer id at a beacon, and come to it over circuits (circuit relay v2, `CONNECT` of its hop
//! protocol).
//!
//! | sort | what is said over the circuit |
//! |---|---|
//! | `silence` | nothing |
//! | `header` | the first line of multistream-select, and nothing more |
//! | `noise` | what a libp2p node says first: multistream, `/noise`, a message of the length of Noise XX's first |
//! | `byte`, `kibibyte`, `mebibyte` | garbage of that size, as much as is taken |
//! | `half` | a frame of the member's own framing, and the half of it |
//! | `frames` | whole frames that look like veiled datagrams and like data |
//! | `empty` | a frame of no bytes |
//!
//! Each of so many peers, on a connection of its own, has so many circuits open at once, one after the other, each of the
//! next sort, until the end of standard input. What is counted is what comes back.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Transport as _;
use libp2p::core::upgrade::Version;
use libp2p::futures::StreamExt as _;
use libp2p::futures::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{Config, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, noise, relay, tcp, yamux};
use libp2p_stream::Control;
use serde_json::{Value, json};
use tests::kademlia::{field, framed, take_varint};
use tokio::time::{sleep, timeout};

const HOP: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/hop");
const SORTS: [&str; 9] =
    ["silence", "header", "noise", "byte", "kibibyte", "mebibyte", "half", "frames", "empty"];
/// How long a step may take, and longer than a member leaves a stranger its circuit.
const LIMIT: Duration = Duration::from_secs(20);
/// Between two circuits (a beacon takes 60 of one peer in 10 s).
const PAUSE: Duration = Duration::from_millis(300);

/// What became of the circuits of one sort.
#[derive(Default)]
struct Tally {
    stood: u64,
    refused: u64,
    /// Came from the member.
    bytes: u64,
    /// Not ended by the other end within the limit.
    stayed: u64,
    longest: Duration,
}

/// Comes to `member` at `beacon` until the end of standard input, with these sorts, or all; then tells by sort what came back.
pub(crate) async fn run(
    (beacon, member): (&Multiaddr, PeerId),
    (peers, each): (usize, usize),
    sorts: &[&str],
) -> Result<Value> {
    let sorts: Vec<&'static str> =
        SORTS.into_iter().filter(|sort| sorts.is_empty() || sorts.contains(sort)).collect();
    let tallies: Arc<Mutex<BTreeMap<&str, Tally>>> = Arc::default();
    let mut comers = Vec::new();
    for peer in 0..peers {
        let (control, id) = connect(beacon).await?;
        for one in 0..each {
            let (mut control, tallies, first) = (control.clone(), Arc::clone(&tallies), peer + one * peers);
            let sorts = sorts.clone();
            comers.push(tokio::spawn(async move {
                for sort in sorts.iter().copied().cycle().skip(first % sorts.len().max(1)) {
                    come(&mut control, id, member, sort, &tallies).await;
                    sleep(PAUSE).await;
                }
            }));
        }
    }
    println!("strangers are ready");
    tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    for comer in comers {
        comer.abort();
    }
    let tallies = tallies.lock().unwrap_or_else(PoisonError::into_inner);
    let told = tallies.iter().map(|(sort, tally)| {
        let Tally { stood, refused, bytes, stayed, longest } = tally;
        let longest_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        let told = json!({
            "stood": stood, "refused": refused, "bytes": bytes, "stayed": stayed, "longest_ms": longest_ms
        });
        ((*sort).to_owned(), told)
    });
    Ok(told.collect())
}

/// One circuit, from the question for it to its end.
async fn come(
    control: &mut Control,
    beacon: PeerId,
    member: PeerId,
    sort: &'static str,
    tallies: &Mutex<BTreeMap<&str, Tally>>,
) {
    let circuit = timeout(LIMIT, circuit(control, beacon, member)).await;
    let mut tally = Tally::default();
    if let Ok(Ok(mut pipe)) = circuit {
        let stood_at = Instant::now();
        tally.stood = 1;
        let (mut read, mut write) = (&mut pipe).split();
        let heard = &mut tally.bytes;
        let talks = async move {
            let said = async {
                write.write_all(&opening(sort)).await?;
                write.flush().await
            };
            // The member may have ended it before it took everything.
            let _: io::Result<()> = said.await;
            std::future::pending::<()>().await;
        };
        let listens = async move {
            let mut buffer = [0; 4_096];
            while let Ok(length @ 1..) = read.read(&mut buffer).await {
                *heard += length as u64;
            }
        };
        let both = async move {
            tokio::select! {
                () = talks => {}
                () = listens => {}
            }
        };
        let is_ended = timeout(LIMIT, both).await.is_ok();
        tally.stayed = u64::from(!is_ended);
        tally.longest = stood_at.elapsed();
        let _ = timeout(LIMIT, pipe.close()).await;
    } else {
        tally.refused = 1;
    }
    let mut tallies = tallies.lock().unwrap_or_else(PoisonError::into_inner);
    let of_sort = tallies.entry(sort).or_default();
    of_sort.stood += tally.stood;
    of_sort.refused += tally.refused;
    of_sort.bytes += tally.bytes;
    of_sort.stayed += tally.stayed;
    of_sort.longest = of_sort.longest.max(tally.longest);
}

/// A pipe to the member; what is read from it from here on, the member said.
async fn circuit(control: &mut Control, beacon: PeerId, member: PeerId) -> Result<Stream> {
    let mut stream = control.open_stream(beacon, HOP).await?;
    // HopMessage { type = 1: CONNECT, peer = 2 { id = 1 } }
    let connect = [&[0x08, 0x01][..], &field(0x12, &field(0x0a, &member.to_bytes()))].concat();
    stream.write_all(&framed(&connect)).await?;
    stream.flush().await?;
    let mut head = Vec::new();
    let length = loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        head.extend(byte);
        match take_varint(&head) {
            Some((length, _)) if length < 4_096 => break length,
            None if head.len() < 3 => {}
            _ => bail!("no answer of a relay"),
        }
    };
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    // HopMessage { type = 1: STATUS, …, status = 5: OK }
    if !answer.ends_with(&[0x28, 0x64]) {
        bail!("refused");
    }
    Ok(stream)
}

/// What is said first.
fn opening(sort: &str) -> Vec<u8> {
    let header = b"\x13/multistream/1.0.0\n";
    let garbage = |length: u32| (0..length).map(|at| (at.wrapping_mul(7_919) >> 3) as u8).collect();
    let frame = |first: u8, length: u16| {
        [&length.to_be_bytes()[..], &[first], &vec![0x5a; usize::from(length) - 1]].concat()
    };
    match sort {
        "header" => header.to_vec(),
        "noise" => [&header[..], b"\x07/noise\n", &[0, 32], &[0x5a; 32]].concat(),
        "byte" => garbage(1),
        "kibibyte" => garbage(1 << 10),
        "mebibyte" => garbage(1 << 20),
        "half" => frame(0x80, 1_200)[..600].to_vec(),
        // More than are looked at of who is not known.
        "frames" => [frame(0x80, 1_200), frame(0x81, 200), frame(0x80, 60)].concat().repeat(6),
        "empty" => vec![0, 0],
        _ => Vec::new(),
    }
}

#[derive(NetworkBehaviour)]
struct Opener {
    stream: libp2p_stream::Behaviour,
}

/// A connection to `beacon` under an identity of its own, held by a task.
async fn connect(beacon: &Multiaddr) -> Result<(Control, PeerId)> {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)?
        .with_behaviour(|_| Opener { stream: libp2p_stream::Behaviour::new() })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(3_600)))
        .build();
    let control = swarm.behaviour().stream.new_control();
    let id = dial(&mut swarm, beacon).await?;
    tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    Ok((control, id))
}

async fn dial(swarm: &mut Swarm<Opener>, beacon: &Multiaddr) -> Result<PeerId> {
    swarm.dial(beacon.clone())?;
    let connected = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { peer_id, .. } => return Ok(peer_id),
                SwarmEvent::OutgoingConnectionError { error, .. } => bail!("not connected: {error}"),
                _ => {}
            }
        }
    };
    timeout(LIMIT, connected).await.context("not connected in time")?
}

#[derive(NetworkBehaviour)]
struct Stock {
    relay: relay::client::Behaviour,
}

/// Dials `member` over a circuit at `beacon` as any libp2p node does: its Noise, its yamux. Tells whether it stood, and how
/// many bytes the member said.
pub(crate) async fn stock(beacon: &Multiaddr, member: PeerId) -> Result<Value> {
    let key = Keypair::generate_ed25519();
    let me = key.public().to_peer_id();
    let (circuits, relay) = relay::client::new(me);
    let heard = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&heard);
    let circuits = circuits
        .map(move |pipe, _| Counted { pipe, heard: Arc::clone(&count) })
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&key)?)
        .multiplex(yamux::Config::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let tcp = tcp::tokio::Transport::new(tcp::Config::default())
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&key)?)
        .multiplex(yamux::Config::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let transport = circuits.or_transport(tcp).map(|either, _| either.into_inner()).boxed();
    let mut swarm = Swarm::new(transport, Stock { relay }, me, Config::with_tokio_executor());
    let began_at = Instant::now();
    swarm.dial(beacon.clone().with(Protocol::P2pCircuit).with(Protocol::P2p(member)))?;
    let ended = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { peer_id, .. } if peer_id == member => {
                    return "connected".to_owned();
                }
                SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } if peer == member => {
                    return format!("{error:?}");
                }
                _ => {}
            }
        }
    };
    let ended = timeout(LIMIT, ended).await.context("the dial does not end")?;
    Ok(json!({
        "ended": ended,
        "bytes": heard.load(Ordering::Relaxed),
        "ms": u64::try_from(began_at.elapsed().as_millis())?,
    }))
}

/// A pipe that counts what is read from it.
struct Counted {
    pipe: relay::client::Connection,
    heard: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.pipe).poll_read(cx, buffer);
        if let Poll::Ready(Ok(length)) = read {
            self.heard.fetch_add(length as u64, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_close(cx)
    }
}
