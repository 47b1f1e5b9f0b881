//! Three real beacons on loopback, and a plain client that puts and gets.

mod carry;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::futures::{AsyncReadExt as _, StreamExt as _};
use libp2p::kad::store::MemoryStore;
use libp2p::kad::{self, GetRecordOk, Mode, QueryResult, Quorum, Record};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{PeerId, Swarm, SwarmBuilder, identify, noise, tcp, yamux};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::events::has_place;
use super::node::moment;
use super::protocol::{KAD, TIME, TIME_BYTES, TimeAnswer, socket_of};
use super::records::Records;
use super::records::tests::lobby_record;
use super::*;

/// Long for a loaded machine; each step takes milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

#[derive(NetworkBehaviour)]
struct Client {
    kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
    stream: libp2p_stream::Behaviour,
}

/// A beacon that runs until it is stopped.
struct Running {
    announcement: Announcement,
    task: JoinHandle<Beacon>,
    stop: mpsc::Sender<()>,
    asks: mpsc::Sender<Question>,
}

/// What is done with a running beacon.
type Question = Box<dyn FnOnce(&mut Beacon) + Send>;

impl Running {
    async fn start(state: &Path, peers: &[(PeerId, Multiaddr)]) -> Self {
        Self::start_at(state, "127.0.0.1:0".parse().unwrap(), peers).await
    }

    async fn start_at(state: &Path, tcp: SocketAddr, peers: &[(PeerId, Multiaddr)]) -> Self {
        Self::start_from(options(state, tcp, peers)).await
    }

    async fn start_with(state: &Path, carry: Option<CarryBounds>) -> Self {
        let options = options(state, "127.0.0.1:0".parse().unwrap(), &[]);
        Self::start_from(BeaconOptions { carry, ..options }).await
    }

    async fn start_from(options: BeaconOptions) -> Self {
        let folder = BeaconFolder::open(&options.state).unwrap();
        let mut beacon = Beacon::start(options, folder, DoorBounds::with_files(4_096)).await.unwrap();
        let announcement = beacon.announcement();
        let (stop, mut stopped) = mpsc::channel(1);
        let (asks, mut asked) = mpsc::channel::<Question>(1);
        let task = tokio::spawn(async move {
            let (_calls, mut none) = mpsc::channel(1);
            loop {
                tokio::select! {
                    _ = stopped.recv() => break,
                    Some(question) = asked.recv() => question(&mut beacon),
                    () = beacon.serve(&mut none) => {}
                }
            }
            beacon.close().await;
            beacon
        });
        Self { announcement, task, stop, asks }
    }

    /// Where it is, over TCP or QUIC.
    fn at(&self, is_quic: bool) -> (PeerId, Multiaddr) {
        let mut addresses = self.announcement.addresses.iter();
        peer_address(addresses.find(|text| text.contains("quic") == is_quic).unwrap()).unwrap()
    }

    async fn ask<T: Send + 'static>(&self, question: impl FnOnce(&mut Beacon) -> T + Send + 'static) -> T {
        let (answer, told) = tokio::sync::oneshot::channel();
        let question = Box::new(move |beacon: &mut Beacon| drop(answer.send(question(beacon))));
        assert!(self.asks.send(question).await.is_ok());
        told.await.unwrap()
    }

    async fn table_and_records(&self) -> (usize, usize) {
        self.ask(|beacon| (beacon.table().len(), beacon.swarm.behaviour_mut().kad.store_mut().count())).await
    }

    async fn until(&self, what: &str, mut holds: impl FnMut((usize, usize)) -> bool) {
        let wait = async {
            while !holds(self.table_and_records().await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
    }

    async fn stop(self) {
        self.stop.send(()).await.unwrap();
        drop(self.task.await.unwrap());
    }
}

fn options(state: &Path, tcp: SocketAddr, peers: &[(PeerId, Multiaddr)]) -> BeaconOptions {
    let any = SocketAddr::new(tcp.ip(), 0);
    BeaconOptions {
        state: state.to_owned(),
        control: state.join("unused"),
        tcp: vec![tcp],
        quic: vec![any],
        stun: vec![any],
        peers: peers.to_vec(),
        external: Vec::new(),
        addresses: None,
        carry: None,
        json: true,
    }
}

fn client() -> Swarm<Client> {
    let built = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_quic()
        .with_behaviour(|keypair| {
            let id = keypair.public().to_peer_id();
            let mut config = kad::Config::new(KAD);
            config.set_kbucket_inserts(kad::BucketInserts::Manual);
            let mut kad = kad::Behaviour::with_config(id, MemoryStore::new(id), config);
            kad.set_mode(Some(Mode::Client));
            let identify = identify::Config::new("/vpi/1".to_owned(), keypair.public());
            Client {
                kad,
                identify: identify::Behaviour::new(identify),
                stream: libp2p_stream::Behaviour::new(),
            }
        })
        .unwrap();
    built.build()
}

/// Runs the query that is under way to its end; gives the values that were found and how many took a put.
async fn finish(client: &mut Swarm<Client>) -> (Vec<Record>, usize) {
    let mut found = Vec::new();
    let wait = async {
        loop {
            let SwarmEvent::Behaviour(ClientEvent::Kad(kad::Event::OutboundQueryProgressed {
                result,
                step,
                ..
            })) = client.select_next_some().await
            else {
                continue;
            };
            match result {
                QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(one))) => found.push(one.record),
                QueryResult::PutRecord(put) => return put.map_or(0, |_| 1),
                _ => {}
            }
            if step.last {
                return 0;
            }
        }
    };
    let taken = timeout(LIMIT, wait).await.expect("a query ends");
    (found, taken)
}

