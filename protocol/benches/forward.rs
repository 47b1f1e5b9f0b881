//! What the fast path costs for each packet, without a kernel: `cargo bench -p protocol --profile release`.
//!
//! | row | is |
//! |---|---|
//! | verdict | the filter's look at the shape of a packet |
//! | rewrite | both addresses and the checksums |
//! | seal, open | one AEAD over the packet |
//! | out, in | all of it, as the forwarder does it: TUN to datagram, datagram to TUN |
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
use protocol::forward::{Egress, Forwarder, Offload, Route, Update};
use protocol::identity::{Secret, StaticSecret};
use protocol::random::Rng;
use protocol::tunnel::handshake::{Context, Initiation, Received};
use protocol::tunnel::{Opener, Sealer, Suite};
use rand_core::SeedableRng as _;

const OWN: Ipv4Addr = Ipv4Addr::new(127, 80, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(127, 80, 12, 7);
const LINK: u32 = 1;
const INDEX: u32 = 9;
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
        group.bench_function("seal", |b| {
            let (sealer, _) = session();
            let mut datagram = vec![0; bytes + 32];
            b.iter(|| sealer.seal(black_box(&mut datagram)));
        });
        group.bench_function("open", |b| {
            let (sealer, mut opener) = session();
            let seal = || sealer.seal_message(&packet).expect("few datagrams");
            b.iter_batched_ref(seal, |datagram| opener.open(datagram).is_ok(), BatchSize::SmallInput);
        });
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

criterion_group!(benches, packets);
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
    let ((own_sealer, _), (peer_sealer, opener)) = (session(), session());
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
fn session() -> (Sealer, Opener) {
    let mut rng = Rng::from_seed([1; 32]);
    let (own, peer) = (StaticSecret::from_bytes([1; 32]), StaticSecret::from_bytes([2; 32]));
    let psk = Secret([3; 32]);
    let context = Context { psk: &psk, prologue: &[] };
    let (mut initiation, body) =
        Initiation::new(&own, &peer.public(), context, (1, &[]), &mut rng).expect("keys are sound");
    let received = Received::new(&peer, context, &body, &mut rng).expect("it is whole");
    let (response, peer_keys) = received.answer(INDEX, &[]).expect("it is short");
    let (_, own_keys) = initiation.complete(&response[4..]).expect("it is whole");
    let (sealer, _) = own_keys.into_halves(Suite::Aes256Gcm);
    let (_, opener) = peer_keys.into_halves(Suite::Aes256Gcm);
    (sealer, opener)
}

/// A TCP packet of so many bytes, its checksums not counted: nothing here looks at them.
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
