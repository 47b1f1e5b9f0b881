//! Beacons for tests: a stock libp2p one, and some that lie.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::futures::{AsyncWriteExt as _, StreamExt as _};
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, RecordStore as _};
use libp2p::kad::{self, InboundRequest, Record, RecordKey};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, identify, noise, ping, relay, tcp, yamux};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::beacon::protocol::{KAD, TIME, TimeAnswer};
use crate::swarm::Beacon;

/// How a test beacon treats members.
#[derive(Clone, Debug, Default)]
pub(super) struct Ways {
    /// Added to the time it tells.
    pub(super) clock_ms: i64,
    /// Records it holds from the start, under these keys.
    pub(super) holds: Vec<([u8; 32], Vec<u8>)>,
    /// It says yes to a put and keeps nothing.
    pub(super) is_forgetful: bool,
    /// What it does with Kademlia's streams instead of answering.
    pub(super) kad: Option<Misuse>,
}

/// What else can become of a question.
#[derive(Clone, Debug)]
pub(super) enum Misuse {
    /// Nothing, for ever.
    Stall,
    /// The connection is closed.
    Close,
    /// These bytes are written, over and over.
    Say(Vec<u8>),
}

#[derive(NetworkBehaviour)]
struct Stock {
    kad: libp2p::swarm::behaviour::toggle::Toggle<kad::Behaviour<MemoryStore>>,
    relay: relay::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    stream: libp2p_stream::Behaviour,
}

/// A running stock beacon. Dropped, it is gone as a killed process is.
pub(super) struct StockBeacon {
    pub(super) beacon: Beacon,
    pub(super) key: Keypair,
    /// What was put there.
    pub(super) puts: Arc<Mutex<Vec<Record>>>,
    task: JoinHandle<()>,
}

impl Drop for StockBeacon {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl StockBeacon {
    pub(super) async fn start(ways: Ways, others: &[Beacon]) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), Keypair::generate_ed25519(), ways, others).await
    }

    /// Some that know each other.
    pub(super) async fn several(count: usize) -> Vec<Self> {
        let mut beacons: Vec<Self> = Vec::new();
        for _ in 0..count {
            let known: Vec<Beacon> = beacons.iter().map(|other| other.beacon).collect();
            beacons.push(Self::start(Ways::default(), &known).await);
        }
        beacons
    }

    pub(super) async fn start_at(
        at: std::net::SocketAddr,
        key: Keypair,
        ways: Ways,
        others: &[Beacon],
    ) -> Self {
        let mut swarm = stock(key.clone(), &ways);
        let me = *swarm.local_peer_id();
        if let Some(kad) = swarm.behaviour_mut().kad.as_mut() {
            for other in others {
                kad.add_address(&other.peer, other.address());
            }
            for (key, value) in ways.holds {
                kad.store_mut().put(Record::new(RecordKey::new(&key), value)).unwrap();
            }
        }
        let listen = Beacon { peer: me, socket: at }.address();
        swarm.listen_on(listen).unwrap();
        let address: Multiaddr = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        swarm.add_external_address(address.clone());
        let beacon = Beacon::try_from(&address.with_p2p(me).unwrap()).unwrap();
        let puts = Arc::new(Mutex::new(Vec::new()));
        serve_time(&swarm, ways.clock_ms);
        let closing = ways.kad.map(|misuse| misuse_streams(&swarm, misuse));
        let task = tokio::spawn(run(swarm, ways.is_forgetful, Arc::clone(&puts), closing));
        Self { beacon, key, puts, task }
    }

    pub(super) async fn stop(self) -> (Beacon, Keypair) {
        self.task.abort();
        // The sockets are closed when the task is gone.
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
        (self.beacon, self.key.clone())
    }
}

fn stock(key: Keypair, ways: &Ways) -> Swarm<Stock> {
    SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| {
            let id = key.public().to_peer_id();
            let mut config = kad::Config::new(KAD);
            config.set_record_filtering(kad::StoreInserts::FilterBoth);
            config.set_kbucket_inserts(kad::BucketInserts::Manual);
            config.set_replication_interval(None).set_publication_interval(None);
            let mut kad = kad::Behaviour::with_config(id, MemoryStore::new(id), config);
            kad.set_mode(Some(kad::Mode::Server));
            let relay = relay::Config { reservation_rate_limiters: Vec::new(), ..relay::Config::default() };
            let relay = relay::Config { circuit_src_rate_limiters: Vec::new(), max_circuits: 64, ..relay };
            Stock {
                kad: Some(kad).filter(|_| ways.kad.is_none()).into(),
                relay: relay::Behaviour::new(id, relay),
                identify: identify::Behaviour::new(identify::Config::new("/vpi/1".into(), key.public())),
                ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(86_400))),
                stream: libp2p_stream::Behaviour::new(),
            }
        })
        .unwrap()
        .build()
}

fn serve_time(swarm: &Swarm<Stock>, clock_ms: i64) {
    let mut asked = swarm.behaviour().stream.new_control().accept(TIME).unwrap();
    tokio::spawn(async move {
        while let Some((_, mut stream)) = asked.next().await {
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
            let wall_ms = u64::try_from(wall).unwrap().saturating_add_signed(clock_ms);
            let _ = stream.write_all(&TimeAnswer { wall_ms, stun: Some(3_478) }.encode()).await;
            let _ = stream.close().await;
        }
    });
}

/// Takes Kademlia's streams; returns whose connections are to be closed.
fn misuse_streams(swarm: &Swarm<Stock>, misuse: Misuse) -> UnboundedReceiver<PeerId> {
    let mut asked = swarm.behaviour().stream.new_control().accept(KAD).unwrap();
    let (close, closing) = unbounded_channel();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Some((peer, mut stream)) = asked.next().await {
            match misuse.clone() {
                Misuse::Stall => held.push(stream),
                Misuse::Close => close.send(peer).unwrap(),
                Misuse::Say(bytes) => {
                    tokio::spawn(async move { while stream.write_all(&bytes).await.is_ok() {} });
                }
            }
        }
    });
    closing
}

async fn run(
    mut swarm: Swarm<Stock>,
    is_forgetful: bool,
    puts: Arc<Mutex<Vec<Record>>>,
    mut closing: Option<UnboundedReceiver<PeerId>>,
) {
    loop {
        let closing = async {
            match &mut closing {
                Some(closing) => closing.recv().await,
                None => None,
            }
        };
        let event = tokio::select! {
            event = swarm.select_next_some() => event,
            Some(peer) = closing => {
                let _ = swarm.disconnect_peer_id(peer);
                continue;
            }
        };
        if let SwarmEvent::Behaviour(StockEvent::Kad(kad::Event::InboundRequest {
            request: InboundRequest::PutRecord { record: Some(record), .. },
        })) = event
        {
            puts.lock().unwrap().push(record.clone());
            if let Some(kad) = swarm.behaviour_mut().kad.as_mut().filter(|_| !is_forgetful) {
                kad.store_mut().put(record).unwrap();
            }
        }
    }
}

/// Takes connections and says nothing on them.
pub(super) struct Silent {
    pub(super) beacon: Beacon,
    task: JoinHandle<()>,
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Silent {
    pub(super) async fn start() -> Self {
        let (started, socket) = oneshot::channel();
        let task = tokio::spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            started.send(listener.local_addr().unwrap()).unwrap();
            let mut held = Vec::new();
            loop {
                held.push(listener.accept().await);
            }
        });
        let peer = Keypair::generate_ed25519().public().to_peer_id();
        Self { beacon: Beacon { peer, socket: socket.await.unwrap() }, task }
    }
}
