//! The data socket against the real kernel: on the machine's own loopback, or in a namespace of its own.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use super::socket::{Family, bind};
use super::{BATCH_MAX, Batch, Received, Refusal, SLOT_BYTES, Socket, UdpError, interface_addresses};
use crate::loopback::lab::{in_own_namespace, in_own_namespace_async, run};

#[test]
fn full_batch_arrives_in_order_with_unmapped_sources() {
    let (from, to) = (Socket::bind(0).unwrap(), Socket::bind(0).unwrap());
    let mut batch = Batch::new();
    for number in 0..BATCH_MAX {
        assert!(push(&mut batch, local(&to), &vec![number as u8; number + 1]));
    }
    assert!(batch.is_full() && !push(&mut batch, local(&to), b"one too many"));

    from.send_batch(&mut batch, refuse_none).unwrap();

    assert!(batch.is_empty());
    let received = receive(&to, BATCH_MAX);
    for (number, (source, datagram)) in received.iter().enumerate() {
        assert_eq!((*source, datagram.len()), (local(&from), number + 1));
        assert!(datagram.iter().all(|byte| usize::from(*byte) == number));
    }
    assert_eq!(to.recv_batch(&mut Received::new()).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn runs_of_one_size_arrive_whole_and_in_order_over_ipv4_and_ipv6() {
    in_own_namespace(|| {
        let (from, to) = (Socket::bind(0).unwrap(), Socket::bind(0).unwrap());
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, to.local_port()));
        for address in [local(&to), v6] {
            let sizes: Vec<_> = (0..140).map(|number| if number % 50 == 49 { 600 } else { 1_400 }).collect();
            let mut batch = Batch::new();
            for (number, size) in sizes.iter().enumerate() {
                assert!(push(&mut batch, address, &vec![number as u8; *size]));
            }
            let messages = batch.unsent().count();
            assert!(messages <= 6, "{messages} runs of up to 46");

            from.send_batch(&mut batch, refuse_none).unwrap();

            let received = receive(&to, sizes.len());
            for (number, ((_, datagram), size)) in received.iter().zip(&sizes).enumerate() {
                assert_eq!(*datagram, vec![number as u8; *size]);
            }
        }
    });
}

#[test]
fn a_run_that_is_refused_is_sent_one_by_one_and_what_fits_arrives() {
    in_own_namespace(|| {
        run("ip link set lo mtu 1300");
        let (from, to) = (Socket::bind(0).unwrap(), Socket::bind(0).unwrap());
        let mut batch = Batch::new();
        for bytes in [1_280, 1_280, 1_200, 1_200, 1_200] {
            assert!(push(&mut batch, local(&to), &vec![7; bytes]));
        }
        let mut refused = Vec::new();

        from.send_batch(&mut batch, |_, bytes, why| refused.push((bytes, why))).unwrap();

        assert_eq!(refused, [(1_280, Refusal::TooBig), (1_280, Refusal::TooBig)]);
        assert_eq!(receive(&to, 3).len(), 3);
    });
}

#[test]
fn one_socket_serves_ipv4_and_ipv6() {
    in_own_namespace(|| {
        let (from, to) = (Socket::bind(0).unwrap(), Socket::bind(0).unwrap());
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, to.local_port()));
        let mut batch = Batch::new();
        assert!(push(&mut batch, local(&to), b"four") && push(&mut batch, v6, b"six"));

        from.send_batch(&mut batch, refuse_none).unwrap();

        let received = receive(&to, 2);
        assert_eq!(received[0], (local(&from), b"four".to_vec()));
        let source = SocketAddr::from((Ipv6Addr::LOCALHOST, from.local_port()));
        assert_eq!(received[1], (source, b"six".to_vec()));
    });
}

