//! One circuit over a real pipe, in real time.

use libp2p::tcp::tokio::TcpStream as Pipe;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::carry::FRAME_BYTES;

const CIRCUIT: u32 = 7;

/// The circuit under test, and what its driver and the other end hold.
struct Bench {
    other: TcpStream,
    frames: mpsc::Sender<Vec<u8>>,
    vouch: Option<oneshot::Sender<()>>,
    close: oneshot::Sender<()>,
    told: mpsc::Receiver<Told>,
    ended: JoinHandle<Ended>,
}

impl Bench {
    async fn new(is_inbound: bool, driver_takes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (pipe, _) = listener.accept().await.unwrap();
        let (frames, to_write) = mpsc::channel(4);
        let (close, closed) = oneshot::channel();
        let (vouch, vouched) = oneshot::channel();
        let orders = Orders { frames: to_write, vouch: is_inbound.then_some(vouched), close: closed };
        let (tell, told) = mpsc::channel(driver_takes);
        let ended = tokio::spawn(async move { run(CIRCUIT, Pipe(pipe), orders, &tell).await });
        Self { other, frames, vouch: is_inbound.then_some(vouch), close, told, ended }
    }

    async fn frame(&mut self) -> Vec<u8> {
        match self.told.recv().await {
            Some(Told::Frame { circuit: CIRCUIT, bytes }) => bytes,
            told => panic!("{told:?}"),
        }
    }

    /// How it ended, and all that the other end ever got.
    async fn end(mut self) -> (Ended, Vec<u8>) {
        let mut got = Vec::new();
        let _ = self.other.read_to_end(&mut got).await;
        (self.ended.await.unwrap(), got)
    }
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

#[tokio::test]
async fn frames_arrive_whole_however_they_are_cut_and_leave_with_their_length() {
    let mut bench = Bench::new(false, 8).await;
    let long = vec![9; FRAME_BYTES];
    let sent = [framed(b"a"), framed(&long), framed(b"ccc")].concat();
    for piece in sent.chunks(97) {
        bench.other.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.frame().await, b"a");
    assert_eq!(bench.frame().await, long);
    assert_eq!(bench.frame().await, b"ccc");
    for frame in [b"x".to_vec(), long] {
        bench.frames.send(frame.clone()).await.unwrap();
        let mut got = vec![0; frame.len() + 2];
        bench.other.read_exact(&mut got).await.unwrap();
        assert_eq!(got, framed(&frame));
    }
    bench.other.shutdown().await.unwrap();
    assert_eq!(bench.ended.await.unwrap(), Ended::Peer);
}

#[tokio::test]
async fn what_waits_is_written_before_an_asked_for_end() {
    let bench = Bench::new(false, 8).await;
    for _ in 0..4 {
        bench.frames.try_send(b"last".to_vec()).unwrap();
    }
    let Bench { mut other, close, ended, .. } = bench;
    close.send(()).unwrap();
    let mut got = Vec::new();
    other.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, framed(b"last").repeat(4));
    assert_eq!(ended.await.unwrap(), Ended::Asked);
}

#[tokio::test]
async fn a_silent_stranger_is_cut_off_after_five_seconds_without_a_byte() {
    let bench = Bench::new(true, 8).await;
    let began_at = Instant::now();
    let (ended, got) = bench.end().await;
    assert_eq!((ended, got.len()), (Ended::Unvouched, 0));
    assert!((5..7).contains(&began_at.elapsed().as_secs()), "{:?}", began_at.elapsed());
}

#[tokio::test]
async fn a_stranger_gets_sixteen_frames_looked_at_and_not_a_byte() {
    let mut bench = Bench::new(true, 64).await;
    bench.other.write_all(&framed(b"garbage").repeat(17)).await.unwrap();
    for _ in 0..16 {
        assert_eq!(bench.frame().await, b"garbage");
    }
    assert_eq!(bench.told.recv().await, None);
    let (ended, got) = bench.end().await;
    assert_eq!((ended, got.len()), (Ended::Unvouched, 0));
}

#[tokio::test]
async fn bytes_that_are_no_frame_end_it_without_an_answer() {
    let hello = b"\x13/multistream/1.0.0\n\x07/noise\n".to_vec();
    for bytes in [hello, vec![0, 0], vec![8, 1], vec![0xff; 3_000]] {
        for is_inbound in [true, false] {
            let mut bench = Bench::new(is_inbound, 8).await;
            bench.other.write_all(&bytes).await.unwrap();
            let (ended, got) = bench.end().await;
            assert_eq!((ended, got.len()), (Ended::Malformed, 0), "{bytes:?}");
        }
    }
}

#[tokio::test]
async fn a_vouched_circuit_outlives_five_seconds_and_ends_when_it_is_idle() {
    let mut bench = Bench::new(true, 8).await;
    let began_at = Instant::now();
    bench.vouch.take().unwrap().send(()).unwrap();
    let (ended, _) = bench.end().await;
    assert_eq!(ended, Ended::Idle);
    assert!((30..33).contains(&began_at.elapsed().as_secs()), "{:?}", began_at.elapsed());
}

#[tokio::test]
async fn a_driver_that_does_not_read_stops_the_pipe_and_then_ends_it() {
    let bench = Bench::new(false, 2).await;
    let Bench { mut other, ended, mut told, .. } = bench;
    let flood = tokio::spawn(async move {
        let frame = framed(&[1; FRAME_BYTES]);
        let mut taken = 0;
        while other.write_all(&frame).await.is_ok() {
            taken += frame.len();
        }
        taken
    });
    assert_eq!(ended.await.unwrap(), Ended::Stalled);
    let mut held = 0;
    while told.recv().await.is_some() {
        held += 1;
    }
    assert_eq!(held, 2, "what the driver has not taken is all that is kept");
    flood.abort();
}

#[tokio::test]
async fn a_circuit_carries_no_more_than_a_mebibyte() {
    let mut bench = Bench::new(false, 8).await;
    let Bench { other, told, .. } = &mut bench;
    let (mut read, mut write) = other.split();
    let flood = async {
        let frame = framed(&[1; FRAME_BYTES]);
        while write.write_all(&frame).await.is_ok() {}
    };
    let count = async {
        let mut frames = 0;
        while told.recv().await.is_some() {
            frames += 1;
        }
        frames
    };
    let both = async { tokio::join!(flood, count).1 };
    let frames = tokio::select! {
        Ok(_) = read.read_u8() => panic!("something was written"),
        frames = both => frames,
    };
    assert_eq!(frames, MOST_BYTES / FRAME_BYTES + 1);
    assert_eq!(bench.ended.await.unwrap(), Ended::UsedUp);
}