async fn put(client: &mut Swarm<Client>, record: Record, to: &[PeerId]) {
    client.behaviour_mut().kad.put_record_to(record, to.iter().copied(), Quorum::One);
    assert_eq!(finish(client).await.1, 1);
}

async fn get(client: &mut Swarm<Client>, record: &Record) -> Vec<Record> {
    client.behaviour_mut().kad.get_record(record.key.clone());
    finish(client).await.0
}

fn wall_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn three_beacons_find_each_other_keep_what_a_client_puts_and_serve_it_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let state = |name: &str| dir.path().join(name);
    let a = Running::start(&state("a"), &[]).await;
    let b = Running::start(&state("b"), &[a.at(false)]).await;
    let c = Running::start(&state("c"), &[a.at(false)]).await;
    for beacon in [&a, &b, &c] {
        // The first dialled nobody: those that dialled it came in by being dialled back.
        beacon.until("two others in the table", |(table, _)| table == 2).await;
    }

    let mut client = client();
    let beacons = [a.at(false), b.at(true), c.at(false)];
    for (peer, address) in &beacons {
        client.behaviour_mut().kad.add_address(peer, address.clone());
    }
    let ids = beacons.map(|(peer, _)| peer);
    let wall = wall_secs();
    let good = lobby_record(1, wall, wall);
    let mut forged = lobby_record(2, wall, wall);
    *forged.value.last_mut().unwrap() ^= 1;
    put(&mut client, good.clone(), &ids).await;
    put(&mut client, forged.clone(), &ids).await;
    for beacon in [&a, &b, &c] {
        beacon.until("one record", |(_, records)| records == 1).await;
    }
    let found = get(&mut client, &good).await;
    assert_eq!(found.len(), 3, "one copy of each beacon");
    assert!(found.iter().all(|found| found.value == good.value && found.publisher.is_none()));
    assert_eq!(get(&mut client, &forged).await.len(), 0);
    // A client never comes into a table.
    assert_eq!(a.table_and_records().await.0, 2);

    // The last one standing has been restarted, and knows where the others were.
    a.stop().await;
    b.stop().await;
    let id = c.announcement.id.clone();
    c.stop().await;
    let c = Running::start(&state("c"), &[]).await;
    assert_eq!((c.announcement.id.clone(), c.announcement.records), (id, 1));
    let (mut client, (peer, address)) = (self::client(), c.at(false));
    client.behaviour_mut().kad.add_address(&peer, address);
    let found = get(&mut client, &good).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].value, good.value);
    c.stop().await;
}

#[tokio::test]
async fn who_finds_no_place_in_its_bucket_is_not_dialled_back() {
    let own = PeerId::random();
    let records = Records::new(&::protocol::identity::Secret([1; 32]), Vec::new(), moment());
    let mut kad = kad::Behaviour::with_config(own, records, kad::Config::new(KAD));
    assert!(!has_place(&mut kad, own));
    let far = |peer: &PeerId| {
        let distance = kad::KBucketKey::from(own).distance(&kad::KBucketKey::from(*peer));
        distance.ilog2() == Some(255)
    };
    let mut others = std::iter::repeat_with(PeerId::random).filter(|peer| far(peer));
    for peer in others.by_ref().take(20) {
        assert!(has_place(&mut kad, peer));
        kad.add_address(&peer, "/ip4/192.0.2.1/tcp/1".parse().unwrap());
        assert!(!has_place(&mut kad, peer));
    }
    assert!(!has_place(&mut kad, others.next().unwrap()));
    let near = std::iter::repeat_with(PeerId::random).find(|peer| !far(peer)).unwrap();
    assert!(has_place(&mut kad, near));
}

#[tokio::test]
async fn a_beacon_tells_the_time_and_the_port_of_its_stun_responder() {
    let dir = tempfile::tempdir().unwrap();
    let beacon = Running::start(&dir.path().join("a"), &[]).await;
    let mut client = client();
    let (peer, address) = beacon.at(false);
    client.dial(address.with_p2p(peer).unwrap()).unwrap();
    let mut control = client.behaviour().stream.new_control();
    let polled = tokio::spawn(async move {
        loop {
            client.select_next_some().await;
        }
    });
    let mut stream = timeout(LIMIT, control.open_stream(peer, TIME)).await.unwrap().unwrap();
    let mut bytes = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    let answer = TimeAnswer::decode(&<[u8; TIME_BYTES]>::try_from(bytes).unwrap());
    assert!((answer.wall_ms / 1_000).abs_diff(wall_secs()) <= 2);
    assert_eq!(answer.stun, Some(beacon.announcement.stun[0].port()));
    polled.abort();
    beacon.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let other = Running::start(&dir.path().join("b"), &[]).await;
    let taken = socket_of(&other.at(false).1).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let taken_udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let options = |tcp, stun| BeaconOptions {
        state: dir.path().join("a"),
        control: dir.path().join("unused"),
        tcp: vec![tcp],
        quic: vec![any],
        stun: vec![stun],
        peers: Vec::new(),
        external: Vec::new(),
        addresses: None,
        carry: None,
        json: false,
    };
    for (options, named) in [
        (options(taken, any), taken),
        (options(any, taken_udp.local_addr().unwrap()), taken_udp.local_addr().unwrap()),
    ] {
        let folder = BeaconFolder::open(&dir.path().join("a")).unwrap();
        let started = Beacon::start(options, folder, DoorBounds::with_files(1_024)).await;
        let reason = started.err().unwrap().to_string();
        assert!(reason.contains(&named.to_string()) && reason.contains("cannot listen"), "{reason}");
    }
    other.stop().await;
}