#[test]
fn machine_without_ipv6_keeps_ipv4_and_reports_ipv6_destinations() {
    let (from, to) = (bind(Family::V4, 0).unwrap(), bind(Family::V4, 0).unwrap());
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, to.local_port()));
    let mut batch = Batch::new();
    assert!(push(&mut batch, v6, b"six") && push(&mut batch, local(&to), b"four"));
    let mut refused = Vec::new();

    from.send_batch(&mut batch, |to, bytes, why| refused.push((to, bytes, why))).unwrap();

    assert!(matches!(refused[..], [(to, 3, Refusal::Unsent(_))] if to == v6), "{refused:?}");
    assert_eq!(receive(&to, 1), [(local(&from), b"four".to_vec())]);
}

#[test]
fn taken_port_is_an_error_that_names_it() {
    let first = Socket::bind(0).unwrap();
    let port = first.local_port();
    assert!(matches!(Socket::bind(port), Err(UdpError::PortTaken(taken)) if taken == port));

    let other = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = other.local_addr().unwrap().port();
    let error = Socket::bind(port).err().unwrap().to_string();
    assert!(error.starts_with(&format!("udp port {port} is in use")), "{error}");
}

#[test]
fn too_big_datagram_is_reported_and_the_others_arrive() {
    in_own_namespace(|| {
        run("ip link set lo mtu 1300");
        let (from, to) = (Socket::bind(0).unwrap(), Socket::bind(0).unwrap());
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, to.local_port()));
        let mut batch = Batch::new();
        for (to, bytes) in [(local(&to), 1272), (local(&to), 1273), (v6, 1252), (v6, 1253), (local(&to), 5)] {
            assert!(push(&mut batch, to, &vec![7; bytes]));
        }
        let mut refused = Vec::new();

        from.send_batch(&mut batch, |to, bytes, why| refused.push((to, bytes, why))).unwrap();

        assert!(matches!(refused[0], (address, 1273, Refusal::TooBig) if address == local(&to)));
        assert!(matches!(refused[1], (address, 1253, Refusal::TooBig) if address == v6));
        assert_eq!(refused.len(), 2);
        let received: Vec<_> = receive(&to, 3).into_iter().map(|(_, datagram)| datagram.len()).collect();
        assert_eq!(received, [1272, 1252, 5]);
    });
}

#[test]
fn what_the_kernel_believes_of_a_paths_mtu_is_ignored() {
    in_own_namespace(|| {
        run("ip route add local 10.9.9.9/32 dev lo table local mtu 1000");
        let (from, to) = (Socket::bind(0).unwrap(), Socket::bind(0).unwrap());
        let mut batch = Batch::new();
        let address = SocketAddr::from((Ipv4Addr::new(10, 9, 9, 9), to.local_port()));
        assert!(push(&mut batch, address, &[7; 1400]));

        from.send_batch(&mut batch, refuse_none).unwrap();

        assert_eq!(receive(&to, 1)[0].1.len(), 1400);
    });
}

#[test]
fn unreachable_destinations_are_reported_and_icmp_errors_are_not() {
    in_own_namespace(|| {
        let (from, to) = (Socket::bind(0).unwrap(), Socket::bind(0).unwrap());
        let closed = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let nowhere = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
        let mut batch = Batch::new();
        let mut refused = Vec::new();
        for _ in 0..5 {
            for address in [closed, nowhere, local(&to)] {
                assert!(push(&mut batch, address, b"hello"));
            }
            from.send_batch(&mut batch, |to, _, why| refused.push((to, why))).unwrap();
            assert_eq!(from.recv_batch(&mut Received::new()).unwrap_err().kind(), ErrorKind::WouldBlock);
        }

        assert_eq!(receive(&to, 5).len(), 5);
        assert_eq!(refused.len(), 5);
        for (address, why) in refused {
            assert_eq!(address, nowhere);
            assert!(matches!(why, Refusal::Unsent(ErrorKind::NetworkUnreachable)), "{why:?}");
        }
    });
}

#[test]
fn empty_and_oversize_datagrams_are_counted_and_not_in_the_batch() {
    let to = Socket::bind(0).unwrap();
    let from = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for datagram in [&[0_u8; 0][..], &[1; SLOT_BYTES + 1], &[2; SLOT_BYTES]] {
        from.send_to(datagram, local(&to)).unwrap();
    }
    let mut batch = Received::new();
    to.recv_batch(&mut batch).unwrap();
    assert_eq!(batch.left_out(), 2);
    let received: Vec<_> = batch.datagrams().map(|(from, datagram)| (from, datagram.to_vec())).collect();
    assert_eq!(received, [(from.local_addr().unwrap(), vec![2; SLOT_BYTES])]);
}

