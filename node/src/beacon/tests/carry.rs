//! Streams through a real beacon that carries, and through one that does not.

use libp2p::futures::AsyncWriteExt as _;
use libp2p::swarm::Stream;
use libp2p_stream::OpenStreamError;

use super::super::node::Beacon;
use super::super::protocol::{CARRY, HELD, JOINED};
use super::*;
use crate::carry::{Reader, write_frame};

const RATE: f64 = 250_000.0;

/// A plain client that is connected to a beacon; gone with its task.
struct Caller {
    beacon: PeerId,
    control: libp2p_stream::Control,
    task: JoinHandle<()>,
}

impl Caller {
    fn new(beacon: &Running) -> Self {
        let mut client = client();
        let (peer, address) = beacon.at(false);
        client.dial(address.with_p2p(peer).unwrap()).unwrap();
        let control = client.behaviour().stream.new_control();
        let task = tokio::spawn(async move {
            loop {
                client.select_next_some().await;
            }
        });
        Self { beacon: peer, control, task }
    }

    /// Opens a stream with a token; returns it and the beacon's first word.
    async fn open(&mut self, token: u8) -> (Stream, u8) {
        let opening = self.control.open_stream(self.beacon, CARRY);
        let mut stream = timeout(LIMIT, opening).await.unwrap().unwrap();
        stream.write_all(&[token; 32]).await.unwrap();
        stream.flush().await.unwrap();
        let word = word(&mut stream).await.unwrap();
        (stream, word)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One byte of the beacon's; none at the stream's end.
async fn word(stream: &mut Stream) -> Option<u8> {
    let mut byte = [0];
    let read = timeout(LIMIT, stream.read(&mut byte)).await.expect("a word in time");
    (read.ok()? == 1).then_some(byte[0])
}

async fn carrying() -> (tempfile::TempDir, Running) {
    let dir = tempfile::tempdir().unwrap();
    let bounds = CarryBounds { bytes_per_second: RATE, bytes_per_day: 1e9 };
    let beacon = Running::start_with(&dir.path().join("a"), Some(bounds)).await;
    (dir, beacon)
}

#[tokio::test]
async fn who_brings_the_same_token_is_joined_and_nobody_else() {
    let (_dir, beacon) = carrying().await;
    let (mut a, mut b, mut stranger) = (Caller::new(&beacon), Caller::new(&beacon), Caller::new(&beacon));
    let (mut first, said) = a.open(1).await;
    assert_eq!(said, HELD);
    let (mut other, said) = stranger.open(2).await;
    assert_eq!(said, HELD, "with a token of its own it waits for whoever has that one");
    let (second, said) = b.open(1).await;
    assert_eq!((said, word(&mut first).await), (JOINED, Some(JOINED)));
    let (mut late, said) = stranger.open(1).await;
    assert_eq!(said, HELD, "two are joined, and no third");

    let (mut second, mut first) = (second.split(), first.split());
    write_frame(&mut first.1, b"hello").await.unwrap();
    write_frame(&mut second.1, &[7; 1_452]).await.unwrap();
    assert_eq!(Reader::new(&mut second.0).next().await.unwrap().unwrap(), b"hello");
    assert_eq!(Reader::new(&mut first.0).next().await.unwrap().unwrap(), [7; 1_452]);
    // Who waits in vain gets not one byte, and is let go.
    assert_eq!((word(&mut other).await, word(&mut late).await), (None, None));
    // When one end goes, the other is told, after what came before that.
    write_frame(&mut first.1, b"goodbye").await.unwrap();
    first.1.close().await.unwrap();
    drop(first);
    let last = timeout(LIMIT, Reader::new(&mut second.0).next()).await.unwrap().unwrap();
    assert_eq!(last.unwrap(), b"goodbye");
    assert!(timeout(LIMIT, Reader::new(&mut second.0).next()).await.unwrap().unwrap().is_none());
    beacon.stop().await;
}

#[tokio::test]
async fn what_one_end_writes_comes_at_the_rate_and_what_is_above_it_is_lost() {
    let (_dir, beacon) = carrying().await;
    let (mut a, mut b) = (Caller::new(&beacon), Caller::new(&beacon));
    let (mut first, _) = a.open(1).await;
    let (second, _) = b.open(1).await;
    assert_eq!(word(&mut first).await, Some(JOINED));
    let (_, mut write) = first.split();
    let flood = tokio::spawn(async move { while write_frame(&mut write, &[9; 1_200]).await.is_ok() {} });
    let (since, mut bytes) = (tokio::time::Instant::now(), 0_u32);
    let mut reader = Reader::new(second);
    while since.elapsed() < Duration::from_secs(3) {
        let frame = timeout(LIMIT, reader.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame, [9; 1_200]);
        bytes += 1_200;
    }
    let rate = f64::from(bytes) / since.elapsed().as_secs_f64();
    assert!((RATE * 0.5..RATE * 1.3).contains(&rate), "{rate} bytes a second");
    let counts = beacon.ask(Beacon::metrics).await;
    let lost = counts.iter().find(|family| family.name == "vpi_beacon_carry_lost_total").unwrap();
    assert!(lost.samples[0].value > 0.0);
    flood.abort();
    beacon.stop().await;
}

#[tokio::test]
async fn a_beacon_that_does_not_carry_does_not_know_the_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let beacon = Running::start(&dir.path().join("a"), &[]).await;
    let mut caller = Caller::new(&beacon);
    let opened = timeout(LIMIT, caller.control.open_stream(caller.beacon, CARRY)).await.unwrap();
    assert!(matches!(opened, Err(OpenStreamError::UnsupportedProtocol(_))));
    beacon.stop().await;
}
