//! What the fast path costs for each packet, without a kernel: `cargo bench -p protocol --profile release`.
//!
//! | row | is |
//! |---|---|
//! | verdict | the filter's look at the shape of a packet |
//! | rewrite | both addresses and the checksums |
//! | seal, open | one AEAD over the packet, of each suite |
//! | replay window | whether a counter is new, and the mark that it was seen |
//! | out, in | all of it, as the forwarder does it: TUN to datagram, datagram to TUN |
//! | segment | a super-packet of 64 KiB cut to a path's size, each piece written |
//! | coalesce | the pieces put together again |
//! | junk | a datagram of nobody's: to the veil, or to an index that nobody has |
//!
//! A row that opens is given datagrams sealed beforehand: each counter opens once.

#![allow(
    clippy::disallowed_methods,
    missing_docs,
    reason = "its clock starts somewhere; criterion's macros have no docs"
)]

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use protocol::alias::rewrite;
use protocol::filter;
use protocol::forward::{Egress, Forwarder, Inbound, Offload, Route, Update};
use protocol::identity::{Secret, StaticSecret};
use protocol::random::Rng;
use protocol::tunnel::coalesce::{Coalesced, Coalescer};
use protocol::tunnel::handshake::{Context, Initiation, Received};
use protocol::tunnel::segment::TcpCut;
use protocol::tunnel::{Opener, ReplayWindow, Sealer, Suite};
use protocol::veil::Veiled;
use protocol::wire::header::{VEILED, VeilHeader, write_data_header};
use rand_core::SeedableRng as _;

const OWN: Ipv4Addr = Ipv4Addr::new(127, 80, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(127, 80, 12, 7);
const LINK: u32 = 1;
const INDEX: u32 = 9;
/// The largest packet, and what a path of full size carries of it.
const SUPER_BYTES: usize = 65_535;
const PATH_BYTES: usize = 1_420;
const REMOTE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 41_414);

