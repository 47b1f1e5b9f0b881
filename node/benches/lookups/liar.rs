//! A beacon that lies, in the place and under the identity of one that did not, in the ways of `tests/src/bin/liar`.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use libp2p::core::Transport as _;
use libp2p::core::upgrade::Version;
use libp2p::futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::identity::Keypair;
use libp2p::swarm::{NetworkBehaviour, Stream};
use libp2p::{StreamProtocol, SwarmBuilder, identify, noise, ping, yamux};
use tokio::task::JoinHandle;
use vpi::benchmark::Connections;

use crate::kademlia::{NAME, Question, take_varint, varint};
use crate::lies::{Answer, Lies};
use crate::net::address;

/// The longest question that is read.
const QUESTION_BYTES: usize = 16 << 10;

#[derive(NetworkBehaviour)]
struct Looks {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    stream: libp2p_stream::Behaviour,
}

/// Starts one; it ends when the task is aborted.
pub(crate) fn start(
    at: SocketAddr,
    connections: Connections,
    identity: Keypair,
    lies: Lies,
) -> Result<JoinHandle<()>> {
    let mut swarm = SwarmBuilder::with_existing_identity(identity)
        .with_tokio()
        .with_other_transport(|keypair| {
            let secured = connections.upgrade(Version::V1Lazy).authenticate(noise::Config::new(keypair)?);
            Ok(secured.multiplex(yamux::Config::default()))
        })?
        .with_behaviour(|keypair| Looks {
            identify: identify::Behaviour::new(identify::Config::new("/vpi/1".to_owned(), keypair.public())),
            ping: ping::Behaviour::default(),
            stream: libp2p_stream::Behaviour::new(),
        })?
        .build();
    swarm.listen_on(address(at)).with_context(|| format!("a liar cannot listen at {at}"))?;
    swarm.add_external_address(address(at));
    let mut asked = swarm.behaviour().stream.new_control().accept(StreamProtocol::new(NAME))?;
    let lies = Arc::new(Mutex::new(lies));
    Ok(tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = swarm.select_next_some() => {}
                // A talk ends with its stream.
                Some((_, stream)) = asked.next() => drop(tokio::spawn(talk(stream, Arc::clone(&lies)))),
            }
        }
    }))
}

async fn talk(mut stream: Stream, lies: Arc<Mutex<Lies>>) -> io::Result<()> {
    while let Some(question) = Question::read(&read(&mut stream).await?) {
        let answer = lies.lock().unwrap_or_else(PoisonError::into_inner).answer(&question);
        let Answer::Say(bytes) = answer else { return Ok(()) };
        stream.write_all(&bytes).await?;
        stream.flush().await?;
    }
    Ok(())
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
            None if head.len() < varint(QUESTION_BYTES).len() => {}
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    };
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