#[test]
fn full_send_buffer_keeps_the_rest_for_the_next_call() {
    in_own_namespace(|| {
        // A device that takes packets slower than they come.
        run("ip link add slow type veth peer name end && ip link set end up && ip link set slow up");
        run("ip address add 10.1.1.1/24 dev slow");
        run("ip neighbour add 10.1.1.2 lladdr 02:00:00:00:00:02 dev slow");
        run("tc qdisc add dev slow root tbf rate 8mbit burst 4kb limit 100mb");
        let from = Socket::bind(0).unwrap();
        from.socket.set_send_buffer_size(8_192).unwrap();
        let mut batch = Batch::new();
        for number in 0..BATCH_MAX {
            // Not two for one port in a row: each is a message of its own.
            let port = 9 + (number % 2) as u16;
            assert!(push(&mut batch, SocketAddr::from(([10, 1, 1, 2], port)), &[7; 1400]));
        }
        let end = Instant::now() + Duration::from_secs(10);
        let mut blocked = 0;
        while let Err(error) = from.send_batch(&mut batch, refuse_none) {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            assert!(Instant::now() < end, "the rest is sent in the end");
            blocked += 1;
            thread::sleep(Duration::from_millis(1));
        }
        assert!(blocked > 0 && batch.is_empty());
        let sent = run("awk '/^Udp: [0-9]/ { print $5 }' /proc/net/snmp");
        assert_eq!(sent.trim(), "64", "each datagram is sent once");
    });
}

#[test]
fn port_below_1024_is_refused_to_others_than_root() {
    in_own_namespace(|| {
        let nobody = rustix::fs::Uid::from_raw(65_534);
        rustix::thread::set_thread_uid(nobody).unwrap();
        assert!(matches!(Socket::bind(443), Err(UdpError::PortForbidden(443))));
    });
}

#[test]
fn only_addresses_that_others_can_reach_are_host_candidates() {
    in_own_namespace_async(|| async {
        run("ip link add live type veth peer name end && ip link set end up && ip link set live up");
        run("ip link add dark type veth peer name off && ip link set dark up");
        for (address, device) in [
            ("10.1.1.1/24", "live"),
            ("127.80.0.1/32", "live"),
            ("169.254.1.1/16", "live"),
            ("10.1.2.1/24 scope link", "live"),
            ("fd00::1/64 nodad", "live"),
            ("fd00::2/64 nodad preferred_lft 0", "live"),
            ("10.2.2.2/24", "dark"),
            ("192.0.2.7/32", "lo"),
        ] {
            run(&format!("ip address add {address} dev {device}"));
        }

        let mut found = interface_addresses().await.unwrap();

        found.sort_unstable();
        let expected = ["10.1.1.1", "192.0.2.7", "fd00::1"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(found, expected);
    });
}

fn local(socket: &Socket) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, socket.local_port()))
}

fn push(batch: &mut Batch, to: SocketAddr, datagram: &[u8]) -> bool {
    batch.push(to, |slot| {
        slot[..datagram.len()].copy_from_slice(datagram);
        datagram.len()
    })
}

fn refuse_none(to: SocketAddr, bytes: usize, why: Refusal) {
    panic!("{bytes} bytes to {to} were refused: {why:?}");
}

/// Waits until this many datagrams are there.
fn receive(socket: &Socket, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    let end = Instant::now() + Duration::from_secs(5);
    let (mut batch, mut received) = (Received::new(), Vec::new());
    while received.len() < count {
        match socket.recv_batch(&mut batch) {
            Ok(_) => received.extend(batch.datagrams().map(|(from, datagram)| (from, datagram.to_vec()))),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                assert!(Instant::now() < end, "{} of {count} arrived", received.len());
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
    received
}