fn packets(c: &mut Criterion) {
    for bytes in [64, 1_400] {
        let packet = tcp(OWN, PEER, bytes);
        let mut group = c.benchmark_group(format!("{bytes} bytes"));
        group.throughput(Throughput::Bytes(bytes as u64));

        group.bench_function("verdict", |b| b.iter(|| filter::inbound(black_box(&packet)).is_ok()));
        group.bench_function("rewrite", |b| {
            let mut packet = packet.clone();
            b.iter(|| rewrite(black_box(&mut packet), PEER, OWN));
        });
        for (name, suite) in [("aes256gcm", Suite::Aes256Gcm), ("chacha20", Suite::ChaCha20Poly1305)] {
            group.bench_function(format!("seal, {name}"), |b| {
                let (sealer, _) = session(suite);
                let mut datagram = vec![0; bytes + 32];
                b.iter(|| sealer.seal(black_box(&mut datagram)));
            });
            group.bench_function(format!("open, {name}"), |b| {
                let (sealer, mut opener) = session(suite);
                let seal = || sealer.seal_message(&packet).expect("few datagrams");
                b.iter_batched_ref(seal, |datagram| opener.open(datagram).is_ok(), BatchSize::SmallInput);
            });
        }
        group.bench_function("out", |b| {
            let (mut forwarder, _) = linked();
            let (now, mut packet, mut egress) = (Instant::now(), packet.clone(), Slot([0; 2_048]));
            b.iter(|| forwarder.outbound(black_box(&mut packet), Offload::default(), &mut egress, now));
        });
        group.bench_function("in", |b| {
            let (mut forwarder, sealer) = linked();
            let now = Instant::now();
            let seal = || sealer.seal_message(&packet).expect("few datagrams");
            b.iter_batched_ref(
                seal,
                |datagram| {
                    black_box(forwarder.inbound(REMOTE, datagram, now));
                },
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

fn super_packets(c: &mut Criterion) {
    let whole = tcp(OWN, PEER, SUPER_BYTES);
    let cut = TcpCut::new(&whole, PATH_BYTES, None).expect("it is whole");
    let pieces: Vec<Vec<u8>> = (0..cut.count()).map(|index| piece(&cut, index)).collect();
    let mut group = c.benchmark_group("64 KiB");
    group.throughput(Throughput::Bytes(SUPER_BYTES as u64));
    group.bench_function("segment", |b| {
        let mut out = [0; PATH_BYTES];
        b.iter(|| {
            for index in 0..cut.count() {
                cut.write(index, black_box(&mut out[..cut.packet_bytes(index)]));
            }
        });
    });
    group.bench_function("coalesce", |b| {
        b.iter_batched_ref(
            || pieces.clone(),
            |pieces| {
                let mut coalescer = Coalescer::new(true);
                let mut emitted = 0;
                let mut emit = |packet: &Coalesced<'_, '_>| emitted += black_box(packet).payloads.len();
                for piece in pieces {
                    coalescer.take(piece, &mut emit);
                }
                coalescer.finish(&mut emit);
                emitted
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn strangers(c: &mut Criterion) {
    let mut group = c.benchmark_group("junk");
    group.bench_function("replay window", |b| {
        let (mut window, mut counter) = (ReplayWindow::default(), 0);
        b.iter(|| {
            counter += 1;
            window.is_new(black_box(counter)) && window.mark(counter)
        });
    });
    for bytes in [100, 1_200] {
        group.bench_function(format!("veil, {bytes} bytes"), |b| {
            let mut datagram = vec![7; bytes];
            datagram[..2].copy_from_slice(&[VEILED, 0]);
            let key = Secret([3; 32]);
            b.iter(|| {
                let (header, clear, sealed) = VeilHeader::split(black_box(&datagram))?;
                Veiled::open(&key, &header, clear, sealed)
            });
        });
    }
    group.bench_function("index", |b| {
        let (mut forwarder, _) = linked();
        let now = Instant::now();
        let mut datagram = [0; 100];
        write_data_header(&mut datagram, !INDEX, 1);
        b.iter(|| matches!(forwarder.inbound(REMOTE, black_box(&mut datagram[..]), now), Inbound::Drop(_)));
    });
    group.finish();
}

criterion_group!(benches, packets, super_packets, strangers);
criterion_main!(benches);

/// Room for one datagram, written over by the next.
struct Slot([u8; 2_048]);

impl Egress for Slot {
    fn datagram(&mut self, _: SocketAddr, bytes: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        self.0.get_mut(..bytes).is_some_and(fill)
    }
}

/// A forwarder with one link, and the sealer of the other end.
fn linked() -> (Forwarder, Sealer) {
    let mut forwarder = Forwarder::new(OWN);
    let ((own_sealer, _), (peer_sealer, opener)) = (session(Suite::Aes256Gcm), session(Suite::Aes256Gcm));
    let route = Route {
        sealer: Arc::new(own_sealer),
        remote: REMOTE.into(),
        packet_bytes: 1_420,
        is_size_settled: true,
    };
    forwarder.apply(Update::Link { link: LINK, alias: Some(PEER), traffic: Arc::default() });
    forwarder.apply(Update::Open { index: INDEX, link: LINK, opener: Box::new(opener), packets: true });
    forwarder.apply(Update::Send { link: LINK, route: Some(route) });
    (forwarder, peer_sealer)
}

/// The sending half of one end and the receiving half of the other, addressed to [`INDEX`].
fn session(suite: Suite) -> (Sealer, Opener) {
    let mut rng = Rng::from_seed([1; 32]);
    let (own, peer) = (StaticSecret::from_bytes([1; 32]), StaticSecret::from_bytes([2; 32]));
    let psk = Secret([3; 32]);
    let context = Context { psk: &psk, prologue: &[] };
    let (mut initiation, body) =
        Initiation::new(&own, &peer.public(), context, (1, &[]), &mut rng).expect("keys are sound");
    let received = Received::new(&peer, context, &body, &mut rng).expect("it is whole");
    let (response, peer_keys) = received.answer(INDEX, &[]).expect("it is short");
    let (_, own_keys) = initiation.complete(&response[4..]).expect("it is whole");
    let (sealer, _) = own_keys.into_halves(suite);
    let (_, opener) = peer_keys.into_halves(suite);
    (sealer, opener)
}

/// Piece number `index`.
fn piece(cut: &TcpCut<'_>, index: usize) -> Vec<u8> {
    let mut out = vec![0; cut.packet_bytes(index)];
    cut.write(index, &mut out);
    out
}

/// A TCP packet of so many bytes, its checksums not counted: cutting counts them, and nothing else here looks.
fn tcp(source: Ipv4Addr, destination: Ipv4Addr, bytes: usize) -> Vec<u8> {
    let mut packet = vec![0; bytes];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(bytes as u16).to_be_bytes());
    packet[6] = 0x40;
    packet[8..10].copy_from_slice(&[64, 6]);
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet[20..24].copy_from_slice(&[0x9c, 0x40, 0, 22]);
    packet[32..34].copy_from_slice(&[0x50, 0x10]);
    packet
}
