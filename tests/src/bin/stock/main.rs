//! A stock libp2p node that punches holes, as in libp2p's own example of DCUtR: what ours is compared with.
//!
//! | command | does |
//! |---|---|
//! | `stock relay IP:PORT` | a relay on QUIC and TCP; prints its addresses |
//! | `stock listen RELAY...` | has itself reserved a place there, prints its peer id, and is met there |
//! | `stock dial SECONDS PEER RELAY...` | meets PEER there, and watches for so long whether a direct connection comes of it |
//!
//! RELAY is an address of the relay, with its peer id: the first that answers is used. `listen` and `dial` print one line of JSON for
//! each thing that happens, with the seconds since `dial` asked for the first connection; `dial` ends with the direct connection, or
//! when DCUtR has given up at the other end and that has said so.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libp2p::futures::StreamExt as _;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, dcutr, identify, noise, ping, relay, tcp, yamux};
use serde_json::json;
use tokio::time::{sleep_until, timeout};

/// As in the example.
const AGENT: &str = "/TODO/0.0.1";
/// How long one address of the relay may take.
const RELAY_WITHIN: Duration = Duration::from_secs(5);
/// How long a place there may take.
const PLACE_WITHIN: Duration = Duration::from_secs(10);
/// The example waits as long for its listeners.
const LISTENS_WITHIN: Duration = Duration::from_secs(1);

#[derive(NetworkBehaviour)]
struct Relaying {
    relay: relay::Behaviour,
    ping: ping::Behaviour,
    identify: identify::Behaviour,
}

#[derive(NetworkBehaviour)]
struct Punching {
    relay_client: relay::client::Behaviour,
    ping: ping::Behaviour,
    identify: identify::Behaviour,
    dcutr: dcutr::Behaviour,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(&words)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(words: &[&str]) -> Result<()> {
    match words {
        ["relay", at] => serve(at.parse()?).await,
        ["listen", relays @ ..] => listen(&parsed(relays)?).await,
        ["dial", seconds, peer, relays @ ..] => {
            dial(Duration::from_secs(seconds.parse()?), peer.parse()?, &parsed(relays)?).await
        }
        _ => bail!("stock relay IP:PORT | listen RELAY... | dial SECONDS PEER RELAY..."),
    }
}

fn parsed(texts: &[&str]) -> Result<Vec<Multiaddr>> {
    texts.iter().map(|text| text.parse().with_context(|| format!("no address: {text}"))).collect()
}

/// The relay of the example, but for its bounds of rate, which a table of pairs would meet.
async fn serve(at: std::net::SocketAddr) -> Result<()> {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
        .with_quic()
        .with_behaviour(|keypair| {
            let config = relay::Config {
                reservation_rate_limiters: Vec::new(),
                circuit_src_rate_limiters: Vec::new(),
                max_circuits: 256,
                ..relay::Config::default()
            };
            Relaying {
                relay: relay::Behaviour::new(keypair.public().to_peer_id(), config),
                ping: ping::Behaviour::new(ping::Config::new()),
                identify: identify::Behaviour::new(identify::Config::new(AGENT.to_owned(), keypair.public())),
            }
        })?
        .build();
    let host = Multiaddr::from(at.ip());
    for address in [
        host.clone().with(Protocol::Udp(at.port())).with(Protocol::QuicV1),
        host.with(Protocol::Tcp(at.port())),
    ] {
        swarm.listen_on(address.clone())?;
        println!("{}", address.with(Protocol::P2p(*swarm.local_peer_id())));
    }
    println!("ready");
    loop {
        if let SwarmEvent::Behaviour(RelayingEvent::Identify(identify::Event::Received { info, .. })) =
            swarm.select_next_some().await
        {
            swarm.add_external_address(info.observed_addr);
        }
    }
}

/// A node of the example that listens, and knows its own address as the relay saw it. Returns it with the relay's address.
async fn client(relays: &[Multiaddr]) -> Result<(Swarm<Punching>, Multiaddr)> {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)?
        .with_quic()
        .with_relay_client(noise::Config::new, yamux::Config::default)?
        .with_behaviour(|keypair, relay_client| Punching {
            relay_client,
            ping: ping::Behaviour::new(ping::Config::new()),
            identify: identify::Behaviour::new(identify::Config::new(AGENT.to_owned(), keypair.public())),
            dcutr: dcutr::Behaviour::new(keypair.public().to_peer_id()),
        })?
        .build();
    swarm.listen_on("/ip4/0.0.0.0/udp/0/quic-v1".parse()?)?;
    swarm.listen_on("/ip4/0.0.0.0/tcp/0".parse()?)?;
    // It says of none that it was the last.
    let _ = timeout(LISTENS_WITHIN, async {
        loop {
            swarm.select_next_some().await;
        }
    })
    .await;
    for relay in relays {
        swarm.dial(relay.clone())?;
        if matches!(timeout(RELAY_WITHIN, learn(&mut swarm)).await, Ok(Ok(()))) {
            return Ok((swarm, relay.clone()));
        }
    }
    bail!("no relay answers")
}

