//! The liar's looks: a libp2p node that shows what a beacon shows.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::tests::kademlia::{NAME, Question, take_varint, varint};
use anyhow::{Context, Result, bail};
use libp2p::futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{NetworkBehaviour, Stream, SwarmEvent};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, identify, identity, noise, ping, relay, tcp,
    yamux,
};
use tokio::sync::mpsc;

use crate::lies::{Answer, Lies};

const KAD: StreamProtocol = StreamProtocol::new(NAME);
const TIME: StreamProtocol = StreamProtocol::new("/vpi/time/1");
/// The longest question that is read.
const QUESTION_BYTES: usize = 16 << 10;
/// Zeros that follow an announcement, at most.
const FLOOD_BYTES: usize = 64 << 20;
/// How often beacons that it is not connected to are dialled.
const DIAL_EVERY: Duration = Duration::from_secs(10);

#[derive(NetworkBehaviour)]
struct Looks {
    relay: relay::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    stream: libp2p_stream::Behaviour,
}

/// Runs for ever. `told` is how far its clock is ahead, in seconds, and the port of its STUN responder.
pub(crate) async fn run(at: SocketAddr, peers: &[Multiaddr], mut lies: Lies, told: (i64, u16)) -> Result<()> {
    let mut swarm = looks()?;
    for peer in peers {
        let mut address = peer.clone();
        let Some(Protocol::P2p(id)) = address.pop() else { bail!("{peer} names no peer") };
        lies.known.push((id, address));
    }
    let known = lies.known.clone();
    let address = Multiaddr::from(at.ip()).with(Protocol::Tcp(at.port()));
    swarm.listen_on(address.clone())?;
    swarm.add_external_address(address.clone());
    let mut control = swarm.behaviour().stream.new_control();
    let (mut asked, mut timed) = (control.accept(KAD)?, control.accept(TIME)?);
    let (lies, (close, mut closing)) = (Arc::new(Mutex::new(lies)), mpsc::unbounded_channel());
    let mut dials = tokio::time::interval(DIAL_EVERY);
    loop {
        tokio::select! {
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { .. } => {
                    println!("{}", address.clone().with(Protocol::P2p(*swarm.local_peer_id())));
                    println!("liar is ready");
                }
                SwarmEvent::ListenerClosed { reason, .. } => bail!("it listens no longer: {reason:?}"),
                _ => {}
            },
            Some((peer, stream)) = asked.next() => {
                let (lies, close) = (Arc::clone(&lies), close.clone());
                tokio::spawn(async move {
                    // Its end is the other's.
                    let _ = talk(peer, stream, &lies, &close).await;
                });
            }
            Some((_, stream)) = timed.next() => drop(tokio::spawn(tell_time(stream, told))),
            Some(peer) = closing.recv() => drop(swarm.disconnect_peer_id(peer)),
            _ = dials.tick() => {
                for (peer, address) in &known {
                    // Who is connected already is not dialled.
                    let _ = swarm.dial(DialOpts::peer_id(*peer).addresses(vec![address.clone()]).build());
                }
            }
        }
    }
}

/// Takes connections for ever and answers none; the peer id that it prints is nobody's.
pub(crate) async fn mute(at: SocketAddr) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(at).await?;
    let address = Multiaddr::from(at.ip()).with(Protocol::Tcp(at.port()));
    println!("{}", address.with(Protocol::P2p(identity::Keypair::generate_ed25519().public().to_peer_id())));
    println!("liar is ready");
    let mut held = Vec::new();
    loop {
        held.push(listener.accept().await?);
    }
}

fn looks() -> Result<Swarm<Looks>> {
    let built = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)?
        .with_behaviour(|keypair| {
            let identify = identify::Config::new("/vpi/1".to_owned(), keypair.public());
            let relay = relay::Config {
                reservation_rate_limiters: Vec::new(),
                circuit_src_rate_limiters: Vec::new(),
                max_circuits: 64,
                ..relay::Config::default()
            };
            Looks {
                relay: relay::Behaviour::new(keypair.public().to_peer_id(), relay),
                identify: identify::Behaviour::new(identify.with_agent_version("vpi".to_owned())),
                ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(86_400))),
                stream: libp2p_stream::Behaviour::new(),
            }
        })?;
    Ok(built.build())
}

/// Answers the questions of one stream, one after the other.
async fn talk(
    peer: PeerId,
    mut stream: Stream,
    lies: &Mutex<Lies>,
    close: &mpsc::UnboundedSender<PeerId>,
) -> Result<()> {
    loop {
        let message = read(&mut stream).await?;
        let question = Question::read(&message).context("not asked before")?;
        let answer = lies.lock().unwrap_or_else(PoisonError::into_inner).answer(&question);
        match answer {
            Answer::Say(bytes) => {
                stream.write_all(&bytes).await?;
                stream.flush().await?;
            }
            Answer::Flood(length) => {
                stream.write_all(&varint(length)).await?;
                for _ in 0..FLOOD_BYTES >> 16 {
                    stream.write_all(&[0; 1 << 16]).await?;
                }
            }
            Answer::Close => close.send(peer)?,
            Answer::Nothing => std::future::pending().await,
        }
    }
}

/// One message without its length.
async fn read(stream: &mut Stream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let length = loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        head.extend(byte);
        match take_varint(&head) {
            Some((length, _)) if length <= QUESTION_BYTES => break length,
            None if head.len() < 4 => {}
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    };
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// The answer of `/vpi/time/1`: the time, in milliseconds, and the port of a STUN responder.
async fn tell_time(mut stream: Stream, (clock_s, stun_port): (i64, u16)) {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let wall_ms =
        u64::try_from(wall).unwrap_or_default().saturating_add_signed(clock_s.saturating_mul(1_000));
    if stream.write_all(&[&wall_ms.to_be_bytes()[..], &stun_port.to_be_bytes()].concat()).await.is_ok() {
        // It has all, or is gone.
        let _ = stream.close().await;
    }
}