/// Waits until the relay has told where it sees this node, and was told the same.
async fn learn(swarm: &mut Swarm<Punching>) -> Result<()> {
    let (mut has_learnt, mut has_told) = (false, false);
    while !(has_learnt && has_told) {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(PunchingEvent::Identify(identify::Event::Sent { .. })) => has_told = true,
            SwarmEvent::Behaviour(PunchingEvent::Identify(identify::Event::Received { .. })) => {
                has_learnt = true;
            }
            SwarmEvent::OutgoingConnectionError { error, .. } => bail!("not connected: {error}"),
            _ => {}
        }
    }
    Ok(())
}

async fn listen(relays: &[Multiaddr]) -> Result<()> {
    let (mut swarm, relay) = client(relays).await?;
    swarm.listen_on(relay.with(Protocol::P2pCircuit))?;
    timeout(PLACE_WITHIN, async {
        loop {
            if let SwarmEvent::Behaviour(PunchingEvent::RelayClient(
                relay::client::Event::ReservationReqAccepted { .. },
            )) = swarm.select_next_some().await
            {
                return;
            }
        }
    })
    .await
    .context("the relay gives no place")?;
    println!("{}", swarm.local_peer_id());
    loop {
        // Whoever is called is the one that begins, tries again and gives up.
        if let SwarmEvent::Behaviour(PunchingEvent::Dcutr(dcutr::Event { result, .. })) =
            swarm.select_next_some().await
        {
            let error = result.err().map(|error| format!("{error:#}"));
            println!("{}", json!({"punched": error.is_none(), "error": error}));
        }
    }
}

async fn dial(watched: Duration, peer: PeerId, relays: &[Multiaddr]) -> Result<()> {
    let (mut swarm, relay) = client(relays).await?;
    let since = Instant::now();
    let address = relay.with(Protocol::P2pCircuit).with(Protocol::P2p(peer));
    swarm.dial(DialOpts::unknown_peer_id().address(address).build())?;
    let until = tokio::time::Instant::now() + watched;
    loop {
        let event = tokio::select! {
            event = swarm.select_next_some() => event,
            () = sleep_until(until) => return Ok(()),
        };
        let seconds = since.elapsed().as_secs_f64();
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } if peer_id == peer => {
                let how = if endpoint.is_relayed() { "relayed" } else { "direct" };
                let at = endpoint.get_remote_address().to_string();
                println!("{}", json!({how: seconds, "at": at}));
                if how == "direct" {
                    // The other end is to know of it, too.
                    let _ = timeout(Duration::from_millis(500), async {
                        loop {
                            swarm.select_next_some().await;
                        }
                    })
                    .await;
                    return Ok(());
                }
            }
            SwarmEvent::OutgoingConnectionError { error, .. } => {
                println!("{}", json!({"failed": seconds, "error": error.to_string()}));
            }
            SwarmEvent::Behaviour(PunchingEvent::Dcutr(dcutr::Event { result, .. })) => {
                println!("{}", json!({"punched": result.is_ok(), "after": seconds}));
            }
            _ => {}
        }
    }
}
